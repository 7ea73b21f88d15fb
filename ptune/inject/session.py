"""Injection: prompts go into a backbone, and leave it as it was.

    with injected(model, geometry) as injection:
        with injection.serving(call):
            model(input_ids=...)          # virtual ids and attention sites see the call's prompts

Leaving the context restores the model: same modules, same hooks, same bits, same attention.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from threading import get_ident
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ptune.inject import attention, requests, shims
from ptune.inject.call import Call
from ptune.inject.devices import device_of
from ptune.inject.dropout import Dropout
from ptune.inject.embedding import EmbeddingHooks
from ptune.inject.forwards import check_compiler, compiled, opaque, replace_forward
from ptune.inject.sides import input_embeddings, is_two_sided
from ptune.inject.sites import Kind, Site
from ptune.inject.turns import turn


class Injection:
    """What the hooks and the attention of one backbone read during a forward pass."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        also_embedding: Sequence[str],
        checkpointing: bool,
        compiling: bool,
    ) -> None:
        self.model = model
        self.also_embedding = also_embedding
        self.call: Call | None = None
        self.checkpointing = checkpointing
        self.compiling = compiling
        self.sites = sites
        self._sites = _site_table(model, sites)
        self.two_sided = is_two_sided(model)
        decoding = model.get_decoder().modules() if self.two_sided else ()
        self._decoding = set(map(id, decoding))
        self._configs = configs_of(model)
        self._implementation = ""
        self._packed_name = attention.PACKED
        if shims.wants_a_mask(model):
            self._packed_name = attention.PACKED_WITH_MASK
        self._undo: list[Callable[[], None]] = []
        self.thread = get_ident()

    def site(self, module: nn.Module) -> int | None:
        """The site that this call of an attention module is; None while probing."""
        assert self.call is not None
        calls = self._sites.get(id(module))
        count = self.call.count(module)
        return None if calls is None else calls[count % len(calls)]

    @property
    def reaches_attention(self) -> bool:
        """Whether ptune's attention is in the model: it is looked for, or was found."""
        return bool(self.sites) or (self.call is not None and self.call.record is not None)

    @property
    def packed(self) -> bool:
        """Whether the pass under way goes through ptune's attention of packs."""
        return self.reaches_attention and self.call is not None and self.call.batch is not None

    def in_decoder(self, module: nn.Module) -> bool:
        """Whether a module is of the decoder of an encoder-decoder."""
        return id(module) in self._decoding

    def kind(self, module: nn.Module, tokens: int, keys: int) -> Kind:
        """What a module of so many tokens attends to so many keys as.

        A decoder's two kinds are told apart by their sites; while these are looked for, the probe
        gives the two sides different lengths.
        """
        if not self.in_decoder(module):
            return "encoder"
        calls = self._sites.get(id(module))
        if calls is not None:
            return self.sites[calls[0]].kind
        return "decoder" if tokens == keys else "cross"

    def pass_over(self, sites: int) -> None:
        """Count so many sites as met, for a pass that begins above them."""
        assert self.call is not None
        for site in self.sites[:sites]:
            self.call.count(self.model.get_submodule(site.name))

    @contextmanager
    def serving(self, call: Call) -> Iterator[None]:
        """Let the passes inside see this call's prompts. It stays in force until the next one.

        (It stays, because a backward pass with gradient checkpointing runs layers again.)
        """
        self._meet(call)
        yield

    def _meet(self, call: Call) -> None:
        self.call = call
        self._dropout.turn(call.dropout)
        for embedding in self._embeddings:
            embedding.call = call
        if not self.reaches_attention:
            return  # the model's own attention, with the model's own masks
        name = attention.BY_ROWS if call.batch is None else self._packed_name
        if name != self._implementation:
            self._implementation = name
            for config in self._configs:
                config._attn_implementation = name

    def again(self, call: Call, counts: dict[int, int], layer: Callable[[], Any]) -> Any:
        """Run a layer as `call` stood when `counts` was taken, now or in the backward pass."""
        first = self.call is call and call.counts == counts
        now, counted = self.call, call.counts
        if first:
            return layer()
        call.counts = dict(counts)
        self._meet(call)
        answer = layer()
        call.counts = counted
        if now is not None:
            self._meet(now)
        return answer

    def install(self) -> None:
        """Hook the model."""
        if self.compiling:
            check_compiler(device_of(self.model.get_input_embeddings()))
        wrap = opaque if self.compiling else _as_it_is
        attention.register(wrap)
        also = [self.model.get_submodule(name) for name in self.also_embedding]
        padding = getattr(self.model.config.get_text_config(), "pad_token_id", None) or 0
        first, *others = input_embeddings(self.model)
        self._embeddings = [EmbeddingHooks(first, also, padding), *map(EmbeddingHooks, others)]
        self._undo += [embedding.remove for embedding in self._embeddings]
        self._undo.append(remember_implementation(self._configs))
        self._dropout = Dropout(self.model)
        self._undo.append(self._dropout.leave)
        for module in self.model.modules():
            module.__dict__["_ptune"] = self
        self._undo.append(self._untag)
        self._undo += shims.install(self.model, wrap)
        self._undo += requests.watch(self.model, lambda: self.call)
        found = layers(self.model, self.sites)
        if self.compiling:
            self._undo += [replace_forward(layer, compiled(layer)) for layer in found]
        if self.checkpointing:
            self._undo += [_checkpointed(layer, self) for layer in found]

    def _untag(self) -> None:
        for module in self.model.modules():
            module.__dict__.pop("_ptune", None)

    def remove(self) -> None:
        """Undo `install`, last step first."""
        while self._undo:
            self._undo.pop()()


