"""The backbone's own dropout: off, unless a pass asks for it.

    dropout = Dropout(model)     # off from here on, whatever the model's owner had
    dropout.turn(True)           # on for the passes that follow, at the model's own rates
    dropout.leave()              # as it came

On means train mode, so what else a model draws while it is trained (noise in routers) is on, too.
Not so what would change the model or its passes: norms over a batch, which count along, and modules
that families are known to change themselves by; left-out layers, of which one may be the only one
with a prompt; transformers' own gradient checkpointing, which would run layers without prompts.
"""

from functools import cached_property
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # of all norms that count along

from ptune.inject import shims

# Names of what is set aside, and what it is then.
_ASIDE = {"gradient_checkpointing": False, "layerdrop": 0.0}


class Dropout:
    """Which modules of a model were in train mode, and which can be.

    Args:
        model: is put in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._came_on = [module for module in model.modules() if module.training]
        self._on = False
        _set(self._came_on, False)

    @cached_property
    def _can_be_on(self) -> list[nn.Module]:
        return [module for module in self._model.modules() if not _changes_in_train_mode(module)]

    @cached_property
    def _aside(self) -> list[tuple[nn.Module, str, Any]]:
        """Modules that have something to set aside: its name and its value."""
        return [
            (module, name, value)
            for module in self._model.modules()
            for name in _ASIDE
            if (value := module.__dict__.get(name))
        ]

    def turn(self, on: bool) -> None:
        """Switch it on or off."""
        if on == self._on:
            return
        self._on = on
        for module, name, value in self._aside:
            module.__dict__[name] = _ASIDE[name] if on else value
        _set(self._can_be_on, on)

    def leave(self) -> None:
        """Put the modes back in which the modules came."""
        self.turn(False)
        _set(self._came_on, True)


def _changes_in_train_mode(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) or shims.changes_in_train_mode(module)


def _set(modules: list[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training
