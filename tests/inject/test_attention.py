import pytest
import tiny
import torch
import transformers as hf
from oracles.naive_attention import NaiveAttention

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.generation import generate
from ptune.inject import attention
from ptune.inject.attention import attend
from ptune.inject.call import Seen
from ptune.run import run


def inputs(dtype, *, heads=4, kv_heads=4):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, 5, 8), (2, kv_heads, 9, 8), (2, kv_heads, 9, 8))
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    place = torch.arange(9)
    distance = (place[4:, None] - place)[None].expand(2, 5, 9)
    key_at = place[None].expand(2, 9)
    return [one.requires_grad_() for one in made], Seen(key_at, key_at, distance, distance >= 0, 0)


def naive(query, key, value, seen, slopes):
    """Oracle: one query head, one row at a time, in float64."""
    rows, heads, tokens, width = query.shape
    share = heads // key.shape[1]
    out = torch.zeros(rows, heads, tokens, value.shape[-1], dtype=torch.float64)
    for row in range(rows):
        for head in range(heads):
            k, v = key[row, head // share].double(), value[row, head // share].double()
            scores = query[row, head].double() @ k.T / width**0.5
            if slopes is not None:
                scores = scores - slopes[head].double() * seen.distance[row]
            scores = scores.masked_fill(~seen.allowed[row], -torch.inf)
            out[row, head] = scores.softmax(-1) @ v
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_each_way_to_compute_attention_agrees_with_a_naive_one(dtype, kv_heads, alibi, trained):
    (query, key, value), seen = inputs(dtype, kv_heads=kv_heads)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625]) if alibi else None
    within = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 4e-2}
    with torch.set_grad_enabled(trained):
        got = attend(query, key, value, seen, slopes=slopes)
    expected = naive(query, key, value, seen, slopes)
    torch.testing.assert_close(got.double(), expected, **within)
    if trained:
        weight = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view(got.shape)
        of = torch.autograd.grad((got * weight).sum(), (query, key, value))
        wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
        for one, other in zip(of, wanted, strict=True):
            torch.testing.assert_close(one.double(), other.double(), **within)


@pytest.mark.parametrize(
    ("dtype", "trained", "most", "fused"),
    [
        (torch.bfloat16, True, 2**24, False),
        (torch.bfloat16, False, 2**24, True),
        (torch.bfloat16, True, 100, True),  # long rows: the scores would fill the memory
        (torch.float32, True, 2**24, True),
    ],
)
def test_the_fused_kernel_is_left_where_it_is_slow(monkeypatch, dtype, trained, most, fused):
    monkeypatch.setattr(attention, "MOST_SCORES", most)
    called = []
    kernel = attention.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        attention.functional,
        "scaled_dot_product_attention",
        lambda *args, **kwargs: called.append(1) or kernel(*args, **kwargs),
    )
    (query, key, value), seen = inputs(dtype)
    with torch.set_grad_enabled(trained):
        attend(query, key, value, seen)
    assert bool(called) == fused


# --------------------------------------------------------------------------- what lies underneath


def capped(underneath):
    """A model whose scores are capped at 1, far below their size, with its own attention."""
    config = hf.Gemma2Config(
        **tiny.SMALL, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
        attn_logit_softcapping=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config).float().eval()
    model.config._attn_implementation = underneath  # as transformers 5.17 loads it
    return model


@pytest.mark.parametrize("underneath", ["eager", "sdpa"])
def test_a_soft_cap_is_kept_whatever_the_attention_underneath(underneath):
    model = capped("eager")
    ids = torch.tensor([[12, 40, 33, 17, 25, 61]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits[0]
        said = model.generate(ids, do_sample=False, max_new_tokens=4, pad_token_id=0)[0, 6:]
        model.config.attn_logit_softcapping = None
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        assert not torch.allclose(model(input_ids=ids).logits[0], expected, atol=0.1)
    b = Backbone.load(capped(underneath), tokenizer=tiny.tokenizer())
    row = TokenSequence(tuple(ids[0].tolist()), reads=tuple(range(6)))
    found = run(b, [PromptTensors()], b.pack([row]), read="logits")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    drawn = torch.randn(2, 3, 2, 8, generator=torch.Generator().manual_seed(1))
    deep = {site: KeysValues(3 * drawn[0], drawn[1]) for site in range(3)}
    with NaiveAttention(b.model, deep), torch.no_grad():
        prompted = b.model(input_ids=ids, use_cache=False).logits[0]
    found = run(b, [PromptTensors(deep=deep)], b.pack([row]), read="logits")
    torch.testing.assert_close(found, prompted, rtol=1e-4, atol=1e-4)
    (answer,) = generate(b, [PromptTensors()], [row], max_new_tokens=4)
    assert answer == said.tolist()[: len(answer)]
    assert len(answer) >= 1
    with torch.no_grad():  # and out of ptune's hands
        torch.testing.assert_close(b.model(input_ids=ids).logits[0], expected)


@pytest.mark.parametrize("name", ["llama", "bert", "bloom", "gpt2"])
def test_with_eager_attention_underneath_the_model_gives_its_weights_before_and_after(name):
    model = tiny.model(name)
    model.set_attn_implementation("eager")
    ids = torch.tensor([[12, 40, 33, 17]])
    with torch.no_grad():
        before = model(input_ids=ids, output_attentions=True).attentions
        b = Backbone.load(model, tokenizer=tiny.tokenizer())
        row = TokenSequence((12, 40, 33, 17), reads=(3,))
        run(b, [PromptTensors()], b.pack([row]))
        after = b.model(input_ids=ids, output_attentions=True).attentions
    assert len(before) == len(after) == 3
    for one, other in zip(before, after, strict=True):
        assert one.shape == (1, 4, 4, 4)
        assert torch.equal(one, other)
        torch.testing.assert_close(one.sum(-1), torch.ones(1, 4, 4))


def answers(name, implementation):
    """Of a deep prompt at all sites, on a model that was loaded with some attention."""
    model = tiny.model(name)
    model.set_attn_implementation(implementation)
    b = Backbone.load(model, tokenizer=tiny.tokenizer())
    generator, deep = torch.Generator().manual_seed(3), {}
    for site, (heads, key, value) in enumerate(site.shape for site in b.geometry.sites):
        sizes = ((2, heads, key), (2, heads, value))
        deep[site] = KeysValues(*(torch.randn(size, generator=generator) for size in sizes))
    prompts = [PromptTensors(deep=deep)]
    rows = [TokenSequence((12, 40, 33), reads=(2,)), TokenSequence((17, 5), reads=(1,))]
    said = generate(b, prompts, rows, max_new_tokens=4) if b.geometry.causal else None
    states = run(b, prompts, b.pack(rows))
    assert model.config._attn_implementation == implementation
    return states, said


FLEX = "flex_attention"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what flex attention is made of
@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(
    ("name", "underneath", "stance"),
    [
        ("llama", "eager", "default"),
        ("llama", FLEX, "force_eager"),
        ("bert", "eager", "default"),
        ("bert", FLEX, "force_eager"),
        # It compiles anew for every length of a text that is being written.
        pytest.param("llama", FLEX, "default", marks=pytest.mark.slow),
        pytest.param("bert", FLEX, "default", marks=pytest.mark.slow),
    ],
)
def test_whatever_attention_is_underneath_the_answer_is_the_same(name, underneath, stance):
    with torch.compiler.set_stance(stance):
        states, said = answers(name, underneath)
    expected, text = answers(name, "sdpa")
    torch.testing.assert_close(states, expected)
    assert said == text
