"""Using a prompt: load a backbone, evaluate, predict.

    backbone = Backbone.load("bigscience/bloomz-560m")
    prompt = SoftPrompt.load("complaints")
    backbone.predict(["no reply for three days"], prompt)[0].answer      # 'complaint'
    backbone.evaluate("test.csv", prompt).scores

A prompt carries its template, labels and head; the backbone is checked against the fingerprint that
the prompt was trained with.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ptune import backbone as backbones
from ptune.batch import PromptTensors
from ptune.config import kind_of
from ptune.data import (
    Check,
    Kept,
    Rows,
    answers_of,
    check_tags,
    kept_rows_for,
    load_rows,
    sift,
    told_blank,
)
from ptune.errors import ArtifactError, DataError
from ptune.evaluation import Evaluation, evaluate_examples, predict_examples
from ptune.prompt import SoftPrompt
from ptune.tags import scheme_of
from ptune.tasks import Answer, Example, Marks, Prediction, Task, TaskOptions, make_task
from ptune.template import Template

log = logging.getLogger("ptune")

# What rows may come as: texts (for a template of one field), mappings, or a file.
Inputs = str | Path | Sequence[str] | Iterator[str] | Sequence[Mapping[str, object]] | Rows


class Backbone(backbones.Backbone):
    """A frozen model that predicts and is evaluated with prompts; see `ptune.backbone`."""

    def predict(
        self, rows: Inputs, prompt: SoftPrompt, *, batch_size: int = 32, force: bool = False
    ) -> list[Prediction]:
        """What the prompt's task says of each row; see `ptune.predict`."""
        return predict(self, prompt, rows, batch_size=batch_size, force=force)

    def evaluate(
        self,
        rows: Inputs,
        prompt: SoftPrompt,
        *,
        batch_size: int = 32,
        force: bool = False,
        skip_bad_rows: bool = False,
    ) -> Evaluation:
        """How good the prompt is on labelled rows; see `ptune.evaluate`."""
        return evaluate(
            self, prompt, rows, batch_size=batch_size, force=force, skip_bad_rows=skip_bad_rows
        )


class Ready(NamedTuple):
    """A prompt on its backbone, in the order in which `ptune.evaluation` takes them."""

    backbone: backbones.Backbone
    tensors: PromptTensors
    task: Task
    head: nn.Module | None


def make_ready(backbone: backbones.Backbone, prompt: SoftPrompt, *, force: bool = False) -> Ready:
    """Check a prompt against a backbone and bind its task.

    A prompt whose backbone was trained too gets a copy of the backbone with its weights, every time
    anew; `Ready.backbone` is that copy, and may be given in place of the backbone from then on.

    Args:
        force: accept a backbone that the prompt was not trained with.
    Raises:
        ArtifactError: the backbone is another one.
    """
    backbone = _with_its_weights(backbone, prompt, force=force)
    settings: Mapping[str, Any] = prompt.settings
    own = {
        "metric": None,  # was wanted in training; what scores by it may not be installed here
        "verbalizer": prompt.verbalizer,
        "prior": [prompt.prior[label] for label in prompt.labels if prompt.prior],
    }
    options = TaskOptions.of({**settings, **own}, labels=prompt.labels, offset=prompt.offset)
    task = make_task(prompt.task, Template.parse(prompt.template), backbone, options)
    trained = settings.get("quantization")
    if trained != backbone.quantization:
        log.warning(
            "The prompt was trained on %s weights and runs on %s ones: its answers may differ.",
            trained or "whole",
            backbone.quantization or "whole",
        )
    head = task.head(backbone.geometry.hidden)
    if head is not None:
        _check_head(prompt, head)
        head.load_state_dict(dict(prompt.head))
        head.to(backbone.device).eval()
    if prompt.vectors is not None and prompt.vectors.shape[1] != backbone.geometry.width:
        raise ArtifactError(
            f"The prompt's virtual tokens are {prompt.vectors.shape[1]} wide, and this backbone's "
            f"embeddings {backbone.geometry.width}. Use the backbone that it was trained with."
        )
    return Ready(backbone, prompt.tensors(backbone.device), task, head)


