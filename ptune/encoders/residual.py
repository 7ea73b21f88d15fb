"""The residual encoder: free vectors, plus a small shared network on top of them.

    W --+--> down, relu, up, layer norm --+--> * scale = the prompt
        \\--------------------------------/

Next: `embedding.py` is the same without the network.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.encoders.embedding import EmbeddingEncoder
from ptune.encoders.encoder import at_least_one
from ptune.encoders.init import linear, zero


class ResidualEncoder(EmbeddingEncoder):
    """Residual prompt tuning: `P = scale * (W + LayerNorm(U relu(D W + d) + u))`.

    `W` is slots x width, `D` width -> bottleneck, `U` bottleneck -> width;
    `LayerNorm(x) = g * (x - mean(x)) / sqrt(var(x) + 1e-5) + b`. Trains `slots * width +
    (width + 1) * bottleneck + (bottleneck + 1) * width + 2 * width` floats, keeps `slots * width`.
    With `initial`, `W` starts there and `g` and `b` at zero: the first prompt is `initial` to float
    rounding (bit for bit where `scale` is a power of two). Zeros in `U` would do as well, but where
    all inputs are equal the slope of a layer norm is 1 / sqrt(1e-5) = 316. Without `initial`, `g`
    is 1 and the start is the paper's.

    Args:
        slots: number of distinct virtual tokens.
        width: of the backbone's input embeddings.
        bottleneck: width inside the network; the authors' code has 800.
        initial: the vectors to start from.
        scale: unit of the whole output (see `EmbeddingEncoder`). 1 is the paper's form.
        generator: on the CPU; source of the random start.

    Raises:
        ConfigError: an argument is out of range, or `initial` has another shape.
    Source: Razdaibiedina et al. 2023, arXiv:2305.03937 (one network for all slots).
    """

    def __init__(
        self,
        slots: int,
        width: int,
        *,
        bottleneck: int = 128,
        initial: Float[Tensor, "slots width"] | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(slots, width, initial=initial, scale=scale, generator=generator)
        at_least_one(self, "bottleneck", bottleneck, "the width inside the network")
        down, up = linear(width, bottleneck, generator), linear(bottleneck, width, generator)
        norm = nn.LayerNorm(width)
        if initial is not None:
            zero(norm)
        self.network = nn.Sequential(down, nn.ReLU(), up, norm)

    def table(self) -> Float[Tensor, "slots width"]:
        """Compute `scale * (W + network(W))`."""
        return self.scale * (self.weight + self.network(self.weight))
