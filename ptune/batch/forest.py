"""Segments: sequences cut where others can share them."""

from dataclasses import dataclass

from ptune.batch.shapes import TokenSequence


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens with one parent; `place` is where it starts within its sequence.

    `source` is the row whose encoder side a decoder's segment sees.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    prompt: int
    place: int
    parents: tuple[int, ...]
    source: int


class Forest:
    """Collects segments and reads; equal prefixes of one prompt become one segment."""

    def __init__(self, share: bool) -> None:
        self.share = share
        self.segments: list[Segment] = []
        self.reads: list[tuple[int, int]] = []
        self._source = -1
        self._prefixes: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}

    def add(self, sequence: TokenSequence) -> None:
        self._source += 1
        types = sequence.types or (0,) * len(sequence.ids)
        if self.share:
            self._add_shared(sequence, types)
            return
        if sequence.reads or not sequence.branches:
            line = self._segment(sequence.ids, types, sequence.prompt, 0, ())
            self.reads += [(line, at) for at in sequence.reads]
        for branch in sequence.branches:
            ids = sequence.ids + branch.ids
            line = self._segment(ids, types + types[-1:] * len(branch.ids), sequence.prompt, 0, ())
            self.reads += [(line, len(sequence.ids) + at) for at in branch.reads]

    def _add_shared(self, sequence: TokenSequence, types: tuple[int, ...]) -> None:
        cut = sequence.shared
        parents: tuple[int, ...] = ()
        if cut:
            parents = (self._prefix(sequence.ids[:cut], types[:cut], sequence.prompt),)
        if sequence.ids[cut:]:
            body = self._segment(sequence.ids[cut:], types[cut:], sequence.prompt, cut, parents)
            parents = (*parents, body)
        for at in sequence.reads:
            self.reads.append((parents[0], at) if at < cut else (parents[-1], at - cut))
        for branch in sequence.branches:
            place = len(sequence.ids)
            tail = types[-1:] * len(branch.ids)
            line = self._segment(branch.ids, tail, sequence.prompt, place, parents)
            self.reads += [(line, at) for at in branch.reads]

    def _prefix(self, ids: tuple[int, ...], types: tuple[int, ...], prompt: int) -> int:
        key = (prompt, ids, types)
        if key not in self._prefixes:
            self._prefixes[key] = self._segment(ids, types, prompt, 0, ())
        return self._prefixes[key]

    def _segment(
        self,
        ids: tuple[int, ...],
        types: tuple[int, ...],
        prompt: int,
        place: int,
        parents: tuple[int, ...],
    ) -> int:
        self.segments.append(Segment(ids, types, prompt, place, parents, self._source))
        return len(self.segments) - 1
