import pytest

MACHINE = {"python": "3", "ptune": "0", "cpu": "a CPU", "threads": 1, "cores": 2}


@pytest.fixture(scope="module")
def seq2seq():
    import seq2seq

    return seq2seq


@pytest.fixture(scope="module")
def backbone(seq2seq):
    return seq2seq.trained()


@pytest.fixture(scope="module")
def parts(seq2seq):
    rows = seq2seq.reversing(300)
    return rows[:200], rows[200:220], rows[220:]


def test_rows_are_all_different_and_their_answers_backwards(seq2seq):
    rows = seq2seq.reversing(100)
    assert len({row["text"] for row in rows}) == 100
    assert all(row["label"].split() == row["text"].split()[::-1] for row in rows)


def test_the_model_does_what_its_word_says_and_not_without_it(seq2seq, backbone, parts):
    assert seq2seq.plain(backbone, parts[2], "two {text}") > 0.9
    assert seq2seq.plain(backbone, parts[2], "one {text}") < 0.1
    assert seq2seq.plain(backbone, parts[2], "{text}") < 0.7


def test_a_prompt_in_place_of_the_word_makes_the_model_reverse(seq2seq, backbone, parts):
    """Training works: a frozen T5 is steered by two vectors."""
    before = seq2seq.plain(backbone, parts[2], "{text}")
    settings = {"method": "prompt-tuning", "template": "{soft:2}{text}"}
    result = seq2seq.train(backbone, parts, settings, max_steps=60)
    after = result.scores["test"]["exact_match"]
    assert after > 0.85
    assert after > before + 0.2


def test_the_best_step_size_is_that_of_the_rows_held_out(seq2seq):
    runs = {0.1: [(0.5, 0.9, 8), (0.6, 0.9, 8)], 0.3: [(0.7, 0.2, 8), (0.7, 0.3, 8)]}
    assert seq2seq._best(runs) == {"lr": 0.3, "scores": [0.2, 0.3], "trained": 8}


def test_the_table_has_a_row_a_side(seq2seq):
    common = {"steps": 100, "slots": 4, "batch": 16, "parameters": 1000, "machine": MACHINE}
    lines = [
        common | {"side": "no prompt", "scores": [0.5], "trained": 0},
        common | {"side": "own", "scores": [0.9, 1.0], "trained": 1152, "lr": 0.3},
    ]
    shown = seq2seq.table(lines)
    assert "| no prompt | 0 |  | 50.0 |" in shown
    assert "| own | 1,152 | 0.3 | 95.0 ± 7.1 |" in shown
    assert "2 seeds" in shown
