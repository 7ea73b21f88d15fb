"""Bad rows: refused at the first one, or left out, counted and listed.

    kept = sift(rows, lambda row: answers_of(row, "label", kind), skip=True)
    kept.notes     'train.csv: 2 of 900 rows are left out:', '  train.csv, line 7: ...', ...

Blank rows are not bad, but rarely meant: `told_blank` counts them; `told_again` those that are
scored and say what a row to train on says.

What is bad is said by the check: any function of rows that raises a `DataError` which names the
place. Knows no task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ptune.data.rows import Rows
from ptune.errors import DataError

# Looks at rows, and raises a DataError that names the place of the first bad one.
Check = Callable[[Rows], object]

# Bad rows that are listed one by one; beyond that they are counted.
MOST_LISTED = 20


class Kept(NamedTuple):
    """The rows that are good, and sentences that the user should read."""

    rows: Rows
    notes: tuple[str, ...]


def sift(rows: Rows, check: Check, *, skip: bool) -> Kept:
    """Refuse bad rows, or leave them out.

    Args:
        rows: of one source.
        check: is given all rows; where it raises and bad rows are skipped, each row alone.
        skip: leave bad rows out and say which; False raises what the check raises.
    Raises:
        DataError: a row is bad and `skip` is False, or no row is good.

    >>> from ptune.data import labels_of, load_rows
    >>> rows = load_rows([{"label": "a"}, {"label": ""}, {"label": "b"}])
    >>> kept = sift(rows, lambda row: labels_of(row, "label"), skip=True)
    >>> len(kept.rows), kept.notes[0]
    (2, 'the given rows: 1 of 3 rows is left out:')
    """
    try:
        check(rows)
    except DataError:
        if not skip:
            raise
    else:
        return Kept(rows, ())
    found = [_fault(rows, index, check) for index in range(len(rows))]
    good = [index for index, fault in enumerate(found) if not fault]
    faults = [fault for fault in found if fault]
    if not good:
        raise DataError(f"{rows.source}: no row is good, so none can be skipped. {faults[0]}")
    return Kept(rows.take(good), told(rows, faults))


def _fault(rows: Rows, index: int, check: Check) -> str:
    """What is wrong with a row; an empty text where nothing is."""
    try:
        check(rows.take([index]))
    except DataError as error:
        return str(error)
    return ""


def told(rows: Rows, faults: list[str]) -> tuple[str, ...]:
    """Sentences on rows that are left out, of which `faults` says what is wrong with each."""
    if not faults:  # what the check found is of no single row
        return ()
    are = "is" if len(faults) == 1 else "are"
    first = f"{rows.source}: {len(faults)} of {len(rows)} rows {are} left out:"
    more = len(faults) - MOST_LISTED
    rest = [f"  and {more} more."] if more > 0 else []
    return (first, *(f"  {fault}" for fault in faults[:MOST_LISTED]), *rest)


def told_blank(rows: Rows, fields: Sequence[str]) -> tuple[str, ...]:
    """A sentence on the rows that have no text in any of these columns, if there are such.

    >>> from ptune.data import load_rows
    >>> told_blank(load_rows([{"text": "late"}, {"text": " "}]), ["text"])
    ('the given rows: 1 of 2 rows has no text in column text, the first is row 2. It is kept.',)
    """
    blank = [i for i, row in enumerate(rows) if fields and all(_is_blank(row[f]) for f in fields)]
    if not blank:
        return ()
    has, kept = ("has", "It is") if len(blank) == 1 else ("have", "They are")
    columns = f"column{'s' * (len(fields) > 1)} {' or '.join(fields)}"
    said = f"{rows.source}: {len(blank)} of {len(rows)} rows {has} no text in {columns}"
    return (f"{said}, the first is {rows.unit} {rows.numbers[blank[0]]}. {kept} kept.",)


def told_again(train: Rows, rows: Rows, columns: Sequence[str]) -> tuple[str, ...]:
    """A sentence on rows that hold in these columns what a row to train on holds, if there are any.

    >>> from ptune.data import load_rows
    >>> rows = load_rows([{"text": "late"}, {"text": "lost"}])
    >>> told_again(rows[:1], rows, ["text"])[0]
    'the given rows: 1 of 2 rows says what a row to train on says, the first is row 1 (as row 1 of \
the given rows). Their score tells little about new rows.'
    """
    first: dict[str, int] = {}
    for i, row in enumerate(train):
        first.setdefault(_said(row, columns), i)
    again = [i for i, row in enumerate(rows) if _said(row, columns) in first]
    if not again:
        return ()
    other = first[_said(rows[again[0]], columns)]
    says = "says" if len(again) == 1 else "say"
    said = (
        f"{rows.source}: {len(again)} of {len(rows)} rows {says} what a row to train on says, the "
        f"first is {rows.unit} {rows.numbers[again[0]]} (as {train.unit} {train.numbers[other]} of "
        f"{train.source}). Their score tells little about new rows."
    )
    return (said,)


def _said(row: Mapping[str, object], columns: Sequence[str]) -> str:
    return repr([row[column] for column in columns])


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()
