"""The model's own `generate`, with the ways to decode that ptune leaves to it."""

from dataclasses import replace
from functools import cache

import pytest
import tiny
import torch
import transformers as hf
from transformers import DynamicCache

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import EmbeddingEncoder, KeysValues, PrefixEncoder
from ptune.errors import BackboneError, ConfigError
from ptune.generation import generate
from ptune.inject import Call
from ptune.inject.requests import PassingOver
from ptune.run import run
from ptune.trainable import PromptedBackbone, TrainablePrompt

WEIGHTS = {"output_attentions": True, "return_dict_in_generate": True}
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
    ids = call.virtual(ids, at[:, None].expand(ids.shape))
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


class ById:
    """A penalty as transformers 5.17 has it: what it looks up must be there."""

    def __call__(self, ids, scores):
        return scores.scatter(1, ids, scores.gather(1, ids) - 1)


def test_a_penalty_looks_virtual_tokens_up_in_columns_of_their_own():
    ids = torch.tensor([[101, 102, 3, 101, 5], [0, 0, 102, 4, 4]])
    scores = torch.zeros(2, 8)
    found = PassingOver(ById(), ids=103)(ids, scores)
    assert found.shape == (2, 8)
    assert (found != 0).nonzero().tolist() == [[0, 3], [0, 5], [1, 0], [1, 4]]
    assert (PassingOver(ById(), 103)(torch.tensor([[101, 102]]), scores[:1]) == 0).all()


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("size", [1, 2])
def test_what_a_row_says_is_not_said_again_though_virtual_tokens_stand_in_it(after, size):
    model = prompted("llama", after=after)
    row = torch.tensor([[12, 40, 33, 12]])
    plain = model.generate(row, **PLAIN)[0].tolist()
    found = model.generate(row, **PLAIN, encoder_no_repeat_ngram_size=size)[0].tolist()
    given = {tuple(plain[at : at + size]) for at in range(5 - size)}
    said = [tuple(found[at : at + size]) for at in range(5 - size, len(found) + 1 - size)]
    assert given.isdisjoint(said)


def test_ids_that_no_token_has_are_refused_in_a_sentence():
    model = prompted("llama")
    with pytest.raises(BackboneError, match="has a token None of id 96, and the model has embed"):
        model.generate(torch.tensor([[12, 40, 96, 33]]), **PLAIN)
    for ask in (model, lambda ids: model.generate(ids, **PLAIN)):
        with pytest.raises(ConfigError) as error:
            ask(torch.tensor([[12, 5], [12, -100]]))
        assert str(error.value) == (
            "input_ids: row 1 has -100 at token 1, and no token has an id below 0. -100 belongs "
            "into labels alone; give padding a token, and 0 in the attention_mask."
        )


def test_padding_is_no_other_token_for_a_rule_that_counts_tokens():
    model = prompted("llama")
    rows, mask = torch.tensor([[1, 1, 12, 40]]), torch.tensor([[0, 0, 1, 1]])
    calls = []

    def heard(ids, scores):
        calls.append(ids.tolist()[0])
        return scores

    model.generate(rows, mask, **PLAIN, logits_processor=[heard])
    assert calls[0].count(1) == 2


def test_padding_may_have_any_id():
    model = prompted("llama")
    mask = torch.tensor([[0, 0, 1, 1]])
    found = model.generate(torch.tensor([[-100, 96, 12, 40]]), mask, **PLAIN)
    assert torch.equal(
        found[:, 4:], model.generate(torch.tensor([[0, 0, 12, 40]]), mask, **PLAIN)[:, 4:]
    )


def punished(model, ids, mask, **penalty):
    """Which tokens' logits a penalty changes in the first step, row by row."""
    plain = {**PLAIN, "output_scores": True, "return_dict_in_generate": True}
    scores = [
        model.generate(ids, attention_mask=mask, **plain, **more).scores[0]
        for more in ({}, penalty)
    ]
    return [row.nonzero().flatten().tolist() for row in scores[0] != scores[1]]


def test_a_penalty_passes_over_padding_as_the_plain_model_does():
    model = prompted("llama")
    pads = len(LONG) - len(SHORT)
    ids = torch.tensor([LONG, [0] * pads + SHORT])
    mask = torch.tensor([[1] * len(LONG), [0] * pads + [1] * len(SHORT)])
    found = punished(model, ids, mask, repetition_penalty=1.5)
    # (Some versions of transformers punish padding as well.)
    assert found == punished(tiny.model("llama"), ids, mask, repetition_penalty=1.5)
    assert found[0] == sorted(set(LONG))
    assert set(found[1]) - {0} == set(SHORT)


