"""Small models of the list's families, from configs as their libraries have them by default."""

import sys
from pathlib import Path

import pytest
import torch
import transformers as hf

from ptune.doctor import small
from ptune.errors import BackboneError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from families import FAMILIES

# Others take longer to make, or differ in nothing that is cut.
NAMES = (
    "gpt_neo",
    "opt (projected)",
    "gemma3n (text)",
    "gemma4 (text)",
    "gpt_oss (window)",
    "deepseek_v3 (MLA)",
    "falcon (new, grouped)",
    "mpt",
    "jamba (hybrid)",
    "modernbert (window)",
    "albert (small embeddings)",
    "deberta-v3",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_made_small_without_its_weights(name):
    made = small.model_of(type(FAMILIES[name]())(), name)
    assert sum(weight.numel() for weight in made.parameters()) < 600_000
    assert made.config.get_text_config().num_hidden_layers == 2


@pytest.mark.parametrize("name", ["t5", "mt5", "bart", "marian"])
def test_an_encoder_decoder_is_made_small_on_both_sides_and_has_a_start(name):
    made = small.model_of(type(FAMILIES[name]())(), name)
    assert sum(weight.numel() for weight in made.parameters()) < 300_000
    sides = made.get_encoder(), made.get_decoder()
    lists = [getattr(side, "block", None) or side.layers for side in sides]
    assert [len(layers) for layers in lists] == [2, 2]
    assert 0 <= made.config.decoder_start_token_id < made.config.vocab_size


def test_queries_go_on_sharing_keys_and_windows_become_small():
    config = hf.Gemma2Config(num_hidden_layers=42, num_attention_heads=16, num_key_value_heads=8)
    text = small.model_of(config, "gemma").config
    assert (text.num_attention_heads, text.num_key_value_heads) == (4, 2)
    assert text.sliding_window == 8
    assert text.layer_types == ["sliding_attention", "full_attention"]
    alone = hf.LlamaConfig(num_attention_heads=32, num_key_value_heads=32)
    assert small.model_of(alone, "llama").config.num_key_value_heads == 4


def test_special_ids_lie_in_the_small_vocabulary():
    config = hf.LlamaConfig(
        vocab_size=128_256, eos_token_id=[128_001, 128_009], bos_token_id=128_000
    )
    made = small.model_of(config, "llama").config
    ids = small.Ids(made)
    assert made.vocab_size == 256
    assert all(0 <= id_ < 256 for id_ in ids.all_special_ids)
    assert ids.eos_token_id == made.eos_token_id


def test_the_same_seed_makes_the_same_model_and_leaves_torchs_random_state():
    before = torch.random.get_rng_state()
    one, two = (small.model_of(hf.LlamaConfig(), "llama").state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_config_of_which_no_model_can_be_made_is_a_sentence(monkeypatch):
    monkeypatch.setattr(small, "_small", lambda config: config.to_dict() | {"hidden_size": -1})
    monkeypatch.setattr(small, "MOST_PARAMETERS", 1000)
    with pytest.raises(BackboneError) as error:
        small.model_of(hf.LlamaConfig(hidden_size=64, intermediate_size=64), "some/model")
    assert str(error.value).startswith('No small model can be made of the config of "some/model": ')
    assert str(error.value).endswith("Examine the model itself: leave --config out.")
