"""Which rows a step sees, and how large it is: functions of the seed and the step alone.

    Rows      3 1 | 4 0 | 2 5 | ...                  so many rows a batch, in a drawn order
    Tokens    one long | a short short | a b c | .   so many tokens a batch, of rows of like length

Because a run that goes on at step 317 sees what it would have seen, nothing here is remembered but
the order of the epoch that was asked for last.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from ptune.config.settings.training import Schedule

# Rows are put in order of length within so many batches at a time: enough for like lengths to meet,
# few enough that who meets whom differs from epoch to epoch (as in transformers).
BATCHES_SORTED_TOGETHER = 50


class Epoch(NamedTuple):
    """The rows of an epoch in their order; batch `k` is `order[ends[k - 1]:ends[k]]`."""

    order: Int[Tensor, " rows"]
    ends: list[int]

    def rows_of(self, first: int, count: int) -> list[int]:
        """The rows of `count` batches from `first` on; there may be fewer."""
        start = self.ends[first - 1] if first else 0
        stop = self.ends[min(first + count, len(self.ends)) - 1]
        return self.order[start:stop].tolist()


@runtime_checkable
class Batching(Protocol):
    """How rows make batches."""

    def epoch(self, generator: torch.Generator) -> Epoch:
        """All rows in a drawn order, each once."""

    def count(self, generator: torch.Generator) -> int:
        """How many batches that epoch has."""

    def parts(self, rows: Sequence[int]) -> list[list[int]]:
        """What is run at once of the rows of a step, or of a process's share of them."""


@dataclass(frozen=True)
class ByRows:
    """So many rows a batch; the last one of an epoch may have fewer."""

    rows: int
    size: int

    def epoch(self, generator: torch.Generator) -> Epoch:
        order = torch.randperm(self.rows, generator=generator)
        return Epoch(order, [*range(self.size, self.rows, self.size), self.rows])

    def count(self, generator: torch.Generator) -> int:
        return math.ceil(self.rows / self.size)

    def parts(self, rows: Sequence[int]) -> list[list[int]]:
        return [list(rows[at : at + self.size]) for at in range(0, len(rows), self.size)]


