"""`train`: rows and settings in, a folded prompt with its scores out."""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ptune import metrics
from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.data import (
    Rows,
    answers_of,
    check_labels,
    draw_rows,
    few_shot,
    load_rows,
    split_rows,
)
from ptune.errors import ConfigError
from ptune.prompt import SoftPrompt
from ptune.tasks import Example, Task, make_task
from ptune.template import Template
from ptune.training.build import build_prompt, head_tensors
from ptune.training.loop import Loop
from ptune.training.options import Options
from ptune.training.report import Report, Watcher
from ptune.training.schedule import Plan

# With fewer steps than this a prompt has not settled; see `default_epochs`.
FEW_STEPS = 300

Source = str | Path | Sequence[Mapping[str, object]] | Rows


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave.

    Args:
        prompt: folded; the best of the run on the validation rows, or the last one without them.
        scores: "validation" and "test", where there were such rows.
        steps: optimizer steps taken.
        seconds: of training, evaluation included, loading left out.
        facts: what is worth knowing of the data: counts, imbalance, rows that were cut.
    """

    prompt: SoftPrompt
    scores: dict[str, dict[str, float]]
    steps: int
    seconds: float
    facts: dict[str, object]


def train(
    backbone: Backbone | str,
    train: Source,
    *,
    validation: Source | None = None,
    test: Source | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    watcher: Watcher | None = None,
    **settings: Any,
) -> Result:
    """Train a soft prompt on labelled rows.

    Args:
        backbone: a loaded one, or the name or folder of a model.
        train: a file (CSV, TSV, JSON lines, Parquet), `hub:name`, or rows as dicts.
        validation: rows to choose the best step by; None holds some out of `train`.
        test: rows to score once, at the end.
        output: folder for the prompt, the checkpoints and the log; None keeps nothing on disk.
        resume: go on from the checkpoint in `output`.
        settings: keys of a recipe (`ptune settings` lists them); unknown ones are refused.
    Raises:
        ConfigError, TemplateError, DataError, BackboneError: something does not fit; the message
            says what.
        TrainingError: the run diverged or was stopped; the message says what was kept.
    """
    name = backbone.name if isinstance(backbone, Backbone) else backbone
    recipe = Recipe.make(backbone=name, **settings)
    sources = _Sources(train, validation, test)
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(recipe)
    folder = None if output is None else Path(output)
    return _train(recipe, loaded, sources, folder, resume=resume, watcher=watcher)


def train_recipe(recipe: Recipe, *, resume: bool = False, watcher: Watcher | None = None) -> Result:
    """Train as a recipe says, and write prompt, checkpoints and log to its `output`."""
    assert recipe.train is not None
    sources = _Sources(recipe.train, recipe.validation, recipe.test)
    backbone = load_backbone(recipe)
    return _train(recipe, backbone, sources, Path(recipe.output), resume=resume, watcher=watcher)


def load_backbone(recipe: Recipe) -> Backbone:
    """Load the backbone of a recipe; `precision: bf16` holds its weights in bfloat16, once."""
    if recipe.backbone is None:
        raise ConfigError("backbone is missing. Give the name or the folder of a model.")
    dtype = recipe.dtype
    if dtype == "auto" and recipe.precision != "auto":
        dtype = "bfloat16" if recipe.precision == "bf16" else "float32"
    return Backbone.load(
        recipe.backbone,
        dtype=dtype,
        device=recipe.device,
        revision=recipe.revision,
        trust_remote_code=recipe.trust_remote_code,
        offline=recipe.offline,
    )


@dataclass(frozen=True, slots=True)
class _Sources:
    train: Source
    validation: Source | None
    test: Source | None


@dataclass(frozen=True, slots=True)
class _Data:
    """The rows of a run, and their labels."""

    train: Rows
    validation: Rows | None
    test: Rows | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash of the rows and labels, by which a checkpoint knows its data."""
        parts = [None if rows is None else list(rows) for rows in (self.train, self.validation)]
        text = json.dumps([parts, self.labels], ensure_ascii=False, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _train(
    recipe: Recipe,
    backbone: Backbone,
    sources: _Sources,
    output: Path | None,
    *,
    resume: bool,
    watcher: Watcher | None,
) -> Result:
    if resume and output is None:
        raise ConfigError("resume needs the output folder of the run to go on with.")
    recipe = recipe.resolved()
    data = _read(recipe, sources)
    template = Template.parse(recipe.template or default_template(recipe, data.train))
    template.check(data.train.columns)
    task = task_of(recipe, template, backbone, data.labels)
    prompt = build_prompt(recipe, backbone, task, template, task.layout)
    column, problem = recipe.label_column, recipe.problem
    training = task.training_examples(data.train, answers_of(data.train, column, problem))
    validation = _examples(task, data.validation, recipe)
    plan = Plan.make(
        len(training),
        rows_per_step=recipe.batch_size * recipe.accumulation,
        epochs=recipe.epochs or default_epochs(len(training), recipe),
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )
    autocast = recipe.precision == "bf16" and backbone.dtype == torch.float32
    trained = sum(p.numel() for p in prompt.parameters())
    facts = _facts(recipe, backbone, data, training, trained)
    report = Report(output, tracker=recipe.tracker, watcher=watcher)
    loop = Loop(
        backbone,
        task,
        prompt,
        training=training,
        validation=validation,
        options=Options.of(recipe, autocast=autocast),
        plan=plan,
        output=output,
        identity=_identity(recipe, backbone, data),
        report=report,
    )
    report.start(plan, facts, resume=resume)
    start = time.perf_counter()
    try:
        with torch.random.fork_rng():
            loop.run(resume=resume)
    finally:
        report.flush()
    seconds = time.perf_counter() - start
    loop.keep_best()
    scores = {"validation": loop.progress.best_scores} if validation else {}
    if data.test:
        scores["test"] = loop.evaluate(_examples(task, data.test, recipe)).scores
    soft = _soft_prompt(recipe, backbone, task, template, loop, scores, trained)
    if output is not None and loop.accelerator.is_main_process:
        soft.save(output / "prompt")
    return Result(soft, scores, loop.progress.step, seconds, facts)


def _read(recipe: Recipe, sources: _Sources) -> _Data:
    rows = _load(recipe, sources.train)
    stratify = recipe.label_column if recipe.problem == "single-label" else None
    if recipe.few_shot is not None:
        rows = few_shot(rows, recipe.few_shot, recipe.seed, recipe.label_column)
    if recipe.max_rows is not None and recipe.max_rows < len(rows):
        rows = draw_rows(rows, recipe.max_rows, recipe.seed)
    notes: tuple[str, ...] = ()
    validation = None
    if sources.validation is not None:
        validation = _load(recipe, sources.validation)
    elif recipe.validation_share > 0:
        split = split_rows(rows, recipe.validation_share, recipe.seed, stratify)
        rows, validation, notes = split.train, split.held_out, split.notes
    test = None if sources.test is None else _load(recipe, sources.test)
    if recipe.problem == "regression" or recipe.answer == "text":
        return _Data(rows, validation, test, (), notes)
    others = [other for other in (validation, test) if other is not None]
    multi = recipe.problem == "multi-label"
    found = check_labels(rows, others, recipe.label_column, labels=recipe.labels, multi=multi)
    return _Data(rows, validation, test, found.names, notes + found.notes)


def _load(recipe: Recipe, source: Source) -> Rows:
    return load_rows(source).with_fields(recipe.columns)


def default_epochs(rows: int, recipe: Recipe) -> int:
    """Enough epochs for about `FEW_STEPS` steps, from 5 to 20."""
    steps = math.ceil(rows / (recipe.batch_size * recipe.accumulation))
    return min(20, max(5, math.ceil(FEW_STEPS / steps)))


def default_template(recipe: Recipe, rows: Rows) -> str:
    """The template where the recipe has none: virtual tokens, the one text column, the label."""
    fields = [column for column in rows.columns if column != recipe.label_column]
    if len(fields) != 1:
        raise ConfigError(
            f"template is missing, and {rows.source} has several columns to choose from: "
            f'{", ".join(fields)}. Say how a row looks, e.g. template="{{soft:20}}{{{fields[0]}}}".'
        )
    soft = "" if recipe.method == "p-tuning-v2" else f"{{soft:{recipe.prompt_length}}}"
    label = " Label : {label}" if recipe.task == "causal-lm" else ""
    return f"{soft}{{{fields[0]}}}{label}"


def task_of(recipe: Recipe, template: Template, backbone: Backbone, labels: Sequence[str]) -> Task:
    """The recipe's task, bound to the backbone."""
    return make_task(
        recipe.task,
        template,
        backbone,
        labels=labels,
        words={label: words[0] for label, words in recipe.verbalizer.items()},
        problem=recipe.problem,
        loss=recipe.loss,
        max_tokens=recipe.max_tokens,
    )


def _examples(task: Task, rows: Rows | None, recipe: Recipe) -> list[Example]:
    if rows is None:
        return []
    return task.examples(rows, answers_of(rows, recipe.label_column, recipe.problem))


# Settings that say where to run and what to show, not what is computed.
_NOT_IDENTITY = frozenset({"output", "tracker", "train", "validation", "test", "device", "offline"})


def _identity(recipe: Recipe, backbone: Backbone, data: _Data) -> dict[str, Any]:
    """What must be equal for a run to go on where another one stopped."""
    settings = {k: v for k, v in recipe.to_dict().items() if k not in _NOT_IDENTITY}
    return {**settings, "data": data.fingerprint(), "fingerprint": backbone.fingerprint}


def _facts(
    recipe: Recipe, backbone: Backbone, data: _Data, training: Sequence[Example], trained: int
) -> dict[str, object]:
    facts: dict[str, object] = {
        "backbone": backbone.name,
        "training rows": len(data.train),
        "validation rows": len(data.validation or ()),
        "labels": list(data.labels),
        "trained parameters": trained,
        "trained share": trained / backbone.parameters,
    }
    cut = sum(example.cut > 0 for example in training)
    if cut:
        facts["rows cut"] = f"{cut} of {len(training)} training rows were too long and were cut."
    if recipe.problem == "single-label":
        said = metrics.imbalance([str(row[recipe.label_column]) for row in data.train])
        facts |= {"imbalance": said} if said else {}
    if data.notes:
        facts["notes"] = list(data.notes)
    return facts


def _soft_prompt(
    recipe: Recipe,
    backbone: Backbone,
    task: Task,
    template: Template,
    loop: Loop,
    scores: dict[str, dict[str, float]],
    trained: int,
) -> SoftPrompt:
    folded = loop.prompt.fold()
    return SoftPrompt(
        template=template.source,
        task=recipe.task,
        slots=0 if folded.vectors is None else len(folded.vectors),
        vectors=None if folded.vectors is None else folded.vectors.cpu(),
        deep={s: type(kv)(kv.keys.cpu(), kv.values.cpu()) for s, kv in folded.deep.items()},
        offset=folded.offset,
        head=head_tensors(loop.prompt.head),
        labels=task.labels,
        verbalizer={k: list(v) for k, v in recipe.verbalizer.items()},
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        settings=recipe.to_dict(),
        scores=scores,
        trained_parameters=trained,
    )
