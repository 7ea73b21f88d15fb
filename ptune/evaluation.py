"""Evaluation and prediction: examples through the frozen backbone, nothing trained.

    evaluation = evaluate_examples(backbone, prompt.tensors(), task, head, examples, batch_size=32)
    evaluation.scores            # {"loss": ..., "accuracy": ..., "macro_f1": ...}

The same `run` as in training and in serving. Rows of like length go together, and come back in
their own order.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, chain, pairwise, zip_longest
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune import metrics
from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.errors import ConfigError
from ptune.generation import generate
from ptune.inject import Words
from ptune.run import Read, run
from ptune.tasks import Example, Prediction, Task
from ptune.tasks.flat import lengths_of
from ptune.tasks.task import ByMargin, Generating, InPasses
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
    """Loss, the task's own scores, and the perplexity of a task that answers in words.

    `loss` is the mean over rows; `perplexity` is the exponential of one in nats.
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
) -> list[Measured]:
    """Loss and prediction of each row, in the order of the rows; there may be none."""
    part = PromptedRows(prompt, task, examples, head)
    return measure_together(backbone, [part], batch_sizes=[batch_size])[0]


@dataclass(frozen=True, slots=True)
class PromptedRows:
    """Rows that see one prompt, beside those of other prompts in the same pass."""

    prompt: PromptTensors
    task: Task
    examples: Sequence[Example]
    head: nn.Module | None = None

    def loss(self, read: Read) -> Float[Tensor, " examples"]:
        """What the task says that its rows cost."""
        return self.task.loss(read, self.examples, self.head)


def read_together(
    backbone: Backbone,
    parts: Sequence[PromptedRows],
    trunk: Trunk | None = None,
    *,
    dropout: bool = False,
) -> list[Read]:
    """Run the rows of all parts in one pass, each with its own prompt; what each part's rows read.

    All tasks read the same kind of thing. Where they read words, what the losses of several parts
    ask of the backbone's head is asked in one, so that its matrix is read once.

    Args:
        trunk: what the layers beneath all of the prompts compute, if it is remembered.
        dropout: of the backbone; on in this pass.
    """
    by_part = [
        [one.of(at) for example in part.examples for one in example.sequences]
        for at, part in enumerate(parts)
    ]
    sequences, prompts = list(chain.from_iterable(by_part)), [part.prompt for part in parts]
    batch = backbone.pack(sequences)
    entering = None if trunk is None else trunk.entering(sequences, prompts, batch)
    (kind,) = {part.task.read for part in parts}
    read = run(backbone, prompts, batch, read=kind, entering=entering, dropout=dropout)
    ends = list(accumulate(sum(map(_reads, own)) for own in by_part))
    if isinstance(read, Words):
        return [*read.split(ends, [part.loss for part in parts])]
    return [read[start:end] for start, end in pairwise([0, *ends])]


def _reads(sequence: TokenSequence) -> int:
    side = sequence.answered
    return len(side.reads) + sum(len(branch.reads) for branch in side.branches)


@torch.no_grad()
def measure_together(
    backbone: Backbone,
    parts: Sequence[PromptedRows],
    *,
    batch_sizes: Sequence[int],
    trunk: Trunk | None = None,
) -> list[list[Measured]]:
    """What `measure_examples` gives, of several prompts at once.

    Args:
        batch_sizes: rows of each part in one pass.
        trunk: as in `read_together`.
    """
    losses: list[dict[int, float]] = [{} for _ in parts]
    predictions: list[dict[int, Prediction]] = [{} for _ in parts]
    for at, indices, chosen, read in _read(backbone, parts, batch_sizes, trunk):
        some = replace(parts[at], examples=chosen)
        losses[at] |= zip(indices, some.loss(read).float().tolist(), strict=True)
        if not _writes(some.task):
            predictions[at] |= zip(indices, _predicted(backbone, some, read), strict=True)
    for at, (part, size) in enumerate(zip(parts, batch_sizes, strict=True)):
        if _writes(task := part.task):
            texts = generate_answers(backbone, part.prompt, task, part.examples, batch_size=size)
            predictions[at] = dict(enumerate(texts))
    return [
        [Measured(losses[at][i], predictions[at][i]) for i in range(len(part.examples))]
        for at, part in enumerate(parts)
    ]


