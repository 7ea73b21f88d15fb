"""torch.compile on many families: compiled layers give the losses and gradients of plain ones.

Slow: run by `make test-slow`. `test_forwards.py` holds the same of a few families in seconds.
"""

import sys
from pathlib import Path

import pytest
import tiny
import torch
from torch._dynamo.utils import counters

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.inject import forwards
from ptune.run import run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from families import make

pytestmark = [
    pytest.mark.slow,
    # The compiler looks at everything, and warns itself of what it looked at.
    pytest.mark.filterwarnings("default"),
]
LENGTHS = (5, 9, 17, 30)
# One of each kind of attention, embedding and shim.
FAMILIES = (
    "bert", "roberta", "deberta-v3", "llama", "qwen2", "gemma2 (window)", "gpt_neox", "bloom",
    "falcon (rotary, multi-query)", "t5",
)  # fmt: skip


def prompt_of(b, seed=3):
    """Virtual tokens, and keys and values at every site, all with gradients."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    shapes = [site.shape for site in b.geometry.sites]
    deep = {
        site: KeysValues(drawn(2, s.kv_heads, s.key_dim), drawn(2, s.kv_heads, s.value_dim))
        for site, s in enumerate(shapes)
    }
    return PromptTensors(vectors=drawn(2, b.geometry.width), deep=deep)


def row(b, ids):
    if not b.geometry.two_sided:
        return TokenSequence(ids, reads=(len(ids) - 1,))
    said = (b.decoder_start, *ids[::-1])
    return TokenSequence(ids, decoder=TokenSequence(said, reads=(len(said) - 1,)))


def loss_and_gradients(b, length):
    prompt = prompt_of(b)
    rows = [row(b, (-1, -2, *range(4, 4 + length))), row(b, (-1, -2, 9, 8, 7))]
    # (The sum of squares of normed states is a constant, and its gradient nothing but rounding.)
    loss = run(b, [prompt], b.pack(rows)).sin().sum()
    leaves = [prompt.vectors, *(t for kv in prompt.deep.values() for t in kv)]
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_layers_give_the_losses_and_gradients_of_plain_ones(name, backend, monkeypatch):
    monkeypatch.setattr(forwards, "BACKEND", backend)
    b = Backbone.load(make(name), tokenizer=tiny.tokenizer())
    torch._dynamo.reset()
    counters.clear()
    for length in LENGTHS:
        b.compiled = False
        expected = loss_and_gradients(b, length)
        b.compiled = True
        found = loss_and_gradients(b, length)
        for ours, theirs in zip(found, expected, strict=True):
            scale = float(theirs.abs().max().clamp(min=1e-6))
            torch.testing.assert_close(ours / scale, theirs / scale, rtol=1e-4, atol=1e-4)
    assert bool(counters["stats"]["unique_graphs"]) == bool(b.geometry.sites)
