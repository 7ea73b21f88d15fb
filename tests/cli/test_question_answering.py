"""Questions about a text, from the command line: SQuAD's file in, its form of predictions out."""

import json
from pathlib import Path

import pytest
import tiny
from tokenizers import processors

from ptune.prompt import SoftPrompt

CONTEXT = "my parcel is late . thank you , the film is very good . where is the parcel ? one two"
ASKED = [("where is it ?", "late"), ("is it good ?", "very good"), ("two ?", "one two")]


def squad(path, *, contexts=4, kept_back=False):
    """A file with several contexts, and three questions on each."""
    paragraphs = []
    for number in range(contexts):
        context = f"{CONTEXT} {'three ' * number}.".replace(" .", "  .")
        qas = [
            {
                "id": f"{number}-{at}",
                "question": question,
                "answers": [{"text": text, "answer_start": context.index(text)}],
            }
            for at, (question, text) in enumerate(ASKED)
        ]
        if kept_back:
            qas = [{"id": one["id"], "question": one["question"]} for one in qas]
        paragraphs.append({"context": context, "qas": qas})
    document = {"data": [{"title": "a", "paragraphs": paragraphs}], "version": "1.1"}
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 2), ("</s>", 3)],
    )
    tokenizer.save_pretrained(folder / "backbone")
    tiny.model("bert").save_pretrained(folder / "backbone")
    squad(folder / "train.json")
    (folder / "recipe.yaml").write_text(
        f"backbone: {folder}/backbone\ntrain: {folder}/train.json\ntest: {folder}/train.json\n"
        "task: question-answering\nmethod: p-tuning-v2\nprompt_length: 3\n"
        "max_tokens: 20\nstride: 3\nbatch_size: 4\nepochs: 1\ncache: off\n"
        f"validation_share: 0.3\noutput: {folder}/run\n"
    )
    return folder


def test_train_evaluate_predict_inspect(folder, ptune):
    code, out, err = ptune("train", folder / "recipe.yaml", "--json")
    assert (code, err) == (0, "")
    scores = json.loads(out)["scores"]
    assert scores["test"].keys() == {"loss", "f1", "exact_match"}
    prompt = SoftPrompt.load(folder / "run" / "prompt")
    assert prompt.template == "{question}{sep}{context}"
    assert prompt.settings["label_column"] == "answers"
    assert prompt.settings["metric"] == "f1"

    run = ("--backbone", folder / "backbone")
    said = folder / "evaluated.json"
    code, out, err = ptune(
        *("evaluate", folder / "run" / "prompt", "--data", folder / "train.json", "--json"),
        *("--predictions", said, *run),
    )
    assert code == 0, err
    assert json.loads(out) == pytest.approx(scores["test"], abs=1e-4)

    asked = squad(folder / "asked.json", kept_back=True)
    code, out, err = ptune(
        *("predict", folder / "run" / "prompt", "--input", asked),
        *("--output", folder / "predictions.json", *run),
    )
    assert code == 0, err
    answers = json.loads((folder / "predictions.json").read_text())
    assert answers == json.loads(said.read_text())
    assert list(answers) == [f"{number}-{at}" for number in range(4) for at in range(3)]
    document = json.loads(asked.read_text())
    for number, paragraph in enumerate(document["data"][0]["paragraphs"]):
        for at in range(3):
            assert answers[f"{number}-{at}"]
            assert answers[f"{number}-{at}"] in paragraph["context"]

    code, out, err = ptune(
        *("predict", folder / "run" / "prompt", "--input", asked),
        *("--output", folder / "predictions.jsonl", *run),
    )
    assert code == 0, err
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines] == list(answers.values())
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)

    code, out, err = ptune("inspect", folder / "run" / "prompt", "--nearest", "0", "--json")
    assert code == 0, err
    assert json.loads(out)["head"] == {"linear.bias": [2], "linear.weight": [2, 32]}


