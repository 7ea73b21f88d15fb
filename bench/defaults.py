"""Why ptune's defaults are what they are: one thing changed at a time, on TREC with ptune-tiny.

1,500 training rows and 500 others to score by, both drawn from the training file by seed (the test
file is not touched); a few epochs through `ptune.train`. Each row of the table changes one setting
of the recipe:

    loss      over the set of labels (default), or over all words of the vocabulary
    init      from the task's own words: their embeddings, or real keys and values (default);
              from tokens drawn at random; from noise of the same size
    lr        a third, and three times the default
    average   the last step's numbers in place of the mean of the last steps
    epochs    those of a recipe that says none, in place of the few that all others have

With 500 rows the standard error of an accuracy near 70 % is 2 points; `--seeds` gives more runs.

    python bench/defaults.py --json bench/results/defaults.jsonl
    python bench/defaults.py --json FILE --method p-tuning-v2 --seeds 1-2
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import (
    Line,
    latest,
    machine,
    markdown,
    mean_spread,
    numbers,
    options,
    read_lines,
    seeds_told,
    settings_line,
    spread_said,
    write_line,
)
from quality import Data, quiet, settings_of
from quality_causal import MODEL, TASKS

import ptune
from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.data import draw_rows

METHODS = ("prompt-tuning", "p-tuning-v2")
HELD_OUT, EPOCHS = 500, 2
TASK = TASKS["trec"]


def variants(method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is changed, and how."""
    lr = Recipe.make(method=method).resolved().lr
    assert lr is not None
    yield "ptune's defaults", {}
    yield "loss: vocabulary", {"loss": "vocabulary"}
    yield "init: vocabulary", {"init": "vocabulary"}
    yield "init: random", {"init": "random"}
    yield "lr / 3", {"lr": lr / 3}
    yield "lr x 3", {"lr": lr * 3}
    yield "average: 0", {"average": 0.0}
    yield "no epochs given", {"epochs": None}


def rows_of(seed: int, count: int, data: Path | None) -> Data:
    """Training rows and others to score by, from the training file."""
    drawn = draw_rows(TASK.read("train.csv", data), count + HELD_OUT, seed)
    # A draw keeps the order of the file, so the rows to score by are drawn from it again.
    held = set(_some(len(drawn), HELD_OUT, seed))
    train = [i for i in range(len(drawn)) if i not in held]
    return Data(drawn.take(train), drawn.take(sorted(held)), None)


def _some(total: int, count: int, seed: int) -> list[int]:
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:count].tolist()


def measure(args: Namespace, method: str, name: str, changed: dict[str, Any], seed: int) -> Line:
    """One run."""
    data = rows_of(seed, args.rows, args.data)
    soft = "" if method == "p-tuning-v2" else "{soft:20}"
    settings = {"method": method, "template": soft + TASK.template, "epochs": args.epochs}
    settings |= {"seed": seed, "prompt_length": 20, **changed}
    backbone = Backbone.load(MODEL)
    result = ptune.train(backbone, data.train, validation=data.held_out, **settings)
    return {
        "bench": "defaults",
        "method": method,
        "variant": name,
        "seed": seed,
        "rows": args.rows,
        "held_out": result.scores["validation"],
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "settings": settings_of(Recipe.make(**result.prompt.settings)),
        **machine(args.threads),
    }


def table(lines: Sequence[Line]) -> str:
    """Accuracy and loss on the held-out rows, by method and change."""
    runs = latest(lines, "method", "variant", "seed")
    if not runs:
        return "Nothing was measured yet."
    rows = []
    for method, name in dict.fromkeys((run["method"], run["variant"]) for run in runs):
        found = [r for r in runs if (r["method"], r["variant"]) == (method, name)]
        scores = [run["held_out"] for run in found]
        rows.append(
            [
                method,
                name,
                f"{found[0]['settings']['lr']:.3g}",
                mean_spread([score["accuracy"] for score in scores]),
                mean_spread([score["macro_f1"] for score in scores]),
                mean_spread([score["loss"] for score in scores], scale=1.0, digits=3),
                str(found[0]["steps"]),
                seeds_told(run["seed"] for run in found),
            ]
        )
    head = ["method", "changed", "lr", "accuracy", "macro F1", "loss over labels", "steps"]
    head += ["seeds"]
    one = runs[0]
    shown = markdown(head, rows)
    note = settings_line(
        runs,
        f"trec with {MODEL}, {one['rows']:,} training rows by seed, scored on {HELD_OUT} others of "
        f"the training file (the test file is not touched), {one['settings']['epochs']} epochs but "
        f"where said, batch {one['settings']['batch_size']}, 20 virtual tokens, best epoch",
        *spread_said(shown),
    )
    return "\n".join([shown, "", note])


def main() -> None:
    """Measure and print the table of all results in the file."""
    parser = options(__doc__)
    parser.add_argument("--method", choices=METHODS, action="append", help="default: both")
    parser.add_argument("--only", action="append", help="changes whose name contains this")
    parser.add_argument("--seeds", default="1", help='a count, or which: "3", "0,2", "1-2"')
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rows", type=int, default=1500, help="training rows")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    torch.set_num_threads(args.threads)
    quiet()
    lines = read_lines(args.json)
    for method in args.method or METHODS:
        for name, changed in variants(method):
            if args.only and not any(part in name for part in args.only):
                continue
            for seed in numbers(args.seeds):
                line = measure(args, method, name, changed, seed)
                write_line(args.json, line)
                lines.append(line)
                print(
                    f"{method}, {name}, seed {seed}: accuracy {line['held_out']['accuracy']:.3f}, "
                    f"{line['steps']} steps in {line['seconds']:.0f} s",
                    file=sys.stderr,
                )
    print(table(lines))


if __name__ == "__main__":
    main()