def test_a_penalty_for_leaving_the_row_passes_over_virtual_tokens():
    model, ids = prompted("llama"), torch.tensor([LONG])
    (found,) = punished(model, ids, torch.ones_like(ids), encoder_repetition_penalty=1.5)
    assert found == sorted(set(LONG))
    assert "_get_logits_processor" not in model.backbone.model.__dict__


@pytest.mark.parametrize("after", [0, 2, 5])
def test_look_up_ends_at_virtual_tokens_inside_the_text(after):
    row = [*LONG, LONG[1]]  # what followed this token before: virtual tokens, where after is 2
    model = prompted("llama", after)
    said = model.generate(torch.tensor([row]), prompt_lookup_num_tokens=2, **PLAIN)
    assert said[0].tolist() == by_hand(model, row)


def test_lengths_count_real_tokens():
    model, ids = prompted("llama"), torch.tensor([LONG])
    whole = {"do_sample": False, "pad_token_id": 0}
    said = model.generate(ids, max_length=13, min_length=13, **whole)
    assert said[0].tolist() == by_hand(model, LONG, 4)
    vectors = model.backbone.model.get_input_embeddings()(ids).detach()
    said = model.generate(inputs_embeds=vectors, max_length=13, min_length=13, **whole)
    assert said[0].tolist() == by_hand(model, LONG, 4)[len(LONG) :]


@pytest.mark.parametrize("row", [0, 1])
def test_whatever_an_assistant_guesses_the_model_says_what_it_says_alone(row):
    b, small = tiny.backbone("llama"), tiny.model("llama", seed=1)
    guessed = count_calls(small)
    assert generated(b, [row], assistant_model=small) == generated(b, [row])
    assert guessed
    assert "generate" not in b.model.__dict__
    assert len(small.get_input_embeddings()._forward_pre_hooks) == 0


def test_an_assistant_reads_padding_where_a_token_is_virtual():
    b, small = tiny.backbone("llama"), tiny.model("llama", seed=1)
    seen = []
    small.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    generated(b, [0], assistant_model=small)
    padding = small.get_input_embeddings().weight[0]
    assert torch.equal(seen[0][0, :2], torch.stack([padding, padding]))
    assert torch.equal(seen[0][0, 2], small.get_input_embeddings().weight[ROWS[0][2]])


def test_a_model_may_assist_itself_and_then_knows_the_prompt():
    b = tiny.backbone("llama")
    steps = count_calls(b.model)
    expected = generated(b, [0])
    alone = len(steps)
    assert generated(b, [0], assistant_model=b.model) == expected
    # It agrees with every guess of its own, so that it decides but once on several tokens.
    assert len(steps) - alone < 2 * alone
    steps.clear()
    assert generated(b, [0], assistant_early_exit=1) == expected
    assert steps


def test_an_assistant_with_a_tokenizer_of_its_own_is_refused_where_tokens_are_virtual():
    b, small = tiny.backbone("llama"), tiny.model("llama", seed=1)
    both = {"tokenizer": b.tokenizer, "assistant_tokenizer": tiny.tokenizer()}
    with pytest.raises(BackboneError, match=r"own gets the rows as text.*lookup_num_tokens"):
        generated(b, [0], assistant_model=small, **both)
    assert "generate" not in b.model.__dict__


def count_calls(model):
    calls = []
    model.register_forward_pre_hook(lambda *call: calls.append(1))
    return calls


def test_weights_of_a_packed_batch_are_refused():
    b = tiny.backbone("llama")
    row = TokenSequence(ROWS[0], reads=(3,))
    with b.injected():
        run(b, prompts_of(b)[:1], b.pack([row]))
        with pytest.raises(BackboneError) as error:
            b.model(input_ids=torch.tensor([[12, 40]]), output_attentions=True)
    assert str(error.value) == (
        "Attention weights were asked of a packed batch, whose rows have no keys in common. "
        "Ask for them in `generate`, or leave output_attentions out."
    )


