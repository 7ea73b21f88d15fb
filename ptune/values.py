"""Values of rows, as a template takes them: a text, or words.

    {"text": "so dull"}                       text_of    "so dull"
    {"tokens": ["so", "dull"]} or "so dull"   words_of   ("so", "dull")

An error names the row and the column. Knows strings only.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Protocol, runtime_checkable

from ptune.errors import DataError, did_you_mean

# The field of a row that holds a list of words, where a task asks about words.
WORDS_FIELD = "tokens"
# Python writes whole numbers of up to 4,300 digits.
MOST_DIGITS = 4000
TOO_LONG = (
    f"a number has more than {MOST_DIGITS:,} digits. Write it as a text, in quotes, or mend the "
    "row."
)
# What is said of a cell that holds a list as Python or JSON writes it.
NOT_A_LIST = (
    "a list in one text. A cell of a table holds words parted by spaces; write lists into a JSON "
    "lines file (.jsonl)."
)
_QUOTED = re.compile(r"""\s*\[\s*(['"].*['"]\s*)?\]\s*""", re.DOTALL)
_MOST_BITS = MOST_DIGITS * 10 // 3


@runtime_checkable
class Placed(Protocol):
    """Rows that know where they stand."""

    def where(self, index: int) -> str:
        """The place of a row, e.g. 'train.csv, line 7'."""


def place_of(rows: Sequence[object], index: int) -> str:
    """The place of a row in its source, or its number where it knows none.

    >>> place_of([{"text": "a"}, {"text": "b"}], 1)
    'row 2'
    """
    return rows.where(index) if isinstance(rows, Placed) else f"row {index + 1}"


def text_of(rows: Sequence[Mapping[str, object]], index: int, name: str) -> str:
    """Return a value of a row as text.

    Raises:
        DataError: it is missing or is not text; names the row and the column.
    """
    value = rows[index].get(name)
    if isinstance(value, str) and value.isascii():
        return value
    where = _where_value(rows, index, name)
    if not isinstance(value, str | Number):
        kind = type(value).__name__
        raise DataError(f"{where}: found a {kind}. Only text and numbers can be rendered.")
    if too_long(value):
        raise DataError(f"{where}: {TOO_LONG}")
    text = str(value)
    _check_unicode(text, where)
    return text


def words_of(rows: Sequence[Mapping[str, object]], index: int, name: str) -> tuple[str, ...]:
    """Return a value of a row as words: a list of them, or a text, which is split at white space.

    Raises:
        DataError: it is missing, has no words, or one of them is not text.
    """
    value = rows[index].get(name)
    where = _where_value(rows, index, name)
    if not isinstance(value, str | list | tuple):
        raise DataError(
            f"{where}: found a {type(value).__name__}, not words. "
            "Give a list of words, or a text, which is split at white space."
        )
    if isinstance(value, str) and _QUOTED.fullmatch(value):
        raise DataError(f"{where}: found {value!r}, {NOT_A_LIST}")
    words = value.split() if isinstance(value, str) else value
    if not words:
        raise DataError(f"{where}: there are no words. Give one or more, or leave the row out.")
    for at, word in enumerate(words, start=1):
        if not isinstance(word, str | Number):
            kind = type(word).__name__
            raise DataError(f"{where}, word {at}: found a {kind}. A word is a text or a number.")
    if too_long(value):
        raise DataError(f"{where}: {TOO_LONG}")
    texts = tuple(map(str, words))
    _check_unicode(" ".join(texts), where)
    return texts


def too_long(value: object) -> bool:
    """Whether a value holds a whole number that Python cannot write, or nearly.

    >>> too_long(10**5000), too_long(["a", 10**5000]), too_long(10**3000), too_long("9" * 5000)
    (True, True, False, False)
    """
    if isinstance(value, int):
        return value.bit_length() > _MOST_BITS
    if isinstance(value, dict):
        return any(map(too_long, value.values()))
    return isinstance(value, list | tuple) and any(map(too_long, value))


def check_texts(rows: Sequence[Mapping[str, object]], fields: Iterable[str]) -> None:
    """Look at every value that a template asks for.

    Raises:
        DataError: one is missing or is not text; names the row and the column.
    """
    for name in fields:
        for index in range(len(rows)):
            text_of(rows, index, name)


def shorten(lengths: Sequence[int], room: int) -> list[int]:
    """Return how much of each text is kept, so that all fit: the longest are cut first.

    >>> shorten([5, 9, 2], 11)
    [4, 5, 2]
    >>> shorten([5, 9, 2], 100)
    [5, 9, 2]
    """
    kept = list(lengths)
    # From the shortest on, each may take an equal share of what the shorter ones left.
    for done, at in enumerate(sorted(range(len(kept)), key=lengths.__getitem__)):
        kept[at] = min(kept[at], room // (len(kept) - done))
        room -= kept[at]
    return kept


def _where_value(rows: Sequence[Mapping[str, object]], index: int, name: str) -> str:
    """Return what an error calls a value.

    Raises:
        DataError: it is missing.
    """
    row = rows[index]
    place = place_of(rows, index)
    if name not in row:
        near = did_you_mean(name, [str(column) for column in row])
        columns = ", ".join(str(column) for column in row) or "none"
        raise DataError(
            f'{place} has no column "{name}", which the template asks for. It has: {columns}.{near}'
        )
    value, where = row[name], f'{place}, column "{name}"'
    if value is None or (isinstance(value, Number) and value != value):
        raise DataError(f"{where}: the value is missing. Fill it in, or leave the row out.")
    return where


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: character {error.start + 1} is half of a surrogate pair, which stands for "
            "nothing. Mend the file's encoding."
        ) from None
