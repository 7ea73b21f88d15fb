"""`train`: rows and settings in, a folded prompt with its scores out."""

import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ptune import metrics
from ptune.artifact import exists
from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.data import Rows, labels_of
from ptune.errors import ConfigError
from ptune.prompt import SoftPrompt
from ptune.tasks import Example, Task, make_task
from ptune.template import Template
from ptune.trainable import TrainablePrompt
from ptune.training.build import build_prompt, head_tensors
from ptune.training.loop import CHECKPOINT, Loop, make_accelerator
from ptune.training.options import Options
from ptune.training.remember import remember
from ptune.training.report import Report, Watcher
from ptune.training.rows import RunRows, Source, Sources, answers_in, read_rows
from ptune.training.schedule import Plan

# With fewer steps than this a prompt has not settled; see `default_epochs`.
FEW_STEPS = 300


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
    recipe = Recipe.make(backbone=name, **settings).resolved()
    folder = None if output is None else Path(output)
    _check_resume(resume, folder)
    data = read_rows(recipe, Sources(train, validation, test))
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(recipe)
    return _train(
        _with_pooling(recipe, loaded), loaded, data, folder, resume=resume, watcher=watcher
    )


def train_recipe(recipe: Recipe, *, resume: bool = False, watcher: Watcher | None = None) -> Result:
    """Train as a recipe says, and write prompt, checkpoints and log to its `output`."""
    if recipe.train is None:
        raise ConfigError("train is missing. Give the file of the rows to train on.")
    sources = Sources(recipe.train, recipe.validation, recipe.test)
    recipe = recipe.resolved()
    _check_resume(resume, Path(recipe.output))
    data = read_rows(recipe, sources)  # mistakes in the rows first: loading may take minutes
    backbone = load_backbone(recipe)
    recipe = _with_pooling(recipe, backbone)
    return _train(recipe, backbone, data, Path(recipe.output), resume=resume, watcher=watcher)


def _with_pooling(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with the backbone's pooling in place of "auto": artifacts say what was trained."""
    if recipe.task != "sequence-classification" or recipe.pooling != "auto":
        return recipe
    return recipe.changed(pooling=backbone.pooling)


def _check_resume(resume: bool, output: Path | None) -> None:
    if resume and output is None:
        raise ConfigError("resume needs the output folder of the run to go on with.")
    if resume and output is not None and not exists(output / CHECKPOINT):
        raise ConfigError(
            f"{output / CHECKPOINT}: there is no checkpoint to go on from. Name the output folder "
            "of the run, or start without --resume (resume=True)."
        )


def load_backbone(recipe: Recipe) -> Backbone:
    """Load the backbone of a recipe; `precision: bf16` holds its weights in bfloat16, once."""
    if recipe.backbone is None:
        raise ConfigError("backbone is missing. Give the name or the folder of a model.")
    dtype = recipe.dtype
    if dtype == "auto" and recipe.precision != "auto":
        dtype = "bfloat16" if recipe.precision == "bf16" else "float32"
    device, local_rank = recipe.device, os.environ.get("LOCAL_RANK")
    if device == "auto" and local_rank is not None and torch.cuda.is_available():
        device = f"cuda:{local_rank}"  # launched with others: each process has a GPU of its own
    return Backbone.load(
        recipe.backbone,
        dtype=dtype,
        device=device,
        revision=recipe.revision,
        trust_remote_code=recipe.trust_remote_code,
        offline=recipe.offline,
    )


def _train(
    recipe: Recipe,
    backbone: Backbone,
    data: RunRows,
    output: Path | None,
    *,
    resume: bool,
    watcher: Watcher | None,
) -> Result:
    task, prompt = _task_and_prompt(recipe, backbone, data)
    training = task.training_examples(data.train, answers_in(recipe, data.train))
    validation = _examples(task, data.validation, recipe)
    testing = _examples(task, data.test, recipe)
    plan = Plan.make(
        len(training),
        rows_per_step=recipe.batch_size * recipe.accumulation,
        epochs=recipe.epochs or default_epochs(len(training), recipe),
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )
    autocast = recipe.precision == "bf16" and backbone.dtype == torch.float32
    accelerator = make_accelerator(backbone.device)
    remembered = remember(
        recipe,
        backbone,
        [prompt],
        training,
        validation,
        plan,
        world=accelerator.num_processes,
        output=output,
    )
    facts = _facts(recipe, backbone, data, training, _numbers(prompt)) | remembered.facts
    main = accelerator.is_main_process
    report = Report(
        output if main else None, tracker=recipe.tracker, watcher=watcher if main else None
    )
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
        accelerator=accelerator,
        trunk=remembered.trunk,
    )
    if resume:
        loop.load()
    report.start(plan, facts, step=loop.progress.step)
    start = time.perf_counter()
    try:
        with _own_random_state(backbone.device):
            loop.run()
    finally:
        report.close()
    seconds = time.perf_counter() - start
    loop.keep_best()
    scores = _scores(loop, testing)
    remembered.close()
    soft = _soft_prompt(recipe, backbone, task, data.template, loop, scores)
    if output is not None and main:
        soft.save(output / "prompt")
    accelerator.wait_for_everyone()
    return Result(soft, scores, loop.progress.step, seconds, facts)


