import re

import pytest

from ptune.data import load_rows
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
        ("a O\nb\n", "line 2: 1 columns (b), where the lines before have 2."),
        ("a O\n\nb X O\n", "line 3: 3 columns (b | X | O), where the lines before have 2."),
        ("a\tO\nb\t\n", "line 2: there is no tag. Write one."),
        ("a\tO\n\tO\n", "line 2: there is no word. Write one."),
        ("-DOCSTART- O\n", "there is no sentence. It needs one word and its tag a line."),
        ("\n \n", "the file is empty. It needs one word and its tag a line."),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, text, message):
    with pytest.raises(DataError, match=re.escape(message)):
        load_rows(written(tmp_path, text))
