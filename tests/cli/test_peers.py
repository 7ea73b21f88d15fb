"""`ptune import` and `ptune export` as a user calls them."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from oracles import peft_models as oracle
from safetensors.torch import load_file

pytestmark = pytest.mark.filterwarnings("ignore")

TEXT = "text : {text} label : {label}"


@pytest.fixture(scope="module")
def folder(place):
    """A prompt of PEFT's for the backbone of `place`."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(place / "backbone")
    oracle.wrapped(base, "P_TUNING", "CAUSAL_LM").save_pretrained(place / "peft")
    return place / "peft"


def test_there_and_back_again(place, folder, ptune):
    ours, theirs = place / "ours", place / "theirs"
    more = ("--template", TEXT, "--labels", "complaint, no")
    code, out, err = ptune(
        "import", folder, "--backbone", place / "backbone", "--output", ours, *more
    )
    assert (code, err) == (0, "")
    assert out == f"{folder} is a prompt now: {ours} (causal-lm, {{soft:4}}{{bos}}{TEXT})\n"
    code, out, _ = ptune("predict", ours, "my parcel is late", "--backbone", place / "backbone")
    assert code == 0
    assert "complaint" in out
    args = ("--format", "peft", "--output", theirs, "--backbone", place / "backbone")
    assert ptune("export", ours, *args)[:2] == (0, f"{ours} is a folder of PEFT's now: {theirs}\n")
    file = "adapter_model.safetensors"
    assert load_file(folder / file).keys() == load_file(theirs / file).keys()


def test_json_shows_what_came(place, folder, ptune):
    args = ("--backbone", place / "backbone", "--output", place / "json", "--json")
    code, out, _ = ptune("import", folder, *args)
    assert code == 0
    assert json.loads(out)["settings"]["imported_from"]["peft_type"] == "P_TUNING"


# Commits, as the hub names them.
MAIN, OLD = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch, folder):
    """The cache of huggingface_hub as its own downloads leave it, and no network.

    `bob/x` with its main branch and an older commit under the tag v1, which holds a pickled file
    and one that nobody asked for.
    """
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--bob--x"
    for branch, commit in (("main", MAIN), ("v1", OLD)):
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    old = repository / "snapshots" / OLD
    tensors = load_file(old / "adapter_model.safetensors")
    (old / "adapter_model.safetensors").unlink()
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, old / "adapter_model.bin")
    return repository


def imported(place, ptune, source, name, *more):
    args = ("--backbone", place / "backbone", "--output", place / name, *more)
    return ptune("import", source, *args)


def test_a_prompt_of_the_hub_is_the_one_of_its_folder(place, folder, hub, ptune):
    from ptune.prompt import SoftPrompt

    assert imported(place, ptune, folder, "from-folder")[0] == 0
    code, out, err = imported(place, ptune, "hub:bob/x", "from-hub")
    assert (code, err) == (0, "")
    assert out.startswith(f"hub:bob/x is a prompt now: {place}/from-hub (causal-lm")
    one, other = (SoftPrompt.load(place / name) for name in ("from-folder", "from-hub"))
    assert torch.equal(one.vectors, other.vectors)
    assert one.vectors.abs().sum() > 0


def test_a_revision_of_the_hub_is_taken_with_its_pickled_file(place, hub, ptune):
    from ptune.prompt import SoftPrompt

    prompts = []
    for name, more in (("now", ()), ("tag", ("--revision", "v1")), ("hash", ("--revision", OLD))):
        assert imported(place, ptune, "hub:bob/x", name, *more)[0] == 0
        prompts.append(SoftPrompt.load(place / name).vectors)
    now, tag, by_hash = prompts
    torch.testing.assert_close(tag, now + 1)
    assert torch.equal(tag, by_hash)


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("hub:bob/none", (), 'hub repository "bob/none": cannot be read: '),
        ("hub:bob/x", ("--revision", "v2"), 'hub repository "bob/x": cannot be read: '),
        ("hub:no name", (), 'hub repository "no name": cannot be read: '),
        ("bob/x", (), "or hub:owner/name for one on the hub"),
    ],
)
def test_what_is_not_on_the_hub_ends_in_a_sentence(place, hub, ptune, source, more, said):
    code, _, err = imported(place, ptune, source, "none", *more)
    assert code == 1
    assert said in " ".join(err.split())
    assert "Traceback" not in err


def test_what_is_on_the_hub_and_no_prompt_ends_in_a_sentence(place, hub, ptune):
    snapshot = hub / "snapshots" / MAIN
    (snapshot / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    code, _, err = imported(place, ptune, "hub:bob/x", "none")
    assert code == 1
    assert "hub:bob/x: is a LORA adapter, which is not a prompt" in " ".join(err.split())
    (snapshot / "adapter_config.json").unlink()
    code, _, err = imported(place, ptune, "hub:bob/x", "none")
    assert code == 1
    assert "hub:bob/x: there is no adapter_config.json" in " ".join(err.split())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("train.csv", "train.csv: is damaged, or holds more than tensors"),
        ("nowhere", "nowhere: there is no adapter_config.json"),
        ("nowhere.pth", "nowhere.pth: there is no such file"),
    ],
)
def test_bad_input_ends_in_a_sentence(place, ptune, source, said):
    args = ("--backbone", place / "backbone", "--output", place / "none")
    code, _, err = ptune("import", place / source, *args)
    assert code == 1
    assert said in err
    assert "Traceback" not in err


def test_what_peft_cannot_say_ends_in_a_sentence(place, trained, ptune):
    from ptune.prompt import SoftPrompt

    prompt = SoftPrompt.load(trained)
    object.__setattr__(prompt, "template", "a {soft:2}{text} {label}")
    prompt.save(place / "inside")
    args = ("--output", place / "none", "--backbone", place / "backbone")
    code, _, err = ptune("export", place / "inside", *args)
    assert code == 1
    assert "PEFT puts virtual tokens before everything" in err


@pytest.mark.parametrize(
    ("source", "option", "said"),
    [
        ("peft", ("--task", "causal-lm"), "is a folder of PEFT's, which says it itself. Leave --"),
        ("v2.pt", ("--task-index", "7"), "is a checkpoint file. Leave --task-index out."),
        ("v2.pt", ("--revision", "main"), "is a checkpoint file. Leave --revision out."),
    ],
)
def test_an_option_that_says_nothing_of_the_source_is_refused(
    place, folder, ptune, source, option, said
):
    on = ("--backbone", place / "backbone", "--output", place / "none")
    code, _, err = ptune("import", place / source, *on, *option)
    assert (code, err.count("\n")) == (1, 1)
    assert said in err
