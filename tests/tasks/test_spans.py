"""Parts of a context, against a search over all of them."""

import pytest
import torch

from ptune.errors import DataError
from ptune.layout import Rendered
from ptune.tasks.spans import best_spans, once_each, position_in, tokens_of
from ptune.windows import Window, Windowed

TEXT = "Paris is the capital"
CHARACTERS = ((0, 5), (6, 8), (9, 12), (13, 20))
ROW = Windowed((), CHARACTERS, TEXT)


def window(first, count):
    ids = tuple(range(count))
    return Window(Rendered(ids, ids, 0, None, (), 0), 0, first, count)


def test_no_part_begins_or_ends_at_a_token_without_characters():
    scores = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-0.5, 1.0], [9.0, 9.0]])
    characters = [(0, 0), (1, 3), (4, 6), (6, 6)]
    assert best_spans(scores, characters, 30, 9) == [
        ((1, 6), 2.0),
        ((1, 3), 1.0),
        ((4, 6), 0.5),
    ]


@pytest.mark.parametrize("longest", [1, 2, 4, 9])
def test_the_best_parts_are_the_best_of_all_pairs(longest):
    scores = torch.randn(4, 2, generator=torch.Generator().manual_seed(longest))
    pairs = [(i, j) for i in range(4) for j in range(i, min(4, i + longest))]
    ranked = sorted(pairs, key=lambda pair: -float(scores[pair[0], 0] + scores[pair[1], 1]))
    found = best_spans(scores, CHARACTERS, longest, 3)
    assert [span for span, _ in found] == [
        (CHARACTERS[i][0], CHARACTERS[j][1]) for i, j in ranked[:3]
    ]


@pytest.mark.parametrize("text", ["Paris", "is the", "the capital", " is ", "aris", "api", TEXT])
def test_the_tokens_of_an_answer_are_those_that_hold_a_letter_of_it(text):
    at = TEXT.index(text)
    letters = {at + n for n, letter in enumerate(text) if not letter.isspace()}
    holding = [n for n, span in enumerate(CHARACTERS) if letters & set(range(*span))]
    assert tokens_of(((text, at), ("other", 0)), ROW, "row 1") == (holding[0], holding[-1])


def test_a_row_without_an_answer_has_no_tokens_and_white_space_is_none():
    assert tokens_of((), ROW, "row 1") is None
    with pytest.raises(DataError, match="row 1: the answer ' ' has no token of the tokenizer"):
        tokens_of(((" ", 5),), ROW, "row 1")


def test_an_answer_that_a_window_does_not_hold_whole_is_null_there():
    told = {
        (first, count): position_in((1, 2), window(first, count))
        for first in range(4)
        for count in range(1, 5 - first)
    }
    whole = {place: at for place, at in told.items() if at != (0, 0)}
    # Behind null, which is the first of a window's reads.
    assert whole == {(0, 3): (2, 3), (0, 4): (2, 3), (1, 2): (1, 2), (1, 3): (1, 2)}
    assert position_in(None, window(0, 4)) == (0, 0)


def test_a_text_that_stands_twice_counts_once_where_it_is_best():
    scores = {(0, 2): 1.0, (3, 5): 3.0, (6, 8): 2.0, (9, 10): -1.0}
    assert once_each("it is it !", scores, 9) == [((3, 5), 3.0), ((6, 8), 2.0), ((9, 10), -1.0)]
    assert once_each("it is it !", scores, 1) == [((3, 5), 3.0)]
