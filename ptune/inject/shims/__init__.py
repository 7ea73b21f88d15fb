"""Shims: families whose attention does not go through transformers' attention interface.

A shim is a function that stands in for a module's `forward` while prompts are injected. That of an
attention module hands queries, keys and values to ptune's attention; another one computes the same
as the module, faster. This folder is the only place in ptune that names a model family.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from ptune.inject.forwards import replace_forward
from ptune.inject.shims import bloom

# Class of the module -> its stand-in.
FORWARDS: dict[str, Callable[..., object]] = {
    "BloomAttention": bloom.forward,
    "BloomGelu": bloom.gelu,
}


def install(model: nn.Module, wrap: Callable[[Any], Any]) -> list[Callable[[], None]]:
    """Put the shims in place, each wrapped; returns what undoes it."""
    undo: list[Callable[[], None]] = []
    for module in model.modules():
        shim = FORWARDS.get(type(module).__name__)
        if shim is not None:
            undo.append(replace_forward(module, wrap(MethodType(shim, module))))
    return undo
