"""Attention of a whole pack in one call: torch's kernel for rows of different lengths, on a GPU.

    runs    queries of all sequences, one after the other; beside each sequence the keys it sees
    kernel  softmax(q k^T / sqrt(d)) v of every sequence for itself, without masks and padding

    if varlen.takes(query, key, value, ...):
        answers = varlen.attend(query, key, value, runs, causal=True)

The kernel is flash attention (arXiv:2307.08691) behind `torch.nn.attention.varlen`. It knows two
masks: none, and the causal one, in which the last query sees the last key. Both are what a sequence
of a pack needs, because its queries are the last of its keys. Whatever else a model does to its
scores (windows that bite, ALiBi, relative positions, soft caps, sinks) goes with masks, as before.

A device is asked to prove itself first: where the kernel fails, or gives other answers or gradients
than plain attention with a mask, masks are used there, and a warning says so.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ptune.batch import Group

# Of flash attention 2: widths of a head, and the first GPUs that have it (Ampere).
WIDEST, STEP, FIRST_CAPABILITY = 256, 8, (8, 0)
# Of the trial: the largest difference, relative to the largest number. Both sides round to 16 bits.
AGREEMENT = 0.03

Queries = Float[Tensor, "flat heads head_dim"]
# Those of prompts first, so there are more of them than tokens.
Keys = Float[Tensor, "flat_keys kv_heads head_dim"]
Values = Float[Tensor, "flat_keys kv_heads value_dim"]


@dataclass(frozen=True, slots=True)
class Runs:
    """All sequences of a pack, one after the other; nothing is padded.

    Args:
        query_at, key_at: flat indices. A sequence's keys are in the order of their places, a deep
            prompt's first, and its queries are the last of them (but in cross-attention).
        query_starts, key_starts: where each sequence begins among them, and where the last ends.
        most_queries, most_keys: of one sequence.
    """

    query_at: Int[Tensor, " queries"]
    key_at: Int[Tensor, " keys"]
    query_starts: Int[Tensor, " bounds"]
    key_starts: Int[Tensor, " bounds"]
    most_queries: int
    most_keys: int

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        slots_at: Int[Tensor, "prompts slots"],
        slots_real: Bool[Tensor, "prompts slots"],
        bank: int,
    ) -> "Runs":
        """Lay the groups of a pack out.

        Args:
            slots_at, slots_real: where each prompt's keys stand, before those of the batch.
            bank: how many keys stand there.
        """
        query_at, key_at, queries, keys = [], [], [], []
        for group in groups:
            at = torch.cat([slots_at[group.prompt], group.key_at + bank], dim=1)
            real = torch.cat([slots_real[group.prompt], group.key_real], dim=1)
            query_at.append(group.query_at[group.query_real])
            key_at.append(at[real])
            queries.append(group.query_real.sum(1))
            keys.append(real.sum(1))
        of_queries, of_keys = torch.cat(queries), torch.cat(keys)
        return cls(
            query_at=torch.cat(query_at),
            key_at=torch.cat(key_at),
            query_starts=_starts(of_queries),
            key_starts=_starts(of_keys),
            most_queries=int(of_queries.max()),
            most_keys=int(of_keys.max()),
        )


def _starts(lengths: Int[Tensor, " sequences"]) -> Int[Tensor, " bounds"]:
    return functional.pad(lengths.cumsum(0), (1, 0)).int()


def takes(query: Queries, key: Keys, value: Values) -> bool:
    """Whether the kernel computes attention of such queries, keys and values, and does it right."""
    width = query.shape[2]
    fits = width <= WIDEST and width % STEP == 0 and width == value.shape[2]
    short = query.dtype in (torch.float16, torch.bfloat16)
    return (
        fits
        and short
        and query.dtype == key.dtype == value.dtype
        and query.device.type == "cuda"
        and is_trusted(query.device, query.dtype, width)
    )


def attend(
    query: Queries, key: Keys, value: Values, runs: Runs, *, causal: bool, scaling: float | None
) -> Float[Tensor, "flat heads value_dim"]:
    """Attention of a pack; tokens that no sequence has (padding) get zeros.

    Args:
        query: of all tokens; `runs` says which they are.
        key, value: those of the prompts first.
        scaling: of the scores; None is `1 / sqrt(head_dim)`.
    """
    copies = query.shape[1] // key.shape[1]
    taken = [
        flat.index_select(0, runs.key_at).repeat_interleave(copies, dim=1) for flat in (key, value)
    ]
    answers: Tensor = kernel()(
        query.index_select(0, runs.query_at),
        *taken,
        runs.query_starts,
        runs.key_starts,
        runs.most_queries,
        runs.most_keys,
        scale=scaling,
        window_size=(-1, 0) if causal else (-1, -1),
    )
    empty = answers.new_zeros(query.shape[0], *answers.shape[1:])
    return empty.index_copy(0, runs.query_at, answers)


@cache
def kernel() -> Callable[..., Any]:
    """torch's own.

    Raises:
        ImportError: this torch has none, or one that takes no scale or window.
    """
    from torch.nn.attention.varlen import varlen_attn

    missing = {"scale", "window_size"} - set(inspect.signature(varlen_attn).parameters)
    if missing:
        raise ImportError(f"its varlen_attn takes no {' and no '.join(sorted(missing))}")
    return varlen_attn


@cache
def is_trusted(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel gives what plain attention gives on this device, backward too.

    Args:
        width: of a head; kernels are made for some of them.
    """
    if torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        return False
    try:
        # A thread of its own: autocast, inference mode and the hooks of gradient checkpointing, in
        # which the first use may lie, are those of the thread that asks.
        with ThreadPoolExecutor(1) as fresh:
            worst = fresh.submit(trial, device, dtype, width).result()
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        reason = f"it failed: {error}"
    else:
        if worst <= AGREEMENT:
            return True
        reason = f"its results differ by {worst:.2g} of their size"
    warnings.warn(
        f"torch's attention for rows of different lengths is not used on {device} in {dtype}, "
        f"heads of {width}, because {reason}. Attention with masks is used in its place; results "
        "are the same.",
        stacklevel=2,
    )
    return False


