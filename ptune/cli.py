"""The command line: one function a verb; each imports what it needs when it is called.

Bad input ends in one sentence on standard error and exit status 1; wrong usage in status 2.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ptune.errors import BackboneError, PtuneError

# Exit status after Ctrl-C, as shells have it.
INTERRUPTED = 130

app = typer.Typer(
    name="ptune",
    help="Soft prompts (P-tuning) on frozen transformers: train, prove, keep, use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PromptArgument = Annotated[
    str, typer.Argument(metavar="PROMPT", help="Folder of the prompt, or hub:owner/name.")
]
BackboneOption = Annotated[
    str | None,
    typer.Option("--backbone", help="Model to run on, where it is not where it was trained."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Use a backbone that the prompt was not trained with.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to run: auto, cpu, cuda, cuda:1, mps.")
]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="Of the weights: auto, float32, bfloat16, float16.")
]
MapOption = Annotated[
    str | None,
    typer.Option("--device-map", help="Spread a large model: auto, balanced, sequential, disk."),
]
QuantizationOption = Annotated[
    str | None,
    typer.Option("--quantization", help="int8 or none; left out: as the prompt was trained."),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Rows at once.", min=1)]


def main() -> None:
    """Run the command line; an error of the user's is a sentence, never a traceback."""
    try:
        app(prog_name="ptune")
    except PtuneError as error:
        typer.echo(f"ptune: {error}", err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer makes this of Ctrl-C
            typer.echo("ptune: stopped.", err=True)
        raise


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from ptune import __version__

        typer.echo(f"ptune {__version__}")
        raise typer.Exit


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
    as_json: JsonOption = False,
) -> None:
    """Train one prompt and write it, its checkpoints and its log to the recipe's output folder.

    The backbone stays frozen; the result is a file of a few kilobytes. With --seeds, each seed has
    a folder in the output folder, and the mean and spread of the scores are shown.

    Example: ptune train recipes/twitter_complaints.yaml lr=0.1 output=runs/complaints
    """
    from ptune.config import Recipe

    chosen = Recipe.load(recipe, overrides or [])  # mistakes first, before torch is imported
    if seeds is not None:
        _train_seeds(chosen, seeds, resume=resume, as_json=as_json)
        return
    from ptune.display import show_result, watching
    from ptune.training import train_recipe

    with watching(silent=as_json) as watcher:
        result = train_recipe(chosen, resume=resume, watcher=watcher)
    if os.environ.get("RANK", "0") != "0":  # one of several processes; the first one tells
        return
    if as_json:
        _print_json({"output": chosen.output, "steps": result.steps, "scores": result.scores})
    else:
        show_result(result, Path(chosen.output))


def _train_seeds(recipe: Any, text: str, *, resume: bool, as_json: bool) -> None:
    from ptune.config import seeds_of

    seeds = seeds_of(text)
    from ptune.display import show_replicas, watching_all
    from ptune.training.replicas import replicas_summary, seed_names, train_seeds

    names = seed_names(seeds)
    with watching_all(names, silent=as_json) as watchers:
        results = train_seeds(recipe, seeds, resume=resume, watchers=watchers)
    if as_json:
        summary = replicas_summary(names, results)
        _print_json({"output": recipe.output, **summary})
    else:
        show_replicas(names, results, Path(recipe.output))
    errors = [result for result in results if isinstance(result, PtuneError)]
    if len(errors) == len(results):
        raise errors[0]


