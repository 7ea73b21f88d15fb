"""The MLP encoder of P-tuning, and the form that the encoders with a network share.

    E --network--> (+ shift) * scale  (+ initial) = the prompt

Next: `lstm.py` has another network.
"""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.encoders.encoder import Encoder, at_least_one, checked_initial, positive_scale
from ptune.encoders.init import linear, vector_table, zero


class NetworkEncoder(Encoder):
    """`P = scale * network(E)`, or `P = initial + scale * (S + network(E))`.

    With `initial`, the trained table `S` (slots x width) and the last layer of the network are zero
    at first: it starts as the identity around `initial`, bit for bit. The network alone moves the
    prompt slowly and as a whole; `S` lets each number go its own way, with the larger step that a
    table takes. `initial` itself is not trained, so weight
    decay leads back to it. Subclasses build the network, then call `start_at`.
    """

    scale: Tensor
    initial: Tensor | None
    shift: nn.Parameter | None

    def start_at(self, initial: Tensor | None, scale: float, last: nn.Module) -> None:
        """Keep `scale` and `initial`; with `initial`, silence the last layer of the network."""
        self.register_buffer("scale", torch.tensor(positive_scale(self, "scale", scale)))
        if initial is not None:
            shape = (self.slots, self.width)
            initial = checked_initial(self, "initial", initial, shape, "slots x width")
            zero(last)
        self.shift = None if initial is None else nn.Parameter(torch.zeros_like(initial))
        self.register_buffer("initial", initial)

    def direct_parameters(self) -> list[nn.Parameter]:
        """`S`, where there is one."""
        return [] if self.shift is None else [self.shift]

    @abstractmethod
    def network(self) -> Float[Tensor, "slots width"]:
        """Compute the network's output for all slots, in units of `scale`."""

    def table(self) -> Float[Tensor, "slots width"]:
        """Compute `scale * network(E)`, or the same around `initial`."""
        if self.initial is None or self.shift is None:
            return self.scale * self.network()
        return self.initial + self.scale * (self.shift + self.network())


class MLPEncoder(NetworkEncoder):
    """Virtual tokens through one shared network: `P = W3 relu(W2 relu(W1 E + b1) + b2) + b3`.

    `E` is slots x width, `W1` width -> hidden, `W2` hidden -> hidden, `W3` hidden -> width. Trains
    `slots * width + (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * width` floats,
    keeps `slots * width`. With `initial` see `NetworkEncoder`: the first prompt is `initial`.

    Args:
        slots: number of distinct virtual tokens.
        width: of the backbone's input embeddings.
        hidden: width inside the network; by default `width`.
        initial: the vectors to start from.
        scale: unit of the network's output (see `EmbeddingEncoder`). 1 without `initial` is PEFT's
            form; the random start is then of the size that it has there.
        generator: on the CPU; source of the random start.

    Raises:
        ConfigError: an argument is out of range, or `initial` has another shape.
    Source: Liu et al. 2021, arXiv:2103.10385; the authors' code for few-shot SuperGLUE
        (PT-Fewshot, prompt encoder "mlp") has two layers; these three are PEFT's.
    """

    def __init__(
        self,
        slots: int,
        width: int,
        *,
        hidden: int | None = None,
        initial: Float[Tensor, "slots width"] | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(slots, width)
        hidden = width if hidden is None else hidden
        at_least_one(self, "hidden", hidden, "the width inside the network")
        self.embedding = vector_table(slots, width, generator)
        first, middle = linear(width, hidden, generator), linear(hidden, hidden, generator)
        last = linear(hidden, width, generator)
        self.mlp = nn.Sequential(first, nn.ReLU(), middle, nn.ReLU(), last)
        self.start_at(initial, scale, last)

    def network(self) -> Float[Tensor, "slots width"]:
        """Compute `W3 relu(W2 relu(W1 E + b1) + b2) + b3`."""
        return self.mlp(self.embedding)
