"""Segments in one line of tokens, or one padded line each, with the groups of their attention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ptune.batch.forest import Forest, Segment
from ptune.batch.shapes import Batch, Group, TokenSequence

# A group of sequences is cut in two when its padding would be more than this share of its tokens:
# attention over pads is cheap beside the linear layers, a further call is not free.
MOST_PADDING_SHARE = 0.5


def pack(sequences: Sequence[TokenSequence], *, share: bool, padded: bool = False) -> Batch:
    """Lay sequences out for the backbone.

    Args:
        share: compute equal prefixes once and let branches stand on their row. Only right where a
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
    decoders = [sequence.decoder for sequence in sequences if sequence.decoder is not None]
    if not decoders:
        return _lay(_grown(sequences, share=share and not padded), padded)
    if len(decoders) != len(sequences) or any(s.reads or s.branches for s in sequences):
        raise ValueError("Where one row has a decoder side, all have, and reads stand there alone.")
    # Every token of an encoder sees all of its row: nothing to share. In the decoder, a prefix that
    # is equal in all rows sees another encoder side in each.
    encoder = _grown(sequences, share=False)
    alone = [replace(decoder, shared=0) for decoder in decoders]
    decoder = _grown(alone, share=not padded)
    first, second = _lay(encoder, padded), _lay(decoder, padded)
    cross, order = _cross_groups(decoder.segments, encoder.segments, padded)
    second = replace(second, cross=cross, cross_order=order)
    return replace(first, decoder=second, reads=second.reads)


def _grown(sequences: Sequence[TokenSequence], *, share: bool) -> Forest:
    forest = Forest(share)
    for sequence in sequences:
        forest.add(sequence)
    return forest


def _lay(forest: Forest, padded: bool) -> Batch:
    segments = forest.segments
    starts, shape = _placed(segments, padded)
    groups, order = _groups(segments, starts, shape[0] * shape[1])
    lay = _Layout(shape, starts, [len(s.ids) for s in segments])
    return Batch(
        ids=lay.out([s.ids for s in segments]),
        places=lay.out([range(s.place, s.place + len(s.ids)) for s in segments]),
        types=lay.out([s.types for s in segments]),
        prompt=lay.out([[s.prompt] * len(s.ids) for s in segments]),
        real=lay.out([[1] * len(s.ids) for s in segments]).bool(),
        reads=torch.tensor([starts[s] + at for s, at in forest.reads], dtype=torch.long),
        order=order,
        groups=groups,
        padded=padded,
        longest=max(segment.place + len(segment.ids) for segment in segments),
    )


def _placed(segments: Sequence[Segment], padded: bool) -> tuple[list[int], tuple[int, int]]:
    """Where each segment starts, and the shape of all lines together."""
    lengths = [len(segment.ids) for segment in segments]
    if padded:
        return _starts(lengths, max(lengths)), (len(segments), max(lengths))
    return _starts(lengths, None), (1, sum(lengths))


@dataclass(frozen=True, slots=True)
class _Layout:
    shape: tuple[int, int]
    starts: list[int]
    lengths: list[int]

    def out(self, values: Sequence[Sequence[int]]) -> Int[Tensor, "lines tokens"]:
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


Groups = tuple[tuple[Group, ...], Int[Tensor, " flat"]]


def _groups(segments: Sequence[Segment], starts: Sequence[int], tokens: int) -> Groups:
    """Group the segments and say where each token's answer will stand among all answers."""
    asked = []
    for members in _alike(segments, [len(segment.ids) for segment in segments]):
        levels = [
            [segments[m].parents[level] for m in members]
            for level in range(len(segments[members[0]].parents))
        ]
        seen = [_Spans.of(segments, starts, chosen) for chosen in (*levels, members)]
        asked.append((members, seen))
    return _grouped(segments, starts, tokens, asked)


def _cross_groups(decoder: Sequence[Segment], encoder: Sequence[Segment], padded: bool) -> Groups:
    """The same for a decoder's segments, which see the encoder side of their row."""
    (starts, shape), (behind, _) = _placed(decoder, padded), _placed(encoder, padded)
    lengths = [len(encoder[segment.source].ids) for segment in decoder]
    asked = []
    for members in _alike(decoder, lengths):
        sources = [decoder[m].source for m in members]
        asked.append((members, [_Spans.of(encoder, behind, sources)]))
    return _grouped(decoder, starts, shape[0] * shape[1], asked)


def _grouped(
    segments: Sequence[Segment],
    starts: Sequence[int],
    tokens: int,
    asked: Sequence[tuple[list[int], list["_Spans"]]],
) -> Groups:
    """Groups of segments, each with the runs of tokens that they see."""
    groups = []
    order = torch.zeros(tokens, dtype=torch.long)
    answers = 0
    for members, seen in asked:
        at, place, real = _Spans.of(segments, starts, members).grid()
        keys = [spans.grid() for spans in seen]
        groups.append(
            Group(
                query_at=at,
                query_place=place,
                query_real=real,
                key_at=torch.cat([k[0] for k in keys], dim=1),
                key_place=torch.cat([k[1] for k in keys], dim=1),
                key_real=torch.cat([k[2] for k in keys], dim=1),
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
    def of(
        cls, segments: Sequence[Segment], starts: Sequence[int], chosen: Sequence[int]
    ) -> "_Spans":
        return cls(
            torch.tensor([starts[one] for one in chosen]),
            torch.tensor([len(segments[one].ids) for one in chosen]),
            torch.tensor([segments[one].place for one in chosen]),
        )

    def grid(
        self,
    ) -> tuple[Int[Tensor, "rows tokens"], Int[Tensor, "rows tokens"], Bool[Tensor, "rows tokens"]]:
        """Flat indices, places, and which of them are real, padded to the longest run."""
        offsets = torch.arange(int(self.length.max()))
        real = offsets < self.length[:, None]
        within = torch.minimum(offsets.expand(real.shape), self.length[:, None] - 1)
        return self.start[:, None] + within, self.place[:, None] + within, real


def _alike(segments: Sequence[Segment], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Split the segments into groups of one depth and of lengths that pad little."""
    by_depth: dict[int, list[int]] = {}
    for index, segment in enumerate(segments):
        by_depth.setdefault(len(segment.parents), []).append(index)
    for members in by_depth.values():
        members.sort(key=lambda m: lengths[m])
        group: list[int] = []
        real = 0
        for member in members:
            length = lengths[member]
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
    forest = _grown(sequences, share=share)
    return sum(len(segment.ids) for segment in forest.segments)
