import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


@pytest.fixture
def scoring():
    import label_scoring

    return label_scoring


def rounds(*rows):
    return [{"scores": [list(row)]} for row in rows]


def test_the_largest_difference_of_two_scores_is_told(scoring):
    own = rounds((-0.1, -3.0), (-2.0, -0.2))
    assert scoring.compare(own, own) == 0
    other = rounds((-0.1, -3.0), (-2.00005, -0.2))
    assert scoring.compare(own, other) == pytest.approx(5e-5)


@pytest.mark.parametrize("score", [-0.2002, float("nan"), -0.1998])
def test_scores_that_differ_end_the_script(scoring, score):
    with pytest.raises(SystemExit, match="score a row differently"):
        scoring.compare(rounds((-0.1, -3.0), (-2.0, -0.2)), rounds((-0.1, -3.0), (-2.0, score)))


def test_a_tie_may_fall_either_way(scoring):
    assert scoring.compare(rounds((-0.7, -0.70002)), rounds((-0.70002, -0.7))) > 0


def test_the_table_says_how_many_times_faster_and_that_the_scores_are_equal(scoring):
    common = {"rows": 1000, "shape": None, "labels": 6, "slots": 20, "batch": 32, "worst": 7e-6}
    common |= {"machine": MACHINE, "peak_bytes": 5e8}
    lines = [
        common | {"side": "ptune", "seconds": 2.0, "tokens": 20_000},
        common | {"side": "peft", "seconds": 25.0, "tokens": 280_000},
    ]
    table = scoring.table(lines)
    assert "| ptune-tiny | ptune | 2.00 | 500 | 20,000 | 12.5 | 0.50 |" in table
    assert "| ptune-tiny | peft | 25.00 | 40 | 280,000 | 1.0 | 0.50 |" in table
    assert "log p(label | row) is equal to 7.0e-06 (asserted: 1e-04)." in table