@dataclass(frozen=True, eq=False)
class ByTokens:
    """As many rows of like length as a budget of tokens holds; one at least.

    Rows are shuffled, put in order of length among neighbours, cut into batches, and the batches
    are shuffled again.

    Args:
        tokens: that each row costs.
        budget: of a batch, in tokens.
        head: tokens that every batch has beside those of its rows.
        padded: every row of a batch costs as much as the longest.
    """

    tokens: Int[Tensor, " rows"]
    budget: int
    head: int = 0
    padded: bool = False

    def epoch(self, generator: torch.Generator) -> Epoch:
        rows = len(self.tokens)
        together = self._sorted_together()
        order = torch.randperm(rows, generator=generator)
        batches: list[Tensor] = []
        for start in range(0, rows, together):
            near = order[start : start + together]
            near = near[self.tokens[near].argsort(descending=True, stable=True)]
            batches += torch.split(near, self._sizes(near))
        drawn = torch.randperm(len(batches), generator=generator).tolist()
        chosen = [batches[at] for at in drawn]
        return Epoch(torch.cat(chosen), list(accumulate(len(batch) for batch in chosen)))

    def count(self, generator: torch.Generator) -> int:
        return len(self.epoch(generator).ends)

    def parts(self, rows: Sequence[int]) -> list[list[int]]:
        if not rows:
            return []
        chosen = torch.tensor(rows)
        return [part.tolist() for part in torch.split(chosen, self._sizes(chosen))]

    def _sorted_together(self) -> int:
        """Rows that are put in order of length together: of 50 batches, and a quarter at most."""
        mean = max(1.0, float(self.tokens.double().mean()))
        batch = max(1, int((self.budget - self.head) / mean))
        return batch * max(1, min(BATCHES_SORTED_TOGETHER, len(self.tokens) // (4 * batch)))

    def _sizes(self, rows: Int[Tensor, " rows"]) -> list[int]:
        """How many of these rows go into each batch, in their order."""
        room = self.budget - self.head
        sizes: list[int] = []
        count = total = longest = 0
        for tokens in self.tokens[rows].tolist():
            longest = max(longest, tokens)
            total += tokens
            if count and (longest * (count + 1) if self.padded else total) > room:
                sizes.append(count)
                count, total, longest = 0, tokens, tokens
            count += 1
        return [*sizes, count]


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    Args:
        batching: how rows make batches.
        batches_per_step: whose gradients are added up.
        starts: the first step of every epoch, and of the one that would follow.
        steps: of the whole run.
        seed: of the order of the rows.
    """

    batching: Batching
    batches_per_step: int
    starts: tuple[int, ...]
    steps: int
    seed: int
    _last: dict[int, Epoch] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def make(
        cls,
        rows: int,
        *,
        rows_per_step: int,
        epochs: int,
        max_steps: int | None,
        seed: int,
        batch_size: int | None = None,
    ) -> "Plan":
        """Plan `epochs` passes over the rows, or fewer where `max_steps` says so.

        Args:
            rows_per_step: batch size times accumulation.
            batch_size: rows that are run at once; None: all of a step.
        """
        size = batch_size or rows_per_step
        return cls.of(
            ByRows(rows, size), rows_per_step // size, epochs=epochs, max_steps=max_steps, seed=seed
        )

    @classmethod
    def of(
        cls,
        batching: Batching,
        batches_per_step: int,
        *,
        epochs: int,
        max_steps: int | None,
        seed: int,
    ) -> "Plan":
        """The same for any way to make batches. Every epoch is drawn once, to count its steps."""
        starts = [0]
        for epoch in range(epochs):
            batches = batching.count(_generator(seed, epoch))
            starts.append(starts[-1] + math.ceil(batches / batches_per_step))
            if max_steps is not None and starts[-1] >= max_steps:
                break
        steps = min(starts[-1], max_steps or starts[-1])
        return cls(batching, batches_per_step, tuple(starts), steps, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the first epoch; by tokens, others may have some more or fewer."""
        return self.starts[1]

    def epoch_of(self, step: int) -> int:
        """The epoch, from 0, of a step, from 0."""
        return bisect_right(self.starts, step) - 1

    def ends_epoch(self, done: int) -> bool:
        """Whether an epoch is over when so many steps are done."""
        return done in self.starts[1:]

    def rows_of(self, step: int) -> list[int]:
        """Indices of the rows of a step: a new order every epoch, the same in every run.

        >>> plan = Plan.make(5, rows_per_step=2, epochs=1, max_steps=None, seed=0)
        >>> sorted(sum((plan.rows_of(step) for step in range(plan.steps)), []))
        [0, 1, 2, 3, 4]
        """
        epoch = self.epoch_of(step)
        if epoch not in self._last:  # drawn once an epoch: no step costs what all rows cost
            self._last.clear()
            self._last[epoch] = self.batching.epoch(_generator(self.seed, epoch))
        first = (step - self.starts[epoch]) * self.batches_per_step
        return self._last[epoch].rows_of(first, self.batches_per_step)

    def parts(self, rows: Sequence[int]) -> list[list[int]]:
        """What is run at once of the rows of a step, or of one process's share of them."""
        return self.batching.parts(rows)


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + epoch)


def lr_share(
    step: int, plan: Plan, *, warmup: int, kind: Schedule, epoch_decay: float = 1.0
) -> float:
    """Share of the largest learning rate at a step, from 0: up linearly, then down.

    Args:
        epoch_decay: of an exponential schedule, what is left of the share from one epoch to the
            next; the epoch in which the warm-up ends is the first.

    >>> plan = Plan.make(5, rows_per_step=1, epochs=1, max_steps=None, seed=0)
    >>> [lr_share(step, plan, warmup=2, kind="linear") for step in range(plan.steps)]
    [0.5, 1.0, 1.0, 0.6666666666666667, 0.33333333333333337]
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    if kind == "exponential":
        return float(epoch_decay ** (plan.epoch_of(step) - plan.epoch_of(warmup)))
    done = (step - warmup) / max(1, plan.steps - warmup)
    return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
