"""Rows from plain text: each is held against the text that it was made of."""

import itertools
from collections import Counter

import pytest

from ptune.data import load_rows
from ptune.errors import DataError


def document(name, sentences):
    return " ".join(f"Sentence {name} number {at} says something." for at in range(sentences))


DOCUMENTS = [document(name, 4 + at % 3) for at, name in enumerate("abcdefgh")]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    return path


def place(sentence):
    """The document and the number of a sentence of the corpus."""
    _, name, _, number, *_ = sentence.split()
    return name, int(number)


def refusal(source):
    with pytest.raises(DataError) as error:
        load_rows(source)
    return str(error.value)


def test_pairs_say_what_they_are_labelled(corpus):
    rows = load_rows(f"pretext:pairs:{corpus}")
    for row in rows:
        (first, at), (second, other) = place(row["sentence1"]), place(row["sentence2"])
        if row["label"] == "yes":
            assert (second, other) == (first, at + 1)
        elif row["label"] == "maybe":
            assert second == first
            assert abs(other - at) > 1
        else:
            assert second != first
    counts = Counter(row["label"] for row in rows)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(rows) == sum(3 + at % 3 for at in range(8))


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_documents_end_at_empty_lines_of_any_system(tmp_path, corpus, end):
    path = tmp_path / "other.txt"
    path.write_bytes(corpus.read_bytes().replace(b"\n", end.encode()))
    plain, other = (load_rows(f"pretext:pairs:{file}") for file in (corpus, path))
    assert list(plain) == list(other)
    assert plain.numbers == other.numbers


def test_choices_hold_the_next_sentence_once_and_say_where(corpus):
    rows = load_rows(f"pretext:choices:{corpus}")
    right = Counter()
    for row in rows:
        name, at = place(row["sentence"])
        places = [place(row[f"choice{n}"]) for n in range(1, 7)]
        assert places.index((name, at + 1)) == int(row["label"])
        assert places.count((name, at + 1)) == 1
        others = [other for other, _ in places if other != name]
        assert len(others) == len(set(others)) == 4  # one of its own document beside the next one
        right[row["label"]] += 1
    assert len(right) > 3  # the right one does not always stand at one place


def test_sentences_stand_alone_each_once(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("The film was very good. Oh. It was late!\n\nThe film was very good.\n\nNo.")
    rows = load_rows(f"pretext:sentences:{path}")
    assert [row["text"] for row in rows] == ["The film was very good."]
    path.write_text("The film was very good. And it was late! Where was the parcel?")
    rows = load_rows(f"pretext:sentences:{path}")
    assert [len(row["text"].split()) for row in rows] == [5, 4, 4]
    assert rows.columns == ("text",)
    path.write_text("Oh. No.")
    assert refusal(f"pretext:sentences:{path}") == (
        f"{path}: has no sentence of 4 to 60 words. Give more text."
    )


def test_the_middle_one_of_three_has_nothing_apart(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("\n\n".join(document(name, 3) for name in "abcdef"), encoding="utf-8")
    rows = load_rows(f"pretext:pairs:{path}")
    apart = [row for row in rows if row["label"] == "maybe"]
    assert apart
    for row in apart:
        (first, at), (second, other) = place(row["sentence1"]), place(row["sentence2"])
        assert (second, at, other) == (first, 0, 2)


def test_the_same_text_gives_the_same_rows_and_names_its_line(corpus):
    first, second = (load_rows(f"pretext:choices:{corpus}") for _ in range(2))
    assert list(first) == list(second)
    lines = [int(first.where(at).split()[-1]) for at in range(len(first))]
    assert sorted(set(lines)) == [1 + 2 * at for at in range(8)]


def test_crumbs_are_left_out(tmp_path):
    path = tmp_path / "crumbs.txt"
    long = " ".join(["word"] * 61) + "."
    path.write_text("\n\n".join(f"Oh. {long} {text}" for text in DOCUMENTS), encoding="utf-8")
    said = list(itertools.chain.from_iterable(load_rows(f"pretext:pairs:{path}")))
    assert said
    texts = [str(v) for row in load_rows(f"pretext:pairs:{path}") for v in row.values()]
    assert not [text for text in texts if text.startswith(("Oh.", "word"))]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "pretext:pair:a.txt",
            (
                "pretext:pair:a.txt: is not of the form pretext:FORM:FILE with one of the forms "
                "pairs, choices, sentences. Did you mean pairs?"
            ),
        ),
        (
            "pretext:pairs:",
            (
                "pretext:pairs:: is not of the form pretext:FORM:FILE with one of the forms "
                "pairs, choices, sentences."
            ),
        ),
        ("pretext:pairs:none.txt", "none.txt: cannot be read (No such file or directory)."),
    ],
)
def test_what_cannot_be_read_is_refused(source, message):
    assert refusal(source).startswith(message)


def test_too_little_text_is_refused(tmp_path):
    path = tmp_path / "little.txt"
    path.write_text("\n\n".join(DOCUMENTS[:5]), encoding="utf-8")
    assert refusal(f"pretext:pairs:{path}") == (
        f"{path}: has 5 documents of three sentences or more, and 6 are needed. Put an empty line "
        "between documents, or give more text."
    )


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "bytes.txt"
    path.write_bytes(b"a text \xff")
    assert refusal(f"pretext:pairs:{path}") == (f"{path}: byte 7 is not UTF-8. Save it as UTF-8.")
