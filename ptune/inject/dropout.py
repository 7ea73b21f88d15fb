"""The backbone's own dropout: off, unless a pass asks for it.

    dropout = Dropout(model)     # off from here on, whatever the model's owner had
    dropout.turn(True)           # on for the passes that follow, at the model's own rates
    dropout.leave()              # as it came

On means train mode, so whatever else a model draws while it is trained (left-out layers, noise in
routers) is on, too. Norms over a batch stay in eval mode: in train mode they would count along, and
change the model.
"""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class Dropout:
    """Which modules of a model were in train mode, and which can be.

    Args:
        model: is put in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._came_on = [module for module in modules if module.training]
        self._can_be_on = [module for module in modules if not isinstance(module, _NormBase)]
        self._on = False
        _set(self._came_on, False)

    def turn(self, on: bool) -> None:
        """Switch it on or off."""
        if on != self._on:
            self._on = on
            _set(self._can_be_on, on)

    def leave(self) -> None:
        """Put the modes back in which the modules came."""
        self.turn(False)
        _set(self._came_on, True)


def _set(modules: list[nn.Module], training: bool) -> None:
    for module in modules:
        module.training = training
