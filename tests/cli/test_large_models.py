"""The options that say how a backbone is loaded: where its weights go, and in which format."""

import json
import logging

import pytest

from ptune.api import Backbone


def on(place):
    return ("--backbone", place / "backbone")


@pytest.fixture
def loaded(monkeypatch):
    """What `Backbone.load` is asked for."""
    asked, load = [], Backbone.load.__func__
    monkeypatch.setattr(
        Backbone,
        "load",
        classmethod(lambda cls, name, **how: asked.append(how) or load(cls, name, **how)),
    )
    return asked


def scores(ptune, place, trained, *options):
    code, out, err = ptune(
        "evaluate", trained, "--data", place / "test.csv", "--json", *on(place), *options
    )
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("device_map", ["auto", "cpu", "disk"])
def test_a_spread_model_gives_the_same_scores(place, trained, ptune, device_map):
    plain = scores(ptune, place, trained)
    spread = scores(ptune, place, trained, "--device-map", device_map)
    assert spread == pytest.approx(plain, rel=1e-5)


def test_every_option_reaches_the_backbone(place, trained, ptune, loaded):
    options = ("--device", "cpu", "--dtype", "bfloat16", "--trust-remote-code")
    scores(ptune, place, trained, *options, "--quantization", "int8")
    code, out, _ = ptune("predict", trained, "my parcel", *on(place), *options, "--json")
    assert (code, out.count("\n")) == (0, 1)
    common = {
        "device": "cpu",
        "dtype": "bfloat16",
        "device_map": None,
        "trust_remote_code": True,
    }
    assert loaded == [common | {"quantization": "int8"}, common | {"quantization": None}]


def test_a_prompt_runs_on_int8_weights_where_it_was_trained_on_them(
    place, ptune, loaded, tmp_path, caplog
):
    assert ptune(
        "train", place / "recipe.yaml", "quantization=int8", f"output={tmp_path}", "--json"
    )[0] == 0  # fmt: skip
    prompt = tmp_path / "prompt"
    with caplog.at_level(logging.WARNING, logger="ptune"):
        scores(ptune, place, prompt)
        assert not caplog.records
        scores(ptune, place, prompt, "--quantization", "none")
    assert len(caplog.records) == 1
    scores(ptune, place, prompt, "--device-map", "disk")  # the two do not go together
    assert [how["quantization"] for how in loaded] == ["int8", None, None]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            ("--dtype", "int4"),
            "dtype = int4 is not known. Allowed: auto, float32, bfloat16, float16.",
        ),
        (
            ("--device", "cuda:77"),
            (
                "device = cuda:77: there is no such device here. Name another one, or leave "
                "device out."
            ),
        ),
        (
            ("--quantization", "int4"),
            (
                "quantization = int4 is not known. Allowed: int8, or in Python a quantisation "
                "config of transformers."
            ),
        ),
    ],
)
def test_what_is_not_known_is_refused_in_a_sentence(place, trained, ptune, option, message):
    said = ptune("predict", trained, "my parcel", *on(place), *option)
    assert said == (1, "", f"ptune: {message}\n")
