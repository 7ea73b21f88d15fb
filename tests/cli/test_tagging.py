"""Tags for words on the command line: from a CoNLL file to predictions."""

import json

import pytest

TEXT = """my O
parcel B-thing

film B-person
one I-person
is O
late O

thank O
you O

"""


@pytest.fixture(scope="module")
def files(place):
    (place / "train.conll").write_text(TEXT * 4)
    (place / "words.conll").write_text("film\none\n\nmy\n")
    (place / "tags.yaml").write_text(
        f"backbone: {place}/backbone\n"
        f"train: {place}/train.conll\n"
        f"test: {place}/train.conll\n"
        "task: token-classification\nvalidation_share: 0\n"
        "method: p-tuning-v2\nprompt_length: 2\nbatch_size: 4\nepochs: 30\n"
        f"output: {place}/tags\n"
    )
    return place


def test_words_are_tagged_from_a_file_to_a_prediction(ptune, files, tmp_path):
    code, out, said = ptune("train", files / "tags.yaml")
    assert code == 0, said
    assert "test, person" in out
    prompt = files / "tags" / "prompt"
    on = ("--backbone", files / "backbone")
    code, out, said = ptune("evaluate", prompt, "--data", files / "train.conll", "--json", *on)
    assert code == 0, said
    scores = json.loads(out)
    assert {"f1", "person/f1", "thing/recall"} <= scores.keys()
    assert scores["f1"] == 1.0  # six words, each with one tag
    code, out, _ = ptune("predict", prompt, "my parcel thank you", "late film one", *on)
    assert out.splitlines() == ["my [thing parcel] thank you", "late [person film one]"]
    to = tmp_path / "said.jsonl"
    code, out, _ = ptune("predict", prompt, "--input", files / "words.conll", "--output", to, *on)
    first, second = map(json.loads, to.read_text().splitlines())
    assert code == 0
    assert first["answer"] == ["B-person", "I-person"]
    assert first["entities"] == [{"type": "person", "start": 0, "stop": 2, "text": "film one"}]
    assert (second["answer"], second["words"], second["entities"]) == (["O"], ["my"], [])
    code, out, _ = ptune("inspect", prompt, "--nearest", "0")
    assert "token-classification" in out


def test_a_mistake_in_a_file_is_one_sentence_with_its_line(ptune, files, tmp_path):
    bad = tmp_path / "bad.conll"
    bad.write_text(TEXT * 4 + "late I-person\n")
    code, _, said = ptune("train", files / "tags.yaml", f"train={bad}")
    assert code == 1
    assert said.startswith(
        f"ptune: {bad}, line 45 ('late'): tag I-person is the first of its sentence, and in bio"
    )
    assert said.count("\n") == 1
    code, _, said = ptune(
        "train", files / "tags.yaml", f"train={bad}", "--skip-bad-rows", f"output={tmp_path}/run",
        "epochs=1",
    )  # fmt: skip
    assert code == 0, said
