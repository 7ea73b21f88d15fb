"""Predictions as files: tables that other programs read, with everything that was in the rows."""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from ptune.cli.written import cells, labelled_writer, table, writer
from ptune.data import load_rows
from ptune.data.choices import with_choices
from ptune.errors import ConfigError, DataError
from ptune.tasks import Prediction
from ptune.writing import check_writable, write_text

SOFT = SimpleNamespace(task="causal-lm", settings={"label_column": "label"})


def said(*answers):
    return [Prediction(one, {one: 0.75, "other": 0.25}) for one in answers]


def read(path, comma=","):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=comma))


@pytest.mark.parametrize(("name", "comma"), [("said.csv", ","), ("said.tsv", "\t")])
def test_a_table_has_the_rows_with_their_answers(tmp_path, name, comma):
    late = 'late, "very"\nlate' if comma == "," else 'late, "very" late'
    rows = load_rows([{"text": late, "n": 3}, {"text": "thank you", "n": None}])
    count = writer(tmp_path / name, SOFT, None)(said("complaint", "none"), rows)
    assert count == 2
    assert read(tmp_path / name, comma) == [
        {"text": late, "n": "3", "answer": "complaint", "probability": "0.75"},
        {"text": "thank you", "n": "", "answer": "none", "probability": "0.75"},
    ]


@pytest.mark.parametrize("name", ["said.csv", "said.jsonl"])
def test_what_a_template_reads_of_the_rows_is_not_written_beside_them(tmp_path, name):
    given = {"label": "old", "body": "late", "text": "of a field's name", "choice1": "a"}
    rows = load_rows([given | {"choice2": "b"}] * 2).with_fields({"text": "body"})
    path = tmp_path / name
    labelled_writer(path, SOFT, None, None)(said("a", "b"), with_choices(rows))
    assert load_rows(path).columns == ("label", "body", "text", "choice1", "choice2")
    assert [row["text"] for row in load_rows(path)] == ["of a field's name"] * 2
    header, *_ = table(said("a", "b"), with_choices(rows), ",").splitlines()
    assert header == "label,body,text,choice1,choice2,answer,probability"


def test_a_column_of_that_name_is_kept():
    rows = load_rows([{"answer": "given", "probability": "p"}])
    header, line = table(said("found"), rows, ",").splitlines()
    assert header == "answer,probability,answer_,probability_"
    assert line == "given,p,found,0.75"


def test_without_rows_answers_stand_alone():
    assert table(said("a", "b"), None, ",") == "answer,probability\na,0.75\nb,0.75\n"


def test_answers_without_one_probability_leave_it_empty():
    tags = Prediction(("B-PER", "O"), {})
    assert table([tags], None, ",") == "answer,probability\nB-PER O,\n"
    assert table([tags], None, ",", "|") == "answer,probability\nB-PER|O,\n"
    assert table([Prediction(1.5, {})], None, ",") == "answer,probability\n1.5,\n"


def test_rows_to_train_on_are_read_again_as_they_were_written(tmp_path):
    rows = load_rows(
        [{"text": "late\r\nagain", "label": "old"}, {"text": "thanks", "label": "old"}]
    )
    path = tmp_path / "labelled.csv"
    assert labelled_writer(path, SOFT, None, None)(said("complaint", "none"), rows) == 2
    assert list(load_rows(path)) == [
        {"text": "late\r\nagain", "label": "complaint"},
        {"text": "thanks", "label": "none"},
    ]


def test_a_list_of_words_is_a_text_of_words():
    rows = [{"tokens": ["Ann", "left"], "label": ("B-PER", "O"), "more": {"a": 1}}]
    assert cells(rows, ("tokens", "label", "more"), ",") == (
        'tokens,label,more\nAnn left,B-PER O,"{""a"": 1}"\n'
    )


def test_where_rows_are_not_at_hand_their_file_is_read_again(tmp_path):
    source, target = tmp_path / "new.csv", tmp_path / "said.csv"
    source.write_text("text,n\nlate,1\nthank you,2\n", encoding="utf-8")
    writer(target, SOFT, str(source))(said("complaint", "none"))
    assert target.read_text(encoding="utf-8") == (
        "text,n,answer,probability\nlate,1,complaint,0.75\nthank you,2,none,0.75\n"
    )


def test_a_tsv_table_is_read_again_as_it_was_written(tmp_path):
    rows = load_rows([{"text": 'He asked "why does ice float"', "label": "old"}])
    path = tmp_path / "said.tsv"
    assert labelled_writer(path, SOFT, None, None)(said("science"), rows) == 1
    assert list(load_rows(path)) == [{"text": rows[0]["text"], "label": "science"}]


def test_a_text_that_a_tsv_file_cannot_hold_is_refused(tmp_path):
    rows = load_rows([{"text": "fine"}, {"text": "two\nlines"}])
    with pytest.raises(DataError) as error:
        writer(tmp_path / "said.tsv", SOFT, None)(said("a", "b"), rows)
    assert str(error.value) == (
        "row 2: a text has a tab or a line break, which a TSV file cannot hold. Write a .csv or a "
        ".jsonl file."
    )
    assert not (tmp_path / "said.tsv").exists()


def test_a_carriage_return_alone_is_read_again_from_csv(tmp_path):
    rows = load_rows([{"text": "one\rtwo", "label": "x"}])
    path = tmp_path / "said.csv"
    labelled_writer(path, SOFT, None, None)(said("a"), rows)
    assert list(load_rows(path)) == [{"text": "one\rtwo", "label": "a"}]


def test_answers_in_a_context_are_no_labels_of_rows(tmp_path):
    soft = SimpleNamespace(task="question-answering", settings={})
    with pytest.raises(ConfigError, match="--keep-rows and --at-least do not go with question-ans"):
        labelled_writer(tmp_path / "said.jsonl", soft, None, None)


def test_a_link_stays_and_a_pipe_is_written_to(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target.txt", "link.txt", "pipe"))
    target.write_text("old")
    link.symlink_to(target)
    check_writable(link)
    write_text(link, "new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        check_writable(pipe)
        write_text(pipe, "through")
        assert read.result(10) == "through"
    assert pipe.is_fifo()
