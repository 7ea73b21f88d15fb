r"""Choices: rows whose label is one of a few texts of their own.

    premise         choice1        choice2       label         ->  choice                label
    It rained.      The lawn ...   A bird ...    0                 ("The lawn ...",      "The lawn
                                                                    "A bird ...")         ..."

The choices stand in columns (`choice1`, `choice2`, ...) or as a list in one. The label is the text
of the right one, or its number, from 0. Rows may have choices in different numbers: columns at the
end may be empty. Knows rows, and no template.
"""

import re
from collections.abc import Sequence

from ptune.data.labels import CHOICE
from ptune.data.rows import Rows
from ptune.errors import DataError

_LIST = ("choices", CHOICE)
_NUMBERED = re.compile(r"choice_?(\d+)")


def with_choices(rows: Rows, columns: Sequence[str] | str | None = None) -> Rows:
    """Rows with the field `choice`: the texts of each row's choices, two or more.

    Args:
        columns: those that hold a choice each, or the one that holds a list of them; None finds
            `choices`, or `choice1`, `choice2` and so on.

    Raises:
        DataError: there are none, a row has fewer than two, or two that are equal.
    """
    chosen = _columns_of(rows) if columns is None else columns
    if isinstance(chosen, str):
        found = [_listed(v, rows, i, chosen) for i, v in enumerate(rows.column(chosen))]
    else:
        table = zip(*(rows.column(name) for name in chosen), strict=True)
        found = [_in_columns(v, rows, i, chosen) for i, v in enumerate(table)]
    for index, choices in enumerate(found):
        _check(choices, rows.where(index))
    return rows.extended([{CHOICE: own} for own in found], (CHOICE,))


def _columns_of(rows: Rows) -> Sequence[str] | str:
    whole = next((name for name in _LIST if name in rows.columns), None)
    if whole is not None:
        return whole
    matches = ((_NUMBERED.fullmatch(name), name) for name in rows.columns)
    numbered = sorted((int(match[1]), name) for match, name in matches if match)
    if not numbered:
        raise DataError(
            f"{rows.source}: there are no choices. Columns: {', '.join(rows.columns)}. Name them "
            "choice1, choice2 and so on, or say which they are: choices: [first, second], or the "
            "one that holds a list."
        )
    return [name for _, name in numbered]


def _listed(value: object, rows: Rows, index: int, column: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{rows.where(index)}: column {column} holds {value!r}, not a list of choices. Write "
            "a JSON list of texts, or give each choice a column."
        )
    return tuple(_text(one, rows.where(index), column) for one in value)


def _in_columns(
    values: Sequence[object], rows: Rows, index: int, columns: Sequence[str]
) -> tuple[str, ...]:
    """The texts up to the last column that is not empty."""
    empty = [value is None or value == "" for value in values]
    count = max((at + 1 for at, none in enumerate(empty) if not none), default=0)
    for at in range(count):
        if empty[at]:
            raise DataError(
                f"{rows.where(index)}: column {columns[at]} is empty, and {columns[count - 1]} "
                "behind it is not. A row with fewer choices has them in its first columns."
            )
    where = rows.where(index)
    pairs = zip(values[:count], columns, strict=False)
    return tuple(_text(value, where, name) for value, name in pairs)


def _text(value: object, where: str, column: str) -> str:
    usable = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not usable or not str(value).strip():
        raise DataError(f"{where}: column {column} holds {value!r}, and a choice is a text.")
    return str(value)


def _check(choices: Sequence[str], where: str) -> None:
    if len(choices) < 2:
        has = f"one choice only, {choices[0]!r}" if choices else "no choice"
        raise DataError(f"{where}: has {has}. Two or more are needed; mend or delete the row.")
    for at, text in enumerate(choices):
        first = choices.index(text)
        if first != at:
            raise DataError(
                f"{where}: choices {first} and {at} are both {text!r}, so the right one cannot be "
                "told. Mend or delete the row."
            )
