"""Where the time of the classic job's step goes: ptune's side of `classic_job.py`, by operation.

The same model, rows and loss, in a process of its own. Steps are timed first, then profiled by
torch's profiler; the table has the share of each kind of operation in the profiled steps.

    products        the matrix products of the body, and of the head at the reads
    attention       the fused kernel, or its plain products and softmax
    gathers         packs taken apart into rows and put together again, and buffers copied or filled
    activations     GELU
    norms           layer norms
    the rest        additions, the loss, the optimizer, and what the profiler itself costs

    python bench/step_profile.py --json bench/results/step_profile.jsonl
    python bench/step_profile.py --layers 2 --steps 2          a quick try
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from classic_job import learner
from common import (
    Line,
    find_data,
    machine,
    markdown,
    options,
    read_lines,
    settings_line,
    write_line,
)

from ptune.bench.process import ALLOCATION

# Kind -> names of torch's operations, as the profiler has them.
KINDS = {
    "products": ("mm", "addmm", "linear"),
    "attention": ("bmm", "baddbmm", "softmax", "scaled_dot_product"),
    "gathers": ("index", "scatter_add", "copy", "fill_", "cat"),
    "activations": ("gelu", "tanh"),
    "norms": ("layer_norm",),
}
# Steps whose rows have new lengths ask for new buffers; so many are left out before timing.
WARM_UP = 4


def kind_of(operation: str) -> str:
    """The kind of an operation.

    >>> kind_of("aten::addmm"), kind_of("aten::native_layer_norm_backward"), kind_of("aten::add")
    ('products', 'norms', 'the rest')
    """
    name = operation.removeprefix("aten::")
    if name in KINDS["products"]:
        return "products"
    if "log_softmax" in name:
        return "the rest"
    for kind, parts in KINDS.items():
        if kind != "products" and any(part in name for part in parts):
            return kind
    return "the rest"


def profiled(job: Line, steps: int) -> Line:
    """Seconds of a step, and the share of each kind of operation."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.save(torch.randn(20, job["hidden"]) * 0.02, job["start"])
    with learner(job) as (_, step):
        for _ in range(WARM_UP):
            step()
        seconds = [step()["seconds"] for _ in range(steps)]
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(steps):
                step()
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for event in found.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    whole = sum(spent.values())
    return {
        "seconds": statistics.median(seconds),
        "shares": {kind: time / whole for kind, time in spent.items()},
    }


def table(lines: Sequence[Line]) -> str:
    """A line for each number format: the last result of each."""
    last = {line["format"]: line for line in lines}
    if not last:
        return "Nothing was measured yet."
    kinds = [*KINDS, "the rest"]
    rows = [
        [name, f"{line['seconds']:.2f}", *(f"{line['shares'][kind]:.1%}" for kind in kinds)]
        for name, line in last.items()
    ]
    one = next(iter(last.values()))
    note = settings_line(
        list(last.values()),
        f"the classic job's model with {one['layers']} layers, loss over the vocabulary, batch 8; "
        f"median of {one['steps']} steps after {WARM_UP} to warm up; shares of as many "
        "profiled steps",
    )
    return "\n".join([markdown(["format", "s / step", *kinds], rows), "", note])


def main() -> None:
    """Profile each number format in a process of its own, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=6, help="timed, and as many profiled")
    parser.add_argument("--layers", type=int, default=24, help="fewer for a quick try")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the model")
    parser.add_argument("--vocabulary", type=int, default=250_880, help="of the model")
    parser.add_argument("--work", help="used by the script itself: be a measured process")
    args = parser.parse_args()
    if args.work:
        job = json.loads(args.work)
        print("@" + json.dumps(profiled(job, job["steps"])))
        return
    if args.table:
        print(table(read_lines(args.table)))
        return
    lines = []
    for dtype in ("float32", "bfloat16"):
        shape = {"layers": args.layers, "hidden": args.hidden, "vocabulary": args.vocabulary}
        line = {"bench": "step_profile", "format": dtype, "steps": args.steps, **shape}
        line |= _asked(line, args.data, args.threads) | machine(args.threads)
        write_line(args.json, line)
        lines.append(line)
    print(table(lines))


def _asked(line: Line, data: Path | None, threads: int) -> Line:
    """Run the measured process."""
    with tempfile.TemporaryDirectory() as folder:
        job = line | {
            "library": "ptune",
            "loss": "vocabulary",
            "dtype": line["format"],
            "autocast": False,
            "method": "prompt-tuning",
            "encoder": "mlp",
            "data": str(find_data("twitter_complaints", data)),
            "start": str(Path(folder) / "start.pt"),
        }
        environment = {**os.environ, **ALLOCATION, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, __file__, "--work", json.dumps(job)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    (answer,) = [text for text in done.stdout.splitlines() if text.startswith("@")]
    return json.loads(answer[1:])


if __name__ == "__main__":
    main()
