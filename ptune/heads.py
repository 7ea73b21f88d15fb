"""Trained heads on the pooled state of a row.

    normalized   logits = W dropout(LayerNorm(s)) + b        ptune's own
    plain        logits = W dropout(s) (+ b, not trained)    what GPT-2's and Llama's classes have
    tanh, gelu   logits = W dropout(f(U s + u)) + b          BERT's, RoBERTa's; ELECTRA's

Kept with the prompt: a head is a few kilobytes (with `U`, as large as the width squared), and
without it the prompt means nothing.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

HeadForm = Literal["normalized", "plain", "tanh", "gelu"]
BENDS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": functional.gelu}


class ClassificationHead(nn.Module):
    """A map from a state to one number a label.

    By default the state is normalised first (without trained factors), so that one learning rate
    fits backbones whose states differ in size by orders of magnitude. The other forms are those of
    transformers' own classes, for prompts that come from there or go there.

    Args:
        hidden: width of the states.
        labels: how many numbers come out; 1 for regression.
        dropout: share of the state's numbers dropped in training, 0 .. 1.
        form: see above.
    """

    def __init__(
        self, hidden: int, labels: int, *, dropout: float = 0.0, form: HeadForm = "normalized"
    ) -> None:
        super().__init__()
        self.form = form
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, labels)
        # Start undecided: every label equally likely, whatever the state.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        # GPT-2's and Llama's classes have no bias: it stays zero, so that what was trained can go
        # there. (Where a class has one, an import brings it.)
        self.linear.bias.requires_grad_(form != "plain")
        if form in BENDS:
            self.dense = nn.Linear(hidden, hidden)
            # Start as the state itself, bent: no number is drawn, so replicas start alike.
            nn.init.eye_(self.dense.weight)
            nn.init.zeros_(self.dense.bias)

    def forward(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows labels"]:
        """Logits of the labels, in float32 whatever the backbone computes in."""
        with torch.autocast(states.device.type, enabled=False):
            return self.linear(self.dropout(self._seen(states.float())))

    def _seen(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        if self.form == "normalized":
            return self.norm(states)
        return states if self.form == "plain" else BENDS[self.form](self.dense(states))
