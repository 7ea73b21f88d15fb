"""A training step on a GPU in bfloat16: the classic job at its real size, 1 B and 7 B shapes.

    bloom 0.6 B   24 layers of 1024, vocabulary 250,880, batch 8: the classic job
    llama 1 B     16 layers of 2048, vocabulary 128,256, batch 32
    llama 7 B     32 layers of 4096, vocabulary 32,000, batch 32

Random weights, 20 virtual tokens in front (prompt-tuning), real tweets (twitter_complaints) spelled
by ptune-tiny's tokenizer, the loss over the whole vocabulary on both sides. PEFT gets rows padded
to the longest of a batch, and transformers' own attention. In bfloat16 the losses of two ways to
compute one function differ from their third digit on, so they are printed side by side;
bench/classic_job.py compares them to 1e-4, in float32.

Model FLOPs utilisation (MFU) is the floor over the seconds: the step's matrix products (4 x body
parameters x real tokens, the prompt once, and the head where words are read) over what the GPU
could have multiplied in that time, at its peak in the same run.

    python bench/gpu.py --json bench/results/gpu.jsonl
    python bench/gpu.py --device cpu --quick               a try without a GPU: small shapes
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence

from common import (
    Line,
    check_measured,
    find_data,
    latest,
    machine,
    markdown,
    options,
    read_lines,
    require_peft,
    settings_line,
    show,
    skip,
    write_line,
)
from shapes import worker

from ptune.bench.measure import measure
from ptune.config import Recipe

SLOTS = 20
TEMPLATE = f"{{soft:{SLOTS}}}Tweet text : {{text}} Label : {{label}}"
# Name in the table -> shape, and rows of a step.
SHAPES: Mapping[str, tuple[Line, int]] = {
    "bloom 0.6 B": ({"kind": "bloom", "layers": 24, "hidden": 1024, "vocabulary": 250_880}, 8),
    "llama 1 B": ({"kind": "llama", "layers": 16, "hidden": 2048, "vocabulary": 128_256}, 32),
    "llama 7 B": ({"kind": "llama", "layers": 32, "hidden": 4096, "vocabulary": 32_000}, 32),
}
SMALL = {"layers": 2, "hidden": 128, "vocabulary": 8_192}


def gpu_name() -> str | None:
    """The GPU, if there is one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def measure_shape(args: Namespace, name: str) -> Line:
    """Both sides of one shape; a line of results."""
    shape, batch = SHAPES[name]
    shape = shape | {"dtype": "bfloat16", "device": args.device} | (SMALL if args.quick else {})
    recipe = Recipe.make(
        backbone=shape["kind"],
        train=str(find_data("twitter_complaints", args.data) / "train.csv"),
        template=TEMPLATE,
        method="prompt-tuning",
        loss="vocabulary",
        lr=1e-2,
        validation_share=0,
        batch_size=batch,
    )
    found = measure(recipe, steps=args.steps, tell=show, worker=worker(shape, threads=args.threads))
    check_measured(name, found)
    name += ", made small" if args.quick else ""
    line = {"bench": "gpu", "shape": name, "batch": batch, "gpu": gpu_name(), "slots": SLOTS}
    return line | found.to_dict() | machine(args.threads)


def table(lines: Sequence[Line]) -> str:
    """A row for each shape and side."""
    kept = latest(lines, "shape")
    if not kept:
        return "Nothing was measured yet."
    head = ["model", "side", "s / step", "fastest .. slowest", "tokens computed", "MFU, %",
            "PEFT /", "peak GB", "loss, first .. last"]  # fmt: skip
    rows = [row for line in kept for row in rows_in_table(line)]
    peaks = ", ".join(f"{max(line['gflops'].values()) / 1e3:,.0f}" for line in kept)
    said = settings_line(
        kept,
        f"{kept[0]['gpu'] or 'no GPU'}, bfloat16, random weights",
        f"{kept[0]['slots']} virtual tokens",
        "batches of " + ", ".join(f"{line['batch']} ({line['shape']})" for line in kept),
        f"median of {kept[0]['steps']} steps in turn after one to warm up",
        f"matrix peak in TFLOP/s: {peaks}",
    )
    return "\n".join([markdown(head, rows), "", said])


def rows_in_table(line: Line) -> Iterator[list[str]]:
    """ptune's row and PEFT's."""
    for name in ("ptune", "peft"):
        side = line[name]
        yield [
            line["shape"],
            name,
            f"{side['seconds']:.4f}",
            f"{side['fastest']:.4f} .. {side['slowest']:.4f}",
            f"{side['computed']:,.0f}",
            f"{100 * line['floor_seconds'] / side['seconds']:.1f}",
            f"{line['peft']['seconds'] / side['seconds']:.1f}",
            f"{side['peak_bytes'] / 1e9:.2f}",
            f"{side['losses'][0]:.4f} .. {side['losses'][-1]:.4f}",
        ]


def main() -> None:
    """Measure, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each side")
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small shapes, 2 steps")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    if args.device == "cuda" and gpu_name() is None:
        skip("There is no GPU here, so nothing is measured. --device cpu --quick tries the script.")
    if args.quick:
        args.steps = 2
    lines = []
    for name in SHAPES if args.shape == "all" else [args.shape]:
        print(name, file=sys.stderr)
        lines.append(measure_shape(args, name))
        write_line(args.json, lines[-1])
    print(table(lines))


if __name__ == "__main__":
    main()
