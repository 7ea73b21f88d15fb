"""The frozen trunk, remembered: what the layers beneath a deep prompt compute, kept for next time.

    layers   0 .. 7   no prompt     a row gives the same states in every epoch: computed once, kept
             8 .. 11  deep prompt   run in every step, on the states that were kept

    cut = find_cut(backbone, site=8)
    trunk = Trunk(backbone, cut, chunks, store=Memory(), room=2_000_000_000)
    batch = backbone.pack(rows)
    run(backbone, prompts, batch, entering=trunk.entering(rows, prompts, batch))

Kept is one line of numbers a token, for every segment of a pack (`ptune.batch`) by all that it
depends on: the ids and types that it sees, its positions, and the precision of the pass. So equal
heads, labels as continuations and any later pack find what they need.

States differ in their last bits with the pack that they were computed in. So rows have companions
that never change, their `chunk`, and are always computed with them: what a step sees then depends
on its rows alone, and not on what was run before. A run that was stopped goes on bit for bit.

Rows beyond the room are run through the trunk every time. Knows no recipe and no task.
"""

import errno
import os
import tempfile
import warnings
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import Batch, PromptTensors, TokenSequence, count_tokens
from ptune.errors import BackboneError
from ptune.inject import Cut, Entering
from ptune.inject.layers import cut_at, watching
from ptune.run import run, run_beneath

Lines = Float[Tensor, "tokens width"]
# Two rows that are not alike: positions, masks and packs matter, and they cost nothing.
TRIED_TOKENS = (7, 4)


class Segment(NamedTuple):
    """What the states of a segment depend on.

    Args:
        ids, types: of all tokens that it sees, its own last, as bytes of int64.
        own: how many of them are its own.
        offset: of its positions.
    """

    ids: bytes
    types: bytes
    own: int
    offset: int

    def sequence(self, prompt: int) -> TokenSequence:
        """A row whose last segment, or only one, this is."""
        ids, types = _numbers(self.ids), _numbers(self.types)
        return TokenSequence(ids, prompt=prompt, shared=len(ids) - self.own, types=types)


def _bytes(numbers: Tensor) -> bytes:
    return bytes(numbers.numpy().tobytes())


def _numbers(data: bytes) -> tuple[int, ...]:
    return tuple(memoryview(data).cast("q"))


def segments(batch: Batch, prompts: Sequence[PromptTensors]) -> list[Segment]:
    """The segments of a packed batch, in the order in which they stand in its line."""
    ids, types = batch.ids.flatten().cpu(), batch.types.flatten().cpu()
    found: dict[int, Segment] = {}
    for group in batch.groups:
        key_at, real, query_at = group.key_at.cpu(), group.key_real.cpu(), group.query_at.cpu()
        for row, prompt in enumerate(group.prompt.tolist()):
            seen = key_at[row][real[row]]
            first, last = int(query_at[row, 0]), int(query_at[row, -1])
            found[first] = Segment(
                _bytes(ids[seen]), _bytes(types[seen]), last - first + 1, prompts[prompt].offset
            )
    return [found[first] for first in sorted(found)]


def find_cut(backbone: Backbone, site: int) -> Cut:
    """The cut beneath the layer of a site, tried on two short rows.

    Raises:
        BackboneError: the backbone cannot be cut. The message says why, as half a sentence.
    """
    if backbone.geometry.two_sided:
        raise BackboneError(
            "it is an encoder-decoder, whose decoder sees its encoder's last states"
        )
    if backbone.geometry.padded:
        raise BackboneError("its batches are padded")
    rows, others = _rows(backbone, 1), _rows(backbone, -1)
    none = [PromptTensors()]
    with torch.no_grad(), backbone.injected() as injection:
        with watching(injection) as calls:
            usual = run(backbone, none, rows)
        cut = cut_at(calls, site)
        try:
            states = run_beneath(backbone, none, rows, cut)
            run(backbone, none, others)  # what a layer leaves behind for another is now of others
            ours = run(backbone, none, rows, entering=Entering(cut, states))
        except Exception as error:  # whatever the code of a model raises where it misses something
            raise BackboneError(
                f"its upper layers need the lower ones to run ({type(error).__name__})"
            ) from error
    allowed = 1e-5 if usual.dtype == torch.float32 else 1e-2
    if not (ours - usual).float().norm() <= allowed * usual.float().norm():
        raise BackboneError("its upper layers need more than the states of the lower ones")
    return cut