@contextmanager
def injected(
    model: PreTrainedModel,
    sites: Sequence[Site] = (),
    *,
    also_embedding: Sequence[str] = (),
    checkpointing: bool = False,
    compiling: bool = False,
) -> Iterator[Injection]:
    """Hook a model for the time of the context; inside another one, that one is used.

    Other threads wait until it is left.

    Args:
        also_embedding: names of further embeddings that read token ids.
    """
    with turn(model):
        outer = model.__dict__.get("_ptune")
        if outer is not None:
            yield outer
            return
        injection = Injection(model, sites, also_embedding, checkpointing, compiling)
        try:
            injection.install()
            yield injection
        finally:
            injection.remove()


def _as_it_is(function: Any) -> Any:
    return function


def _site_table(model: PreTrainedModel, sites: Sequence[Site]) -> dict[int, list[int]]:
    table: dict[int, list[int]] = {}
    for index, site in enumerate(sites):
        table.setdefault(id(model.get_submodule(site.name)), []).append(index)
    return table


def configs_of(model: PreTrainedModel) -> list[Any]:
    """Every config object from which a module reads its attention implementation."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [c for c in found.values() if hasattr(c, "_attn_implementation")]


def remember_implementation(configs: Sequence[Any]) -> Callable[[], None]:
    """Note by which attention a model runs; returns what puts it back."""
    return partial(_put_back, [(config, config._attn_implementation) for config in configs])


def _put_back(before: Sequence[tuple[Any, str | None]]) -> None:
    for config, name in before:
        config._attn_implementation = name


def layers(model: nn.Module, sites: Sequence[Site]) -> list[nn.Module]:
    """The layers that hold the sites, each whole: its attention and what follows it.

    Lists may stand in each other. A list whose members all attend is one of layers (ALBERT's groups
    of layers are gone into); one that has other members, too, is a layer's parts (T5's blocks are
    lists of attention and feed-forward).
    """
    paths = [_path(model, site.name) for site in sites]
    attends = {id(module) for path in paths for module in path}
    found: dict[int, nn.Module] = {}
    for path in paths:
        layer = None
        for parent, part in pairwise(path):
            if not isinstance(parent, nn.ModuleList):
                continue
            if layer is not None and any(id(member) not in attends for member in parent):
                break
            layer = part
        if layer is not None:
            found[id(layer)] = layer
    return list(found.values())


def _path(model: nn.Module, name: str) -> list[nn.Module]:
    """The model, and every module on the way down to the one of this name."""
    path = [model]
    for part in name.split("."):
        path.append(path[-1].get_submodule(part))
    return path


def _checkpointed(layer: nn.Module, injection: Injection) -> Callable[[], None]:
    """Run a layer again in the backward pass instead of keeping what it computed.

    ptune's own, not the model's switch: when the layer runs again it must meet the call and the
    sites of its first run, and draw what was drawn there.
    """
    forward = layer.forward

    def first_run(*args: Any, **kwargs: Any) -> Any:
        call = injection.call
        assert call is not None
        counts = dict(call.counts)
        thread = get_ident()

        def run(*inner: Any, **named: Any) -> Any:
            # The backward pass of a GPU has threads of its own, for which the one that called it,
            # and may hold the injection, is waiting: there is no turn to wait for then.
            held = injection.model.__dict__.get("_ptune")
            if held is not None and held.thread == thread != get_ident():
                return held.again(call, counts, lambda: forward(*inner, **named))
            with injected(
                injection.model,
                injection.sites,
                also_embedding=injection.also_embedding,
                checkpointing=True,
                compiling=injection.compiling,
            ) as current:
                return current.again(call, counts, lambda: forward(*inner, **named))

        return checkpoint(
            run, *args, use_reentrant=False, preserve_rng_state=call.dropout, **kwargs
        )

    return replace_forward(layer, first_run)
