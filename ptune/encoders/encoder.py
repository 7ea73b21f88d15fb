"""What all prompt encoders have in common: trained parameters that compute one constant table.

    parameters --table()--> slots x width --look up--> batch x slots x width
                  ^ once a step, in slot order         ^ any order, any number of rows

The input of a prompt encoder is always the same (slots 0, 1, 2 ...), so its output is a constant
while the parameters rest. `fold` returns it, exactly: the rows of `forward` are rows of the table.

Knows no backbone, no template and no task.
Next: `embedding.py` is the simplest encoder, `prefix.py` the one for deep prompts.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ptune.errors import ConfigError


class Encoder(nn.Module, ABC):
    """`P[s]` for slots `s`, from parameters: subclasses say how in `table`.

    Args:
        slots: number of distinct virtual tokens.
        width: floats of one virtual token.

    Raises:
        ConfigError: slots or width is below 1.
    """

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        at_least_one(self, "slots", slots, "the number of virtual tokens")
        at_least_one(self, "width", width, "the width of the backbone's input embeddings")
        self.slots = slots
        self.width = width

    @abstractmethod
    def table(self) -> Float[Tensor, "slots width"]:
        """Compute the whole prompt, in slot order, as a new tensor (never a parameter itself)."""

    def direct_parameters(self) -> list[nn.Parameter]:
        """The parameters that are numbers of the prompt itself, in units of its scale.

        They take larger steps than the weights of a network: see `encoder_lr` in a recipe.
        """
        return []

    def forward(self, indices: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots width"]:
        """Return the vectors of these slots: a slot has one vector, wherever it is asked for.

        Raises:
            ConfigError: on the CPU, an index is not a slot. On a GPU the look-up itself stops the
                program, later and less kindly: asking here would make every step wait for the GPU.
        """
        try:
            return nn.functional.embedding(indices.long(), self.table())
        except IndexError as error:
            low, high = int(indices.min()), int(indices.max())
            raise ConfigError(
                f"{type(self).__name__}: the indices run from {low} to {high}, but this prompt has "
                f"the slots 0 .. {self.slots - 1}. Give each virtual token the number of its slot."
            ) from error


def fold(encoder: Encoder) -> Float[Tensor, "slots width"]:
    """Return the constant that the encoder computes: bit for bit its rows in evaluation mode.

    Without gradient and without dropout; the mode of each submodule is as before afterwards.

    >>> from ptune.encoders import MLPEncoder
    >>> encoder = MLPEncoder(3, 8)
    >>> torch.equal(fold(encoder)[[2, 0]], encoder.eval()(torch.tensor([[2, 0]]))[0])
    True
    """
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.no_grad():
            return encoder.table()
    finally:
        for module, training in modes:
            module.training = training


def at_least_one(encoder: nn.Module, name: str, value: int, meaning: str) -> None:
    """Raise ConfigError where `value` is below 1."""
    if value < 1:
        raise ConfigError(
            f"{type(encoder).__name__}: {name} = {value} must be at least 1: it is {meaning}."
        )


def dropout_share(encoder: nn.Module, value: float) -> float:
    """Return `value`; raise ConfigError where it is no share of numbers that can be dropped."""
    if not 0 <= value < 1:
        raise ConfigError(
            f"{type(encoder).__name__}: dropout = {value} must be at least 0 and below 1: "
            "it is the share of numbers set to zero while training."
        )
    return value


def positive_scale(encoder: nn.Module, name: str, value: float) -> float:
    """Return `value`; raise ConfigError where nothing can be measured in units of it."""
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(
            f"{type(encoder).__name__}: {name} = {value} must be a positive number: it is the unit "
            "of the parameters. Good is the standard deviation of what the backbone has there."
        )
    return value


def checked_initial(
    encoder: nn.Module, name: str, initial: Tensor, shape: tuple[int, ...], axes: str
) -> Tensor:
    """Return `initial` as a tensor of one's own on the CPU, in the dtype of new parameters.

    Raises:
        ConfigError: its shape is not `shape` (whose axes are called `axes`), or it holds a number
            that is not finite.
    """
    if initial.shape != shape:
        raise ConfigError(
            f"{type(encoder).__name__}: {name} has the shape {_by(tuple(initial.shape))}, "
            f"but {axes} are {_by(shape)} here. Make it for this prompt and this backbone."
        )
    if not initial.isfinite().all():
        raise ConfigError(
            f"{type(encoder).__name__}: {name} holds a number that is not finite (NaN or "
            "infinity). Look where it comes from: training cannot start there."
        )
    return initial.detach().to("cpu", torch.get_default_dtype(), copy=True)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
