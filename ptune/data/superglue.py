r"""Readers of SuperGLUE's files: rows with a shape of their own become plain ones.

    reader: superglue/multirc    a passage with its questions  ->  a row for each answer
    reader: superglue/copa       cause or effect               ->  because or so, texts to be joined
    reader: superglue/rte        a sentence that may follow    ->  without its final punctuation
    reader: superglue/wsc        two spans and their places    ->  a text with its pronoun in stars

What is done to the texts is what the P-tuning paper's code does
(PT-Fewshot/data_utils/task_pvps.py, task_processors.py). The other tasks (BoolQ, CB, WiC) are plain
rows and need no reader.
"""

import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ptune.data.rows import Row, Rows
from ptune.errors import DataError

_JOINERS = {"cause": "because", "effect": "so"}


def read_multirc(rows: Rows) -> Rows:
    """A row for each answer: passage, question, answer, label (0 or 1), question_id.

    Raises:
        DataError: a row is no passage with questions and answers.
    """
    numbered: list[tuple[int, Row]] = []
    for index, row in enumerate(rows):
        numbered += [(rows.numbers[index], one) for one in _answers(row, rows.where(index))]
    return Rows.of(rows.source, rows.unit, numbered)


def _answers(row: Row, where: str) -> Iterator[Row]:
    wanted = (
        "superglue/multirc needs passage: {text, questions: [{question, answers: [{text, label}]}]}"
    )
    passage = _part(row, "passage", dict, where, wanted)
    text = _part(passage, "text", str, where, wanted)
    for at, question in enumerate(_part(passage, "questions", list, where, wanted)):
        name = f"{row.get('idx', where)}-{_own(question).get('idx', at)}"
        for answer in _part(question, "answers", list, where, wanted):
            yield {
                "passage": text,
                "question": _part(question, "question", str, where, wanted),
                "answer": _part(answer, "text", str, where, wanted),
                "label": answer.get("label"),
                "question_id": name,
            }


def _own(question: Any) -> Mapping[str, Any]:
    return question if isinstance(question, Mapping) else {}


def read_copa(rows: Rows) -> Rows:
    """The same rows, and joiner (because, so); premise and choices without their full stops.

    Raises:
        DataError: a column is missing, or a question is neither cause nor effect.
    """
    return _each(rows, _copa)


def _copa(row: Row, where: str) -> Row:
    wanted = "superglue/copa needs premise, choice1, choice2 and question (cause or effect)"
    question = _part(row, "question", str, where, wanted)
    if question not in _JOINERS:
        raise DataError(f"{where}: question is {question!r}. Allowed: {', '.join(_JOINERS)}.")
    choices = {
        name: _inside(_part(row, name, str, where, wanted)) for name in ("choice1", "choice2")
    }
    premise = _part(row, "premise", str, where, wanted).rstrip(".")
    return {**row, **choices, "premise": premise, "joiner": _JOINERS[question]}


def _inside(text: str) -> str:
    """A sentence as it stands within another one."""
    return (text[:1].lower() + text[1:]).rstrip(".")


def read_rte(rows: Rows) -> Rows:
    """The same rows, their hypothesis without the punctuation at its end: a mark follows it there.

    Raises:
        DataError: a row has no hypothesis.
    """
    return _each(rows, _rte)


def _rte(row: Row, where: str) -> Row:
    hypothesis = _part(row, "hypothesis", str, where, "superglue/rte needs hypothesis")
    return {**row, "hypothesis": hypothesis.rstrip(string.punctuation)}


def read_wsc(rows: Rows) -> Rows:
    """Rows with text (its pronoun in stars), pronoun, span, and label: whether it refers to that.

    `truth_column: label` learns from the rows whose label is true and is scored on all.

    Raises:
        DataError: a column is missing, or the pronoun does not stand where the row says.
    """
    return _each(rows, _wsc)


def _wsc(row: Row, where: str) -> Row:
    wanted = "superglue/wsc needs text and target: {span1_text, span2_text, span2_index}"
    text = _part(row, "text", str, where, wanted)
    target = _part(row, "target", dict, where, wanted)
    span = _part(target, "span1_text", str, where, wanted)
    pronoun = _part(target, "span2_text", str, where, wanted)
    place = _part(target, "span2_index", int, where, wanted)
    words = text.split()
    at = _place_of(pronoun, words, place, where)
    words[at] = re.sub(re.escape(pronoun), r"*\g<0>*", words[at], count=1, flags=re.IGNORECASE)
    plain = {key: value for key, value in row.items() if key != "target"}
    return {**plain, "text": " ".join(words), "pronoun": pronoun, "span": span}


def _place_of(pronoun: str, words: list[str], place: int, where: str) -> int:
    """The word that is the pronoun: some rows of the data set count one too many or too few."""
    for at in (place, place - 1, place + 1):
        if 0 <= at < len(words) and words[at].strip(".,;:!?\"'").lower() == pronoun.lower():
            return at
    raise DataError(
        f"{where}: span2_text is {pronoun!r}, which is not word {place} (from 0) of the text. Mend "
        "span2_index."
    )


def _each(rows: Rows, change: Callable[[Row, str], Row]) -> Rows:
    changed = (change(row, rows.where(index)) for index, row in enumerate(rows))
    return Rows.of(rows.source, rows.unit, zip(rows.numbers, changed, strict=True))


def _part(row: Any, name: str, kind: type, where: str, wanted: str) -> Any:
    """A value of the right kind, or a sentence."""
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, kind):
        found = type(value).__name__ if isinstance(row, Mapping) and name in row else "nothing"
        raise DataError(f"{where}: {name} is {found}. {wanted}.")
    return value


READERS: Mapping[str, Callable[[Rows], Rows]] = {
    "superglue/multirc": read_multirc,
    "superglue/copa": read_copa,
    "superglue/rte": read_rte,
    "superglue/wsc": read_wsc,
}
