import pytest

from ptune.data import answers_of, kept_rows_for, load_rows, rows_for, with_choices
from ptune.data.choices import CHOICE
from ptune.errors import DataError

KIND = "multiple-choice"
PAIR = {"text": "it rained", "choice1": "wet", "choice2": "dry", "label": 0}


def found(*rows, choices=None):
    return with_choices(load_rows(list(rows)), choices)


def refused(call):
    with pytest.raises(DataError) as error:
        call()
    return str(error.value)


def test_choices_are_found_in_numbered_columns_in_the_order_of_their_numbers():
    ten = {f"choice{n}": f"text {n}" for n in (10, 2, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert found(ten)[0][CHOICE] == tuple(f"text {n}" for n in range(1, 11))


def test_choices_are_found_in_a_list_column_or_where_the_recipe_says():
    rows = {"choices": ["a", "b"], "ends": ["c", "d", "e"], "first": "f", "second": 7}
    assert found(rows)[0][CHOICE] == ("a", "b")
    assert found(rows, choices="ends")[0][CHOICE] == ("c", "d", "e")
    assert found(rows, choices=("second", "first"))[0][CHOICE] == ("7", "f")


def test_rows_may_have_choices_in_different_numbers():
    row = PAIR | {"choice3": ""}
    rows = found(row, row | {"choice3": "windy"}, row | {"choice3": None})
    assert [len(one[CHOICE]) for one in rows] == [2, 3, 2]


@pytest.mark.parametrize(
    ("label", "right"), [(0, "wet"), (1, "dry"), ("1", "dry"), ("wet", "wet"), ("dry", "dry")]
)
def test_a_label_is_the_number_of_a_choice_or_its_text(label, right):
    assert answers_of(found(PAIR | {"label": label}), "label", KIND) == [right]


def test_rows_without_choices_are_left_out_where_that_is_asked_for():
    rows = [PAIR, PAIR | {"choice2": ""}, PAIR | {"choice2": "wet"}]
    assert refused(lambda: kept_rows_for(rows, {"task": KIND}, skip=False)).startswith(
        "the given rows, row 2: has one choice only"
    )
    kept = kept_rows_for(rows, {"task": KIND}, skip=True)
    assert [row[CHOICE] for row in kept.rows] == [("wet", "dry")]
    assert kept.notes[0] == "the given rows: 2 of 3 rows are left out:"
    assert "row 3: choices 0 and 1 are both 'wet'" in kept.notes[2]


def test_a_label_that_is_text_and_number_of_one_choice_is_that_choice():
    row = PAIR | {"choice1": "0", "choice2": "2", "label": 0}
    assert answers_of(found(row), "label", KIND) == ["0"]


@pytest.mark.parametrize("label", [2, -1, "damp", "Wet", 0.5, True])
def test_a_label_outside_the_choices_is_refused_with_its_place(label):
    said = str(label).lower() if isinstance(label, bool) else str(label)
    assert refused(lambda: answers_of(found(PAIR | {"label": label}), "label", KIND)) == (
        f"the given rows, row 1: column label holds {said!r}, which is no choice of its row. "
        "Allowed: a number from 0 to 1, or the text of a choice."
    )


def test_a_label_that_could_be_two_choices_is_refused():
    row = PAIR | {"choice1": "1", "choice2": "0"}
    assert refused(lambda: answers_of(found(row), "label", KIND)) == (
        "the given rows, row 1: column label holds '0', which is the text of choice 1 and the "
        "number of another one. Write the text of the right choice in another way, e.g. in words."
    )


ONE = "Two or more are needed; mend or delete the row."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice2": ""}, f"has one choice only, 'wet'. {ONE}"),
        ({"choice1": None, "choice2": None}, f"has no choice. {ONE}"),
        (
            {"choice2": "wet"},
            (
                "choices 0 and 1 are both 'wet', so the right one cannot be told. Mend or delete "
                "the row."
            ),
        ),
        (
            {"choice1": ""},
            (
                "column choice1 is empty, and choice2 behind it is not. A row with fewer choices "
                "has them in its first columns."
            ),
        ),
        ({"choice2": ["dry"]}, "column choice2 holds ['dry'], and a choice is a text."),
        ({"choice2": " "}, "column choice2 holds ' ', and a choice is a text."),
        (
            {"choices": "wet, dry"},
            (
                "column choices holds 'wet, dry', not a list of choices. Write a JSON list of "
                "texts, or give each choice a column."
            ),
        ),
    ],
)
def test_choices_that_cannot_be_are_refused_with_the_place_of_their_row(change, message):
    good = PAIR | ({"choices": ["a", "b"]} if "choices" in change else {})
    assert refused(lambda: found(good, PAIR | change)) == f"the given rows, row 2: {message}"


def test_rows_without_choices_are_told_what_to_do():
    assert refused(lambda: found({"text": "it rained", "label": 0})) == (
        "the given rows: there are no choices. Columns: text, label. Name them choice1, choice2 "
        "and so on, or say which they are: choices: [first, second], or the one that holds a list."
    )


def test_choices_are_looked_for_in_multiple_choice_alone():
    assert CHOICE not in rows_for([PAIR], {"task": "causal-lm"}).columns
    assert rows_for([PAIR], {"task": KIND})[0][CHOICE] == ("wet", "dry")
