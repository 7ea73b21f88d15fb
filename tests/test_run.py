import copy
import dataclasses

import pytest
import torch
from oracles.naive_attention import NaiveAttention
from tiny import ALL, DECODERS, ENCODERS, backbone

from ptune.batch import Branch, PromptTensors, TokenSequence, pack
from ptune.encoders import KeysValues
from ptune.errors import BackboneError
from ptune.generation import generate
from ptune.run import keys_values_of, run

ROW = (12, 40, 33, 17, 25, 61, 8, 90, 54)
SHORT = (12, 77, 5)


def shallow(backbone, slots=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    width = backbone.geometry.width
    return PromptTensors(vectors=torch.randn(slots, width, generator=generator))


def deep(backbone, slots=3, seed=2, sites=None):
    generator = torch.Generator().manual_seed(seed)
    chosen = range(len(backbone.geometry.sites)) if sites is None else sites
    shapes = {site: backbone.geometry.sites[site].shape for site in chosen}
    return PromptTensors(
        deep={
            site: KeysValues(
                torch.randn(slots, s.kv_heads, s.key_dim, generator=generator),
                torch.randn(slots, s.kv_heads, s.value_dim, generator=generator),
            )
            for site, s in shapes.items()
        }
    )


def states(backbone, ids, prompt, **kwargs):
    sequence = TokenSequence(tuple(ids), reads=tuple(range(len(ids))), **kwargs)
    return run(backbone, [prompt], backbone.pack([sequence]))


def equal(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_without_a_prompt_the_states_are_the_models_own(name):
    b = backbone(name)
    with torch.no_grad():
        native = b.body(input_ids=torch.tensor([ROW])).last_hidden_state[0]
    equal(states(b, ROW, PromptTensors()), native)


@pytest.mark.parametrize("name", ALL)
def test_virtual_tokens_are_as_embeddings_put_in_their_place(name):
    b = backbone(name)
    prompt = shallow(b)
    ids = (*ROW[:1], -1, *ROW[1:4], -2, *ROW[4:])
    plain = [1 if id < 0 else id for id in ids]
    embedded = b.embed(plain)
    embedded[1], embedded[5] = prompt.vectors[0], prompt.vectors[1]
    module = b.model.get_input_embeddings()
    handle = module.register_forward_hook(lambda *_: embedded[None])
    with torch.no_grad():
        native = b.body(input_ids=torch.tensor([plain])).last_hidden_state[0]
    handle.remove()
    equal(states(b, ids, prompt), native)


@pytest.mark.parametrize("name", [n for n in ALL if n != "bloom"])
def test_a_deep_prompt_is_as_naively_concatenated_keys_and_values(name):
    b = backbone(name)
    prompt = deep(b)
    with torch.no_grad(), NaiveAttention(b.model, prompt.deep):
        native = b.body(input_ids=torch.tensor([ROW])).last_hidden_state[0]
    equal(states(b, ROW, prompt), native)
    assert not torch.allclose(native, states(b, ROW, PromptTensors()), atol=1e-2)


def test_blooms_deep_prompt_is_as_a_cache_of_real_tokens_in_front():
    b = backbone("bloom")
    prompt = keys_values_of(b, SHORT)
    equal(states(b, ROW, prompt), states(b, SHORT + ROW, PromptTensors())[len(SHORT) :])


@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_of_the_real_keys_and_values_of_a_text_is_the_text(name):
    if "window" in name:
        pytest.skip("A prompt is seen through a sliding window, a text is not.")
    b = backbone(name)
    whole = states(b, SHORT + ROW, PromptTensors())[len(SHORT) :]
    equal(states(b, ROW, keys_values_of(b, SHORT)), whole, 2e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_row_in_any_batch_is_the_row_alone(name):
    b = backbone(name)
    prompts = [shallow(b), deep(b, 3), deep(b, 1, seed=5, sites=[1]), PromptTensors()]
    both = PromptTensors(vectors=shallow(b, seed=9).vectors, deep=prompts[1].deep)
    prompts.append(both)
    rows = [
        TokenSequence((-1, -2, *ROW), prompt=0, reads=(4, 10), shared=2),
        TokenSequence((-1, -2, *SHORT), prompt=0, reads=(4,), shared=2),
        TokenSequence(ROW, prompt=1, reads=(0, 8)),
        TokenSequence(SHORT, prompt=2, reads=(2,)),
        TokenSequence(ROW + SHORT, prompt=3, reads=(11,)),
        TokenSequence((*SHORT, -1, -2, 9), prompt=4, reads=(0, 5)),
    ]
    alone = [
        run(b, [prompts[row.prompt]], b.pack([dataclasses.replace(row, prompt=0)])) for row in rows
    ]
    causal = b.geometry.causal
    batches = [
        (b.pack(rows), alone),
        (pack(rows, share=False), alone),
        (pack(rows, share=causal, padded=True), alone),
        (pack(rows[::-1], share=causal), alone[::-1]),
    ]
    for batch, expected in batches:
        equal(run(b, prompts, batch), torch.cat(expected))


@pytest.mark.parametrize("name", DECODERS)
def test_branches_see_their_row_and_not_each_other(name):
    b = backbone(name)
    prompt = shallow(b)
    base = (-1, -2, *ROW[:5])
    branches = (Branch((7, 21), (0, 1)), Branch((7,), (0,)), Branch((31, 30, 29), (2,)))
    row = TokenSequence(base, reads=(6,), shared=2, branches=branches)
    got = run(b, [prompt], b.pack([row, row]))
    separate = [
        states(b, base, prompt)[6:7],
        *(states(b, base + br.ids, prompt)[[7 + at for at in br.reads]] for br in branches),
    ]
    equal(got, torch.cat(separate * 2))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_number_of_the_prompts_and_agree_with_single_rows(
    name, checkpointing
):
    b = backbone(name)
    b.gradient_checkpointing = checkpointing
    vectors = shallow(b).vectors.requires_grad_()
    keys_values = deep(b, 2).deep
    for kv in keys_values.values():
        kv.keys.requires_grad_(), kv.values.requires_grad_()
    leaves = [vectors, *(t for kv in keys_values.values() for t in kv)]
    rows = [
        TokenSequence((-1, -2, *ROW), reads=tuple(range(11)), shared=2),
        TokenSequence((-1, -2, *SHORT), reads=tuple(range(5)), shared=2),
    ]
    prompt = PromptTensors(vectors=vectors, deep=keys_values)
    together = torch.autograd.grad(run(b, [prompt], b.pack(rows)).sin().sum(), leaves)
    b.gradient_checkpointing = False
    alone = [
        torch.autograd.grad(run(b, [prompt], b.pack([row])).sin().sum(), leaves) for row in rows
    ]
    for got, first, second in zip(together, *alone, strict=True):
        equal(got, first + second, 1e-4)
        assert (got != 0).float().mean() > 0.9
    assert b.model.get_input_embeddings().weight.grad is None


@pytest.mark.parametrize("name", ALL)
def test_with_gradient_checkpointing_every_layer_runs_twice(name):
    b = backbone(name)
    b.gradient_checkpointing = True
    prompt = deep(b, 2)
    for kv in prompt.deep.values():
        kv.keys.requires_grad_()
    runs = []
    sites = {b.body.get_submodule(site.name) for site in b.geometry.sites}
    handles = [m.register_forward_pre_hook(lambda *_: runs.append(1)) for m in sites]
    read = run(b, [prompt], b.pack([TokenSequence(ROW, reads=(8,))]))
    assert len(runs) == len(b.geometry.sites)
    read.sum().backward()
    for handle in handles:
        handle.remove()
    assert len(runs) == 2 * len(b.geometry.sites)


@pytest.mark.parametrize("name", ALL)
def test_the_backbone_is_bit_for_bit_as_before(name):
    b = backbone(name)
    before = copy.deepcopy(b.model.state_dict())
    config = b.model.config.to_dict()
    implementation = b.model.config._attn_implementation
    run(b, [shallow(b)], b.pack([TokenSequence((-1, *ROW), reads=(3,))]))
    assert all(torch.equal(v, before[k]) for k, v in b.model.state_dict().items())
    assert b.model.config.to_dict() == config
    assert b.model.config._attn_implementation == implementation
    for module in b.model.modules():
        assert "_ptune" not in module.__dict__
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_an_error_inside_the_pass_restores_the_backbone_too():
    b = backbone()
    with pytest.raises(IndexError):
        run(b, [PromptTensors()], pack([TokenSequence((5000,), reads=(0,))], share=True))
    assert not any("_ptune" in module.__dict__ for module in b.model.modules())


@pytest.mark.parametrize("name", DECODERS)
def test_generate_is_the_step_by_step_forward_for_mixed_prompts(name):
    b = backbone(name)
    prompts = [shallow(b), deep(b), PromptTensors()]
    if b.geometry.relative:
        prompts.append(keys_values_of(b, SHORT))
    rows = [
        TokenSequence((-1, -2, *ROW), prompt=0),
        TokenSequence(SHORT, prompt=1),
        TokenSequence(ROW, prompt=2),
    ]
    rows += [TokenSequence(ROW[:5], prompt=3)] if len(prompts) > 3 else []
    answers = generate(b, prompts, rows, max_new_tokens=5)
    end = b.tokenizer.eos_token_id
    for row, answer in zip(rows, answers, strict=True):
        ids = row.ids
        for _ in range(5):
            last = TokenSequence(ids, prompt=row.prompt, reads=(len(ids) - 1,))
            step = int(run(b, prompts, b.pack([last]), read="logits").argmax())
            if step == end:
                break
            ids += (step,)
        assert list(ids[len(row.ids) :]) == answer


@pytest.mark.parametrize("name", ["llama", "bloom", "gpt2", "gemma2-window-4"])
def test_beams_of_a_mixed_batch_are_the_beams_of_each_row_alone(name):
    b = backbone(name)
    prompts = [shallow(b), deep(b)]
    rows = [TokenSequence((-1, -2, *ROW), prompt=0), TokenSequence(SHORT, prompt=1)]
    together = generate(b, prompts, rows, max_new_tokens=4, beams=3)
    alone = [generate(b, prompts, [row], max_new_tokens=4, beams=3)[0] for row in rows]
    assert together == alone


def test_logits_are_computed_only_where_they_are_read():
    b = backbone()
    widths = []
    head = b.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda m, args, out: widths.append(out.shape[1]))
    rows = [TokenSequence(ROW, reads=(8,)), TokenSequence(SHORT, reads=(1, 2))]
    logits = run(b, [PromptTensors()], b.pack(rows), read="logits")
    handle.remove()
    assert widths == [3]
    with torch.no_grad():
        native = b.model(input_ids=torch.tensor([ROW])).logits[0, 8]
    equal(logits[0], native)


@pytest.mark.parametrize("how", ["run", "generate"])
def test_keys_for_a_site_that_is_not_there_are_refused(how):
    b = backbone()
    pair = deep(b).deep[0]
    prompt = PromptTensors(deep={3: pair})
    row = TokenSequence(ROW, reads=(0,))
    ways = {
        "run": lambda: run(b, [prompt], b.pack([row])),
        "generate": lambda: generate(b, [prompt], [row], max_new_tokens=1),
    }
    with pytest.raises(BackboneError) as error:
        ways[how]()
    assert str(error.value) == (
        '"LlamaForCausalLM" has 3 attention sites, and this prompt has keys and values for '
        "others. Use the backbone that it was made for."
    )


def test_keys_of_other_heads_are_refused():
    b = backbone()
    narrow = KeysValues(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))
    with pytest.raises(BackboneError) as error:
        run(b, [PromptTensors(deep={1: narrow})], b.pack([TokenSequence(ROW, reads=(0,))]))
    assert str(error.value) == (
        '"LlamaForCausalLM" has 2 key/value heads of 8 numbers at its attention site 1, and this '
        "prompt has 4 key/value heads of 8 numbers. Use the backbone that it was made for."
    )


@pytest.mark.parametrize("moved", [0, 5])
def test_a_row_beyond_the_positions_of_a_model_is_refused(moved):
    b = backbone("gpt2")
    pair = KeysValues(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))
    prompt = PromptTensors(deep={0: pair}, offset=moved)
    fits, longer = (TokenSequence((7,) * n, reads=(0,)) for n in (64 - moved, 65 - moved))
    run(b, [prompt], b.pack([fits]))
    moves = ", which the prompt moves by 5" if moved else ""
    for ask in (
        lambda: run(b, [prompt], b.pack([longer])),
        lambda: generate(b, [prompt], [longer], max_new_tokens=1),
    ):
        with pytest.raises(BackboneError) as error:
            ask()
        assert str(error.value) == (
            f"A row has {65 - moved} tokens, virtual ones included{moves}, and "
            '"GPT2LMHeadModel" has positions for 64. Cut the row.'
        )


