"""Encoder-decoders: packed, with prompts on both sides and at three kinds of attention."""

import copy
import dataclasses
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from oracles.naive_two_sided import KINDS, decoder_states
from tiny import ENCODER_DECODERS, backbone

from ptune.batch import Branch, PromptTensors, TokenSequence, pack
from ptune.encoders import KeysValues
from ptune.errors import BackboneError
from ptune.generation import generate
from ptune.run import keys_values_of, run

ROW = (12, 40, 33, 17, 25, 61, 8, 90, 54, 71, 66, 35, 44)
SHORT = (12, 77, 5)
SAID = (21, 9, 50, 11)
MANY = ["t5", "t5-gated", "bart"]


@pytest.fixture(scope="module", params=ENCODER_DECODERS)
def any_backbone(request):
    return backbone(request.param)


@pytest.fixture(scope="module", params=MANY)
def some_backbone(request):
    return backbone(request.param)


def shallow(backbone, slots=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    size = backbone.embedding_scale
    return PromptTensors(
        vectors=size * torch.randn(slots, backbone.geometry.width, generator=generator)
    )


def deep(backbone, slots=3, seed=2, kinds=KINDS):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for at, site in enumerate(backbone.geometry.sites):
        if site.kind in kinds:
            heads, keys, values = site.shape
            made[at] = KeysValues(
                torch.randn(slots, heads, keys, generator=generator),
                torch.randn(slots, heads, values, generator=generator),
            )
    return PromptTensors(deep=made)


def by_kind(backbone, prompt):
    """The prompt's keys and values as the oracle takes them."""
    found = {kind: [] for kind in KINDS}
    for at, site in enumerate(backbone.geometry.sites):
        found[site.kind].append(prompt.deep.get(at))
    return found


def sequence(backbone, ids, said, prompt=0, reads=None, **more):
    decoded = (backbone.decoder_start, *said)
    reads = tuple(range(len(decoded))) if reads is None else reads
    return TokenSequence(
        tuple(ids), prompt, decoder=TokenSequence(decoded, prompt, reads=reads, **more)
    )


def states(backbone, ids, said, prompt=None):
    batch = backbone.pack([sequence(backbone, ids, said)])
    return run(backbone, [prompt or PromptTensors()], batch)


def equal(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def mixed(b):
    """Five prompts and a row of each; prompts on either side, at some sites, at all, at none."""
    prompts = [shallow(b), deep(b), deep(b, 1, seed=5, kinds=("cross",)), PromptTensors()]
    prompts.append(PromptTensors(vectors=shallow(b, seed=9).vectors, deep=deep(b, 2).deep))
    rows = [
        sequence(b, (-1, -2, *ROW), (-3, *SAID), prompt=0),
        sequence(b, ROW, SAID[:1], prompt=1),
        sequence(b, SHORT, SAID, prompt=2, reads=(1, 4)),
        sequence(b, (*ROW, *SHORT), (), prompt=3),
        sequence(b, (*SHORT, -1, 9), (-2, 7), prompt=4),
    ]
    return prompts, rows


# ------------------------------------------------------------------------------- what is computed


def test_the_probe_finds_the_three_kinds_of_sites_in_the_order_of_a_pass(any_backbone):
    g = any_backbone.geometry
    config = any_backbone.model.config
    layers = config.num_hidden_layers
    below = len(any_backbone.model.get_decoder().state_dict()) and sum(
        site.kind == "decoder" for site in g.sites
    )
    assert [site.kind for site in g.sites] == ["encoder"] * layers + ["decoder", "cross"] * below
    assert [site.causal for site in g.sites] == [site.kind == "decoder" for site in g.sites]
    assert g.two_sided
    assert not g.causal
    assert not g.padded


def test_without_a_prompt_the_states_and_words_are_the_models_own(any_backbone):
    b = any_backbone
    decoded = torch.tensor([[b.decoder_start, *SAID]])
    with torch.no_grad():
        native = b.model(input_ids=torch.tensor([ROW]), decoder_input_ids=decoded).logits[0]
    batch = b.pack([sequence(b, ROW, SAID)])
    words = run(b, [PromptTensors()], batch, read="words")
    equal(words.logits(), native)
    some = [5, 40, 6]
    got, whole = words.logits_of(range(5), some), native[:, some]
    equal(got - got[:, :1], whole - whole[:, :1])
    equal(
        run(b, [PromptTensors()], batch, read="states"),
        decoder_states(b.model, ROW, (decoded[0].tolist())),
    )


@pytest.mark.parametrize("kinds", [KINDS, *((kind,) for kind in KINDS)], ids="+".join)
def test_a_deep_prompt_is_as_naively_concatenated_keys_and_values(any_backbone, kinds):
    b = any_backbone
    prompt = deep(b, kinds=kinds)
    expected = decoder_states(b.model, ROW, (b.decoder_start, *SAID), by_kind(b, prompt))
    equal(states(b, ROW, SAID, prompt), expected)
    assert not torch.allclose(expected, states(b, ROW, SAID), atol=1e-3)


def test_virtual_tokens_are_as_embeddings_in_their_place_on_either_side(any_backbone):
    b = any_backbone
    prompt = shallow(b)
    ids, said = (ROW[0], -1, *ROW[1:], -3), (-2, *SAID, -1)
    expected = decoder_states(b.model, ids, (b.decoder_start, *said), vectors=prompt.vectors)
    equal(states(b, ids, said, prompt), expected)


def test_a_row_in_any_batch_is_the_row_alone(any_backbone):
    b = any_backbone
    prompts, rows = mixed(b)
    alone = [run(b, [prompts[row.prompt]], b.pack([row.of(0)])) for row in rows]
    for batch, expected in [
        (b.pack(rows), alone),
        (b.pack(rows[::-1]), alone[::-1]),
        (pack(rows, share=False, padded=True), alone),
    ]:
        equal(run(b, prompts, batch), torch.cat(expected))


def test_branches_of_a_decoder_see_their_row_and_not_each_other(some_backbone):
    b = some_backbone
    prompt = PromptTensors(vectors=shallow(b).vectors, deep=deep(b).deep)
    branches = (Branch((7, 21), (0, 1)), Branch((7,), (0,)), Branch((31, 30, 29), (2,)))
    rows = [
        sequence(b, ids, (-1, 50), reads=(2,), branches=branches) for ids in (ROW, (-2, *SHORT))
    ]
    separate = [
        part
        for row in rows
        for part in (
            states(b, row.ids, (-1, 50), prompt)[2:],
            *(
                states(b, row.ids, (-1, 50, *br.ids), prompt)[[3 + at for at in br.reads]]
                for br in branches
            ),
        )
    ]
    for padded in (False, True):
        got = run(b, [prompt], pack(rows, share=False, padded=padded))
        equal(got, torch.cat(separate))


def test_an_encoder_side_is_computed_once_however_many_branches_there_are(some_backbone):
    b = some_backbone
    branches = tuple(Branch((7 + at,), (0,)) for at in range(5))
    row = sequence(b, ROW, SAID, branches=branches)
    batch = b.pack([row, row])
    assert batch.ids.numel() == 2 * len(ROW)
    assert batch.decoder.ids.numel() == 2 * (1 + len(SAID) + 5)


# ------------------------------------------------------------------------------- gradients, bits


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_number_and_agree_with_single_rows(some_backbone, checkpointing):
    b = some_backbone
    vectors = shallow(b).vectors.requires_grad_()
    keys_values = deep(b, 2).deep
    for kv in keys_values.values():
        kv.keys.requires_grad_(), kv.values.requires_grad_()
    leaves = [vectors, *(t for kv in keys_values.values() for t in kv)]
    rows = [
        sequence(b, (-1, *ROW), (-2, -3, *SAID)),
        sequence(b, (-1, -2, *SHORT), (-3, *SAID[:2])),
    ]
    prompt = PromptTensors(vectors=vectors, deep=keys_values)
    b.gradient_checkpointing = checkpointing
    try:
        together = torch.autograd.grad(run(b, [prompt], b.pack(rows)).sin().sum(), leaves)
    finally:
        b.gradient_checkpointing = False
    alone = [
        torch.autograd.grad(run(b, [prompt], b.pack([row])).sin().sum(), leaves) for row in rows
    ]
    for got, first, second in zip(together, *alone, strict=True):
        torch.testing.assert_close(got, first + second, rtol=1e-3, atol=1e-5)
        assert (got != 0).float().mean() > 0.9


def test_the_backbone_is_bit_for_bit_as_before(any_backbone):
    b = any_backbone
    before = copy.deepcopy(b.model.state_dict())
    config = b.model.config.to_dict()
    prompts, rows = mixed(b)
    run(b, prompts, b.pack(rows), read="words").logits()
    generate(b, prompts, rows, max_new_tokens=2)
    assert all(torch.equal(v, before[k]) for k, v in b.model.state_dict().items())
    assert b.model.config.to_dict() == config
    for module in b.model.modules():
        assert not {"_ptune", "forward", "compute_bias"} & module.__dict__.keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


# ------------------------------------------------------------------------------- generation


def next_log_probabilities(b, prompts, row, said):
    """Step by step: one whole pass of the row and of what was said so far."""
    decoder = row.decoder
    ids = (*decoder.ids, *said)
    whole = dataclasses.replace(
        row, decoder=dataclasses.replace(decoder, ids=ids, reads=(len(ids) - 1,))
    )
    return run(b, prompts, b.pack([whole]), read="logits")[0].log_softmax(-1)


def greedy(b, prompts, row, most):
    said = []
    for _ in range(most):
        step = int(next_log_probabilities(b, prompts, row, said).argmax())
        if step == b.tokenizer.eos_token_id:
            break
        said.append(step)
    return said


def beam_search(step_by_step, end, most, beams, penalty):
    """Beam search by the book: finished texts are kept by log-probability / length^penalty."""
    open_, done = [((), 0.0)], []
    for step in range(1, most + 1):
        grown = []
        for said, score in open_:
            each = step_by_step(said)
            grown += [((*said, t), score + float(each[t])) for t in range(len(each))]
        grown.sort(key=lambda one: -one[1])
        best = grown[: 2 * beams]
        done += [(s[:-1], p / step**penalty) for s, p in best[:beams] if s[-1] == end]
        open_ = [one for one in best if one[0][-1] != end][:beams]
    done += [(s, p / most**penalty) for s, p in open_]
    return list(max(done, key=lambda one: one[1])[0])


def test_generate_is_the_step_by_step_forward_for_mixed_prompts(any_backbone):
    b = any_backbone
    prompts, rows = mixed(b)
    rows = [row for row in rows if row.decoder.ids[1:]]
    assert generate(b, prompts, rows, max_new_tokens=5) == [
        greedy(b, prompts, row, 5) for row in rows
    ]


def test_three_beams_are_a_beam_search_over_the_step_by_step_forward(some_backbone, monkeypatch):
    """The end is a likely token, so that texts of several lengths compete."""
    b = some_backbone
    prompts, rows = mixed(b)
    rows = rows[:3]
    likely = next_log_probabilities(b, prompts, rows[2], []).topk(3).indices
    ends = SimpleNamespace(eos_token_id=int(likely[2]), pad_token_id=0)
    monkeypatch.setattr(b, "tokenizer", ends)
    each = [cache(partial(next_log_probabilities, b, prompts, row)) for row in rows]
    for penalty in (0.0, 1.0):
        got = generate(b, prompts, rows, max_new_tokens=3, beams=3, length_penalty=penalty)
        assert got == [beam_search(row, ends.eos_token_id, 3, 3, penalty) for row in each]


def test_a_penalty_for_length_decides_between_a_short_text_and_a_long_one(monkeypatch):
    b = backbone("bart")
    prompts, rows = mixed(b)
    likely = next_log_probabilities(b, prompts, rows[0], []).topk(3).indices
    ends = SimpleNamespace(eos_token_id=int(likely[2]), pad_token_id=0)
    monkeypatch.setattr(b, "tokenizer", ends)
    short, long = (
        generate(b, prompts, rows[:1], max_new_tokens=3, beams=3, length_penalty=penalty)[0]
        for penalty in (0.0, 1.0)
    )
    assert len(short) < len(long)


# ------------------------------------------------------------------------------- starts, refusals


def test_a_deep_prompt_may_start_from_what_both_sides_make_of_a_text(some_backbone):
    b = some_backbone
    made = keys_values_of(b, SHORT)
    assert made.offset == 0
    assert {kv.keys.shape for kv in made.deep.values()} == {(3, *b.geometry.sites[0].shape[:2])}
    # The cross-attention's keys are those of the encoder's last states.
    with torch.no_grad():
        last = b.model.get_encoder()(input_ids=torch.tensor([SHORT])).last_hidden_state[0]
    for at, site in enumerate(b.geometry.sites):
        if site.kind == "cross":
            module = b.body.get_submodule(site.name)
            project = module.k if hasattr(module, "k") else module.k_proj
            equal(made.deep[at].keys.flatten(1), project(last))


def test_a_model_whose_decoder_start_is_nowhere_said_is_refused():
    b = backbone("t5")
    for config in (b.model.config, b.model.generation_config):
        config.decoder_start_token_id = None
        config.bos_token_id = None
    with pytest.raises(BackboneError, match="does not say what its decoder starts with"):
        _ = b.decoder_start


def test_sides_that_are_given_to_some_rows_only_are_refused(some_backbone):
    row = sequence(some_backbone, ROW, SAID)
    with pytest.raises(ValueError, match="all have"):
        pack([row, TokenSequence(ROW, reads=(0,))], share=False)
