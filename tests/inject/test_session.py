"""What counts as a layer: what is checkpointed, compiled and made int8 as a whole."""

import pytest
import tiny
import torch

from ptune.batch import PromptTensors, TokenSequence
from ptune.inject import layers
from ptune.int8 import Int8Linear, make_int8
from ptune.run import run


def names(b):
    whole = {id(module): name for name, module in b.model.named_modules()}
    return [whole[id(layer)] for layer in layers(b.model, b._sites)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", [f"model.layers.{n}" for n in range(3)]),
        ("albert", ["albert.encoder.albert_layer_groups.0.albert_layers.0"]),
        ("t5", [*(f"encoder.block.{n}" for n in range(3)), "decoder.block.0", "decoder.block.1"]),
        (
            "bart",
            [f"model.encoder.layers.{n}" for n in range(2)]
            + [f"model.decoder.layers.{n}" for n in range(3)],
        ),
    ],
)
def test_a_layer_is_the_block_that_attends_and_feeds_forward(name, expected):
    assert names(tiny.backbone(name)) == expected


def row(b):
    start = b.decoder_start
    return TokenSequence(
        (-1, 12, 40, 33), decoder=TokenSequence((start, -2, 21, 9), reads=(0, 1, 2, 3))
    )


def prompt(b):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, b.geometry.width, generator=generator).requires_grad_()


def test_checkpointing_computes_the_feed_forward_part_of_t5_again():
    b = tiny.backbone("t5")
    calls = []
    for name, module in b.model.named_modules():
        if name.endswith("DenseReluDense"):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    parts = 3 + 2
    for checkpointing, times in ((False, 1), (True, 2)):
        calls.clear()
        b.gradient_checkpointing = checkpointing
        vectors = prompt(b)
        run(b, [PromptTensors(vectors=vectors)], b.pack([row(b)])).sin().sum().backward()
        assert len(calls) == times * parts


def test_int8_reaches_every_linear_module_of_t5s_blocks():
    b = tiny.backbone("t5")
    vectors = prompt(b).detach()
    before = run(b, [PromptTensors(vectors=vectors)], b.pack([row(b)]))
    make_int8(layers(b.model, b._sites), "t5")
    kinds = {type(m) for n, m in b.model.named_modules() if ".block." in n and hasattr(m, "weight")}
    assert torch.nn.Linear not in kinds
    assert Int8Linear in kinds
    after = run(b, [PromptTensors(vectors=vectors)], b.pack([row(b)]))
    assert 0 < float((after - before).norm() / before.norm()) < 0.05
