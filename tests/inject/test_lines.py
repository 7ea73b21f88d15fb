"""Models that look at a whole line, or choose by the longest row: a row's states are its own."""

import pytest
import tiny
import torch
import transformers as hf
from tiny import SMALL

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.generation import generate
from ptune.run import run

NONE = [PromptTensors()]


def esm(token_dropout=True):
    return hf.EsmForMaskedLM(
        hf.EsmConfig(
            vocab_size=96,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=64,
            pad_token_id=1,
            mask_token_id=4,
            position_embedding_type="rotary",
            token_dropout=token_dropout,
            initializer_range=0.3,
        )
    )


def llama4(floor_scale=12):
    return hf.AutoModelForCausalLM.from_config(
        hf.Llama4TextConfig(
            **SMALL,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=2,
            num_experts_per_tok=1,
            no_rope_layers=[1, 0, 1],
            floor_scale=floor_scale,
            attn_scale=0.8,
        )
    )


def switch():
    return hf.SwitchTransformersForConditionalGeneration(
        hf.SwitchTransformersConfig(
            vocab_size=96,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            num_experts=4,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            expert_capacity=8,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=3,
            initializer_factor=3.0,
        )
    )


def nllb():
    return hf.NllbMoeForConditionalGeneration(
        hf.NllbMoeConfig(
            vocab_size=96,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            num_experts=4,
            encoder_sparse_step=1,
            decoder_sparse_step=1,
            expert_capacity=64,
            decoder_start_token_id=3,
            pad_token_id=1,
            eos_token_id=2,
            init_std=0.3,
            max_position_embeddings=128,
        )
    )


def backbone(made):
    torch.manual_seed(0)
    return Backbone.load(made().eval(), tokenizer=tiny.tokenizer())


def drawn(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [tuple(torch.randint(5, 96, (n,), generator=generator).tolist()) for n in lengths]


@pytest.mark.parametrize(
    ("made", "rows"),
    [
        (esm, [(12, 40, 4, 17, 25), (12, 40, 33, 17, 25, 61, 8, 90)]),  # 4 is the mask
        (llama4, drawn(9, 3, 12, 9)),
        (switch, drawn(20, 20, 20)),
    ],
)
def test_a_row_in_a_batch_is_the_row_alone(made, rows):
    b = backbone(made)
    if b.geometry.two_sided:
        end = TokenSequence((0, 7), reads=(1,))
        rows = [TokenSequence(ids, decoder=end) for ids in rows]
    else:
        rows = [TokenSequence(ids, reads=(0, len(ids) - 1)) for ids in rows]
    with torch.no_grad():
        alone = torch.cat([run(b, NONE, b.pack([row])) for row in rows])
        together = run(b, NONE, b.pack(rows))
    assert (alone - together).norm() < 1e-4 * alone.norm()
    assert b.geometry.padded


def test_what_looks_at_no_line_is_packed():
    assert not backbone(lambda: esm(token_dropout=False)).geometry.padded


def longrope():
    kind = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    kind |= {"original_max_position_embeddings": 16, "rope_theta": 1e4}
    config = hf.Phi3Config(
        **SMALL,
        num_key_value_heads=2,
        rope_parameters=kind,
        original_max_position_embeddings=16,
    )
    return hf.AutoModelForCausalLM.from_config(config)


def test_rows_end_where_a_model_would_rotate_all_others_differently():
    b = backbone(longrope)
    assert b.geometry.max_tokens == b.max_tokens == 16
    first, second = (TokenSequence(ids, reads=(0, len(ids) - 1)) for ids in drawn(16, 5))
    with torch.no_grad():
        alone = run(b, NONE, b.pack([second]))
        assert torch.allclose(run(b, NONE, b.pack([first, second]))[2:], alone, atol=1e-4)


@pytest.mark.parametrize("start", [3, 7])
def test_nllbs_experts_take_every_token_where_masks_are_given(start):
    """And an answer begins with what the row's decoder side says, the model's start or not."""
    b = backbone(nllb)
    ids = (12, 40, 33, 17, 25)
    (found,) = generate(
        b, NONE, [TokenSequence(ids, decoder=TokenSequence((start,)))], max_new_tokens=4
    )
    said = (start,)
    for _ in range(4):
        row = TokenSequence(ids, decoder=TokenSequence(said, reads=(len(said) - 1,)))
        said += (int(run(b, NONE, b.pack([row]), read="logits").argmax()),)
    assert tuple(found) == said[1:]


def test_a_model_whose_cache_mixes_rows_up_continues_each_alone():
    def rwkv():
        return hf.RwkvForCausalLM(
            hf.RwkvConfig(
                vocab_size=96,
                hidden_size=32,
                num_hidden_layers=2,
                attention_hidden_size=32,
                intermediate_size=48,
                context_length=64,
                bos_token_id=2,
                eos_token_id=3,
            )
        )

    b = backbone(rwkv)
    rows = [TokenSequence(ids) for ids in drawn(7, 2, 7, 4)]
    together = generate(b, NONE, rows, max_new_tokens=5)
    assert together == [generate(b, NONE, [row], max_new_tokens=5)[0] for row in rows]


@pytest.mark.parametrize("kind", ["Roberta", "Camembert"])
def test_positions_behind_the_padding_id_are_those_of_a_pass(kind):
    made = getattr(hf, f"{kind}ForCausalLM")
    sizes = SMALL | {"pad_token_id": 1, "is_decoder": True}
    b = backbone(lambda: made(getattr(hf, f"{kind}Config")(**sizes)))
    rows = [TokenSequence(ids) for ids in drawn(7, 3)]
    for row, found in zip(rows, generate(b, NONE, rows, max_new_tokens=5), strict=True):
        said = row.ids
        for _ in range(5):
            whole = TokenSequence(said, reads=(len(said) - 1,))
            said += (int(run(b, NONE, b.pack([whole]), read="logits").argmax()),)
        assert tuple(found) == said[len(row.ids) :]
