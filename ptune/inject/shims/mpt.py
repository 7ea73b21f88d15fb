"""MPT: fused queries, keys and values; positions as a bias on the scores (ALiBi), with slopes of
its own.

    score(i, j) = q_i k_j * scale - slope_head * (i - j)              ALiBi, arXiv:2108.12409

Where heads are no power of two, MPT takes the series of the next power and drops every other one
first: 2, 4, 6, ..., then 1, 3, 5, ...
"""

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ptune.inject import attention
from ptune.inject.shims.bloom import rising

# `alibi_bias_max` of the published models; transformers builds its bias with no other one.
STEEPEST = 8


def slopes(heads: int) -> Float[Tensor, " heads"]:
    """MPT's slopes.

    >>> slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    >>> [round(slope, 4) for slope in slopes(3).tolist()]
    [0.0625, 0.0039, 0.25]
    """
    whole = 2 ** math.ceil(math.log2(heads))
    series = [2.0 ** (-STEEPEST * (i + 1) / whole) for i in range(whole)]
    if whole != heads:
        series = (series[1::2] + series[::2])[:heads]
    return torch.tensor(series)


def forward(
    module: Any,  # MptAttention
    hidden_states: Float[Tensor, "lines tokens hidden"],
    position_bias: Tensor,
    past_key_values: Any = None,
    attention_mask: Tensor | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "lines tokens hidden"], Tensor | None]:
    """What `MptAttention.forward` computes, by ptune's attention."""
    lines, tokens, _ = hidden_states.shape
    fused = module.Wqkv(hidden_states)
    if module.clip_qkv:
        fused = fused.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    heads = fused.view(lines, tokens, 3, module.n_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = heads[0], heads[1], heads[2]
    kept = cache if past_key_values is None else past_key_values  # before transformers 5.24
    if kept is not None:
        key, value = kept.update(key, value, module.layer_idx)
    slope = slopes(module.n_heads).to(query.device)
    scaling = module.softmax_scale
    dropout = attention.in_training(module, module.attn_dropout_p)
    if attention.is_packed(module):
        answer, weights = attention.packed(
            module, query, key, value, None, scaling=scaling, alibi_slopes=slope, dropout=dropout
        )
    else:
        if attention_mask is not None:
            attention_mask = _biased(attention_mask, slope, query.dtype)
        front = partial(rising, slope)
        answer, weights = attention.by_rows(
            module, query, key, value, attention_mask, scaling=scaling, front_bias=front
        )
    return module.out_proj(answer.reshape(lines, tokens, -1)), weights


def _biased(
    seen: Bool[Tensor, "rows 1 tokens keys"], slope: Float[Tensor, " heads"], dtype: torch.dtype
) -> Float[Tensor, "rows heads tokens keys"]:
    """The mask with the bias in it, whose zero is the first key that a row sees (not its pads)."""
    first = seen[:, 0, -1].long().argmax(dim=-1, keepdim=True)
    place = torch.arange(seen.shape[-1], device=seen.device) - first
    bias = rising(slope, place)[:, :, None, :].to(dtype)
    return torch.where(seen, bias, torch.finfo(dtype).min)