def test_a_model_that_gives_no_weights_away_is_refused():
    b = tiny.backbone("llama")
    for layer in b.model.model.layers:
        forward = layer.self_attn.forward
        layer.self_attn.forward = lambda *a, own=forward, **k: (own(*a, **k)[0], None)
    with pytest.raises(BackboneError) as error:
        generated(b, output_attentions=True, return_dict_in_generate=True)
    assert str(error.value) == (
        "Attention weights were asked of LlamaForCausalLM, whose attention gives none away. Leave "
        "output_attentions out."
    )


def test_weights_of_an_encoder_decoder_are_refused():
    b = tiny.backbone("t5")
    call = Call([PromptTensors()], None, torch.tensor([0]), b.geometry.num_embeddings)
    call.build_banks(b.dtype, b.device)
    asked = {"max_new_tokens": 1, **WEIGHTS}
    with b.injected() as own, own.serving(call), pytest.raises(BackboneError) as error:
        b.model.generate(torch.tensor([LONG]), **asked)
    assert str(error.value) == (
        "Attention weights were asked of an encoder-decoder with prompts, which gives them of "
        "decoders alone. Leave output_attentions out."
    )


@pytest.mark.parametrize(
    "guess", [{"prompt_lookup_num_tokens": 2}, {"assistant_model": tiny.model("llama", 1)}],
    ids=lambda guess: next(iter(guess)),
)  # fmt: skip
def test_weights_of_a_deep_prompt_are_refused_where_tokens_are_guessed(guess):
    with pytest.raises(BackboneError) as error:
        prompted("llama").generate(torch.tensor([LONG]), **PLAIN, **WEIGHTS, **guess)
    assert str(error.value) == (
        "Attention weights of a deep prompt were asked together with guessed tokens "
        "(prompt_lookup_num_tokens, assistant_model, assistant_early_exit), for which transformers "
        "cuts them. Leave one of the two out."
    )
    model = prompted("llama")
    model.prompt.deep = None
    said = model.generate(torch.tensor([LONG]), **PLAIN, **WEIGHTS, **guess)
    assert said.attentions[0][0].shape == (1, 4, 12, 12)


@pytest.mark.parametrize("row", [0, 1], ids=["virtual tokens", "deep prompt"])
def test_a_models_own_wish_for_weights_and_dictionaries_does_not_reach_answers(row):
    b = tiny.backbone("llama")
    prompts, rows = prompts_of(b)[row : row + 1], [TokenSequence(ROWS[row])]
    before = generate(b, prompts, rows, max_new_tokens=NEW)
    b.model.generation_config.output_attentions = True
    b.model.generation_config.return_dict_in_generate = True
    b.model.generation_config.prompt_lookup_num_tokens = 2
    assert generate(b, prompts, rows, max_new_tokens=NEW) == before


# --------------------------------------------------------------------------- PromptedBackbone

LONG, SHORT = [12, 40, 33, 17, 25, 61, 8, 90, 54], [14, 7, 5]
PLAIN = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
FAMILIES = ["llama", "gpt2", "bloom"]


def prompted(name, after=0, offset=0):
    """Virtual tokens in the text and a deep prompt; one encoder has dropout."""
    own, generator = tiny.model(name), torch.Generator().manual_seed(4)
    if name != "bert":  # a tied head says the last token again and again
        head = torch.randn(tiny.VOCABULARY, 32, generator=generator)
        own.lm_head.weight = torch.nn.Parameter(head)
    b = Backbone.load(own, tokenizer=tiny.tokenizer())
    start = torch.randn(3, b.geometry.width, generator=generator)
    shapes = [b.geometry.sites[1].shape]
    prompt = TrainablePrompt(
        shallow=EmbeddingEncoder(3, b.geometry.width, initial=start),
        deep=PrefixEncoder(2, shapes, dropout=0.5, generator=generator),
        sites=(1,),
        offset=offset,
    )
    return PromptedBackbone(b, prompt, after=after)


def by_hand(model, row, count=6):
    """The likeliest token of a whole pass, again and again; `min_new_tokens` bars the end."""
    before, ids = model.training, list(row)
    with torch.no_grad():
        for _ in range(count):
            logits = model.eval()(torch.tensor([ids]))["logits"][0, -1]
            logits[model.backbone.tokenizer.eos_token_id] = -torch.inf
            ids.append(int(logits.argmax()))
    model.train(before)
    return ids


@cache
def likeliest(name, after=0, offset=0, row=tuple(LONG)):
    """What `by_hand` finds with the prompts of `prompted`."""
    return by_hand(prompted(name, after, offset), row)


