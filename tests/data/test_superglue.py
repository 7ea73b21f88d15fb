from typing import get_args

import pytest

from ptune.config import Recipe
from ptune.data import load_rows, rows_for
from ptune.data.superglue import READERS
from ptune.errors import DataError


def read(name, *rows):
    return list(rows_for(list(rows), {"reader": f"superglue/{name}"}))


def refused(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)


PASSAGE = {
    "idx": 6,
    "version": 1.1,
    "passage": {
        "text": "Rain fell.",
        "questions": [
            {
                "question": "What fell?",
                "answers": [{"text": "Rain", "label": 1}, {"text": "Snow", "label": 0}],
                "idx": 0,
            },
            {"question": "When?", "answers": [{"text": "At noon", "label": 0}], "idx": 1},
        ],
    },
}
WSC = {
    "text": "Ann told Bea that she had won.",
    "target": {"span1_text": "Ann", "span1_index": 0, "span2_text": "she", "span2_index": 4},
    "label": True,
    "idx": 1,
}
COPA = {
    "premise": "The lawn was wet.",
    "choice1": "It rained.",
    "choice2": "The sun shone.",
    "question": "cause",
    "label": 0,
    "idx": 2,
}


def test_the_readers_of_a_recipe_are_those_that_there_are():
    kinds = get_args(Recipe.model_fields["reader"].annotation)
    assert set(get_args(kinds[0])) == set(READERS)


def test_multirc_becomes_a_row_for_each_answer_that_knows_its_line():
    rows = READERS["superglue/multirc"](load_rows([PASSAGE, PASSAGE | {"idx": 9}]))
    assert [(r["question"], r["answer"], r["label"]) for r in rows[:3]] == [
        ("What fell?", "Rain", 1),
        ("What fell?", "Snow", 0),
        ("When?", "At noon", 0),
    ]
    assert {row["passage"] for row in rows} == {"Rain fell."}
    ids = ["6-0", "6-0", "6-1", "9-0", "9-0", "9-1"]
    assert [row["question_id"] for row in rows] == ids
    assert [rows.where(i) for i in (2, 3)] == ["the given rows, row 1", "the given rows, row 2"]


def test_questions_of_one_passage_in_two_rows_are_told_apart_by_their_own_number():
    first, second = PASSAGE["passage"]["questions"]
    halves = [
        PASSAGE | {"passage": PASSAGE["passage"] | {"questions": [one]}} for one in (first, second)
    ]
    rows = READERS["superglue/multirc"](load_rows(halves))
    assert [row["question_id"] for row in rows] == ["6-0", "6-0", "6-1"]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"passage": "Rain fell."}, "passage is str"),
        ({"passage": {"text": "Rain fell."}}, "questions is nothing"),
        ({"passage": {"text": "Rain", "questions": [{"answers": [{}]}]}}, "question is nothing"),
        ({"passage": {"text": "Rain", "questions": ["What?"]}}, "answers is nothing"),
    ],
)
def test_rows_that_are_no_passages_are_refused(row, found):
    assert refused(lambda: read("multirc", row)) == (
        f"the given rows, row 1: {found}. superglue/multirc needs passage: "
        "{text, questions: [{question, answers: [{text, label}]}]}."
    )


def test_copa_has_a_joiner_and_sentences_that_stand_within_another_one():
    one, two = read("copa", COPA, COPA | {"question": "effect"})
    assert one == COPA | {
        "premise": "The lawn was wet",
        "choice1": "it rained",
        "choice2": "the sun shone",
        "joiner": "because",
    }
    assert two["joiner"] == "so"


def test_copa_knows_two_questions():
    assert refused(lambda: read("copa", COPA | {"question": "why"})) == (
        "the given rows, row 1: question is 'why'. Allowed: cause, effect."
    )


@pytest.mark.parametrize(
    ("hypothesis", "without"),
    [("It rained.", "It rained"), ('He said "no!".', 'He said "no'), ("a.b", "a.b"), ("...", "")],
)
def test_rte_asks_about_the_hypothesis_without_the_punctuation_at_its_end(hypothesis, without):
    row = {"premise": "The lawn was wet.", "hypothesis": hypothesis, "label": "entailment"}
    assert read("rte", row) == [row | {"hypothesis": without}]


def test_rte_needs_a_hypothesis():
    assert refused(lambda: read("rte", {"premise": "The lawn was wet."})) == (
        "the given rows, row 1: hypothesis is nothing. superglue/rte needs hypothesis."
    )


@pytest.mark.parametrize("place", [3, 4, 5])
def test_the_pronoun_of_wsc_stands_in_stars_also_where_its_place_is_one_off(place):
    (row,) = read("wsc", WSC | {"target": WSC["target"] | {"span2_index": place}})
    assert row["text"] == "Ann told Bea that *she* had won."
    assert (row["pronoun"], row["span"], row["label"]) == ("she", "Ann", True)


def test_a_pronoun_keeps_its_case_and_the_mark_behind_it():
    text = "It fell. Bob dropped it, again."
    target = WSC["target"] | {"span2_text": "It", "span2_index": 4}
    (row,) = read("wsc", WSC | {"text": text, "target": target})
    assert row["text"] == "It fell. Bob dropped *it*, again."


def test_wsc_keeps_rows_of_both_labels():
    rows = read("wsc", WSC | {"label": False}, WSC)
    assert [row["label"] for row in rows] == [False, True]


def test_a_pronoun_that_stands_elsewhere_is_refused():
    target = WSC["target"] | {"span2_index": 1}
    assert refused(lambda: read("wsc", WSC | {"target": target})) == (
        "the given rows, row 1: span2_text is 'she', which is not word 1 (from 0) of the text. "
        "Mend span2_index."
    )
