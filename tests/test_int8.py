import logging

import pytest
import tiny
import torch
from test_run import deep, shallow
from tiny_runs import ROWS, TABLE, train
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from ptune.api import Backbone
from ptune.batch import TokenSequence
from ptune.errors import BackboneError
from ptune.int8 import Int8Linear, make_int8
from ptune.run import run

ROW = TokenSequence((12, 40, 33, 17, 25), reads=(0, 1, 2, 3, 4))


def saved(folder, name):
    tiny.model(name).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("int8"), "llama")


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(6, 4).requires_grad_(False)


def test_no_number_of_the_weight_is_off_by_more_than_half_a_step(linear):
    held = Int8Linear(linear.weight, linear.bias)
    step = linear.weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((held.weight - linear.weight).abs() <= step / 2 * 1.0001).all()
    assert held.codes.dtype == torch.int8
    assert (held.codes.abs().amax(dim=1) == 127).all()


def test_a_row_of_zeros_stays_zero():
    held = Int8Linear(torch.zeros(2, 3), None)
    assert torch.equal(held(torch.ones(1, 3)), torch.zeros(1, 2))


def test_it_computes_what_a_linear_layer_with_its_weight_does_and_so_does_its_gradient(linear):
    held = Int8Linear(linear.weight, linear.bias)
    x = torch.randn(2, 3, 6, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    ours, theirs = held(x), functional.linear(other, held.weight, held.bias)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    (ours * direction).sum().backward()
    (theirs * direction).sum().backward()
    torch.testing.assert_close(x.grad, other.grad)


def test_an_outlier_does_not_overflow_in_float16_nor_does_a_small_gradient_vanish():
    torch.manual_seed(0)
    held = Int8Linear(0.01 * torch.randn(8, 64).sign() * torch.rand(8, 64), None)
    held.codes.data.abs_()  # all of one sign: they add up
    x = torch.full((2, 64), 100.0, dtype=torch.float16, requires_grad=True)
    y = held(x)
    torch.testing.assert_close(y.float(), x.detach().float() @ held.weight.T, rtol=5e-3, atol=0)
    y.backward(torch.full_like(y, 1e-4))
    expected = torch.full((2, 8), 1e-4) @ held.weight
    torch.testing.assert_close(x.grad.float(), expected, rtol=2e-2, atol=2e-7)


def test_the_codes_of_a_transposed_weight_lie_in_order_as_sharding_needs_them(linear):
    assert Int8Linear(linear.weight.T, None).codes.is_contiguous()


def test_the_graph_holds_no_float_copy_of_a_weight(linear):
    held = Int8Linear(linear.weight, linear.bias)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        held(torch.randn(2, 6, requires_grad=True))
    assert [(t.dtype, tuple(t.shape)) for t in kept] == [
        (torch.int8, (4, 6)),
        (torch.float32, (4,)),
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "bert"])
def test_an_int8_backbone_computes_nearly_what_the_whole_one_does(tmp_path, name):
    whole = Backbone.load(saved(tmp_path, name))
    held = Backbone.load(str(tmp_path), quantization="int8")
    assert (held.quantization, whole.quantization) == ("int8", None)
    for prompt in (shallow(whole), deep(whole)):
        batch = whole.pack([ROW])
        ours, theirs = run(held, [prompt], batch), run(whole, [prompt], batch)
        assert (ours - theirs).norm() < 0.05 * theirs.norm()
        assert not torch.equal(ours, theirs)
    assert not [m for m in held._layers[0].modules() if isinstance(m, nn.Linear | Conv1D)]
    assert held.dtype == torch.float32
    assert held.fingerprint == whole.fingerprint
    assert held.parameters == whole.parameters


def test_the_weights_of_the_layers_take_a_quarter_of_the_memory(tmp_path):
    config = tiny.ALL["llama"]()
    config.hidden_size, config.intermediate_size = 256, 512
    model = type(tiny.model("llama"))(config)
    before = sum(p.numel() * 4 for p in model.model.layers.parameters())
    make_int8(model.model.layers, "tiny")
    after = sum(p.numel() * p.element_size() for p in model.model.layers.parameters())
    assert after < 0.27 * before


def test_weights_loaded_in_bfloat16_compute_in_it(folder):
    half = Backbone.load(folder, quantization="int8", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half._layers[0].mlp.up_proj.scale.dtype == torch.float32
    whole = Backbone.load(folder)
    batch = whole.pack([ROW])
    ours, theirs = (run(b, [shallow(whole)], batch).float() for b in (half, whole))
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


def test_a_prompt_is_trained_on_int8_says_so_and_fits_the_whole_weights_too(folder, caplog):
    held, whole = Backbone.load(folder, quantization="int8"), Backbone.load(folder)
    result = train(held, TABLE, test=ROWS)
    reference = train(whole, TABLE, test=ROWS)
    for split, scores in reference.scores.items():
        assert result.scores[split]["loss"] == pytest.approx(scores["loss"], rel=0.1)
    assert result.prompt.settings["quantization"] == "int8"
    with caplog.at_level(logging.WARNING, logger="ptune"):
        scores = held.evaluate(ROWS, result.prompt).scores
        assert scores == pytest.approx(result.scores["test"], rel=1e-5)
        assert not caplog.records
        whole.evaluate(ROWS, result.prompt)
    assert [r.getMessage() for r in caplog.records] == [
        "The prompt was trained on int8 weights and runs on whole ones: its answers may differ."
    ]


def test_a_run_with_a_name_loads_int8_weights(folder):
    result = train(folder, TABLE | {"quantization": "int8", "max_steps": 1})
    assert result.prompt.settings["quantization"] == "int8"


def test_layers_without_linear_modules_are_refused():
    with pytest.raises(BackboneError) as error:
        make_int8([nn.LayerNorm(3)], "strange")
    assert str(error.value) == (
        "strange: its layers hold no linear modules that quantization = int8 could work on. "
        "Leave quantization out."
    )
