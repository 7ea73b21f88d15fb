"""The probe: what a model is, found by running it on a few tokens rather than by its name.

Asked of the model: which modules compute attention, in which order, with how many key/value heads;
where positions begin; whether only their differences matter; whether a pack of sequences gives what
each sequence gives alone. The last is the proof: a model that fails it is padded; one that fails
that as well keeps its own attention and has no sites (Mamba); one that fails even so is refused.
"""

import inspect
from collections.abc import Sequence, Set
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ptune.batch import Batch, PromptTensors, TokenSequence, pack
from ptune.encoders import SiteShape
from ptune.errors import ArchitectureError
from ptune.inject import shims
from ptune.inject.call import Call
from ptune.inject.devices import device_of
from ptune.inject.masks import hidden_window
from ptune.inject.session import injected
from ptune.inject.sides import input_embeddings, is_two_sided, run_body
from ptune.inject.sites import Geometry, Kind, Site

WORKS_TODAY = (
    "decoder-only and encoder-only models that give a row the same states in any padded batch "
    "(docs/architectures.md has the list; `ptune doctor MODEL --config` tries one), and "
    "encoder-decoders like T5, mT5, BART, mBART, Pegasus and Marian"
)

_UNLIKE = "several rows computed together give other states than each row alone"

# Long enough for positions and masks to matter, short enough to be free.
PROBE_TOKENS = (7, 4)


def probe(body: PreTrainedModel) -> Geometry:
    """Find the geometry of a frozen model by running it.

    Args:
        body: the model without its head, in eval mode.
    Raises:
        ArchitectureError: packs and padded rows both give other results than single rows.
    """
    _check_reachable(body)
    with torch.no_grad():
        return _probe_two_sided(body) if is_two_sided(body) else _probe(body, body.config)


def _check_reachable(body: PreTrainedModel) -> None:
    """Refuse what could not be asked anything."""
    if not getattr(body.config, "return_dict", True):
        raise ArchitectureError(
            f"{type(body).__name__} answers in tuples, because its configuration has "
            "return_dict: false. Set model.config.return_dict = True, or take it out of its "
            "config.json."
        )
    try:
        body.get_input_embeddings()
    except (AttributeError, NotImplementedError) as error:
        reason = "it does not say which module its input embedding is"
        raise ArchitectureError(_refusal(body, reason)) from error


def _probe(body: PreTrainedModel, config: Any) -> Geometry:
    table = body.get_input_embeddings().weight
    rows = [_some_ids(len(table), n, config) for n in PROBE_TOKENS]
    takes = set(inspect.signature(body.forward).parameters)
    native = [_native_at_first(body, ids) for ids in rows]
    if "token_type_ids" in takes and not _has_types(body, rows[0], native[0]):
        takes.remove("token_type_ids")
    first, relative = _positions(body, rows[0], native[0], takes, config)
    sequences = [TokenSequence(tuple(ids.tolist())) for ids in rows]
    found = _sites(body, sequences[0], takes, first)
    # The best way that gives each row what it gives alone; the last one is the model as it is.
    ways = [(found, padded) for padded in _lines(body)] if found else []
    for sites, padded in (*ways, ((), True)):
        causal = all(s.causal for s in sites) if sites else _is_causal(body, rows[0], native[0])
        batch = pack(sequences, share=causal and not padded, padded=padded)
        if _agrees_when_run(body, sites, batch, takes, first, native):
            break
    else:
        raise ArchitectureError(_refusal(body, _UNLIKE))
    hidden = hidden_window(body, sites, lambda: _native(body, rows[0])) if sites else None
    return Geometry(
        num_embeddings=len(table),
        width=table.shape[1],
        hidden=native[0].shape[-1],
        sites=sites,
        causal=causal,
        padded=padded,
        takes=frozenset(takes),
        first_position=first,
        relative=relative,
        max_tokens=_narrowest(_max_tokens(config, first, takes), hidden, _one_rotation(config)),
        also_embedding=_also_embedding(body, rows[0]),
    )


def _probe_two_sided(body: PreTrainedModel) -> Geometry:
    """Of an encoder-decoder: its sides differ in length, by which kinds of sites are told."""
    embedding = input_embeddings(body)[0]
    table, config = embedding.weight, body.config
    rows = [_some_ids(len(table), n, config) for n in PROBE_TOKENS]
    pairs = list(zip(rows, rows[::-1], strict=True))
    device = device_of(embedding)
    native = [_native_pair(body, first.to(device), second.to(device)) for first, second in pairs]
    sequences = [
        TokenSequence(tuple(first.tolist()), decoder=TokenSequence(tuple(second.tolist())))
        for first, second in pairs
    ]
    takes = {"input_ids"}
    sites = _sites(body, sequences[0], takes, 0)
    if not sites:
        reason = "its attention does not go through transformers' AttentionInterface"
        raise ArchitectureError(_refusal(body, reason))
    limit = getattr(config, "max_position_embeddings", None)
    hidden = hidden_window(
        body, sites, lambda: _native_pair(body, *(row.to(device) for row in rows))
    )
    return Geometry(
        num_embeddings=len(table),
        width=table.shape[1],
        hidden=native[0].shape[-1],
        sites=sites,
        causal=False,
        padded=_must_be_padded(body, sites, sequences, native, takes),
        takes=frozenset(takes),
        first_position=0,
        relative=limit is None,
        max_tokens=_narrowest(limit, hidden, _one_rotation(config)),
        two_sided=True,
    )


