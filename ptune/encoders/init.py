"""Where training starts: vectors for a prompt, and random parameters for a network.

    random_vectors       as wide-spread as `scale`
    sample_vocabulary    embeddings of random tokens

Every random number comes from the generator that is passed in (from torch's own without one), so
one seed makes one prompt, whatever else draws random numbers.

Knows a table of vectors, not the tokenizer or the backbone that it belongs to.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.errors import ConfigError

Layer = TypeVar("Layer", bound=nn.Module)


def random_vectors(
    slots: int, width: int, scale: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, "slots width"]:
    """Draw `scale * N(0, 1)`.

    Args:
        slots: number of vectors, at least 1.
        width: floats of a vector, at least 1.
        scale: standard deviation; that of the backbone's embeddings makes vectors like its own.
        generator: on the CPU.

    Raises:
        ConfigError: slots or width is below 1.

    >>> random_vectors(2, 3, 0.02, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    if width < 1:
        raise ConfigError(f"random_vectors: width = {width} must be at least 1.")
    _some("random_vectors", slots)
    return torch.randn(slots, width, generator=generator) * scale


def sample_vocabulary(
    table: Float[Tensor, "vocab width"], slots: int, generator: torch.Generator | None = None
) -> Float[Tensor, "slots width"]:
    """Draw rows of `table`, all different unless it has fewer rows than slots.

    Args:
        table: the embeddings to draw from. Tokenizers list common tokens first, so
            `embeddings[:5000]` draws among common ones, as the source does.
        slots: number of vectors, at least 1.
        generator: on the CPU.

    Raises:
        ConfigError: slots is below 1, or the table has no row.
    Source: Lester et al. 2021, arXiv:2104.08691 (the 5,000 most common tokens).

    >>> sample_vocabulary(torch.eye(3), 3, torch.Generator().manual_seed(0)).sum(dim=0)
    tensor([1., 1., 1.])
    """
    _some("sample_vocabulary", slots)
    if not len(table):
        raise ConfigError("sample_vocabulary: the table of embeddings has no row to draw from.")
    rounds = -(-slots // len(table))
    drawn = [torch.randperm(len(table), generator=generator) for _ in range(rounds)]
    picked = table.detach()[torch.cat(drawn)[:slots].to(table.device)]
    return picked.to("cpu", torch.promote_types(table.dtype, torch.float32))


def vector_table(slots: int, width: int, generator: torch.Generator | None) -> nn.Parameter:
    """Return a trained table that starts at N(0, 1), as `nn.Embedding` does."""
    return nn.Parameter(torch.randn(slots, width, generator=generator))


def linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a linear layer that starts as torch's own does, but from the generator."""
    return started(lambda: nn.Linear(inputs, outputs), inputs**-0.5, generator)


def started(build: Callable[[], Layer], bound: float, generator: torch.Generator | None) -> Layer:
    """Build a layer whose parameters come from -bound .. bound, in the order of torch's own.

    On the meta device layers draw no random numbers: torch's own generator is left alone.
    """
    with torch.device("meta"):
        layer = build()
    layer.to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return layer


def zero(layer: nn.Module) -> None:
    """Set the parameters of a last layer to zero: the network starts as if it were absent.

    Layers before it get their first gradient at the second step, when this one has moved.
    """
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _some(function: str, slots: int) -> None:
    if slots < 1:
        raise ConfigError(
            f"{function}: slots = {slots} must be at least 1: it is the number of virtual tokens."
        )
