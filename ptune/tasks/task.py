"""What a task is: how a row becomes ids, a loss, a prediction and a score.

    rows -> Task.encode -> examples -> pack -> run -> read -> Task.loss     (training)
                                                           -> Task.predict  (evaluation, serving)

`read` is what `ptune.run` returned: final states, one row a read position in order of the examples,
or `Words`, which gives probabilities of words there. A task knows templates and labels; it knows no
model, no optimizer and no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ptune.batch import TokenSequence
from ptune.errors import DataError
from ptune.layout import Layout

Row = Mapping[str, object]

# The right answer of a row: a label or a text, several of them, a number, or parts of a text: each
# with the character at which it begins.
Answer = str | tuple[str, ...] | float | tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One row, encoded.

    Args:
        sequence: what the backbone sees.
        others: further sequences of the same row, as other windows of a long text or other choices;
            their reads stand behind those of `sequence`.
        target: what the task learns from, as it computes with it; None where the row has no label.
        answer: the same as the rows have it.
        cut: tokens of the row that did not fit.
        group: what it is scored together with; None where rows stand alone.
        holds: whether its answer is true; None where that is not in question.
    """

    sequence: TokenSequence
    target: Any = None
    answer: Answer | None = None
    cut: int = 0
    others: tuple[TokenSequence, ...] = ()
    group: str | None = None
    holds: bool | None = None

    @property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """All that the backbone sees of the row."""
        return (self.sequence, *self.others)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a task says of a row.

    Args:
        answer: a label, several labels, a number, or generated text.
        probabilities: of every label, where the task has labels for a row as a whole.
        more: what else the task says of the row, as JSON has it.
    """

    answer: Answer
    probabilities: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Search:
    """How free text is looked for.

    Args:
        beams: 1 takes the most likely token at every step.
        length_penalty: of beams: above 1 prefers longer texts, below 1 shorter ones.
    """

    beams: int = 1
    length_penalty: float = 1.0


@runtime_checkable
class Task(Protocol):
    """The interface that training, evaluation and serving use.

    `room`: the longest answer that a row is encoded with, in tokens; 0 where answers are no words.
    """

    name: str
    layout: Layout
    read: Literal["states", "words"]
    labels: tuple[str, ...]
    room: int

    def head(self, hidden: int) -> nn.Module | None:
        """A new trained head for states of this width, or None where the backbone's own is used."""

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows to predict; with their right answers, rows to be measured by."""

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """Rows to train on."""

    def loss(
        self,
        read: Any,
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> Float[Tensor, " examples"]:
        """The loss of each example, in nats (or squared units for regression)."""

    def predict(
        self,
        read: Any,
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> list[Prediction]:
        """One prediction an example."""

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """How good the predictions are."""


@runtime_checkable
class Generating(Protocol):
    """A task whose answers may be texts that the backbone writes.

    `generates`: whether they are; then of `room` tokens at most, looked for as `search` says.
    """

    generates: bool
    room: int
    search: Search

    def question(self, example: Example) -> TokenSequence:
        """What the backbone goes on from."""


@runtime_checkable
class InPasses(Protocol):
    """A task that predicts in several passes, each made of what the one before read."""

    def further(self, read: Any, examples: Sequence[Example]) -> list[Example]:
        """What is run next; nothing where `predict` has all that it needs."""


@runtime_checkable
class ByMargin(Protocol):
    """A task that tells whether its loss is a margin between scores, and no log-probability."""

    margin: bool


def given(rows: Sequence[Row], answers: Sequence[Answer] | None) -> Sequence[Answer | None]:
    """The right answer of each row, or None of each."""
    return [None] * len(rows) if answers is None else answers


def index_of(answer: Answer, labels: Sequence[str]) -> int:
    """Index of a label.

    Raises:
        DataError: the task does not know it. (`ptune.data.check_labels` says so with its place.)
    """
    if answer not in labels:
        raise DataError(
            f"label {answer!r} is unknown to the task. Known: {', '.join(map(repr, labels))}. Mend "
            "the row, or train with rows of this label."
        )
    return labels.index(str(answer))


def best_label(shares: Sequence[float], labels: Sequence[str]) -> Prediction:
    """The label with the largest probability; the first of them where several are equal."""
    best = max(range(len(labels)), key=lambda label: shares[label])
    return Prediction(labels[best], dict(zip(labels, shares, strict=True)))
