"""MPNet: a learned bias for every distance, shared by all layers (as in T5).

    score(i, j) = q_i k_j / sqrt(d) + B[head, bucket(j - i)]            arXiv:2004.09297

A deep prompt has no distance and gets no bias.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.inject import attention
from ptune.inject.call import Seen


def position_bias(module: Any, x: Tensor, position_ids: Any = None, num_buckets: int = 32) -> Any:
    """What `MPNetEncoder.compute_position_bias` hands to the layers: for a pack, how to make it."""
    if attention.is_packed(module):
        return partial(_bias, module, num_buckets)
    return type(module).compute_position_bias(module, x, position_ids, num_buckets)


def _bias(
    module: Any, buckets: int, query: Tensor, key: Tensor, seen: Seen
) -> Float[Tensor, "lines heads tokens keys"]:
    before = -seen.distance[:, :, seen.slots :]
    at = module.relative_position_bucket(before, num_buckets=buckets)
    learned = module.relative_attention_bias(at).permute(0, 3, 1, 2)
    return torch.nn.functional.pad(learned, (seen.slots, 0))


def forward(
    module: Any,  # MPNetSelfAttention
    hidden_states: Float[Tensor, "lines tokens hidden"],
    attention_mask: Tensor | None = None,
    position_bias: Any = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Float[Tensor, "lines tokens hidden"], ...]:
    """What `MPNetSelfAttention.forward` computes, by ptune's attention."""
    if not attention.is_packed(module):
        native: tuple[Tensor, ...] = type(module).forward(
            module, hidden_states, attention_mask, position_bias, output_attentions, **kwargs
        )
        return native
    query, key, value = (
        projection(hidden_states).unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2)
        for projection in (module.q, module.k, module.v)
    )
    answer, _ = attention.packed(
        module,
        query,
        key,
        value,
        None,
        score_bias=position_bias,
        is_causal=False,
        dropout=attention.in_training(module, module.dropout.p),
    )
    return (module.o(answer.flatten(2)),)
