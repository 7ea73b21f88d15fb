r"""Many tasks, one prompt: a shared prompt over several sets of rows, a head for each.

    set "rte"    rows, template, head ---.
    set "boolq"  rows, template, head ----+-- one prompt P
    set "cb"     rows, template, head ---'

    every batch is of one set, drawn with probability  p_k ~ rows_k ^ (1 / temperature)

A prompt that saw many sets is a better start for each of them, and for a new one, than noise is
(P-tuning v2, arXiv:2110.07602, section 3.3, "multi-task learning"; its code was never released: one
prompt, a head a set and batches of one set are what the authors say of it, in their appendix and in
issue 22 of THUDM/P-tuning-v2). `rank_one` gives each set its
own prompt

    P_k = P * (u_k v_k^T)          u_k: slots, v_k: width, both 1 at the start

(MPT, arXiv:2303.02861), which folds like any other: what ships for a set is P_k.

One `SharedLearner` stands in the loop for all sets, so a run is stopped, gone on with and watched
as any other. Knows what a set's task says of its rows; knows no file.
Next: `ptune.training.sharing` reads the recipes and writes the prompts.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.batch import PromptTensors
from ptune.encoders import Encoder, KeysValues
from ptune.evaluation import Evaluation, Measured, PromptedRows, summarize
from ptune.run import Read
from ptune.tasks import Example, Task
from ptune.trainable import TrainablePrompt, encode
from ptune.training.learner import Learner
from ptune.training.schedule import Epoch


class Factors(nn.Module):
    """`u v^T` of one set and one prompt, all ones at the start."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        self.of_slots = nn.Parameter(torch.ones(slots))
        self.of_width = nn.Parameter(torch.ones(width))

    def forward(self, table: Float[Tensor, "slots width"]) -> Float[Tensor, "slots width"]:
        """`P * (u v^T)`."""
        return table * self.of_slots[:, None] * self.of_width


class SharedPrompt(TrainablePrompt):
    """One prompt for several sets.

    Args:
        prompt: the shared one, with the head of the first set.
        heads: of all sets, in their order; None each where the backbone's own is used.
        rank_one: each set has factors of its own.
    """

    def __init__(
        self, prompt: TrainablePrompt, heads: Sequence[nn.Module | None], *, rank_one: bool
    ) -> None:
        trained = [head for head in heads if head is not None]
        super().__init__(
            shallow=prompt.shallow,
            deep=prompt.deep,
            sites=prompt.sites,
            offset=prompt.offset,
            head=nn.ModuleList(trained) if trained else None,
        )
        self._heads = tuple(heads)
        encoders = [e for e in (prompt.shallow, prompt.deep) if e is not None]
        self.factors = nn.ModuleList(
            nn.ModuleList(Factors(e.slots, e.width) for e in encoders) for _ in heads if rank_one
        )

    def head_of(self, number: int) -> nn.Module | None:
        """The head of a set."""
        return self._heads[number]

    def tensors_of(self, number: int) -> PromptTensors:
        """The prompt as a set has it."""
        own: Sequence[Any] = self.factors[number] if len(self.factors) else ()  # type: ignore[assignment]
        made = iter(own)
        shallow = None if self.shallow is None else _scaled(self.shallow, next(made, None))
        deep: dict[int, KeysValues] = {}
        if self.deep is not None:
            flat = _scaled(self.deep, next(made, None))
            deep = dict(zip(self.sites, self.deep.split(flat), strict=True))
        return PromptTensors(vectors=shallow, deep=deep, offset=self.offset)

    def fold_of(self, number: int) -> PromptTensors:
        """The constant that ships for a set."""
        with self.folding():
            return self.tensors_of(number)


def _scaled(encoder: Encoder, factors: Factors | None) -> Float[Tensor, "slots width"]:
    table = encode(encoder)
    return table if factors is None else factors(table)


class Sets(Sequence[Example]):
    """The rows of all sets, one set behind the other; each names its set (`TokenSequence.prompt`).

    >>> from ptune.batch import TokenSequence
    >>> rows = Sets([[Example(TokenSequence((5,)))], [Example(TokenSequence((6,)))] * 2])
    >>> [(one.sequence.ids[0], set_of(one)) for one in rows]
    [(5, 0), (6, 1), (6, 1)]
    """

    def __init__(self, sets: Sequence[Sequence[Example]]) -> None:
        self.sets = tuple(sets)
        self.ends = tuple(accumulate(len(rows) for rows in sets))

    def __len__(self) -> int:
        return self.ends[-1]

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> "Example | list[Example]":
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        at = range(len(self))[index]
        number = bisect_right(self.ends, at)
        example = self.sets[number][at - (self.ends[number - 1] if number else 0)]
        own = [one.of(number) for one in example.sequences]
        return replace(example, sequence=own[0], others=tuple(own[1:]))


def set_of(example: Example) -> int:
    """The set of a row of `Sets`."""
    return example.sequence.prompt


