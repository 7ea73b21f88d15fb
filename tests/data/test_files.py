import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.data import Rows, load_rows
from ptune.data.files import read_text_file
from ptune.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    """Return the error text, with the folder of the test left out."""
    with pytest.raises(DataError) as caught:
        load_rows(path)
    return str(caught.value).replace(f"{path.parent}/", "").replace(str(path.parent), "FOLDER")


def texts(rows: Rows) -> list[object]:
    return rows.column("text")


def test_csv_values_are_texts_as_they_stand(tmp_path: Path):
    rows = load_rows(written(tmp_path, "a.csv", 'text,label\n" a, ""b""",007\n5" nail,\n'))
    assert list(rows) == [{"text": ' a, "b"', "label": "007"}, {"text": '5" nail', "label": ""}]
    assert rows.columns == ("text", "label")


def test_a_text_may_hold_line_breaks_and_lines_stay_right(tmp_path: Path):
    content = 'text,label\n"one\ntwo",a\n\nx,b\r\n"\r\n",c\ny,d\n'
    rows = load_rows(written(tmp_path, "a.csv", content))
    assert texts(rows) == ["one\ntwo", "x", "\r\n", "y"]
    assert rows.numbers == (2, 5, 6, 8)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_every_line_end_and_a_byte_order_mark_are_accepted(tmp_path: Path, name: str, ending: str):
    content = "\ufeff" + ending.join(["text,label", "a,b", "c,d"])
    rows = load_rows(str(written(tmp_path, name, content)))
    assert list(rows) == [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]
    assert rows.numbers == (2, 3)


@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), min_size=2))
)
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]]
):
    table = [["a", "b"], ["1", "2"], *(row[:2] for row in table)]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    assert [list(row.values()) for row in load_rows(path)] == table[1:]


def test_tsv_has_no_quoting(tmp_path: Path):
    rows = load_rows(written(tmp_path, "a.tsv", 'text\tlabel\n"he, said\ta\n"b"\tc\n'))
    assert list(rows) == [{"text": '"he, said', "label": "a"}, {"text": '"b"', "label": "c"}]


def test_a_long_document_is_read_and_the_limit_of_the_module_is_left_alone(tmp_path: Path):
    before = csv.field_size_limit()
    document = "word " * 100_000
    rows = load_rows(written(tmp_path, "a.csv", f"text,label\n{document},a\n"))
    assert rows[0]["text"] == document
    assert csv.field_size_limit() == before
    refusal(written(tmp_path, "b.csv", 'text,label\n"a'))
    assert csv.field_size_limit() == before


def test_a_row_with_too_many_or_too_few_fields_is_refused(tmp_path: Path):
    assert refusal(written(tmp_path, "a.csv", 'text,label\n"a\nb",c\nd,e,f\n')) == (
        "a.csv, line 4: 3 fields, but the header has 2 (text, label). "
        "A text with commas stands in double quotes."
    )
    assert refusal(written(tmp_path, "a.tsv", "text\tlabel\na\n")) == (
        "a.tsv, line 2: 1 field, but the header has 2 (text, label). "
        "A TSV file has no quoting; a tab or line break inside a text must go."
    )


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ('text,label\na,b\n"c,d\ne,f\n', 3, "unexpected end of data"),
        ('text,label\n"a" b,c\n', 2, "',' expected after '\"'"),
    ],
)
def test_broken_quotes_are_refused_where_their_row_begins(
    tmp_path: Path, content: str, line: int, reason: str
):
    assert refusal(written(tmp_path, "a.csv", content)) == (
        f"a.csv, line {line}: not CSV: {reason}. A text with a comma, a quote or a line break "
        "stands in double quotes, and a quote inside it is doubled."
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label,text\na,b,c\n", "the header names column text twice. Rename one of them."),
        ("text,,label\na,b,c\n", "column 2 of the header has no name. Name it."),
        ("text, \na,b\n", "column 2 of the header has no name. Name it."),
    ],
)
def test_a_header_needs_different_names(tmp_path: Path, content: str, message: str):
    assert refusal(written(tmp_path, "a.csv", content)) == f"a.csv, line 1: {message}"


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("a.csv", "a header line and rows"),
        ("a.tsv", "a header line and rows"),
        ("a.jsonl", "one JSON object a line"),
        ("a.json", "one JSON object a line"),
    ],
)
def test_an_empty_file_is_refused(tmp_path: Path, content: str, name: str, needs: str):
    assert refusal(written(tmp_path, name, content)) == (
        f"{name}: the file is empty. It needs {needs}."
    )


