"""The rows of a run: read, drawn, split, and checked before anything else is done with them.

    train.csv   --max_rows-->  --share-->   rows to train on | rows to validate on
                --few_shot = 16-->          16 of each label | 16 others of each label
    test.csv                                          rows to test on

Also the template, where the recipe leaves it to the columns. Knows no backbone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ptune.config import Recipe, kind_of
from ptune.data import (
    Check,
    Kept,
    Rows,
    answers_of,
    check_known,
    check_labels,
    check_tags,
    draw_groups,
    draw_rows,
    few_shot,
    few_shot_split,
    kept_rows_for,
    scheme_in,
    sift,
    split_groups,
    split_rows,
    told_again,
    told_blank,
)
from ptune.data.labels import CHOICE, Labels, never_in
from ptune.errors import ConfigError, DataError, TemplateError, did_you_mean
from ptune.tasks import Answer, Marks
from ptune.template import Template
from ptune.values import WORDS_FIELD, check_texts

Source = str | Path | Sequence[Mapping[str, object]] | Rows


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rows are."""

    train: Source
    validation: Source | None
    test: Source | None


@dataclass(frozen=True, slots=True)
class RunRows:
    """The rows of a run, their labels, and how a row is laid out."""

    template: Template
    train: Rows
    validation: Rows | None
    test: Rows | None
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash of the rows and labels, by which a checkpoint knows its data."""
        parts = [None if rows is None else list(rows) for rows in (self.train, self.validation)]
        text = json.dumps([parts, self.labels], ensure_ascii=False, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_rows(recipe: Recipe, sources: Sources) -> RunRows:
    """Read every row of a run.

    Raises:
        ConfigError, DataError, TemplateError: something does not fit; the message names the file.
    """
    first = _read(recipe, sources.train)
    check = _check_of(recipe, first.rows)
    rows, told = _kept(recipe, first, check)
    there = len(rows)
    hold_out = sources.validation is None and recipe.validation_share > 0
    rows, validation, notes = _drawn(recipe, rows, hold_out=hold_out)
    rows, more = _true_ones(recipe, rows)
    notes += more
    if sources.validation is not None:
        validation, more = _kept(recipe, _read(recipe, sources.validation), check)
        told += more
    test = None
    if sources.test is not None:
        test, more = _kept(recipe, _read(recipe, sources.test), check)
        told += more
    parts = [part for part in (rows, validation, test) if part is not None]
    labels: tuple[str, ...] = ()
    if not _has_labels(recipe):
        for part in parts:
            answers_in(recipe, part)
    else:
        found = _labels_of(recipe, rows, there)
        labels, notes = found.names, notes + found.notes
        validation, more = _with_known(recipe, rows, there, validation, labels)
        test, last = _with_known(recipe, rows, there, test, labels)
        notes += more + last
        _check_positive(recipe, labels)
    template = _template_of(recipe, rows)
    said = [_fitting(recipe, template, part) for part in (rows, validation, test)]
    said += [_again(recipe, template, rows, part) for part in (validation, test)]
    return RunRows(template, rows, validation, test, labels, sum(said, told + notes))


def _template_of(recipe: Recipe, rows: Rows) -> Template:
    """The recipe's template, or one for these columns; names in `columns` are of its fields."""
    template = Template.parse(recipe.template or default_template(recipe, rows))
    read = {*template.fields, *((CHOICE,) if recipe.task == "multiple-choice" else ())}
    for name in recipe.columns:
        if recipe.template is not None and name not in read:
            raise ConfigError(
                f'columns: {name} is no field of the template "{recipe.template}", so nothing '
                f"reads it. Fields: {', '.join(template.fields)}."
                f"{did_you_mean(name, list(template.fields))}"
            )
    return template


def _again(recipe: Recipe, template: Template, train: Rows, scored: Rows | None) -> tuple[str, ...]:
    """What to say of scored rows that are the same to a prompt as a row to train on."""
    if scored is None:
        return ()
    read: Sequence[str] = template.fields
    if recipe.task == "multiple-choice":  # its choices may stand in several columns
        read = [column for column in train.columns if column != recipe.label_column]
    return told_again(train, scored, [column for column in read if column in scored.columns])


def _fitting(recipe: Recipe, template: Template, rows: Rows | None) -> tuple[str, ...]:
    """Refuse rows that the template or the recipe does not fit; what to say of the others."""
    if rows is None:
        return ()
    _check_columns(template, rows)
    if not template.fields:
        raise TemplateError(
            f'template "{template.source}": there is no field of the rows in it, so every row '
            f"would be the same. Write one where its text goes. Columns: {', '.join(rows.columns)}."
        )
    _check_asked(recipe, template, rows)
    _check_marked(recipe, rows)
    return told_blank(rows, template.fields)


