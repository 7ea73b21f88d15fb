"""Where a module computes, and what its weights hold, also when accelerate keeps them elsewhere.

    device_of(model.get_input_embeddings())       # cuda:0, though the weight waits on the disk
    stored(module, "weight")                      # its numbers, read from where they wait

With a device map, accelerate hangs a hook on each module that brings its weights when it runs and
takes them away afterwards; until then they are on the device "meta", which holds no numbers.
"""

from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """The device on which a module with weights of its own computes."""
    for hook in _hooks(module):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    return next(module.parameters()).device


def stored(module: nn.Module, name: str) -> Tensor:
    """One of a module's own weights, with its numbers."""
    weight = module.get_parameter(name)
    if not weight.is_meta:
        return weight
    maps = (getattr(hook, "weights_map", None) for hook in _hooks(module))
    return next(found[name] for found in maps if found is not None and name in found)


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [] if hook is None else [hook]))
