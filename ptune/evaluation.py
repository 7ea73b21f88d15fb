"""Evaluation and prediction: examples through the frozen backbone, nothing trained.

    evaluation = evaluate_examples(backbone, prompt.tensors(), task, head, examples, batch_size=32)
    evaluation.scores            # {"loss": ..., "accuracy": ..., "macro_f1": ...}

The same `run` as in training and in serving. Rows of like length go together, and come back in
their own order.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.run import generate, run
from ptune.tasks import Example, Prediction, Task
from ptune.trunk import Trunk


@dataclass(frozen=True, slots=True)
class Measured:
    """Loss of one row, in nats (or squared units for regression), and its prediction."""

    loss: float
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores over all rows, and each row's prediction in the order of the rows."""

    scores: dict[str, float]
    predictions: list[Prediction] = field(default_factory=list)


def evaluate_examples(
    backbone: Backbone,
    prompt: PromptTensors,
    task: Task,
    head: nn.Module | None,
    examples: Sequence[Example],
    *,
    batch_size: int,
) -> Evaluation:
    """Loss, perplexity and the task's own scores.

    `loss` is the mean over rows in nats; `perplexity` is its exponential.
    """
    measured = measure_examples(backbone, prompt, task, head, examples, batch_size=batch_size)
    return summarize(task, measured, examples)


def measure_examples(
    backbone: Backbone,
    prompt: PromptTensors,
    task: Task,
    head: nn.Module | None,
    examples: Sequence[Example],
    *,
    batch_size: int,
    trunk: Trunk | None = None,
) -> list[Measured]:
    """Loss and prediction of each row, in the order of the rows; there may be none."""
    losses = torch.zeros(len(examples))
    predictions: dict[int, Prediction] = {}
    with torch.no_grad(), backbone.injected():
        for indices in by_length(examples, batch_size):
            chosen = [examples[i] for i in indices]
            sequences = [e.sequence for e in chosen]
            batch = backbone.pack(sequences)
            entering = None if trunk is None else trunk.entering(sequences, [prompt], batch)
            read = run(backbone, [prompt], batch, read=task.read, entering=entering)
            losses[indices] = task.loss(read, chosen, head).float().cpu()
            if not task.generates:
                predictions |= zip(indices, task.predict(read, chosen, head), strict=True)
    if task.generates:
        texts = generate_answers(backbone, prompt, task, examples, batch_size=batch_size)
        predictions = dict(enumerate(texts))
    return [Measured(loss, predictions[i]) for i, loss in enumerate(losses.tolist())]


def summarize(task: Task, measured: Sequence[Measured], examples: Sequence[Example]) -> Evaluation:
    """Scores of all rows from what was measured of each."""
    predictions = [one.prediction for one in measured]
    loss = math.fsum(one.loss for one in measured) / len(measured)
    scores = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    return Evaluation(scores | task.scores(predictions, examples), predictions)


def predict_examples(
    backbone: Backbone,
    prompt: PromptTensors,
    task: Task,
    head: nn.Module | None,
    examples: Sequence[Example],
    *,
    batch_size: int,
) -> list[Prediction]:
    """Predictions alone, for rows without labels."""
    if task.generates:
        return generate_answers(backbone, prompt, task, examples, batch_size=batch_size)
    predictions: dict[int, Prediction] = {}
    with torch.no_grad(), backbone.injected():
        for indices in by_length(examples, batch_size):
            chosen = [examples[i] for i in indices]
            batch = backbone.pack([e.sequence for e in chosen])
            read = run(backbone, [prompt], batch, read=task.read)
            predictions |= zip(indices, task.predict(read, chosen, head), strict=True)
    return [predictions[i] for i in range(len(examples))]


def generate_answers(
    backbone: Backbone,
    prompt: PromptTensors,
    task: Task,
    examples: Sequence[Example],
    *,
    batch_size: int,
) -> list[Prediction]:
    """Free text, greedily, behind each row."""
    answers: dict[int, Prediction] = {}
    for indices in by_length(examples, batch_size):
        rows = [task.question(examples[i]) for i in indices]
        ids = generate(backbone, [prompt], rows, max_new_tokens=task.room)
        texts = backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)
        answers |= {i: Prediction(text.strip()) for i, text in zip(indices, texts, strict=True)}
    return [answers[i] for i in range(len(examples))]


def by_length(examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Indices of the examples in batches of like length, longest first.

    Longest first, so that what does not fit in memory fails at once and not at the end.
    """
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].sequence.ids), i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
