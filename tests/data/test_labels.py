import math

import pytest

from ptune.data import (
    Rows,
    answers_of,
    check_labels,
    label_lists_of,
    labels_of,
    load_rows,
    numbers_of,
)
from ptune.data.labels import choices_of
from ptune.errors import DataError


def rows_of(*labels: object, source: str = "train.csv") -> Rows:
    return Rows.of(source, "line", ((i, {"y": label}) for i, label in enumerate(labels, start=2)))


def refusal(read: object, *arguments: object, **settings: object) -> str:
    assert callable(read)
    with pytest.raises(DataError) as caught:
        read(*arguments, **settings)
    return str(caught.value)


def test_a_label_is_kept_exactly_and_numbers_are_words():
    rows = rows_of("Yes", " no", "007", 7, 1.5, True, "a|b")
    assert labels_of(rows, "y") == ["Yes", " no", "007", "7", "1.5", "true", "a|b"]


@pytest.mark.parametrize("missing", [None, "", "  ", math.nan])
def test_a_row_without_a_label_is_refused(missing: object):
    assert refusal(labels_of, rows_of("a", missing), "y") == (
        "train.csv, line 3: column y holds no label. Give it one, or delete the row."
    )


def test_a_list_is_not_one_label():
    assert refusal(labels_of, rows_of("a", ["b"]), "y") == (
        "train.csv, line 3: column y holds ['b'], which is not one label. "
        "For any number of labels per row set problem: multi-label."
    )


def test_a_missing_column_is_refused_by_every_reader():
    message = (
        "the given rows: there is no column label. Columns: labels, text. Did you mean labels?"
    )
    rows = load_rows([{"labels": "a", "text": "b"}])
    for read in (labels_of, label_lists_of, numbers_of):
        assert refusal(read, rows, "label") == message
    assert refusal(check_labels, rows, [], "label") == message


def test_any_number_of_labels_is_a_text_with_bars_or_a_list():
    rows = rows_of("late|rude", "late", "", ["a|b", 1], [], 3)
    assert label_lists_of(rows, "y") == [
        ("late", "rude"),
        ("late",),
        (),
        ("a|b", "1"),
        (),
        ("3",),
    ]


@pytest.mark.parametrize("value", ["a||b", "a|", "|", ["a", None]])
def test_an_empty_part_of_several_labels_is_refused(value: object):
    assert refusal(label_lists_of, rows_of(value), "y") == (
        f"train.csv, line 2: column y holds {value!r}, one part of which is empty. Labels are "
        "parted by one | each; leave out what has none."
    )


def test_a_missing_list_of_labels_is_refused():
    assert refusal(label_lists_of, rows_of(None), "y") == (
        "train.csv, line 2: column y holds no label. "
        "Give it one, or an empty text for no labels, or delete the row."
    )


@pytest.mark.parametrize("value", ["a|b|a", ["a", "a"]])
def test_a_label_that_stands_twice_in_a_row_is_refused(value: object):
    assert refusal(label_lists_of, rows_of(value), "y") == (
        "train.csv, line 2: label 'a' stands twice in column y. Keep one."
    )


def test_numbers_are_read_from_numbers_and_texts():
    assert numbers_of(rows_of(1, 2.5, "-3e1", " 4 "), "y") == [1.0, 2.5, -30.0, 4.0]


@pytest.mark.parametrize(
    "value", [None, "", "1,5", "high", "nan", math.inf, True, [1], pytest.param(10**400, id="huge")]
)
def test_what_is_no_number_is_refused(value: object):
    assert refusal(numbers_of, rows_of(1, value), "y") == (
        f"train.csv, line 3: column y holds {value!r}, not a number. "
        "problem: regression needs one in every row; write decimals with a point."
    )


def test_labels_are_those_of_train_sorted():
    assert check_labels(rows_of("b", "a", "b"), [rows_of("b")], "y") == (("a", "b"), ())


def test_labels_of_the_recipe_keep_their_order_and_unused_ones_are_told():
    assert check_labels(rows_of("a", "b"), [rows_of("c")], "y", labels=["c", "b", "d", "a"]) == (
        ("c", "b", "d", "a"),
        ("train.csv: no row has the label c, d.",),
    )


def test_one_label_alone_is_refused():
    assert refusal(check_labels, rows_of("a", "a"), [], "y", labels=["a", "b"]) == (
        "train.csv: column y holds one label only, 'a', in all 2 rows. Two or more are needed; "
        "add rows with another label, or name another label_column."
    )