def test_a_prompt_that_moves_the_decoder_takes_no_positions_of_the_encoder():
    b = backbone("bart")
    prompt = PromptTensors(offset=5)
    row = TokenSequence((7,) * 64, decoder=TokenSequence((3,), reads=(0,)))
    assert len(run(b, [prompt], b.pack([row]))) == 1
    assert len(generate(b, [prompt], [row], max_new_tokens=1)) == 1
    longer = TokenSequence((7,), decoder=TokenSequence((3,) * 60, reads=(0,)))
    with pytest.raises(BackboneError, match="A row has 60 tokens, virtual ones included, which"):
        run(b, [prompt], b.pack([longer]))


def test_a_prompt_that_moves_its_rows_moves_no_others():
    b = backbone("gpt2")
    prompts = [PromptTensors(), PromptTensors(offset=5)]
    rows = [TokenSequence((7,) * 64, reads=(0,)), TokenSequence((7,), prompt=1, reads=(0,))]
    assert len(run(b, prompts, b.pack(rows))) == 2


def test_a_row_may_be_longer_than_a_model_was_trained_on_where_only_differences_matter():
    b = backbone()
    with torch.no_grad():
        assert (
            run(b, [PromptTensors()], b.pack([TokenSequence(ROW * 9, reads=(80,))]))
            .isfinite()
            .all()
        )


def test_dropout_that_the_models_owner_switched_on_is_off_in_a_pass_and_on_behind_it():
    import transformers as hf
    from tiny import tokenizer

    from ptune.backbone import Backbone

    config = DECODERS["gpt2"]()
    config.embd_pdrop = config.resid_pdrop = 0.5
    model = hf.AutoModelForCausalLM.from_config(config)
    b = Backbone(model, tokenizer(), "gpt2")
    model.train()
    first, second = (
        run(b, [PromptTensors()], b.pack([TokenSequence(ROW, reads=(8,))])) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert all(module.training for module in model.modules())


def test_logits_of_a_backbone_without_a_head_are_refused():
    import transformers as hf
    from tiny import tokenizer

    from ptune.backbone import Backbone

    body = hf.AutoModel.from_config(ENCODERS["bert"]())
    b = Backbone(body, tokenizer(), "headless")
    message = (
        '"headless" has no language-model head, so it cannot generate or fill in words. '
        "Use a model saved with one, or task: sequence-classification."
    )
    with pytest.raises(BackboneError) as error:
        run(b, [PromptTensors()], b.pack([TokenSequence((5,), reads=(0,))]), read="logits")
    assert str(error.value) == message
