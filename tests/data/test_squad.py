"""Questions with their answers in a context: SQuAD's files and rows of any form."""

import json
from pathlib import Path

import pytest

from ptune.data import ids_of, kept_rows_for, load_rows, spans_of
from ptune.data.squad import with_own_ids
from ptune.errors import DataError

SQUAD = Path(__file__).parents[3] / "shared" / "data" / "squad"
CONTEXT = "Amiens lies on the Somme. The Somme is a river."
QAS = [
    {"id": "q1", "question": "Where?", "answers": [{"text": "on the Somme", "answer_start": 12}]},
    {
        "id": "q2",
        "question": "What is the Somme?",
        "answers": [{"text": "river", "answer_start": 41}, {"text": "a river", "answer_start": 39}],
        "is_impossible": False,
    },
    {
        "id": "q3",
        "question": "Who?",
        "is_impossible": True,
        "answers": [],
        "plausible_answers": [{"text": "Amiens", "answer_start": 0}],
    },
]


def squad(qas=QAS, context=CONTEXT, **more):
    return {"version": "v2.0", "data": [{"title": "Amiens", "paragraphs": [
        {"context": context, "qas": list(qas), **more}]}]}  # fmt: skip


def file_of(folder, document, indent=None):
    path = folder / "squad.json"
    path.write_text(json.dumps(document, indent=indent), encoding="utf-8")
    return path


def refusal(folder, document):
    with pytest.raises(DataError) as caught:
        load_rows(file_of(folder, document))
    return str(caught.value).replace(f"{folder}/", "")


def wrong(column="answers", **row):
    rows = load_rows([{"question": "Where?", "context": CONTEXT, **row}])
    with pytest.raises(DataError) as caught:
        spans_of(rows, column)
    return str(caught.value)


def spans(value, **row):
    return spans_of(load_rows([{"context": CONTEXT, "answers": value, **row}]), "answers")[0]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
def test_every_question_of_a_squad_file_is_a_row(tmp_path, indent):
    rows = load_rows(file_of(tmp_path, squad(), indent))
    assert rows.columns == ("id", "title", "question", "context", "answers")
    assert rows.column("id") == ids_of(rows) == ["q1", "q2", "q3"]
    assert set(rows.column("title")) == {"Amiens"}
    assert set(rows.column("context")) == {CONTEXT}
    assert spans_of(rows, "answers") == [
        (("on the Somme", 12),),
        (("river", 41), ("a river", 39)),
        (),
    ]
    assert rows.where(1).endswith("squad.json, question 2")


def test_a_file_of_one_object_a_line_is_not_taken_for_squads(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"data": "a", "label": "b"}\n{"data": "c", "label": "d"}\n')
    assert load_rows(path).column("data") == ["a", "c"]


def test_what_is_missing_in_a_squad_file_is_named_with_its_place(tmp_path):
    where = "squad.json, article 1, paragraph 1"
    without = [{key: value for key, value in QAS[0].items() if key != "question"}]
    assert refusal(tmp_path, squad(without)).startswith(
        f'{where}, question 1: there is no "question".'
    )
    assert (
        refusal(tmp_path, squad(context=7)) == f'{where}: "context" is not a text. Mend the file.'
    )
    broken = {"version": "1.1", "data": {"paragraphs": []}}
    assert refusal(tmp_path, broken) == 'squad.json: "data" is not a list. Mend the file.'
    assert "there are no rows" in refusal(tmp_path, squad([]))


def test_one_id_for_two_questions_is_refused(tmp_path):
    rows = load_rows(file_of(tmp_path, squad([QAS[0], QAS[1], QAS[0]])))
    said = f"{rows.source}, question 3: its id q1 is also that of {rows.source}, question 1."
    for read in (ids_of, lambda some: with_own_ids(some, skip=False)):
        with pytest.raises(DataError) as error:
            read(rows)
        assert str(error.value).startswith(said)


def test_a_question_whose_id_an_earlier_one_has_is_left_out_and_told(tmp_path):
    file = file_of(tmp_path, squad([QAS[0], QAS[1], QAS[0], QAS[2], QAS[1]]))
    kept = kept_rows_for(file, {"task": "question-answering"}, skip=True)
    assert kept.rows.column("id") == ["q1", "q2", "q3"]
    assert kept.notes[0] == f"{file}: 2 of 5 rows are left out:"
    for number, note in zip((3, 5), kept.notes[1:], strict=True):
        assert f"question {number}: its id q" in note
    assert kept_rows_for(file_of(tmp_path, squad()), {}, skip=True).notes == ()


def test_ids_of_other_rows_may_stand_twice():
    rows = load_rows([{"id": "a"}, {"id": "a"}])
    assert with_own_ids(rows, skip=False) == (rows, ())


