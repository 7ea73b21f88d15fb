r"""Questions with their answers in a text: SQuAD's JSON, and the answers of any rows.

    {"version": "v2.0", "data": [{"title": "Amiens", "paragraphs": [{"context": "... in 1836 ...",
        "qas": [{"id": "57a1", "question": "When?", "is_impossible": false,
                 "answers": [{"text": "1836", "answer_start": 7}]}]}]}]}

    -> row    id 57a1, title Amiens, question When?, context ..., answers [{...}]
    -> spans  (("1836", 7),)        no answer: ()

Answers of other rows may be written shorter: a text, with `answer_start` in a column beside it or
left out where the text stands once in its context; a list of texts; or lists side by side, as data
sets of the hub have them. An empty text or list says that the context has no answer.

Knows rows, not files and not tasks. `files.py` finds out that a file is SQuAD's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ptune.data.rows import Row, Rows
from ptune.data.sift import Kept, told
from ptune.errors import DataError

# The right answers of a question: each text, and the character of the context at which it begins.
Spans: TypeAlias = tuple[tuple[str, int], ...]

# The column that holds where a text answer begins, in characters from 0.
START = "answer_start"
# What numbers count in rows of a SQuAD file.
QUESTION = "question"
_OPENING = re.compile(r'\s*\{\s*"(?:version|data)"\s*:')
_SHOWN = 40
# Of a place in a text: more than any text has characters, and what Python can read.
_MOST_DIGITS = 18


# ------------------------------------------------------------------------------- SQuAD's files


def is_squad(text: str) -> bool:
    """Whether a JSON text is SQuAD's, and not a line of an object each.

    >>> is_squad('{"version": "1.1", "data": [{"title": "t", "paragraphs": []}]}')
    True
    >>> is_squad('{"data": "no paragraphs here"}')
    False
    """
    return _OPENING.match(text) is not None and '"paragraphs"' in text


def squad_rows(document: object, source: str) -> Rows:
    """A row for each question of a SQuAD file, in the order of the file.

    Raises:
        DataError: a part is missing or of another kind; names the place.
    """
    return Rows.of(source, QUESTION, enumerate(_questions(document, source), start=1))


def with_own_ids(rows: Rows, *, skip: bool) -> Kept:
    """Refuse a question of a SQuAD file whose id an earlier one has, or leave it out.

    Raises:
        DataError: an id stands twice and `skip` is False; names both places.
    """
    again = list(_again(rows)) if rows.unit == QUESTION else []
    if not again:
        return Kept(rows, ())
    if not skip:
        raise DataError(again[0][1])
    left_out = {index for index, _ in again}
    kept = rows.take(index for index in range(len(rows)) if index not in left_out)
    return Kept(kept, told(rows, [fault for _, fault in again]))


def ids_of(rows: Rows) -> list[str]:
    """The id of each row, by which SQuAD's script finds its prediction.

    Raises:
        DataError: there is no column id, or two rows have one id.
    """
    if "id" not in rows.columns:
        raise DataError(
            f"{rows.source}: there is no column id, by which a .json file of predictions is "
            "written. Add it (or name it with columns), or write a .jsonl file."
        )
    for _, fault in _again(rows):
        raise DataError(fault)
    return [str(value) for value in rows.column("id")]


def _again(rows: Rows) -> Iterator[tuple[int, str]]:
    """Rows whose id an earlier one has, and what is to be said of each."""
    seen: dict[str, int] = {}
    for i, value in enumerate(rows.column("id")):
        first = seen.setdefault(str(value), i)
        if first != i:
            said = f"{rows.where(i)}: its id {value} is also that of {rows.where(first)}."
            yield i, f"{said} Predictions are written by id; give each question its own."


def _questions(document: object, source: str) -> Iterator[Row]:
    for a, article in enumerate(_list(document, "data", source), start=1):
        in_article = f"{source}, article {a}"
        title = article.get("title", "") if isinstance(article, Mapping) else ""
        for p, paragraph in enumerate(_list(article, "paragraphs", in_article), start=1):
            where = f"{in_article}, paragraph {p}"
            context = _part(paragraph, "context", str, "a text", where)
            for q, asked in enumerate(_list(paragraph, "qas", where), start=1):
                here = f"{where}, question {q}"
                yield {
                    "id": str(_part(asked, "id", str | int, "a text", here)),
                    "title": title,
                    "question": _part(asked, "question", str, "a text", here),
                    "context": context,
                    "answers": _answers(asked, here),
                }


def _answers(asked: Mapping[str, Any], where: str) -> object:
    """The answers as they stand; None of a question whose answers are kept back."""
    found = asked.get("answers")
    if asked.get("is_impossible") is True and found:
        raise DataError(
            f"{where}: it is_impossible, and has answers. Make is_impossible false, or write "
            '"answers": [].'
        )
    return [] if asked.get("is_impossible") is True else found


def _list(of: object, key: str, where: str) -> list[Any]:
    return _part(of, key, list, "a list", where)


def _part(of: object, key: str, kind: Any, name: str, where: str) -> Any:
    if not isinstance(of, Mapping) or key not in of:
        raise DataError(
            f'{where}: there is no "{key}". SQuAD\'s form is data, a list of articles with '
            "paragraphs, each with a context and qas, each with id, question and answers."
        )
    if not isinstance(of[key], kind):
        raise DataError(f'{where}: "{key}" is not {name}. Mend the file.')
    return of[key]


# ------------------------------------------------------------------------------- answers of rows


def spans_of(rows: Rows, column: str, *, context: str = "context") -> list[Spans]:
    """The right answers of each row, with the characters at which they begin.

    Args:
        column: of the answers; where it holds texts, `answer_start` may hold their beginnings.
        context: the column in which the answers stand.
    Raises:
        DataError: there is no such column, or an answer is missing, is no text, or does not stand
            in its context; names the place.
    """
    texts = rows.column(context)
    for name in (context, "question"):
        _refuse_empty(rows, name)
    return [
        tuple(
            (text, _checked(text, start, str(texts[i]), rows.where(i)))
            for text, start in _pairs(value, rows, i, column)
        )
        for i, value in enumerate(rows.column(column))
    ]


def _refuse_empty(rows: Rows, column: str) -> None:
    for i, text in enumerate(rows.column(column) if column in rows.columns else ()):
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"{rows.where(i)}: column {column} holds no text. Fill it in, or leave the row out."
            )


def _pairs(value: object, rows: Rows, index: int, column: str) -> list[tuple[str, object]]:
    """Texts with their beginnings, None where it is not said; empty for no answer."""
    where = f"{rows.where(index)}, column {column}"
    if value is None or (isinstance(value, float) and value != value):
        raise DataError(
            f"{where}: there is no answer. Give one; an empty text or list says that the context "
            "does not hold any."
        )
    beside = rows[index].get(START)
    if isinstance(value, dict):  # lists side by side, as the hub has them
        lists = value
        value, beside = lists.get("text"), lists.get(START)
    if isinstance(value, str):
        value, beside = ([value], [beside]) if value.strip() else ([], [])
    if not isinstance(value, Sequence):
        raise DataError(f"{where}: found {value!r}, which is neither a text nor a list of answers.")
    starts: Sequence[object] = [None] * len(value)
    if isinstance(beside, Sequence) and not isinstance(beside, str):
        starts = beside
    if len(starts) != len(value):
        raise DataError(
            f"{where}: there are {len(value)} answers, and {len(starts)} numbers in {START}. Give "
            f"each answer its own, or leave {START} out to have the answers looked for."
        )
    return [_pair(one, start, where) for one, start in zip(value, starts, strict=True)]


def _pair(one: object, start: object, where: str) -> tuple[str, object]:
    if isinstance(one, dict):
        pair = one
        one, start = pair.get("text"), pair.get(START)
    if not isinstance(one, str) or not one.strip():
        raise DataError(
            f"{where}: found the answer {one!r}, which is no text. Write a text, or an object with "
            f"text and {START}; where there is no answer, an empty list."
        )
    return one, start


def _checked(text: str, start: object, context: str, where: str) -> int:
    """Where an answer begins, after a look."""
    if start is None or start == "":
        return _found(text, context, where)
    at = _whole_number(start)
    if at is None:
        shown = _short(start) if isinstance(start, str) else repr(start)
        raise DataError(f"{where}: {START} = {shown} is no whole number from 0. Mend it.")
    if context[at : at + len(text)] != text:
        there = context[at : at + len(text)]
        said = f"there stands {_short(there)}" if there else f"it has {len(context)} characters"
        raise DataError(
            f"{where}: the answer {_short(text)} does not stand at character {at} of its context; "
            f"{said}. Mend {START}, or leave it out to have the answer looked for."
        )
    return at


def _found(text: str, context: str, where: str) -> int:
    count = context.count(text)
    if count == 1:
        return context.index(text)
    if count == 0:
        raise DataError(
            f"{where}: the answer {_short(text)} is not in its context, and an extractive answer "
            "is a part of it, letter by letter. Mend the answer, or leave the row out."
        )
    raise DataError(
        f"{where}: the answer {_short(text)} stands {count} times in its context. Say which by "
        f"{START}, its first character counted from 0."
    )


def _whole_number(value: object) -> int | None:
    """Cells of a table are texts."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value) if len(value.strip()) <= _MOST_DIGITS else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
