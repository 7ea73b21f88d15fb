r"""Sequence classification: a trained head on the pooled state of a row.

    first   [CLS] P P P the film is a delight [SEP]      the state of the first token
    last    P P P the film is a delight                  the state of the last one
    mean    the mean of the states of all tokens of the row
    virtual P P P [CLS] the film is a delight [SEP]      the state of the first virtual token

States that are pooled are those of real tokens, unless pooling is virtual (as PEFT has it on
encoders), and never of padding. One label a row (softmax), several (a sigmoid each), or a number
(regression).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ptune import metrics
from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.errors import DataError, TemplateError
from ptune.heads import ClassificationHead, HeadForm
from ptune.layout import Layout, Rendered
from ptune.tasks.options import Pooling, Problem, TaskOptions
from ptune.tasks.scoring import label_scores
from ptune.tasks.task import Answer, Example, Prediction, Row, best_label, given, index_of
from ptune.template import Template
from ptune.values import place_of


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "SequenceClassification":
    """Bind a template to any backbone.

    Raises:
        TemplateError: the template has a `{label}`, which has no place here.
    """
    if template.has_label:
        raise TemplateError(
            f'template "{template.source}": {{label}} has no place in task '
            "sequence-classification, where a trained head gives the label. Leave it out, or use "
            "task: causal-lm."
        )
    layout = template.bind(backbone.tokenizer, max_tokens=options.limit(backbone))
    return SequenceClassification(
        layout,
        options.labels,
        problem=options.problem,
        pooling=pooling_of(template, layout, backbone, options),
        dropout=options.head_dropout,
        head_form=options.head_form,
        positive=options.positive_label,
    )


def pooling_of(
    template: Template, layout: Layout, backbone: Backbone, options: TaskOptions
) -> Pooling:
    """Which states a trained head sees.

    Raises:
        TemplateError: a virtual token is to be read, and there is none.
    """
    if options.pooling == "auto":
        return backbone.pooling
    if options.pooling == "virtual" and not layout.slots:
        raise TemplateError(
            f'template "{template.source}": pooling = virtual reads the first virtual token, and '
            "there is none. Put {soft:20} somewhere, or leave pooling out."
        )
    return options.pooling


class SequenceClassification:
    """A label, several labels or a number for a row.

    Args:
        layout: the template, bound to the tokenizer.
        labels: empty for regression.
        problem: what a row's label is.
        pooling: which states of a row the head sees; "last" for decoders, whose earlier tokens do
            not know the row.
        head_form: see `ptune.heads`.
        dropout: of the head, 0 .. 1.
        positive: the label whose F1 is scored; None of none.
    """

    name = "sequence-classification"
    read: Literal["states", "words"] = "states"
    room = 0

    def __init__(
        self,
        layout: Layout,
        labels: Sequence[str],
        *,
        problem: Problem = "single-label",
        pooling: Pooling,
        head_form: HeadForm = "normalized",
        dropout: float = 0.0,
        positive: str | None = None,
    ) -> None:
        self.layout = layout
        self.labels = tuple(labels)
        self.problem = problem
        self.pooling = pooling
        self.head_form: HeadForm = head_form
        self.dropout = dropout
        self.positive = positive

    def head(self, hidden: int) -> nn.Module | None:
        """A linear head, one number a label."""
        labels = max(1, len(self.labels))
        return ClassificationHead(hidden, labels, dropout=self.dropout, form=self.head_form)

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows with the positions that are pooled."""
        told = zip(self.layout.render(rows), given(rows, answers), strict=True)
        return [
            Example(
                pooled_sequence(one, self.pooling, place_of(rows, at)),
                None if answer is None else self._target(answer),
                answer,
                one.cut,
            )
            for at, (one, answer) in enumerate(told)
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """The same: the label is no part of the text."""
        return self.examples(rows, answers)

    def _target(self, answer: Answer) -> int | float | tuple[int, ...]:
        if isinstance(answer, tuple):
            return tuple(index_of(label, self.labels) for label in _as_several(answer))
        return answer if isinstance(answer, float) else index_of(answer, self.labels)

    def loss(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> Float[Tensor, " examples"]:
        """Cross-entropy; its mean over labels for several; the squared error for a number."""
        assert head is not None
        logits = head(pooled(read, examples))
        if self.problem == "single-label":
            targets = torch.tensor([e.target for e in examples], device=logits.device)
            return functional.cross_entropy(logits, targets, reduction="none")
        if self.problem == "regression":
            numbers = torch.tensor([e.target for e in examples], device=logits.device)
            return (logits[:, 0] - numbers).square()
        wanted = torch.zeros_like(logits)
        for line, example in enumerate(examples):
            wanted[line, list(example.target)] = 1.0
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return each.mean(dim=1)

    def predict(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> list[Prediction]:
        """The most likely label; every label above one half; or the number."""
        assert head is not None
        logits = head(pooled(read, examples))
        if self.problem == "regression":
            return [Prediction(number) for number in logits[:, 0].tolist()]
        if self.problem == "single-label":
            return [best_label(row, self.labels) for row in logits.softmax(-1).tolist()]
        return [self._several(row) for row in logits.sigmoid().tolist()]

    def _several(self, shares: Sequence[float]) -> Prediction:
        chosen = tuple(label for label, p in zip(self.labels, shares, strict=True) if p > 0.5)
        return Prediction(chosen, dict(zip(self.labels, shares, strict=True)))

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Those of labels; micro and macro F1 of several; or error and correlations."""
        if self.problem == "regression":
            numbers = [float(e.target) for e in examples]
            return metrics.regression(numbers, [_as_number(p.answer) for p in predictions])
        if self.problem == "single-label":
            return label_scores(predictions, examples, self.labels, self.positive)
        return metrics.multilabel(
            [_as_several(e.answer) for e in examples],
            [_as_several(p.answer) for p in predictions],
            self.labels,
        )


def pooled_sequence(one: Rendered, pooling: Pooling, place: str) -> TokenSequence:
    """A row whose pooled states are read.

    Raises:
        DataError: it has no real token; names its place.
    """
    real = [at for at, id in enumerate(one.ids) if id >= 0]
    if not real:
        raise DataError(
            f"{place}: the row has no token that the head could read, since its fields are empty. "
            "Put some words into the template, or leave the row out."
        )
    virtual = [at for at, id in enumerate(one.ids) if id < 0]
    reads = {"first": real[:1], "last": real[-1:], "mean": real, "virtual": virtual[:1]}[pooling]
    return TokenSequence(ids=one.ids, reads=tuple(reads), shared=one.shared, types=one.types)


def pooled(
    read: Float[Tensor, "reads hidden"], examples: Sequence[Example]
) -> Float[Tensor, "examples hidden"]:
    """The mean of what was read of each example, as `pooled_states`."""
    return pooled_states(read, [example.sequence for example in examples])


def pooled_states(
    read: Float[Tensor, "reads hidden"], sequences: Sequence[TokenSequence]
) -> Float[Tensor, "sequences hidden"]:
    """The mean of what was read of each one, in float32; one read of each stays as it is."""
    if len(read) == len(sequences):
        return read
    counts = [len(sequence.reads) for sequence in sequences]
    owner = torch.arange(len(sequences)).repeat_interleave(torch.tensor(counts)).to(read.device)
    total = read.new_zeros(len(sequences), read.shape[1], dtype=torch.float32)
    total = total.index_add(0, owner, read.float())
    return total / torch.tensor(counts, device=read.device)[:, None]


def _as_number(answer: Answer | None) -> float:
    assert isinstance(answer, float)
    return answer


def _as_several(answer: Answer | None) -> tuple[str, ...]:
    assert isinstance(answer, tuple)
    return tuple(str(label) for label in answer)
