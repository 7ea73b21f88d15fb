"""`train`: rows and settings in, a folded prompt with its scores out."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ptune import sharding
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.errors import ConfigError, TrainingError
from ptune.loading import named_device
from ptune.prompt import SoftPrompt
from ptune.tasks import Example, Task, TaskOptions, make_task
from ptune.template import Template
from ptune.trainable import TrainablePrompt
from ptune.training.build import build_prompt, head_tensors, plan_of
from ptune.training.cache import encode_rows
from ptune.training.dropout import check_dropout
from ptune.training.earlier import PROMPT, check_places, check_resume, told_earlier
from ptune.training.facts import facts_of, layout, unused
from ptune.training.found import with_found_words
from ptune.training.learner import Learner
from ptune.training.loop import Loop, make_accelerator
from ptune.training.options import Options
from ptune.training.prior import calibrate, check_calibration, prior_of
from ptune.training.remember import Batches, Remembered, remember
from ptune.training.report import Report, Watcher
from ptune.training.result import Result as Result
from ptune.training.rows import RunRows, Source, Sources, read_rows
from ptune.training.scores import run_scores, write_scores
from ptune.training.settle import with_pooling, with_template
from ptune.training.thawed import own_backbone, refuse_trained_backbone, said_of


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
        backbone: a loaded one, or the name or folder of a model. With `train_backbone` a copy of a
            loaded one is trained: the one given stays as it is.
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
    recipe = recipe_for(backbone, settings).resolved()
    folder = None if output is None else Path(output).expanduser()
    check_resume(resume, folder)
    check_places(folder)
    data = read_rows(recipe, Sources(train, validation, test))
    job = Job(recipe, data, folder, resume, watcher)
    if not isinstance(backbone, Backbone):
        return _train_one(job, load_backbone(recipe))
    return _train_one(job, own_backbone(recipe, backbone))


def recipe_for(backbone: Backbone | str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe of these settings; of a loaded backbone it says what the weights are held in.

    Raises:
        ConfigError: a setting says how to load a backbone that is loaded.
    """
    if not isinstance(backbone, Backbone):
        return Recipe.make(backbone=backbone, **settings)
    held = {"backbone": backbone.name, "quantization": backbone.quantization}
    as_it_is = {name: field.default for name, field in Recipe.model_fields.items()} | held
    given = [key for key in _LOADING if settings.get(key, as_it_is[key]) != as_it_is[key]]
    if given:
        raise ConfigError(
            f'{", ".join(given)}: "{backbone.name}" is loaded already, and this says how to load '
            "a backbone. Leave it out, or give the backbone's name instead."
        )
    return Recipe.make(**{**settings, **held})


def train_recipe(recipe: Recipe, *, resume: bool = False, watcher: Watcher | None = None) -> Result:
    """Train as a recipe says, and write prompt, checkpoints and log to its `output`."""
    sources = sources_of(recipe)
    recipe = recipe.resolved()
    folder = Path(recipe.output)
    check_resume(resume, folder)
    check_places(folder)
    data = read_rows(recipe, sources)  # mistakes in the rows first: loading may take minutes
    return _train_one(Job(recipe, data, folder, resume, watcher), load_backbone(recipe))


def sources_of(recipe: Recipe) -> Sources:
    """Where a recipe has its rows."""
    if recipe.train is None:
        raise ConfigError("train is missing. Give the file of the rows to train on.")
    return Sources(recipe.train, recipe.validation, recipe.test)


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
        device=_device(recipe),
        to_be_sharded=sharding.asked(),
        device_map=recipe.device_map,
        offload_folder=recipe.offload_folder,
        quantization=recipe.quantization,
        revision=recipe.revision,
        trust_remote_code=recipe.trust_remote_code,
        offline=recipe.offline,
    )


def _device(recipe: Recipe) -> str:
    """The recipe's; a process that was launched with others has a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")
    own = recipe.device == "auto" and recipe.device_map is None and torch.cuda.is_available()
    return f"cuda:{rank}" if own and rank is not None else recipe.device


def _join(recipe: Recipe, backbone: Backbone) -> Accelerator:
    """Meet the other processes of the run, and share the backbone out where that was asked."""
    if backbone.sharded or not sharding.asked():
        return make_accelerator(backbone.device)
    device = named_device(_device(recipe))
    accelerator = make_accelerator(device)
    backbone.shard(device)
    return accelerator


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to be trained.

    Args:
        recipe: resolved.
        output: folder for the prompt, the checkpoints and the log; None keeps nothing on disk.
        resume: go on from the checkpoint in `output`.
    """

    recipe: Recipe
    data: RunRows
    output: Path | None
    resume: bool = False
    watcher: Watcher | None = None