def _check_head(prompt: SoftPrompt, head: nn.Module) -> None:
    """Refuse a head that is not there, or that reads states of another width."""
    if not prompt.head:
        raise ArtifactError(
            "The prompt has no head, which its task needs: it is a start for others, as `ptune "
            "share` leaves one. Train with init: FOLDER (its path, with a / in it), or use the "
            "prompt of one of the sets."
        )
    for name, weight in head.state_dict().items():
        found = prompt.head.get(name)
        if found is None or found.shape != weight.shape:
            shape = "nothing" if found is None else f"numbers of the shape {tuple(found.shape)}"
            raise ArtifactError(
                f"The prompt's head has {shape} as {name}, and on this backbone its task needs "
                f"{tuple(weight.shape)}. Use the backbone that it was trained with."
            )


def _with_its_weights(
    backbone: backbones.Backbone, prompt: SoftPrompt, *, force: bool
) -> backbones.Backbone:
    """The backbone, checked; a copy with the prompt's own weights where it brings such."""
    weights, digest = prompt.backbone_weights, prompt.weights_digest
    if weights and backbone.tuned_by == digest:
        return backbone
    seen = backbone.fingerprint
    if prompt.with_adapters:  # whatever they are here, the prompt brings its own
        backbone.check_weights(weights, adapters=True)
        seen = backbone.fingerprint_without(weights)
    prompt.check(seen, backbone.name, force=force)
    if not weights:
        return backbone
    backbone.check_weights(weights, adapters=prompt.with_adapters)
    log.warning(
        "The prompt was trained together with its backbone%s (train_backbone): it runs on a copy "
        "of the backbone with its own weights.",
        "'s adapters" if prompt.with_adapters else "",
    )
    return backbone.tuned(weights, digest)


def evaluate(
    backbone: backbones.Backbone,
    prompt: SoftPrompt,
    rows: Inputs,
    *,
    batch_size: int = 32,
    force: bool = False,
    skip_bad_rows: bool = False,
) -> Evaluation:
    """Score a prompt on labelled rows.

    Args:
        rows: a file, `hub:name`, or rows; with the label column that the prompt was trained with.
        batch_size: rows at once.
        force: accept a backbone that the prompt was not trained with.
        skip_bad_rows: leave rows out that cannot be used, and say so on the package's log; else
            the first one is refused.
    Returns:
        Loss, perplexity (of words) and the task's scores, and each row's prediction.
    Raises:
        ArtifactError, DataError: the backbone or the rows do not fit.
    """
    ready = make_ready(backbone, prompt, force=force)
    read = _rows(prompt, rows, skip=skip_bad_rows)
    check = _check_of(prompt, ready.task if skip_bad_rows else None)
    found, notes = sift(read.rows, check, skip=skip_bad_rows)
    for note in read.notes + notes:
        log.warning("%s", note)
    answers = _answers(prompt, found)
    marks = Marks.of(prompt.settings)
    examples = _told_cut(marks.on(ready.task.examples(found, answers), found))
    _tell_blank(prompt, found)
    return evaluate_examples(*ready, examples, batch_size=batch_size)


def predict(
    backbone: backbones.Backbone,
    prompt: SoftPrompt,
    rows: Inputs,
    *,
    batch_size: int = 32,
    force: bool = False,
) -> list[Prediction]:
    """Predict rows that need no label. See `evaluate` for the arguments."""
    return predict_kept(backbone, prompt, rows, batch_size=batch_size, force=force).predictions


class Predicted(NamedTuple):
    """Rows, and what the prompt says of each."""

    rows: Rows
    predictions: list[Prediction]