WAYS = [
    {},
    {"use_cache": False},
    {"cache_implementation": "static"},
    {"prefill_chunk_size": 3},
    {"prompt_lookup_num_tokens": 2},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: next(iter(way), "plain"))
@pytest.mark.parametrize(("after", "offset"), [(0, 0), (2, 3)])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_way_to_generate_gives_the_likeliest_tokens_step_by_step(name, after, offset, way):
    model = prompted(name, after, offset).train()
    said = model.generate(torch.tensor([LONG]), **PLAIN, **way)
    assert said[0].tolist() == likeliest(name, after, offset)
    assert model.training


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_is_heard(name):
    model = prompted(name)
    with torch.no_grad():
        alone = model.backbone.model.generate(torch.tensor([LONG]), **PLAIN)
    said = model.generate(torch.tensor([LONG]), **PLAIN)
    assert said.tolist() != alone.tolist()
    assert len(set(said[0, len(LONG) :].tolist())) > 1


@pytest.mark.parametrize("name", FAMILIES)
def test_an_assistant_changes_nothing(name):
    model = prompted(name)
    said = model.generate(torch.tensor([LONG]), assistant_model=tiny.model("llama", 1), **PLAIN)
    assert said[0].tolist() == likeliest(name)


@pytest.mark.parametrize("way", [{}, {"cache_implementation": "static"}], ids=["plain", "static"])
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_padded_on_the_left_are_the_rows_alone(name, way):
    model = prompted(name, after=1)
    pads = len(LONG) - len(SHORT)
    ids = torch.tensor([LONG, [0] * pads + SHORT])
    mask = torch.tensor([[1] * len(LONG), [0] * pads + [1] * len(SHORT)])
    said = model.generate(ids, mask, **PLAIN, **way).tolist()
    assert said == [likeliest(name, 1), [0] * pads + likeliest(name, 1, row=tuple(SHORT))]


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_second_turn_goes_on_from_the_returned_cache(name, offset):
    model = prompted(name, offset=offset)
    pads = len(LONG) - len(SHORT)
    ids = torch.tensor([LONG, [0] * pads + SHORT])
    mask = torch.tensor([[1] * len(LONG), [0] * pads + [1] * len(SHORT)])
    first = model.generate(ids, mask, return_dict_in_generate=True, **PLAIN)
    assert first[tiny.CACHE].get_seq_length() == len(LONG) + 3 + 5  # the last is not read yet
    ids = torch.cat([first.sequences, torch.tensor([[7, 9, 11], [8, 9, 10]])], dim=1)
    mask = torch.cat([mask, torch.ones(2, 9, dtype=mask.dtype)], dim=1)
    lengths = []
    watch = model.backbone.model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    said = model.generate(ids, mask, **{tiny.CACHE: first[tiny.CACHE]}, **PLAIN)
    watch.remove()
    assert lengths == [4, 1, 1, 1, 1, 1]
    assert said[0].tolist() == by_hand(model, ids[0].tolist())
    assert said[1, pads:].tolist() == by_hand(model, ids[1, pads:].tolist())


# Families with an attention of their own, beside those of `tiny`.
STAND_INS = {
    "gptj": lambda: hf.GPTJConfig(**OLD, rotary_dim=4, n_inner=48, eos_token_id=3, bos_token_id=2),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, num_layers=3, num_heads=4, window_size=4,
        attention_types=[[["global", "local", "global"], 1]], max_position_embeddings=64,
        intermediate_size=48, eos_token_id=3, bos_token_id=2,
    ),
    "mpt": lambda: hf.MptConfig(
        vocab_size=tiny.VOCABULARY, d_model=32, n_layers=3, n_heads=4, expansion_ratio=2,
        max_seq_len=64, eos_token_id=3, bos_token_id=2,
    ),
    "falcon": lambda: hf.FalconConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_kv_heads=2, new_decoder_architecture=True, alibi=False, bias=True,
        parallel_attn=True, eos_token_id=3, bos_token_id=2,
    ),
}  # fmt: skip
OLD = {"vocab_size": tiny.VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}