def test_an_impossible_question_with_an_answer_is_refused(tmp_path):
    twisted = [QAS[0] | {"is_impossible": True}]
    assert "it is_impossible, and has answers" in refusal(tmp_path, squad(twisted))


def test_a_broken_squad_file_says_the_line(tmp_path):
    path = file_of(tmp_path, squad(), indent=1)
    path.write_text(path.read_text().replace('"title"', "title"))
    with pytest.raises(DataError, match=r"line 5, column 4: not JSON"):
        load_rows(path)


def test_questions_whose_answers_are_kept_back_can_be_read(tmp_path):
    rows = load_rows(file_of(tmp_path, squad([{"id": 1, "question": "Where?"}])))
    assert rows[0]["answers"] is None
    with pytest.raises(DataError, match=r"there is no answer\. Give one; an empty"):
        spans_of(rows, "answers")


@pytest.mark.skipif(not SQUAD.is_dir(), reason="the SQuAD pieces are not beside the project")
def test_all_answers_of_the_real_files_stand_where_they_say():
    rows = load_rows(SQUAD / "dev-v1.1.part1.json")
    found = spans_of(rows, "answers")
    assert (len(rows), sum(map(len, found))) == (5609, 16948)


# --- answers of any rows ----------------------------------------------------------------------


def test_an_answer_may_be_written_in_many_ways():
    assert spans("on the Somme", answer_start=12) == (("on the Somme", 12),)
    assert spans("on the Somme", answer_start="12") == (("on the Somme", 12),)
    assert spans("on the Somme") == (("on the Somme", 12),)
    assert spans("on the Somme", answer_start="") == (("on the Somme", 12),)
    assert spans(["lies", "Amiens"]) == (("lies", 7), ("Amiens", 0))
    assert spans(["Somme", "Somme"], answer_start=[19, 30]) == (("Somme", 19), ("Somme", 30))
    assert spans({"text": ["Somme"], "answer_start": [30]}) == (("Somme", 30),)
    assert spans([{"text": "Somme", "answer_start": 30}]) == (("Somme", 30),)


@pytest.mark.parametrize("empty", ["", " ", [], {"text": [], "answer_start": []}])
def test_no_answer_is_an_empty_one(empty):
    assert spans(empty) == ()


def test_an_answer_that_is_not_in_its_context_is_refused():
    assert wrong(answers="the Seine") == (
        "the given rows, row 1: the answer 'the Seine' is not in its context, and an extractive "
        "answer is a part of it, letter by letter. Mend the answer, or leave the row out."
    )


def test_an_answer_that_stands_twice_must_say_where():
    assert wrong(answers="Somme") == (
        "the given rows, row 1: the answer 'Somme' stands 2 times in its context. Say which by "
        "answer_start, its first character counted from 0."
    )


def test_an_answer_that_stands_elsewhere_is_refused():
    assert wrong(answers="Somme", answer_start=18) == (
        "the given rows, row 1: the answer 'Somme' does not stand at character 18 of its context; "
        "there stands ' Somm'. Mend answer_start, or leave it out to have the answer looked for."
    )
    assert "it has 47 characters" in wrong(answers="Somme", answer_start=900)


@pytest.mark.parametrize("start", [-1, 1.5, True, "x", "-1"])
def test_a_beginning_that_is_no_whole_number_is_refused(start):
    assert f"answer_start = {start!r} is no whole number" in wrong(
        answers="Somme", answer_start=start
    )


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_answer_is_not_an_empty_one(value):
    assert "column answers: there is no answer" in wrong(answers=value)


@pytest.mark.parametrize("value", [[7], [{"text": ""}], [""], [None]])
def test_an_answer_that_is_no_text_is_refused(value):
    assert "which is no text" in wrong(answers=value)


def test_an_empty_context_or_question_is_refused():
    assert "column context holds no text" in wrong(answers="a", context=" ")
    assert "column question holds no text" in wrong(answers="Amiens", question="")


def test_rows_without_ids_are_told_when_ids_are_needed():
    with pytest.raises(DataError, match="there is no column id, by which"):
        ids_of(load_rows([{"question": "a"}]))


def test_a_beginning_of_more_digits_than_python_reads_is_refused():
    assert wrong(answers="Somme", answer_start="9" * 5000) == (
        f"the given rows, row 1: answer_start = '{'9' * 40}...' is no whole number from 0. Mend it."
    )


@pytest.mark.parametrize("starts", [[19], [19, 30, 31], []])
def test_answers_and_beginnings_of_another_number_are_refused(starts):
    said = f"there are 2 answers, and {len(starts)} numbers in answer_start. Give each answer its"
    assert said in wrong(answers=["Somme", "Somme"], answer_start=starts)
    assert said in wrong(answers={"text": ["Somme", "Somme"], "answer_start": starts})
