"""Deep prompts by a model's own attention, beside what is known of its code."""

import sys
from pathlib import Path

import pytest
import tiny
import torch

from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.doctor import examine, truths
from ptune.doctor.stand_ins import by_stand_ins
from ptune.encoders import KeysValues
from ptune.inject import call
from ptune.inject.shims import deberta, mpnet

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "inject"))
from families import make
from oracles.stand_ins import StandIns
from test_shims import ROW, deep
from test_shims import parts as of

FAMILIES = ["deberta-v2", "deberta-v3", "mpnet"]


def load(name):
    return Backbone.load(make(name), tokenizer=tiny.tokenizer())


def by_hand(b, name, prompt):
    """As the tests of the shims compute it, from the names in the model's code."""
    parts = ("k", "v") if name == "mpnet" else ("key_proj", "value_proj")
    bias = "compute_position_bias" if name == "mpnet" else "disentangled_attention_bias"
    return StandIns(*of(b, prompt), parts, bias).states(ROW)


@pytest.mark.parametrize("name", FAMILIES)
def test_states_are_those_that_are_computed_from_the_models_code(name):
    b = load(name)
    if name == "deberta-v2":  # by hand, tokens behind the row would reach it by the convolution
        b.body.encoder.conv = None
    prompt = deep(b)
    found = by_stand_ins(b, TokenSequence(ROW), prompt.deep)
    torch.testing.assert_close(found, by_hand(b, name, prompt), rtol=1e-5, atol=1e-5)
    assert not any("forward" in module.__dict__ for module in b.model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_counts(name):
    b = load(name)
    prompt = deep(b)
    turned = {site: KeysValues(kv.keys.flip(0), kv.values) for site, kv in prompt.deep.items()}
    found, other = (by_stand_ins(b, TokenSequence(ROW), one) for one in (prompt.deep, turned))
    assert not torch.allclose(found, other, atol=1e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sound_model_holds_and_keys_beside_their_values_break_it(monkeypatch, name):
    b = load(name)
    sound = examine(b, chosen=[truths.deep]).findings[0]
    assert sound.outcome == "holds"
    assert sound.note == "as tokens behind the row, of whose scores contents alone are kept"
    own, turned = call._ending_in_zeros, iter(range(10**6))
    monkeypatch.setattr(
        call,
        "_ending_in_zeros",
        lambda tables: own([one.flip(0) for one in tables]) if next(turned) % 2 else own(tables),
    )
    assert examine(b, chosen=[truths.deep]).broken


@pytest.mark.parametrize(
    ("name", "module", "shim"),
    [("deberta-v3", deberta, "_positions"), ("mpnet", mpnet, "_bias")],
)
def test_a_distance_given_to_a_prompt_breaks_it(monkeypatch, name, module, shim):
    b, own = load(name), getattr(module, shim)

    def with_distance(*args):
        bias = own(*args).clone()
        bias[..., : args[-1].slots] += 0.5
        return bias

    monkeypatch.setattr(module, shim, with_distance)
    assert examine(b, chosen=[truths.deep]).broken


@pytest.mark.parametrize("name", ["deberta", "bert", "llama"])
def test_where_it_cannot_be_had_it_says_nothing(name):
    """One product for queries, keys and values; a fused kernel; a causal model."""
    b = load(name)
    before = {key: weight.clone() for key, weight in b.model.named_parameters()}
    assert by_stand_ins(b, TokenSequence(ROW), deep(b).deep) is None
    assert all(torch.equal(weight, before[key]) for key, weight in b.model.named_parameters())
    assert not any("forward" in module.__dict__ for module in b.model.modules())


def test_a_model_whose_rows_see_what_nobody_attends_to_is_not_examined():
    b = load("mpnet")
    norm = b.body.encoder.layer[0].attention.LayerNorm
    norm.register_forward_hook(lambda module, args, made: made + made.mean(dim=1, keepdim=True))
    assert by_stand_ins(b, TokenSequence(ROW), deep(b).deep) is None