def two_of(name):
    """A backbone, and the plain model of the same numbers whose attention is eager."""
    if name not in STAND_INS:
        plain = tiny.model(name)
        plain.set_attn_implementation("eager")
        return tiny.backbone(name), plain
    torch.manual_seed(0)
    made = hf.AutoModelForCausalLM.from_config(STAND_INS[name]()).float().eval()
    # Falcon's masks are those of the attention that it was made with.
    plain = hf.AutoModelForCausalLM.from_config(STAND_INS[name](), attn_implementation="eager")
    plain.float().eval().load_state_dict(made.state_dict())
    return Backbone.load(made, tokenizer=tiny.tokenizer()), plain


@pytest.mark.parametrize("name", [*tiny.DECODERS, *STAND_INS])
def test_weights_of_virtual_tokens_are_those_of_the_plain_model_on_their_vectors(name):
    b, plain = two_of(name)
    start = torch.randn(3, b.geometry.width, generator=torch.Generator().manual_seed(4))
    shallow = EmbeddingEncoder(3, b.geometry.width, initial=start)
    model = PromptedBackbone(b, TrainablePrompt(shallow=shallow), after=2)
    said = model.generate(torch.tensor([LONG]), **PLAIN, **WEIGHTS)
    words = plain.get_input_embeddings()(said.sequences[0, :-1])
    with torch.no_grad():
        whole = torch.cat([words[:2], start, words[2:]])[None]
        expected = plain(inputs_embeds=whole, output_attentions=True).attentions
    first = len(LONG) + 3
    for step, found in enumerate(said.attentions):
        assert len(found) == 3
        for one, other in zip(found, expected, strict=True):
            queries, keys = (slice(first + step - size, first + step) for size in one.shape[2:])
            torch.testing.assert_close(one, other[:, :, queries, keys], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_weights_of_a_deep_prompt_are_those_of_a_cache_that_begins_with_it(name, offset):
    b, generator = tiny.backbone(name), torch.Generator().manual_seed(4)
    deep = PrefixEncoder(2, [site.shape for site in b.geometry.sites], generator=generator)
    prompt = TrainablePrompt(deep=deep, sites=(0, 1, 2), offset=offset)
    pads = len(LONG) - len(SHORT)
    ids = torch.tensor([LONG, [0] * pads + SHORT])
    mask = torch.tensor([[1] * len(LONG), [0] * pads + [1] * len(SHORT)])
    said = PromptedBackbone(b, prompt).generate(ids, mask, **PLAIN, **WEIGHTS)
    plain = tiny.model(name)
    plain.set_attn_implementation("eager")
    for row, real in enumerate((LONG, SHORT)):
        cache = DynamicCache()
        for site, pair in prompt.fold().deep.items():
            cache.update(*(part.transpose(0, 1)[None] for part in pair), site)
        with torch.no_grad():
            expected = plain(
                torch.tensor([real]),
                **{tiny.CACHE: cache},
                position_ids=torch.arange(len(real))[None] + offset,
                output_attentions=True,
            ).attentions
        for found, other in zip(said.attentions[0], expected, strict=True):
            queries = found[row, :, -len(real) :]
            both = torch.cat([queries[..., :2], queries[..., -len(real) :]], dim=-1)
            torch.testing.assert_close(both[None], other, rtol=1e-4, atol=1e-5)
            assert both[..., :2].max() > 0.1


@pytest.mark.parametrize("row", [LONG, SHORT])
@pytest.mark.parametrize(("after", "offset"), [(0, 0), (2, 3)])
@pytest.mark.parametrize("name", [*FAMILIES, "gemma2-window-4"])
def test_behind_vectors_the_same_is_said_as_behind_their_ids(name, after, offset, row):
    model = prompted(name, after, offset)
    pads = len(LONG) - len(row)
    ids = torch.tensor([[0] * pads + row, LONG])
    mask = torch.tensor([[0] * pads + [1] * len(row), [1] * len(LONG)])
    vectors = model.backbone.model.get_input_embeddings()(ids).detach()
    said = model.generate(inputs_embeds=vectors, attention_mask=mask, **PLAIN)
    assert said.tolist() == model.generate(ids, mask, **PLAIN)[:, len(LONG) :].tolist()
    assert said[0].tolist() == likeliest(name, after, offset, tuple(row))[len(row) :]


def test_behind_vectors_a_deep_prompt_alone_is_heard():
    model = prompted("llama")
    model.prompt.shallow = None
    vectors = model.backbone.model.get_input_embeddings()(torch.tensor([LONG])).detach()
    said = model.generate(inputs_embeds=vectors, **PLAIN)
    assert said[0].tolist() == by_hand(model, LONG)[len(LONG) :]


def test_both_or_none_of_ids_and_vectors_are_refused():
    model, ids = prompted("llama"), torch.tensor([LONG])
    vectors = torch.zeros(1, len(LONG), 32)
    said = "generate: {} of input_ids and inputs_embeds are given. Give one of them."
    with pytest.raises(ConfigError) as error:
        model.generate(ids, inputs_embeds=vectors)
    assert str(error.value) == said.format("both")
    with pytest.raises(ConfigError) as error:
        model.generate(**PLAIN)
    assert str(error.value) == said.format("none")


def test_vectors_are_refused_by_a_model_whose_layers_read_ids(monkeypatch):
    model = prompted("llama")
    geometry = replace(model.backbone.geometry, also_embedding=("model.per_layer",))
    monkeypatch.setattr(model.backbone, "geometry", geometry)
    with pytest.raises(ConfigError) as error:
        model.generate(inputs_embeds=torch.zeros(1, 2, 32))
    assert str(error.value) == (
        '"LlamaForCausalLM" reads token ids in its layers as well, so vectors alone are not '
        "enough for it. Give input_ids."
    )


def test_beams_and_samples_stand_behind_their_rows():
    model = prompted("llama")
    ids = torch.tensor([LONG, LONG[::-1]])
    samples = model.generate(ids, **PLAIN | {"do_sample": True}, top_k=1, num_return_sequences=2)
    expected = [by_hand(model, row) for row in (LONG, LONG[::-1])]
    assert samples.tolist() == [expected[0]] * 2 + [expected[1]] * 2
    beams = model.generate(ids, num_beams=3, num_return_sequences=3, **PLAIN)
    assert beams.shape == (6, len(LONG) + 6)
    assert torch.equal(beams[:, : len(LONG)], ids.repeat_interleave(3, dim=0))


def test_a_row_that_ends_in_padding_is_refused():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    with pytest.raises(ConfigError) as error:
        prompted("llama").generate(torch.tensor([[5, 6, 7], [5, 6, 0]]), mask, **PLAIN)
    assert str(error.value) == (
        "Row 1 ends in padding, behind which nothing can be said. Pad rows on the left "
        "(tokenizer.padding_side = 'left')."
    )


def test_an_encoder_is_refused():
    with pytest.raises(ConfigError) as error:
        prompted("bert").generate(torch.tensor([LONG]), **PLAIN)
    assert str(error.value) == (
        '"BertForMaskedLM" is an encoder, which continues no text. Load a decoder.'
    )


@pytest.mark.parametrize(
    "own",
    [
        {"suppress_tokens": list(range(4, 90))},
        {"bad_words_ids": [[id] for id in range(10, 96)]},
        {"sequence_bias": [[[7], 50.0]]},
        {"exponential_decay_length_penalty": (1, 50.0)},
        {"encoder_repetition_penalty": 5.0},
        {"guidance_scale": 1.5},
        {"max_time": 0.0},
        {"stop_strings": ["x"]},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "low"},
        {"num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 2},
        {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 9.0}},
        {"token_healing": True},
        {"num_beam_groups": 2, "diversity_penalty": 5.0},
        {"remove_invalid_values": True},
    ],
)
def test_an_answer_is_what_the_model_finds_most_likely_whatever_its_own_file_says(own):
    b = tiny.backbone("llama")
    rows = [TokenSequence(ids, at) for at, ids in enumerate(ROWS)]
    plain = generate(b, prompts_of(b), rows, max_new_tokens=NEW)
    for name, value in own.items():
        setattr(b.model.generation_config, name, value)
    assert generate(b, prompts_of(b), rows, max_new_tokens=NEW) == plain


def test_padding_that_the_model_has_no_embedding_for_changes_nothing():
    b = tiny.backbone("llama")
    _, deep = prompts_of(b)  # with virtual tokens, padding would be taken for one and hidden
    rows = [TokenSequence(ids) for ids in ((12, 40, 33, 17), (12, 77))]
    plain = generate(b, [deep], rows, max_new_tokens=NEW)
    b.tokenizer.add_tokens([f"w{n}" for n in range(96 - len(b.tokenizer))])
    b.tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    assert b.tokenizer.pad_token_id >= b.geometry.num_embeddings
    assert generate(b, [deep], rows, max_new_tokens=NEW) == plain
