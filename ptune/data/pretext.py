"""Labelled rows from plain text, for prompts that are trained before there are labels.

    pretext:pairs:corpus.txt      sentence1, sentence2 -> yes (the next one), maybe (of the same
                                  document, but not next to it), no (of another document)
    pretext:choices:corpus.txt    sentence, choice1 .. choice6 -> which one comes next
    pretext:sentences:corpus.txt  text, a sentence of its own    -> labels come from another prompt

A prompt that was trained on such rows is a start for a task of the same form and few rows: natural
language inference from `pairs`, multiple choice from `choices`, single texts from `sentences` (PPT,
arXiv:2109.04332, and tools/preprocess_pretrain_data_ns{p,s}.py of thu-coai/PPT, where the sentence
before counts as next, too). A choice of `choices` is the next sentence, another one of the same
document, or one of another document. The labels of `sentences` are those that a model gives which
was trained on another task (`ptune predict --keep-rows`), as the paper's are.

Documents stand in a UTF-8 text file with an empty line between them. Sentences end at a full stop,
a question or an exclamation mark before white space; that is crude, and enough. What is drawn
follows from the text alone, so a file gives the same rows on every machine.
"""

import re
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ptune.data.rows import Row, Rows
from ptune.errors import DataError, did_you_mean

PREFIX = "pretext:"
# Choices of a row: the next sentence, one more of its document, and others (as in PPT's code).
CHOICES = 6
# Shorter sentences, in words, are headings and crumbs; longer ones are lists and tables.
FEWEST_WORDS, MOST_WORDS = 4, 60

_END = re.compile(r"(?<=[.!?])\s+")


class _Document(NamedTuple):
    """Its sentences, and the line that it begins on."""

    line: int
    sentences: tuple[str, ...]


def read_pretext(source: str) -> Rows:
    """Return the rows that `pretext:FORM:FILE` stands for.

    Raises:
        DataError: the form is unknown, the file cannot be read, or it has too little text.
    """
    form, _, name = source.removeprefix(PREFIX).partition(":")
    forms = {"pairs": _pairs, "choices": _choices, "sentences": _singles}
    if form not in forms or not name:
        near = did_you_mean(form, list(forms))
        raise DataError(
            f"{source}: is not of the form pretext:FORM:FILE with one of the forms "
            f"{', '.join(forms)}.{near}"
        )
    documents = _documents(Path(name), alone=form == "sentences")
    return Rows.of(source, "line", forms[form](documents))


def _documents(path: Path, *, alone: bool) -> list[_Document]:
    """The documents of a file.

    Args:
        alone: of one sentence or more each, of which there may be one; else there must be enough
            to have a next sentence, one that is not next, and others.
    """
    try:
        text = path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8. Save it as UTF-8.") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = []
    line = 1
    for part in re.split(r"(\n[ \t]*\n\s*)", text):
        sentences = tuple(one for one in _sentences(part))
        if len(sentences) > (0 if alone else 2):  # a next one, and one that is not next
            found.append(_Document(line, sentences))
        line += part.count("\n")
    if alone and not found:
        raise DataError(
            f"{path}: has no sentence of {FEWEST_WORDS} to {MOST_WORDS} words. Give more text."
        )
    if not alone and len(found) < CHOICES:
        raise DataError(
            f"{path}: has {len(found)} documents of three sentences or more, and {CHOICES} are "
            "needed. Put an empty line between documents, or give more text."
        )
    return found


def _sentences(text: str) -> Iterator[str]:
    for one in _END.split(" ".join(text.split())):
        if FEWEST_WORDS <= len(one.split()) <= MOST_WORDS:
            yield one


def _pairs(documents: Sequence[_Document]) -> Iterator[tuple[int, Row]]:
    """One row a sentence and form of answer in turn, so that the answers are balanced."""
    turn = 0
    for number, document in enumerate(documents):
        for at in range(len(document.sentences) - 1):
            label = ("yes", "maybe", "no")[turn % 3]
            if label == "maybe" and not _apart_from(document, at):
                label = "no"
            turn += 1
            second = {"yes": _next, "maybe": _apart, "no": _elsewhere}[label]
            yield (
                document.line,
                {
                    "sentence1": document.sentences[at],
                    "sentence2": second(documents, number, at, 0),
                    "label": label,
                },
            )


def _choices(documents: Sequence[_Document]) -> Iterator[tuple[int, Row]]:
    for number, document in enumerate(documents):
        for at in range(len(document.sentences) - 1):
            wrong = [_elsewhere(documents, number, at, draw) for draw in range(CHOICES - 2)]
            right = _next(documents, number, at, 0)
            options = [right, _apart(documents, number, at, 0), *wrong]
            order = sorted(range(CHOICES), key=lambda one: _draw(number, at, f"order {one}"))
            row: dict[str, object] = {"sentence": document.sentences[at]}
            row |= {f"choice{n}": options[one] for n, one in enumerate(order, start=1)}
            yield document.line, {**row, "label": str(order.index(0))}


def _singles(documents: Sequence[_Document]) -> Iterator[tuple[int, Row]]:
    """Every sentence once, however often it stands there."""
    seen: set[str] = set()
    for document in documents:
        for sentence in document.sentences:
            if sentence not in seen:
                seen.add(sentence)
                yield document.line, {"text": sentence}


def _next(documents: Sequence[_Document], number: int, at: int, draw: int) -> str:
    return documents[number].sentences[at + 1]


def _apart(documents: Sequence[_Document], number: int, at: int, draw: int) -> str:
    """A sentence of the same document that does not stand next to this one."""
    apart = _apart_from(documents[number], at)
    if not apart:
        return _elsewhere(documents, number, at, -1)
    return apart[_draw(number, at, "apart") % len(apart)]


def _apart_from(document: _Document, at: int) -> list[str]:
    """None for the middle one of three, which has two neighbours and nothing else."""
    return [one for other, one in enumerate(document.sentences) if abs(other - at) > 1]


def _elsewhere(documents: Sequence[_Document], number: int, at: int, draw: int) -> str:
    """A sentence of another document; different draws come from different documents."""
    others = len(documents) - 1
    step = 1 + (_draw(number, at, "document") + draw) % others
    chosen = documents[(number + step) % len(documents)].sentences
    return chosen[_draw(number, at, f"sentence {draw}") % len(chosen)]


def _draw(number: int, at: int, purpose: str) -> int:
    """A large number that follows from a sentence's place and a purpose."""
    return int.from_bytes(sha256(f"{purpose}:{number}:{at}".encode()).digest()[:8])