def predict_kept(
    backbone: backbones.Backbone,
    prompt: SoftPrompt,
    rows: Inputs,
    *,
    batch_size: int = 32,
    force: bool = False,
    skip_bad_rows: bool = False,
) -> Predicted:
    """Predict rows that need no label, and say which they were. See `evaluate` for the arguments.

    Returns:
        The rows that were predicted, and their predictions. `Rows.where` names a row's place.
    """
    ready = make_ready(backbone, prompt, force=force)
    read = _rows(prompt, rows, skip=skip_bad_rows)
    found, notes = read.rows, read.notes
    if skip_bad_rows:
        found, more = sift(found, ready.task.examples, skip=True)
        notes += more
    for note in notes:
        log.warning("%s", note)
    examples = _told_cut(ready.task.examples(found))
    _tell_blank(prompt, found)
    return Predicted(found, predict_examples(*ready, examples, batch_size=batch_size))


def _rows(prompt: SoftPrompt, rows: Inputs, *, skip: bool = False) -> Kept:
    template = Template.parse(prompt.template)
    if isinstance(rows, Iterator):
        rows = list(rows)
    if isinstance(rows, list | tuple) and all(isinstance(row, str) for row in rows):
        return Kept(load_rows([{_only_field(template): text} for text in rows]), ())
    found = kept_rows_for(rows, {**prompt.settings, "task": prompt.task}, skip=skip)
    for name in template.fields:
        try:
            found.rows.column(name)
        except DataError as error:
            needed = f'The prompt reads it: its template is "{template.source}".'
            raise DataError(f"{error} {needed}") from None
    return found


def _answers(prompt: SoftPrompt, rows: Rows) -> Sequence[Answer]:
    column = str(prompt.settings.get("label_column", "label"))
    problem, answer = (
        str(prompt.settings.get(key, default))
        for key, default in (("problem", "single-label"), ("answer", "label"))
    )
    kind = kind_of(prompt.task, problem, answer)
    return answers_of(rows, column, kind)


def _check_of(prompt: SoftPrompt, task: Task | None) -> Check:
    """What makes a labelled row bad.

    Args:
        task: also what it cannot encode; None leaves that to be said where rows are encoded.
    """
    tagged = prompt.task == "token-classification"
    scheme = str(prompt.settings.get("scheme", "auto"))
    scheme = scheme_of(prompt.labels) if scheme == "auto" else scheme
    marks = Marks.of(prompt.settings)

    def check(rows: Rows) -> None:
        answers = _answers(prompt, rows)
        for column in marks.columns:
            rows.column(column)
        marks.check(rows)
        _check_known(rows, answers, prompt.labels, tagged=tagged)
        if tagged:
            check_tags(rows, str(prompt.settings.get("label_column", "label")), scheme)
        if task is not None:
            task.examples(rows, answers)

    return check


def _tell_blank(prompt: SoftPrompt, rows: Rows) -> None:
    """Say on the log which rows have no text; the task has taken them by now."""
    for note in told_blank(rows, Template.parse(prompt.template).fields):
        log.warning("%s", note)


def _told_cut(examples: list[Example]) -> list[Example]:
    """Say once, on the log of the package, how many rows did not fit whole."""
    cut = sum(example.cut > 0 for example in examples)
    if cut:
        log.warning("%d of %d rows were too long and were cut.", cut, len(examples))
    return examples


def _only_field(template: Template) -> str:
    if len(template.fields) != 1:
        names = ", ".join(template.fields) or "none"
        raise DataError(
            f'The prompt\'s template "{template.source}" has these fields: {names}. '
            "Plain texts fit a template of one field; give rows with a value for each."
        )
    return template.fields[0]


def _check_known(
    rows: Rows, answers: Sequence[object], labels: Sequence[str], *, tagged: bool
) -> None:
    """Refuse a label that the prompt was never trained on, with its place."""
    if not labels:
        return
    for index, answer in enumerate(answers):
        for at, label in enumerate(answer if isinstance(answer, tuple) else (answer,)):
            if label not in labels:
                known = ", ".join(map(repr, labels))
                place = rows.place(index, at) if tagged else rows.where(index)
                raise DataError(
                    f"{place}: label {label!r} is unknown to the prompt. "
                    f"Its labels: {known}. Mend the row, or train a prompt with this label."
                )
