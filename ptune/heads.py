"""Trained heads on the pooled state of a row.

    logits = W dropout(LayerNorm(state)) + b

Kept with the prompt: a head is a few kilobytes, and without it the prompt means nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """A linear map from a state to one number a label.

    The state is normalised first (without trained factors), so that one learning rate fits
    backbones whose states differ in size by orders of magnitude.

    Args:
        hidden: width of the states.
        labels: how many numbers come out; 1 for regression.
        dropout: share of the state's numbers dropped in training, 0 .. 1.
    """

    def __init__(self, hidden: int, labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, labels)
        # Start undecided: every label equally likely, whatever the state.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows labels"]:
        """Logits of the labels, in float32 whatever the backbone computes in."""
        with torch.autocast(states.device.type, enabled=False):
            return self.linear(self.dropout(self.norm(states.float())))
