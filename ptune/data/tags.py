r"""Tags of rows: one for each word, checked before anything is done with them.

    {"tokens": ["John", "sleeps"], "label": ["B-PER", "O"]}      lists
    tokens,label\nJohn sleeps,B-PER O                            or texts, split at white space

Faults name the word's line where each word has a line of its own (CoNLL), else the row and the
word's number. Knows rows and `ptune.tags`, no task.
"""

from collections.abc import Sequence

from ptune import tags as rules
from ptune.data.conll import FORM
from ptune.data.rows import Rows
from ptune.errors import DataError
from ptune.values import NOT_A_LIST, WORDS_FIELD, words_of

SKIP = "Mend the row, or leave such rows out with bad_rows: skip."


def tags_of(rows: Rows, column: str) -> list[tuple[str, ...]]:
    """Return the tags of each row, one a word.

    Args:
        column: holds the tags; the words are in `tokens`.

    Raises:
        DataError: a row has no words or no tags, or not as many tags as words.
    """
    rows.column(WORDS_FIELD)
    return [_tags(value, rows, index, column) for index, value in enumerate(rows.column(column))]


def tag_places(rows: Rows, column: str) -> dict[str, str]:
    """Return every tag with the first place that it stands at."""
    first: dict[str, str] = {}
    for index, tags in enumerate(tags_of(rows, column)):
        for at, tag in enumerate(tags):
            if tag not in first:
                first[tag] = rows.place(index, at)
    return first


def check_tags(rows: Rows, column: str, scheme: str) -> None:
    """Refuse tags that their scheme does not allow.

    Args:
        scheme: one of `ptune.tags.SCHEMES`.

    Raises:
        DataError: names the place of the word.
    """
    for index, tags in enumerate(tags_of(rows, column)):
        found = rules.fault(tags, scheme)
        if found is not None:
            at, reason = found
            word = words_of(rows, index, WORDS_FIELD)[at]
            raise DataError(
                f"{rows.place(index, at)} ({word!r}): {reason}. {_advice(tags[at], scheme)}{SKIP}"
            )


def scheme_in(rows: Rows, column: str) -> str:
    """How the tags of these rows write entities, by a look at those that can be read."""
    values = rows.column(column)
    return rules.scheme_of({tag for value in values for tag in _listed(value)})


def _advice(tag: str, scheme: str) -> str:
    if scheme == "bio" and tag.startswith("I-"):
        return "Where the file writes entities so (IOB1), set scheme: iob1. "
    return ""


def _listed(value: object) -> Sequence[str]:
    if isinstance(value, str):
        return value.split()
    return [tag for tag in value if isinstance(tag, str)] if isinstance(value, list | tuple) else ()


def _tags(value: object, rows: Rows, index: int, column: str) -> tuple[str, ...]:
    words = words_of(rows, index, WORDS_FIELD)
    if not isinstance(value, str | list | tuple):
        raise DataError(
            f"{rows.where(index)}: column {column} holds {value!r}, not a list of tags. "
            "Give one tag for each word, or delete the row."
        )
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        raise DataError(f"{rows.where(index)}: column {column} holds {value!r}, {NOT_A_LIST}")
    tags = tuple(value.split() if isinstance(value, str) else value)
    for at, tag in enumerate(tags):
        if not isinstance(tag, str) or not tag.strip():
            raise DataError(_no_tag(rows, index, at, column, tag))
    if len(tags) != len(words):
        raise DataError(
            f"{rows.where(index)}: {_count(len(words), 'word')} and {_count(len(tags), 'tag')} in "
            f"column {column}. Each word needs one tag. {SKIP}"
        )
    return tags


def _no_tag(rows: Rows, index: int, at: int, column: str, tag: object) -> str:
    place = rows.place(index, at)
    if rows.stretched and tag is None:
        word = words_of(rows, index, WORDS_FIELD)[at]
        return f"{place} ({word!r}): not as many columns as in the first line. {FORM} {SKIP}"
    return f"{place}: column {column} holds {tag!r}, which is no tag. {SKIP}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