def _native_pair(
    body: PreTrainedModel, ids: Int[Tensor, " tokens"], decoded: Int[Tensor, " others"]
) -> Float[Tensor, "others hidden"]:
    inputs = {"input_ids": ids[None], "decoder_input_ids": decoded[None]}
    return run_body(body, inputs).last_hidden_state[0]


def _must_be_padded(
    body: PreTrainedModel,
    sites: Sequence[Site],
    sequences: Sequence[TokenSequence],
    native: Sequence[Tensor],
    takes: Set[str],
) -> bool:
    """Whether rows in one line give other states than each alone, and padded lines do not."""
    for padded in _lines(body):
        batch = pack(sequences, share=False, padded=padded)
        if _agrees(_injected_states(body, sites, batch, takes, 0), native, batch):
            return padded
    raise ArchitectureError(_refusal(body, _UNLIKE))


def _lines(body: PreTrainedModel) -> tuple[bool, ...]:
    """Whether lines are padded, in the order in which that is tried."""
    return (True,) if shims.looks_at_lines(body) else (False, True)


def _refusal(body: PreTrainedModel, reason: str) -> str:
    return f"{type(body).__name__} cannot be used: {reason}. What works today: {WORKS_TODAY}."


def _some_ids(vocabulary: int, count: int, config: Any) -> Int[Tensor, " tokens"]:
    """Ordinary ids, spread over the vocabulary; never padding, which some models position apart."""
    ids = torch.arange(1, count + 1) * (vocabulary // (count + 2))
    return torch.where(ids == (getattr(config, "pad_token_id", None) or 0), ids + 1, ids)


def _native(body: PreTrainedModel, ids: Int[Tensor, " tokens"], **inputs: Tensor) -> Tensor:
    device = device_of(body.get_input_embeddings())
    named = {name: value.to(device) for name, value in inputs.items()}
    return body(input_ids=ids[None].to(device), **named).last_hidden_state[0]


def _native_at_first(body: PreTrainedModel, ids: Int[Tensor, " tokens"]) -> Tensor:
    try:
        return _native(body, ids)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        reason = f"it does not run on token ids alone ({type(error).__name__}: {first})"
        raise ArchitectureError(_refusal(body, reason)) from error


def _has_types(
    body: PreTrainedModel, ids: Int[Tensor, " tokens"], states: Float[Tensor, "tokens hidden"]
) -> bool:
    """Whether type 0 is what the model assumes. (GPT-2 reads types as words: 0 adds one.)"""
    return close(_native(body, ids, token_type_ids=torch.zeros_like(ids)[None]), states)


def _positions(
    body: PreTrainedModel,
    ids: Int[Tensor, " tokens"],
    states: Float[Tensor, "tokens hidden"],
    takes: Set[str],
    config: Any,
) -> tuple[int, bool]:
    """Where positions begin, and whether a shift of all of them changes nothing."""
    if "position_ids" not in takes:
        return 0, True
    steps = torch.arange(len(ids))[None]
    padding = getattr(config, "pad_token_id", None)
    for first in (0, *(() if padding is None else (padding + 1,))):
        if first + len(ids) > (getattr(config, "max_position_embeddings", None) or 2**31):
            continue
        if close(_native(body, ids, position_ids=steps + first), states):
            shifted = _native(body, ids, position_ids=steps + first + 1)
            return first, close(shifted, states) and not shims.counts_from_zero(body)
    raise ArchitectureError(
        _refusal(body, "its positions begin neither at 0 nor behind its padding id")
    )


def _sites(
    body: PreTrainedModel, sequence: TokenSequence, takes: Set[str], first: int
) -> tuple[Site, ...]:
    """The attention sites, in the order in which a pass meets them."""
    names = {id(module): name for name, module in body.named_modules()}
    record: list[tuple[nn.Module, dict[str, Any]]] = []
    batch = pack([sequence], share=False)
    try:
        _injected_states(body, (), batch, takes, first, record)
    except Exception:  # whatever a model's code raises that knows no foreign attention
        return ()
    seen: dict[int, int] = {}
    sites = []
    for module, found in record:
        call = seen.get(id(module), 0)
        seen[id(module)] = call + 1
        keys, values = found["keys"], found["values"]
        shape = SiteShape(keys.shape[1], keys.shape[3], values.shape[3])
        causal = found["causal"]
        kind: Kind = "decoder" if causal else "encoder"
        kind = found["kind"] if batch.decoder else kind
        sites.append(Site(names[id(module)], call, shape, causal, found["window"], kind))
    return tuple(sites)


def _is_causal(
    body: PreTrainedModel, ids: Int[Tensor, " tokens"], states: Float[Tensor, "tokens hidden"]
) -> bool:
    """Whether no token sees a later one."""
    return close(_native(body, ids[:-1]), states[:-1])


def _also_embedding(body: PreTrainedModel, ids: Int[Tensor, " tokens"]) -> tuple[str, ...]:
    """Embeddings that read the ids beside the input embedding."""
    found: list[nn.Module] = []

    def meet(module: nn.Module, args: tuple[Any, ...]) -> None:
        read = args[0] if args else None  # RoFormer's positions are given a size, not ids
        if isinstance(read, Tensor) and read.flatten().tolist() == ids.tolist():
            found.append(module)

    others = {
        name: module
        for name, module in body.named_modules()
        if isinstance(module, nn.Embedding) and module is not body.get_input_embeddings()
    }
    handles = [module.register_forward_pre_hook(meet) for module in others.values()]
    try:
        _native(body, ids)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(name for name, module in others.items() if any(module is one for one in found))


def _injected_states(
    body: PreTrainedModel,
    sites: Sequence[Site],
    batch: Batch,
    takes: Set[str],
    first: int,
    record: list[tuple[nn.Module, dict[str, Any]]] | None = None,
) -> Float[Tensor, "flat hidden"]:
    batch = batch.to(device_of(body.get_input_embeddings()))
    vocabulary = len(body.get_input_embeddings().weight)
    call = Call([PromptTensors()], batch, None, vocabulary, record=record)
    with injected(body, sites) as injection, injection.serving(call):
        decoded = None if batch.decoder is None else batch.decoder.ids
        inputs = inputs_of(batch, batch.ids, takes, first, decoder_ids=decoded)
        return run_body(body, inputs).last_hidden_state.flatten(0, 1)


def inputs_of(
    batch: Batch,
    ids: Int[Tensor, "lines tokens"],
    takes: Set[str],
    first: int | Tensor,
    *,
    decoder_ids: Int[Tensor, "others decoded"] | None = None,
) -> dict[str, Any]:
    """The arguments of the model's `forward`: only those that it has."""
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "position_ids": batch.places + first,
        "token_type_ids": batch.types,
        "use_cache": False,
    }
    kept = {name: value for name, value in inputs.items() if name in takes}
    if batch.padded:
        kept["attention_mask"] = batch.real.long()
    if decoder_ids is not None:
        kept["decoder_input_ids"] = decoder_ids
    return kept


