"""Replicas: several prompts trained side by side in one pass over the frozen backbone.

    results = ptune.train_replicas(backbone, "train.csv",
                                   [{"seed": 0}, {"seed": 1, "lr": 0.1}, {"encoder": "mlp"}],
                                   template="{soft:20}{text} Label : {label}")

Each is trained as if it were alone: rows, order, random numbers, step sizes, clipping, best step
and early stop are its own. What they share is the pass, which pays where the steps of one prompt
alone keep the machine waiting: few rows a step, and short ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.data import load_rows
from ptune.errors import ConfigError, TrainingError
from ptune.training.earlier import begun, check_places, check_resume
from ptune.training.job import Job, Result, load_backbone, recipe_for, sources_of, train_jobs
from ptune.training.report import Watcher
from ptune.training.rows import Source, Sources, read_rows
from ptune.training.scores import replicas_scores, write_scores
from ptune.training.thawed import own_backbone

# What there is once, for all replicas: the backbone and its pass, the rows, and what is asked of
# them. A variant may change everything else.
SHARED = frozenset(
    {
        *("backbone", "dtype", "device", "trust_remote_code", "revision", "offline"),
        *("device_map", "offload_folder", "quantization"),
        *("precision", "gradient_checkpointing", "compile", "trunk_cache", "backbone_dropout"),
        *("train", "validation", "test", "label_column", "columns", "labels", "bad_rows"),
        *("task", "problem", "answer", "output"),
    }
)


def train_replicas(
    backbone: Backbone | str,
    train: Source,
    variants: Sequence[Mapping[str, Any]],
    *,
    validation: Source | None = None,
    test: Source | None = None,
    output: str | Path | None = None,
    names: Sequence[str] | None = None,
    resume: bool = False,
    watchers: Sequence[Watcher] | None = None,
    **settings: Any,
) -> list[Result | TrainingError]:
    """Train several prompts side by side, each as if alone, in one pass over the backbone.

    A pass holds the rows of every replica's step, so it needs about as much memory as one prompt
    with a batch that many times as large. Losses differ from those of a run alone by rounding,
    because the backbone adds its sums up in another order.

    Args:
        backbone, train, validation, test: as in `ptune.train`.
        variants: of each replica the settings that are its own, e.g. `{"seed": 1, "lr": 0.1}`.
            Anything but the backbone, its precision, the rows and the task.
        output: folder with a folder for each replica, which is that of a run alone.
        names: of those folders; None: replica-0, replica-1, ...
        resume: go on from the checkpoints in `output`. A replica without one begins.
        watchers: one for each replica.
        settings: keys of a recipe, for all replicas.
    Returns:
        In the order of `variants`. One that diverged is the `TrainingError` that `ptune.train`
        would have raised; the others are not disturbed. `Result.seconds` is that of all together.
    Raises:
        ConfigError, TemplateError, DataError, BackboneError: something does not fit; the message
            says what.
        TrainingError: the run was stopped; the message says what was kept.
    """
    common = recipe_for(backbone, settings)
    recipes = _recipes(common, variants)
    folders = _folders(output, names, len(variants))
    check_resume(resume, None if output is None else Path(output), folders)
    for folder in folders:
        check_places(folder)
    sources = Sources(train, validation, test)
    jobs = _jobs(recipes, sources, folders, resume, watchers)
    if not isinstance(backbone, Backbone):
        return train_jobs(jobs, load_backbone(common))
    return train_jobs(jobs, own_backbone(common, backbone))


def train_seeds(
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    watchers: Sequence[Watcher] | None = None,
) -> list[Result | TrainingError]:
    """Train a recipe with several seeds side by side, into `output/seed-0` and so on."""
    sources = sources_of(recipe)
    folders = _folders(recipe.output, seed_names(seeds), len(seeds))
    check_resume(resume, Path(recipe.output), folders)
    for folder in folders:
        check_places(folder)
    recipes = [
        recipe.changed(seed=seed, output=str(folder)).resolved()
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    jobs = _jobs(recipes, sources, folders, resume, watchers)
    results = train_jobs(jobs, load_backbone(recipe))
    write_scores(Path(recipe.output), replicas_scores(recipes[0], seed_names(seeds), results))
    return results


def seed_names(seeds: Sequence[int]) -> list[str]:
    """Names of the folders of `train_seeds`.

    >>> seed_names([0, 7])
    ['seed-0', 'seed-7']
    """
    return [f"seed-{seed}" for seed in seeds]


def _jobs(
    recipes: Sequence[Recipe],
    sources: Sources,
    folders: Sequence[Path | None],
    resume: bool,
    watchers: Sequence[Watcher] | None,
) -> list[Job]:
    """Read the rows once, and draw those of each replica as its seed says."""
    load = partial(load_rows, offline=recipes[0].offline)
    loaded = Sources(
        load(sources.train),
        None if sources.validation is None else load(sources.validation),
        None if sources.test is None else load(sources.test),
    )
    if watchers is not None and len(watchers) != len(recipes):
        raise ConfigError(
            f"{len(watchers)} watchers for {len(recipes)} replicas. Give one for each, or none."
        )
    jobs = [
        Job(recipe, read_rows(recipe, loaded), folder, resume=resume and begun(folder))
        for recipe, folder in zip(recipes, folders, strict=True)
    ]
    if watchers is None:
        return jobs
    return [replace(job, watcher=one) for job, one in zip(jobs, watchers, strict=True)]


def _recipes(common: Recipe, variants: Sequence[Mapping[str, Any]]) -> list[Recipe]:
    """The whole recipe of each replica.

    Raises:
        ConfigError: there is no variant, or one changes what all share, or what is not allowed.
    """
    if not variants:
        raise ConfigError("variants is empty. Give the settings of one replica or more.")
    recipes = []
    for at, variant in enumerate(variants):
        shared = sorted(SHARED & set(variant))
        if shared:
            raise ConfigError(
                f"variants[{at}] changes {', '.join(shared)}, which all replicas share: they are "
                "trained in one pass over one backbone, on the same rows and task. Set it for all, "
                "or train in several runs."
            )
        try:
            recipes.append(common.changed(**variant).resolved())
        except ConfigError as error:
            raise ConfigError(f"variants[{at}]: {error}") from None
    return recipes


def _folders(
    output: str | Path | None, names: Sequence[str] | None, count: int
) -> list[Path] | list[None]:
    chosen = [f"replica-{at}" for at in range(count)] if names is None else list(names)
    if len(chosen) != count or len(set(chosen)) != count:
        raise ConfigError(
            f"names = [{', '.join(chosen)}]: there are {count} replicas, and each needs a name of "
            "its own."
        )
    for name in chosen:
        if Path(name).name != name or name in ("", ".."):
            raise ConfigError(f'names: "{name}" cannot be the name of a folder. Choose another.')
    return (
        [None] * count if output is None else [Path(output).expanduser() / name for name in chosen]
    )
