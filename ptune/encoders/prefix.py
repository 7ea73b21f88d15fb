"""The prefix encoder of deep prompts: keys and values for attention sites.

    one slot's floats, two sites, each kv_heads x head_dim:

    | keys of site 0 | values of site 0 | keys of site 1 | values of site 1 |

The order is that of the P-tuning v2 code, so its files can be read as they are.

Knows the shapes of sites, not the backbone that has them. Keys are what attention reads: in a
model with rotary positions, after the rotation.
Next: `ptune.inject` puts keys and values into attention.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ptune.encoders.encoder import (
    Encoder,
    at_least_one,
    checked_initial,
    dropout_share,
    positive_scale,
)
from ptune.encoders.init import linear, vector_table, zero
from ptune.errors import ConfigError


class SiteShape(NamedTuple):
    """What one slot has at one attention site.

    Args:
        kv_heads: heads of the keys and of the values; fewer than query heads where they are shared.
        key_dim: floats of one key.
        value_dim: floats of one value.
    """

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def floats(self) -> int:
        """Floats of one slot here, keys and values together."""
        return self.kv_heads * (self.key_dim + self.value_dim)


class KeysValues(NamedTuple):
    """Keys and values of all slots at one site; `head_dim` may differ between the two."""

    keys: Float[Tensor, "slots kv_heads head_dim"]
    values: Float[Tensor, "slots kv_heads head_dim"]


class SiteScale(NamedTuple):
    """Units of the keys and of the values at one site, such as their spread on text."""

    keys: float
    values: float


class PrefixEncoder(Encoder):
    """Keys and values at attention sites: `P = scale * W`, or `P = scale * (V tanh(U E + u) + v)`.

    `P` is slots x floats, where floats is the sum of `kv_heads * (key_dim + value_dim)` over the
    sites: slots * 2 * layers * kv width in a plain transformer. Without projection `W` has the
    shape of `P`. With it, `E` is slots x embedding_width, `U` embedding_width -> projection, `V`
    projection -> floats: 25.8 million trained floats for BERT-large, 20 slots and projection 512.

    With `initial` and no projection, `W` starts there: the first prompt is `initial` to float
    rounding (bit for bit where the scales are powers of two). With a projection it is
    `P = initial + scale * (S + V ... + v)`, where `S`, `V` and `v` start at zero: `initial` bit for
    bit. The trained table `S` learns what the network is slow to (see `NetworkEncoder`).

    Args:
        slots: number of deep virtual tokens.
        shapes: of the sites, in call order.
        projection: width in the middle of the network (the authors' `prefix_hidden_size`, 512);
            None for free keys and values.
        embedding_width: of `E`, with a projection only. The authors have the backbone's hidden
            width. By default it is the width of all keys at the first site, which is the same in
            the authors' backbones, and smaller where queries share keys; PEFT does so, too.
        dropout: share of the keys' and values' numbers set to zero while training, 0 .. 1. The
            authors have the backbone's own dropout here (0.1).
        initial: keys and values to start from, one pair a site.
        scales: unit of the numbers at each site (see `EmbeddingEncoder`); None is 1 everywhere, the
            paper's form.
        generator: on the CPU; source of the random start.

    Raises:
        ConfigError: there is no site, an argument is out of range, or `initial` or `scales` does
            not fit the sites.
    Source: Liu et al. 2022, arXiv:2110.07602, section 3.3; the authors' model/prefix_encoder.py.

    >>> encoder = PrefixEncoder(5, [SiteShape(kv_heads=2, key_dim=4, value_dim=4)] * 3)
    >>> encoder(torch.arange(5)[None]).shape
    torch.Size([1, 5, 48])
    """

    scale: Tensor
    initial: Tensor | None
    projection: nn.Sequential | None
    shift: nn.Parameter | None

    def __init__(
        self,
        slots: int,
        shapes: Sequence[SiteShape],
        *,
        projection: int | None = None,
        embedding_width: int | None = None,
        dropout: float = 0.0,
        initial: Sequence[KeysValues] | None = None,
        scales: Sequence[SiteScale] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_shapes(shapes)
        super().__init__(slots, sum(shape.floats for shape in shapes))
        self.shapes = tuple(shapes)
        self.dropout = nn.Dropout(dropout_share(self, dropout))
        self.register_buffer("scale", self._flat_scales(scales))
        start = None if initial is None else self._flat_initial(initial)
        if projection is None:
            self._free(start, embedding_width, generator)
        else:
            self._projected(start, projection, embedding_width, generator)

    def _free(
        self,
        start: Tensor | None,
        embedding_width: int | None,
        generator: torch.Generator | None,
    ) -> None:
        if embedding_width is not None:
            raise ConfigError(
                f"PrefixEncoder: embedding_width = {embedding_width} goes with a projection only. "
                "Set projection, or leave embedding_width out."
            )
        self.projection = None
        self.shift = None
        self.register_buffer("initial", None)
        if start is None:
            self.embedding = vector_table(self.slots, self.width, generator)
        else:
            self.embedding = nn.Parameter(start / self.scale)

    def _projected(
        self,
        start: Tensor | None,
        middle: int,
        embedding_width: int | None,
        generator: torch.Generator | None,
    ) -> None:
        width = embedding_width
        if width is None:
            width = self.shapes[0].kv_heads * self.shapes[0].key_dim
        at_least_one(self, "projection", middle, "the width in the middle of the network")
        at_least_one(self, "embedding_width", width, "the width at the start of the network")
        self.embedding = vector_table(self.slots, width, generator)
        first, last = linear(width, middle, generator), linear(middle, self.width, generator)
        self.projection = nn.Sequential(first, nn.Tanh(), last)
        if start is not None:
            zero(last)
        self.shift = None if start is None else nn.Parameter(torch.zeros_like(start))
        self.register_buffer("initial", start)

    def direct_parameters(self) -> list[nn.Parameter]:
        """`W`, or `S` beside a projection."""
        if self.projection is None:
            return [self.embedding]
        return [] if self.shift is None else [self.shift]

    def table(self) -> Float[Tensor, "slots floats"]:
        """Compute the keys and values of all slots, without dropout."""
        made = self.embedding if self.projection is None else self.projection(self.embedding)
        if self.initial is None or self.shift is None:
            return self.scale * made
        return self.initial + self.scale * (self.shift + made)

    def forward(self, indices: Int[Tensor, "batch slots"]) -> Float[Tensor, "batch slots floats"]:
        """Return the keys and values of these slots, in training with dropout.

        Each row of `indices` has a mask of its own. A run asks for one row, so that all rows of a
        pass share its mask.
        """
        return self.dropout(super().forward(indices))

    def split(self, flat: Float[Tensor, "slots floats"]) -> list[KeysValues]:
        """Cut one row of `forward`, or the folded table, into keys and values for each site."""
        sizes = [heads * dim for _, _, heads, dim in self._parts()]
        cut = torch.split(flat, sizes, dim=-1)
        parts = [
            part.reshape(-1, heads, dim)
            for part, (_, _, heads, dim) in zip(cut, self._parts(), strict=True)
        ]
        return [KeysValues(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)]

    def _parts(self) -> Iterator[tuple[int, Literal["keys", "values"], int, int]]:
        """Yield site, kind, heads and head width of each part of a slot's floats, in order."""
        for site, shape in enumerate(self.shapes):
            yield site, "keys", shape.kv_heads, shape.key_dim
            yield site, "values", shape.kv_heads, shape.value_dim

    def _flat_scales(self, scales: Sequence[SiteScale] | None) -> Tensor:
        if scales is None:
            return torch.tensor(1.0)
        self._one_a_site("scales", len(scales))
        flat = []
        for site, kind, heads, dim in self._parts():
            unit = positive_scale(self, f"scales[{site}].{kind}", getattr(scales[site], kind))
            flat.append(torch.full((heads * dim,), unit))
        return torch.cat(flat)

    def _flat_initial(self, initial: Sequence[KeysValues]) -> Tensor:
        self._one_a_site("initial", len(initial))
        flat = []
        for site, kind, heads, dim in self._parts():
            tensor, shape = getattr(initial[site], kind), (self.slots, heads, dim)
            name, axes = f"initial[{site}].{kind}", "slots x kv_heads x head_dim"
            flat.append(checked_initial(self, name, tensor, shape, axes).flatten(1))
        return torch.cat(flat, dim=1)

    def _one_a_site(self, name: str, found: int) -> None:
        if found != len(self.shapes):
            raise ConfigError(
                f"PrefixEncoder: {name} has {found} entries for {len(self.shapes)} attention "
                "sites. Give one for each site of this prompt, in the same order."
            )


def _check_shapes(shapes: Sequence[SiteShape]) -> None:
    if not shapes:
        raise ConfigError(
            "PrefixEncoder: there is no attention site to make keys and values for. "
            "Choose at least one layer of the backbone."
        )
    for site, shape in enumerate(shapes):
        if min(shape) < 1:
            raise ConfigError(
                f"PrefixEncoder: attention site {site} has kv_heads = {shape.kv_heads}, "
                f"key_dim = {shape.key_dim}, value_dim = {shape.value_dim}; "
                "each must be at least 1. Take the shapes from the backbone's geometry."
            )