def _task_and_prompt(
    recipe: Recipe, backbone: Backbone, data: RunRows
) -> tuple[Task, TrainablePrompt]:
    task = task_of(recipe, data.template, backbone, data.labels)
    prompt = build_prompt(recipe, backbone, task, data.template, task.layout)
    if prompt.offset:  # its keys stand at positions that rows then cannot have
        task = task_of(recipe, data.template, backbone, data.labels, offset=prompt.offset)
    return task, prompt


def _scores(loop: Loop, testing: Sequence[Example]) -> dict[str, dict[str, float]]:
    """The best scores on the validation rows, and those on the test rows, now."""
    scores = {"validation": loop.progress.best_scores} if loop.validation else {}
    return scores | ({"test": loop.evaluate(testing).scores} if testing else {})


def _numbers(prompt: TrainablePrompt) -> int:
    return sum(p.numel() for p in prompt.parameters())


def _own_random_state(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn inside leaves the user's random state alone."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def default_epochs(rows: int, recipe: Recipe) -> int:
    """Enough epochs for about `FEW_STEPS` steps, from 5 to 20."""
    steps = math.ceil(rows / (recipe.batch_size * recipe.accumulation))
    return min(20, max(5, math.ceil(FEW_STEPS / steps)))


def task_of(
    recipe: Recipe,
    template: Template,
    backbone: Backbone,
    labels: Sequence[str],
    *,
    offset: int = 0,
) -> Task:
    """The recipe's task, bound to the backbone; `offset` is that of the prompt."""
    return make_task(
        recipe.task,
        template,
        backbone,
        labels=labels,
        words=recipe.verbalizer,
        problem=recipe.problem,
        loss=recipe.loss,
        pooling=recipe.pooling,
        max_tokens=recipe.max_tokens,
        offset=offset,
    )


def _examples(task: Task, rows: Rows | None, recipe: Recipe) -> list[Example]:
    if rows is None:
        return []
    return task.examples(rows, answers_in(recipe, rows))


# Settings that say where to run and what to show, not what is computed.
_NOT_IDENTITY = frozenset(
    # The rows and the backbone are known by their fingerprints, wherever they lie.
    {"output", "tracker", "train", "validation", "test", "backbone", "device", "offline"}
)


def _identity(recipe: Recipe, backbone: Backbone, data: RunRows) -> dict[str, Any]:
    """What must be equal for a run to go on where another one stopped."""
    settings = {k: v for k, v in recipe.to_dict().items() if k not in _NOT_IDENTITY}
    return {**settings, "data": data.fingerprint(), "fingerprint": backbone.fingerprint}


def _facts(
    recipe: Recipe, backbone: Backbone, data: RunRows, training: Sequence[Example], trained: int
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
    if recipe.problem == "single-label" and data.labels:
        said = metrics.imbalance(labels_of(data.train, recipe.label_column))
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
        trained_parameters=_numbers(loop.prompt),
    )
