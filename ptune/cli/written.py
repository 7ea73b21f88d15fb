"""How predictions are shown and written: by `ptune predict`, and by `ptune evaluate`.

    {"answer": "complaint", "probabilities": {...}}          a line a row
    {"line": 7, "answer": ...}                               where bad rows were left out
    {"text": "...", "label": "complaint"}                    --keep-rows: rows to train on
    {"57a1": "Rome"}                                         SQuAD's form: id to answer
    text,answer,probability                                  a .csv or .tsv: beside the row's cells

Each writer says how many it wrote.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.errors import ConfigError, DataError

# Predictions, and the rows that they are of where that matters.
Write = Callable[..., int]

# Endings of tables, and what stands between their cells.
TABLES = {".csv": ",", ".tsv": "\t"}


def lines(predictions: Sequence[Any], kept: Any = None) -> list[str]:
    """A JSON text for each prediction.

    Args:
        kept: the rows, where others are left out: each text then says the place of its row.
    """
    places = [{}] * len(predictions) if kept is None else [{kept.unit: n} for n in kept.numbers]
    return [
        json.dumps(
            {**place, "answer": p.answer, "probabilities": p.probabilities, **p.more},
            ensure_ascii=False,
        )
        for place, p in zip(places, predictions, strict=True)
    ]


def table(predictions: Sequence[Any], rows: Any, comma: str, between: str = " ") -> str:
    """The rows with the answer and its probability behind their own cells.

    Args:
        rows: None where they are not at hand.
        comma: what stands between two cells.
        between: what stands between two tags or labels in a cell.
    """
    rows = None if rows is None else rows.as_read
    columns = () if rows is None else rows.columns
    answer, probability = (_free(name, columns) for name in ("answer", "probability"))
    beside = [{}] * len(predictions) if rows is None else rows
    made = [
        {**row, answer: one.answer, probability: one.probabilities.get(str(one.answer), "")}
        for row, one in zip(beside, predictions, strict=True)
    ]
    return cells(made, (*columns, answer, probability), comma, between)


def _between(soft: Any) -> str:
    """As rows are read: several labels are parted by bars, words and tags by spaces."""
    return "|" if soft.settings.get("problem") == "multi-label" else " "


def _free(name: str, taken: Sequence[str]) -> str:
    return _free(f"{name}_", taken) if name in taken else name


def cells(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], comma: str, between: str = " "
) -> str:
    """A table with a header; texts of a list stand in one cell, other values as JSON has them.

    It is read again as it was written. A TSV file has no quoting, so a quote stands in it as it is.

    Raises:
        DataError: a text has a tab or a line break, and a TSV file cannot hold it.
    """
    table = [[_cell(row[column], between) for column in columns] for row in rows]
    if comma == "\t":
        lines = [list(columns), *table]
        for number, line in enumerate(lines):
            if any(mark in cell for cell in line for mark in "\t\r\n"):
                where = "the header" if number == 0 else f"row {number}"
                raise DataError(
                    f"{where}: a text has a tab or a line break, which a TSV file cannot hold. "
                    "Write a .csv or a .jsonl file."
                )
        return "".join("\t".join(line) + "\n" for line in lines)
    text = io.StringIO(newline="")
    # The module quotes a line feed by itself, a carriage return only where all is quoted.
    if any("\r" in cell for line in table for cell in line):
        writer = csv.writer(text, delimiter=comma, lineterminator="\n", quoting=csv.QUOTE_ALL)
    else:
        writer = csv.writer(text, delimiter=comma, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(table)
    return text.getvalue()


def _cell(value: Any, between: str) -> str:
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return between.join(value)
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, default=str)


def shown_lines(predictions: Sequence[Any], kept: Any = None) -> list[str]:
    """The same for people."""
    from ptune.display import prediction_line

    shown = [prediction_line(one) for one in predictions]
    if kept is None:
        return shown
    numbered = zip(kept.numbers, shown, strict=True)
    return [f"{kept.unit} {number}: {line}" for number, line in numbered]


def writer(
    output: Path, soft: Any, source: str | None, *, skip: bool = False, option: str = "--output"
) -> Write:
    """What writes predictions to a file; what stands in its way is said now, before the work."""
    from ptune.data import ids_of
    from ptune.writing import check_writable, write_text

    check_writable(output, option=option, reads=source)
    if output.suffix in TABLES:

        def write_table(predictions: Sequence[Any], rows: Any = None) -> int:
            if rows is None and source is not None:
                rows = _rows_of(soft, source, skip)
            write_text(output, table(predictions, rows, TABLES[output.suffix], _between(soft)))
            return len(predictions)

        return write_table
    if soft.task != "question-answering" or output.suffix != ".json" or source is None:

        def write_lines(predictions: Sequence[Any], rows: Any = None) -> int:
            text = "".join(f"{line}\n" for line in lines(predictions, rows if skip else None))
            write_text(output, text)
            return len(predictions)

        return write_lines
    ids = ids_of(_rows_of(soft, source, skip))

    def write_by_id(predictions: Sequence[Any], rows: Any = None) -> int:
        own = ids if rows is None else ids_of(rows)
        by_id = dict(zip(own, (p.answer for p in predictions), strict=True))
        write_text(output, json.dumps(by_id, ensure_ascii=False) + "\n")
        return len(predictions)

    return write_by_id


def _rows_of(soft: Any, source: str, skip: bool) -> Any:
    from ptune.data import kept_rows_for

    return kept_rows_for(source, {**soft.settings, "task": soft.task}, skip=skip).rows


def labelled_writer(output: Path, soft: Any, source: str | None, at_least: float | None) -> Write:
    """What writes rows with their answers as labels, in JSON lines or a table.

    Args:
        source: the file of the rows.
        at_least: probability of an answer whose row is kept; None keeps all.
    """
    from ptune.writing import check_writable, write_text

    check_writable(output, reads=source)
    if at_least is not None and not _is_whole(soft):
        raise ConfigError(
            "--at-least goes with answers that are one label each; those of this prompt (task "
            f"{soft.task}) have no probability as a whole. Leave it out."
        )
    if soft.task == "question-answering":
        raise ConfigError(
            "--keep-rows and --at-least do not go with question-answering: rows to train on say "
            "where an answer stands, and an answer has no label. Leave them out."
        )
    column = str(soft.settings.get("label_column", "label"))

    def write(predictions: Sequence[Any], rows: Any) -> int:
        rows = rows.as_read
        kept = [
            {**row, column: one.answer}
            for row, one in zip(rows, predictions, strict=True)
            if at_least is None or one.probabilities[one.answer] >= at_least
        ]
        if output.suffix in TABLES:
            columns = tuple(dict.fromkeys((*rows.columns, column)))
            comma = TABLES[output.suffix]
            write_text(output, cells(kept, columns, comma, _between(soft)))
        else:
            said = [json.dumps(row, ensure_ascii=False, default=str) for row in kept]
            write_text(output, "".join(f"{line}\n" for line in said))
        return len(kept)

    return write


def _is_whole(soft: Any) -> bool:
    """Whether an answer of the prompt has one probability."""
    from ptune.config import kind_of

    problem = str(soft.settings.get("problem", "single-label"))
    answer = str(soft.settings.get("answer", "label"))
    return kind_of(soft.task, problem, answer) in ("single-label", "multiple-choice")
