"""The same numbers by other means than ptune's.

    own          the untouched model on a row
    placed       the untouched model on input embeddings with the vectors put in their places
    behind       the untouched model on a text and a row; and the text's own cache, as a deep prompt
    naive        the model with an attention of a few plain lines, the prompt's keys in front

No pack, no hook of ptune's and no mask of transformers' is met here.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.encoders import KeysValues
from ptune.inject import CACHE_NAMES

NAIVE = "ptune_naive"
States = Float[Tensor, "tokens hidden"]


@torch.no_grad()
def own(backbone: Backbone, row: TokenSequence) -> States:
    """Final states of a row of ordinary tokens; of an encoder-decoder those of its decoder."""
    return _states(backbone, row)


def _states(backbone: Backbone, row: TokenSequence) -> States:
    ids = torch.tensor([row.ids], device=backbone.device)
    if row.decoder is None:
        return backbone.body(input_ids=ids).last_hidden_state[0]
    # The whole model runs, so that its own code puts the two sides together.
    found: list[Tensor] = []
    decoder = backbone.model.get_decoder()
    handle = decoder.register_forward_hook(lambda *call: found.append(call[-1].last_hidden_state))
    try:
        said = torch.tensor([row.decoder.ids], device=backbone.device)
        backbone.model(input_ids=ids, decoder_input_ids=said, use_cache=False)
    finally:
        handle.remove()
    return found[0][0]


def placed(backbone: Backbone, row: TokenSequence, vectors: Tensor) -> States:
    """Final states of a row in which `-1 - slot` stands for a vector. Gradients reach the vectors.

    Models that read ids twice (Gemma 3n, Gemma 4) get padding there, and the vectors by a hook; so
    do encoder-decoders, of which some scale what they look up and not what they are given (Marian).
    """

    def put(embedded: Tensor, ids: tuple[int, ...]) -> Tensor:
        virtual = torch.tensor([i < 0 for i in ids], device=embedded.device)
        slots = torch.tensor([-1 - i for i in ids if i < 0], device=vectors.device)
        rows = embedded.clone()
        rows[0, virtual] = vectors[slots].to(rows)
        return rows

    plain = _plain(row, _beneath(backbone, row))
    if row.decoder is None and not backbone.geometry.also_embedding:
        embedded = backbone.model.get_input_embeddings()(
            torch.tensor([plain.ids], device=backbone.device)
        )
        return backbone.body(inputs_embeds=put(embedded, row.ids)).last_hidden_state[0]
    with ExitStack() as hooks:
        for table, ids in _tables(backbone, row):
            hook = table.register_forward_hook(lambda *call, ids=ids: put(call[-1], ids))
            hooks.callback(hook.remove)
        return _states(backbone, plain)


def _beneath(backbone: Backbone, row: TokenSequence) -> int:
    """What stands in a virtual token's place: padding, or where that has no position, a word."""
    if row.decoder is not None:
        return next(i for i in row.ids if i >= 0)
    return getattr(backbone.model.config.get_text_config(), "pad_token_id", None) or 0


def _plain(row: TokenSequence, beneath: int) -> TokenSequence:
    ids = tuple(beneath if i < 0 else i for i in row.ids)
    other = row.decoder
    return replace(row, ids=ids, decoder=None if other is None else _plain(other, beneath))


def _tables(backbone: Backbone, row: TokenSequence) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """The input embedding of each side, and what it looks up."""
    if row.decoder is None:
        return [(backbone.model.get_input_embeddings(), row.ids)]
    first, second = backbone.model.get_encoder(), backbone.model.get_decoder()
    return [
        (first.get_input_embeddings(), row.ids),
        (second.get_input_embeddings(), row.decoder.ids),
    ]


