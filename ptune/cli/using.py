"""Verbs that use a prompt: `evaluate`, `predict`, `inspect`, `push`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptune.cli.app import (
    BackboneOption,
    BatchOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    JsonOption,
    MapOption,
    PromptArgument,
    QuantizationOption,
    SkipOption,
    TrustOption,
    Way,
    app,
    load_prompt,
    print_json,
)
from ptune.cli.written import labelled_writer, lines, shown_lines, writer


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
    skip_bad_rows: SkipOption = False,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Also write the predictions here, as predict does."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a prompt on labelled rows.

    Example: ptune evaluate runs/complaints/prompt --data test.csv
    """
    if predictions is not None and skip_bad_rows:
        raise typer.BadParameter("--predictions writes every row; leave --skip-bad-rows out.")
    way = Way(device, dtype, device_map, quantization, trust_remote_code)
    soft, loaded = load_prompt(prompt, backbone, way)
    from ptune.api import evaluate as evaluate_prompt
    from ptune.display import show_scores

    write = None if predictions is None else writer(predictions, soft, data, option="--predictions")
    evaluation = evaluate_prompt(
        loaded, soft, data, batch_size=batch_size, force=force, skip_bad_rows=skip_bad_rows
    )
    scores = evaluation.scores
    if write is not None:
        write(evaluation.predictions)
    if as_json:
        print_json(scores)
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
        Path | None,
        typer.Option(
            "--output",
            help="Write JSON lines here, in the rows' order; a .csv or .tsv file has the rows and "
            "their answers; for question-answering, a .json file is SQuAD's: id to answer.",
        ),
    ] = None,
    backbone: BackboneOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    device_map: MapOption = None,
    quantization: QuantizationOption = None,
    trust_remote_code: TrustOption = False,
    batch_size: BatchOption = 32,
    force: ForceOption = False,
    skip_bad_rows: SkipOption = False,
    keep_rows: Annotated[
        bool,
        typer.Option(
            "--keep-rows",
            help="Write the rows themselves, with the answers as their labels, to train on.",
        ),
    ] = False,
    at_least: Annotated[
        float | None,
        typer.Option(
            "--at-least",
            help="Of these rows keep those whose answer has this probability.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict texts, or the rows of a file.

    Example: ptune predict runs/complaints/prompt "no reply for three days"
    """
    if bool(texts) == (input_ is not None):
        raise typer.BadParameter("give texts, or --input and a file; one of the two.")
    if texts and skip_bad_rows:
        raise typer.BadParameter("--skip-bad-rows goes with --input and a file.")
    if output is None and (keep_rows or at_least is not None):
        raise typer.BadParameter("--keep-rows and --at-least go with --output.")
    way = Way(device, dtype, device_map, quantization, trust_remote_code)
    soft, loaded = load_prompt(prompt, backbone, way)
    from ptune.api import predict_kept

    write = None
    if output is not None and (keep_rows or at_least is not None):
        write = labelled_writer(output, soft, input_, at_least)
    elif output is not None:
        write = writer(output, soft, input_, skip=skip_bad_rows)
    inputs: Any = texts if input_ is None else input_
    rows, predictions = predict_kept(
        loaded, soft, inputs, batch_size=batch_size, force=force, skip_bad_rows=skip_bad_rows
    )
    if write is not None:
        count = write(predictions, rows)
        if as_json:
            print_json({"written": count, "output": str(output)})
        else:
            typer.echo(f"{count} predictions written to {output}")
    else:
        show = lines if as_json else shown_lines
        typer.echo("\n".join(show(predictions, rows if skip_bad_rows else None)))


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

        _, loaded = load_prompt(prompt, backbone)
        soft.check(loaded.fingerprint, loaded.name, force=force)
        summary["nearest tokens"] = nearest_words(loaded, soft, nearest)
    if as_json:
        print_json(summary)
    else:
        from ptune.display import show_summary

        show_summary(summary)


@app.command()
def push(
    prompt: PromptArgument,
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
) -> None:
    """Upload a prompt to the Hugging Face hub, with its model card."""
    from ptune.prompt import SoftPrompt

    SoftPrompt.load(prompt).push_to_hub(repository, private=private or None)
    typer.echo(f"{prompt} is on the hub as {repository}")
