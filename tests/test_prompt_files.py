"""Saving and loading prompts, and what their files tell."""

import json
import math
from pathlib import Path

import pytest
import torch
from prompts import FINGERPRINT, assert_same, make, refusal, same_bits

from ptune.artifact import write_folder
from ptune.encoders import KeysValues
from ptune.prompt import SoftPrompt

STORED = Path(__file__).parent / "artifacts"


def test_a_version_1_prompt_loads_for_ever():
    """Never written again. It was made by:

    SoftPrompt(
        template="{soft:2}Tweet text : {text} Label : {label}",
        task="causal-lm",
        slots=2,
        vectors=torch.arange(8.0).view(2, 4) / 8,
        deep={
            site: KeysValues(
                torch.full((2, 1, 3), site + 0.5).bfloat16(), torch.ones(2, 1, 2).half()
            )
            for site in (0, 10)
        },
        offset=2,
        head={"weight": torch.eye(2)},
        labels=("no complaint", "complaint"),
        verbalizer={"no complaint": ["no"], "complaint": ["yes", "sí"]},
        backbone="example/tiny",
        fingerprint={"architecture": "a" * 32, "weights": "b" * 32, "tokenizer": "c" * 32},
        settings={
            "method": "p-tuning", "encoder": "lstm", "lr": 0.003, "columns": {"text": "Tweet"}
        },
        scores={"test": {"accuracy": 0.875, "pearson": float("nan")}},
        trained_parameters=1234,
        license="cc0-1.0",
    ).save("v1")
    """
    prompt = SoftPrompt.load(STORED / "v1")
    assert prompt.template == "{soft:2}Tweet text : {text} Label : {label}"
    assert (prompt.task, prompt.slots, prompt.offset) == ("causal-lm", 2, 2)
    same_bits(prompt.vectors, torch.arange(8.0).view(2, 4) / 8)
    assert list(prompt.deep) == [0, 10]
    for site, (keys, values) in prompt.deep.items():
        same_bits(keys, torch.full((2, 1, 3), site + 0.5).bfloat16())
        same_bits(values, torch.ones(2, 1, 2).half())
    assert list(prompt.head) == ["weight"]
    same_bits(prompt.head["weight"], torch.eye(2))
    assert prompt.labels == ("no complaint", "complaint")
    assert prompt.verbalizer == {"no complaint": ["no"], "complaint": ["yes", "sí"]}
    assert (prompt.backbone, prompt.fingerprint) == ("example/tiny", FINGERPRINT)
    assert prompt.settings["columns"] == {"text": "Tweet"}
    assert prompt.scores["test"]["accuracy"] == 0.875
    assert math.isnan(prompt.scores["test"]["pearson"])
    assert (prompt.trained_parameters, prompt.license) == (1234, "cc0-1.0")


