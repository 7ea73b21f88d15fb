r"""Int8 weights: a quarter of float32's memory, also while a prompt is trained through them.

    s_i = max_j |W_ij| / 127,   C_ij = round(W_ij / s_i),   y_i = sum_j s_i C_ij x_j + b_i

One scale for each row of the weight, none for what flows through: the plain form that LLM.int8()
starts from (arXiv:2208.07339), of weights only. A number is off by `s_i / 2` at most.

ptune has its own because a frozen weight is asked for twice: forward, and backward for the gradient
that goes down to the prompt. Libraries for inference (torchao 0.18 was tried) leave the float copy
of every weight in the graph until the backward pass, which is as much memory as was saved.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ptune.errors import BackboneError

LARGEST = 127


class Int8Linear(nn.Module):
    """A frozen linear layer whose weight is held as int8 codes and one scale a row.

    Args:
        weight: of the layer that it stands for.
        bias: likewise; stays as it is.

    >>> layer = Int8Linear(torch.tensor([[1.27, -0.5], [0.0, 2.54]]), None)
    >>> layer.codes.tolist()
    [[127, -50], [0, 127]]
    """

    def __init__(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        whole = weight.detach().float()
        scale = whole.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
        codes = (whole / scale[:, None]).round().to(torch.int8)
        self.codes = nn.Parameter(codes.contiguous(), requires_grad=False)  # FSDP wants it so
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = bias

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight that the codes stand for, made on demand."""
        return self.codes * self.scale[:, None]

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """What `nn.Linear` computes with `weight`."""
        y = _Multiply.apply(x, self.codes, self.scale)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """As `nn.Linear` shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class _Multiply(torch.autograd.Function):
    """`x (s C)^T`; for the backward pass it keeps the codes and no float copy of them.

    The scale goes onto the codes and not onto sums: codes are up to 127, and the sum of `x C` would
    overflow in float16, as the gradient times `s` would vanish.
    """

    @staticmethod
    def forward(
        x: Float[Tensor, "*batch inputs"],
        codes: Int8[Tensor, "outputs inputs"],
        scale: Float[Tensor, " outputs"],
    ) -> Float[Tensor, "*batch outputs"]:
        return x @ _weight(codes, scale, x.dtype).T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        codes, scale = ctx.saved_tensors
        grad = grads[0]
        return grad @ _weight(codes, scale, grad.dtype), None, None


def _weight(
    codes: Int8[Tensor, "outputs inputs"], scale: Float[Tensor, " outputs"], dtype: torch.dtype
) -> Float[Tensor, "outputs inputs"]:
    """`s C` in this format. In place, and by the scale as it is: float16 would cut a small one."""
    return codes.to(dtype).mul_(scale[:, None])


def make_int8(layers: Iterable[nn.Module], model_name: str) -> None:
    """Put `Int8Linear` in the place of every linear module inside these layers.

    Embeddings, norms and the head stay: they are few, and the head decides the words.

    Raises:
        BackboneError: the layers hold none.
    """
    found = 0
    for layer in layers:
        places = [
            (parent, name, module)
            for parent in layer.modules()
            for name, module in parent.named_children()
            if isinstance(module, nn.Linear | Conv1D)
        ]
        found += len(places)
        for parent, name, module in places:
            weight = module.weight.T if isinstance(module, Conv1D) else module.weight
            setattr(parent, name, Int8Linear(weight, module.bias))
    if not found:
        raise BackboneError(
            f"{model_name}: its layers hold no linear modules that quantization = int8 could work "
            "on. Leave quantization out."
        )