def _settled(job: Job, backbone: Backbone) -> Job:
    """The job with what its recipe leaves to the backbone."""
    data = with_template(job.recipe, job.data, backbone)
    recipe, data = with_found_words(job.recipe, data, backbone)
    return replace(job, recipe=with_pooling(recipe, backbone), data=data)


def _train_one(job: Job, backbone: Backbone) -> Result:
    (result,) = train_jobs([job], backbone)
    if isinstance(result, TrainingError):
        raise result
    return result


def train_jobs(jobs: Sequence[Job], backbone: Backbone) -> list[Result | TrainingError]:
    """Train the prompts of all jobs side by side, each as if alone.

    The jobs agree in task, precision, gradient_checkpointing and compile: one pass serves all.

    Returns:
        In the order of the jobs; a job that diverged gives the error that it ended with.
    Raises:
        TrainingError: the user stopped the run.
    """
    accelerator = _join(jobs[0].recipe, backbone)
    _check(jobs, backbone, accelerator.num_processes)
    jobs = [_settled(job, backbone) for job in jobs]
    made = [_made(job, backbone, accelerator) for job in jobs]
    learners = [one.learner for one in made]
    remembered = _remembered(jobs[0], backbone, learners, accelerator)
    loop = Loop(backbone, learners, accelerator=accelerator, trunk=remembered.trunk)
    for one in made:
        one.facts.update(remembered.facts)
        one.learner.report.start(one.learner.plan, one.facts, step=one.learner.progress.step)
    start = time.perf_counter()
    try:
        loop.run()
    finally:
        for learner in learners:
            learner.report.close()
    seconds = time.perf_counter() - start
    _test(loop, made)
    remembered.close()
    results = [one.learner.error or _result(one, backbone, seconds) for one in made]
    if accelerator.is_main_process:
        for one, result in zip(made, results, strict=True):
            if isinstance(result, Result) and one.job.output is not None:
                result.prompt.save(one.job.output / PROMPT)
                write_scores(one.job.output, run_scores(one.job.recipe, result))
    accelerator.wait_for_everyone()
    return results


def _check(jobs: Sequence[Job], backbone: Backbone, processes: int) -> None:
    """Refuse what cannot be trained on this backbone, in so many processes, side by side."""
    if len(jobs) > 1 and processes > 1:
        raise ConfigError(
            f"{len(jobs)} replicas in {processes} processes: replicas train side by side in one "
            "process. Start without accelerate launch, or give each process replicas of its own."
        )
    if any(job.recipe.train_backbone for job in jobs):
        refuse_trained_backbone(
            backbone,
            adapters=jobs[0].recipe.train_backbone == "adapters",
            prompts=len(jobs),
            processes=processes,
        )
    if jobs[0].recipe.backbone_dropout:
        check_dropout(backbone, prompts=len(jobs))


@dataclass(frozen=True, slots=True)
class _Made:
    """A job, ready to be trained: its rows are encoded and its prompt stands at its start."""

    job: Job
    learner: Learner
    testing: Sequence[Example]
    facts: dict[str, object]
    scores: dict[str, dict[str, float]]


def _made(job: Job, backbone: Backbone, accelerator: Accelerator) -> _Made:
    recipe, data, main = job.recipe, job.data, accelerator.is_main_process
    task, prompt = task_and_prompt(recipe, backbone, data)
    check_calibration(task, kind=recipe.calibration, fields=data.template.fields)
    training, validation, testing, notes, used = encode_rows(recipe, backbone, task, data)
    learner = Learner(
        task,
        prompt,
        training=training,
        validation=validation,
        options=Options.of(recipe, backbone.dtype),
        plan=plan_of(recipe, backbone, task, training),
        device=backbone.device,
        output=job.output,
        identity=identity_of(recipe, backbone, data),
        report=Report(
            job.output if main else None,
            tracker=recipe.tracker,
            watcher=job.watcher if main else None,
        ),
        accelerator=accelerator,
    )
    notes = [
        *said_of(recipe, prompt, backbone),
        *unused(recipe),
        *data.notes,
        *notes,
        *layout(recipe, backbone),
        *(learner.load() if job.resume else told_earlier(job.output)),
    ]
    facts = facts_of(recipe, backbone, used, training, prompt.numbers, notes)
    return _Made(job, learner, testing, facts, {})


