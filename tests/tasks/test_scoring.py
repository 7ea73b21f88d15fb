"""Scores of rows that belong together, and of texts that are true or false."""

import random
import re
from collections import defaultdict

import pytest
from sklearn.metrics import f1_score

from ptune.batch import TokenSequence
from ptune.data import load_rows
from ptune.errors import DataError
from ptune.evaluation import Measured, summarize
from ptune.tasks import Example, Prediction, Task
from ptune.tasks.flat import FlatExamples
from ptune.tasks.scoring import Marks, label_scores, text_scores
from ptune.texts import same_words


def example(answer, group=None, holds=None):
    return Example(TokenSequence((5,)), answer=answer, group=group, holds=holds)


def official_exact_match(truth, said, questions):
    """Oracle: the answers of each question as two lists, which are equal or not."""
    wanted, found = defaultdict(list), defaultdict(list)
    for question, one, other in zip(questions, truth, said, strict=True):
        wanted[question].append(one)
        found[question].append(other)
    return sum(wanted[q] == found[q] for q in wanted) / len(wanted)


def few_shot_code_says_the_same(span, filled):
    """Oracle: lists of words, as the few-shot code compares WSC's spans."""
    wanted = [word for word in re.split("[^a-zA-Z]", span.lower().strip()) if word]
    found = [word for word in re.split("[^a-zA-Z]", filled.lower().strip()) if word]
    return all(w in wanted for w in found) or all(w in found for w in wanted)


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_the_f1_of_a_label_are_those_of_superglues_multirc(seed):
    draw = random.Random(seed)
    questions = [f"{draw.randrange(3)}-{draw.randrange(4)}" for _ in range(40)]
    truth = [draw.choice("01") for _ in questions]
    said = [one if draw.random() < 0.8 else draw.choice("01") for one in truth]
    examples = [example(t, group=q) for t, q in zip(truth, questions, strict=True)]
    found = label_scores([Prediction(one) for one in said], examples, ("0", "1"), "1")
    assert found["exact_match"] == official_exact_match(truth, said, questions)
    assert 0 < found["exact_match"] < 1
    assert found["f1"] == pytest.approx(f1_score(truth, said, pos_label="1"))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"))


def test_without_groups_and_a_positive_label_there_are_two_scores():
    found = label_scores([Prediction("a")], [example("a")], ("a", "b"))
    assert found == {"accuracy": 1.0, "macro_f1": 1.0}


def test_a_label_that_is_neither_true_nor_said_has_an_f1_of_zero():
    assert label_scores([Prediction("a")], [example("a")], ("a", "b"), "b")["f1"] == 0.0


SPANS = ["the trophy", "Trophy!", "the big trophy", "bag", "the bag", "", "Joe's bag", "a big bag"]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("filled", SPANS)
def test_texts_say_the_same_where_the_few_shot_code_has_them_equal(span, filled):
    assert same_words(span, filled) == few_shot_code_says_the_same(span, filled)


def test_words_of_all_alphabets_are_compared():
    assert same_words("der Bär", "Bär")
    assert not same_words("мяч", "дом")


def test_a_text_is_right_where_it_is_that_of_a_true_row_or_another_than_that_of_a_false_one():
    spans = ["the trophy", "the bag", "the dog", "the cat"]
    examples = [example(s, holds=h) for s, h in zip(spans, (True, False, True, False), strict=True)]
    said = [Prediction(text) for text in ("trophy", "the bag", "the cat", "dog")]
    found = text_scores(spans, said, examples)
    assert found["accuracy"] == 0.5  # the first and the last
    assert found["exact_match"] == 0.0  # of the two true rows
    exact = text_scores(spans, [Prediction(s) for s in spans], examples)
    assert (exact["accuracy"], exact["exact_match"]) == (0.5, 1.0)


def test_rows_that_are_all_false_have_an_accuracy_alone():
    found = text_scores(["a dog"], [Prediction("a cat")], [example("a dog", holds=False)])
    assert found == {"accuracy": 1.0}


def test_texts_that_are_not_judged_have_no_accuracy():
    assert "accuracy" not in text_scores(["a"], [Prediction("a")], [example("a")])


class Told(Task):
    """A task that has no scores of its own."""

    read = "states"

    def scores(self, predictions, examples):
        return {}


@pytest.mark.parametrize(
    ("holds", "loss"),
    [((True, False), 1.0), ((False, False), 2.0), ((None, None), 2.0), ((False, True), 3.0)],
)
def test_the_loss_is_that_of_true_answers(holds, loss):
    measured = [Measured(number, Prediction("")) for number in (1.0, 3.0)]
    examples = [example("", holds=one) for one in holds]
    assert summarize(Told(), measured, examples).scores["loss"] == loss


def test_marks_are_read_from_the_rows_and_kept_in_flat_arrays():
    given = [
        {"q": 6, "ok": value}
        for value in (True, "false", 1, "0", "TRUE", " False ")
    ]  # fmt: skip
    rows = load_rows(given)
    marks = Marks.of({"group_column": "q", "truth_column": "ok"})
    assert marks.columns == ("q", "ok")
    marks.check(rows)
    marked = marks.on([example("a") for _ in rows], rows)
    assert [one.holds for one in marked] == [True, False, True, False, True, False]
    assert {one.group for one in marked} == {"6"}
    assert marks.true_rows(rows) == [0, 2, 4]
    plain = [example("a")] * 2
    assert list(FlatExamples.of([marked, plain])) == [*marked, *plain]
    assert Marks.of({}).on(plain, rows[:2]) == plain


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"q": None, "ok": True},
            (
                "the given rows, row 2: group_column = q holds None. Give every row the name or "
                "the number of its group, or leave group_column out."
            ),
        ),
        (
            {"q": ["a"], "ok": True},
            (
                "the given rows, row 2: group_column = q holds ['a']. Give every row the name or "
                "the number of its group, or leave group_column out."
            ),
        ),
        (
            {"q": "1", "ok": "maybe"},
            (
                "the given rows, row 2: truth_column = ok holds 'maybe'. Allowed: true or false, "
                "1 or 0."
            ),
        ),
    ],
)
def test_rows_that_cannot_be_scored_are_refused_with_their_place(row, message):
    rows = load_rows([{"q": "1", "ok": True}, row])
    with pytest.raises(DataError) as error:
        Marks("q", "ok").check(rows)
    assert str(error.value) == message
