import json

import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


@pytest.fixture
def encoder():
    import v2_encoder

    return v2_encoder


def side(seconds, computed):
    return {
        "seconds": seconds,
        "fastest": seconds,
        "slowest": seconds,
        "computed": computed,
        "peak_bytes": 1e9,
        "losses": [0.7, 0.6],
    }


def test_the_table_has_a_row_a_side_and_says_that_the_losses_are_equal(encoder):
    line = {
        "task": "sst2",
        "format": "float32",
        "layers": 12,
        "hidden": 768,
        "slots": 20,
        "batch": 32,
        "steps": 5,
        "floor_seconds": 0.4,
        "ptune": side(0.5, 424),
        "peft": side(1.0, 1280),
        "notes": ["All 6 losses are equal to PEFT's to 1.0e-07."],
        "machine": MACHINE,
    }
    table = encoder.table([line | {"steps": 1}, line])
    rows = [row[2:-2].split(" | ") for row in table.splitlines() if row.startswith("| sst2")]
    assert [row[2:9] for row in rows] == [
        ["ptune", "0.500", "0.500 .. 0.500", "424", "1.25 (0.400 s)", "2.00", "1.00"],
        ["peft", "1.000", "1.000 .. 1.000", "1,280", "2.50 (0.400 s)", "1.00", "1.00"],
    ]
    assert rows[0][9] == "0.7000 .. 0.6000"
    assert "sst2, float32: All 6 losses are equal to PEFT's to 1.0e-07.\n" in table
    assert "batches of 32 (sst2); median of 5 steps" in table


def test_a_row_of_squad_is_a_question_and_its_context(encoder, tmp_path):
    paragraph = {
        "context": "It is far.",
        "qas": [{"question": "What is far?"}, {"question": "Who?"}],
    }
    (tmp_path / "squad").mkdir()
    text = json.dumps({"data": [{"paragraphs": [paragraph]}]})
    (tmp_path / "squad" / "train.json").write_text(text)
    assert list(encoder.rows_of("squad", tmp_path)) == [
        ("What is far? It is far.", "what"),
        ("Who? It is far.", "other"),
    ]


def test_times_without_equal_losses_end_the_script():
    from types import SimpleNamespace

    import common

    def found(own, other, kind="float32"):
        sides = [
            None if losses is None else SimpleNamespace(losses=losses) for losses in (own, other)
        ]
        return SimpleNamespace(ptune=sides[0], peft=sides[1], format=kind, notes=["Left out."])

    common.check_measured("sst2", found([1.0, 2.0], [1.0, 2.00005]))
    common.check_measured("sst2", found([1.0], [1.1], "bfloat16"))
    for other in ([1.0, 2.1], [1.0, float("nan")]):
        with pytest.raises(SystemExit, match="sst2: the losses of ptune and PEFT differ by"):
            common.check_measured("sst2", found([1.0, 2.0], other))
    with pytest.raises(SystemExit, match=r"^sst2: PEFT was not measured\. Left out\.$"):
        common.check_measured("sst2", found([1.0], None))
