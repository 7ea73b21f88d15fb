"""GPT-J, CodeGen and GPT-Neo: attention in a method of its own, behind rotation and cache.

    forward:  queries, keys, values -> rotated -> cached ->  _attn(q, k, v, mask)  -> projected

Only `_attn` is stood in for. GPT-Neo does not scale its scores, and every second layer of it sees
`window_size` tokens back; the window is in a buffer of the module and not in the mask.
"""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from ptune.inject import attention


def attend(
    module: Any,  # GPTJAttention, CodeGenAttention
    query: attention.Queries,
    key: attention.Keys,
    value: attention.Values,
    attention_mask: Tensor | None = None,
) -> tuple[attention.Queries, Tensor | None]:
    """What `_attn` computes, by ptune's attention."""
    scaling = float(1 / module.scale_attn)
    compute = attention.packed if attention.is_packed(module) else attention.by_rows
    key, value = key.to(query), value.to(query)
    dropout = attention.in_training(module, module.attn_dropout.p)
    answer, weights = compute(
        module, query, key, value, attention_mask, scaling=scaling, dropout=dropout
    )
    return answer.transpose(1, 2), weights


def attend_locally(
    module: Any,  # GPTNeoSelfAttention
    query: attention.Queries,
    key: attention.Keys,
    value: attention.Values,
    attention_mask: Tensor | None = None,
) -> tuple[attention.Queries, Tensor | None]:
    """What GPT-Neo's `_attn` computes, by ptune's attention."""
    window = module.config.window_size if module.attention_type == "local" else None
    dropout = attention.in_training(module, module.attn_dropout.p)
    if attention.is_packed(module):
        answer, weights = attention.packed(
            module, query, key, value, None, scaling=1.0, sliding_window=window, dropout=dropout
        )
    else:
        if attention_mask is not None and window is not None:
            attention_mask = attention_mask & _near(query.shape[2], key.shape[2], window, query)
        answer, weights = attention.by_rows(module, query, key, value, attention_mask, scaling=1.0)
    return answer.transpose(1, 2), weights


def _near(tokens: int, keys: int, window: int, like: Tensor) -> Bool[Tensor, "tokens keys"]:
    asked = torch.arange(keys - tokens, keys, device=like.device)
    return asked[:, None] - torch.arange(keys, device=like.device) < window
