"""Families whose attention does not go through transformers' interface, against oracles that do
not either: the model's own code, with a few tokens standing in for the prompt."""

import sys
from pathlib import Path

import pytest
import tiny
import torch
import transformers as hf
from oracles.stand_ins import FusedStandIns, StandIns
from tiny import SMALL, tokenizer

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import EmbeddingEncoder, KeysValues, PrefixEncoder
from ptune.generation import generate
from ptune.run import keys_values_of, run
from ptune.trainable import PromptedBackbone, TrainablePrompt

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from families import make

ROW = (12, 40, 33, 17, 25, 61, 8, 90, 54)
SHORT = (12, 77, 5)
SLOTS = 3
DISENTANGLED = ("deberta", "deberta-v2", "deberta-v3")
DECODERS = (
    "gptj",
    "codegen",
    "gpt_neo",
    "mpt",
    "falcon (rotary, multi-query)",
    "falcon (new, grouped)",
    "falcon (ALiBi)",
)


def backbone(name):
    return Backbone.load(make(name), tokenizer=tokenizer())


def states(b, ids, prompt):
    sequence = TokenSequence(tuple(ids), reads=tuple(range(len(ids))))
    return run(b, [prompt], b.pack([sequence]))


def deep(b, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return PromptTensors(
        deep={
            site: KeysValues(
                torch.randn(SLOTS, s.shape.kv_heads, s.shape.key_dim, generator=generator),
                torch.randn(SLOTS, s.shape.kv_heads, s.shape.value_dim, generator=generator),
            )
            for site, s in enumerate(b.geometry.sites)
        }
    )


def parts(b, prompt):
    return b.body, [site.name for site in b.geometry.sites], prompt.deep


def equal(one, other, tolerance=2e-5):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["deberta-v2", "deberta-v3"])
def test_debertas_deep_prompt_is_as_tokens_without_a_distance(name):
    b = backbone(name)
    if name == "deberta-v2":  # tokens behind the row would reach it through the convolution
        b.body.encoder.conv = None
    prompt = deep(b)
    oracle = StandIns(*parts(b, prompt), ("key_proj", "value_proj"), "disentangled_attention_bias")
    equal(states(b, ROW, prompt), oracle.states(ROW))


def test_the_first_debertas_deep_prompt_is_as_tokens_without_a_distance():
    b = backbone("deberta")
    prompt = deep(b)
    equal(
        states(b, ROW, prompt),
        FusedStandIns(*parts(b, prompt), (), "disentangled_att_bias").states(ROW),
    )


def test_mpnets_deep_prompt_is_as_tokens_without_a_distance():
    b = backbone("mpnet")
    prompt = deep(b)
    oracle = StandIns(*parts(b, prompt), ("k", "v"), "compute_position_bias")
    equal(states(b, ROW, prompt), oracle.states(ROW))


@pytest.mark.parametrize("kinds", [["c2p"], ["p2c"], []])
def test_deberta_with_a_part_of_its_terms_is_itself(kinds):
    torch.manual_seed(0)
    config = hf.DebertaV2Config(
        **SMALL, relative_attention=True, pos_att_type=kinds, position_buckets=4
    )
    b = Backbone.load(hf.AutoModelForMaskedLM.from_config(config).eval(), tokenizer=tokenizer())
    assert not b.geometry.padded
    row = ROW + SHORT + ROW
    with torch.no_grad():
        native = b.body(input_ids=torch.tensor([row])).last_hidden_state[0]
    equal(states(b, row, PromptTensors()), native)


def test_deberta_that_mixes_its_heads_keeps_its_own_attention():
    torch.manual_seed(0)
    config = hf.DebertaConfig(**SMALL, relative_attention=True, pos_att_type=["c2p"])
    config.talking_head = True
    b = Backbone.load(hf.AutoModelForMaskedLM.from_config(config).eval(), tokenizer=tokenizer())
    assert b.geometry.sites == ()
    assert b.geometry.padded


def test_a_pack_of_deberta_makes_no_table_of_all_tokens_with_all_others():
    b = backbone("deberta-v3")
    rows = [TokenSequence(ROW, reads=(0,)) for _ in range(4)]
    seen = []
    site = b.body.get_submodule(b.geometry.sites[0].name)
    handle = site.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args[1], kwargs["relative_pos"])),
        with_kwargs=True,
    )
    run(b, [PromptTensors()], b.pack(rows))
    handle.remove()
    ((mask, positions),) = seen
    assert mask.numel() == 4 * len(ROW)
    assert positions is None


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_prompt_of_a_texts_own_keys_is_the_text(name):
    b = backbone(name)
    row = ROW if name != "gpt_neo" else (40,)  # a text leaves a window, a prompt does not
    with torch.no_grad():
        both = torch.tensor([SHORT + row])
        native = b.body(input_ids=both).last_hidden_state[0, len(SHORT) :]
    equal(states(b, row, keys_values_of(b, SHORT)), native)


