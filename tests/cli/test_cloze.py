"""A cloze prompt as a user has it: a model saved with its masked-LM head, a recipe, commands."""

import json

import pytest
import tiny
import tiny_cloze
import transformers as hf
from tiny_runs import write_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloze")
    model, tokens = tiny_cloze.trained()
    model.save_pretrained(folder / "backbone")
    tokens.save_pretrained(folder / "backbone")
    for name, seed in (("train", 1), ("test", 2)):
        rows = [(row["text"], row["label"]) for row in tiny_cloze.rows(64, seed)]
        write_rows(folder / f"{name}.csv", [("text", "label"), *rows])
    (folder / "recipe.yaml").write_text(
        f"backbone: {folder}/backbone\n"
        f"train: {folder}/train.csv\n"
        f"test: {folder}/test.csv\n"
        "task: masked-lm\n"
        'template: "{soft:2}{text} : {mask} ."\n'
        "verbalizer: {fine: [yes], poor: [no]}\n"
        "calibration: contextual\n"
        "method: prompt-tuning\nepochs: 12\n"
        f"output: {folder}/run\n"
    )
    return folder


def test_trained_evaluated_predicted_and_inspected_by_commands(place, ptune):
    code, out, err = ptune("train", place / "recipe.yaml", "--json")
    assert code == 0, err
    scores = json.loads(out)["scores"]
    prompt, on = place / "run" / "prompt", ("--backbone", place / "backbone")
    code, out, err = ptune("evaluate", prompt, *on, "--data", place / "test.csv", "--json")
    assert code == 0, err
    assert json.loads(out) == pytest.approx(scores["test"], rel=1e-4)
    assert scores["test"]["accuracy"] > 0.9
    code, out, err = ptune("predict", prompt, *on, "--input", place / "test.csv", "--json")
    assert code == 0, err
    answers = [json.loads(line)["answer"] for line in out.splitlines()]
    right = [a == row["label"] for a, row in zip(answers, tiny_cloze.rows(64, 2), strict=True)]
    assert sum(right) / len(right) == pytest.approx(scores["test"]["accuracy"])
    code, out, err = ptune("inspect", prompt, *on, "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert (shown["task"], shown["verbalizer"]) == ("masked-lm", {"fine": ["yes"], "poor": ["no"]})
    assert set(shown["prior"]) == {"fine", "poor"}


def test_a_mistake_is_one_sentence(place, ptune):
    changes = ('template="{soft:2}{text} :"', "verbalizer={fine: [thank you], poor: [no]}")
    said = ("needs one {mask}", 'answer word "thank you" has 2 tokens')
    for change, sentence in zip(changes, said, strict=True):
        code, _, err = ptune("train", place / "recipe.yaml", change)
        assert code == 1
        assert sentence in " ".join(err.split())
        assert "Traceback" not in err


def test_a_checkpoint_without_weights_of_its_head_is_refused(place, ptune):
    """Saved "ForPreTraining", as ELECTRA's discriminator: its head tells real from replaced."""
    folder = place / "electra"
    hf.ElectraForPreTraining(tiny.ENCODERS["electra"]()).save_pretrained(folder)
    tiny_cloze.tokenizer().save_pretrained(folder)
    code, _, err = ptune("train", place / "recipe.yaml", f"backbone={folder}")
    assert code == 1
    assert f'masked-LM head; "{folder}" (ElectraModel) has none.' in " ".join(err.split())