# Queries and keys of the trial's sequences; the queries are the last of the keys. Kernels work in
# tiles of up to 128.
_TRIED = ((3, 7), (150, 330), (5, 5), (1, 9))
_TRIED_SCALING = 0.3


def trial(device: torch.device, dtype: torch.dtype, width: int) -> float:
    """The largest difference of answers and gradients to plain attention, of their size.

    Without a mask and with the causal one, on sequences whose keys are more than their queries.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(tokens: int, heads: int) -> Tensor:
        made = torch.randn(tokens, heads, width, generator=generator, device="cpu")
        return made.to(device, dtype)

    counts = [torch.tensor(column, device=device) for column in zip(*_TRIED, strict=True)]
    runs = Runs(
        query_at=torch.arange(int(counts[0].sum()), device=device),
        key_at=torch.arange(int(counts[1].sum()), device=device),
        query_starts=_starts(counts[0]),
        key_starts=_starts(counts[1]),
        most_queries=int(counts[0].max()),
        most_keys=int(counts[1].max()),
    )
    worst = 0.0
    for causal in (False, True):
        inputs = [draw(len(runs.query_at), 4), *(draw(len(runs.key_at), 2) for _ in "kv")]
        weight = draw(len(runs.query_at), 4)
        for own, plain in zip(
            _with_gradients(attend, inputs, weight, runs, causal),
            _with_gradients(_plain, inputs, weight, runs, causal),
            strict=True,
        ):
            difference = float((own - plain).abs().max() / plain.abs().max())
            worst = max(worst, math.inf if math.isnan(difference) else difference)
    return worst


def _with_gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    weight: Tensor,
    runs: Runs,
    causal: bool,
) -> list[Tensor]:
    """What a way to attend gives, and the gradients of its inputs, in float32."""
    with torch.enable_grad():
        leaves = [one.detach().clone().requires_grad_() for one in inputs]
        answers = function(*leaves, runs, causal=causal, scaling=_TRIED_SCALING)
        gradients = torch.autograd.grad((answers * weight).sum(), leaves)
    return [found.detach().float() for found in (answers, *gradients)]


def _plain(
    query: Queries, key: Keys, value: Values, runs: Runs, *, causal: bool, scaling: float | None
) -> Tensor:
    """The same, one sequence after the other, with a mask."""
    copies = query.shape[1] // key.shape[1]
    key, value = (flat.repeat_interleave(copies, dim=1) for flat in (key, value))
    answers = []
    for i in range(len(runs.query_starts) - 1):
        own = slice(int(runs.query_starts[i]), int(runs.query_starts[i + 1]))
        seen = slice(int(runs.key_starts[i]), int(runs.key_starts[i + 1]))
        queries, keys, values = (
            flat[at].transpose(0, 1).float()
            for flat, at in ((query, own), (key, seen), (value, seen))
        )
        scores = queries @ keys.transpose(1, 2) * (scaling or query.shape[2] ** -0.5)
        if causal:
            late = torch.ones_like(scores[0], dtype=torch.bool)
            scores = scores.masked_fill(late.triu(keys.shape[1] - queries.shape[1] + 1), -torch.inf)
        answers.append((scores.softmax(-1) @ values).transpose(0, 1).to(query.dtype))
    return torch.cat(answers)
