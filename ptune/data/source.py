"""One door for every source of rows.

    load_rows("train.csv")    load_rows("hub:owner/name:test")    load_rows([{"text": "a"}, ...])
    load_rows("pretext:pairs:corpus.txt")      rows made of plain text
    rows_for("COPA/train.jsonl", settings)     as a recipe wants them: reader, columns, choices

What is not written `hub:` or `pretext:` is a file on this machine: a misspelt path never asks the
network.
Knows which reader takes what; the readers are files.py, hub.py and pretext.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.data.choices import with_choices
from ptune.data.files import check_file, read_text_file
from ptune.data.hub import from_dataset, read_hub, read_parquet, refuse_split
from ptune.data.pretext import PREFIX, read_pretext
from ptune.data.rows import Rows
from ptune.data.sift import Kept, sift
from ptune.data.squad import with_own_ids
from ptune.data.superglue import READERS
from ptune.errors import DataError

_GIVEN = "the given rows"


def load_rows(source: Any, *, split: str | None = None, offline: bool = False) -> Rows:
    """Return the rows of a file, a hub data set, a list of mappings or a `datasets` object.

    Args:
        source: a path (.csv .tsv .jsonl .ndjson .json .parquet), `hub:NAME[:CONFIG][:SPLIT]`,
            `pretext:FORM:FILE` (rows made of plain text), a list of mappings, a `datasets.Dataset`
            or `DatasetDict`; Rows are returned as they are.
        split: which split, where the source has several and names none.
        offline: never ask the hub; `hub:` is read from what was loaded before.

    Raises:
        DataError: the source cannot be read; the sentence says where and why.

    >>> load_rows([{"text": "no reply for days", "label": "complaint"}])
    Rows(the given rows: 1 rows of text, label)
    """
    if isinstance(source, str) and source.startswith("hub:"):
        return read_hub(source, split, offline=offline)
    if isinstance(source, str) and source.startswith(PREFIX):
        refuse_split(source, split)
        return read_pretext(source)
    if isinstance(source, str | Path):
        return _load_file(Path(source).expanduser(), split)
    if isinstance(source, Rows):
        refuse_split(source.source, split)
        return source
    if isinstance(source, Sequence) and all(isinstance(row, Mapping) for row in source):
        refuse_split(_GIVEN, split)
        return Rows.of(_GIVEN, "row", enumerate(source, start=1))
    return from_dataset(source, _GIVEN, split)


def rows_for(source: Any, settings: Mapping[str, Any]) -> Rows:
    """Return rows with the fields that the settings of a recipe ask for; see `kept_rows_for`."""
    return kept_rows_for(source, settings, skip=False).rows


def kept_rows_for(source: Any, settings: Mapping[str, Any], *, skip: bool) -> Kept:
    """Return rows with the fields that the settings of a recipe ask for, and what was left out.

    Args:
        source: as in `load_rows`.
        settings: reader, columns, choices, task and offline; a key that is missing has its default.
        skip: leave rows out whose choices cannot be used; False refuses the first one.

    Raises:
        DataError: the source cannot be read, or a field cannot be made of it.
    """
    read = load_rows(source, offline=bool(settings.get("offline")))
    rows, notes = with_own_ids(read, skip=skip)
    reader = settings.get("reader")
    if reader is not None:
        rows = READERS[reader](rows)
    rows = rows.with_fields(settings.get("columns") or {})
    if settings.get("task") != "multiple-choice":
        return Kept(rows, notes)
    columns = settings.get("choices")
    kept = Kept(rows, ())
    if skip:
        kept = sift(rows, lambda some: with_choices(some, columns), skip=True)
    return Kept(with_choices(kept.rows, columns), notes + kept.notes)


def _load_file(path: Path, split: str | None) -> Rows:
    refuse_split(str(path), split)
    try:
        check_file(path)
        return read_parquet(path) if path.suffix.lower() == ".parquet" else read_text_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
