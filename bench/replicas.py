"""Replicas: eight prompts side by side in one pass, next to eight runs in a row.

    in a row       ptune.train, once for each seed
    side by side   ptune.train_replicas, all seeds in one pass

Both through the public API, on the same backbone in the same process, and in alternating rounds;
each round trains anew, so it gives the same losses. The time of a step is that between the first
and the last step of a run (the first warms up), for all replicas together; without loading,
tokenising and evaluation. Every loss of every replica must agree to 1e-3 of its size, and the
script fails where one does not: rounding differs, and AdamW makes more of it with every step.

Rows are real tweets (twitter_complaints), cut to so many tokens. Where a pass is small, the machine
waits (for weights from memory, for the next kernel), and replicas share the waiting. Where it is
large, nothing is left to win; the table has both.

    tiny       the model that travels with ptune: 8 M parameters, trained
    classic    BLOOM-560m's configuration, random weights (--layers for fewer)
    bert       BERT-base's configuration, random weights, with a head

    python bench/replicas.py --json bench/results/replicas.jsonl
    python bench/replicas.py --shapes tiny --batches 1 --steps 3 --rounds 1          a quick try
"""

import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from common import (
    Line,
    find_data,
    latest,
    machine,
    markdown,
    options,
    read_lines,
    settings_line,
    write_line,
)
from shapes import KINDS, random_model

from ptune.bench.process import Process, peak_memory, say

SLOTS = 20
AGREEMENT = 1e-3
SIDES = ("in a row", "side by side")
SHAPES = {
    "classic": ("bloom", {"layers": 24, "hidden": 1024, "vocabulary": 250_880}),
    "bert": ("bert", {"layers": 12, "hidden": 768, "vocabulary": 30_522}),
}
METHODS = {"tiny": "prompt-tuning", "classic": "prompt-tuning", "bert": "p-tuning-v2"}


def main() -> None:
    """Measure every shape and batch size, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--shapes", nargs="+", choices=[*METHODS], default=["tiny", "classic"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--tokens", nargs="+", type=int, default=[16, 64], help="of a row at most")
    parser.add_argument("--replicas", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="of each run, the first to warm up")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides")
    parser.add_argument("--layers", type=int, default=24, help="of classic and bert at most")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", help="used by the script itself: measure one case")
    args = parser.parse_args()
    if args.work:
        say(measure(json.loads(args.work)))
        return
    if args.table:
        print(table(read_lines(args.table)))
        return
    lines = []
    for case in cases(args):
        lines.append(in_a_process(case, args.threads) | machine(args.threads))
        write_line(args.json, lines[-1])
    print(table(lines))


def cases(args: Namespace) -> list[Line]:
    """What is to be measured, smallest first."""
    shared = {name: getattr(args, name) for name in
              ("replicas", "steps", "rounds", "layers", "dtype", "device")}  # fmt: skip
    data = str(find_data("twitter_complaints", args.data) / "train.csv")
    return [
        {"bench": "replicas", "shape": shape, "method": METHODS[shape], "batch": batch,
         "tokens": tokens, "data": data, **shared}
        for shape in args.shapes for tokens in args.tokens for batch in args.batches
    ]  # fmt: skip


def in_a_process(case: Line, threads: int) -> Line:
    """Measure one case in a process of its own, so that memory and allocator start anew."""
    process = Process(
        [sys.executable, __file__, "--work", json.dumps(case)],
        threads=threads,
        environment={"HF_HUB_OFFLINE": "1"},
    )
    process.close()
    line = {key: value for key, value in case.items() if key != "data"} | process.facts
    print(
        f"  {line['shape']}, batch {line['batch']}, rows to {line['tokens']}: "
        + ", ".join(f"{side} {line[side]['seconds']:.4f} s" for side in SIDES),
        file=sys.stderr,
    )
    return line


# ---- the measured process ----


def measure(case: Line) -> Line:
    """Both sides in turn; medians, peak memory, and how far the losses are apart."""
    backbone = backbone_of(case)
    tokens = counted(backbone)
    sides: dict[str, Callable[[Line, Any], Timed]] = dict(zip(SIDES, (row, together), strict=True))
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    losses: dict[str, list[list[float]]] = {}
    peaks: dict[str, int] = {}
    counts: dict[str, list[int]] = {}
    for number in range(case["rounds"]):
        # In a row first: the peak of the process only grows, and that of the other is larger.
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        for side in order:
            tokens.clear()
            took, losses[side] = sides[side](case, backbone)
            seconds[side].append(took)
            counts.setdefault(side, list(tokens))
            peaks.setdefault(side, peak_memory(str(backbone.device))["peak_bytes"])
    found: Line = {
        side: {
            "seconds": statistics.median(seconds[side]),
            "fastest": min(seconds[side]),
            "slowest": max(seconds[side]),
            "tokens": statistics.fmean(counts[side]),
            "peak_bytes": peaks[side],
        }
        for side in SIDES
    }
    return found | {"difference": apart(losses), "losses": losses["in a row"][0]}


Timed = tuple[float, list[list[float]]]


class Clock:
    """Watches a run: its losses, and when each step ended."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.ends: list[float] = []

    def on_start(self, plan: Any, facts: Any) -> None:
        """Nothing is measured here."""

    def on_step(self, step: int, plan: Any, loss: float) -> None:
        """A step is done; the loss is a number, so a GPU is done with it, too."""
        self.losses.append(loss)
        self.ends.append(time.perf_counter())

    def on_scores(self, step: int, plan: Any, scores: Any) -> None:
        """There are no validation rows."""


