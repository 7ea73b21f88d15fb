"""NLLB's experts: transformers takes the tokens that a mask shows for padding, and routes none.

Its router reads a mask of attention as one of padding, so it drops every second expert, or all,
where a mask is given. Without one it routes every token; those of padding change no other row, as
an expert has room for all tokens of a batch (`moe_eval_capacity_token_fraction` of 1).
"""

from typing import Any

from torch import Tensor


def forward(module: Any, hidden_states: Tensor, padding_mask: Any = None) -> Any:
    """What the router gives for tokens that are all real."""
    return type(module).forward(module, hidden_states)
