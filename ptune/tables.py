"""Where the command line's tables go, and how they fit: text as it is, names whole.

    ┃ rows ┃ f1     ┃ ... 12 scores ┃        too wide      ┃       ┃ rows   ┃
    │ test │ 50.0 % │               │        ------>       │ f1    │ 50.0 % │
                                                           │ ...   │        │

Knows no prompt and no score. What is shown in which table: `display.py`.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

# A user's text may hold [brackets] and :words:, which rich would take for markup.
console = Console(markup=False, emoji=False)

Line = tuple[str, Sequence[str]]


def named(first: str, *others: str) -> Table:
    """A table whose first column holds names that are never cut; the other columns wrap."""
    return Table(Column(first, no_wrap=True), *(Column(one, overflow="fold") for one in others))


def across(
    corner: str, columns: Sequence[str], lines: Sequence[Line], more: Sequence[Line] = ()
) -> Table:
    """A table of named lines; turned on its side where it is too wide and that is narrower.

    Args:
        more: lines below a rule.
    """
    upright = named(corner, *columns)
    for part in (lines, more):
        upright.add_section()
        for name, cells in part:
            upright.add_row(name, *cells)
    if _width(upright) <= console.width:
        return upright
    every = [*lines, *more]
    turned = named(corner, *(name for name, _ in every))
    for number, column in enumerate(columns):
        turned.add_row(column, *(cells[number] for _, cells in every))
    return min(upright, turned, key=_width)


def _width(table: Table) -> int:
    """Columns of the terminal that a table takes where nothing is wrapped."""
    return console.measure(table, options=console.options.update_width(100_000)).maximum