def row(case: Line, backbone: Any) -> Timed:
    """One run after the other: seconds of a step of all, and each one's losses."""
    import ptune

    seconds, losses = 0.0, []
    for seed in range(case["replicas"]):
        clock = Clock()
        ptune.train(backbone, case["data"], watcher=clock, seed=seed, **settings(case))
        seconds += (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1)
        losses.append(clock.losses)
    return seconds, losses


def together(case: Line, backbone: Any) -> Timed:
    """All in one pass: the same."""
    import ptune

    clocks = [Clock() for _ in range(case["replicas"])]
    variants = [{"seed": seed} for seed in range(case["replicas"])]
    ptune.train_replicas(backbone, case["data"], variants, watchers=clocks, **settings(case))
    last = clocks[-1]  # its step is the last to end
    seconds = (last.ends[-1] - last.ends[0]) / (len(last.ends) - 1)
    return seconds, [clock.losses for clock in clocks]


def settings(case: Line) -> dict[str, Any]:
    """The recipe of every run."""
    soft = "" if case["method"] == "p-tuning-v2" else f"{{soft:{SLOTS}}}"
    text = f"{{text:.{case['tokens']}}}"
    head = case["shape"] == "bert"
    return {
        "method": case["method"],
        "task": "sequence-classification" if head else "causal-lm",
        "template": f"{soft}{text}" if head else f"{soft}Tweet text : {text} Label : {{label}}",
        "prompt_length": SLOTS,
        "batch_size": case["batch"],
        "max_steps": case["steps"],
        "epochs": case["steps"],  # more than there can be
        "validation_share": 0.0,
        "schedule": "constant",
        "warmup_share": 0.0,
        "lr": 0.01,
    }


def backbone_of(case: Line) -> Any:
    """The model of a shape, with the tokenizer that travels with ptune."""
    import ptune

    small = ptune.Backbone.load("ptune-tiny", device=case["device"], dtype=case["dtype"])
    if case["shape"] == "tiny":
        return small
    kind, whole = SHAPES[case["shape"]]
    shape = whole | {"layers": min(whole["layers"], case["layers"])}
    model = random_model(KINDS[kind](shape), case["dtype"], case["device"])
    return ptune.Backbone(model, small.tokenizer, f"{case['shape']} shape")


def counted(backbone: Any) -> list[int]:
    """Real tokens of each pass, as they are packed from now on."""
    tokens: list[int] = []
    pack = backbone.pack

    def counting(sequences: Any) -> Any:
        batch = pack(sequences)
        tokens.append(batch.real_tokens)
        return batch

    backbone.pack = counting
    return tokens


def apart(losses: dict[str, list[list[float]]]) -> float:
    """The largest difference between the two sides, as a share of the loss.

    Raises:
        SystemExit: it is more than `AGREEMENT`.
    """
    worst = 0.0
    for alone, beside in zip(*(losses[side] for side in SIDES), strict=True):
        for one, other in zip(alone, beside, strict=True):
            share = abs(one - other) / max(abs(one), 1e-3)
            if not share <= AGREEMENT:
                sys.exit(f"The losses of the two sides differ: {alone} and {beside}.")
            worst = max(worst, share)
    return worst


# ---- the table ----


def table(lines: Sequence[Line]) -> str:
    """The table of some results, the last one of each case."""
    kept = latest(lines, "shape", "method", "tokens", "batch", "layers", "dtype", "device")
    if not kept:
        return "Nothing was measured yet."
    head = ["shape", "method", "row at most", "batch", "tokens / step alone", "in a row, s",
            "side by side, s", "times faster", "peak GB, in a row", "side by side"]  # fmt: skip
    rows = [
        [
            line["shape"] if line["dtype"] == "float32" else f"{line['shape']}, {line['dtype']}",
            line["method"],
            str(line["tokens"]),
            str(line["batch"]),
            f"{line['in a row']['tokens']:.0f}",
            *(f"{line[side]['seconds']:.3f}" for side in SIDES),
            f"{line['in a row']['seconds'] / line['side by side']['seconds']:.2f}",
            *(f"{line[side]['peak_bytes'] / 1e9:.2f}" for side in SIDES),
        ]
        for line in kept
    ]
    first, worst = kept[0], max(line["difference"] for line in kept)
    layers = ", ".join(f"{shape} {n} layers" for shape, n in sorted(
        {(line["shape"], line["layers"]) for line in kept if line["shape"] != "tiny"}
    ))  # fmt: skip
    note = settings_line(
        kept,
        f"{first['replicas']} replicas that differ in their seeds; a step of all of them, median "
        f"of {first['rounds']} rounds of {first['steps'] - 1} steps after one to warm up",
        f"{SLOTS} virtual tokens; real tweets, ptune-tiny's tokenizer",
        *([f"at most {layers}, random weights"] if layers else []),
        f"device {first['device']}",
    )
    equal = f"The largest difference of any loss is {worst:.1e} of it (asserted: {AGREEMENT:.0e})."
    return "\n".join([markdown(head, rows), "", equal, note])


if __name__ == "__main__":
    main()
