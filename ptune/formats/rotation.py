r"""Keys of rotary models, moved to other positions.

    k(p + n) = R(n) k(p)         R(n): each pair of numbers turned by n * frequency

(RoFormer, arXiv:2104.09864.) Pairs are halves apart (`i, i + d/2`: Llama, GPT-NeoX)
or neighbours (`2i, 2i + 1`: GPT-J, Cohere), over all of a head or its first part. Which frequencies
and which pairs a site has is found by running the model twice on one text, `n` positions apart.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError
from ptune.run import keys_values_of

# Ids of the text on which a rotation is tried, and how well it must agree.
TRIED_TOKENS = 4
TOLERANCE = 1e-4

Keys = Float[Tensor, "slots heads dim"]


def turned(keys: Keys, frequencies: Float[Tensor, " pairs"], by: int, *, apart: bool) -> Keys:
    """Turn keys by so many positions.

    Args:
        apart: the two numbers of a pair stand half of the turned part apart; else side by side.

    >>> quarter = torch.tensor([torch.pi / 2])
    >>> turned(torch.tensor([[[1.0, 0.0]]]), quarter, 1, apart=True).round().abs().tolist()
    [[[0.0, 1.0]]]
    """
    pairs = len(frequencies)
    part, rest = keys[..., : 2 * pairs], keys[..., 2 * pairs :]
    shape = (2, pairs) if apart else (pairs, 2)
    one, other = part.reshape(*part.shape[:-1], *shape).unbind(-2 if apart else -1)
    angle = frequencies.double() * by
    cos, sin = angle.cos().to(keys), angle.sin().to(keys)
    moved = torch.stack([one * cos - other * sin, other * cos + one * sin], -2 if apart else -1)
    return torch.cat([moved.flatten(-2), rest], dim=-1)


def moved(deep: Mapping[int, KeysValues], by: int, backbone: Backbone) -> dict[int, KeysValues]:
    """Move the keys of a deep prompt by so many positions.

    Raises:
        ArtifactError: the backbone turns its keys in a way that is not known here.
    """
    if by == 0:
        return dict(deep)
    ids = list(range(5, 5 + TRIED_TOKENS))
    before = keys_values_of(backbone, ids, at=0).deep
    after = keys_values_of(backbone, ids, at=by).deep
    found = {}
    for site, (keys, values) in deep.items():
        ways = _ways(backbone, keys.shape[-1])
        here, there = before[site].keys, after[site].keys
        way = next((w for w in ways if _close(turned(here, w[0], by, apart=w[1]), there)), None)
        if way is None:
            raise ArtifactError(
                f'"{backbone.name}": how it writes positions into its keys at attention site '
                f"{site} is not known to ptune, so they cannot be moved by {by}. Keep the prompt "
                "in ptune."
            )
        found[site] = KeysValues(turned(keys.float(), way[0].cpu(), by, apart=way[1]), values)
    return found


def _ways(backbone: Backbone, dim: int) -> Iterator[tuple[Tensor, bool]]:
    """Frequencies and pairings that a head of this width may have; none at all first."""
    yield torch.zeros(1), True
    for name, buffer in backbone.body.named_buffers():
        if name.endswith("inv_freq") and 2 * len(buffer) <= dim:
            yield buffer.detach().float().cpu(), True
            yield buffer.detach().float().cpu(), False


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= TOLERANCE * other.norm())
