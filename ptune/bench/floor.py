r"""The floor: what the matrix products of a step take at the machine's own peak, and nothing else.

    floor = (2 + 2 b) P T + 4 V H R        FLOPs, over the peak in FLOP/s

    P  weights of the body's matrices           T  real tokens, a shared prefix of the rows once
    V  vocabulary   H  width of the states      R  positions that ask for the whole vocabulary
    b  share of the layers that a gradient has to pass: 1 but for deep prompts in upper layers

A product of a token with P weights is 2 P FLOPs; the gradient goes back through the same matrices
once more, and there is no third product, since the weights are frozen. Attention, norms and
activations are left out, so no program can be at 1.0. The peak is measured: the best rate among
the products that such a body makes and a large square.

Two things that the formula does not know: weights that serve several layers (ALBERT) and experts
that see some of the tokens count once each.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ptune.batch import TokenSequence, pack

# How long each product is repeated; the fastest one counts.
SECONDS_PER_PRODUCT = 0.5


@dataclass(frozen=True, slots=True)
class Counts:
    """What a batch holds, in tokens.

    Args:
        real: tokens that stand for something; a shared prefix of the rows once, where it is shared.
        padded: positions, if every sequence stood on a line as long as the longest.
        words: positions that ask for probabilities over the whole vocabulary. Behind a row whose
            labels are compared the sum over the vocabulary cancels; in longer labels it does not.
    """

    real: int
    padded: int
    words: int


def count(sequences: Sequence[TokenSequence], *, share: bool, over_labels: bool = False) -> Counts:
    """Count the tokens of a batch.

    Args:
        share: a shared prefix is computed once, as a causal model can.
        over_labels: the labels of a row are compared with one another (`CausalLM`).
    """
    packed = pack(sequences, share=share)
    padded = pack(sequences, share=False, padded=True)
    behind_rows = sum(len(sequence.reads) for sequence in sequences) if over_labels else 0
    return Counts(packed.real_tokens, padded.ids.numel(), len(packed.reads) - behind_rows)


def body_parameters(body: nn.Module) -> int:
    """Weights of the matrices in the layers: no embedding, no pooler, no head."""
    weights = {
        id(weight): weight.numel()
        for layers in body.modules()
        if isinstance(layers, nn.ModuleList)
        for weight in layers.parameters()
        if weight.dim() >= 2
    }
    return sum(weights.values())


def step_flops(
    *, body: int, tokens: int, head: int, reads: int, backward_share: float = 1.0
) -> float:
    """FLOPs of a training step.

    Args:
        body: weights of the body's matrices.
        head: weights of the matrix that makes logits; 0 where none is read.
        backward_share: of the layers that the gradient passes, 0 .. 1.

    >>> step_flops(body=10, tokens=3, head=100, reads=2)
    920.0
    """
    return (2 + 2 * backward_share) * body * tokens + 4.0 * head * reads


def matrix_rates(
    dtype: torch.dtype,
    width: int,
    *,
    device: torch.device | str = "cpu",
    tokens: int = 256,
    seconds: float = SECONDS_PER_PRODUCT,
) -> dict[str, float]:
    """GFLOP/s of the matrix products of a body of this width, and of a large square."""
    square = 8192 if torch.device(device).type == "cuda" else 2048
    shapes = {
        f"{tokens}x{width} to {3 * width}": (tokens, width, 3 * width),
        f"{tokens}x{width} to {4 * width}": (tokens, width, 4 * width),
        f"{tokens}x{4 * width} to {width}": (tokens, 4 * width, width),
        f"{square} square": (square, square, square),
    }
    place = torch.device(device)
    return {name: _rate(dtype, place, shape, seconds) for name, shape in shapes.items()}


def _rate(
    dtype: torch.dtype, device: torch.device, shape: tuple[int, int, int], seconds: float
) -> float:
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device).to(dtype)
    right = torch.randn(columns, inner, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = clock(device)
        torch.nn.functional.linear(left, right)
        best = min(best, clock(device) - start)
    return 2 * rows * inner * columns / best / 1e9


def clock(device: torch.device) -> float:
    """The time in seconds, when the device has done all that it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
