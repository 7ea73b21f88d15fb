r"""The mean of where a prompt was in its last steps: what is judged and kept in place of the last.

    average = Average(prompt, decay=0.99)
    average.take(step)         # after each step of the optimizer
    with average.instead():    # the prompt holds the mean; outside, its own numbers again
        ...

The gradient of a few rows is noisy, so that a prompt walks around the place that it is drawn to,
and the mean of its way is nearer to that place (Polyak and Juditsky 1992). Later steps weigh more:

    mean  <-  d mean + (1 - d) prompt,       d = min(decay, (1 + n) / (10 + n))    after n steps

so it is a mean of about the last 1 / (1 - decay) steps, and of fewer in a short run, which then
forgets its start (the lower d is that of TensorFlow's `ExponentialMovingAverage`, num_updates).

Knows a module's parameters by their names, and nothing of prompts.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The mean of a module's parameters over the steps of its training.

    Args:
        module: what is trained; the mean starts as it is.
        decay: above 0 and below 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.mean = _copied(module)

    @torch.no_grad()
    def take(self, step: int) -> None:
        """Add the parameters as they are after so many steps, the first being 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.module.named_parameters():
            self.mean[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Let the module hold the mean for the time of the context."""
        own = _copied(self.module)
        self.settle()
        try:
            yield
        finally:
            _write(self.module, own)

    def settle(self) -> None:
        """Let the module hold the mean for good."""
        _write(self.module, self.mean)

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Go on from the mean of a checkpoint."""
        for name, value in mean.items():
            self.mean[name].copy_(value)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@torch.no_grad()
def _write(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, parameter in module.named_parameters():
        parameter.copy_(values[name])
