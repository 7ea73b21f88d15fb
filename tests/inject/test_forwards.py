import shutil

import pytest
import tiny
import torch
from test_run import deep, shallow
from tiny_runs import TABLE, train
from torch._dynamo.utils import counters

from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.errors import BackboneError
from ptune.inject import forwards
from ptune.run import run

# The compiler looks at everything, and warns itself of what it looked at.
pytestmark = pytest.mark.filterwarnings("default:::torch")
LENGTHS = (5, 9, 4, 17, 30, 11)


def with_gradients(prompt):
    vectors = None if prompt.vectors is None else prompt.vectors.clone().requires_grad_()
    deep = {
        site: KeysValues(kv.keys.clone().requires_grad_(), kv.values.clone().requires_grad_())
        for site, kv in prompt.deep.items()
    }
    return PromptTensors(vectors=vectors, deep=deep)


def loss_and_gradients(backbone, prompt, length):
    prompt = with_gradients(prompt)
    ids = (-1, -2) if prompt.vectors is not None else (7, 8)
    rows = [
        TokenSequence((*ids, *range(4, 4 + length)), reads=(length,)),
        TokenSequence((*ids, 9, 8, 7), reads=(2,)),
    ]
    # (The sum of squares of normed states is a constant, and its gradient nothing but rounding.)
    loss = run(backbone, [prompt], backbone.pack(rows)).sin().sum()
    loss.backward()
    leaves = [prompt.vectors] if prompt.vectors is not None else []
    leaves += [t for kv in prompt.deep.values() for t in kv]
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


def assert_compiled_is_eager(backbone, prompt, most_graphs):
    torch._dynamo.reset()
    counters.clear()
    for length in LENGTHS:
        backbone.compiled = False
        expected = loss_and_gradients(backbone, prompt, length)
        assert counters["stats"]["unique_graphs"] <= most_graphs
        backbone.compiled = True
        for ours, theirs in zip(
            loss_and_gradients(backbone, prompt, length), expected, strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert 0 < counters["stats"]["unique_graphs"] <= most_graphs
    assert not any("forward" in m.__dict__ for m in backbone.model.modules())


def test_another_forward_is_put_in_place_and_taken_back():
    layer = torch.nn.Identity()
    undo = forwards.replace_forward(layer, lambda x: x + 1)
    again = forwards.replace_forward(layer, lambda x: x + 2)
    assert layer(1) == 3
    again()
    assert layer(1) == 2
    undo()
    assert layer(1) == 1
    assert "forward" not in layer.__dict__


def test_compiled_layers_give_the_same_losses_and_gradients_in_a_few_graphs(monkeypatch):
    monkeypatch.setattr(forwards, "BACKEND", "aot_eager")
    backbone = tiny.backbone("llama")
    # Four: before and behind the attention, of a first layer and of the others.
    assert_compiled_is_eager(backbone, shallow(backbone), most_graphs=4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [shallow, deep])
@pytest.mark.parametrize("name", ["llama", "gemma2-window-4", "gpt2", "bloom", "bert", "albert"])
def test_inductor_gives_the_same_losses_and_gradients_in_a_few_graphs(name, kind):
    backbone = tiny.backbone(name)
    assert_compiled_is_eager(backbone, kind(backbone), most_graphs=8)


def test_a_run_compiles_while_it_trains_and_no_longer(monkeypatch):
    monkeypatch.setattr(forwards, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    backbone = tiny.backbone("llama")
    short = TABLE | {"max_steps": 2, "validation_share": 0.0}
    compiled = train(backbone, short | {"compile": True, "gradient_checkpointing": True})
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    assert not backbone.compiled
    plain = train(backbone, short)
    assert counters["stats"]["unique_graphs"] == graphs
    torch.testing.assert_close(compiled.prompt.vectors, plain.prompt.vectors, rtol=1e-5, atol=1e-5)


def test_without_a_compiler_a_run_ends_in_a_sentence_and_the_backbone_is_as_before(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    backbone = tiny.backbone("llama")
    with pytest.raises(BackboneError) as error:
        train(backbone, TABLE | {"compile": True})
    assert str(error.value) == (
        "compile = true needs a C++ compiler on a CPU, and none was found. Install g++ or "
        "clang++, name yours in the environment variable CXX, or leave compile out."
    )
    assert not any(
        "forward" in m.__dict__ or "_ptune" in m.__dict__ for m in backbone.model.modules()
    )