@app.command()
def evaluate(
    prompt: PromptArgument,
    data: Annotated[str, typer.Option("--data", help="Labelled rows: a file or hub:name.")],
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    device_map: MapOption = None,
    quantization: QuantizationOption = None,
    trust_remote_code: TrustOption = False,
    batch_size: BatchOption = 32,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a prompt on labelled rows.

    Example: ptune evaluate runs/complaints/prompt --data test.csv
    """
    way = _Way(device, dtype, device_map, quantization, trust_remote_code)
    soft, loaded = _load(prompt, backbone, way)
    from ptune.api import evaluate as evaluate_prompt
    from ptune.display import show_scores

    scores = evaluate_prompt(loaded, soft, data, batch_size=batch_size, force=force).scores
    if as_json:
        _print_json(scores)
    else:
        show_scores({"rows": scores})


@app.command()
def predict(
    prompt: PromptArgument,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to predict.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="Rows to predict: a file or hub:name.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write JSON lines here, in the rows' order.")
    ] = None,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    device_map: MapOption = None,
    quantization: QuantizationOption = None,
    trust_remote_code: TrustOption = False,
    batch_size: BatchOption = 32,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict texts, or the rows of a file.

    Example: ptune predict runs/complaints/prompt "no reply for three days"
    """
    if bool(texts) == (input_ is not None):
        raise typer.BadParameter("give texts, or --input and a file; one of the two.")
    way = _Way(device, dtype, device_map, quantization, trust_remote_code)
    soft, loaded = _load(prompt, backbone, way)
    from ptune.api import predict as predict_rows
    from ptune.display import check_writable, prediction_line, write_lines

    if output is not None:
        check_writable(output)  # now, and not after the work
    rows: Any = texts if input_ is None else input_
    predictions = predict_rows(loaded, soft, rows, batch_size=batch_size, force=force)
    lines = [
        json.dumps({"answer": p.answer, "probabilities": p.probabilities}, ensure_ascii=False)
        for p in predictions
    ]
    if output is not None:
        write_lines(output, lines)
        typer.echo(f"{len(lines)} predictions written to {output}")
    else:
        shown = lines if as_json else [prediction_line(p) for p in predictions]
        typer.echo("\n".join(shown))


@app.command()
def inspect(
    prompt: PromptArgument,
    backbone: BackboneOption = None,
    nearest: Annotated[int, typer.Option(help="Nearest vocabulary tokens to show.", min=0)] = 3,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a prompt is: template, parameters, scores, and what its virtual tokens are near to.

    Without its backbone at hand, say --nearest 0.
    """
    from ptune.prompt import SoftPrompt

    soft = SoftPrompt.load(prompt)
    summary = soft.summary()
    if nearest and soft.vectors is not None:
        from ptune.display import nearest_words

        _, loaded = _load(prompt, backbone)
        soft.check(loaded.fingerprint, loaded.name, force=force)
        summary["nearest tokens"] = nearest_words(loaded, soft, nearest)
    if as_json:
        _print_json(summary)
    else:
        from ptune.display import show_summary

        show_summary(summary)


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
    peer: Annotated[bool, typer.Option(help="Measure PEFT too, where it can say it.")] = True,
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
    from ptune.display import show_measured
    from ptune.showcase import demo_recipe

    measured = measure(
        chosen or demo_recipe(Path("runs/bench"), changes),
        steps=steps,
        peer=peer,
        tell=None if as_json else lambda line: typer.echo(line, err=True),
    )
    if as_json:
        _print_json(measured.to_dict())
    else:
        show_measured(measured)


@app.command()
def settings(as_json: JsonOption = False) -> None:
    """List every key of a recipe with its default, range and meaning."""
    from ptune.config import settings_table

    rows = settings_table()
    if as_json:
        _print_json([row._asdict() for row in rows])
        return
    from ptune.display import show_settings

    show_settings(rows)


@app.command()
def push(
    prompt: PromptArgument,
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
) -> None:
    """Upload a prompt to the Hugging Face hub, with its model card."""
    from ptune.prompt import SoftPrompt

    SoftPrompt.load(prompt).push_to_hub(repository, private=private)
    typer.echo(f"{prompt} is on the hub as {repository}")


class _Way(NamedTuple):
    """How to load a backbone: the options of the command line."""

    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    quantization: str | None = None
    trust_remote_code: bool = False


_AS_TRAINED = _Way()


def _load(prompt: str, backbone: str | None, way: _Way = _AS_TRAINED) -> tuple[Any, Any]:
    """Load a prompt, and the backbone that it names or that the user names."""
    from ptune.api import Backbone
    from ptune.prompt import SoftPrompt

    soft = SoftPrompt.load(prompt)
    options = way._asdict()
    if way.quantization is None and way.device_map is None:
        options["quantization"] = soft.settings.get("quantization")
    elif way.quantization == "none":
        options["quantization"] = None
    if backbone is not None:
        return soft, Backbone.load(backbone, **options)
    try:
        return soft, Backbone.load(soft.backbone, revision=soft.settings.get("revision"), **options)
    except BackboneError as error:
        raise BackboneError(f"{error} If it lies elsewhere, say where with --backbone.") from error


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
