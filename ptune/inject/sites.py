"""Attention sites and the geometry of a backbone: what the probe finds, as plain numbers.

    Site(name="model.layers.3.self_attn", call=0, shape=SiteShape(kv_heads=2, ...), causal=True)

Knows no model; `ptune.inject.probe` fills it in.
"""

from dataclasses import dataclass
from typing import Literal

from ptune.encoders import SiteShape

Kind = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True, slots=True)
class Site:
    """One self- or cross-attention of one layer.

    Args:
        name: the attention module's name in the backbone.
        call: 0, or higher where one module serves several layers (ALBERT).
        shape: key/value heads and widths.
        causal: no query sees a later token.
        window: how many tokens back a query sees, itself included; None without a limit.
        kind: an encoder's attention, a decoder's, or that of a decoder to an encoder's states.
    """

    name: str
    call: int
    shape: SiteShape
    causal: bool
    window: int | None
    kind: Kind


# What transformers calls keys and values that are kept between passes: from 5.24 on, and before.
CACHE_NAMES = ("cache", "past_key_values")


@dataclass(frozen=True, slots=True)
class Geometry:
    """What injection must know of a backbone.

    Args:
        num_embeddings: rows of the input embedding; virtual ids begin here.
        width: of the input embeddings.
        hidden: of the final states.
        sites: in the order in which a forward pass meets them.
        causal: every site is causal, so equal prefixes can be shared. Never of an encoder-decoder.
        padded: tokens meet outside attention too, so batches are padded.
        takes: names of the arguments that `forward` accepts and understands as ptune does.
        first_position: of the first token (RoBERTa starts behind its padding id).
        relative: only differences of positions matter, so keys may stand before position 0.
        also_embedding: names of further embeddings that read token ids (Gemma 3n, Gemma 4).
        max_tokens: longest sequence, in tokens; None without a limit.
        two_sided: it is an encoder-decoder: its sequences have a decoder side.
    """

    num_embeddings: int
    width: int
    hidden: int
    sites: tuple[Site, ...]
    causal: bool
    padded: bool
    takes: frozenset[str]
    first_position: int
    relative: bool
    max_tokens: int | None
    also_embedding: tuple[str, ...] = ()
    two_sided: bool = False
