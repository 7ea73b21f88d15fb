import csv

import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


@pytest.fixture
def growth():
    import growth

    return growth


def line(axis, value, tokens, flops, own, other=None):
    return {
        "bench": "growth",
        "axis": axis,
        "value": value,
        "base": {"batch": 16, "vocabulary": 32768},
        "steps": 5,
        "tokens": tokens,
        "flops": flops,
        "ptune": {"seconds": own, "peak_bytes": 5e8},
        "peft": None if other is None else {"seconds": other, "peak_bytes": 1e9},
        "machine": MACHINE,
    }


def test_each_line_stands_beside_the_one_above_it_whatever_their_order_in_the_file(growth):
    lines = [
        line("deep prompt", 10, 200, 1e9, 0.5),
        line("batch", 8, 600, 3e9, 1.0, 4.0),
        line("batch", 4, 300, 1e9, 9.0, 9.0),
        line("batch", 4, 300, 1e9, 0.25, 2.0),
    ]
    assert growth.table(lines) == (
        "| deep prompt | tokens a step | work x | ptune, s | seconds x | peak GB | PEFT, s | "
        "seconds x | peak GB | PEFT / ptune |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        "| 10 | 200 |  | 0.500 |  | 0.50 |  |  |  |  |\n\n"
        "| batch | tokens a step | work x | ptune, s | seconds x | peak GB | PEFT, s | "
        "seconds x | peak GB | PEFT / ptune |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        "| 4 | 300 |  | 0.250 |  | 0.50 | 2.000 |  | 1.00 | 8.0 |\n"
        "| 8 | 600 | 3.00 | 1.000 | 4.00 | 0.50 | 4.000 | 2.00 | 1.00 | 4.0 |\n\n"
        "Settings: all else as in: batch 16, vocabulary 32,768; median of 5 steps in turn after "
        "one to warm up, float32; a CPU, 1 threads of 2 cores; python 3, ptune 0."
    )
    assert growth.table(lines, "deep-prompt").count("| batch |") == 0
    assert growth.table(lines, "layers") == "Nothing was measured yet."


def test_rows_are_as_long_as_they_are_said_to_be(growth, tmp_path):
    growth.write_rows(tmp_path / "rows.csv", 4, 7)
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [len(row["text"].split()) for row in rows] == [7] * 4
    assert [row["label"] for row in rows] == ["good", "old"] * 2
