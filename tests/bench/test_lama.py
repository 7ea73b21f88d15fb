import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


def line(relation, method, p_at_1, **result):
    scores = {"p_at_1": p_at_1, "p_at_10": 2 * p_at_1, "mrr": p_at_1 / 2, "loss": 1.0}
    counts = {"train": 100, "validation": 20, "test": 30, "dropped_tokens": 7, "dropped_list": 0}
    found = {"scores": scores, "counts": counts, "majority": 0.1} | result
    settings = {"epochs": 5, "max_rows": 320, "batch_size": 16, "validation_share": 0.2, "seed": 0}
    return {
        "relation": relation,
        "method": method,
        "model": "tiny",
        "words": 5000,
        "test_share": 0.2,
        "settings": settings,
        "of": 41,
        "result": found,
        "machine": MACHINE,
    }


@pytest.fixture
def lama():
    import lama

    return lama


@pytest.fixture
def lines():
    failed = [line("P9", method, 0) | {"result": {"error": "P9: no fact"}}
              for method in ("manual", "p-tuning", "p-tuning-v2")]  # fmt: skip
    return [
        line("P10", "manual", 0.9),
        line("P10", "manual", 0.1),  # measured again
        line("P2", "manual", 0.3, majority=0.5),
        line("P10", "p-tuning", 0.2),
        line("P2", "p-tuning", 0.5),
        line("P10", "p-tuning-v2", 0.1),
        line("P2", "p-tuning-v2", 0.2),
        line("P5", "manual", 1.0),  # the others have no fact to train on: in no mean
        *failed,
    ]


def test_the_table_is_the_mean_over_relations_and_says_which_had_no_fact(lama, lines):
    table = lama.table(lines)
    assert "| most frequent object | 30.0 | - | - |" in table
    assert "| LAMA's template, untrained | 20.0 | 40.0 | 0.100 |" in table
    assert "| P-tuning (3,3,0), LSTM | 35.0 | 70.0 | 0.175 |" in table
    assert "| p-tuning-v2 | 15.0 | 30.0 | 0.075 |" in table
    assert "2 relations with 60 test facts (mean over relations, each counted alike)" in table
    assert "4 of 41 relations were tried" in table
    assert (
        "2 had no usable fact to train on or to test (P5, P9); 14 facts of the others were dropped"
        in table
    )


def test_each_relation_has_a_line_in_the_order_of_their_numbers(lama, lines):
    rows = [row for row in lama.table(lines, "relations").splitlines() if row.startswith("| P")]
    assert rows == [
        "| P2 | 100 | 30 | 50.0 | 30.0 | 50.0 | 20.0 |",
        "| P10 | 100 | 30 | 10.0 | 10.0 | 20.0 | 10.0 |",
    ]


def test_nothing_is_said_of_nothing(lama):
    assert lama.table([]) == "Nothing was measured yet."


def test_what_was_measured_is_shown_without_a_file(lama, lines, monkeypatch, capsys):
    monkeypatch.setattr(lama, "measure", lambda args: iter(lines))
    monkeypatch.setattr("sys.argv", ["lama.py"])
    lama.main()
    assert "| p-tuning-v2 | 15.0 | 30.0 | 0.075 |" in capsys.readouterr().out
