"""Rows that know where they come from, so that an error can name the file and the line.

    rows = load_rows("train.csv")      rows[3]["text"]     a row is a mapping
    rows.take([5, 3]).where(0)         'train.csv, line 7'  also after a draw or a split

A sequence of mappings with equal keys; never changed. Knows no file format and no label.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

from ptune.errors import DataError, did_you_mean
from ptune.values import TOO_LONG, too_long

Row = Mapping[str, object]


@dataclass(frozen=True, eq=False, repr=False)
class Rows(Sequence[Row]):
    """A table in memory.

    Args:
        source: what an error calls it, e.g. the path as the user wrote it.
        columns: the keys that every row has, in the order of the source.
        items: the rows.
        numbers: where each row stands in the source, from 1.
        unit: what `numbers` counts: "line" or "row".
        stretched: each word of a row has a line of its own, the first one that of the row.
        read: the rows as the source has them, where they were `extended`.
    """

    source: str
    columns: tuple[str, ...]
    items: tuple[Row, ...]
    numbers: tuple[int, ...]
    unit: str
    stretched: bool = False
    read: "Rows | None" = None

    @classmethod
    def of(
        cls,
        source: str,
        unit: str,
        numbered: Iterable[tuple[int, Row]],
        *,
        stretched: bool = False,
    ) -> "Rows":
        """Make rows from (number, mapping) pairs.

        Raises:
            DataError: there are no rows, a row has other keys than the first one, or a number that
                Python cannot write.
        """
        pairs = list(numbered)
        if not pairs:
            raise DataError(f"{source}: there are no rows. Give one or more.")
        numbers, items = zip(*pairs, strict=True)
        columns = tuple(items[0])
        if not columns:
            raise DataError(f"{source}, {unit} {numbers[0]}: the row has no columns.")
        if not all(isinstance(name, str) for name in columns):
            raise DataError(f"{source}: column names must be texts; found {_names(columns)}.")
        for number, row in pairs:
            if set(row) != set(columns):
                raise DataError(
                    f"{source}, {unit} {number}: its keys are {_names(row)}, but {unit} "
                    f"{numbers[0]} has {_names(columns)}. Every row needs the same keys; "
                    "write null where a value is missing."
                )
            for name, value in row.items():
                if not isinstance(value, str) and too_long(value):
                    raise DataError(f"{source}, {unit} {number}, column {name}: {TOO_LONG}")
        return cls(source, columns, tuple(items), tuple(numbers), unit, stretched)

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        return self.items[index]

    def __repr__(self) -> str:
        return f"Rows({self.source}: {len(self)} rows of {_names(self.columns)})"

    def where(self, index: int) -> str:
        """Return the place of a row in its source, e.g. 'train.csv, line 7'."""
        return f"{self.source}, {self.unit} {self.numbers[index]}"

    def place(self, index: int, word: int) -> str:
        """Return the place of a word (from 0) of a row, e.g. 'train.conll, line 9'."""
        if self.stretched:
            return f"{self.source}, {self.unit} {self.numbers[index] + word}"
        return f"{self.where(index)}, word {word + 1}"

    def take(self, indices: Iterable[int]) -> "Rows":
        """Return the rows at `indices`, in that order."""
        chosen = list(indices)
        items = tuple(self.items[i] for i in chosen)
        numbers = tuple(self.numbers[i] for i in chosen)
        read = None if self.read is None else self.read.take(chosen)
        return replace(self, items=items, numbers=numbers, read=read)

    def column(self, name: str) -> list[object]:
        """Return the values of a column.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.columns:
            raise DataError(self._no_column(name))
        return [row[name] for row in self.items]

    def with_fields(self, columns: Mapping[str, str]) -> "Rows":
        """Return rows in which template fields stand beside the columns that they are taken from.

        Args:
            columns: field of a template to column of the source.

        Raises:
            DataError: there is no such column.
        """
        for name in columns.values():
            if name not in self.columns:
                raise DataError(self._no_column(name))
        return self.extended(
            [{field: row[name] for field, name in columns.items()} for row in self.items], columns
        )

    def extended(self, more: Iterable[Row], columns: Iterable[str]) -> "Rows":
        """Return each row with more values, in these columns; `as_read` has them as they were."""
        items = tuple({**row, **own} for row, own in zip(self.items, more, strict=True))
        names = tuple(dict.fromkeys((*self.columns, *columns)))
        return replace(self, items=items, columns=names, read=self.as_read)

    @property
    def as_read(self) -> "Rows":
        """The rows with the columns and values of the source alone."""
        return self if self.read is None else self.read

    def _no_column(self, name: str) -> str:
        near = said_of_header(self.columns) or did_you_mean(name, list(self.columns))
        return f"{self.source}: there is no column {name}. Columns: {_names(self.columns)}.{near}"


def said_of_header(columns: Sequence[str]) -> str:
    """What to say of one column whose name seems to be several; else nothing.

    >>> said_of_header(["text;label"])
    " The header seems to be separated by ';'; save the file with commas."
    """
    other = next((mark for mark in ";\t|" if mark in columns[0]), None)
    if len(columns) > 1 or other is None:
        return ""
    return f" The header seems to be separated by {other!r}; save the file with commas."


def _names(columns: Iterable[object]) -> str:
    return ", ".join(map(str, columns))