def test_a_header_alone_is_refused(tmp_path: Path):
    assert refusal(written(tmp_path, "a.csv", "text,label\n")) == (
        "a.csv: there is a header (text, label), but no row below it."
    )


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_that_is_not_utf8_is_refused_with_line_and_byte(tmp_path: Path, mark: bytes):
    content = mark + b"text,label\na,b\ncaf\xe9,c\n"
    assert refusal(written(tmp_path, "a.csv", content)) == (
        f"a.csv, line 3 (byte {18 + len(mark)} of the file): byte 0xe9 is not UTF-8. "
        "Save the file as UTF-8."
    )


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf16_is_named(tmp_path: Path, codec: str):
    content = "text,label\na,b\n".encode(codec)
    content = content if codec == "utf-16" else b"\xfe\xff" + content
    assert refusal(written(tmp_path, "a.csv", content)) == (
        "a.csv: the file is UTF-16. Save it as UTF-8."
    )


def test_json_lines_keep_their_types_and_lines(tmp_path: Path):
    content = '{"text": "a\u2028b", "label": 1}\r\n\n{"label": ["x"], "text": null}\n'
    for name in ("a.jsonl", "a.ndjson", "a.json"):
        rows = load_rows(written(tmp_path, name, content))
        assert list(rows) == [{"text": "a\u2028b", "label": 1}, {"label": ["x"], "text": None}]
        assert rows.where(1).endswith(f"{name}, line 3")


def test_a_json_file_may_hold_one_list(tmp_path: Path):
    rows = load_rows(written(tmp_path, "a.json", '\n[{"text": "a"},\n\n {"text": "b"}]'))
    assert texts(rows) == ["a", "b"]
    assert rows.where(1).endswith("a.json, row 2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"text" "a"}',
            "a.jsonl, line 2, column 9: not JSON: Expecting ':' delimiter. ",
        ),
        ("text", "a.jsonl, line 2, column 1: not JSON: Expecting value. "),
        ('["a"]', "a.jsonl, line 2: a list, not an object. "),
        ('"a"', "a.jsonl, line 2: a text, not an object. "),
        ("3", "a.jsonl, line 2: a number, not an object. "),
        ("true", "a.jsonl, line 2: true or false, not an object. "),
        ("null", "a.jsonl, line 2: null, not an object. "),
    ],
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str, message: str):
    found = refusal(written(tmp_path, "a.jsonl", f'{{"text": "a"}}\n{line}\n'))
    assert found == message + 'Every line must be one object, e.g. {"text": "...", "label": "..."}.'


def test_lines_with_other_keys_are_refused(tmp_path: Path):
    content = '{"text": "a", "label": "b"}\n\n{"text": "c", "lable": "d"}\n'
    assert refusal(written(tmp_path, "a.jsonl", content)) == (
        "a.jsonl, line 3: its keys are text, lable, but line 1 has text, label. "
        "Every row needs the same keys; write null where a value is missing."
    )


