"""Shims: families whose attention does not go through transformers' attention interface.

A shim is a function that stands in for a module's `forward` while prompts are injected. That of an
attention module hands queries, keys and values to ptune's attention; another one computes the same
as the module, faster; that of an embedding of positions counts within each row of a pack. This
folder is the only place in ptune that names a model family.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from ptune.inject.forwards import replace_forward
from ptune.inject.shims import bart, bloom, t5

# Class of the module -> its stand-in.
FORWARDS: dict[str, Callable[..., object]] = {
    "BloomAttention": bloom.forward,
    "BloomGelu": bloom.gelu,
    "BartLearnedPositionalEmbedding": bart.positions,
    "MBartLearnedPositionalEmbedding": bart.positions,
    "PLBartLearnedPositionalEmbedding": bart.positions,
    "BlenderbotLearnedPositionalEmbedding": bart.positions,
    "BlenderbotSmallLearnedPositionalEmbedding": bart.positions,
    "PegasusSinusoidalPositionalEmbedding": bart.positions,
    "MarianSinusoidalPositionalEmbedding": bart.positions,
}
# Class of the module -> the name of another method than `forward`, and what stands in for it.
METHODS: dict[str, tuple[str, Callable[..., object]]] = dict.fromkeys(
    ("T5Attention", "MT5Attention"), ("compute_bias", t5.compute_bias)
)


def install(model: nn.Module, wrap: Callable[[Any], Any]) -> list[Callable[[], None]]:
    """Put the shims in place, each wrapped; returns what undoes it."""
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        shim = FORWARDS.get(type(module).__name__)
        if shim is not None:
            undo.append(replace_forward(module, wrap(MethodType(shim, module))))
        if type(module).__name__ in METHODS:
            undo.append(_replace_method(module, *METHODS[type(module).__name__]))
    return undo


def _replace_method(
    module: nn.Module, name: str, method: Callable[..., object]
) -> Callable[[], None]:
    module.__dict__[name] = MethodType(method, module)
    return lambda: module.__dict__.pop(name)
