import re

import pytest

from ptune.data import load_rows, sift, tags_of
from ptune.errors import DataError

TEXT = """-DOCSTART- -X- O

EU NNP B-ORG
rejects VBZ O

Peter NNP B-PER
"""


def written(tmp_path, text, name="rows.conll"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("name", ["a.conll", "a.iob", "a.bio", "a.txt", "a.CONLL"])
def test_sentences_are_rows_of_words_and_tags(tmp_path, name):
    rows = load_rows(written(tmp_path, TEXT, name))
    assert list(rows) == [
        {"tokens": ["EU", "rejects"], "label": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "label": ["B-PER"]},
    ]
    assert rows.where(1).endswith(f"{name}, line 6")
    assert rows.place(0, 1).endswith(f"{name}, line 4")


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace(" ", "\t"),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n\n", "\n \t \n"),
        TEXT.rstrip("\n"),
        "\ufeff" + TEXT,
        TEXT.replace(" ", "   "),
        TEXT.replace("\n\nPeter", "\n-DOCSTART- -X- O\nPeter"),
    ],
)
def test_tabs_line_ends_and_white_space_make_no_difference(tmp_path, text):
    rows = load_rows(written(tmp_path, text))
    assert [row["tokens"] for row in rows] == [["EU", "rejects"], ["Peter"]]
    assert [row["label"] for row in rows] == [["B-ORG", "O"], ["B-PER"]]


def test_between_tabs_a_word_may_hold_a_space(tmp_path):
    (row,) = load_rows(written(tmp_path, "New York\tB-LOC\n\u2009\tO\n"))
    assert row == {"tokens": ["New York", "\u2009"], "label": ["B-LOC", "O"]}


def test_words_alone_are_rows_without_tags(tmp_path):
    assert list(load_rows(written(tmp_path, "EU\nrejects\n\nPeter\n"))) == [
        {"tokens": ["EU", "rejects"]},
        {"tokens": ["Peter"]},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb O\n", "line 2: 2 columns (b | O), where the lines before have 1, a word alone."),
        ("a\tO\nb\t\n", "line 2: there is no tag. Write one."),
        ("a\tO\n\tO\n", "line 2: there is no word. Write one."),
        (
            "-DOCSTART- O\n",
            (
                "there is no sentence. Write one word and its tag on each line, and an empty line "
                "after each sentence."
            ),
        ),
        ("\n \n", "the file is empty. It needs one word and its tag a line."),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        load_rows(written(tmp_path, text))


@pytest.mark.parametrize("line", ["b", "b X O"])
def test_a_line_of_other_columns_spoils_its_sentence_alone(tmp_path, line):
    rows = load_rows(written(tmp_path, f"a O\n\na O\n{line}\n\nc O\n"))
    message = "line 4 ('b'): not as many columns as in the first line. Each line needs a word first"
    with pytest.raises(DataError, match=re.escape(message)):
        tags_of(rows, "label")
    kept = sift(rows, lambda some: tags_of(some, "label"), skip=True)
    assert [row["tokens"] for row in kept.rows] == [["a"], ["c"]]
    assert len(kept.notes) == 2