def test_a_key_that_stands_twice_is_refused(tmp_path: Path):
    assert refusal(written(tmp_path, "a.jsonl", '{"a": 1, "b": 2, "a": 3}\n')) == (
        "a.jsonl, line 1: not JSON: key a stands twice in an object."
    )


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_read(tmp_path: Path):
    whole = json.dumps({"text": "😀"})
    assert texts(load_rows(written(tmp_path, "a.jsonl", whole))) == ["😀"]
    assert refusal(written(tmp_path, "a.jsonl", f'{whole}\n{{"text": "\\ud83d"}}')) == (
        "a.jsonl, line 2: a text holds half of a surrogate pair (\\ud800 to \\udfff), "
        "which no tokenizer reads. Write both halves or none."
    )


def test_json_that_python_cannot_hold_is_refused(tmp_path: Path):
    line = "[" * 100_000
    assert refusal(written(tmp_path, "a.jsonl", line)).startswith("a.jsonl, line 1: not JSON: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a.json: there are no rows. Give one or more."),
        (
            '[{"a": 1}, 2]',
            (
                "a.json, row 2: a number, not an object. "
                "The file must be one list of objects, or one object a line."
            ),
        ),
        (
            '[{"a": 1},\n{"a": 2]',
            (
                "a.json, line 2, column 8: not JSON: Expecting ',' delimiter. "
                "The file must be one list of objects, or one object a line."
            ),
        ),
    ],
)
def test_a_broken_list_is_refused(tmp_path: Path, content: str, message: str):
    assert refusal(written(tmp_path, "a.json", content)) == message


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.integers()}), min_size=1))
def test_what_the_json_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]
):
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    lines = (json.dumps(record, ensure_ascii=True) for record in records)
    path.write_text("\n".join(lines), encoding="utf-8")
    assert list(read_text_file(path)) == records


def test_a_missing_file_is_told_with_its_folder_and_a_neighbour(tmp_path: Path):
    written(tmp_path, "train.csv", "")
    assert refusal(tmp_path / "trian.csv") == (
        "trian.csv: no such file in FOLDER. Did you mean train.csv? "
        "A data set of the hub is written hub:NAME."
    )
    assert refusal(tmp_path / "none" / "a.csv") == (
        "a.csv: no such file in FOLDER. A data set of the hub is written hub:NAME."
    )


def test_a_folder_is_told_with_the_files_in_it(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    assert refusal(folder) == "data: is a folder, not a file. Name a file."
    for name in ("b.csv", "a.parquet", "notes.md"):
        written(folder, name, "")
    assert refusal(folder) == (
        "data: is a folder, not a file. It holds a.parquet, b.csv: name one."
    )


@pytest.mark.parametrize(("name", "kind"), [("a.xlsx", ".xlsx"), ("data", "no extension")])
def test_an_unknown_kind_of_file_is_refused(tmp_path: Path, name: str, kind: str):
    assert refusal(written(tmp_path, name, "a")) == (
        f"{name}: unknown kind of file ({kind}). "
        "Known: .csv, .tsv, .jsonl, .ndjson, .json, .conll, .iob, .bio, .txt, .parquet."
    )


def test_a_path_that_cannot_be_opened_is_refused(tmp_path: Path):
    name = "x" * 300 + ".csv"
    assert refusal(tmp_path / name) == f"{name}: cannot be read (File name too long)."


def test_a_number_of_more_digits_than_python_reads_is_refused(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}\n{"text": ' + "9" * 5000 + "}\n")
    with pytest.raises(DataError) as error:
        load_rows(file)
    assert str(error.value) == (
        f"{file}, line 2: a number has more than 4,000 digits. Write it as a text, in quotes, or "
        "mend the row."
    )


@pytest.mark.parametrize("mark", [";", "\t", "|"])
@pytest.mark.parametrize("row", ["Thanks, all good{}no", '"Thanks, all good"{}no'])
def test_another_separator_is_told_where_a_text_has_a_comma(tmp_path: Path, mark: str, row: str):
    content = f"text{mark}label\n{row.format(mark)}\n"
    assert refusal(written(tmp_path, "a.csv", content)) == (
        f"a.csv, line 2: The header seems to be separated by {mark!r}; save the file with commas."
    )
