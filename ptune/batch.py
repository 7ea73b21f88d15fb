r"""Batches: rows without padding, each naming its prompt, sharing what is equal.

    two rows, one prompt of 3 virtual tokens, a causal model, labels "yes" and "no":

    segment 0   P P P Question :        the head: equal in both rows, so it is computed once
    segment 1     how far is it ? A :   row 0, sees segment 0
    segment 2     who won ? A :         row 1, sees segment 0
    segment 3       yes                 a continuation of row 0, sees segments 0 and 1
    segment 4       no                  another one; the two do not see each other

A pack is this forest laid out in one line of tokens. Attention is the only place where tokens of a
transformer meet, so the linear layers may see the line as it is, and attention (`ptune.inject`)
follows the `Group`s made here: which tokens ask, and which tokens they may see.

Where a model mixes tokens outside attention, `pack(..., padded=True)` lays every sequence out on
its own padded line, with the same groups; nothing else in ptune knows the difference.

Knows numbers only: no tokenizer, no model, no prompt's tensors.
Next: `ptune.run` feeds a batch to a backbone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ptune.encoders import KeysValues

# A group of sequences is cut in two when its padding would be more than this share of its tokens:
# attention over pads is cheap beside the linear layers, a further call is not free.
MOST_PADDING_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class PromptTensors:
    """What the backbone needs of a prompt, while training (with gradients) and after.

    Args:
        vectors: the virtual tokens in the input embeddings; None for a deep prompt alone.
        deep: keys and values by attention site (index into `Geometry.sites`).
        offset: added to the positions of real tokens, in tokens. Zero unless the keys were made at
            absolute positions of their own, as those of a real text are.
    """

    vectors: Float[Tensor, "slots width"] | None = None
    deep: Mapping[int, KeysValues] = field(default_factory=dict)
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """A continuation of a row, unseen by the other continuations. `reads` count within `ids`."""

    ids: tuple[int, ...]
    reads: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One row as the backbone will see it.

    Args:
        ids: token ids; virtual token `s` of the row's prompt is written `-1 - s`.
        prompt: index of the row's prompt among those of the run.
        reads: offsets into `ids` whose final state is read.
        shared: how many of the first ids are equal in every row of this prompt and template.
        types: segment ids (`token_type_ids`); empty means all zero.
        branches: continuations, computed once each on top of the row.
    """

    ids: tuple[int, ...]
    prompt: int = 0
    reads: tuple[int, ...] = ()
    shared: int = 0
    types: tuple[int, ...] = ()
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of like shape, whose attention is computed in one call.

    `*_at` index the flat tokens of the batch, `*_place` count within each sequence from 0 (its
    shared head and its row included). Entries where `key_real` is False are padding. Padding
    queries repeat the place of the last real one, so that every query sees at least one key.
    """

    query_at: Int[Tensor, "rows tokens"]
    query_place: Int[Tensor, "rows tokens"]
    key_at: Int[Tensor, "rows keys"]
    key_place: Int[Tensor, "rows keys"]
    key_real: Bool[Tensor, "rows keys"]
    prompt: Int[Tensor, " rows"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What `run` takes: one line of tokens (packed), or one padded line a sequence.

    Args:
        ids: as in `TokenSequence`; padding is 0.
        places: position within the sequence, from 0.
        prompt: which prompt a token belongs to.
        real: False at padding.
        reads: flat indices of the tokens whose state is read, in order of the sequences, each
            sequence's own reads before those of its branches.
        groups: how attention goes.
        order: flat token -> its place among the concatenated queries of all groups.
    """

    ids: Int[Tensor, "lines tokens"]
    places: Int[Tensor, "lines tokens"]
    types: Int[Tensor, "lines tokens"]
    prompt: Int[Tensor, "lines tokens"]
    real: Bool[Tensor, "lines tokens"]
    reads: Int[Tensor, " reads"]
    order: Int[Tensor, " flat"]
    groups: tuple[Group, ...]
    padded: bool

    @property
    def real_tokens(self) -> int:
        """How many tokens the backbone computes that stand for something."""
        return int(self.real.sum())

    def to(self, device: torch.device) -> "Batch":
        """Move every index to the backbone's device."""
        if self.ids.device == device:
            return self
        moved: dict[str, Any] = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(
            replace(g, **{f.name: _to(getattr(g, f.name), device) for f in fields(g)})
            for g in value
        )
    return value


