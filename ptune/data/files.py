"""Text files to rows: CSV, TSV, JSON, CoNLL. Nothing is guessed, every mistake has its line.

    .csv     header, commas, RFC 4180 quotes; a text may hold a line break
    .tsv     header, tabs, no quoting at all: a quote is a character like any other
    .jsonl   one object a line; all with the same keys
    .json    the same, one list of objects, or SQuAD's articles: a row for each question
    .conll   one word a line, its tag in the last column, a blank line between sentences
             (.iob, .bio and .txt alike; ptune.data.conll)

UTF-8, with or without a byte order mark; blank lines are skipped; CSV and TSV values are texts as
they stand (an empty cell is an empty text). The csv and json modules are used because they know
lines; a loader that infers types would turn the label 007 into 7.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from ptune.data.conll import read_conll
from ptune.data.rows import Row, Rows, said_of_header
from ptune.data.squad import is_squad, squad_rows
from ptune.errors import DataError, did_you_mean
from ptune.values import TOO_LONG

_TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_WORD_SUFFIXES = (".conll", ".iob", ".bio", ".txt")
SUFFIXES = (*_TEXT_SUFFIXES, *_WORD_SUFFIXES, ".parquet")
_A_LINE = 'Every line must be one object, e.g. {"text": "...", "label": "..."}.'
_SQUAD = "The file begins as SQuAD's JSON does."
_A_LIST = "The file must be one list of objects, or one object a line."


def check_file(path: Path) -> None:
    """Refuse a path that is no readable file of a known kind.

    Raises:
        DataError: it is missing, a folder, or of another kind.
    """
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        has = f"It holds {', '.join(inside)}: name one." if inside else "Name a file."
        raise DataError(f"{path}: is a folder, not a file. {has}")
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        near = did_you_mean(path.name, beside)
        raise DataError(
            f"{path}: no such file in {path.parent.absolute()}.{near} "
            "A data set of the hub is written hub:NAME."
        )
    if path.suffix.lower() not in SUFFIXES:
        kind = path.suffix or "no extension"
        raise DataError(f"{path}: unknown kind of file ({kind}). Known: {', '.join(SUFFIXES)}.")


def read_text_file(path: Path) -> Rows:
    """Read a CSV, TSV, JSON lines, JSON or CoNLL file.

    Raises:
        DataError: the file cannot be read as what its name says.
    """
    text = _decode(path)
    suffix = path.suffix.lower()
    table = suffix in (".csv", ".tsv")
    if not text.strip():
        needs = "a header line and rows" if table else "one JSON object a line"
        needs = "one word and its tag a line" if suffix in _WORD_SUFFIXES else needs
        raise DataError(f"{path}: the file is empty. It needs {needs}.")
    if suffix in _WORD_SUFFIXES:
        return read_conll(text, str(path))
    if table:
        return _read_table(text, str(path), delimiter="," if suffix == ".csv" else "\t")
    if suffix == ".json" and text.lstrip().startswith("["):
        return _read_json_list(text, str(path))
    if suffix == ".json" and is_squad(text):
        return squad_rows(_parse(text, str(path), 1, _SQUAD), str(path))
    return Rows.of(str(path), "line", _json_lines(text, str(path)))


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: the file is UTF-16. Save it as UTF-8.")
    try:  # not utf-8-sig, whose error positions leave out the byte order mark
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line} (byte {error.start} of the file): byte 0x{data[error.start]:02x} "
            "is not UTF-8. Save the file as UTF-8."
        ) from None


def _read_table(text: str, source: str, delimiter: str) -> Rows:
    (first, header), *records = _records(text, source, delimiter)
    _check_header(header, f"{source}, line {first}")
    numbered = []
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(_wrong_width(f"{source}, line {line}", fields, header, delimiter))
        numbered.append((line, dict(zip(header, fields, strict=True))))
    if not numbered:
        raise DataError(f"{source}: there is a header ({', '.join(header)}), but no row below it.")
    return Rows.of(source, "line", numbered)


def _records(text: str, source: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return every record with the line that it begins on."""
    lines = io.StringIO(text, newline="")
    if delimiter == "\t":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    # The module's limit of 131,072 characters a field is a global; a long document is no mistake.
    before = csv.field_size_limit(len(text) + 1)
    line, records = 1, []
    try:
        for fields in reader:
            if fields:
                records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        if delimiter == "," and records and (said := said_of_header(records[0][1])):
            raise DataError(f"{source}, line {line}:{said}") from None
        raise DataError(
            f"{source}, line {line}: not CSV: {error}. A text with a comma, a quote or a line "
            "break stands in double quotes, and a quote inside it is doubled."
        ) from None
    finally:
        csv.field_size_limit(before)
    return records


def _check_header(header: list[str], where: str) -> None:
    for column, name in enumerate(header, start=1):
        if not name.strip():
            raise DataError(f"{where}: column {column} of the header has no name. Name it.")
        if name in header[: column - 1]:
            raise DataError(f"{where}: the header names column {name} twice. Rename one of them.")


def _wrong_width(where: str, fields: list[str], header: list[str], delimiter: str) -> str:
    if delimiter == "," and (said := said_of_header(header)):
        return f"{where}:{said}"
    found = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
    advice = (
        "A text with commas stands in double quotes."
        if delimiter == ","
        else "A TSV file has no quoting; a tab or line break inside a text must go."
    )
    names = ", ".join(header)
    return f"{where}: {found}, but the header has {len(header)} ({names}). {advice}"


def _json_lines(text: str, source: str) -> Iterator[tuple[int, Row]]:
    # Not splitlines(): JSON texts may hold U+2028 and other line ends of Unicode.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            value = _parse(content, source, line, _A_LINE)
            yield line, _object(value, f"{source}, line {line}", _A_LINE)


def _read_json_list(text: str, source: str) -> Rows:
    rows = _parse(text, source, 1, _A_LIST)
    assert isinstance(rows, list), "the text begins with a bracket"
    numbered = [
        (number, _object(row, f"{source}, row {number}", _A_LIST))
        for number, row in enumerate(rows, start=1)
    ]
    return Rows.of(source, "row", numbered)


def _parse(text: str, source: str, line: int, advice: str) -> object:
    """Parse JSON that begins on `line` of its source."""
    try:
        value: object = json.loads(text, object_pairs_hook=_unique)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"{source}, line {line + error.lineno - 1}, column {error.colno}"
        raise DataError(f"{where}: not JSON: {error.msg}. {advice}") from None
    except UnicodeEncodeError:
        raise DataError(
            f"{source}, line {line}: a text holds half of a surrogate pair (\\ud800 to \\udfff), "
            "which no tokenizer reads. Write both halves or none."
        ) from None
    except (ValueError, RecursionError) as error:
        if "integer string conversion" in str(error):
            raise DataError(f"{source}, line {line}: {TOO_LONG}") from None
        raise DataError(f"{source}, line {line}: not JSON: {error}.") from None
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"key {twice} stands twice in an object")
    return made


def _object(value: object, where: str, advice: str) -> Row:
    if isinstance(value, dict):
        return value
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    raise DataError(f"{where}: {kinds.get(type(value), 'a number')}, not an object. {advice}")
