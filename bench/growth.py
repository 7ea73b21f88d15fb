"""How the cost of a training step grows: one thing changed at a time, ptune next to PEFT.

A Llama shape with random weights and ptune-tiny's tokenizer: 8 layers of 512, vocabulary 32,768,
batches of 16 rows of 32 words, 20 virtual tokens in front (prompt-tuning), the loss over the whole
vocabulary. Each line of the table changes one of

    batch        rows of a step
    prompt       virtual tokens in front; computed once a step, whatever the batch is
    deep prompt  keys and values at every layer (p-tuning-v2): no position of the text
    row          words of a row
    vocabulary   logits are computed where a label stands
    layers

"work" is what a line's matrix products are over those of the line above it (the floor's formula);
"seconds" is what its seconds are over those above. Where cost is linear in work the two are equal;
less means that some cost does not grow, more that something grows faster than the products:
attention, above all, in rows. Losses must agree with PEFT's to 1e-4 on every line, or the script
fails. Words are drawn by seed; the tokens of a row are counted, not assumed.

    python bench/growth.py --json bench/results/growth.jsonl
    python bench/growth.py --quick              2 layers of 128, 2 steps, two values of each
"""

import csv
import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common import (
    Line,
    check_measured,
    latest,
    machine,
    markdown,
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

SEED = 0
BASE = {"batch": 16, "prompt": 20, "row": 32, "vocabulary": 32_768, "layers": 8, "hidden": 512}
VALUES: Mapping[str, tuple[int, ...]] = {
    "batch": (4, 8, 16, 32),
    "prompt": (10, 20, 40, 80),
    "deep prompt": (10, 20, 40, 80),
    "row": (16, 32, 64, 128),
    "vocabulary": (8_192, 32_768, 131_072, 262_144),
    "layers": (2, 4, 8, 16),
}
# Words of one token each in most tokenizers, so that a row has about as many tokens as words.
WORDS = (
    *("the", "day", "man", "time", "way", "house", "night", "water"),
    *("old", "good", "long", "work", "year", "hand", "door", "book"),
)


def write_rows(file: Path, rows: int, words: int) -> None:
    """Rows of so many words, drawn by seed, and one of two labels."""
    draw = random.Random(SEED)
    with file.open("w", encoding="utf-8", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(("text", "label"))
        for row in range(rows):
            lines.writerow((" ".join(draw.choices(WORDS, k=words)), ("good", "old")[row % 2]))


def measure_line(args: Namespace, axis: str, value: int) -> Line:
    """One line of the table: the base with one thing changed."""
    deep = axis == "deep prompt"
    sizes = {**BASE, **args.base, ("prompt" if deep else axis): value}
    shape = {"kind": "llama", **{k: sizes[k] for k in ("layers", "hidden", "vocabulary")}}
    template = "{text} Label : {label}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.csv"
        write_rows(file, 2 * max(sizes["batch"], 8), sizes["row"])
        recipe = Recipe.make(
            backbone="llama",
            train=str(file),
            template=template if deep else f"{{soft:{sizes['prompt']}}}{template}",
            method="p-tuning-v2" if deep else "prompt-tuning",
            prompt_length=sizes["prompt"],
            init="random",
            loss="vocabulary",
            lr=1e-2,
            validation_share=0,
            batch_size=sizes["batch"],
        )
        found = measure(
            recipe,
            steps=args.steps,
            peer=not args.alone,
            tell=show,
            worker=worker(shape, threads=args.threads),
        )
    if not args.alone:
        check_measured(f"{axis} {value}", found)
    line = {"bench": "growth", "axis": axis, "value": value, "base": {**BASE, **args.base}}
    return line | found.to_dict() | machine(args.threads)


def table(lines: Sequence[Line], part: str | None = None) -> str:
    """One table for each thing that grows; `part` is one of them, with - for a blank."""
    kept = [
        line
        for line in latest(lines, "axis", "value", "base")
        if part in (None, line["axis"].replace(" ", "-"))
    ]
    if not kept:
        return "Nothing was measured yet."
    said = []
    for axis in dict.fromkeys(line["axis"] for line in kept):
        head = [axis, "tokens a step", "work x", "ptune, s", "seconds x", "peak GB", "PEFT, s",
                "seconds x", "peak GB", "PEFT / ptune"]  # fmt: skip
        of_axis = sorted((li for li in kept if li["axis"] == axis), key=lambda li: li["value"])
        said += [markdown(head, rows_in_table(of_axis)), ""]
    base = ", ".join(f"{name} {value:,}" for name, value in kept[0]["base"].items())
    more = (
        f"all else as in: {base}; median of {kept[0]['steps']} steps in turn after one to warm up, "
        "float32"
    )
    return "\n".join([*said, settings_line(kept, more)])


def rows_in_table(lines: Sequence[Line]) -> Iterator[list[str]]:
    """Each line beside the one above it."""
    for above, line in zip([None, *lines], lines, strict=False):
        own, other = line["ptune"], line["peft"]
        before = above or {}
        yield [
            f"{line['value']:,}",
            f"{line['tokens']:,.0f}",
            ratio(line["flops"], before.get("flops")),
            f"{own['seconds']:.3f}",
            ratio(own["seconds"], (before.get("ptune") or {}).get("seconds")),
            f"{own['peak_bytes'] / 1e9:.2f}",
            *(
                ["", "", "", ""]
                if other is None
                else [
                    f"{other['seconds']:.3f}",
                    ratio(other["seconds"], (before.get("peft") or {}).get("seconds")),
                    f"{other['peak_bytes'] / 1e9:.2f}",
                    f"{other['seconds'] / own['seconds']:.1f}",
                ]
            ),
        ]


def ratio(now: float, before: float | None) -> str:
    """How many times as much; nothing on the first line.

    >>> ratio(3.0, 2.0), ratio(3.0, None)
    ('1.50', '')
    """
    return "" if before is None else f"{now / before:.2f}"


def main() -> None:
    """Measure, print the tables, and fail where the losses differ."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--axis", choices=[*VALUES, "all"], default="all")
    parser.add_argument("--alone", action="store_true", help="leave PEFT out")
    parser.add_argument("--quick", action="store_true", help="small, 2 steps, two values of each")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    if not args.alone:
        require_peft()
    args.base, values = {}, VALUES
    if args.quick:
        args.base = {"layers": 2, "hidden": 128, "vocabulary": 8_192, "batch": 4}
        args.steps, values = 2, {axis: several[:2] for axis, several in VALUES.items()}
    lines = []
    for axis in values if args.axis == "all" else [args.axis]:
        for value in values[axis]:
            print(f"{axis} {value}", file=sys.stderr)
            lines.append(measure_line(args, axis, value))
            write_line(args.json, lines[-1])
    print(table(lines))


if __name__ == "__main__":
    main()
