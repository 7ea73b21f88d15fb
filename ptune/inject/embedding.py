"""Virtual tokens enter through hooks on the input embedding.

    ids        101   1037   30522  30523   102        (30,522 embeddings: the last two are virtual)
    table                     p0     p1                rows of the prompts' vectors
    output     E101  E1037    p0     p1    E102

Hooks, not a replaced module: parameter names and tied weights stay, and removing the hooks restores
the model. Ids keep their meaning everywhere else, so nothing has to be shifted.

A model may read its ids a second time, in an embedding for every layer (Gemma 3n, Gemma 4). There a
virtual token is what an image is to those models: padding.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from ptune.inject.call import Call


class EmbeddingHooks:
    """Sends virtual ids to the prompt table and all others to the frozen table.

    Args:
        embedding: the model's input embedding.
        also: further embeddings that read token ids.
        padding: the id that those read where a token is virtual.
    """

    def __init__(
        self, embedding: nn.Module, also: Sequence[nn.Module] = (), padding: int = 0
    ) -> None:
        self.call: Call | None = None
        self.padding = padding
        self._virtual: Int[Tensor, "lines tokens"] | None = None
        self._handles: list[RemovableHandle] = [
            embedding.register_forward_pre_hook(self._hide),
            embedding.register_forward_hook(self._place),
            *(other.register_forward_pre_hook(self._as_padding) for other in also),
        ]

    def remove(self) -> None:
        """Restore the embedding."""
        for handle in self._handles:
            handle.remove()

    def _hide(
        self, module: nn.Module, args: tuple[Int[Tensor, "lines tokens"]]
    ) -> tuple[Int[Tensor, "lines tokens"]] | None:
        self._virtual = None
        if self.call is None or not any(p.vectors is not None for p in self.call.prompts):
            return None
        self._virtual = args[0] - self.call.first_virtual
        # Any real id will do beneath a virtual one: its row is overwritten.
        return (torch.where(self._virtual >= 0, 0, args[0]),)

    def _as_padding(
        self, module: nn.Module, args: tuple[Int[Tensor, "lines tokens"]]
    ) -> tuple[Int[Tensor, "lines tokens"]] | None:
        if self.call is None:
            return None
        return (torch.where(args[0] >= self.call.first_virtual, self.padding, args[0]),)

    def _place(
        self,
        module: nn.Module,
        args: tuple[Int[Tensor, "lines tokens"]],
        output: Float[Tensor, "lines tokens width"],
    ) -> Float[Tensor, "lines tokens width"] | None:
        if self._virtual is None or self.call is None:
            return None
        table = self.call.table()
        assert table is not None
        vectors = functional.embedding(self._virtual.clamp(min=0), table.to(output))
        return torch.where(self._virtual[..., None] >= 0, vectors, output)
