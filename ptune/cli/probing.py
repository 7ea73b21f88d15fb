"""Verbs of knowledge probing: `probe`, `vocabulary`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ptune.cli.app import JsonOption, app, print_json
from ptune.errors import ConfigError, DataError

# Keys of a recipe that have an option of their own here, and keys that the facts decide.
OPTIONS = {"method": "--method", "template": "--template", "output": "--output"}
DECIDED = (
    *("task", "answer", "loss", "problem", "labels", "verbalizer", "pooling", "metric"),
    *("protocol", "head_lr", "head_dropout"),
    *("train", "validation", "test", "label_column", "columns", "few_shot"),
)


@app.command()
def probe(
    facts: Annotated[
        str,
        typer.Argument(
            metavar="FACTS",
            help="Folder of relations (P19/train.jsonl ... or P19.jsonl), or one file.",
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings, as backbone=NAME; `ptune settings`."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            help="manual (untrained), prompt-tuning, p-tuning or p-tuning-v2; may stand again. "
            "Left out: manual and p-tuning.",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="A shape as 3,3,3; manual; or a text with {subject} and {mask}. Left out: 3,3,3 "
            "(3,3,0 for a causal model, 0,0,0 for p-tuning-v2).",
        ),
    ] = None,
    mask_first: Annotated[
        bool,
        typer.Option("--mask-first", help="In a shape, the mask stands before the subject."),
    ] = False,
    relation: Annotated[
        list[str] | None,
        typer.Option("--relation", help="Only this one; may stand again. Left out: all."),
    ] = None,
    vocabulary_: Annotated[
        str | None,
        typer.Option(
            "--vocabulary",
            help="File of the words that objects are ranked among (.txt, or .json with a list); "
            "left out, or none: all tokens.",
        ),
    ] = None,
    test_share: Annotated[
        float,
        typer.Option(
            "--test-share", help="Of the facts, where there is no test file.", min=0.01, max=0.9
        ),
    ] = 0.2,
    templates: Annotated[
        str | None,
        typer.Option(
            "--templates",
            help="JSON lines with relation and template ([X] ... [Y]); left out: relations.jsonl "
            "in FACTS.",
        ),
    ] = None,
    subject_column: Annotated[
        str, typer.Option("--subject-column", help="Column of the subject.")
    ] = "sub_label",
    object_column: Annotated[
        str, typer.Option("--object-column", help="Column of the object.")
    ] = "obj_label",
    relation_column: Annotated[
        str, typer.Option("--relation-column", help="Column of the relation, in one file.")
    ] = "relation",
    output: Annotated[
        Path, typer.Option("--output", help="Folder of the results and the prompts.")
    ] = Path("runs/probe"),
    as_json: JsonOption = False,
) -> None:
    """Measure what a model knows: one prompt for each relation, P@1, P@10 and MRR, and their mean.

    Results are kept after every relation: a stopped run goes on by the same command. A relation
    that cannot be done is told, and does not harm the others.

    Example: ptune probe trex backbone=bert-base-cased --method manual --method p-tuning
    """
    recipe = _recipe(overrides or [])  # mistakes first, before torch is imported
    methods = list(dict.fromkeys(method or ["manual", "p-tuning"]))
    from ptune.probing import (
        PROTOCOL,
        Columns,
        Plan,
        Wish,
        check_methods,
        find_facts,
        means_of,
        read_words,
    )
    from ptune.probing import probe as probe_facts
    from ptune.training import load_backbone

    check_methods(methods)
    columns = Columns(subject_column, object_column, relation_column)
    plan = Plan(
        find_facts(facts, columns, templates),
        recipe,
        methods,
        output,
        wish=Wish(template, "mask-first" if mask_first else "subject-first"),
        words=None if vocabulary_ in (None, "none") else read_words(str(vocabulary_)),
        test_share=test_share,
        relations=relation or (),
    )
    plan.facts.chosen(plan.relations)
    found = probe_facts(load_backbone(recipe), plan, None if as_json else _tell)
    if as_json:
        told = {m: {"mean": means_of(own), "relations": own} for m, own in found.items()}
        print_json({"output": str(output), "protocol": PROTOCOL, "methods": told})
    else:
        from ptune.cli.probed import show_probed

        show_probed(found, output)
    _end_without_results(found)


def _tell(line: str) -> None:
    typer.echo(line, err=True)


def _end_without_results(found: dict[str, dict[str, Any]]) -> None:
    """Exit status 1 where no relation was scored."""
    entries = [entry for own in found.values() for entry in own.values()]
    if not any("scores" in entry for entry in entries):
        raise DataError(f"no relation could be probed. The first one: {entries[0]['error']}")


def _recipe(overrides: list[str]) -> Any:
    from ptune.config import Recipe
    from ptune.config.presets import preset_settings
    from ptune.config.reading import override
    from ptune.config.rules.of_probing import NOT_IN_PROBING, not_in_probing
    from ptune.config.wording import takes_yaml

    structured = {key: takes_yaml(field) for key, field in Recipe.model_fields.items()}
    settings = dict(override(text, structured) for text in overrides)
    for key in settings:
        if key in OPTIONS:
            raise ConfigError(f"{key}={settings[key]}: ptune probe takes it as {OPTIONS[key]}.")
        if key in DECIDED:
            raise ConfigError(
                f"{key}={settings[key]}: ptune probe decides {key} for every relation. "
                "Leave it out."
            )
        if key == "preset" and "task" in preset_settings(str(settings[key])):
            raise ConfigError(
                f"preset={settings[key]}: is no run of probing. Those are p-tuning/lama-...; "
                "`ptune presets` lists them."
            )
        if key in NOT_IN_PROBING:
            raise ConfigError(not_in_probing(key, settings[key]))
    recipe = Recipe.make(**settings)
    if recipe.backbone is None:
        raise ConfigError("backbone is missing. Add backbone=NAME, a model's name or its folder.")
    return recipe


@app.command()
def vocabulary(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Hub names or folders of models.")
    ],
    output: Annotated[Path, typer.Option("--output", help="File to write, one word a line.")],
) -> None:
    """Write the words that are one token in each of several models, for `ptune probe`.

    With such a list, models are compared on the same facts and among the same words. Only the
    tokenizers are loaded.

    Example: ptune vocabulary bert-base-cased gpt2 --output words.txt
    """
    from ptune.writing import check_writable, write_text

    check_writable(output)
    from ptune.loading import load_tokenizer
    from ptune.probing import shared_words

    words = shared_words([load_tokenizer(model) for model in models])
    if not words:
        raise DataError(
            f"{', '.join(models)}: no word is one token in all of them. Leave a model out."
        )
    write_text(output, "".join(f"{word}\n" for word in words))
    typer.echo(f"{len(words)} words written to {output}")
