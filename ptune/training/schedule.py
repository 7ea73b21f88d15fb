"""Which rows a step sees, and how large it is: pure functions of the seed and the step.

Because nothing here has a state, a run that goes on at step 317 sees what it would have seen.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run.

    Args:
        rows: number of training rows.
        rows_per_step: batch size times accumulation.
        steps: of the whole run.
        seed: of the order of the rows.
    """

    rows: int
    rows_per_step: int
    steps: int
    seed: int

    @classmethod
    def make(
        cls, rows: int, *, rows_per_step: int, epochs: int, max_steps: int | None, seed: int
    ) -> "Plan":
        """Plan `epochs` passes over the rows, or fewer where `max_steps` says so."""
        steps = epochs * math.ceil(rows / rows_per_step)
        return cls(rows, rows_per_step, min(steps, max_steps or steps), seed)

    @property
    def steps_per_epoch(self) -> int:
        """The last step of an epoch may be smaller than the others."""
        return math.ceil(self.rows / self.rows_per_step)

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, of a step, from 0."""
        return step // self.steps_per_epoch

    def rows_of(self, step: int) -> list[int]:
        """Indices of the rows of a step: a new order every epoch, the same in every run.

        >>> plan = Plan.make(5, rows_per_step=2, epochs=1, max_steps=None, seed=0)
        >>> sorted(sum((plan.rows_of(step) for step in range(plan.steps)), []))
        [0, 1, 2, 3, 4]
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.rows_per_step
        return list(_order(self.rows, self.seed, epoch)[start : start + self.rows_per_step])


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch, drawn once and not in every step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(rows, generator=generator).tolist())


def lr_share(
    step: int, steps: int, *, warmup: int, kind: Literal["linear", "cosine", "constant"]
) -> float:
    """Share of the largest learning rate at a step, from 0: up linearly, then down.

    >>> [lr_share(s, 5, warmup=2, kind="linear") for s in range(5)]
    [0.5, 1.0, 1.0, 0.6666666666666667, 0.33333333333333337]
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
