"""Windows and chunks that only masks have, and attention that a pack cannot do."""

import pytest
import tiny
import torch
import transformers as hf
from tiny import SMALL
from transformers.modeling_utils import AttentionInterface

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.run import run

WIDTH = 8
GROUPED = SMALL | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"num_experts_per_tok": 1, "head_dim": 8}

# Each says its window, or its chunks, in masks alone.
HIDDEN = {
    "llama 4": lambda: hf.Llama4TextConfig(
        **EXPERTS, attention_chunk_size=WIDTH, num_local_experts=2, intermediate_size_mlp=48
    ),
    "qwen2-moe": lambda: hf.Qwen2MoeConfig(
        **EXPERTS,
        use_sliding_window=True,
        sliding_window=WIDTH,
        max_window_layers=1,
        num_experts=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
    "phi-moe": lambda: hf.PhimoeConfig(
        **GROUPED, num_experts_per_tok=1, num_local_experts=2, sliding_window=WIDTH
    ),
}
# Each says it to its attention modules.
SAID = {
    "qwen2": lambda: hf.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=WIDTH, max_window_layers=1
    ),
    "modernbert": tiny.ENCODERS["modernbert-window"],
    "gemma2": tiny.DECODERS["gemma2-window-4"],
}


def loaded(config, kind=hf.AutoModel):
    torch.manual_seed(0)
    model = kind.from_config(config()).float().eval()
    return Backbone.load(model, tokenizer=tiny.tokenizer())


def distance(b, tokens):
    """Between a row in a pack and the model's own states, of their size."""
    ids = tuple(5 + i % 80 for i in range(tokens))
    packed = run(b, [PromptTensors()], b.pack([TokenSequence(ids, reads=tuple(range(tokens)))]))
    with torch.no_grad():
        own = b.body(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return float((packed - own).norm() / own.norm())


@pytest.mark.parametrize("name", HIDDEN)
def test_rows_are_as_long_as_a_window_that_only_masks_have(name):
    b = loaded(HIDDEN[name])
    assert b.geometry.max_tokens == WIDTH
    assert distance(b, WIDTH) < 1e-5
    assert distance(b, WIDTH + 4) > 0.1  # what the limit keeps away


@pytest.mark.parametrize("name", SAID)
def test_a_window_that_attention_is_told_limits_nothing(name):
    b = loaded(SAID[name])
    assert b.geometry.max_tokens == SMALL["max_position_embeddings"]
    assert distance(b, 3 * WIDTH) < 1e-5


def test_the_model_attends_as_before_once_it_was_listened_to():
    model = hf.AutoModel.from_config(HIDDEN["llama 4"]()).float().eval()
    before = model.config._attn_implementation
    b = Backbone.load(model, tokenizer=tiny.tokenizer())
    assert b.model.config._attn_implementation == before


def test_llama_4_is_loaded_with_its_head():
    b = loaded(HIDDEN["llama 4"], hf.AutoModelForCausalLM)
    assert b.body is b.model.model
    assert distance(b, WIDTH) < 1e-5


@pytest.mark.parametrize("name", ["block_indices", "indices", "sinks"])
def test_a_model_that_chooses_its_keys_otherwise_keeps_its_own_attention(name, monkeypatch):
    model = tiny.model("llama")
    attention = type(model.model.layers[0].self_attn)
    forward = attention.forward

    def choosing(self, *args, **kwargs):
        return forward(self, *args, **kwargs, **{name: torch.zeros(1)})

    monkeypatch.setattr(attention, "forward", choosing)
    own = AttentionInterface()["sdpa"]
    monkeypatch.setitem(
        AttentionInterface._global_mapping,
        "sdpa",
        lambda *args, **kwargs: own(*args, **{k: v for k, v in kwargs.items() if k != name}),
    )
    b = Backbone.load(model, tokenizer=tiny.tokenizer())
    assert b.geometry.sites == ()
    assert b.geometry.padded


def test_a_model_with_masks_of_its_own_making_keeps_its_own_attention(monkeypatch):
    model = tiny.model("llama")
    attention = type(model.model.layers[0].self_attn)
    forward = attention.forward

    def masking(self, hidden_states, *args, attention_mask=None, **kwargs):
        tokens = hidden_states.shape[1]
        own = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril().triu(-8)
        return forward(self, hidden_states, *args, attention_mask=own, **kwargs)

    monkeypatch.setattr(attention, "forward", masking)
    b = Backbone.load(model, tokenizer=tiny.tokenizer())
    assert b.geometry.sites == ()
