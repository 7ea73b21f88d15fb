r"""DeBERTa, all versions: scores of contents and of relative positions apart.

    score(i, j) = ( q_i k_j + q_i K[b(i-j)] + k_j Q[b(i-j)] ) / sqrt(d * terms)

`K` and `Q` are projected embeddings of distances, `b` cuts a distance off (version 1) or puts it
into logarithmic buckets (versions 2 and 3). A deep prompt has no distance: its keys take part by
their contents alone, under the same scale. P-tuning v2's code does the same: it adds zeros for the
prompt where others have the two terms of positions (model/deberta.py and model/debertaV2.py of
THUDM/P-tuning-v2).

Source: He et al. 2021, arXiv:2006.03654 (disentangled attention).
"""

from functools import partial
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptune.inject import attention
from ptune.inject.call import Seen

Table = Float[Tensor, "heads distances head_dim"]


def forward(
    module: Any,  # DisentangledSelfAttention, of DebertaModel or of DebertaV2Model
    hidden_states: Float[Tensor, "lines tokens hidden"],
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Float[Tensor, "lines tokens hidden"], Tensor | None]:
    """What `DisentangledSelfAttention.forward` computes, by ptune's attention."""
    # Talking heads mix the scores of all heads: no attention over parts can do that.
    mixed = getattr(module, "talking_head", False)
    if mixed or query_states is not None or not attention.is_packed(module):
        native: tuple[Tensor, Tensor | None] = type(module).forward(
            module,
            hidden_states,
            attention_mask,
            output_attentions,
            query_states,
            relative_pos,
            rel_embeddings,
        )
        return native
    scaling = (module.attention_head_size * _terms(module)) ** -0.5
    bias = None
    if module.relative_attention and rel_embeddings is not None:
        rel_embeddings = module.pos_dropout(rel_embeddings)
        bias = partial(_positions, module, *_tables(module, rel_embeddings), scaling)
    query, key, value = _heads(module, hidden_states)
    answer, _ = attention.packed(
        module,
        query,
        key,
        value,
        None,
        scaling=scaling,
        score_bias=bias,
        is_causal=False,
        dropout=attention.in_training(module, module.dropout.p),
    )
    return answer.flatten(2), None


def _terms(module: Any) -> int:
    if hasattr(module, "in_proj"):  # version 1 counts what it is told, whatever that is
        return 1 + len(module.pos_att_type)
    return 1 + ("c2p" in module.pos_att_type) + ("p2c" in module.pos_att_type)


def _heads(module: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if hasattr(module, "in_proj"):
        query, key, value = _split(module, module.in_proj(states)).chunk(3, dim=-1)
        query = query + _split(module, module.q_bias[None, None])
        return query, key, value + _split(module, module.v_bias[None, None])
    projections = (module.query_proj, module.key_proj, module.value_proj)
    query, key, value = (_split(module, projection(states)) for projection in projections)
    return query, key, value


def _split(module: Any, states: Tensor) -> Tensor:
    heads = module.num_attention_heads
    return states.view(*states.shape[:-1], heads, -1).transpose(1, 2)


def _tables(module: Any, embeddings: Tensor) -> tuple[Table | None, Table | None]:
    """The keys and the queries of all distances; None for a term that the model does not have."""
    rows = embeddings[None, : 2 * _span(module)]
    names = ("pos_proj", "pos_q_proj")
    if not hasattr(module, "in_proj"):
        names = ("pos_key_proj", "pos_query_proj")
        if module.share_att_key:
            names = ("key_proj", "query_proj")
    tables = [
        _split(module, getattr(module, name)(rows))[0] if kind in module.pos_att_type else None
        for kind, name in zip(("c2p", "p2c"), names, strict=True)
    ]
    return tables[0], tables[1]


def _span(module: Any) -> int:
    return int(getattr(module, "pos_ebd_size", module.max_relative_positions))


def _positions(
    module: Any,
    keys: Table | None,
    queries: Table | None,
    scaling: float,
    query: Tensor,
    key: Tensor,
    seen: Seen,
) -> Float[Tensor, "lines heads tokens keys"]:
    """The two terms of relative positions, zero for the keys of a prompt."""
    at = _buckets(module, seen.distance[:, :, seen.slots :])[:, None]
    shape = (len(at), query.shape[1], *at.shape[2:])
    score = torch.zeros(shape, dtype=query.dtype, device=query.device)
    if keys is not None:
        score = score + (query @ keys.transpose(1, 2)).gather(3, at.expand(shape))
    if queries is not None:
        said = key[:, :, seen.slots :] @ queries.transpose(1, 2)
        score = score + said.gather(3, at.expand(shape).transpose(2, 3)).transpose(2, 3)
    return torch.nn.functional.pad(score * scaling, (seen.slots, 0))


def _buckets(
    module: Any, distance: Int[Tensor, "rows tokens keys"]
) -> Int[Tensor, "rows tokens keys"]:
    """Where a distance stands in the tables."""
    buckets = getattr(module, "position_buckets", -1)
    if buckets > 0:
        family = import_module(type(module).__module__)
        longest = module.max_relative_positions
        distance = family.make_log_bucket_position(distance, buckets, longest).long()
    return (distance + _span(module)).clamp(0, 2 * _span(module) - 1)


def relative_positions(
    module: Any, hidden_states: Tensor, query_states: Any = None, relative_pos: Any = None
) -> Any:
    """No table of all tokens of a pack with all others: distances come with each group."""
    if attention.is_packed(module):
        return None
    return type(module).get_rel_pos(module, hidden_states, query_states, relative_pos)


def attention_mask(module: Any, mask: Tensor) -> Tensor:
    """No mask of all tokens of a pack with all others either."""
    if attention.is_packed(module):
        return mask
    made: Tensor = type(module).get_attention_mask(module, mask)
    return made
