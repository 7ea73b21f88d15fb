"""The model on the table: rows of ordinary ids, random prompts, and how equal is equal.

Everything is drawn from one seed: two examinations of a model say the same.
"""

from dataclasses import dataclass, field
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
        """The long row with virtual tokens at its start, inside, and again inside."""
        return (-1, *self.long[:4], -2, *self.long[4:], -3)

    def states(self, ids: tuple[int, ...], prompt: PromptTensors) -> Tensor:
        """What ptune computes of one row, at all of its tokens."""
        row = TokenSequence(ids, reads=tuple(range(len(ids))))
        return run(self.backbone, [prompt], self.backbone.pack([row]))

    def likely(self, ids: tuple[int, ...], prompt: PromptTensors) -> Tensor:
        """The logits at all tokens of one row."""
        row = TokenSequence(ids, reads=tuple(range(len(ids))))
        return run(self.backbone, [prompt], self.backbone.pack([row]), read="logits")


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference by norm of what is expected; infinite where a number is not finite."""
    far = float((ours.float() - theirs.float()).norm() / theirs.float().norm().clamp(min=1e-12))
    return far if torch.isfinite(ours).all() else float("inf")
