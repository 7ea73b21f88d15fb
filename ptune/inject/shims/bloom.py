"""BLOOM: fused queries, keys and values; positions as a bias on the scores (ALiBi).

    score(i, j) = q_i k_j / sqrt(d) - slope_head * (i - j)            ALiBi, arXiv:2108.12409

BLOOM itself adds `slope * j`, which is the same after the softmax. Keys of a deep prompt stand at
the places before the first token, `-length .. -1`.
"""

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ptune.inject import attention


def slopes(heads: int) -> Float[Tensor, " heads"]:
    """ALiBi's slopes: a geometric series; between powers of two, every other one of the next.

    >>> slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    whole = 2 ** math.floor(math.log2(heads))
    ratio = 2.0 ** (-8.0 / whole)
    series = [ratio ** (i + 1) for i in range(whole)]
    finer = 2.0 ** (-4.0 / whole)
    series += [finer ** (2 * i + 1) for i in range(heads - whole)]
    return torch.tensor(series)


def rising(
    slope: Float[Tensor, " heads"], place: Int[Tensor, "rows slots"]
) -> Float[Tensor, "rows heads slots"]:
    """What ALiBi adds for keys at these places: `slope * place`."""
    return slope.view(1, -1, 1) * place[:, None, :]


def forward(
    module: Any,  # BloomAttention
    hidden_states: Float[Tensor, "lines tokens hidden"],
    residual: Float[Tensor, "lines tokens hidden"],
    alibi: Tensor,
    attention_mask: Tensor | None,
    layer_past: Any = None,
    use_cache: bool = False,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Float[Tensor, "lines tokens hidden"], Tensor | None]:
    """What `BloomAttention.forward` computes, by ptune's attention."""
    lines, tokens, _ = hidden_states.shape
    query, key, value = module._reshape(module.query_key_value(hidden_states))
    if layer_past is not None:
        key, value = layer_past.update(key, value, module.layer_idx)
    slope = slopes(module.num_heads).to(query.device)
    scaling = module.inv_norm_factor
    dropout = attention.in_training(module, module.attention_dropout.p)
    if attention.is_packed(module):
        answer, weights = attention.packed(
            module, query, key, value, None, scaling=scaling, alibi_slopes=slope, dropout=dropout
        )
    else:
        if attention_mask is not None:
            bias = alibi.view(lines, module.num_heads, 1, -1).to(query.dtype)
            attention_mask = bias.masked_fill(~attention_mask, torch.finfo(query.dtype).min)
        front = partial(rising, slope)
        answer, weights = attention.by_rows(
            module, query, key, value, attention_mask, scaling=scaling, front_bias=front
        )
    states = module.dense(answer.reshape(lines, tokens, -1))
    return residual + functional.dropout(states, module.hidden_dropout, module.training), weights


def gelu(module: Any, x: Tensor) -> Tensor:
    """What `BloomGelu` computes in a dozen passes over its input, in one.

    gelu(x) = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))      arXiv:1606.08415
    """
    return functional.gelu(x, approximate="tanh")