def test_one_of_several_labels_may_be_alone_but_not_none():
    rows = rows_of("a", "")
    assert check_labels(rows, [], "y", multi=True) == (("a",), ())
    assert refusal(check_labels, rows_of("", []), [], "y", multi=True) == (
        "train.csv: column y holds no label in any row. Add rows with labels."
    )


def test_a_label_that_train_never_shows_is_refused():
    train, test = rows_of("complaint", "no"), rows_of("no", "complant", source="test.csv")
    assert refusal(check_labels, train, [train, test], "y") == (
        "test.csv, line 3: label 'complant' never occurs in train.csv. Known: complaint, no. "
        "Did you mean complaint? Mend the row, or add the label."
    )


def test_a_label_that_the_recipe_does_not_name_is_refused():
    message = (
        "train.csv, line 4: label 'c' is not one of the labels given. Known: b, a. "
        "Mend the row, or add the label."
    )
    assert refusal(check_labels, rows_of("a", "b", "c"), [], "y", labels=["b", "a"]) == message
    others = [rows_of("a", "a", "c")]
    assert refusal(check_labels, rows_of("a", "b"), others, "y", labels=["b", "a"]) == message


def test_an_unknown_label_among_several_is_refused():
    assert refusal(check_labels, rows_of("a|b"), [rows_of("a", "b|c")], "y", multi=True) == (
        "train.csv, line 3: label 'c' never occurs in train.csv. Known: a, b. "
        "Mend the row, or add the label."
    )


def test_a_long_list_of_labels_is_cut():
    train = rows_of(*(f"{i:02}" for i in range(11)))
    assert refusal(check_labels, train, [rows_of("x")], "y") == (
        "train.csv, line 2: label 'x' never occurs in train.csv. "
        "Known: 00, 01, 02, 03, 04, 05, 06, 07, 08, 09, ... (11 in all). "
        "Mend the row, or add the label."
    )


def test_stray_white_space_is_kept_and_told():
    assert check_labels(rows_of("a", "b", "b", "c "), [], "y") == (
        ("a", "b", "c "),
        ("train.csv, line 5: label 'c ' begins or ends with white space, which is kept.",),
    )


@pytest.mark.parametrize("labels", [("a", "b", "a "), ("a", "b", "\ta"), (" a", "a  ", "b")])
def test_labels_that_differ_by_white_space_only_are_refused(labels: tuple[str, ...]):
    stray, twin = (labels[1], labels[0]) if labels[0] == " a" else (labels[2], "a")
    line = 2 + labels.index(stray)
    assert refusal(check_labels, rows_of(*labels), [], "y") == (
        f"train.csv, line {line}: label {stray!r} differs from {twin!r} by white space only. "
        "White space counts in a label; mend the rows."
    )


def test_labels_of_other_unicode_characters_that_look_alike_are_refused():
    assert refusal(check_labels, rows_of("b", "caf\u00e9", "cafe\u0301"), [], "y") == (
        "train.csv, line 4: label 'cafe\u0301' looks like that of train.csv, line 3 and is written "
        "with other Unicode characters (accents composed or not). Write both in one way, e.g. NFC."
    )


def test_labels_that_differ_by_case_only_are_two_and_that_is_told():
    assert check_labels(rows_of("Good", "bad", "good"), [], "y") == (
        ("Good", "bad", "good"),
        ("train.csv, line 4: label 'good' is another one than 'Good': case counts.",),
    )
    assert check_labels(rows_of("A", "a", "B", "b"), [], "y").notes == (
        "train.csv, line 3: label 'a' is another one than 'A': case counts (2 such pairs).",
    )


def test_answers_are_read_as_the_problem_has_them():
    rows = rows_of("1|2", "3")
    assert answers_of(rows, "y", "single-label") == ["1|2", "3"]
    assert answers_of(rows, "y", "multi-label") == [("1", "2"), ("3",)]
    assert answers_of(rows_of("3"), "y", "regression") == [3.0]


def test_a_choice_of_more_digits_than_python_reads_is_no_choice():
    rows = load_rows([{"choice": ("a", "b"), "y": "9" * 5000}])
    assert refusal(choices_of, rows, "y") == (
        f"the given rows, row 1: column y holds '{'9' * 40}...', which is no choice of its row. "
        "Allowed: a number from 0 to 1, or the text of a choice."
    )
