r"""Filling a gap of several masks one by one, the most certain first.

    pass 1   It was [MASK] [MASK] .      p(not) = 0.2   p(bad) = 0.6      -> "bad" is filled in
    pass 2   It was [MASK] bad .         p(not) = 0.5                     -> log 0.6 + log 0.5

Of every word that is scored, the token that the model finds most likely at its own place is filled
in, and the rest is scored again with it: PET's default for several masks (Schick and Schütze 2021,
arXiv:2009.07118; `MultiMaskTaskHelper` in its code).
Words are scored apart from each other: each has a sequence of its own from the second pass on, so a
prediction costs as many passes as the longest word has tokens, and as many sequences as there are
words.

Knows ids and numbers; no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from ptune.batch import TokenSequence
from ptune.layout import Rendered
from ptune.tasks.task import Example


class Place(NamedTuple):
    """A token of a word that is still masked, and the read of its row that stands there."""

    word: int
    place: int
    read: int


@dataclass(frozen=True, slots=True)
class Filling:
    """How far the words of a row are filled in.

    Args:
        said: log-probability of what is filled in, by word.
        open: tokens that are still masked, by word.
        sequence: which of the row's sequences shows a word; -1 where all of it is filled in.
        places: all that are open, word by word.
    """

    said: tuple[float, ...]
    open: tuple[tuple[int, ...], ...]
    sequence: tuple[int, ...]
    places: tuple[Place, ...]

    @classmethod
    def start(cls, lengths: Sequence[int]) -> "Filling":
        """Nothing is filled in; words of one length share a sequence, the shortest first.

        >>> [tuple(place) for place in Filling.start([2, 1]).places]
        [(0, 0, 1), (0, 1, 2), (1, 0, 0)]
        """
        gaps = sorted(set(lengths))
        return cls.of(
            [0.0] * len(lengths),
            [tuple(range(length)) for length in lengths],
            [gaps.index(length) for length in lengths],
            gaps,
        )

    @classmethod
    def of(
        cls,
        said: Sequence[float],
        open_: Sequence[tuple[int, ...]],
        sequence: Sequence[int],
        reads: Sequence[int],
    ) -> "Filling":
        """Number the reads: `reads` says how many each sequence has."""
        starts = [0, *accumulate(reads)]
        places = [
            Place(word, place, starts[sequence[word]] + at)
            for word, own in enumerate(open_)
            for at, place in enumerate(own)
        ]
        return cls(tuple(said), tuple(open_), tuple(sequence), tuple(places))


def advance(
    example: Example, filling: Filling, words: Sequence[tuple[int, ...]], scores: Sequence[float]
) -> Example:
    """The row with the most certain token of every word filled in.

    Args:
        words: the ids of each.
        scores: log-probability of every one of `filling.places`.
    """
    said, open_, sequence = list(filling.said), list(filling.open), [-1] * len(words)
    sequences: list[TokenSequence] = []
    found = dict(zip(filling.places, scores, strict=True))
    for word, ids in enumerate(words):
        own = [place for place in filling.places if place.word == word]
        if not own:
            continue
        best = max(range(len(own)), key=lambda at: found[own[at]])
        said[word] += found[own[best]]
        open_[word] = tuple(at for at in open_[word] if at != own[best].place)
        if open_[word]:
            shown = example.sequences[filling.sequence[word]]
            sequence[word] = len(sequences)
            sequences.append(filled(shown, best, ids[own[best].place]))
    further = Filling.of(said, open_, sequence, [len(one.reads) for one in sequences])
    return Example(sequences[0], further, example.answer, example.cut, tuple(sequences[1:]))


def filled(shown: TokenSequence, read: int, token: int) -> TokenSequence:
    """The sequence with a token in place of one of the masks that are read."""
    at = shown.reads[read]
    ids = (*shown.ids[:at], token, *shown.ids[at + 1 :])
    return replace(shown, ids=ids, reads=shown.reads[:read] + shown.reads[read + 1 :])


def with_gap(one: Rendered, masks: int) -> TokenSequence:
    """The row with so many of its masks, which are read.

    >>> gap = with_gap(Rendered((2, 4, 4, 7, 3), (0,) * 5, 3, None, (1, 2), 0), 1)
    >>> gap.ids, gap.reads, gap.shared, gap.types
    ((2, 4, 7, 3), (1,), 2, (0, 0, 0, 0))
    """
    left_out = set(one.masks[masks:])
    kept = [at for at in range(len(one.ids)) if at not in left_out]
    return TokenSequence(
        ids=tuple(one.ids[at] for at in kept),
        reads=one.masks[:masks],
        shared=one.shared - sum(at < one.shared for at in left_out),
        types=tuple(one.types[at] for at in kept),
    )
