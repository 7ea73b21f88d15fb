"""The model on the table: rows of ordinary ids, random prompts, and how equal is equal.

Everything is drawn from one seed: two examinations of a model say the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.run import run

# Rows that are long enough for windows and positions to matter, and short enough to be quick.
LONG, SHORT = 19, 6
SLOTS = 3


@dataclass(eq=False)
class Patient:
    """A backbone, and what it is tried with.

    Args:
        backbone: to be examined.
        seed: of ids and prompts.
    """

    backbone: Backbone
    seed: int = 0
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    @cached_property
    def long(self) -> tuple[int, ...]:
        """Ids of a row."""
        return self._ids(min(LONG, self._room - 2 * SLOTS))

    @cached_property
    def short(self) -> tuple[int, ...]:
        """Ids of a shorter row."""
        return self._ids(min(SHORT, self._room - 2 * SLOTS))

    @property
    def _room(self) -> int:
        return self.backbone.geometry.max_tokens or 2**20

    def _ids(self, count: int) -> tuple[int, ...]:
        last = self.backbone.geometry.num_embeddings
        special = set(getattr(self.backbone.tokenizer, "all_special_ids", ()))
        usual = [i for i in range(last // 16, last) if i not in special]
        picked = torch.randint(len(usual), (count,), generator=self.generator).tolist()
        return tuple(usual[at] for at in picked)

    @property
    def tolerance(self) -> float:
        """Largest relative difference that is rounding, in the backbone's own precision."""
        return 1e-4 if self.backbone.dtype == torch.float32 else 6e-2

    @cached_property
    def shallow(self) -> PromptTensors:
        """Virtual tokens of the size of the model's own."""
        b = self.backbone
        vectors = torch.randn(SLOTS, b.geometry.width, generator=self.generator)
        return PromptTensors(vectors=(vectors * b.embedding_scale).to(b.device))

    @cached_property
    def deep(self) -> PromptTensors:
        """Keys and values at every site."""
        return self.deep_at(range(len(self.backbone.geometry.sites)))

    def deep_at(self, sites: "range | list[int]", slots: int = SLOTS) -> PromptTensors:
        """Keys and values at some sites."""
        shapes = {site: self.backbone.geometry.sites[site].shape for site in sites}
        return PromptTensors(
            deep={
                site: KeysValues(
                    self._randn(slots, shape.kv_heads, shape.key_dim),
                    self._randn(slots, shape.kv_heads, shape.value_dim),
                )
                for site, shape in shapes.items()
            }
        )

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.backbone.device)

    @property
    def placed(self) -> tuple[int, ...]:
        """The long row with virtual tokens at its start, inside, and at its end."""
        return (-1, *self.long[:4], -2, *self.long[4:], -3)

    @property
    def two_sided(self) -> bool:
        """Whether it is an encoder-decoder."""
        return self.backbone.geometry.two_sided

    def row(
        self,
        ids: tuple[int, ...],
        prompt: int = 0,
        *,
        reads: tuple[int, ...] | None = None,
        shared: int = 0,
    ) -> TokenSequence:
        """A row of these ids. The decoder of an encoder-decoder reads them backwards.

        (So it meets the same virtual tokens, in other places, and is longer by its start.)

        Args:
            reads: offsets that are read, of a decoder into its own ids; all by default.
        """
        said = (self.backbone.decoder_start, *ids[::-1]) if self.two_sided else ids
        reads = tuple(range(len(said))) if reads is None else reads
        if not self.two_sided:
            return TokenSequence(ids, prompt, reads, shared)
        return TokenSequence(ids, prompt, decoder=TokenSequence(said, prompt, reads))

    def to_answer(
        self, ids: tuple[int, ...], prompt: int = 0, said: tuple[int, ...] = ()
    ) -> TokenSequence:
        """A row to be continued: `said`, or what a decoder has said of it so far."""
        if not self.two_sided:
            return TokenSequence(ids + said, prompt)
        start = self.backbone.decoder_start
        return TokenSequence(ids, prompt, decoder=TokenSequence((start, *said), prompt))

    def states(self, ids: tuple[int, ...], prompt: PromptTensors) -> Tensor:
        """What ptune computes of one row, at all of its tokens (of a decoder's, all of those)."""
        return run(self.backbone, [prompt], self.backbone.pack([self.row(ids)]))

    def likely(
        self, row: TokenSequence, answer: Sequence[int], prompts: Sequence[PromptTensors]
    ) -> Tensor:
        """The logits for each token of an answer, in one pass over the row and the answer."""
        side = row.answered
        first, ids = len(side.ids) - 1, (*side.ids, *answer)
        read = replace(side, ids=ids, reads=tuple(range(first, first + len(answer))))
        whole = read if row.decoder is None else replace(row, decoder=read)
        return run(self.backbone, prompts, self.backbone.pack([whole]), read="logits")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference by norm of what is expected; infinite where a number is not finite."""
    far = float((ours.float() - theirs.float()).norm() / theirs.float().norm().clamp(min=1e-12))
    return far if torch.isfinite(ours).all() else float("inf")
