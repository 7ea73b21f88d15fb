"""The typer application, the options that several verbs have, and what they print."""

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ptune.errors import BackboneError, NotLoadedError

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
SkipOption = Annotated[
    bool,
    typer.Option("--skip-bad-rows", help="Leave out, count and list rows that cannot be used."),
]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Rows at once.", min=1)]


class Way(NamedTuple):
    """How to load a backbone: the options of the command line."""

    device: str = "auto"
    dtype: str = "auto"
    device_map: str | None = None
    quantization: str | None = None
    trust_remote_code: bool = False


AS_TRAINED = Way()


def load_prompt(prompt: str, backbone: str | None, way: Way = AS_TRAINED) -> tuple[Any, Any]:
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
    if soft.backbone.startswith("./") and not Path(soft.backbone).exists():
        raise BackboneError(
            f"{prompt}: was trained on a model in a folder named {soft.backbone[2:]}; a prompt "
            "keeps no more of a path than that. Say where the folder is with --backbone."
        )
    try:
        return soft, Backbone.load(soft.backbone, revision=soft.settings.get("revision"), **options)
    except NotLoadedError as error:
        raise NotLoadedError(f"{error} If it lies elsewhere, say where with --backbone.") from error


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))
