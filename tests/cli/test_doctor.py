"""`ptune doctor` as a user calls it."""

import json

import pytest
import tiny
import transformers as hf

from ptune.doctor import truths


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    tiny.model("mistral-window-4").save_pretrained(place)
    tiny.tokenizer().save_pretrained(place)
    return place


def test_a_sound_model_is_shown_with_its_sites_and_truths(ptune, folder):
    code, said, _ = ptune("doctor", folder)
    assert code == 0
    assert "MistralForCausalLM" in said
    assert "packed: no padding" in said
    assert "│ 0-2   │ causal │ 2 " in said
    assert "│ sliding windows        │ holds" in said
    assert "broken" not in said


def test_a_broken_truth_is_exit_status_1_and_stands_in_the_json(ptune, folder, monkeypatch):
    own = truths.oracles.own
    monkeypatch.setattr(truths.oracles, "own", lambda *a: own(*a) + 1)
    code, said, _ = ptune("doctor", folder, "--json")
    document = json.loads(said)
    assert code == 1
    assert "no prompt" in document["broken"]
    assert "a row in any batch" not in document["broken"]
    (found,) = (f for f in document["findings"] if f["truth"] == "no prompt")
    assert found["difference"] > 0.1


def test_a_config_alone_is_enough(ptune, tmp_path):
    hf.Qwen3Config(num_hidden_layers=28, hidden_size=1024, vocab_size=151936).save_pretrained(
        tmp_path
    )
    code, said, _ = ptune("doctor", tmp_path, "--config", "--json")
    document = json.loads(said)
    assert code == 0
    assert document["layers"] == 2
    assert document["parameters"] < 200_000
    assert document["model"].endswith("small and random")


def test_what_ptune_refuses_is_said_and_is_not_broken(ptune, tmp_path):
    hf.LEDConfig(encoder_layers=1, decoder_layers=1).save_pretrained(tmp_path)
    code, said, _ = ptune("doctor", tmp_path, "--config")
    assert code == 0
    assert "refused" in said
    assert "does not go through transformers'" in said


def test_an_encoder_decoder_is_shown_with_its_kinds_of_sites(ptune, tmp_path):
    hf.T5Config(num_layers=6, d_model=512).save_pretrained(tmp_path)
    code, said, _ = ptune("doctor", tmp_path, "--config")
    assert code == 0
    assert "T5ForConditionalGeneration" in said
    for sites, kind in (("0-1", "both ways"), ("2, 4", "causal"), ("3, 5", "cross")):
        assert f"│ {sites:5} │ {kind:9} │" in said
    assert "│ generate               │ holds" in said
    assert "broken" not in said


def test_a_model_that_is_not_there_is_a_sentence(ptune, tmp_path):
    code, _, said = ptune("doctor", tmp_path / "nowhere")
    assert code == 1
    assert said.startswith('ptune: Backbone "')
    assert "Traceback" not in said


def test_a_folder_without_a_config_is_a_sentence(ptune, tmp_path):
    code, _, said = ptune("doctor", tmp_path, "--config")
    assert code == 1
    assert said.startswith('ptune: Backbone "')
