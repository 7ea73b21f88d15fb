r"""ptune's attention: each sequence of a pack for itself, with its deep prompt in front.

    softmax( q [P_k ; k]^T / sqrt(d) + mask ) [P_v ; v]          P-tuning v2, arXiv:2110.07602, 3.2

Two functions are registered with transformers' attention interface. `packed` follows the groups of
a batch (`ptune.batch`) or, on a GPU, takes all of them in one call (`ptune.inject.varlen`);
`by_rows` serves `generate`: it puts the prompt of each row in front of the keys that the model's
cache gave, and leaves the rest to transformers. Both are exact: no state outside the pass, no mask
over the whole pack, a prompt seen through any sliding window.

Dropout of the weights is the model's own, where a pass has it on (`Call.dropout`): weights of a
prompt's keys fall out as all others do. Then there are masks, as the one call knows no dropout.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from ptune.batch import Group
from ptune.errors import BackboneError
from ptune.inject import varlen
from ptune.inject.call import Bank, Call, Seen

PACKED = "ptune_packed"
# The same for the few models that cannot do without a mask; what it holds is never read.
PACKED_WITH_MASK = "ptune_packed_with_mask"
BY_ROWS = "ptune_rows"

# Up to so many scores of a group plain products are the faster way in 16 bits on a CPU. Beyond, the
# two are equal (bench/attention_kernels.py), and the fused kernel keeps no scores.
MOST_SCORES = 2**21

# By these names modules of transformers say which keys are seen (MiniMax-M3, DeepSeek-V3.2) or add
# keys (sinks of another kind than gpt-oss'): nothing that attention of a pack could do.
LOST = ("block_indices", "indices", "sinks")

# As attention modules pass them to the interface. Keys may have fewer heads than queries, and
# values another width than keys.
Queries = Float[Tensor, "lines heads tokens head_dim"]
Keys = Float[Tensor, "lines kv_heads keys head_dim"]
Values = Float[Tensor, "lines kv_heads keys value_dim"]
Answers = Float[Tensor, "lines tokens heads value_dim"]
# Of the prompt's keys first, where there is a deep prompt.
Weights = Float[Tensor, "lines heads tokens slots_and_keys"]
Flat = Float[Tensor, "flat heads head_dim"]
# What a family adds to the scores of a group, made of its queries, its keys and where they stand.
ScoreBias = Callable[[Tensor, Tensor, Seen], Float[Tensor, "lines heads tokens keys"]]
# What it adds to the scores of a prompt's keys, made of their places before the first token.
FrontBias = Callable[[Int[Tensor, "rows slots"]], Float[Tensor, "rows heads slots"]]


def register(wrap: Callable[[Any], Any]) -> None:
    """Make both functions known to transformers; no mask is built for packed batches."""
    AttentionInterface.register(PACKED, wrap(packed))
    AttentionInterface.register(PACKED_WITH_MASK, wrap(packed))
    AttentionInterface.register(BY_ROWS, wrap(by_rows))
    AttentionMaskInterface.register(PACKED_WITH_MASK, _empty_mask)
    AttentionMaskInterface.register(BY_ROWS, _mask_by_rows)


def _empty_mask(*args: Any, **kwargs: Any) -> Tensor:
    return torch.empty(0, dtype=torch.bool)


def _mask_by_rows(*args: Any, **kwargs: Any) -> Tensor | None:
    # `None` would stand for "causal", which a prompt in front of the keys no longer is.
    kwargs.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    return sdpa_mask(*args, **kwargs)


def packed(
    module: nn.Module,
    query: Queries,
    key: Float[Tensor, "sources kv_heads keys head_dim"],
    value: Float[Tensor, "sources kv_heads keys value_dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Answers, Weights | None]:
    """Attention of a pack. `kwargs` are the model's: window, soft-cap, sinks, dropout.

    In one call where a kernel can do it (`ptune.inject.varlen`), else group by group. Its weights
    are never kept: rows of a pack have no keys in common.

    Keys of another side (cross-attention) may come in another number of lines.
    """
    injection = module.__dict__["_ptune"]
    call: Call = injection.call.on(query.device)
    assert call.batch is not None
    query, key, value = _autocast(query, key, value)
    site = injection.site(module)
    kind = injection.kind(module, query.shape[2], key.shape[2])
    causal = kind == "decoder" if injection.two_sided else is_causal(module, kwargs)
    window = kwargs.get("sliding_window")
    # Tokens of two sides are no distance apart: T5 passes zeros there.
    by_place = None if kind == "cross" else kwargs.get("position_bias")
    if call.record is not None:
        _refuse_unknown(module, attention_mask, kwargs)
        found = {"keys": key.detach(), "values": value.detach()}
        call.record.append((module, {**found, "causal": causal, "window": window, "kind": kind}))
    lines, _, tokens, _ = query.shape
    bank = call.bank(site, query.device)
    flat_query, flat_key, flat_value = _flat(query), _flat(key), _flat(value)
    if bank is not None:
        flat_key = torch.cat([bank.keys.to(flat_key), flat_key])
        flat_value = torch.cat([bank.values.to(flat_value), flat_value])
    flat = (flat_query, flat_key, flat_value)
    if _is_plain(kwargs, by_place, call.side(kind != "encoder").longest) and varlen.takes(*flat):
        answers = varlen.attend(*flat, call.runs(kind, bank), causal=causal, scaling=scaling)
    else:
        seen = partial(call.seen, kind, bank=bank, causal=causal, window=window, by_place=by_place)
        groups, order = call.groups(kind)
        answers = _by_groups(*flat, groups, seen, scaling, kwargs).index_select(0, order)
    return answers.view(lines, tokens, *answers.shape[1:]), None


def _by_groups(
    query: Flat,
    key: Tensor,
    value: Tensor,
    groups: Sequence[Group],
    seen_by: Callable[[int], Seen],
    scaling: float | None,
    kwargs: dict[str, Any],
) -> Float[Tensor, "answers heads value_dim"]:
    """Sequences of like length at once, with a mask for what each query sees; their padding too."""
    answers = []
    for index, group in enumerate(groups):
        seen = seen_by(index)
        answer = attend(
            _take(query, group.query_at),
            _take(key, seen.key_at),
            _take(value, seen.key_at),
            seen,
            scaling=scaling,
            softcap=kwargs.get("softcap"),
            slopes=kwargs.get("alibi_slopes"),
            bias_of=kwargs.get("score_bias"),
            sinks=kwargs.get("s_aux"),
            dropout=kwargs.get("dropout") or 0.0,
        )
        answers.append(answer.transpose(1, 2).flatten(0, 1))
    return answers[0] if len(answers) == 1 else torch.cat(answers)


def _autocast(query: Queries, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As PyTorch's own attention takes them: rotary positions leave queries and keys in float32."""
    kind = query.device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return query, key, value
    dtype = torch.get_autocast_dtype(kind)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def _refuse_unknown(module: nn.Module, mask: Tensor | None, kwargs: dict[str, Any]) -> None:
    """Refuse what would be lost here: a mask of the module's own, or a choice of keys.

    Raises:
        BackboneError: the module gives its attention such a thing; the probe lets the model be.
    """
    lost = [name for name in LOST if kwargs.get(name) is not None]
    # Switch gives ones, which say nothing. (An empty mask is ptune's own.)
    if mask is not None and mask.numel() and bool((mask != mask.flatten()[0]).any()):
        lost.append("a mask of its own")
    if lost:
        raise BackboneError(f"{type(module).__name__} gives its attention {', '.join(lost)}.")


