"""The verb that tries ptune on a model: `doctor`, and how it shows what it found."""

from typing import Annotated, Any

import typer
from rich.table import Table

from ptune.cli.app import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    MapOption,
    QuantizationOption,
    TrustOption,
    Way,
    app,
    print_json,
)


@app.command()
def doctor(
    model: Annotated[str, typer.Argument(help="Hub name or folder of a model, or ptune-tiny.")],
    config: Annotated[
        bool, typer.Option("--config", help="Read its config only; small random weights.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    device_map: MapOption = None,
    quantization: QuantizationOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Try on a model what ptune promises: prompts, batches, gradients, generate.

    Exit status 1 where a truth is broken. What ptune refuses on this model is not broken.

    Example: ptune doctor ptune-tiny
    """
    from ptune.api import Backbone
    from ptune.doctor import examine, refused, small_backbone
    from ptune.errors import ArchitectureError

    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if config:
            backbone = small_backbone(model, **options)
        else:
            way: dict[str, Any] = Way(device, dtype, device_map, quantization)._asdict()
            backbone = Backbone.load(model, **way | options)
        report = examine(backbone)
    except ArchitectureError as error:
        report = refused(model, str(error))
    if as_json:
        print_json(report.document())
    else:
        _show(report)
    if report.broken:
        raise typer.Exit(1)


def _show(report: Any) -> None:
    from ptune.tables import console

    named = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    console.print(f"{report.model}  {report.family}", highlight=False)
    console.print(f"{report.parameters:,} parameters; {named}", highlight=False)
    console.print(f"batches are {report.batches}", highlight=False)
    if report.sites:
        console.print(_sites(report))
    console.print(_findings(report))


def _sites(report: Any) -> Table:
    table = Table("sites", "kind", "key/value heads", "key width", "value width", "window")
    for kind in report.sites:
        table.add_row(
            ranges(kind.sites),
            "cross" if kind.kind == "cross" else "causal" if kind.causal else "both ways",
            str(kind.kv_heads),
            str(kind.key_dim),
            str(kind.value_dim),
            "" if kind.window is None else str(kind.window),
        )
    return table


def _findings(report: Any) -> Table:
    from ptune.tables import named

    table = named("truth", "outcome", "difference", "against what, or why not")
    for found in report.findings:
        far = "" if found.difference is None else _difference(found.difference)
        table.add_row(found.truth, found.outcome, far, found.note)
    return table


def _difference(number: float) -> str:
    return f"{number:.1e}" if number else "0"


def ranges(numbers: tuple[int, ...]) -> str:
    """Numbers in few words.

    >>> ranges((0, 1, 2, 5, 7, 8))
    '0-2, 5, 7-8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
