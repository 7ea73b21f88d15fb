"""Falcon: fused queries, keys and values; positions by rotation, or as a bias (ALiBi).

    new     groups of queries, one key and value each (40B, 180B, Falcon 2)        rotation
    old     one key and value for all queries (7B), or one each (RW)               rotation or ALiBi

    score(i, j) = (q_i k_j + slope_head * j) / sqrt(d)        ALiBi, its product rounded to bfloat16

The rounding makes the bias depend on `j` itself and not on the distance alone; it is kept.
"""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptune.inject import attention
from ptune.inject.call import Seen
from ptune.inject.shims.bloom import slopes


def forward(
    module: Any,  # FalconAttention
    hidden_states: Float[Tensor, "lines tokens hidden"],
    alibi: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None = None,
    layer_past: Any = None,
    use_cache: bool = False,
    output_attentions: bool = False,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "lines tokens hidden"], Tensor | None]:
    """What `FalconAttention.forward` computes, by ptune's attention."""
    lines, tokens, _ = hidden_states.shape
    parts = module._split_heads(module.query_key_value(hidden_states))
    query, key, value = (part.transpose(1, 2) for part in parts)
    if alibi is None and position_embeddings is not None:
        family = import_module(type(module).__module__)
        query, key = family.apply_rotary_pos_emb(query, key, *position_embeddings)
    if layer_past is not None:
        key, value = layer_past.update(key, value, module.layer_idx)
    bias = None if alibi is None else partial(_rising, module)
    if attention.is_packed(module):
        score_bias = bias and partial(_in_pack, bias)
        # Weights fall out beside ALiBi alone, as in the model's own code.
        dropout = attention.in_training(module, 0.0 if bias is None else module.attention_dropout.p)
        answer, weights = attention.packed(
            module, query, key, value, None, score_bias=score_bias, dropout=dropout
        )
    else:
        answer, weights = attention.by_rows(
            module, query, key, value, attention_mask, front_bias=bias
        )
    return module.dense(answer.reshape(lines, tokens, -1)), weights


def _rising(module: Any, place: Int[Tensor, "rows keys"]) -> Float[Tensor, "rows heads keys"]:
    slope = slopes(module.num_heads).to(place.device, torch.bfloat16)
    return (slope.view(1, -1, 1) * place[:, None, :]).float() * module.inv_norm_factor


def _in_pack(bias: Any, query: Tensor, key: Tensor, seen: Seen) -> Tensor:
    added: Tensor = bias(seen.key_place)[:, :, None, :]
    return added