def _is_plain(kwargs: dict[str, Any], by_place: Tensor | None, longest: int) -> bool:
    """Whether nothing but causality decides who sees whom, and nothing changes scores or weights.

    A window as wide as the longest sequence hides nothing.
    """
    window = kwargs.get("sliding_window")
    changes = ("softcap", "alibi_slopes", "score_bias", "s_aux")
    return (
        by_place is None
        and not kwargs.get("dropout")
        and all(kwargs.get(name) is None for name in changes)
        and (window is None or longest <= window)
    )


def is_packed(module: nn.Module) -> bool:
    """Whether the pass under way is that of a packed batch, and not one of ordinary rows."""
    return bool(module.__dict__["_ptune"].packed)


def is_causal(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    """Whether a module's queries see only what came before, as transformers decides it."""
    given = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def in_training(module: nn.Module, share: float) -> float:
    """A share of dropout where it is on, and none elsewhere."""
    return share if module.training else 0.0


def _flat(heads: Queries) -> Flat:
    return heads.transpose(1, 2).flatten(0, 1)


def _take(flat: Flat, at: Int[Tensor, "lines tokens"]) -> Queries:
    taken = flat.index_select(0, at.flatten())
    return taken.view(*at.shape, *flat.shape[1:]).transpose(1, 2)


def attend(
    query: Queries,
    key: Keys,
    value: Values,
    seen: Seen,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    slopes: Float[Tensor, " heads"] | None = None,
    bias_of: ScoreBias | None = None,
    sinks: Float[Tensor, " heads"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "lines heads tokens value_dim"]:
    """Masked attention of one group.

    Args:
        scaling: of the scores; None is `1 / sqrt(head_dim)`.
        softcap: scores become `softcap * tanh(score / softcap)` (Gemma 2, arXiv:2408.00118).
        slopes: ALiBi: `- slope * distance` is added (arXiv:2108.12409).
        sinks: one more score a head that takes softmax mass and gives nothing (gpt-oss).
        dropout: share of the weights that are set to zero, the others growing by as much.
    """
    groups = query.shape[1] // key.shape[1]
    mask: Tensor = seen.allowed[:, None]
    if seen.bias is not None:
        mask = seen.bias.to(query.dtype)
    if slopes is not None:
        bias = -slopes.view(1, -1, 1, 1) * seen.distance[:, None]
        mask = bias.to(query.dtype).masked_fill(~mask, float("-inf"))
    elif bias_of is not None:
        bias = bias_of(query, key, seen).to(query.dtype)
        mask = torch.where(mask, bias, float("-inf"))
    if softcap is not None or sinks is not None or _fused_is_slow(query, key):
        return _attend_by_hand(query, key, value, mask, scaling, softcap, sinks, dropout)[0]
    if groups == 1:
        return functional.scaled_dot_product_attention(
            query, key, value, mask, dropout, scale=scaling
        )
    # Grouped heads: stack the queries that share a key head instead of copying the keys.
    rows, heads, tokens, width = query.shape
    stacked = query.reshape(rows, heads // groups, groups * tokens, width)
    if mask.shape[1] == 1:
        mask = mask.repeat(1, 1, groups, 1)
    else:
        mask = mask.reshape(rows, heads // groups, groups * tokens, -1)
    answer = functional.scaled_dot_product_attention(
        stacked, key, value, mask, dropout, scale=scaling
    )
    return answer.reshape(rows, heads, tokens, -1)


def _fused_is_slow(query: Queries, key: Keys) -> bool:
    """Whether plain products beat the fused kernel, whose CPU backward is slow in 16 bits.

    `bench/attention_kernels.py` prints by how much, at the shapes of short rows.
    """
    trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    short = query[..., 0].numel() * key.shape[2] <= MOST_SCORES
    return trained and short and query.device.type == "cpu" and query.dtype != torch.float32


def _attend_by_hand(
    query: Queries,
    key: Keys,
    value: Values,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Float[Tensor, " heads"] | None,
    dropout: float = 0.0,
) -> tuple[Float[Tensor, "lines heads tokens value_dim"], Weights]:
    """What no fused kernel computes: capped scores, sinks beside the keys; and the weights."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask.dtype == torch.bool:
        # The lowest number, not -inf: a padding row of `generate` may see no key at all.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + mask
    if sinks is not None:
        beside = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, beside.to(scores)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    weights = weights[..., : key.shape[2]]
    if dropout:
        weights = functional.dropout(weights, dropout)
    return weights @ value, weights


def by_rows(
    module: nn.Module,
    query: Queries,
    key: Keys,
    value: Values,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Answers, Weights | None]:
    """Attention of ordinary rows, each with its deep prompt in front of the model's own keys.

    Weights are given where they are asked for: of the prompt's keys first.
    """
    injection = module.__dict__["_ptune"]
    call: Call = injection.call.on(query.device)
    bank = call.bank(injection.site(module), query.device)
    front_bias = kwargs.pop("front_bias", None)
    before: Tensor | None = None
    if attention_mask is None:
        raise BackboneError(
            f"{type(module).__name__}: the model gave its attention no mask, so a prompt cannot be "
            "put in front of its keys. ptune works with models that build their masks through "
            "transformers' masking_utils."
        )
    bias = kwargs.pop("position_bias", None)
    if bias is not None:
        before, bias = _split(bias, attention_mask.shape[-1])
        attention_mask = _plus(bias, attention_mask).to(query.dtype)
    if bank is not None:
        key, value, attention_mask = _in_front(
            call, bank, key, value, attention_mask, front_bias, before
        )
    asked = injection.call.keeps_weights
    if not asked and kwargs.get("softcap") is None and kwargs.get("s_aux") is None:
        kwargs.pop("dropout", None)
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    answer, weights = _attend_by_hand(
        query, key, value, attention_mask, scaling, kwargs.get("softcap"), kwargs.get("s_aux")
    )
    return answer.transpose(1, 2), weights if asked else None


def _split(bias: Tensor, keys: int) -> tuple[Tensor | None, Tensor]:
    """A bias over the places before the first token, where it has some, and over the keys."""
    front = bias.shape[-1] - keys
    return (bias[..., :front] if front else None), bias[..., front:]


def _plus(bias: Tensor, mask: Tensor) -> Tensor:
    """A bias on the scores, and the mask in it: of the model's masks some are such biases, too."""
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, torch.finfo(bias.dtype).min)
    return bias + mask


def _in_front(
    call: Call,
    bank: Bank,
    key: Keys,
    value: Values,
    mask: Tensor,
    front_bias: FrontBias | None,
    before: Float[Tensor, "one heads tokens places"] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert call.rows is not None
    # `generate` repeats every row for its beams or samples, neighbours first.
    rows = call.rows.repeat_interleave(key.shape[0] // len(call.rows))
    at, real = bank.at[rows], bank.real[rows]
    key = torch.cat([_take(bank.keys.to(key), at), key], dim=2)
    value = torch.cat([_take(bank.values.to(value), at), value], dim=2)
    shape = (*mask.shape[:3], at.shape[1])
    front: Tensor = real[:, None, None, :].expand(shape)
    if mask.dtype != torch.bool:
        bias = torch.zeros(shape, dtype=mask.dtype, device=mask.device)
        if front_bias is not None:
            bias = bias + front_bias(bank.place[rows])[:, :, None, :].to(bias)
        if before is not None:
            places = (bank.place[rows] + before.shape[-1]).clamp(0, before.shape[-1] - 1)
            bias = bias + before[0][:, :, places].permute(2, 0, 1, 3).to(bias)
        front = bias.masked_fill(~front, torch.finfo(mask.dtype).min)
    return key, value, torch.cat([front, mask], dim=3)
