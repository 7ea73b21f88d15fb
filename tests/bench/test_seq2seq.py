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
    assert seq2seq._best(runs) == {
        "lr": 0.3,
        "tried": [0.1, 0.3],
        "scores": [0.2, 0.3],
        "trained": 8,
    }


def test_the_table_has_a_row_a_side(seq2seq):
    common = {"steps": 100, "slots": 4, "batch": 16, "parameters": 1000, "machine": MACHINE}
    lines = [
        common | {"side": "no prompt", "scores": [0.5], "trained": 0},
        common | {"side": "own", "scores": [0.9, 1.0], "trained": 1152, "lr": 0.3},
    ]
    shown = seq2seq.table(lines)
    assert "| no prompt | 0 |  | 50.0 |  |" in shown
    assert "| own | 1,152 | 0.3 | 95.0 ± 7.1 | 2 |" in shown
    assert "mean ± standard deviation of the sample over the seeds" in shown
    assert "(edge)" not in shown
    lines[1] |= {"seeds": [3, 1], "tried": [0.3, 0.1, 0.03]}
    shown = seq2seq.table(lines)
    assert "| own | 1,152 | 0.3 (edge) | 95.0 ± 7.1 | 2 (1, 3) |" in shown
    assert "(edge): the smallest or the largest rate that was tried" in shown


def test_nothing_is_said_of_nothing(seq2seq):
    assert seq2seq.table([]) == "Nothing was measured yet."


def test_only_the_sides_of_peft_that_go_wrong_are_left_out(seq2seq, monkeypatch, capsys):
    monkeypatch.setattr(seq2seq, "no_prefixes", lambda: "Install another.")
    monkeypatch.setattr(seq2seq, "no_peft", lambda: None)
    assert [seq2seq._left_out(name) for name in seq2seq.PEERS] == [False, True]
    assert capsys.readouterr().err == "PEFT prefix tuning: left out. Install another.\n"