def _rows(backbone: Backbone, order: int) -> Batch:
    size = backbone.geometry.num_embeddings
    rows = [tuple(range(1, size - 1, size // (n + 2)))[:n] for n in TRIED_TOKENS]
    return backbone.pack(
        [TokenSequence(ids[::order], reads=tuple(range(len(ids)))) for ids in rows]
    )


class Memory:
    """Keeps states in main memory."""

    where = "in memory"

    def put(self, states: Lines) -> Lines:
        """Keep states; returns by what `get` finds them."""
        return states

    def get(self, kept: Lines) -> Lines:
        """The states that were kept."""
        return kept

    def close(self) -> None:
        """Nothing to let go of."""


class Disk:
    """Keeps states in a file without a name, which is gone with the process, however it ends.

    Written and read as an ordinary file: a full disk is an error that can be met, and what fits in
    the memory that is free the system keeps there.

    Args:
        folder: on the disk to use; None is the system's temporary one.
    """

    where = "on disk"

    def __init__(self, folder: Path | None) -> None:
        # Without a buffer, so that nothing is left to be written when the disk is full.
        self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def put(self, states: Lines) -> tuple[int, torch.Size, torch.dtype]:
        """Keep states; returns by what `get` finds them."""
        place = self._file.seek(0, 2)
        data = states.contiguous().view(torch.uint8).numpy().tobytes()
        if self._file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return place, states.shape, states.dtype

    def get(self, kept: tuple[int, torch.Size, torch.dtype]) -> Lines:
        """The states that were kept."""
        place, shape, dtype = kept
        self._file.seek(place)
        data = bytearray(self._file.read(shape.numel() * dtype.itemsize))
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def close(self) -> None:
        """Let go of the file, and so of the room."""
        self._file.close()


class Chunk(NamedTuple):
    """Rows that are run through the trunk together: their number, positions, and precision."""

    number: int
    offset: int
    autocast: bool


class Trunk:
    """What the lower layers compute, kept.

    Args:
        cut: from `find_cut`.
        chunks: rows that are computed together, in the order in which they have a claim to room.
            Best are the batches that will come first: then nothing is computed before its time.
        store: where to keep.
        room: bytes that may be kept.
    """

    def __init__(
        self,
        backbone: Backbone,
        cut: Cut,
        chunks: Iterable[Sequence[TokenSequence]],
        *,
        store: Memory | Disk,
        room: int,
    ) -> None:
        self.backbone, self.cut, self.store = backbone, cut, store
        self._chunks: list[list[TokenSequence]] = []
        self._chunk_of: dict[object, int] = {}
        self._kept: dict[Chunk, dict[Segment, object]] = {}
        self._full = False
        self.rows = self.rows_kept = self.bytes_kept = 0
        for chunk in chunks:
            self._claim(chunk, room)

    def _claim(self, chunk: Sequence[TokenSequence], room: int) -> None:
        """Give a chunk its room, where there is enough left."""
        self.rows += len(chunk)
        tokens = count_tokens(chunk, share=self.backbone.geometry.causal)
        size = tokens * self.cut.token_bytes
        if self.bytes_kept + size > room:
            return
        self.bytes_kept += size
        self.rows_kept += len(chunk)
        for sequence in chunk:
            self._chunk_of.setdefault(row_key(sequence), len(self._chunks))
        self._chunks.append([replace(sequence, prompt=0) for sequence in chunk])

    def entering(
        self, sequences: Sequence[TokenSequence], prompts: Sequence[PromptTensors], batch: Batch
    ) -> Entering:
        """The states that enter the layer above the cut.

        Args:
            sequences: those of the batch.
            batch: a pack of them.
        Raises:
            ValueError: a prompt reaches beneath the cut, where nothing would be constant.
        """
        if any(p.vectors is not None or min(p.deep, default=self.cut.sites) < self.cut.sites
               for p in prompts):  # fmt: skip
            raise ValueError("A prompt reaches beneath the cut of the frozen trunk.")
        known: dict[Segment, object] = {}
        for chunk in self._chunks_of(sequences, prompts):
            known |= self._kept[chunk]  # what is in several is taken of the last one
        found = segments(batch, prompts)
        fresh = self._compute([one for one in found if one not in known])
        lines = [fresh[one] if one in fresh else self._get(known[one]) for one in found]
        states = torch.cat(lines)[None].to(self.backbone.device, non_blocking=True)
        return Entering(self.cut, states)

    def _get(self, kept: object) -> Lines:
        return self.store.get(kept)  # type: ignore[arg-type]  # what this store's `put` returned

    def _chunks_of(
        self, sequences: Sequence[TokenSequence], prompts: Sequence[PromptTensors]
    ) -> list[Chunk]:
        """The chunks of some rows, in their order, all of them kept by now."""
        autocast = torch.is_autocast_enabled(self.backbone.device.type)
        wanted = {
            Chunk(self._chunk_of[row], prompts[sequence.prompt].offset, autocast)
            for sequence in sequences
            if (row := row_key(sequence)) in self._chunk_of
        }
        for chunk in sorted(wanted):
            if chunk not in self._kept and not self._full:
                self._fill(chunk)
        return [chunk for chunk in sorted(wanted) if chunk in self._kept]

    def _fill(self, chunk: Chunk) -> None:
        computed = self._through(self._chunks[chunk.number], [chunk.offset])
        try:
            self._kept[chunk] = {one: self.store.put(states) for one, states in computed.items()}
        except OSError as error:
            self._full = True
            warnings.warn(
                f"frozen trunk: no more rows are remembered ({error.strerror}); the others are "
                "computed in every step. Choose another place or less room with trunk_cache.",
                stacklevel=2,
            )

    def _compute(self, wanted: Sequence[Segment]) -> dict[Segment, Lines]:
        """Segments for which there is no room, by their rows."""
        if not wanted:
            return {}
        offsets = sorted({one.offset for one in wanted})
        rows = [one.sequence(offsets.index(one.offset)) for one in dict.fromkeys(wanted)]
        return self._through(rows, offsets)

    def _through(
        self, sequences: Sequence[TokenSequence], offsets: Sequence[int]
    ) -> dict[Segment, Lines]:
        """Run rows through the trunk."""
        prompts = [PromptTensors(offset=offset) for offset in offsets]
        batch = self.backbone.pack(sequences)
        found = segments(batch, prompts)
        states = run_beneath(self.backbone, prompts, batch, self.cut)[0].to("cpu", copy=True)
        lines: tuple[Tensor, ...] = states.split_with_sizes([one.own for one in found])
        return dict(zip(found, lines, strict=True))

    def close(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._chunk_of.clear()
        self.store.close()


def row_key(sequence: TokenSequence) -> object:
    """A row whoever asks, and wherever it is read."""
    branches = tuple(branch.ids for branch in sequence.branches)
    return sequence.ids, sequence.types, sequence.shared, branches
