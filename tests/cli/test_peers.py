"""`ptune import` and `ptune export` as a user calls them."""

import json

import pytest
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
