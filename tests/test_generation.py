"""The model's own `generate`, with the ways to decode that ptune leaves to it."""

import pytest
import tiny
import torch

from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.errors import BackboneError
from ptune.inject import Call
from ptune.run import _with_virtual_ids, generate, run

ROWS = ((-1, -2, 12, 40, 33, 17, 25, 61, 8, 90, 54), (12, 77, 5))
NEW = 5


def prompts_of(b):
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    shapes = [site.shape for site in b.geometry.sites]
    pairs = [
        KeysValues(drawn(3, s.kv_heads, s.key_dim), drawn(3, s.kv_heads, s.value_dim))
        for s in shapes
    ]
    return [
        PromptTensors(vectors=drawn(2, b.geometry.width)),
        PromptTensors(deep=dict(enumerate(pairs))),
    ]


def generated(b, chosen=(0, 1), **options):
    """A row with virtual tokens and one with a deep prompt, padded on the left."""
    at = torch.tensor(chosen)
    call = Call(prompts_of(b), None, at, b.geometry.num_embeddings)
    call.build_banks(b.dtype, b.device)
    width = max(len(ROWS[row]) for row in chosen)
    ids = torch.tensor([[0] * (width - len(ROWS[row])) + list(ROWS[row]) for row in chosen])
    ids = _with_virtual_ids(ids, at[:, None].expand(ids.shape), call)
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW} | options
    with b.injected() as injection, injection.serving(call), torch.no_grad():
        answer = b.model.generate(
            input_ids=ids, attention_mask=(ids != 0).long(), pad_token_id=0, **settings
        )
    return answer[:, width:].tolist()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "way",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
    ],
    ids=lambda way: next(iter(way)),
)
def test_a_mixed_batch_says_the_same_whatever_the_cache(name, way):
    b = tiny.backbone(name)
    assert generated(b, **way) == generated(b)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("row", [0, 1])
def test_tokens_looked_up_in_the_prompt_change_nothing(name, row):
    b = tiny.backbone(name)
    assert generated(b, [row], prompt_lookup_num_tokens=2) == generated(b, [row])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_sample_of_a_row_has_the_rows_own_prompt(name):
    b = tiny.backbone(name)
    first, second = generated(b)
    samples = generated(b, do_sample=True, top_k=1, num_return_sequences=3)
    assert samples == [first] * 3 + [second] * 3


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_repetition_is_punished_among_real_tokens_though_the_row_has_virtual_ones(name):
    b = tiny.backbone(name)
    answer = generated(b, [0], repetition_penalty=1.5)[0]
    ids = ROWS[0]
    for token in answer:
        row = TokenSequence(ids, reads=(len(ids) - 1,))
        logits = run(b, prompts_of(b)[:1], b.pack([row]), read="logits")[0]
        seen = torch.tensor(sorted({i for i in ids if i >= 0}))
        logits[seen] = torch.where(logits[seen] < 0, logits[seen] * 1.5, logits[seen] / 1.5)
        logits[b.tokenizer.eos_token_id] = -torch.inf  # `min_new_tokens`
        assert int(logits.argmax()) == token
        ids += (token,)


def test_an_assistant_model_is_refused_where_rows_have_virtual_tokens():
    b, small = tiny.backbone("llama"), tiny.model("llama", seed=1)
    with pytest.raises(BackboneError, match=r"does not know virtual tokens.*lookup_num_tokens"):
        generated(b, [0], assistant_model=small)
    # With a deep prompt it may guess: what it guesses wrongly is not said.
    assert generated(b, [1], assistant_model=small) == generated(b, [1])
    assert "generate" not in b.model.__dict__


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_attention_weights_are_refused_and_not_given_empty(name):
    b = tiny.backbone(name)
    with pytest.raises(BackboneError, match=r"ptune's attention keeps none. Leave output_att"):
        generated(b, output_attentions=True, return_dict_in_generate=True)
    row = torch.tensor([[12, 40]])
    assert len(b.model(input_ids=row, output_attentions=True).attentions) in (0, 3)  # its own again


def test_a_models_own_wish_for_weights_and_dictionaries_does_not_reach_answers():
    b = tiny.backbone("llama")
    rows = [TokenSequence(ROWS[0])]
    before = generate(b, prompts_of(b)[:1], rows, max_new_tokens=NEW)
    b.model.generation_config.output_attentions = True
    b.model.generation_config.return_dict_in_generate = True
    assert generate(b, prompts_of(b)[:1], rows, max_new_tokens=NEW) == before
