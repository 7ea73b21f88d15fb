"""Verbs that make a prompt or measure how: `demo`, `train`, `share`, `bench`; their settings."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ptune.cli.app import JsonOption, SkipOption, app, print_json
from ptune.errors import ConfigError, PtuneError


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the prompt and the log.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Train a prompt that tells history from science, with the small model that comes with ptune.

    Needs no network and no data of yours: 150 messages to a homework desk to train on, 250 others
    to test on.
    """
    from ptune.display import show_demo, watching
    from ptune.showcase import run_demo

    with watching() as watcher:
        outcome = run_demo(output, watcher=watcher)
    show_demo(outcome)


@app.command()
def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="YAML file of the run; see `ptune settings`.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Train these seeds side by side, e.g. 0-7 or 0,3,5."),
    ] = None,
    skip_bad_rows: SkipOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one prompt and write it, its checkpoints and its log to the recipe's output folder.

    The backbone stays frozen, unless train_backbone says otherwise. The result is a folder of some
    kilobytes (virtual tokens) to megabytes (deep prompts of large models). With --seeds, each seed
    has a folder in the output folder, and the mean and spread of the scores are shown.

    Example: ptune train recipes/twitter_complaints.yaml lr=0.1 output=runs/complaints
    """
    from ptune.config import Recipe

    skipping = ["bad_rows=skip"] if skip_bad_rows else []
    # Mistakes first, before torch is imported.
    chosen = Recipe.load(recipe, [*(overrides or []), *skipping])
    if seeds is not None:
        own = next((text for text in overrides or [] if text.startswith("seed=")), None)
        if own is not None:
            raise ConfigError(f"{own} would be ignored: --seeds {seeds} says which. Leave it out.")
        _train_seeds(chosen, seeds, resume=resume, as_json=as_json)
        return
    from ptune.display import show_result, watching
    from ptune.training import train_recipe
    from ptune.training.scores import run_scores

    with watching(silent=as_json) as watcher:
        result = train_recipe(chosen, resume=resume, watcher=watcher)
    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first one tells
        return
    if as_json:
        print_json({"output": chosen.output, **run_scores(chosen.resolved(), result)})
    else:
        show_result(result, Path(chosen.output))


def _train_seeds(recipe: Any, text: str, *, resume: bool, as_json: bool) -> None:
    from ptune.config import seeds_of

    seeds = seeds_of(text)
    from ptune.display import show_replicas, watching_all
    from ptune.training.replicas import seed_names, train_seeds
    from ptune.training.scores import replicas_scores

    names = seed_names(seeds)
    with watching_all(names, silent=as_json) as watchers:
        results = train_seeds(recipe, seeds, resume=resume, watchers=watchers)
    if as_json:
        summary = replicas_scores(recipe.resolved(), names, results)
        print_json({"output": recipe.output, **summary})
    else:
        show_replicas(names, results, Path(recipe.output))
    errors = [result for result in results if isinstance(result, PtuneError)]
    if len(errors) == len(results):
        raise errors[0]


@app.command()
def share(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPES... [KEY=VALUE]...",
            help="YAML files, one a set of rows, and settings to change in all of them.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the prompts.")] = Path("runs/shared"),
    temperature: Annotated[
        float, typer.Option(help="1 draws sets by their size; more brings small ones up.")
    ] = 1.0,
    rank_one: Annotated[
        bool, typer.Option("--rank-one", help="Each set's prompt is the shared one times rank one.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train one prompt on several sets of rows, with a head for each set.

    Each recipe is a set, named as its file is. The prompt of every set is written to a folder of
    its name in the output folder, the one they share to shared/prompt.

    Example: ptune share rte.yaml boolq.yaml cb.yaml epochs=10 --output runs/nli
    """
    from ptune.config import Recipe

    changes = [text for text in recipes if "=" in text and not Path(text).exists()]
    for text in changes:
        if text.startswith("output="):
            raise ConfigError(f"{text}: ptune share takes it as --output.")
    files = [Path(text) for text in recipes if text not in changes]
    chosen = {file.stem: Recipe.load(file, changes) for file in files}
    if len(chosen) < len(files):
        raise typer.BadParameter("two recipes have one name; their prompts would be one folder.")
    from ptune.display import show_shared, watching
    from ptune.training.sharing import train_shared

    with watching(silent=as_json) as watcher:
        result = train_shared(
            chosen,
            output=output,
            temperature=temperature,
            rank_one=rank_one,
            resume=resume,
            watcher=watcher,
        )
    if as_json:
        scores = {name: one.scores for name, one in result.results.items()}
        print_json({"output": str(output), "steps": result.steps, "scores": scores})
    else:
        show_shared(result, output)


@app.command()
def bench(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE]", help="YAML file of the run; without it, the demo's."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps to time, after one to warm up.", min=1)] = 10,
    peer: Annotated[bool, typer.Option(help="Measure PEFT too, if it has the method.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure a recipe's training step here: seconds, tokens, memory, the floor, and PEFT.

    Nothing is trained to an end and nothing is written. Each side holds its own copy of the
    backbone, and they take one step each in turn.

    Example: ptune bench recipes/twitter_complaints.yaml batch_size=8 --steps 20
    """
    from ptune.config import Recipe

    changes = list(overrides or [])
    chosen = None  # mistakes first, before torch is imported
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        changes = [recipe, *changes]
    elif recipe is not None:
        chosen = Recipe.load(recipe, changes)
    from ptune.bench.measure import measure
    from ptune.display import show_bench
    from ptune.showcase import demo_recipe

    measured = measure(
        chosen or demo_recipe(Path("runs/bench"), changes),
        steps=steps,
        peer=peer,
        tell=None if as_json else lambda line: typer.echo(line, err=True),
    )
    if as_json:
        print_json(measured.to_dict())
    else:
        show_bench(measured)


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List the papers' runs that a recipe can take its settings from (preset: NAME)."""
    from ptune.config.presets import presets as all_presets

    if as_json:
        print_json([preset._asdict() for preset in all_presets().values()])
        return
    from ptune.display import show_presets

    show_presets(list(all_presets().values()))


@app.command()
def settings(as_json: JsonOption = False) -> None:
    """List every key of a recipe with its default, range and meaning."""
    from ptune.config import settings_table

    rows = settings_table()
    if as_json:
        print_json([row._asdict() for row in rows])
        return
    from ptune.display import show_settings

    show_settings(rows)
