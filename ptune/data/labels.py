"""Labels of rows: read them exactly, and find what would spoil a run before it starts.

    single-label   complaint            -> "complaint"
    multi-label    late|rude            -> ("late", "rude")      or a JSON list: ["late", "rude"]
    regression     4.5                  -> 4.5
    multiple-choice   1                 -> the text of the row's choice 1, from 0
    token-classification                -> one a word: `ptune.data.tags`
    question-answering                  -> the texts, and where they begin (`squad.py`)

A label is kept exactly as it stands: case and white space count. Two labels that look alike, since
they differ by white space or by how Unicode writes their accents, are refused; stray white space,
and labels that differ by case only, are told. Knows rows, not files and not tasks.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from unicodedata import normalize

from ptune.data.rows import Rows
from ptune.data.squad import Spans, spans_of
from ptune.data.tags import tag_places, tags_of
from ptune.errors import DataError, did_you_mean

SEPARATOR = "|"
# The field that holds the choices of a row (`ptune.data.choices`).
CHOICE = "choice"
_MOST_SHOWN = 10
_MOST_LETTERS = 40
# Of the number of a choice: more than any row has, and what Python can read.
_MOST_DIGITS = 18


class Labels(NamedTuple):
    """The labels of a task in their order, and sentences that the user should read."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def labels_of(rows: Rows, column: str) -> list[str]:
    """Return one label per row; numbers become text, true and false as JSON writes them.

    Raises:
        DataError: there is no such column, or a label is missing or no single value.
    """
    return [_text(v, rows, i, column) for i, v in enumerate(rows.column(column))]


def label_lists_of(rows: Rows, column: str) -> list[tuple[str, ...]]:
    """Return any number of labels per row: a list, or a text separated by `|`.

    An empty text or list is a row without labels. The parts of a list are not split again.

    Raises:
        DataError: there is no such column, or a label is missing, empty or stands twice in a row.
    """
    return [_texts(v, rows, i, column) for i, v in enumerate(rows.column(column))]


def numbers_of(rows: Rows, column: str) -> list[float]:
    """Return one number per row.

    Raises:
        DataError: there is no such column, or a value is not a finite number.
    """
    return [_number(v, rows, i, column) for i, v in enumerate(rows.column(column))]


def choices_of(rows: Rows, column: str) -> list[str]:
    """The right choice of each row of `with_choices`, as a text, whatever the label is.

    Raises:
        DataError: a label is no choice of its row, or could be two of them.
    """
    pairs = zip(rows.column(CHOICE), labels_of(rows, column), strict=True)
    return [_right(own, label, rows.where(i), column) for i, (own, label) in enumerate(pairs)]


def answers_of(
    rows: Rows, column: str, kind: str
) -> list[str] | list[tuple[str, ...]] | list[float] | list[Spans]:
    """The right answers of rows, as their kind has them (`ptune.config.kind_of`).

    Raises:
        DataError: one is missing or of another kind; the message names its place.
    """
    if kind == "regression":
        return numbers_of(rows, column)
    if kind == "multiple-choice":
        return choices_of(rows, column)
    if kind == "token-classification":
        return tags_of(rows, column)
    if kind == "question-answering":
        return spans_of(rows, column)
    return label_lists_of(rows, column) if kind == "multi-label" else labels_of(rows, column)


def check_labels(
    train: Rows,
    others: Iterable[Rows],
    column: str,
    *,
    labels: Sequence[str] | None = None,
    multi: bool = False,
    tagged: bool = False,
    of: int | None = None,
) -> Labels:
    """Return the labels of a task, after a look at every row that has one.

    Args:
        train: the rows to learn from; two or more labels, but in a multi-label problem.
        others: rows to validate or test on; their labels must be known.
        labels: the labels in their order; if left out, those of `train`, sorted.
        multi: whether a row has any number of labels.
        tagged: whether a row has one for each word.
        of: how many rows there were before some were held out; None: as many.

    Raises:
        DataError: `train` has one label only, a label is not known, or two differ by white space.
    """
    found = _places(train, column, multi, tagged)
    names = tuple(sorted(found)) if labels is None else tuple(labels)
    notes = _check_twins(found)
    if len(found) < (1 if multi else 2):
        raise DataError(_too_few(train, column, found, of))
    given = labels is not None
    unknown = "is not one of the labels given" if given else never_in(train, of)
    _check_known(found, names, unknown)
    for rows in others:
        check_known(rows, column, names, unknown, multi=multi, tagged=tagged)
    unseen = [name for name in names if name not in found]
    if unseen:
        notes.append(f"{train.source}: no row has the label {_listed(unseen)}.")
    return Labels(names, tuple(notes))


def never_in(train: Rows, of: int | None) -> str:
    """What is said of a label that no row has of those to learn from.

    Args:
        of: as in `check_labels`.
    """
    if of in (None, len(train)):
        return f"never occurs in {train.source}"
    return f"never occurs in the rows left for training, {len(train)} of the {of} of {train.source}"


def check_known(
    rows: Rows,
    column: str,
    names: tuple[str, ...],
    unknown: str,
    *,
    multi: bool = False,
    tagged: bool = False,
) -> None:
    """Refuse a label that is none of `names`.

    Args:
        unknown: what is said of such a label, as a verb and what follows.

    Raises:
        DataError: names the place of the label.
    """
    _check_known(_places(rows, column, multi, tagged), names, unknown)