@dataclass(frozen=True, slots=True)
class _Segment:
    """A run of tokens with one parent; `place` is where it starts within its sequence."""

    ids: tuple[int, ...]
    types: tuple[int, ...]
    prompt: int
    place: int
    parents: tuple[int, ...]


class _Forest:
    """Collects segments and reads; equal heads of one prompt become one segment."""

    def __init__(self, share: bool) -> None:
        self.share = share
        self.segments: list[_Segment] = []
        self.reads: list[tuple[int, int]] = []
        self._heads: dict[tuple[int, tuple[int, ...], tuple[int, ...]], int] = {}

    def add(self, sequence: TokenSequence) -> None:
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
            parents = (self._head(sequence.ids[:cut], types[:cut], sequence.prompt),)
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

    def _head(self, ids: tuple[int, ...], types: tuple[int, ...], prompt: int) -> int:
        key = (prompt, ids, types)
        if key not in self._heads:
            self._heads[key] = self._segment(ids, types, prompt, 0, ())
        return self._heads[key]

    def _segment(
        self,
        ids: tuple[int, ...],
        types: tuple[int, ...],
        prompt: int,
        place: int,
        parents: tuple[int, ...],
    ) -> int:
        self.segments.append(_Segment(ids, types, prompt, place, parents))
        return len(self.segments) - 1