def _agrees_when_run(
    body: PreTrainedModel,
    sites: Sequence[Site],
    batch: Batch,
    takes: Set[str],
    first: int,
    native: Sequence[Tensor],
) -> bool:
    try:
        states = _injected_states(body, sites, batch, takes, first)
    except Exception:  # as above: then this way is not one of this model's
        return False
    return _agrees(states, native, batch)


def _agrees(flat: Float[Tensor, "flat hidden"], native: Sequence[Tensor], batch: Batch) -> bool:
    side = batch.decoder or batch
    real = side.real.flatten().to(flat.device)
    together = torch.split(flat[real], [len(states) for states in native])
    return all(close(ours, theirs) for ours, theirs in zip(together, native, strict=True))


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal up to rounding in the model's own precision, by the norm of the difference."""
    allowed = 1e-4 if theirs.dtype == torch.float32 else 5e-2
    return bool((ours - theirs).float().norm() <= allowed * theirs.float().norm())


def _max_tokens(config: Any, first: int, takes: Set[str]) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or "position_ids" not in takes:
        return None
    return int(limit) - first


def _one_rotation(config: Any) -> int | None:
    """Up to which length a row is rotated as all others are.

    LongRoPE (arXiv:2402.13753) has other frequencies for long texts, and transformers takes them
    for all rows of a batch where one is long: what a row gives would hang on its neighbours.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = (ropes, *(kind for kind in ropes.values() if isinstance(kind, dict)))
    return _narrowest(
        *(
            kind.get("original_max_position_embeddings")
            for kind in kinds
            if kind.get("rope_type") == "longrope"
        )
    )


def _narrowest(*limits: int | None) -> int | None:
    """Rows as long as all allow: a window that only masks have hides nothing up to its width."""
    return min((one for one in limits if one is not None), default=None)
