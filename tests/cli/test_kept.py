"""What a user has is kept: files that are read, runs that ended, prompts that fit elsewhere."""

import shutil

import pytest
import tiny
from tiny_runs import write_rows

import ptune as library
from ptune.backbone import Backbone
from ptune.errors import ArtifactError


def refused(found, message):
    assert found == (1, "", f"ptune: {message}\n")


@pytest.mark.parametrize(
    ("verb", "reads", "writes"),
    [
        ("predict", "--input", "--output"),
        ("predict", "--input", "--keep-rows --output"),
        ("evaluate", "--data", "--predictions"),
    ],
)
def test_the_file_that_is_read_is_not_written_over(
    place, trained, ptune, tmp_path, verb, reads, writes
):
    file = tmp_path / "rows.csv"
    shutil.copy(place / "test.csv", file)
    before = file.read_bytes()
    same = tmp_path / ".." / tmp_path.name / "rows.csv"
    found = ptune(
        verb, trained, "--backbone", place / "backbone", reads, file, *writes.split(), same
    )
    option = writes.split()[-1]
    refused(
        found,
        f"{same}: is the file that is read, and would be lost. Choose another place for {option}.",
    )
    assert file.read_bytes() == before


def test_a_place_without_a_name_is_no_file(place, trained, ptune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(
        ptune("predict", trained, "late", "--backbone", place / "backbone", "--output", "."),
        ".: cannot be written (Is a directory). Choose another place for --output.",
    )


def test_a_run_at_its_end_is_not_said_to_go_on_with_other_settings(place, ptune, tmp_path):
    run = ("train", place / "recipe.yaml", f"output={tmp_path}/run")
    assert ptune(*run)[0] == 0
    prompt = (tmp_path / "run" / "prompt" / "prompt.json").read_bytes()
    code, out, err = ptune(*run, "lr=0.9", "--resume")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "the run is at its end, step 4, so a change would have no effect. (From step 4" in err
    assert (tmp_path / "run" / "prompt" / "prompt.json").read_bytes() == prompt
    code, out, err = ptune(*run)
    assert code == 0
    assert "an earlier run is replaced; resume would have gone on with it." in out + err


def test_folders_of_a_run_that_are_no_prompt_say_where_it_is(trained, ptune):
    run = trained.parent
    code, _, err = ptune("inspect", run / "checkpoint")
    assert (code, err.count("\n")) == (1, 1)
    assert "is a checkpoint of a run" in err
    assert "The prompt is in the folder prompt beside it" in err
    code, _, err = ptune("inspect", run)
    assert code == 1
    assert err.endswith(f"Its prompt is {run / 'prompt'}.\n")


def narrow():
    config = tiny.ALL["llama"]()
    config.hidden_size, config.intermediate_size = 16, 24
    model = tiny.hf.AutoModelForCausalLM.from_config(config).float().eval()
    return Backbone.load(model, tokenizer=tiny.tokenizer())


def test_a_prompt_on_a_narrower_backbone_is_refused_even_by_force(tmp_path):
    rows = write_rows(
        tmp_path / "rows.csv", [("text", "label"), *[("late", "a"), ("good", "b")] * 4]
    )
    common = {"epochs": 1, "batch_size": 4, "validation_share": 0}
    wide, thin = tiny.backbone("llama"), narrow()
    with_head = library.train(
        wide, rows, task="sequence-classification", template="{soft:2} {text}",
        method="prompt-tuning", **common,
    )  # fmt: skip
    with pytest.raises(ArtifactError, match=r"head has numbers of the shape \(2, 32\) as "):
        library.predict(thin, with_head.prompt, ["late"], force=True)
    words = library.train(
        wide, rows, template="{soft:2} {text} {label}", method="prompt-tuning", **common
    )
    with pytest.raises(ArtifactError, match="are 32 wide, and this backbone's embeddings 16"):
        library.predict(thin, words.prompt, ["late"], force=True)
