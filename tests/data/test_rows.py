from collections.abc import Sequence

import pytest

from ptune.data import Rows, load_rows
from ptune.errors import DataError


@pytest.fixture
def rows() -> Rows:
    records = [{"text": word, "label": str(i % 2)} for i, word in enumerate("abcde")]
    return Rows.of("train.csv", "line", enumerate(records, start=2))


def refusal(source: Sequence[object]) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(source)
    return str(caught.value)


def test_rows_are_a_sequence_of_mappings(rows: Rows):
    assert isinstance(rows, Sequence)
    assert len(rows) == 5
    assert rows[1] == {"text": "b", "label": "1"}
    assert rows[-1]["text"] == "e"
    assert [row["text"] for row in rows] == list("abcde")
    assert next(reversed(rows)) == rows[4]
    with pytest.raises(IndexError):
        rows[5]


def test_a_slice_and_a_draw_keep_the_places_of_their_rows(rows: Rows):
    assert [rows.where(i) for i in (0, 4)] == ["train.csv, line 2", "train.csv, line 6"]
    drawn = rows.take([3, 1])
    assert [row["text"] for row in drawn] == ["d", "b"]
    assert drawn.where(0) == "train.csv, line 5"
    sliced = rows[1::2][1:]
    assert [row["text"] for row in sliced] == ["d"]
    assert sliced.where(0) == "train.csv, line 5"
    assert len(rows) == 5


def test_rows_introduce_themselves(rows: Rows):
    assert repr(rows) == "Rows(train.csv: 5 rows of text, label)"


def test_a_column_is_a_list(rows: Rows):
    assert rows.column("label") == ["0", "1", "0", "1", "0"]


def test_a_missing_column_lists_those_there_are(rows: Rows):
    message = "train.csv: there is no column Text. Columns: text, label. Did you mean text?"
    with pytest.raises(DataError) as caught:
        rows.column("Text")
    assert str(caught.value) == message
    with pytest.raises(DataError) as caught:
        rows.with_fields({"tweet": "Text"})
    assert str(caught.value) == message


@pytest.mark.parametrize(("mark", "shown"), [(";", "';'"), ("\t", r"'\t'"), ("|", "'|'")])
def test_a_header_with_another_separator_is_told(mark: str, shown: str):
    rows = load_rows([{f"text{mark}label": "a"}])
    with pytest.raises(DataError) as caught:
        rows.column("label")
    assert str(caught.value) == (
        f"the given rows: there is no column label. Columns: text{mark}label. "
        f"The header seems to be separated by {shown}; save the file with commas."
    )


def test_fields_stand_beside_the_columns_they_are_taken_from(rows: Rows):
    mapped = rows.with_fields({"tweet": "text", "label": "label"})
    assert mapped.columns == ("text", "label", "tweet")
    assert mapped[2] == {"text": "c", "label": "0", "tweet": "c"}
    assert mapped.where(2) == "train.csv, line 4"
    assert rows[2] == {"text": "c", "label": "0"}


def test_two_fields_may_change_places(rows: Rows):
    swapped = rows.with_fields({"text": "label", "label": "text"})
    assert swapped[1] == {"text": "1", "label": "b"}


def test_rows_are_had_as_they_were_read_after_a_draw_too(rows: Rows):
    fields = rows.with_fields({"text": "label", "title": "text"})
    more = fields.extended([{"choice": ("a", "b")}] * 5, ["choice"])
    assert more.columns == ("text", "label", "title", "choice")
    assert rows.as_read is rows
    drawn = more.take([3, 1]).as_read
    assert (drawn.columns, list(drawn)) == (rows.columns, [rows[3], rows[1]])
    assert drawn.where(0) == "train.csv, line 5"


def test_rows_given_in_python_are_numbered_from_one():
    assert load_rows([{"a": 1}, {"a": 2}]).where(1) == "the given rows, row 2"
    rows = load_rows(({"a": 1},))
    assert load_rows(rows) is rows


def test_no_rows_are_refused():
    assert refusal([]) == "the given rows: there are no rows. Give one or more."


def test_rows_with_other_keys_are_refused():
    assert refusal([{"text": "a", "label": "b"}, {"label": "b", "text": "a"}, {"text": "c"}]) == (
        "the given rows, row 3: its keys are text, but row 1 has text, label. "
        "Every row needs the same keys; write null where a value is missing."
    )


def test_a_row_without_columns_is_refused():
    assert refusal([{}]) == "the given rows, row 1: the row has no columns."


def test_column_names_are_texts():
    assert refusal([{0: "a", "b": "c"}]) == (
        "the given rows: column names must be texts; found 0, b."
    )


@pytest.mark.parametrize(
    "value",
    [10**5000, -(10**5000), ["a", 10**5000], {"start": [10**5000]}],
    ids=["number", "negative", "list", "mapping"],
)
def test_a_number_that_python_cannot_write_is_refused_with_its_place(value: object):
    with pytest.raises(DataError) as error:
        Rows.of("train.csv", "line", [(2, {"text": "a", "y": 1}), (3, {"text": "b", "y": value})])
    assert str(error.value) == (
        "train.csv, line 3, column y: a number has more than 4,000 digits. Write it as a text, in "
        "quotes, or mend the row."
    )
