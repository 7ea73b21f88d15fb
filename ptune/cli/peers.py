"""Verbs that exchange prompts with other libraries: `import`, `export`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ptune.cli.app import (
    BackboneOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    PromptArgument,
    TrustOption,
    Way,
    app,
    load_prompt,
    print_json,
)
from ptune.errors import ConfigError

# Endings of checkpoints that the authors' code of P-tuning and P-tuning v2 writes.
CHECKPOINTS = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


@app.command("import")
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of PEFT's, hub:owner/name, or a checkpoint file of P-tuning (v2).",
        ),
    ],
    backbone: Annotated[str, typer.Option(help="Model that it was made for.")],
    output: Annotated[Path, typer.Option(help="Folder for the prompt.")],
    template: Annotated[
        str | None, typer.Option(help="What the rows were written as; left out: {text}.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels in the order of the head's outputs: yes,no.")
    ] = None,
    problem: Annotated[
        Literal["single-label", "multi-label", "regression"] | None,
        typer.Option(help="What a row's label is; left out: as the head has it."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Of a checkpoint file, which does not say it; left out: sequence-classification."
        ),
    ] = None,
    task_index: Annotated[
        int | None, typer.Option(help="Which task of a multitask prompt, from 0.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a prompt of what PEFT, or the code of the P-tuning papers, has saved.

    Example: ptune import complaints-peft --backbone bigscience/bloomz-560m --output complaints
    --template "Tweet text : {text} Label : {label}" --labels "complaint,no complaint"
    """
    is_file = Path(source).is_file() or source.endswith(CHECKPOINTS)
    _refuse_unused(source, is_file, task=task, task_index=task_index, revision=revision)
    from ptune.api import Backbone
    from ptune.formats import import_peft, import_thudm

    loaded = Backbone.load(
        backbone, device=device, dtype=dtype, trust_remote_code=trust_remote_code
    )
    names = tuple(name.strip() for name in labels.split(",")) if labels else ()
    given: dict[str, Any] = {"template": template, "labels": names}
    if is_file:
        task = task or "sequence-classification"
        given |= {"task": task, "problem": problem or "single-label"}
        prompt = import_thudm(source, loaded, **given)
    else:
        given |= {"problem": problem, "task_index": task_index, "revision": revision}
        prompt = import_peft(source, loaded, force=force, **given)
    prompt.save(output)
    if as_json:
        print_json(prompt.summary())
    else:
        typer.echo(f"{source} is a prompt now: {output} ({prompt.task}, {prompt.template})")


def _refuse_unused(source: str, is_file: bool, **given: object) -> None:
    """Options that say nothing of a source of this kind."""
    kind, unused = (
        ("a checkpoint file", ("task_index", "revision"))
        if is_file
        else ("a folder of PEFT's, which says it itself", ("task",))
    )
    for name in unused:
        if given[name] is not None:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{source}: is {kind}. Leave {option} out.")


@app.command()
def export(
    prompt: PromptArgument,
    output: Annotated[Path, typer.Option(help="Folder to be written.")],
    format_: Annotated[
        Literal["peft"], typer.Option("--format", help="Whose folder it becomes.")
    ] = "peft",
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustOption = False,
    force: ForceOption = False,
) -> None:
    """Write a prompt as a folder that PEFT loads with the same answers, or say why it cannot.

    Example: ptune export complaints --format peft --output complaints-peft
    """
    soft, loaded = load_prompt(
        prompt, backbone, Way(device, dtype, trust_remote_code=trust_remote_code)
    )
    from ptune.formats import export_peft

    export_peft(soft, loaded, output, force=force)
    typer.echo(f"{prompt} is a folder of PEFT's now: {output}")
