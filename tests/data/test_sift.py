import pytest

from ptune.data import labels_of, load_rows, sift, told_again
from ptune.data.sift import MOST_LISTED
from ptune.errors import DataError


def _rows(labels):
    return load_rows([{"text": "a", "label": label} for label in labels])


def _check(rows):
    labels_of(rows, "label")


def test_good_rows_stay_as_they_are():
    rows = _rows("ab")
    kept = sift(rows, _check, skip=True)
    assert kept.rows is rows
    assert kept.notes == ()


def test_the_first_bad_row_is_refused():
    with pytest.raises(DataError, match="the given rows, row 2: column label holds no label"):
        sift(_rows(["a", "", None]), _check, skip=False)


def test_bad_rows_are_left_out_counted_and_listed():
    kept = sift(_rows(["a", "", "b", None]), _check, skip=True)
    assert kept.rows.column("label") == ["a", "b"]
    assert kept.rows.where(1) == "the given rows, row 3"
    first, *listed = kept.notes
    assert first == "the given rows: 2 of 4 rows are left out:"
    assert [line[: line.index(":")] for line in listed] == [
        "  the given rows, row 2",
        "  the given rows, row 4",
    ]


def test_a_long_list_of_bad_rows_ends_in_a_count():
    kept = sift(_rows(["a"] + [""] * (MOST_LISTED + 3)), _check, skip=True)
    assert len(kept.notes) == 1 + MOST_LISTED + 1
    assert kept.notes[-1] == "  and 3 more."


def test_where_no_row_is_good_the_first_fault_is_said():
    with pytest.raises(DataError, match=r"no row is good, so none can be skipped. .*row 1: column"):
        sift(_rows(["", None]), _check, skip=True)


def test_a_fault_of_no_single_row_leaves_none_out():
    def two_or_more(rows):
        if len(rows) > 2:
            raise DataError("too many")

    rows = _rows("abc")
    kept = sift(rows, two_or_more, skip=True)
    assert list(kept.rows) == list(rows)
    assert kept.notes == ()


def test_scored_rows_that_are_trained_on_are_counted_by_what_a_prompt_reads_of_them(tmp_path):
    def file(name, texts):
        (tmp_path / name).write_text("\n".join(["text,other", *texts]) + "\n", encoding="utf-8")
        return load_rows(tmp_path / name)

    train = file("train.csv", ["late,1", "lost,2", "late,3"])
    test = file("test.csv", ["found,1", "lost,9", "late,9", "lost,8"])
    (said,) = told_again(train, test, ["text"])
    assert said == (
        f"{tmp_path}/test.csv: 3 of 4 rows say what a row to train on says, the first is line 3 "
        f"(as line 3 of {tmp_path}/train.csv). Their score tells little about new rows."
    )
    assert told_again(train, test, ["text", "other"]) == ()
