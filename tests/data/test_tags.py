import re

import pytest

from ptune.data import check_known, check_labels, check_tags, load_rows, scheme_in, sift, tags_of
from ptune.errors import DataError


def rows_of(*pairs):
    return load_rows([{"tokens": words, "label": tags} for words, tags in pairs])


def refuses(message):
    return pytest.raises(DataError, match=re.escape(message))


def test_tags_are_lists_or_texts_split_at_white_space():
    rows = rows_of((["a", "b"], ["O", "B-X"]), ("a  b", "O B-X"))
    assert tags_of(rows, "label") == [("O", "B-X"), ("O", "B-X")]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        (["a", "b"], ["O"], "row 1: 2 words and 1 tag in column label. Each word needs one tag."),
        (["a"], ["O", "O"], "row 1: 1 word and 2 tags in column label."),
        ([], [], 'row 1, column "tokens": there are no words.'),
        (" ", "", 'row 1, column "tokens": there are no words.'),
        (None, ["O"], 'row 1, column "tokens": the value is missing.'),
        (3, ["O"], 'row 1, column "tokens": found a int, not words.'),
        (["a", None], ["O", "O"], 'row 1, column "tokens", word 2: found a NoneType.'),
        (["a"], None, "row 1: column label holds None, not a list of tags."),
        (["a", "b"], ["O", ""], "row 1, word 2: column label holds '', which is no tag."),
        (["a", "b"], ["O", 1], "row 1, word 2: column label holds 1, which is no tag."),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_place(words, tags, message):
    with refuses(message):
        tags_of(rows_of((words, tags)), "label")


def test_a_missing_column_is_told():
    with refuses("there is no column tokens. Columns: words, label."):
        tags_of(load_rows([{"words": ["a"], "label": ["O"]}]), "label")


def test_a_forbidden_tag_is_refused_with_the_line_of_its_word(tmp_path):
    file = tmp_path / "train.conll"
    file.write_text("a O\n\nb O\nParis I-LOC\n")
    rows = load_rows(file)
    with refuses(
        f"{file}, line 4 ('Paris'): tag I-LOC stands behind O, and in bio an entity begins with "
        "B-LOC. Where the file writes entities so (IOB1), set scheme: iob1. Mend the row, or"
    ):
        check_tags(rows, "label", "bio")
    check_tags(rows, "label", "iob1")
    kept = sift(rows, lambda some: check_tags(some, "label", "bio"), skip=True)
    assert [row["tokens"] for row in kept.rows] == [["a"]]
    assert kept.notes[0] == f"{file}: 1 of 2 rows is left out:"
    assert kept.notes[1].startswith(f"  {file}, line 4 ('Paris'): tag I-LOC")


def test_the_scheme_is_that_of_all_rows_together():
    assert scheme_in(rows_of((["a"], ["O"]), ("b", "B-X")), "label") == "bio"
    assert scheme_in(rows_of((["a"], ["O"]), ("b", None), (["c"], [1])), "label") == "plain"


def test_the_labels_are_all_tags_and_an_unknown_one_is_named_with_its_word():
    train = rows_of((["a", "b"], ["O", "B-X"]))
    test = rows_of((["a"], ["O"]), (["b", "c"], ["B-X", "B-Y"]))
    labels = check_labels(train, [], "label", tagged=True)
    assert labels.names == ("B-X", "O")
    with refuses("row 2, word 2: label 'B-Y' never occurs in the given rows. Known: B-X, O."):
        check_labels(train, [test], "label", tagged=True)
    with refuses("row 2, word 2: label 'B-Y' is new."):
        check_known(test, "label", labels.names, "is new", tagged=True)


ADVICE = (
    "A cell of a table holds words parted by spaces; write lists into a JSON lines file (.jsonl)."
)


@pytest.mark.parametrize("label", ["['B-PER', 'O']", '["B-PER", "O"]', "[1, 0]", " [] "])
def test_tags_written_as_a_list_in_a_cell_are_refused(tmp_path, label):
    file = tmp_path / "train.tsv"
    file.write_text(f"tokens\tlabel\nAnn left\t{label}\n")
    with pytest.raises(DataError) as error:
        tags_of(load_rows(file), "label")
    assert str(error.value) == (
        f"{file}, line 2: column label holds {label!r}, a list in one text. {ADVICE}"
    )


@pytest.mark.parametrize("words", ["['Ann', 'left']", '["Ann", "left"]', "['Ann' 'left']"])
def test_words_written_as_a_list_in_a_cell_are_refused(tmp_path, words):
    file = tmp_path / "train.tsv"
    file.write_text(f"tokens\tlabel\n{words}\tB-PER O\n")
    with refuses(f'{file}, line 2, column "tokens": found {words!r}, a list in one text. {ADVICE}'):
        tags_of(load_rows(file), "label")


def test_words_in_brackets_are_words():
    assert tags_of(rows_of(("[ laughs ]", "O O O")), "label") == [("O", "O", "O")]