def test_a_prompt_with_all_parts_comes_back(tmp_path):
    prompt = make()
    prompt.save(tmp_path / "complaints")
    assert_same(prompt, SoftPrompt.load(tmp_path / "complaints"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_shallow_prompt_comes_back_in_its_dtype(tmp_path, dtype):
    prompt = make(vectors=torch.randn(2, 8).to(dtype), deep={}, head={}, license=None)
    prompt.save(tmp_path / "complaints")
    loaded = SoftPrompt.load(tmp_path / "complaints")
    assert loaded.vectors.dtype == dtype
    assert_same(prompt, loaded)
    assert loaded.license is None


def test_a_deep_prompt_without_vectors_and_a_template_without_prompt_come_back(tmp_path):
    for changes in ({}, {"deep": {}}):
        prompt = make(vectors=None, slots=0, template="{text} is {label}", **changes)
        prompt.save(tmp_path / "complaints")
        assert_same(prompt, SoftPrompt.load(tmp_path / "complaints"))


def test_attention_sites_come_back_in_their_order(tmp_path):
    deep = {site: KeysValues(torch.ones(2, 1, 3), torch.ones(2, 1, 3)) for site in range(30)}
    make(deep=deep).save(tmp_path / "a")
    assert list(SoftPrompt.load(tmp_path / "a").deep) == list(range(30))


def test_a_loaded_prompt_saves_to_the_same_bytes(tmp_path):
    make(scores={"test": {"pearson": math.nan}}, settings={"train": "/x/y.csv"}).save(
        tmp_path / "a"
    )
    SoftPrompt.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("prompt.json", "prompt.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_size_is_that_of_the_two_files_on_the_disk(tmp_path):
    prompt = make()
    prompt.save(tmp_path / "a")
    sizes = [(tmp_path / "a" / n).stat().st_size for n in ("prompt.json", "prompt.safetensors")]
    assert prompt.size_bytes == sum(sizes)


def test_undefined_scores_are_null_in_the_file_and_nan_again_when_read(tmp_path):
    make(scores={"test": {"pearson": math.nan, "mse": math.inf}, "n": 3}).save(tmp_path / "a")
    written = json.loads((tmp_path / "a/prompt.json").read_text())["document"]["scores"]
    assert written == {"test": {"pearson": None, "mse": None}, "n": 3}
    scores = SoftPrompt.load(tmp_path / "a").scores
    assert math.isnan(scores["test"]["pearson"])
    assert math.isnan(scores["test"]["mse"])
    assert scores["n"] == 3


def test_no_file_tells_where_the_user_keeps_things(tmp_path):
    home = "/home/alice"
    settings = {
        "backbone": f"{home}/models/tiny",
        "train": f"{home}/data/train.csv",
        "test": Path(f"{home}/data/test.csv"),
        "validation": "C:\\Users\\alice\\dev.csv",
        "output": "~alice/runs",
        "init": f"file://{home}/old",
        "more": [{"path": f"{home}/z"}, ("a", 1, None, True)],
        "dataset": "hub:alicia/tweets",
        "relative": "data/train.csv",
        "template": "/imagine {text}",
        "init_text": "/imagine",
    }
    make(backbone=f"{home}/models/tiny", settings=settings).save(tmp_path / "complaints")
    everything = b"".join(p.read_bytes() for p in (tmp_path / "complaints").iterdir())
    assert b"alice" not in everything
    assert str(tmp_path).encode() not in everything
    prompt = SoftPrompt.load(tmp_path / "complaints")
    assert prompt.backbone == "./tiny"
    assert prompt.settings == {
        "backbone": "./tiny",
        "train": "./train.csv",
        "test": "./test.csv",
        "validation": "./dev.csv",
        "output": "./runs",
        "init": "./old",
        "more": [{"path": "./z"}, ["a", 1, None, True]],
        "dataset": "hub:alicia/tweets",
        "relative": "data/train.csv",
        "template": "/imagine {text}",
        "init_text": "/imagine",
    }


def test_a_folder_is_not_taken_for_a_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models/tiny").mkdir(parents=True)
    for given_name, kept in (
        ("models/tiny", "./models/tiny"),
        ("./models/tiny", "./models/tiny"),
        ("models/other", "models/other"),
        ("gpt2", "gpt2"),
    ):
        document = make(backbone=given_name, settings={"backbone": given_name}).document()
        assert document["backbone"] == document["settings"]["backbone"] == kept


def test_a_missing_folder_is_said_and_the_network_not_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(SoftPrompt.load, "bob/complaints") == (
        "bob/complaints: there is no such folder. Give the folder that a training run wrote, or "
        "hub:owner/name for a prompt on the Hugging Face hub."
    )


@pytest.mark.parametrize("key", ["template", "slots", "labels", "settings", "trained_parameters"])
@pytest.mark.parametrize("value", [None, 1.5])
def test_a_document_of_another_shape_is_refused(tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    prompt = make()
    write_folder("complaints", {"vectors": prompt.vectors}, prompt.document() | {key: value}, "")
    assert refusal(SoftPrompt.load, "complaints") == (
        f'complaints: its document has no "{key}", or one of another kind: it was not written by '
        "ptune. Ask who made it."
    )


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {"optimizer": torch.ones(1)},
            (
                '"optimizer" is no tensor of a prompt. Known: vectors, deep.N.keys, deep.N.values, '
                "head.NAME and backbone.NAME. Ask who made it."
            ),
        ),
        (
            {"deep.7.values": torch.ones(2, 1, 3)},
            "attention site 7 has values alone, and needs keys and values. Ask who made it.",
        ),
        (
            {"vectors": torch.ones(3, 3)},
            (
                "The prompt has 2 virtual tokens and vectors for 3. "
                "Give one vector for each virtual token."
            ),
        ),
    ],
)
def test_tensors_that_make_no_prompt_are_refused(tmp_path, monkeypatch, tensors, sentence):
    monkeypatch.chdir(tmp_path)
    write_folder("complaints", tensors, make().document(), "")
    assert refusal(SoftPrompt.load, "complaints") == f"complaints: {sentence}"


def test_new_keys_of_a_later_ptune_are_passed_over(tmp_path):
    prompt = make(deep={}, head={})
    document = prompt.document() | {"notes": "later", "vectors": "later"}
    write_folder(tmp_path / "a", {"vectors": prompt.vectors}, document, "")
    assert_same(prompt, SoftPrompt.load(tmp_path / "a"))


def test_saving_over_a_prompt_that_cannot_be_written_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make().save("complaints")
    Path("complaints/mine.txt").touch()
    assert refusal(make(slots=0, vectors=None, deep={}).save, "complaints") == (
        "complaints: holds other files (mine.txt), and a prompt needs a folder of its own. "
        "Choose another name."
    )
    assert SoftPrompt.load("complaints").slots == 2


def test_the_hub_is_asked_for_hub_names(tmp_path, monkeypatch):
    calls = {}

    def push(path, repo_id, *, private, api):
        calls["pushed"] = (repo_id, private, api)
        Path(path).rename(tmp_path / "remote")
        return "https://hub/bob/x"

    def pull(repo_id, *, revision, api):
        calls["pulled"] = (repo_id, revision, api)
        return tmp_path / "remote"

    monkeypatch.setattr("ptune.artifact.push", push)
    monkeypatch.setattr("ptune.artifact.pull", pull)
    prompt = make()
    assert prompt.push_to_hub("bob/x", private=True) == "https://hub/bob/x"
    assert_same(prompt, SoftPrompt.load("hub:bob/x", revision="v1"))
    assert calls == {"pushed": ("bob/x", True, None), "pulled": ("bob/x", "v1", None)}
    card = (tmp_path / "remote/README.md").read_text()
    assert "\n# x\n" in card
    assert 'ptune.SoftPrompt.load("hub:bob/x")' in card


def test_the_card_of_a_saved_prompt_bears_the_name_of_its_folder(tmp_path):
    make().save(tmp_path / "complaints")
    card = (tmp_path / "complaints/README.md").read_text()
    assert "\n# complaints\n" in card
    assert "2 virtual tokens and keys and values for 2 positions at 2 attention sites" in card
    assert 'ptune.SoftPrompt.load("complaints")' in card


def test_a_prior_is_kept_and_a_prompt_without_one_says_nothing_of_it(tmp_path):
    prior = {"no complaint": -0.25, "complaint": -1.5}
    make(prior=prior).save(tmp_path / "a")
    loaded = SoftPrompt.load(tmp_path / "a")
    assert loaded.prior == prior
    assert loaded.summary()["prior"] == prior
    assert "prior" not in make().document()


@pytest.mark.parametrize("prior", [["-0.25"], {"no complaint": "-0.25", "complaint": 0.5}])
def test_a_prior_that_is_no_number_for_each_label_is_refused(tmp_path, prior):
    document = make().document() | {"prior": prior}
    write_folder(tmp_path / "a", make()._named_tensors(), document, "# A prompt")
    assert refusal(SoftPrompt.load, tmp_path / "a") == (
        f'{tmp_path / "a"}: the "prior" of its document is not one number for each label: '
        "it was not "
        "written by ptune. Ask who made it."
    )


def test_a_prior_of_other_labels_is_refused():
    assert refusal(make, prior={"complaint": -0.5}) == (
        "The prompt's prior is of the labels complaint, and its labels are no complaint, "
        "complaint. Give one number for each label."
    )