def _remembered(
    job: Job, backbone: Backbone, learners: Sequence[Learner], accelerator: Accelerator
) -> Remembered:
    """The trunk of the pass, for the rows of all learners."""
    return remember(
        job.recipe,
        backbone,
        [one.prompt for one in learners],
        [
            Batches(one.training, one.validation, one.plan, one.options.evaluation_batch_size)
            for one in learners
        ],
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        output=job.output,
    )


def _test(loop: Loop, made: Sequence[_Made]) -> None:
    """Put each best prompt back, and score it on the test rows."""
    for one in made:
        one.learner.keep_best()
        if one.learner.validation:
            one.scores["validation"] = one.learner.progress.best_scores
        _calibrate(loop, one)
    asked = [one for one in made if one.testing and one.learner.error is None]
    if not asked:
        return
    found = loop.measure([(one.learner, one.testing) for one in asked])
    for one, measured in zip(asked, found, strict=True):
        with one.learner.guarded():
            one.scores["test"] = one.learner.evaluation(measured, one.testing).scores


def _calibrate(loop: Loop, one: _Made) -> None:
    """Measure what is to be taken out of predictions, and the validation score anew."""
    learner, fields = one.learner, one.job.data.template.fields
    kind = one.job.recipe.calibration
    if calibrate(loop, learner, kind=kind, fields=fields) and learner.validation:
        (measured,) = loop.measure([(learner, learner.validation)])
        with learner.guarded():
            one.scores["validation"] = learner.evaluation(measured, learner.validation).scores


def _result(one: _Made, backbone: Backbone, seconds: float) -> Result:
    recipe, prompt, task = one.job.recipe, one.learner.prompt, one.learner.task
    made = soft_prompt(recipe, backbone, one.job.data.template, task, prompt.fold(), prompt.head)
    soft = replace(
        made,
        scores=one.scores,
        trained_parameters=prompt.numbers,
        backbone_weights={} if prompt.backbone is None else prompt.backbone.named(),
    )
    return Result(soft, one.scores, one.learner.progress.step, seconds, one.facts)


def task_and_prompt(
    recipe: Recipe, backbone: Backbone, data: RunRows
) -> tuple[Task, TrainablePrompt]:
    """The recipe's task, bound, and its prompt at its start."""
    task = task_of(recipe, data.template, backbone, data.labels)
    prompt = build_prompt(recipe, backbone, task, data.template, task.layout)
    if prompt.offset:  # its keys stand at positions that rows then cannot have
        task = task_of(recipe, data.template, backbone, data.labels, offset=prompt.offset)
    return task, prompt


def task_of(
    recipe: Recipe,
    template: Template,
    backbone: Backbone,
    labels: Sequence[str],
    *,
    offset: int = 0,
) -> Task:
    """The recipe's task, bound to the backbone; `offset` is that of the prompt."""
    options = TaskOptions.of(recipe.to_dict(), labels=labels, offset=offset)
    return make_task(recipe.task, template, backbone, options)


# Settings that say how a backbone is loaded.
_LOADING = (
    *("dtype", "device", "device_map", "offload_folder", "quantization"),
    *("revision", "trust_remote_code"),
)

# Settings that say where to run and what to show, not what is computed.
_NOT_IDENTITY = frozenset(
    # The rows and the backbone are known by their fingerprints, wherever they lie.
    {"output", "tracker", "train", "validation", "test", "backbone", "device", "offline", "cache"}
    | {"device_map", "offload_folder", "compile"}
)


def identity_of(recipe: Recipe, backbone: Backbone, data: RunRows) -> dict[str, Any]:
    """What must be equal for a run to go on where another one stopped."""
    settings = {k: v for k, v in recipe.to_dict().items() if k not in _NOT_IDENTITY}
    return {**settings, "data": data.fingerprint(), "fingerprint": backbone.fingerprint}


def soft_prompt(
    recipe: Recipe,
    backbone: Backbone,
    template: Template,
    task: Task,
    folded: PromptTensors,
    head: nn.Module | None,
) -> SoftPrompt:
    """What ships: the folded prompt with all that is needed to use it."""
    return SoftPrompt(
        template=template.source,
        task=recipe.task,
        slots=0 if folded.vectors is None else len(folded.vectors),
        vectors=None if folded.vectors is None else folded.vectors.cpu(),
        deep={s: type(kv)(kv.keys.cpu(), kv.values.cpu()) for s, kv in folded.deep.items()},
        offset=folded.offset,
        head=head_tensors(head),
        labels=task.labels,
        verbalizer={k: list(v) for k, v in recipe.verbalizer.items()},
        prior=prior_of(task),
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        settings=recipe.to_dict(),
    )
