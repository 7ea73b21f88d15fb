"""Attention of short rows on a CPU: torch's fused kernel beside plain products.

ptune takes plain products where a gradient is wanted in 16 bits on a CPU (`inject/attention.py`);
this prints why: milliseconds of a forward and a backward pass, medians of calls in turn.

    python bench/attention_kernels.py --json bench/results/attention_kernels.jsonl
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from common import Line, machine, markdown, options, read_lines, settings_line, write_line
from torch import Tensor
from torch.nn import functional

# Rows, heads, queries a row, keys a row, width of a head.
SHAPES = ((8, 16, 30, 52, 64), (16, 12, 30, 50, 64), (4, 12, 300, 320, 64))
CALLS = 30


def fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """torch's kernel."""
    return functional.scaled_dot_product_attention(query, key, value, bias)


def plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Two products and a softmax in float32, as ptune has it."""
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


def measured(shape: tuple[int, ...], dtype: torch.dtype) -> Line:
    """Milliseconds of each side, forward and backward, one call each in turn."""
    rows, heads, queries, keys, width = shape
    made = [torch.randn(rows, n, heads, width, dtype=dtype) for n in (queries, keys, keys)]
    inputs = [one.transpose(1, 2).requires_grad_() for one in made]
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    bias = torch.zeros(rows, heads, queries, keys, dtype=dtype).masked_fill(~seen, -torch.inf)
    spent: dict[str, list[float]] = {"fused": [], "plain": []}
    for _ in range(CALLS + 1):  # the first warms up
        for name, side in (("fused", fused), ("plain", plain)):
            spent[name].append(_milliseconds(side, inputs, bias))
    return {name: statistics.median(times[1:]) for name, times in spent.items()}


def _milliseconds(side: Callable[..., Tensor], inputs: Sequence[Tensor], bias: Tensor) -> float:
    start = time.perf_counter()
    answer = side(*inputs, bias)
    torch.autograd.grad(answer, inputs, torch.ones_like(answer))
    return 1e3 * (time.perf_counter() - start)


def table(lines: Sequence[Line]) -> str:
    """A line for each shape and number format: the last result of each."""
    last = {(tuple(line["shape"]), line["format"]): line for line in lines}
    if not last:
        return "Nothing was measured yet."
    head = [
        "rows, heads, queries, keys, width",
        "format",
        "fused, ms",
        "plain, ms",
        "fused / plain",
    ]
    rows = [
        [
            " x ".join(map(str, shape)),
            name,
            f"{line['fused']:.2f}",
            f"{line['plain']:.2f}",
            f"{line['fused'] / line['plain']:.1f}",
        ]
        for (shape, name), line in last.items()
    ]
    note = settings_line(list(last.values()), f"medians of {CALLS} calls, forward and backward")
    return "\n".join([markdown(head, rows), "", note])


def main() -> None:
    """Measure every shape in both formats, and print the table."""
    args = options(__doc__).parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    torch.set_num_threads(args.threads)
    lines = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            line = {"bench": "attention_kernels", "shape": shape, "format": str(dtype)[6:]}
            line |= measured(shape, dtype) | machine(args.threads)
            write_line(args.json, line)
            lines.append(line)
    print(table(lines))


if __name__ == "__main__":
    main()
