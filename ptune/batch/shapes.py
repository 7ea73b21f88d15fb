"""What goes into a batch, and what a batch is: plain tensors and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ptune.encoders import KeysValues


@dataclass(frozen=True, slots=True)
class PromptTensors:
    """What the backbone needs of a prompt, while training (with gradients) and after.

    Args:
        vectors: the virtual tokens in the input embeddings; None for a deep prompt alone.
        deep: keys and values by attention site (index into `Geometry.sites`).
        offset: added to the positions of real tokens, in tokens. Zero unless the keys were made at
            absolute positions of their own, as those of a real text are. Of an encoder-decoder it
            moves the decoder's tokens, and its keys stand right before them.
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
        decoder: what the decoder of an encoder-decoder reads, where `ids` are what its encoder
            reads; reads and branches are then the decoder's.
    """

    ids: tuple[int, ...]
    prompt: int = 0
    reads: tuple[int, ...] = ()
    shared: int = 0
    types: tuple[int, ...] = ()
    branches: tuple[Branch, ...] = ()
    decoder: "TokenSequence | None" = None

    @property
    def answered(self) -> "TokenSequence":
        """The side that has the reads and the branches."""
        return self.decoder or self

    def of(self, prompt: int) -> "TokenSequence":
        """The same row with another prompt, on both sides."""
        decoder = None if self.decoder is None else self.decoder.of(prompt)
        return replace(self, prompt=prompt, decoder=decoder)


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of like shape, whose attention is computed in one call.

    `*_at` index the flat tokens of the batch, `*_place` count within each sequence from 0 (its
    shared prefix and its row included). Entries where `query_real` or `key_real` is False are
    padding. Padding queries repeat the place of the last real one, so that every query sees at
    least one key.
    """

    query_at: Int[Tensor, "rows tokens"]
    query_place: Int[Tensor, "rows tokens"]
    query_real: Bool[Tensor, "rows tokens"]
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
            sequence's own reads before those of its branches. With a decoder, they are of its line.
        groups: how attention goes.
        order: flat token -> its place among the concatenated queries of all groups.
        decoder: the other side of an encoder-decoder.
        cross, cross_order: of a decoder's batch: groups whose keys are the encoder's tokens, and
            their order.
        longest: tokens of the longest sequence on this side, its shared prefix included.
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
    decoder: "Batch | None" = None
    cross: tuple[Group, ...] = ()
    cross_order: Int[Tensor, " flat"] | None = None
    longest: int = 0

    @property
    def real_tokens(self) -> int:
        """How many tokens the backbone computes that stand for something."""
        return int(self.real.sum()) + (0 if self.decoder is None else self.decoder.real_tokens)

    def to(self, device: torch.device) -> "Batch":
        """Move every index to the backbone's device."""
        if self.ids.device == device:
            return self
        moved: dict[str, Any] = {f.name: _to(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Batch):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(
            replace(g, **{f.name: _to(getattr(g, f.name), device) for f in fields(g)})
            for g in value
        )
    return value
