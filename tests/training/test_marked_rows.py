"""Rows of groups, and rows whose answers are true or false, as a run reads them."""

import pytest

from ptune.config import Recipe
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.training.rows import Sources, read_rows

JUDGED = [
    {"text": f"text {at}", "span": f"span {at}", "ok": at % 3 != 0, "q": at // 2}
    for at in range(12)
]
TEXT = {
    "task": "masked-lm", "answer": "text", "label_column": "span", "truth_column": "ok",
    "template": "{text} {mask*4}",
}  # fmt: skip
LABELLED = {"label_column": "ok", "template": "{text} {label}"}


def read(settings, rows=JUDGED, **sources):
    given = Sources(rows, sources.get("validation"), sources.get("test"))
    return read_rows(Recipe.make(**settings).resolved(), given)


def test_true_rows_are_learned_from_and_all_are_scored():
    data = read(TEXT, validation=JUDGED, test=JUDGED)
    assert [row["ok"] for row in data.train] == [True] * 8
    assert (len(data.validation), len(data.test)) == (12, 12)
    note, *_ = data.notes
    assert note == (
        "the given rows: 4 of 12 rows are not trained on: their answer is false "
        "(truth_column = ok)."
    )


def test_rows_that_are_held_out_are_scored_whatever_they_say():
    data = read(TEXT | {"validation_share": 0.5})
    assert all(row["ok"] for row in data.train)
    assert not all(row["ok"] for row in data.validation)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_group_are_held_out_together(seed):
    data = read(LABELLED | {"group_column": "q", "validation_share": 0.3, "seed": seed})
    trained, held = ({row["q"] for row in part} for part in (data.train, data.validation))
    assert not trained & held
    assert len(data.validation) == 4


def test_what_a_column_must_hold_is_said():
    with pytest.raises(DataError, match="the given rows: column ok is false in every row"):
        read(TEXT, [row | {"ok": False} for row in JUDGED])
    with pytest.raises(DataError, match=r"the given rows: there is no column judged\. Columns:"):
        read(TEXT | {"truth_column": "judged"})
    with pytest.raises(DataError, match=r"the given rows, row 1: group_column = q holds \[1\]"):
        read(LABELLED | {"group_column": "q"}, [row | {"q": [1]} for row in JUDGED])
    with pytest.raises(ConfigError) as error:
        read(LABELLED | {"positive_label": "True"})
    assert str(error.value) == (
        "positive_label = True is not a label. Labels: false, true. Did you mean true?"
    )


def test_a_row_that_is_neither_true_nor_false_may_be_left_out():
    rows = [*JUDGED, JUDGED[1] | {"ok": "perhaps"}]
    data = read(TEXT | {"bad_rows": "skip"}, rows, validation=JUDGED)
    assert len(data.train) == 8
    assert "the given rows, row 13: truth_column = ok holds 'perhaps'" in data.notes[1]


@pytest.mark.parametrize("template", ["{soft:3}no field here {label}", "{soft:4} {label}"])
def test_a_template_without_a_field_is_refused(template):
    with pytest.raises(TemplateError) as error:
        read(LABELLED | {"template": template})
    assert str(error.value) == (
        f'template "{template}": there is no field of the rows in it, so every row would be the '
        "same. Write one where its text goes. Columns: text, span, ok, q."
    )


def test_a_label_that_is_held_out_alone_is_not_said_to_be_missing_in_the_file():
    rows = [{"text": f"text {at}", "label": str(at), "q": at} for at in range(4)]
    settings = {"group_column": "q", "validation_share": 0.5, "template": "{text} {label}"}
    with pytest.raises(DataError) as error:
        read(settings, rows)
    assert "never occurs in the rows left for training, 2 of the 4 of the given rows. Known" in (
        str(error.value)
    )


def test_one_label_that_is_left_alone_is_not_said_to_be_the_only_one_of_the_file():
    rows = [{"text": f"text {at}", "label": str(at // 6)} for at in range(12)]
    settings = {"group_column": "label", "validation_share": 0.5, "template": "{text} {label}"}
    with pytest.raises(DataError, match=r"in all 6 of 12 rows, those left for training\. Two or"):
        read(settings, rows)
