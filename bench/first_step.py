"""Seconds from a command to its first training step, next to what must be loaded anyway.

    ptune      `ptune train RECIPE`, from the start of the process to the end of its first step
    needed     a Python that imports transformers and PEFT and loads the same model and tokenizer

Fresh processes in turn, after a run of each that fills the caches (of files; of tokenised rows).
Where ptune's time goes: the process and its imports, the rows, the model and its tokenizer, the
probe of the model, the prompt's start, the rest up to the first step (encoding all rows above all),
the first step. The rows of the demo's recipe and ptune-tiny, unless a recipe is named.

    python bench/first_step.py --json bench/results/first_step.jsonl
    python bench/first_step.py --quick                                   one run of each
    python bench/first_step.py --recipe recipes/trec_words.yaml train=FILE test=
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from common import (
    Line,
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

from ptune.bench.process import MARK, say

# What is timed inside: a function, in the module that calls it.
PARTS = (
    ("rows", "ptune.training.job", "read_rows"),
    ("model and tokenizer", "ptune.training.job", "load_backbone"),
    ("probe", "ptune.backbone", "probe"),
    ("prompt's start", "ptune.training.job", "build_prompt"),
)
SHOWN = ("imports", "rows", "model and tokenizer", "probe", "prompt's start", "up to the loop",
         "first step")  # fmt: skip


def run(job: Line, threads: int) -> Line:
    """A fresh process; what it said, with the seconds since it was started."""
    import os

    begun = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--work", json.dumps({**job, "begun": begun})],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not said:
        sys.exit("A measured process ended early; what it said stands above.")
    found: Line = json.loads(said[-1][len(MARK) :])
    return found


def measure(args: Namespace) -> Line:
    """Both sides, `--runs` times in turn, after one to fill the caches."""
    with tempfile.TemporaryDirectory() as folder:
        job = {"recipe": args.recipe, "settings": [*args.settings, f"output={folder}/run"]}
        sides = ("ptune", "needed")
        found: dict[str, list[Line]] = {side: [] for side in sides}
        for number in range(args.runs + 1):
            for side in sides:
                said = run(job | {"side": side}, args.threads)
                show(f"run {number}, {side}: {said['whole']:.2f} s")
                found[side].append(said)
    line = {"bench": "first_step", "recipe": args.recipe or "the demo's", "runs": args.runs}
    for side in sides:
        timed = found[side][1:]
        names = timed[0].keys()
        line[side] = {name: statistics.median(run[name] for run in timed) for name in names}
    return line | machine(args.threads)


def table(lines: Sequence[Line]) -> str:
    """What is needed anyway, ptune's time, and its parts."""
    kept = latest(lines, "recipe")
    if not kept:
        return "Nothing was measured yet."
    head = ["recipe", "needed anyway, s", "ptune, s", "over it, s", *(f"{n}, s" for n in SHOWN)]
    rows = [
        [
            line["recipe"],
            f"{line['needed']['whole']:.2f}",
            f"{line['ptune']['whole']:.2f}",
            f"{line['ptune']['whole'] - line['needed']['whole']:+.2f}",
            *(f"{line['ptune'][name]:.2f}" for name in SHOWN),
        ]
        for line in kept
    ]
    said = settings_line(
        kept,
        f"medians of {kept[0]['runs']} fresh processes of each in turn, after one to fill the "
        "caches; needed anyway: a Python that imports transformers and PEFT and loads the model "
        "and its tokenizer",
    )
    return "\n".join([markdown(head, rows), "", said])


# ---- a measured process ----


def work(job: Line) -> None:
    """Be one side, from the process's start."""
    if job["side"] == "ptune":
        _train(job)
        return
    model = _recipe(job).backbone
    import peft  # noqa: F401
    import transformers

    from ptune.demo import resolve

    folder = resolve(model)
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = transformers.AutoModel
    if (config.architectures or [""])[0].endswith("CausalLM"):
        kind = transformers.AutoModelForCausalLM
    kind.from_pretrained(folder, dtype="float32")
    transformers.AutoTokenizer.from_pretrained(folder)
    say({"whole": time.time() - job["begun"]})


def _recipe(job: Line) -> Any:
    """Read as `ptune train` reads it; imports neither torch nor transformers."""
    from ptune.config import Recipe
    from ptune.demo import folder

    if job["recipe"] is not None:
        return Recipe.load(job["recipe"], job["settings"])
    place = folder()
    files = [f"train={place / 'train.csv'}", f"test={place / 'test.csv'}"]
    return Recipe.load(place / "recipe.yaml", [*files, *job["settings"]], required=("backbone",))


def _train(job: Line) -> None:
    """What `ptune train` does, with a watch beside it."""
    recipe = _recipe(job)
    import ptune.display  # noqa: F401  (as the command does)
    from ptune.training import train_recipe

    spent = {"imports": time.time() - job["begun"]}
    for name, module, function in PARTS:
        _time(sys.modules[module], function, name, spent)
    train_recipe(recipe, watcher=Watch(spent, job["begun"]))


def _time(module: Any, function: str, name: str, spent: dict[str, float]) -> None:
    """Put a function that adds up its seconds in the place of one."""
    plain: Callable[..., Any] = getattr(module, function)

    @wraps(plain)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.time()
        try:
            return plain(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.time() - start

    setattr(module, function, timed)


class Watch:
    """Hears of the first step, says what it took, and ends the process."""

    def __init__(self, spent: dict[str, float], begun: float) -> None:
        self.spent, self.begun = spent, begun
        self.started = 0.0

    def on_start(self, plan: object, facts: Mapping[str, object]) -> None:
        """Everything is encoded; the loop begins."""
        self.started = time.time()
        spent = self.spent
        spent["model and tokenizer"] -= spent["probe"]  # which happens within
        spent["up to the loop"] = self.started - self.begun - sum(spent.values())

    def on_step(self, step: int, plan: object, loss: float) -> None:
        """The first step is done."""
        now = time.time()
        say({**self.spent, "first step": now - self.started, "whole": now - self.begun})
        sys.exit(0)

    def on_scores(self, step: int, plan: object, scores: Mapping[str, float]) -> None:
        """Never comes to it."""


def main() -> None:
    """Measure, and print the table."""
    parser = options(__doc__)
    parser.add_argument("--recipe", help="YAML file; without it, the demo's")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--runs", type=int, default=5, help="timed processes of each side")
    parser.add_argument("--quick", action="store_true", help="one run of each")
    parser.add_argument("--work", help="used by the script itself: be a measured process")
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    if args.recipe is not None and not Path(args.recipe).exists():
        sys.exit(f"{args.recipe}: there is no such recipe.")
    if args.quick:
        args.runs = 1
    line = measure(args)
    write_line(args.json, line)
    print(table([line]))


if __name__ == "__main__":
    main()