def test_bad_rows_are_one_sentence_or_skipped(folder, ptune):
    rows = folder / "rows.csv"
    lines = ["question,context,answers,answer_start"]
    lines += [f'"where ?","my parcel is late , {"one " * i}",late,13' for i in range(8)]
    lines += ['"where ?","my parcel is late",early,']
    rows.write_text("\n".join(lines) + "\n")
    train = ("train", folder / "recipe.yaml", f"train={rows}", f"test={rows}")
    code, out, err = ptune(*train, f"output={folder}/csv")
    assert (code, out) == (1, "")
    assert err == (
        f"ptune: {rows}, line 10: the answer 'early' is not in its context, and an extractive "
        "answer is a part of it, letter by letter. Mend the answer, or leave the row out.\n"
    )
    code, _, err = ptune(*train, f"output={folder}/csv", "--skip-bad-rows", "--json")
    assert code == 0, err


def test_rows_without_ids_are_told_before_the_work(folder, ptune):
    rows = folder / "no_ids.jsonl"
    rows.write_text(json.dumps({"question": "where ?", "context": "my parcel is late"}) + "\n")
    code, out, err = ptune(
        *("predict", folder / "run" / "prompt", "--input", rows),
        *("--output", folder / "x.json", "--backbone", folder / "backbone"),
    )
    assert (code, out) == (1, "")
    assert err.startswith(f"ptune: {rows}: there is no column id, by which a .json file")


def test_questions_that_cannot_be_used_are_left_out_and_listed(folder, ptune, tmp_path, caplog):
    """One without an answer, and one that leaves its context no room."""
    document = json.loads((folder / "train.json").read_text())
    asked = document["data"][0]["paragraphs"][0]["qas"]
    asked.append({"id": "silent", "question": "where ?", "answers": []})
    asked.append({"id": "long", "question": "where " * 30, "answers": asked[0]["answers"]})
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    on = ("train", folder / "recipe.yaml", f"train={file}", f"output={tmp_path}/run")
    on = (*on, "validation_share=0")
    code, out, err = ptune(*on)
    assert (code, out) == (1, "")
    assert err.startswith(f"ptune: {file}, question 4: the question has no answer in its context.")
    code, _, err = ptune(*on, "--skip-bad-rows")
    assert code == 0, err
    told = "".join(err.split())
    assert f"{file}:2of14rowsareleftout:".replace(" ", "") in told
    assert "question4:thequestionhasno" in told
    assert "question5:questionhas30tokens" in told
    prompt = (tmp_path / "run" / "prompt", "--backbone", folder / "backbone")
    code, _, err = ptune("evaluate", *prompt, "--data", file, "--skip-bad-rows")
    assert (code, "1 of 14 rows is left out:" in caplog.text) == (0, True)


def test_questions_that_cannot_be_predicted_are_left_out_and_the_others_keep_their_number(
    folder, ptune, tmp_path
):
    document = json.loads((folder / "train.json").read_text())
    asked = document["data"][0]["paragraphs"][0]["qas"]
    asked.append({"id": "long", "question": "where " * 30, "answers": asked[0]["answers"]})
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(document))
    prompt = (folder / "run" / "prompt", "--backbone", folder / "backbone")
    said = tmp_path / "said"
    code, _, err = ptune("predict", *prompt, "--input", file, "--output", f"{said}.json")
    assert (code, err.startswith(f"ptune: {file}, question 4: question has 30 tokens")) == (1, True)
    for kind in ("json", "jsonl"):
        on = ("--input", file, "--output", f"{said}.{kind}", "--skip-bad-rows")
        code, out, err = ptune("predict", *prompt, *on)
        assert (code, out) == (0, f"12 predictions written to {said}.{kind}\n"), err
    by_id = json.loads(Path(f"{said}.json").read_text())
    lines = [json.loads(line) for line in Path(f"{said}.jsonl").read_text().splitlines()]
    assert [line["question"] for line in lines] == [1, 2, 3, *range(5, 14)]
    assert [line["answer"] for line in lines] == list(by_id.values())
    assert "long" not in by_id
    code, out, _ = ptune("predict", *prompt, "--input", file, "--skip-bad-rows")
    assert [line.split(":")[0] for line in out.splitlines()][2:4] == ["question 3", "question 5"]
    asked = ("predict", *prompt, "--input", file, "--output", f"{said}.x", "--at-least", "0.5")
    code, _, err = ptune(*asked)
    assert code == 1
    assert err.startswith("ptune: --at-least goes with answers that are one label each;")
