"""Another `forward` for a module, and back: shims, gradient checkpointing and torch.compile use it.

    undo = replace_forward(layer, compiled(layer))
    ...
    undo()                       # the layer runs what it ran before, accelerate's hooks included

Compilation stops at ptune's attention: it follows Python objects (the batch, the prompts) that
change from step to step. What lies between two attentions is compiled, for any number of tokens.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ptune.errors import BackboneError

# Tests that look at results, not at speed, put "aot_eager" here.
BACKEND = "inductor"

Forward = Callable[..., Any]


def replace_forward(module: nn.Module, forward: Forward) -> Callable[[], None]:
    """Let a module run another forward; returns what undoes it."""
    # accelerate's hooks are such a forward
    return replace_method(module, "forward", forward)


def replace_method(module: nn.Module, name: str, function: Forward) -> Callable[[], None]:
    """Let a module run another method of that name; returns what undoes it."""
    own = module.__dict__.get(name)
    module.__dict__[name] = function
    return partial(_put_back, module, name, own)


def _put_back(module: nn.Module, name: str, own: Forward | None) -> None:
    if own is None:
        module.__dict__.pop(name, None)
    else:
        module.__dict__[name] = own


def compiled(layer: nn.Module) -> Forward:
    """The layer's forward, compiled once for all lengths."""
    return torch.compile(layer.forward, dynamic=True, backend=BACKEND)


def opaque(function: Forward) -> Forward:
    """The function as the compiler is to take it: as it is."""
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call]


def check_compiler(device: torch.device) -> None:
    """Refuse where nothing could be compiled, before the first step and in one sentence.

    Raises:
        BackboneError: on a CPU without a C++ compiler.
    """
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl")
    if BACKEND == "inductor" and device.type == "cpu" and not any(map(shutil.which, names)):
        raise BackboneError(
            "compile = true needs a C++ compiler on a CPU, and none was found. Install g++ or "
            "clang++, name yours in the environment variable CXX, or leave compile out."
        )
