r"""What the ways to score a choice have in common: rows, losses, predictions.

    row   scores of its choices   right   cross-entropy           margin
    1     -2.0  -1.0  -4.0        1       -log softmax = 0.35     max(0, 1 + -2.0 - -1.0) = 0

A way (`ptune.tasks.multiple_choice`, `ptune.tasks.spoken_choices`) gives sequences and scores.
Knows rows with the field `choice`; no template and no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ptune.batch import TokenSequence
from ptune.errors import DataError
from ptune.layout import Layout
from ptune.spelling import Ids
from ptune.tasks.task import Answer, Example, Prediction, Row, best_label, given, index_of
from ptune.values import place_of

FIELD = "choice"


class MultipleChoice:
    """What the ways to score a choice have in common; a way gives sequences and scores.

    An example's target is (number of the right choice or None, all choices, their ids for words).

    Args:
        layout: the template, bound to the tokenizer.
        margin: the loss is the hinge, and not the cross-entropy.
    """

    name = "multiple-choice"
    read: Literal["states", "words"] = "words"
    labels: tuple[str, ...] = ()
    room = 0

    def __init__(self, layout: Layout, *, margin: bool = False) -> None:
        self.layout = layout
        self.margin = margin

    def head(self, hidden: int) -> nn.Module | None:
        """None, where the backbone's own head gives the words."""
        return None

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows with a sequence or a branch for each choice."""
        choices = [_choices(rows, index) for index in range(len(rows))]
        made = zip(self._encoded(rows, choices), choices, given(rows, answers), strict=True)
        return [
            Example(
                encoded.sequences[0],
                (_number(own, answer), own, encoded.words),
                answer,
                encoded.cut,
                encoded.sequences[1:],
            )
            for encoded, own, answer in made
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """The same: what is right is no part of the text."""
        return self.examples(rows, answers)

    def _encoded(
        self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]
    ) -> "Iterator[Encoded]":
        raise NotImplementedError

    def _scores(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " choices"]:
        """The score of every choice of every example, one behind the other."""
        raise NotImplementedError

    def _for_margin(
        self, scores: Float[Tensor, " choices"], examples: Sequence[Example]
    ) -> Float[Tensor, " choices"]:
        """The scores as a margin compares them."""
        return scores

    def loss(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " examples"]:
        """Negative log-probability of the right choice, or the hinge."""
        scores = self._scores(read, examples, head)
        right = torch.tensor([example.target[0] for example in examples], device=scores.device)
        if not self.margin:
            return functional.cross_entropy(_table(scores, examples), right, reduction="none")
        table = _table(self._for_margin(scores, examples), examples)
        wrong = table.scatter(1, right[:, None], -torch.inf).max(dim=1).values
        return functional.relu(1 + wrong - table.gather(1, right[:, None])[:, 0])

    def predict(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> list[Prediction]:
        """The most likely choice of each row, with the probabilities of all, in their order."""
        shares = _table(self._scores(read, examples, head), examples).softmax(dim=-1).tolist()
        choices = [example.target[1] for example in examples]
        return [best_label(row[: len(own)], own) for row, own in zip(shares, choices, strict=True)]

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share of rows whose right choice was found."""
        pairs = zip(predictions, examples, strict=True)
        right = [one.answer == example.answer for one, example in pairs]
        return {"accuracy": sum(right) / len(right)}


def _table(
    scores: Float[Tensor, " choices"], examples: Sequence[Example]
) -> Float[Tensor, "examples most_choices"]:
    """The scores, a line an example; minus infinity where it has fewer choices."""
    each = torch.split(scores, [len(example.target[1]) for example in examples])
    return nn.utils.rnn.pad_sequence(list(each), batch_first=True, padding_value=-torch.inf)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as the backbone sees it, and the ids of its choices where words score them."""

    sequences: tuple[TokenSequence, ...]
    cut: int
    words: tuple[Ids, ...] = ()


def _choices(rows: Sequence[Row], index: int) -> tuple[str, ...]:
    found = rows[index].get(FIELD)
    if not isinstance(found, list | tuple) or len(found) < 2:
        raise DataError(
            f"{place_of(rows, index)}: there are no choices, its field {FIELD} holds {found!r}. "
            "Give a list of two texts or more."
        )
    return tuple(map(str, found))


def _number(choices: Sequence[str], answer: Answer | None) -> int | None:
    return None if answer is None else index_of(answer, choices)
