r"""PEFT's prefixes for encoder-decoders: which numbers reach which layer.

    one slot's floats:   | pair 0 | pair 1 | ... | pair L-1 |     a pair: keys, values
    the decoder's layer i takes pair (2 i) mod L                  L: num_layers

PEFT lays two copies of the pairs side by side, gives each layer two of them, and throws the second
away, which was meant for the cross-attention. So the prefix enters the decoder's self-attention
alone; and where `L` is even, layers `i` and `i + L/2` share one pair while every other pair is
never read. An odd `L` gives each layer a pair of its own. (Measured with PEFT 0.21 by
tests/formats/test_peft_two_sided.py.)

The text of the decoder begins behind the prefix: absolute positions count from there, and T5's
bias is that of keys which stand right before the first token. Both are the prompt's `offset`.
"""

import logging

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError

log = logging.getLogger("ptune")

# How well states must agree, by the norm of their difference.
TOLERANCE = 1e-2


def pair_of(layer: int, layers: int) -> int:
    """The pair that PEFT hands to a layer of the decoder.

    Args:
        layers: the folder's num_layers.

    >>> [pair_of(layer, 4) for layer in range(4)], [pair_of(layer, 3) for layer in range(3)]
    ([0, 2, 0, 2], [0, 2, 1])
    """
    return 2 * layer % layers


@torch.no_grad()
def check_words(name: str, backbone: Backbone) -> None:
    """Refuse an encoder that PEFT, which hands it vectors in place of ids, gives other words.

    Pegasus and Marian multiply what they look up by `sqrt(d_model)`, and leave vectors as they are.

    Raises:
        ArtifactError: ids and their vectors give other states.
    """
    encoder = backbone.body.get_encoder()
    ids = torch.arange(5, 11, device=backbone.device)[None]
    vectors = encoder.get_input_embeddings()(ids)
    by_ids = encoder(input_ids=ids).last_hidden_state
    by_vectors = encoder(inputs_embeds=vectors).last_hidden_state
    if (by_ids - by_vectors).norm() > TOLERANCE * by_ids.norm():
        raise ArtifactError(
            f'{name}: PEFT hands words to the encoder of "{backbone.name}" as vectors, and this '
            "model takes vectors for something else than its words (it scales those it looks up "
            "itself), so with virtual tokens PEFT answers to another text. Train the prompt with "
            "task: seq2seq-lm, and keep it in ptune."
        )


def decoder_sites(backbone: Backbone) -> list[int]:
    """The self-attention of the decoder, layer by layer."""
    return [at for at, site in enumerate(backbone.geometry.sites) if site.kind == "decoder"]


def to_decoder(
    name: str, table: Float[Tensor, "slots floats"], layers: int, backbone: Backbone
) -> dict[int, KeysValues]:
    """Cut a flat prefix into the keys and values of the decoder's layers, as PEFT does.

    Args:
        layers: the folder's num_layers.
    Raises:
        ArtifactError: the prefix does not fit the backbone.
    """
    sites = decoder_sites(backbone)
    heads, dim, _ = backbone.geometry.sites[sites[0]].shape
    if len(sites) > layers or table.shape[1] != 2 * layers * heads * dim:
        raise ArtifactError(
            f"{name}: its prefix has {table.shape[1]:,} numbers a virtual token for {layers} "
            f'layers, and the decoder of "{backbone.name}" has {len(sites)} of 2 x {heads} heads x '
            f"{dim}. Load the backbone that it was made for."
        )
    pairs = table.view(len(table), layers, 2, heads, dim)
    taken = [pair_of(layer, layers) for layer in range(len(sites))]
    if len(set(taken)) < len(taken):
        log.warning(
            "%s: PEFT gave several layers of the decoder the same keys and values (of %d layers, "
            "layer i and layer i + %d), and never used the others. The imported prompt answers as "
            "PEFT does; prompts trained here have keys and values of their own in every layer.",
            name,
            layers,
            layers // 2,
        )
    return {
        site: KeysValues(pairs[:, pair, 0].contiguous(), pairs[:, pair, 1].contiguous())
        for site, pair in zip(sites, taken, strict=True)
    }


def from_decoder(
    deep: dict[int, KeysValues], backbone: Backbone
) -> tuple[int, Float[Tensor, "slots floats"]]:
    """The way back: num_layers and a flat prefix from which every layer gets its own.

    Where the decoder has an even number of layers, one more is told to PEFT: its pair is never
    read, and no other is shared.
    """
    sites = decoder_sites(backbone)
    layers = len(sites) + 1 - len(sites) % 2
    slots, heads, dim = deep[sites[0]].keys.shape
    pairs = torch.zeros(slots, layers, 2, heads, dim)
    for layer, site in enumerate(sites):
        pairs[:, pair_of(layer, layers)] = torch.stack(tuple(deep[site]), dim=1).float()
    return layers, pairs.flatten(1)