def pack(sequences: Sequence[TokenSequence], *, share: bool, padded: bool = False) -> Batch:
    """Lay sequences out for the backbone.

    Args:
        share: compute equal heads once and let branches stand on their row. Only right where a
            token never sees what comes after it: causal models.
        padded: one padded line a sequence, nothing shared, instead of one line for all.
    Raises:
        ValueError: there is no sequence, or one has no token.

    >>> rows = [TokenSequence((-1, -2, 5, 6), shared=2, reads=(3,)),
    ...         TokenSequence((-1, -2, 7), shared=2, reads=(2,))]
    >>> batch = pack(rows, share=True)
    >>> batch.ids.tolist(), batch.places.tolist(), batch.reads.tolist()
    ([[-1, -2, 5, 6, 7]], [[0, 1, 2, 3, 2]], [3, 4])
    """
    if not sequences or not all(sequence.ids for sequence in sequences):
        raise ValueError("A batch needs at least one sequence, and a sequence at least one token.")
    forest = _Forest(share and not padded)
    for sequence in sequences:
        forest.add(sequence)
    segments = forest.segments
    lengths = [len(segment.ids) for segment in segments]
    width = max(lengths) if padded else sum(lengths)
    starts = _starts(lengths, width if padded else None)
    shape = (len(segments), width) if padded else (1, width)
    groups, order = _groups(segments, starts, shape[0] * shape[1])
    lay = _Layout(shape, starts, lengths)
    return Batch(
        ids=lay.spread([s.ids for s in segments]),
        places=lay.spread([range(s.place, s.place + len(s.ids)) for s in segments]),
        types=lay.spread([s.types for s in segments]),
        prompt=lay.spread([[s.prompt] * len(s.ids) for s in segments]),
        real=lay.spread([[1] * n for n in lengths]).bool(),
        reads=torch.tensor([starts[s] + at for s, at in forest.reads], dtype=torch.long),
        order=order,
        groups=groups,
        padded=padded,
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    shape: tuple[int, int]
    starts: list[int]
    lengths: list[int]

    def spread(self, values: Sequence[Sequence[int]]) -> Int[Tensor, "lines tokens"]:
        """Write each segment's numbers where the segment stands."""
        if self.shape[0] == 1:
            flat = torch.tensor([number for segment in values for number in segment])
            return flat.view(self.shape)
        lines = torch.zeros(self.shape, dtype=torch.long)
        for line, numbers in zip(lines, values, strict=True):
            line[: len(numbers)] = torch.tensor(list(numbers))
        return lines


def _starts(lengths: Sequence[int], stride: int | None) -> list[int]:
    if stride is not None:
        return [stride * line for line in range(len(lengths))]
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


def _groups(
    segments: Sequence[_Segment], starts: Sequence[int], tokens: int
) -> tuple[tuple[Group, ...], Int[Tensor, " flat"]]:
    """Group the segments and say where each token's answer will stand among all answers."""
    groups = []
    order = torch.zeros(tokens, dtype=torch.long)
    answers = 0
    for members in _alike(segments):
        own = _Spans.of([starts[m] for m in members], [segments[m] for m in members])
        levels = [
            _Spans.of(
                [starts[segments[m].parents[level]] for m in members],
                [segments[segments[m].parents[level]] for m in members],
            )
            for level in range(len(segments[members[0]].parents))
        ]
        at, place, real = own.grid()
        grids = [*(level.grid() for level in levels), (at, place, real)]
        groups.append(
            Group(
                query_at=at,
                query_place=place,
                key_at=torch.cat([g[0] for g in grids], dim=1),
                key_place=torch.cat([g[1] for g in grids], dim=1),
                key_real=torch.cat([g[2] for g in grids], dim=1),
                prompt=torch.tensor([segments[m].prompt for m in members]),
            )
        )
        order[at[real]] = torch.arange(answers, answers + at.numel()).view(at.shape)[real]
        answers += at.numel()
    return tuple(groups), order


@dataclass(frozen=True, slots=True)
class _Spans:
    """Runs of flat tokens: where each starts, how long it is, and its first place."""

    start: Int[Tensor, " rows"]
    length: Int[Tensor, " rows"]
    place: Int[Tensor, " rows"]

    @classmethod
    def of(cls, starts: list[int], segments: list[_Segment]) -> "_Spans":
        return cls(
            torch.tensor(starts),
            torch.tensor([len(s.ids) for s in segments]),
            torch.tensor([s.place for s in segments]),
        )

    def grid(
        self,
    ) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
        """Flat indices, places, and which of them are real, padded to the longest run."""
        offsets = torch.arange(int(self.length.max()))
        real = offsets < self.length[:, None]
        within = torch.minimum(offsets.expand(real.shape), self.length[:, None] - 1)
        return self.start[:, None] + within, self.place[:, None] + within, real


def _alike(segments: Sequence[_Segment]) -> Iterator[list[int]]:
    """Split the segments into groups of one depth and of lengths that pad little."""
    by_depth: dict[int, list[int]] = {}
    for index, segment in enumerate(segments):
        by_depth.setdefault(len(segment.parents), []).append(index)
    for members in by_depth.values():
        members.sort(key=lambda m: len(segments[m].ids))
        group: list[int] = []
        real = 0
        for member in members:
            length = len(segments[member].ids)
            if group and length * (len(group) + 1) > (1 + MOST_PADDING_SHARE) * (real + length):
                yield group
                group, real = [], 0
            group.append(member)
            real += length
        yield group


def count_tokens(sequences: Sequence[TokenSequence], *, share: bool) -> int:
    """How many tokens a pack of these sequences has.

    >>> rows = [TokenSequence((-1, -2, 5, 6), shared=2), TokenSequence((-1, -2, 7), shared=2)]
    >>> count_tokens(rows, share=True), count_tokens(rows, share=False)
    (5, 7)
    """
    forest = _Forest(share)
    for sequence in sequences:
        forest.add(sequence)
    return sum(len(segment.ids) for segment in forest.segments)