@torch.no_grad()
def behind(
    backbone: Backbone, text: tuple[int, ...], row: tuple[int, ...]
) -> tuple[PromptTensors, States] | None:
    """A text's own cache as a deep prompt, and the row's states behind that text.

    Returns:
        None where the model keeps no cache of keys and values for every site.
    """
    ids = torch.tensor([text], device=backbone.device)
    said = backbone.body(input_ids=ids, use_cache=True)
    cache = next((said[name] for name in CACHE_NAMES if name in said), None)
    layers = getattr(cache, "layers", [])
    sites = backbone.geometry.sites
    pairs: list[Any] = [(getattr(one, "keys", 0), getattr(one, "values", 0)) for one in layers]
    kept = [KeysValues(k[0].transpose(0, 1), v[0].transpose(0, 1)) for k, v in pairs if _kept(k, v)]
    shapes = [(len(text), s.shape.kv_heads, s.shape.key_dim) for s in sites]
    if [tuple(kv.keys.shape) for kv in kept] != shapes:
        return None
    # The cache holds keys at the text's own positions, so the row's begin behind them.
    prompt = PromptTensors(deep=dict(enumerate(kept)), offset=len(text))
    return prompt, own(backbone, TokenSequence(text + row))[len(text) :]


def _kept(keys: Any, values: Any) -> bool:
    return isinstance(keys, Tensor) and isinstance(values, Tensor) and keys.dim() == 4


class Naive:
    """An attention of plain lines for one row, with a prompt's keys and values in front.

    Within the context the model's attention goes through it; `calls` says how often it did.

    Args:
        deep: keys and values by site.
    """

    def __init__(self, backbone: Backbone, deep: Mapping[int, KeysValues]) -> None:
        self.backbone, self.deep = backbone, deep
        self.calls = 0

    @torch.no_grad()
    def states(self, row: TokenSequence) -> States:
        """Final states of a row."""
        AttentionInterface.register(NAIVE, self.attend)
        configs = (getattr(module, "config", None) for module in self.backbone.model.modules())
        found: dict[int, Any] = {id(c): c for c in configs if hasattr(c, "_attn_implementation")}
        before = {key: config._attn_implementation for key, config in found.items()}
        try:
            for config in found.values():
                config._attn_implementation = NAIVE
            return own(self.backbone, row)
        finally:
            for key, config in found.items():
                config._attn_implementation = before[key]

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Softmax of all scores that are allowed, times the values."""
        prompt = self.deep.get(self.calls)
        self.calls += 1
        share, tokens = query.shape[1] // key.shape[1], query.shape[2]
        seen = self._seen(module, tokens, key.shape[2], kwargs)
        bias = kwargs.get("position_bias")  # T5's, of the row's own tokens
        slots = 0 if prompt is None else len(prompt.keys)
        if prompt is not None:
            key = torch.cat([prompt.keys.transpose(0, 1)[None].to(key), key], dim=2)
            value = torch.cat([prompt.values.transpose(0, 1)[None].to(value), value], dim=2)
            seen = torch.cat([torch.ones(tokens, slots, dtype=torch.bool), seen], dim=1)
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
        scores = query.float() @ key.float().transpose(2, 3)
        scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if kwargs.get("softcap") is not None:
            scores = kwargs["softcap"] * torch.tanh(scores / kwargs["softcap"])
        if bias is not None:
            scores[..., slots:] += bias.float()
        scores = scores.masked_fill(~seen.to(scores.device), float("-inf"))
        sinks = kwargs.get("s_aux")
        if sinks is not None:
            beside = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, beside.float()], dim=-1)
        weights = scores.softmax(dim=-1)[..., : key.shape[2]]
        return (weights @ value.float()).to(value).transpose(1, 2), None

    def _seen(self, module: nn.Module, tokens: int, keys: int, kwargs: dict[str, Any]) -> Tensor:
        """Which of the row's own keys a query sees."""
        away = torch.arange(tokens)[:, None] - torch.arange(keys)
        if self.backbone.geometry.two_sided:  # rows of a patient have sides of different lengths
            causal = module in set(self.backbone.model.get_decoder().modules()) and tokens == keys
        else:
            said = kwargs.get("is_causal")
            causal = getattr(module, "is_causal", True) if said is None else said
        seen = (away >= 0) if causal else torch.ones_like(away, dtype=torch.bool)
        if kwargs.get("sliding_window") is not None:
            seen = seen & (away.abs() < kwargs["sliding_window"])
        return seen