@dataclass(frozen=True, eq=False)
class BySets:
    """Batches of one set each; an epoch has as many as all sets have together.

    Sets are drawn with `p_k ~ rows_k ^ (1 / temperature)`: 1 draws by size, more brings the small
    ones up (T5's "temperature-scaled mixing", arXiv:1910.10683, without its limit of the sizes).
    Within an epoch a set's rows come in a drawn order, and again in another one when all were seen.

    Args:
        counts: rows of each set.
        size: rows of a batch.
    """

    counts: tuple[int, ...]
    size: int
    temperature: float = 1.0

    def epoch(self, generator: torch.Generator) -> Epoch:
        weights = torch.tensor(self.counts, dtype=torch.double) ** (1 / self.temperature)
        drawn = torch.multinomial(
            weights, self.count(generator), replacement=True, generator=generator
        )
        waiting: list[list[Tensor]] = [[] for _ in self.counts]
        batches = []
        for number in drawn.tolist():
            if not waiting[number]:
                first = sum(self.counts[:number])
                order = first + torch.randperm(self.counts[number], generator=generator)
                waiting[number] = list(torch.split(order, self.size))[::-1]
            batches.append(waiting[number].pop())
        return Epoch(torch.cat(batches), list(accumulate(len(batch) for batch in batches)))

    def count(self, generator: torch.Generator) -> int:
        return sum(math.ceil(count / self.size) for count in self.counts)

    def parts(self, rows: Sequence[int]) -> list[list[int]]:
        ends = list(accumulate(self.counts))
        by_set = groupby(rows, key=lambda row: bisect_right(ends, row))
        found = []
        for _, several in by_set:
            own = list(several)
            found += [own[at : at + self.size] for at in range(0, len(own), self.size)]
        return found


class OneSet(NamedTuple):
    """A set of rows: what it is called, and what its task says of them."""

    name: str
    task: Task


class SharedLearner(Learner):
    """A prompt that learns from several sets. See `Learner` for the arguments.

    `training` and `validation` are `Sets`, `plan` is made by `BySets`. A set's score is called
    `name/score`; without a name, it is the mean over the sets.
    """

    prompt: SharedPrompt

    def __init__(self, sets: Sequence[OneSet], prompt: SharedPrompt, **rest: Any) -> None:
        super().__init__(sets[0].task, prompt, **rest)
        self.sets = tuple(sets)
        factors = list(prompt.factors.parameters())
        if factors:
            lr = self.options.lr
            self.optimizer.add_param_group({"params": factors, "lr": lr, "largest_lr": lr})

    def prompted(self, examples: Sequence[Example]) -> PromptedRows:
        """Rows of one set, with its prompt."""
        number = set_of(examples[0])
        with self.drawing():
            tensors = self.prompt.tensors_of(number)
        return PromptedRows(tensors, self.sets[number].task, examples)

    def folded(self, examples: Sequence[Example]) -> list[PromptedRows]:
        """Rows, set by set, each with its folded prompt and its head."""
        return [
            PromptedRows(
                self.prompt.fold_of(number),
                self.sets[number].task,
                list(own),
                self.prompt.head_of(number),
            )
            for number, own in groupby(examples, key=set_of)
        ]

    def losses(self, read: Read, examples: Sequence[Example]) -> Float[Tensor, " examples"]:
        """The loss of each example of one set."""
        number = set_of(examples[0])
        with self.drawing():
            return self.sets[number].task.loss(read, examples, self.prompt.head_of(number))

    def evaluation(self, measured: Sequence[Measured], examples: Sequence[Example]) -> Evaluation:
        """Scores of every set, and their means."""
        self.check(measured)
        pairs = list(zip(measured, examples, strict=True))
        by_set = {
            self.sets[number].name: _scores(self.sets[number].task, list(own))
            for number, own in groupby(pairs, key=lambda pair: set_of(pair[1]))
        }
        names = dict.fromkeys(name for scores in by_set.values() for name in scores)
        means = {
            name: math.fsum(scores[name] for scores in by_set.values()) / len(by_set)
            for name in names
            if all(name in scores for scores in by_set.values())
        }
        each = {
            f"{s}/{name}": score for s, found in by_set.items() for name, score in found.items()
        }
        return Evaluation(means | each, [one.prediction for one in measured])


def _scores(task: Task, pairs: Sequence[tuple[Measured, Example]]) -> dict[str, float]:
    measured, examples = zip(*pairs, strict=True)
    return summarize(task, measured, examples).scores


def scores_of(name: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Those of one set among the scores of a `SharedLearner`.

    >>> scores_of("rte", {"accuracy": 0.7, "rte/accuracy": 0.6, "cb/accuracy": 0.8})
    {'accuracy': 0.6}
    """
    return {k.removeprefix(f"{name}/"): v for k, v in scores.items() if k.startswith(f"{name}/")}