def _check_marked(recipe: Recipe, rows: Rows) -> None:
    marks = Marks.of(recipe.to_dict())
    for column in marks.columns:
        rows.column(column)
    marks.check(rows)


def _true_ones(recipe: Recipe, rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """The rows to learn from: those whose answer is true."""
    if recipe.truth_column is None:
        return rows, ()
    _check_marked(recipe, rows)
    true = Marks.of(recipe.to_dict()).true_rows(rows)
    if not true:
        raise DataError(
            f"{rows.source}: column {recipe.truth_column} is false in every row, and answers are "
            "learned from rows where it is true. Add some."
        )
    left = len(rows) - len(true)
    told = (
        f"{rows.source}: {left} of {len(rows)} rows are not trained on: their answer is false "
        f"(truth_column = {recipe.truth_column})."
    )
    return rows.take(true), ((told,) if left else ())


def _check_positive(recipe: Recipe, labels: Sequence[str]) -> None:
    if recipe.positive_label is not None and recipe.positive_label not in labels:
        near = did_you_mean(recipe.positive_label, list(labels))
        raise ConfigError(
            f"positive_label = {recipe.positive_label} is not a label. Labels: "
            f"{', '.join(labels)}.{near}"
        )


def _has_labels(recipe: Recipe) -> bool:
    """Whether all rows have their labels from one set."""
    own = recipe.problem == "regression" or recipe.answer == "text"
    return not own and recipe.task not in ("multiple-choice", "question-answering")


def _drawn(
    recipe: Recipe, rows: Rows, *, hold_out: bool
) -> tuple[Rows, Rows | None, tuple[str, ...]]:
    """The rows to train on, those held out, and what is to be said of them."""
    seed, column = recipe.seed, recipe.label_column
    together = "context" if _kind(recipe) == "question-answering" else recipe.group_column
    if together is not None:
        _check_together(recipe, rows, together)
    if recipe.few_shot is not None and hold_out:
        if together is not None:
            raise ConfigError(
                f"few_shot = {recipe.few_shot} draws single rows, to train on and to hold out, and "
                f"{together} says which rows are judged together. Set max_rows instead, or name a "
                "validation file."
            )
        return few_shot_split(rows, recipe.few_shot, seed, column)
    if recipe.few_shot is not None:
        return few_shot(rows, recipe.few_shot, seed, column), None, ()
    if recipe.max_rows is not None and recipe.max_rows < len(rows):
        # Questions of one context are judged one by one; rows of one group together.
        whole = recipe.group_column
        drawn = draw_rows if whole is None else partial(draw_groups, column=whole)
        rows = drawn(rows, recipe.max_rows, seed)
    if not hold_out:
        return rows, None, ()
    if together is not None:
        return split_groups(rows, recipe.validation_share, seed, together)
    labelled = _kind(recipe) == "single-label" and _has_labels(recipe)
    return split_rows(rows, recipe.validation_share, seed, column if labelled else None)


def _check_together(recipe: Recipe, rows: Rows, column: str) -> None:
    """Refuse rows whose value here is no text, by which they could be put together."""
    if column == recipe.group_column:
        _check_marked(recipe, rows)
    else:
        check_texts(rows, [column])


def _check_columns(template: Template, rows: Rows) -> None:
    try:
        template.check(rows.columns)
    except TemplateError as error:
        raise TemplateError(f"{rows.source}: {error}") from None


def _check_asked(recipe: Recipe, template: Template, rows: Rows) -> None:
    """Refuse questions that the template leaves out."""
    asked = recipe.task == "question-answering" and "question" in rows.columns
    if asked and set(template.fields) == {"context"}:
        raise TemplateError(
            f'template "{template.source}": {{question}} is missing, though there is a column '
            f"question in {rows.source}: all of a context would get one answer. For example: "
            '"{question}{sep}{context}".'
        )


def _read(recipe: Recipe, source: Source) -> Kept:
    return kept_rows_for(source, recipe.to_dict(), skip=recipe.bad_rows == "skip")


def _form(recipe: Recipe) -> dict[str, bool]:
    """How many labels a row has, as `ptune.data.check_labels` asks for it."""
    return {
        "multi": recipe.problem == "multi-label",
        "tagged": recipe.task == "token-classification",
    }


def _check_of(recipe: Recipe, rows: Rows) -> Check:
    """What makes a row bad.

    Args:
        rows: all that there is to train on, which say how their tags are written.
    """
    tagged = recipe.task == "token-classification"
    scheme: str = recipe.scheme
    if tagged and scheme == "auto":
        scheme = scheme_in(rows, recipe.label_column)

    def check(some: Rows) -> None:
        answers_in(recipe, some)
        _check_given(recipe, some)
        if tagged:
            check_tags(some, recipe.label_column, scheme)
        template = Template.parse(recipe.template or default_template(recipe, rows))
        own = {WORDS_FIELD} if tagged else set()
        if recipe.task == "multiple-choice":
            own = {CHOICE}
        check_texts(some, [name for name in template.fields if name not in own])
        _check_marked(recipe, some)

    return check


def _kept(recipe: Recipe, read: Kept, check: Check) -> Kept:
    """Rows without the bad ones, where the recipe says so."""
    skip = recipe.bad_rows == "skip"
    if not skip and recipe.task != "token-classification":  # said where each row is used
        return read
    kept = sift(read.rows, check, skip=skip)
    return Kept(kept.rows, read.notes + kept.notes)


def _labels_of(recipe: Recipe, rows: Rows, there: int) -> Labels:
    """The labels of the rows to learn from, of so many that were `there`."""
    if recipe.labels is None:  # else they are checked below
        _check_given(recipe, rows)
    column, form = recipe.label_column, _form(recipe)
    found = check_labels(rows, (), column, labels=recipe.labels, of=there, **form)
    unsaid = recipe.task == "token-classification" and recipe.scheme == "auto"
    if unsaid and "O" in found.names and scheme_in(rows, column) == "plain":
        told = (
            f"{rows.source}: no tag begins with B- or I-, so every word counts as an entity, those "
            "tagged O too, and f1 is the share of right words (scheme: plain)."
        )
        return found._replace(notes=(*found.notes, told))
    return found


def _check_given(recipe: Recipe, rows: Rows) -> None:
    """Refuse a label that the recipe does not name, where it names all."""
    names, unknown = recipe.labels, "is not one of the labels given"
    if names is None and recipe.task == "masked-lm":  # where a label says nothing by itself
        names, unknown = tuple(recipe.verbalizer), "has no answer word in verbalizer"
    if names and _has_labels(recipe):
        check_known(rows, recipe.label_column, names, unknown, **_form(recipe))


def _with_known(
    recipe: Recipe, train: Rows, there: int, rows: Rows | None, labels: tuple[str, ...]
) -> tuple[Rows | None, tuple[str, ...]]:
    """Rows whose labels are known; others are refused, or left out where the recipe says so.

    Args:
        train: the rows to learn from, of so many that were `there`.
    """
    if rows is None:
        return None, ()
    given = recipe.labels is not None
    unknown = "is not one of the labels given" if given else never_in(train, there)

    def check(some: Rows) -> None:
        check_known(some, recipe.label_column, labels, unknown, **_form(recipe))

    return sift(rows, check, skip=recipe.bad_rows == "skip")


def soft_part(recipe: Recipe) -> str:
    """The virtual tokens of a template that nobody gave; none where the prompt is deep.

    >>> soft_part(Recipe.make(prompt_length=5)), soft_part(Recipe.make(method="p-tuning-v2"))
    ('{soft:5}', '')
    """
    return "" if recipe.method == "p-tuning-v2" else f"{{soft:{recipe.prompt_length}}}"


def default_template(recipe: Recipe, rows: Rows) -> str:
    """The template where the recipe has none: virtual tokens, the one text column, the label."""
    soft = soft_part(recipe)
    if recipe.task == "token-classification":
        return f"{soft}{{{WORDS_FIELD}}}"
    if recipe.task == "question-answering":
        return f"{soft}{{question}}{{sep}}{{context}}"
    fields = [column for column in rows.columns if column != recipe.label_column]
    if not fields:
        raise ConfigError(
            f"template is missing, and {rows.source} has no column beside {recipe.label_column}. "
            "Add a column with the texts."
        )
    if len(fields) != 1:
        raise ConfigError(
            f"template is missing, and {rows.source} has several columns to choose from: "
            f'{", ".join(fields)}. Say how a row looks, e.g. template="{_example(recipe, fields)}".'
        )
    asks = {"causal-lm": " Label : {label}", "masked-lm": " Label : {mask}"}
    return f"{soft}{{{fields[0]}}}{asks.get(recipe.task, '')}"


def _example(recipe: Recipe, fields: Sequence[str]) -> str:
    """A template for an error: of two texts where there are two, with the choice where there is."""
    soft = "" if recipe.method == "p-tuning-v2" else "{soft:20}"
    if recipe.task == "multiple-choice":
        return f"{soft}{{{fields[0]}}} {{choice}}"
    if recipe.task == "sequence-classification" and len(fields) == 2:
        return f"{soft}{{{fields[0]}}}{{sep}}{{{fields[1]}}}"
    return f"{soft}{{{fields[0]}}}"


def answers_in(recipe: Recipe, rows: Rows) -> Sequence[Answer]:
    """The right answers of rows, as the recipe's problem has them."""
    return answers_of(rows, recipe.label_column, _kind(recipe))


def _kind(recipe: Recipe) -> str:
    return kind_of(recipe.task, recipe.problem, recipe.answer)
