"""The demo data is what its data card says it is."""

import csv
import io
import re
from importlib.resources import files
from itertools import combinations

import pytest

SIZES = {"train": 150, "test": 250}
LABELS = {"history", "science"}
both_splits = pytest.mark.parametrize("split", sorted(SIZES))


def raw(split):
    return files("ptune.demo").joinpath(f"{split}.csv").read_bytes()


def rows(split):
    text = raw(split).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def texts(split):
    return [row["text"] for row in rows(split)]


def all_texts():
    return [text for split in sorted(SIZES) for text in texts(split)]


def words(text):
    return re.findall(r"[\w']+", text.lower())


def trigrams(text):
    found = words(text)
    return set(zip(found, found[1:], found[2:], strict=False))


def jaccard(one, other):
    return len(one & other) / max(1, len(one | other))


def shared_trigrams(one, other):
    """Share of the trigrams of the shorter text that the longer one also has."""
    return len(one & other) / max(1, min(len(one), len(other)))


@both_splits
def test_the_file_is_utf8_with_a_header_and_newline_line_ends(split):
    text = raw(split).decode("utf-8", errors="strict")
    assert text.startswith("text,label\n")
    assert text.endswith("\n")
    assert "\r" not in text
    assert "\ufeff" not in text
    assert "\ufffd" not in text


@both_splits
def test_the_file_has_the_promised_number_of_rows(split):
    assert len(rows(split)) == SIZES[split]


@both_splits
def test_every_row_has_exactly_a_text_and_a_label(split):
    for row in rows(split):
        assert set(row) == {"text", "label"}
        assert None not in row.values()


@both_splits
def test_the_two_labels_are_the_only_ones(split):
    assert {row["label"] for row in rows(split)} == LABELS


@both_splits
def test_the_labels_are_balanced(split):
    labels = [row["label"] for row in rows(split)]
    assert 0.45 <= labels.count("science") / len(labels) <= 0.55


@both_splits
def test_no_text_is_empty_or_padded(split):
    for text in texts(split):
        assert words(text), f"no words in {text!r}"
        assert text == text.strip()
        assert "\n" not in text


def test_the_longest_text_is_under_sixty_words():
    assert max(len(text.split()) for text in all_texts()) < 60


def test_no_text_occurs_twice():
    spelled = [" ".join(words(text)) for text in all_texts()]
    assert len(set(spelled)) == len(spelled)


def test_no_two_texts_use_nearly_the_same_words():
    bags = [(text, set(words(text))) for text in all_texts()]
    close = [(a, b) for (a, x), (b, y) in combinations(bags, 2) if jaccard(x, y) >= 0.6]
    assert not close


def test_no_two_texts_share_more_than_half_of_their_word_trigrams():
    grams = [(text, trigrams(text)) for text in all_texts()]
    close = [(a, b) for (a, x), (b, y) in combinations(grams, 2) if shared_trigrams(x, y) > 0.5]
    assert not close
