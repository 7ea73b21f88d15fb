"""The embedding encoder: no network, the vectors themselves are trained (prompt tuning).

    weight * scale = the prompt

Next: `mlp.py` and `lstm.py` put a network between the two.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.encoders.encoder import Encoder, checked_initial, positive_scale
from ptune.encoders.init import vector_table


class EmbeddingEncoder(Encoder):
    """Free vectors: `P = scale * W`.

    Trains `slots * width` floats and keeps as many. Starts at `initial` to float rounding (bit for
    bit where `scale` is a power of two), or at `scale * N(0, 1)` without it.

    Args:
        slots: number of distinct virtual tokens.
        width: of the backbone's input embeddings.
        initial: the vectors to start from.
        scale: unit of `W`. Adam moves each number by about its learning rate, however large the
            number is; in units of the spread of the backbone's embeddings one rate fits every
            backbone. 1 is the paper's form.
        generator: on the CPU; source of the random start.

    Raises:
        ConfigError: an argument is out of range, or `initial` has another shape.
    Source: Lester et al. 2021, arXiv:2104.08691.

    >>> EmbeddingEncoder(2, 4, initial=torch.ones(2, 4), scale=0.25).weight[0].tolist()
    [4.0, 4.0, 4.0, 4.0]
    """

    def __init__(
        self,
        slots: int,
        width: int,
        *,
        initial: Float[Tensor, "slots width"] | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(slots, width)
        unit = torch.tensor(positive_scale(self, "scale", scale))
        self.register_buffer("scale", unit)
        self.scale: Tensor
        if initial is None:
            self.weight = vector_table(slots, width, generator)
        else:
            start = checked_initial(self, "initial", initial, (slots, width), "slots x width")
            self.weight = nn.Parameter(start / unit)

    def direct_parameters(self) -> list[nn.Parameter]:
        """`W`."""
        return [self.weight]

    def table(self) -> Float[Tensor, "slots width"]:
        """Compute `scale * W`."""
        return self.scale * self.weight