def summarize(task: Task, measured: Sequence[Measured], examples: Sequence[Example]) -> Evaluation:
    """Scores of all rows from what was measured of each.

    A row whose answer is false (`Example.holds`) has no part in the loss, which is that of answers
    to learn; but where all of them are.
    """
    predictions = [one.prediction for one in measured]
    pairs = zip(measured, examples, strict=True)
    held = [one.loss for one, example in pairs if example.holds is not False]
    losses = held or [one.loss for one in measured]
    loss = math.fsum(losses) / len(losses)
    scores = {"loss": loss}
    margin = isinstance(task, ByMargin) and task.margin
    if task.read == "words" and not margin:  # a head's loss, or a squared error, counts no words
        scores["perplexity"] = metrics.perplexity(loss)
    return Evaluation(scores | task.scores(predictions, examples), predictions)


@torch.no_grad()
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
    if _writes(task):
        return generate_answers(backbone, prompt, task, examples, batch_size=batch_size)
    predictions: dict[int, Prediction] = {}
    part = PromptedRows(prompt, task, examples, head)
    for _, indices, chosen, read in _read(backbone, [part], [batch_size]):
        some = replace(part, examples=chosen)
        predictions |= zip(indices, _predicted(backbone, some, read), strict=True)
    return [predictions[i] for i in range(len(examples))]


def _predicted(backbone: Backbone, part: PromptedRows, read: Read) -> list[Prediction]:
    """What the task says of the rows that were read, after further passes where it asks for them.

    All rows go through as many passes, so that processes that share a backbone keep in step.
    """
    task = part.task
    while isinstance(task, InPasses) and (further := task.further(read, part.examples)):
        part = replace(part, examples=further)
        (read,) = read_together(backbone, [part])
    return task.predict(read, part.examples, part.head)


def _read(
    backbone: Backbone,
    parts: Sequence[PromptedRows],
    batch_sizes: Sequence[int],
    trunk: Trunk | None = None,
) -> Iterator[tuple[int, Sequence[int], Sequence[Example], Read]]:
    """Run all parts, batch by batch: whose rows, which, they themselves, and what they read."""
    batches = [by_length(p.examples, size) for p, size in zip(parts, batch_sizes, strict=True)]
    with backbone.injected():
        for several in zip_longest(*batches, fillvalue=()):
            taking = [at for at, indices in enumerate(several) if indices]
            chosen = [[parts[at].examples[i] for i in several[at]] for at in taking]
            some = [
                replace(parts[at], examples=own) for at, own in zip(taking, chosen, strict=True)
            ]
            reads = read_together(backbone, some, trunk)
            for at, own, read in zip(taking, chosen, reads, strict=True):
                yield at, several[at], own, read


def _writes(task: Task) -> TypeGuard[Generating]:
    return isinstance(task, Generating) and task.generates


def generate_answers(
    backbone: Backbone,
    prompt: PromptTensors,
    task: Generating,
    examples: Sequence[Example],
    *,
    batch_size: int,
) -> list[Prediction]:
    """Free text behind each row, looked for as the task says."""
    answers: dict[int, Prediction] = {}
    for indices in by_length(examples, batch_size):
        # There is one prompt here, whatever number a row of several sets has it by.
        rows = [task.question(examples[i]).of(0) for i in indices]
        ids = generate(backbone, [prompt], rows, max_new_tokens=task.room, **asdict(task.search))
        texts = backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)
        answers |= {i: Prediction(text.strip()) for i, text in zip(indices, texts, strict=True)}
    return [answers[i] for i in range(len(examples))]


def by_length(examples: Sequence[Example], batch_size: int) -> Iterator[list[int]]:
    """Indices of the examples in batches of like length, longest first.

    Longest first, so that what does not fit in memory fails at once and not at the end.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size = {batch_size} is not allowed. Allowed: 1 or more.")
    lengths = lengths_of(examples)
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
