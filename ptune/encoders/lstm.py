"""The LSTM encoder of P-tuning: virtual tokens that depend on one another.

    E[0] E[1] E[2]  --two-way LSTM--> --MLP--> the prompt

Next: `mlp.py` is the same without the LSTM.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.encoders.encoder import at_least_one, dropout_share
from ptune.encoders.init import linear, started, vector_table
from ptune.encoders.mlp import NetworkEncoder
from ptune.errors import ConfigError


class LSTMEncoder(NetworkEncoder):
    """Virtual tokens that depend on one another: `P = MLP(BiLSTM(E))`.

    One direction of one LSTM layer, over the slots `t` in order (the other direction: reversed):

        i, f, o = sigmoid(A x[t] + a + B h[t-1] + b)      g = tanh(A x[t] + a + B h[t-1] + b)
        c[t] = f * c[t-1] + i * g                         h[t] = o * tanh(c[t])

    with its own A, a, B, b for each of i, f, g, o, and zeros before the first slot. The next layer
    reads both directions' `h`, side by side; then `MLP(x) = W2 relu(W1 x + b1) + b2`. `E` is slots
    x width, both directions together give `hidden`, `W1` is hidden -> hidden, `W2` hidden -> width.
    At width 768 the paper's template (3, 3, 3) trains 8.28 million floats and keeps 6,912.
    With `initial` see `NetworkEncoder`: the first prompt is `initial`, bit for bit.

    Args:
        slots: number of distinct virtual tokens.
        width: of the backbone's input embeddings.
        hidden: width inside the encoder, even: each direction gets half. By default `width`, as
            in the paper's LAMA code. Wide backbones: 512 is enough, and far smaller.
        layers: of the LSTM.
        dropout: share of numbers set to zero between LSTM layers while training, 0 .. 1.
        initial: the vectors to start from.
        scale: unit of the network's output (see `EmbeddingEncoder`). 1 without `initial` is the
            paper's form.
        generator: on the CPU; source of the random start.

    Raises:
        ConfigError: `hidden` is odd, an argument is out of range, or `initial` has another shape.
    Source: Liu et al. 2021, arXiv:2103.10385, prompt encoder; the authors' code for LAMA.
    """

    def __init__(
        self,
        slots: int,
        width: int,
        *,
        hidden: int | None = None,
        layers: int = 2,
        dropout: float = 0.0,
        initial: Float[Tensor, "slots width"] | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(slots, width)
        at_least_one(self, "layers", layers, "the number of LSTM layers")
        dropout_share(self, dropout)
        if dropout and layers == 1:
            raise ConfigError(
                f"LSTMEncoder: dropout = {dropout} acts between LSTM layers, and layers = 1 has no "
                "such place. Set dropout to 0, or layers to 2 or more."
            )
        both = self._even_width(hidden)
        self.embedding = vector_table(slots, width, generator)
        each = both // 2
        self.lstm = started(
            lambda: nn.LSTM(
                width, each, layers, batch_first=True, dropout=dropout, bidirectional=True
            ),
            each**-0.5,
            generator,
        )
        first, last = linear(both, both, generator), linear(both, width, generator)
        self.mlp = nn.Sequential(first, nn.ReLU(), last)
        self.start_at(initial, scale, last)

    def _even_width(self, hidden: int | None) -> int:
        both = self.width if hidden is None else hidden
        at_least_one(self, "hidden", both, "the width inside the encoder")
        if both % 2:
            said = " (by default the width of the embeddings)" if hidden is None else ""
            raise ConfigError(
                f"LSTMEncoder: hidden = {both}{said} must be even: each direction of the LSTM gets "
                f"half. Set hidden to {both + 1}, or use the mlp encoder."
            )
        return both

    def network(self) -> Float[Tensor, "slots width"]:
        """Compute `MLP(BiLSTM(E))`: all slots in one sequence."""
        # Without gradient torch takes another LSTM kernel on the CPU (oneDNN), whose last bits
        # differ: the prompt would not be the one that was trained.
        with torch.enable_grad():
            mixed, _ = self.lstm(self.embedding[None])
        return self.mlp(mixed[0])