@pytest.mark.parametrize("name", DECODERS)
def test_with_a_cache_a_decoder_says_what_it_says_without(name):
    b = backbone(name)
    generator = torch.Generator().manual_seed(1)
    shapes = [site.shape for site in b.geometry.sites]
    start = torch.randn(2, b.geometry.width, generator=generator)
    prompt = TrainablePrompt(
        shallow=EmbeddingEncoder(2, b.geometry.width, initial=start),
        deep=PrefixEncoder(SLOTS, shapes, generator=generator),
        sites=tuple(range(len(shapes))),
    )
    options = {"do_sample": False, "max_new_tokens": 5, "min_new_tokens": 5, "pad_token_id": 0}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    kept, whole = (  # MPT keeps nothing unless it is asked to
        PromptedBackbone(b, prompt).generate(torch.tensor([ROW]), use_cache=keep, **options)
        for keep in (True, False)
    )
    assert kept[tiny.CACHE].get_seq_length() == 2 + len(ROW) + 4
    equal(torch.stack(kept.logits), torch.stack(whole.logits))


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_continues_mixed_rows_as_it_continues_each_alone(name):
    b = backbone(name)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(2, b.geometry.width, generator=generator)
    prompts = [PromptTensors(vectors=vectors), deep(b), PromptTensors()]
    rows = [
        TokenSequence((-1, -2, *ROW)),
        TokenSequence(SHORT, prompt=1),
        TokenSequence(ROW[:5], prompt=2),
    ]
    answers = generate(b, prompts, rows, max_new_tokens=5)
    for row, answer in zip(rows, answers, strict=True):
        ids = row.ids
        for token in answer:
            last = TokenSequence(ids, prompt=row.prompt, reads=(len(ids) - 1,))
            assert int(run(b, prompts, b.pack([last]), read="logits").argmax()) == token
            ids += (token,)
    assert any(len(answer) == 5 for answer in answers)


def test_falcons_bias_is_rounded_as_falcon_rounds_it():
    torch.manual_seed(0)
    config = hf.FalconConfig(
        vocab_size=96, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, alibi=True,
        multi_query=False, initializer_range=0.3,
    )  # fmt: skip
    b = Backbone.load(hf.AutoModelForCausalLM.from_config(config).eval(), tokenizer=tokenizer())
    row = ROW * 40  # 360 tokens: from 256 on, bfloat16 has no odd numbers
    with torch.no_grad():
        native = b.body(input_ids=torch.tensor([row])).last_hidden_state[0]
    equal(states(b, row, PromptTensors()), native)


def test_mpts_slopes_are_those_of_its_own_code():
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    from ptune.inject.shims import mpt

    for heads in (3, 4, 6, 8, 12):
        bias = build_mpt_alibi_tensor(heads, 2)[:, 0, 0]
        equal(-mpt.slopes(heads), bias.float())


@pytest.mark.parametrize("name", ["mamba", "xlnet"])
def test_a_model_without_attention_of_the_usual_kind_carries_shallow_prompts(name):
    b = backbone(name)
    assert b.geometry.sites == ()
    vectors = torch.randn(2, b.geometry.width, generator=torch.Generator().manual_seed(3))
    embedded = b.embed((1, 1, *ROW))
    embedded[:2] = vectors
    with torch.no_grad():
        native = b.body(inputs_embeds=embedded[None]).last_hidden_state[0]
    prompt = PromptTensors(vectors=vectors)
    equal(states(b, (-1, -2, *ROW), prompt), native)
    rows = [TokenSequence((-1, -2, *ROW), reads=(10,)), TokenSequence((-2, -1), reads=(0, 1))]
    together = run(b, [prompt], b.pack(rows))
    equal(together[:1], native[-1:])
    equal(together[1:], states(b, (-2, -1), prompt))


def test_a_second_embedding_reads_padding_where_a_token_is_virtual():
    b = backbone("gemma4 (text)")
    assert b.geometry.also_embedding == ("embed_tokens_per_layer",)
    vectors = torch.randn(1, b.geometry.width, generator=torch.Generator().manual_seed(3))
    table = b.model.get_input_embeddings()

    def put(module, args, output):
        return torch.cat([vectors[None], output[:, 1:]], dim=1)

    handle = table.register_forward_hook(put)
    with torch.no_grad():
        padding = b.model.config.pad_token_id
        native = b.body(input_ids=torch.tensor([[padding, *ROW]])).last_hidden_state[0]
    handle.remove()
    equal(states(b, (-1, *ROW), PromptTensors(vectors=vectors)), native)
