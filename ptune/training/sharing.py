"""`train_shared`: several recipes in, one shared prompt and a prompt for each recipe out.

    ptune share rte.yaml boolq.yaml cb.yaml --output runs/shared

    runs/shared/shared/prompt     the prompt that all sets share, without a head
    runs/shared/rte/prompt        what ships for rte: that prompt (or its own one, by rank_one) and
                                  its head
    runs/shared/checkpoint        to go on from (--resume)

    ptune train rte.yaml init=runs/shared/rte/prompt       from there, for one set alone

A set is a recipe: its rows, template and labels are its own; what is trained, and how, is said once
and must be equal in all.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.prompt import SoftPrompt
from ptune.tasks import Task
from ptune.trainable import TrainablePrompt
from ptune.training.build import default_epochs
from ptune.training.cache import Encoded, encode_rows
from ptune.training.checkpoint import SETS
from ptune.training.dropout import check_dropout
from ptune.training.earlier import PROMPT, check_places, check_resume, told_earlier
from ptune.training.facts import unused
from ptune.training.job import (
    identity_of,
    load_backbone,
    soft_prompt,
    sources_of,
    task_and_prompt,
)
from ptune.training.learner import CHECKPOINT
from ptune.training.loop import Loop, make_accelerator
from ptune.training.options import Options
from ptune.training.report import Report, Watcher
from ptune.training.result import Result
from ptune.training.rows import RunRows, read_rows
from ptune.training.schedule import Plan
from ptune.training.scores import run_scores, write_scores
from ptune.training.settle import with_pooling, with_template
from ptune.training.shared import BySets, OneSet, Sets, SharedLearner, SharedPrompt, scores_of

SHARED = "shared"
# What each set says for itself. The rest is said once: the sets are trained in one run.
OWN = frozenset(
    {
        *("train", "validation", "test", "label_column", "columns", "labels", "verbalizer"),
        *("validation_share", "few_shot", "max_rows", "bad_rows", "template", "problem", "answer"),
        *("reader", "choices", "output", "cache"),
    }
)


@dataclass(frozen=True, slots=True)
class SharedResult:
    """What a run over several sets gave.

    Args:
        shared: the prompt that all sets share; it has no head.
        results: of each set its prompt, scores and facts; `seconds` are those of the whole run.
        steps: of the whole run.
    """

    shared: SoftPrompt
    results: dict[str, Result]
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Set:
    """A set, ready to be trained on."""

    name: str
    recipe: Recipe
    data: RunRows
    task: Task
    prompt: TrainablePrompt
    rows: Encoded


def train_shared(
    recipes: Mapping[str, Recipe],
    *,
    output: str | Path | None = None,
    backbone: Backbone | None = None,
    temperature: float = 1.0,
    rank_one: bool = False,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> SharedResult:
    """Train one prompt on several sets of rows, each batch from one of them.

    Args:
        recipes: of each set by its name, which is that of its folder. They agree in all that is no
            business of the rows (`OWN`); seed, epochs and step size are those of the run.
        output: folder for the prompts, the checkpoint and the log; None keeps nothing on disk.
        backbone: a loaded one; None loads that of the recipes.
        temperature: 1 draws sets by their size; more brings small ones up; at least 1.
        rank_one: each set has a prompt of its own, the shared one times rank one.
        resume: go on from the checkpoint in `output`.
    Raises:
        ConfigError, TemplateError, DataError, BackboneError: something does not fit.
        TrainingError: the run diverged or was stopped.
    """
    recipes = {name: recipe.resolved() for name, recipe in recipes.items()}
    _check(recipes, temperature)
    folder = None if output is None else Path(output).expanduser()
    check_resume(resume, folder)
    check_places(folder, [*recipes, SHARED])
    data = {name: read_rows(recipe, sources_of(recipe)) for name, recipe in recipes.items()}
    common = next(iter(recipes.values()))
    loaded = load_backbone(common) if backbone is None else backbone
    accelerator = make_accelerator(loaded.device)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"{accelerator.num_processes} processes: a shared prompt is trained in one. Start "
            "without accelerate launch."
        )
    if common.backbone_dropout:
        check_dropout(loaded)
    sets = [_set(name, recipe, loaded, data[name]) for name, recipe in recipes.items()]
    _check_slots(sets)
    learner = _learner(sets, loaded, accelerator, folder, temperature, rank_one, watcher)
    notes = learner.load() if resume else told_earlier(folder, [*recipes, SHARED])
    return _run(sets, learner, loaded, accelerator, folder, notes)


def _check(recipes: Mapping[str, Recipe], temperature: float) -> None:
    if len(recipes) < 2:
        raise ConfigError("A shared prompt needs two sets of rows or more. Give another recipe.")
    if not temperature >= 1:
        raise ConfigError(f"temperature = {temperature} is not allowed. Allowed: 1 or more.")
    for name in recipes:
        if Path(name).name != name or name in ("", "..", SHARED, CHECKPOINT):
            raise ConfigError(f'"{name}" cannot be the name of a set\'s folder. Choose another.')
    _check_common(recipes)
    if next(iter(recipes.values())).tokens_per_batch is not None:
        raise ConfigError("tokens_per_batch does not go with a shared prompt. Set batch_size.")
    if any(recipe.train_backbone for recipe in recipes.values()):
        raise ConfigError(
            "train_backbone does not go with a shared prompt, whose sets share one frozen "
            "backbone. Leave it out."
        )


def _check_common(recipes: Mapping[str, Recipe]) -> None:
    """Refuse sets that would be trained in different ways, or by what is done of one prompt."""
    for key, none in (("calibration", "none"), ("found_words", None)):
        if any(getattr(recipe, key) != none for recipe in recipes.values()):
            raise ConfigError(f"{key} does not go with a shared prompt. Leave it out.")
    if any(recipe.trunk_cache not in ("auto", "off") for recipe in recipes.values()):
        raise ConfigError(
            "trunk_cache does not go with a shared prompt: the states of several sets are not "
            "remembered. Leave it out."
        )
    (first, one), *others = recipes.items()
    for name, other in others:
        for key, value in one.to_dict().items():
            found = other.to_dict()[key]
            if key not in OWN and found != value:
                raise ConfigError(
                    f"{key} is {value} in {first} and {found} in {name}: sets that share a prompt "
                    f"are trained in one run. Give both the same {key}."
                )


def _set(name: str, recipe: Recipe, backbone: Backbone, data: RunRows) -> _Set:
    recipe, data = with_pooling(recipe, backbone), with_template(recipe, data, backbone)
    task, prompt = task_and_prompt(recipe, backbone, data)
    return _Set(name, recipe, data, task, prompt, encode_rows(recipe, backbone, task, data))


def _check_slots(sets: Sequence[_Set]) -> None:
    for one in sets[1:]:
        if one.task.layout.slots != sets[0].task.layout.slots:
            raise ConfigError(
                f"The template of {sets[0].name} has {sets[0].task.layout.slots} virtual tokens "
                f"and that of {one.name} {one.task.layout.slots}. A shared prompt has as many in "
                "every set."
            )


def _learner(
    sets: Sequence[_Set],
    backbone: Backbone,
    accelerator: Accelerator,
    output: Path | None,
    temperature: float,
    rank_one: bool,
    watcher: Watcher | None,
) -> SharedLearner:
    recipe = sets[0].recipe
    counts = tuple(len(one.rows.training) for one in sets)
    plan = Plan.of(
        BySets(counts, recipe.batch_size, temperature),
        recipe.accumulation,
        epochs=recipe.epochs or default_epochs(sum(counts), recipe),
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )
    prompt = SharedPrompt(sets[0].prompt, [one.prompt.head for one in sets], rank_one=rank_one)
    identity = {one.name: identity_of(one.recipe, backbone, one.data) for one in sets}
    return SharedLearner(
        [OneSet(one.name, one.task) for one in sets],
        prompt,
        training=Sets([one.rows.training for one in sets]),
        validation=Sets([one.rows.validation for one in sets]),
        options=Options.of(recipe, backbone.dtype),
        plan=plan,
        device=backbone.device,
        output=output,
        identity={SETS: identity, "temperature": temperature, "rank_one": rank_one},
        report=Report(output, tracker=recipe.tracker, watcher=watcher),
        accelerator=accelerator,
    )


def _run(
    sets: Sequence[_Set],
    learner: SharedLearner,
    backbone: Backbone,
    accelerator: Accelerator,
    output: Path | None,
    notes: Sequence[str],
) -> SharedResult:
    facts: dict[str, object] = {
        "backbone": backbone.name,
        "training rows": {one.name: len(one.rows.data.train) for one in sets},
        "validation rows": {one.name: len(one.rows.data.validation or ()) for one in sets},
        "trained parameters": learner.prompt.numbers,
        "trained share": learner.prompt.numbers / backbone.parameters,
        "notes": [
            *notes,
            *(note for one in sets for note in (*one.data.notes, *one.rows.notes)),
            *unused(sets[0].recipe),  # such settings are equal in all sets
        ],
    }
    loop = Loop(backbone, [learner], accelerator=accelerator)
    learner.report.start(learner.plan, facts, step=learner.progress.step)
    start = time.perf_counter()
    try:
        loop.run()
    finally:
        learner.report.close()
    seconds = time.perf_counter() - start
    if learner.error is not None:
        raise learner.error
    learner.keep_best()
    steps = learner.progress.step
    tested = _test(loop, learner, sets)
    results = {
        one.name: _result(one, number, learner, backbone, tested, seconds)
        for number, one in enumerate(sets)
    }
    whole = SharedResult(_shared(sets[0], learner, backbone), results, steps, seconds)
    if output is not None:
        _write(whole, {one.name: one.recipe for one in sets}, output)
    return whole


def _test(loop: Loop, learner: SharedLearner, sets: Sequence[_Set]) -> dict[str, float]:
    """Scores of the test rows of all sets that have some, named by set."""
    examples = Sets([one.rows.test for one in sets])
    if not len(examples):
        return {}
    (measured,) = loop.measure([(learner, examples)])
    return learner.evaluation(measured, examples).scores


def _result(
    one: _Set,
    number: int,
    learner: SharedLearner,
    backbone: Backbone,
    tested: Mapping[str, float],
    seconds: float,
) -> Result:
    prompt = learner.prompt
    scores = {
        split: scores_of(one.name, found)
        for split, found in (("validation", learner.progress.best_scores), ("test", tested))
    }
    scores = {split: found for split, found in scores.items() if found}
    made = soft_prompt(
        one.recipe,
        backbone,
        one.data.template,
        one.task,
        prompt.fold_of(number),
        prompt.head_of(number),
    )
    soft = replace(made, scores=scores, trained_parameters=prompt.numbers)
    return Result(soft, scores, learner.progress.step, seconds, {"notes": list(one.rows.notes)})


def _shared(first: _Set, learner: SharedLearner, backbone: Backbone) -> SoftPrompt:
    """The shared prompt, told by the first set's template; it has no head and no labels."""
    made = soft_prompt(
        first.recipe, backbone, first.data.template, first.task, learner.prompt.fold(), None
    )
    return replace(made, labels=(), verbalizer={}, trained_parameters=learner.prompt.numbers)


def _write(whole: SharedResult, recipes: Mapping[str, Recipe], output: Path) -> None:
    whole.shared.save(output / SHARED / PROMPT)
    for name, result in whole.results.items():
        result.prompt.save(output / name / PROMPT)
        write_scores(output / name, run_scores(recipes[name], result))
