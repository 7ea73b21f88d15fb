"""The rows of a run: which are refused, left out or told, before a backbone is asked anything."""

import pytest

from ptune.config import Recipe
from ptune.errors import ConfigError, DataError
from ptune.training.rows import Sources, read_rows

CLOZE = {
    "task": "masked-lm",
    "template": "{text} {mask}",
    "verbalizer": {"fine": "good", "poor": "bad"},
    "validation_share": 0.0,
}
TEXTS = ("late", "thank you", "lost", "very good")


def rows(*labels):
    return [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=False)]


def read(settings, train, validation=None, test=None):
    return read_rows(Recipe.make(**settings), Sources(train, validation, test))


def test_a_label_without_an_answer_word_is_refused_with_its_place():
    with pytest.raises(DataError) as error:
        read(CLOZE, rows("fine", "poor", "great", "poor"))
    assert str(error.value) == (
        "the given rows, row 3: label 'great' has no answer word in verbalizer. Known: fine, poor. "
        "Mend the row, or add the label."
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (CLOZE, "label 'great' has no answer word in verbalizer"),
        (CLOZE | {"labels": ["fine", "poor"]}, "label 'great' is not one of the labels given"),
    ],
)
def test_an_unknown_label_is_left_out_where_bad_rows_are_skipped(settings, said):
    parts = rows("fine", "poor", "great", "poor"), rows("fine", "great"), rows("poor", "great")
    found = read(settings | {"bad_rows": "skip"}, *parts)
    kept = [[row["label"] for row in part] for part in (found.train, found.validation, found.test)]
    assert kept == [["fine", "poor", "poor"], ["fine"], ["poor"]]
    assert found.labels == ("fine", "poor")
    places = [note for note in found.notes if said in note]
    assert [note.split(":")[0].strip() for note in places] == [
        "the given rows, row 3", "the given rows, row 2", "the given rows, row 2"
    ]  # fmt: skip


def test_other_tasks_answer_with_the_label_itself_where_a_verbalizer_misses_one():
    settings = CLOZE | {"task": "causal-lm", "template": "{soft:2}{text} {label}"}
    assert read(settings, rows("fine", "poor", "great")).labels == ("fine", "great", "poor")


def test_of_a_row_that_is_left_out_nothing_else_is_said():
    blank = [{"text": " ", "label": "great"}, {"text": "lost", "label": "fine"}]
    settings = CLOZE | {"task": "sequence-classification", "template": "{soft:2}{text}"}
    settings |= {"verbalizer": {}, "bad_rows": "skip"}
    found = read(settings, rows("fine", "poor"), validation=blank)
    assert not [note for note in found.notes if "kept" in note]
    assert any("1 of 2 rows is left out" in note for note in found.notes)


def test_of_a_choice_it_is_told_that_the_row_was_trained_on_if_its_choices_are_the_same():
    train = [{"text": "late", "choices": ["a", "b"], "label": "a"}]
    settings = {"task": "multiple-choice", "template": "{soft:2}{text} {choice}"}
    settings |= {"validation_share": 0.0}
    for choices, told in ((["a", "b"], 1), (["b", "c"], 0)):
        test = [{"text": "late", "choices": choices, "label": "b"}]
        notes = read(settings, train, test=test).notes
        assert len([note for note in notes if "a row to train on says" in note]) == told


@pytest.mark.parametrize(
    ("tags", "scheme", "told"),
    [(["PER", "O"], "auto", 1), (["B-PER", "O"], "auto", 0), (["PER", "O"], "plain", 0),
     (["NOUN", "VERB"], "auto", 0)],
)  # fmt: skip
def test_tags_without_beginnings_are_told_to_count_every_word(tags, scheme, told):
    train = [{"tokens": ["ann", "left"], "label": tags}] * 2
    settings = {"task": "token-classification", "template": "{soft:2}{tokens}", "scheme": scheme}
    notes = read(settings | {"validation_share": 0.0}, train).notes
    said = (
        "the given rows: no tag begins with B- or I-, so every word counts as an entity, those "
        "tagged O too, and f1 is the share of right words (scheme: plain)."
    )
    assert notes.count(said) == told


def test_a_column_for_a_field_that_is_not_there_is_refused():
    settings = CLOZE | {"columns": {"txt": "text"}}
    with pytest.raises(ConfigError) as error:
        read(settings, rows("fine", "poor"))
    assert str(error.value) == (
        'columns: txt is no field of the template "{text} {mask}", so nothing reads it. Fields: '
        "text. Did you mean text?"
    )


GROUPED = {
    "task": "sequence-classification",
    "template": "{soft:2}{text}",
    "group_column": "g",
}
ANSWERS = [{"text": f"q{g} a{a}", "label": str(a % 2), "g": g} for g in range(10) for a in range(4)]


def test_rows_of_one_group_are_drawn_and_held_out_together():
    data = read(GROUPED | {"max_rows": 20}, ANSWERS)
    groups = [[row["g"] for row in part] for part in (data.train, data.validation)]
    assert len(groups[0]) + len(groups[1]) == 20
    assert not set(groups[0]) & set(groups[1])
    assert {own.count(g) for own in groups for g in own} == {4}


def test_few_rows_of_each_label_are_not_drawn_out_of_groups_that_are_judged_together():
    with pytest.raises(ConfigError) as error:
        read(GROUPED | {"few_shot": 6}, ANSWERS)
    assert str(error.value) == (
        "few_shot = 6 draws single rows, to train on and to hold out, and g says which rows are "
        "judged together. Set max_rows instead, or name a validation file."
    )
    assert len(read(GROUPED | {"few_shot": 6}, ANSWERS, validation=ANSWERS).train) == 12


def test_a_context_that_is_no_text_is_refused_with_its_place():
    rows = [{"question": "who ?", "context": ["a", "b"], "answers": "a"}] * 8
    with pytest.raises(DataError, match=r'row 1, column "context": found a list\. Only text and'):
        read({"task": "question-answering"}, rows)