def _places(rows: Rows, column: str, multi: bool, tagged: bool) -> dict[str, str]:
    """Return every label with the first place that it stands at."""
    if tagged:
        return tag_places(rows, column)
    first: dict[str, str] = {}
    if multi:
        per_row = label_lists_of(rows, column)
    else:
        per_row = [(label,) for label in labels_of(rows, column)]
    for i, labels in enumerate(per_row):
        for label in labels:
            if label not in first:
                first[label] = rows.where(i)
    return first


def _check_twins(found: dict[str, str]) -> list[str]:
    """Refuse labels that look alike; return sentences on those that may be meant as another one."""
    notes, cases = [], []
    first: dict[str, str] = {}  # by what is seen of a label
    lower: dict[str, str] = {}
    for label, place in found.items():
        seen = normalize("NFC", label).strip()
        twin = first.setdefault(seen, label)
        if twin != label:
            raise DataError(_alike(label, place, twin, found[twin]))
        if label != label.strip():
            notes.append(
                f"{place}: label {label!r} begins or ends with white space, which is kept."
            )
        twin = lower.setdefault(seen.casefold(), label)
        if twin != label:
            cases.append(f"{place}: label {label!r} is another one than {twin!r}: case counts")
    if cases:
        notes.append(cases[0] + (f" ({len(cases)} such pairs)." if len(cases) > 1 else "."))
    return notes


def _alike(label: str, place: str, twin: str, other: str) -> str:
    """What is said of two labels that look alike; where one is stray, it is the one to mend."""
    if label.strip() != twin.strip():
        return (
            f"{place}: label {label!r} looks like that of {other} and is written with other "
            "Unicode characters (accents composed or not). Write both in one way, e.g. NFC."
        )
    if label == label.strip():
        label, place, twin = twin, other, label
    return (
        f"{place}: label {label!r} differs from {twin!r} by white space only. "
        "White space counts in a label; mend the rows."
    )


def _check_known(found: dict[str, str], names: tuple[str, ...], unknown: str) -> None:
    for label, place in found.items():
        if label not in names:
            near = did_you_mean(label, list(names))
            raise DataError(
                f"{place}: label {label!r} {unknown}. Known: {_listed(names)}.{near} "
                "Mend the row, or add the label."
            )


def _too_few(train: Rows, column: str, found: dict[str, str], of: int | None) -> str:
    if not found:
        return f"{train.source}: column {column} holds no label in any row. Add rows with labels."
    left = "rows" if of in (None, len(train)) else f"of {of} rows, those left for training"
    return (
        f"{train.source}: column {column} holds one label only, {next(iter(found))!r}, in all "
        f"{len(train)} {left}. Two or more are needed; add rows with another label, "
        "or name another label_column."
    )


def _text(value: object, rows: Rows, index: int, column: str) -> str:
    if isinstance(value, list | tuple | dict):
        raise DataError(
            f"{rows.where(index)}: column {column} holds {value!r}, which is not one label. "
            "For any number of labels per row set problem: multi-label."
        )
    if _missing(value) or (isinstance(value, str) and not value.strip()):
        raise DataError(_no_label(rows, index, column))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(value: object, rows: Rows, index: int, column: str) -> tuple[str, ...]:
    if _missing(value):
        raise DataError(_no_label(rows, index, column, "or an empty text for no labels"))
    if isinstance(value, str):
        parts: Sequence[object] = value.split(SEPARATOR) if value else ()
    else:
        parts = value if isinstance(value, list | tuple) else (value,)
    if len(parts) > 1 and any(_missing(part) or not str(part).strip() for part in parts):
        raise DataError(
            f"{rows.where(index)}: column {column} holds {value!r}, one part of which is empty. "
            f"Labels are parted by one {SEPARATOR} each; leave out what has none."
        )
    labels = tuple(_text(part, rows, index, column) for part in parts)
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise DataError(
            f"{rows.where(index)}: label {twice[0]!r} stands twice in column {column}. Keep one."
        )
    return labels


def _number(value: object, rows: Rows, index: int, column: str) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):
                return number
    except (ValueError, OverflowError):
        pass
    raise DataError(
        f"{rows.where(index)}: column {column} holds {value!r}, not a number. "
        "problem: regression needs one in every row; write decimals with a point."
    )


def _right(choices: object, label: str, where: str, column: str) -> str:
    assert isinstance(choices, tuple)
    is_number = label.isascii() and label.isdigit() and len(label) <= _MOST_DIGITS
    number = int(label) if is_number else len(choices)
    by_number = choices[number] if number < len(choices) else None
    by_text = label if label in choices else None
    if by_number is None and by_text is None:
        raise DataError(
            f"{where}: column {column} holds {_short(label)}, which is no choice of its row. "
            f"Allowed: a number from 0 to {len(choices) - 1}, or the text of a choice."
        )
    if by_number is not None and by_text is not None and by_number != by_text:
        raise DataError(
            f"{where}: column {column} holds {label!r}, which is the text of choice "
            f"{choices.index(by_text)} and the number of another one. Write the text of the right "
            "choice in another way, e.g. in words."
        )
    right = by_number if by_text is None else by_text
    assert right is not None
    return right


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _no_label(rows: Rows, index: int, column: str, more: str = "") -> str:
    give = f"Give it one{', ' + more if more else ''}, or delete the row."
    return f"{rows.where(index)}: column {column} holds no label. {give}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS] + "...")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_SHOWN])
    return shown if len(names) <= _MOST_SHOWN else f"{shown}, ... ({len(names)} in all)"
