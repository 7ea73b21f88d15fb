"""Side by side on a task: methods, seeds, and a learning rate chosen on held-out rows.

    for every task, method and seed
        draw the training rows, hold some out        the same rows for every method of a seed
        train; keep the best epoch by held-out rows  the same epochs, batches, order and schedule
        score the test file, once

One thing is not the same: a prompt of ptune's is judged and kept as the mean of its last steps
(`average`), as its users get it; baselines, PEFT's among them, are not.

What the quality benchmarks share. `quality_causal.py`, `quality_encoder.py`, `quality_tagging.py`
and `quality_qa.py` say which tasks and methods; `quality_tables.py` makes the tables. Results are
appended to a JSON lines file, and what stands there is not measured again, so a benchmark can be
run in parts.
"""

import json
import math
import sys
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from common import (
    Line,
    find_data,
    machine,
    numbers,
    options,
    read_lines,
    skip,
    write_line,
)
from quality_tables import table
from torch import Tensor

import ptune
from ptune.config import Recipe
from ptune.data import Rows, draw_rows, load_rows, split_rows
from ptune.training.build import default_epochs
from ptune.training.learner import LESS_IS_BETTER
from ptune.training.schedule import Plan, lr_share

# Learning rates of baselines are chosen on splits of their own, never those that are reported.
FIRST_GRID_SEED = 100


@dataclass(frozen=True)
class Data:
    """The rows of one seed. `test` is None while a learning rate is being chosen."""

    train: Rows
    held_out: Rows | None
    test: Rows | None


@dataclass(frozen=True)
class Outcome:
    """What a run gave: scores, and what it cost."""

    test: Mapping[str, float]
    held_out: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    trained: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A way to do a task.

    Args:
        run: (task, data, recipe, learning rate) -> outcome; the rate is None without a grid.
        grid: learning rates to choose from, on held-out rows.
        seeded: False where nothing is random, so that once is enough.
        settings: of the recipe, for methods of ptune.
        refusal: why it cannot be measured here, if it cannot.
    """

    run: Callable[["Task", Data, Recipe, float | None], Outcome]
    grid: tuple[float, ...] = ()
    seeded: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    refusal: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Task:
    """A data set, and how a row looks.

    Args:
        folder: of the data set.
        test: its file that is scored once.
        template: without virtual tokens.
        rows: how many training rows are drawn by seed; None takes all.
        test_rows: how many test rows are drawn, the same for every seed; None takes all.
        words: label -> word that says it; empty where labels are taken as they are.
        train: its file of training rows.
        fields: the columns that a row is made of.
        grid_seeds: splits on which learning rates of baselines are tried.
        chosen_on: rows that the best epoch is chosen on, where they are no part of `train`.
        rates_of: method -> task whose grid chooses its rate, where one of its own takes too long.
    """

    name: str
    folder: str
    test: str
    template: str
    rows: int | None = None
    test_rows: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    train: str = "train.csv"
    fields: tuple[str, ...] = ("text",)
    grid_seeds: int = 1
    chosen_on: str | None = None
    rates_of: Mapping[str, str] = field(default_factory=dict)

    def read(self, name: str, data: Path | None) -> Rows:
        """The rows of a file: texts and label, the label in words."""
        rows = load_rows(find_data(self.folder, data) / name)
        words = self.words or {str(row["label"]): str(row["label"]) for row in rows}
        return load_rows(
            [
                {**{key: row[key] for key in self.fields}, "label": words[str(row["label"])]}
                for row in rows
            ]
        )

    def data(self, args: Namespace, recipe: Recipe, *, tested: bool = True) -> Data:
        """The rows of the recipe's seed."""
        rows = self.read(self.train, args.data)
        count = self.rows if args.rows is None else args.rows
        if count is not None and count < len(rows):
            rows = draw_rows(rows, count, recipe.seed)
        test = self.read(self.test, args.data) if tested else None
        count = args.test_rows or self.test_rows
        if test is not None and count is not None:
            test = draw_rows(test, count, 0)
        if not recipe.validation_share:
            return Data(rows, None, test)
        split = split_rows(rows, recipe.validation_share, recipe.seed, "label")
        return Data(split.train, split.held_out, test)


@dataclass(frozen=True)
class Benchmark:
    """A named set of tasks and methods; `base` is the recipe that every method shares."""

    name: str
    tasks: Mapping[str, Task]
    methods: Mapping[str, Method]
    base: Mapping[str, Any]
    seeds: int
    model: str

    def recipe(self, args: Namespace, method: Method, seed: int) -> Recipe:
        """ptune's defaults, and nothing set but what the method is and what `args` overrides."""
        chosen = {"epochs": args.epochs, "batch_size": args.batch_size}
        over = {key: value for key, value in chosen.items() if value is not None}
        settings = {"method": "p-tuning-v2", **self.base, **method.settings, **over}
        return Recipe.make(seed=seed, **settings).resolved()


class Learner(Protocol):
    """What `fit` trains: a baseline."""

    def groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rates, as AdamW takes them."""

    def loss(self, rows: Sequence[int]) -> Tensor:
        """The mean loss of these training rows."""

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Scores of labelled rows."""


def fit(learner: Learner, data: Data, recipe: Recipe) -> Outcome:
    """Train a baseline as ptune trains a prompt: same order, schedule, clipping, best epoch.

    Without the mean of the last steps, which ptune keeps of a prompt.
    """
    plan = plan_of(recipe, len(data.train))
    groups = [{**group, "largest": group["lr"]} for group in learner.groups()]
    weights = [weight for group in groups for weight in group["params"]]
    optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
    warmup = math.ceil(recipe.warmup_share * plan.steps)
    best: tuple[float, list[Tensor], Mapping[str, float]] | None = None
    torch.manual_seed(recipe.seed)
    start = time.perf_counter()
    for step in range(plan.steps):
        share = lr_share(step, plan, warmup=warmup, kind=recipe.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["largest"] * share
        learner.loss(plan.rows_of(step)).backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe.clip or float("inf"))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = step + 1 == plan.steps
        if data.held_out is not None and (last or (step + 1) % plan.steps_per_epoch == 0):
            scores = learner.scores(data.held_out)
            signed = _signed(scores, recipe.metric or "accuracy")
            if best is None or signed > best[0]:
                best = signed, [w.detach().clone() for w in weights], scores
    seconds = time.perf_counter() - start
    if best is not None:
        with torch.no_grad():
            for weight, kept in zip(weights, best[1], strict=True):
                weight.copy_(kept)
    return Outcome(
        test={} if data.test is None else learner.scores(data.test),
        held_out={} if best is None else best[2],
        steps=plan.steps,
        seconds=seconds,
        trained=sum(w.numel() for w in weights),
        settings={key: getattr(recipe, key) for key in _SHARED},
    )


def _signed(scores: Mapping[str, float], metric: str) -> float:
    """A score of which more is better."""
    return -scores[metric] if metric in LESS_IS_BETTER else scores[metric]


def with_epochs(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with the number of epochs that ptune would choose where it says none."""
    return recipe.changed(epochs=recipe.epochs or default_epochs(rows, recipe))


def plan_of(recipe: Recipe, rows: int) -> Plan:
    """The steps that ptune would take on so many rows."""
    assert recipe.epochs is not None
    return Plan.make(
        rows,
        rows_per_step=recipe.batch_size * recipe.accumulation,
        epochs=recipe.epochs,
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )


def run_ptune(
    task: Task, data: Data, recipe: Recipe, model: Any, *, soft: bool, settings: Mapping[str, Any]
) -> Outcome:
    """Train a prompt with `ptune.train`, defaults but for `settings`."""
    template = task.template
    if soft:
        template = f"{{soft:{recipe.prompt_length}}}{template}"
    settings = {**settings, "seed": recipe.seed, "epochs": recipe.epochs, "template": template}
    result = ptune.train(
        model,
        data.train,
        validation=data.held_out,
        test=data.test,
        validation_share=recipe.validation_share,
        max_steps=recipe.max_steps,
        batch_size=recipe.batch_size,
        **settings,
    )
    return Outcome(
        test=result.scores.get("test", {}),
        held_out=result.scores.get("validation", {}),
        steps=result.steps,
        seconds=result.seconds,
        trained=result.prompt.trained_parameters,
        settings=settings_of(Recipe.make(**result.prompt.settings)),
    )


# What decides a result, of all settings of a recipe: of every method, and of a prompt.
_SHARED = ("epochs", "batch_size", "accumulation", "max_steps", "schedule", "warmup_share",
           "weight_decay", "clip", "validation_share", "metric", "seed")  # fmt: skip
_BUDGET = (*_SHARED, "head_lr")
_TOLD = (
    *_BUDGET,
    "lr",
    "encoder_lr",
    "method",
    "encoder",
    "prompt_length",
    "init",
    "loss",
    "template",
    "pooling",
    "average",
)


def settings_of(recipe: Recipe) -> Line:
    """The settings of a prompt that decide its result."""
    found = recipe.to_dict()
    return {key: found[key] for key in _TOLD if key in found}


@dataclass(frozen=True)
class Session:
    """A benchmark under way: its options, and the results that stand already."""

    benchmark: Benchmark
    args: Namespace

    def refuses(self, name: str) -> bool:
        """Whether a method cannot be measured here; says why."""
        why = self.benchmark.methods[name].refusal()
        if why:
            print(f"{name} is left out. {why}", file=sys.stderr)
        return why is not None

    def measure(self, task: Task, name: str, seed: int) -> None:
        """One run with its test score, unless it stands already."""
        method = self.benchmark.methods[name]
        recipe = self.benchmark.recipe(self.args, method, seed)
        key = self._key("run", task, name, recipe, None)
        if not self.args.again and self._standing(key):
            print(f"{task.name}, {name}, seed {seed}: already measured", file=sys.stderr)
            return
        lr = self._choose(task, name) if method.grid else None
        data = task.data(self.args, recipe)
        recipe = with_epochs(recipe, len(data.train))
        outcome = method.run(task, data, recipe, lr)
        line = {**key, "lr": lr, **self._line(outcome, task)}
        self._tell(line, outcome.test)

    def _choose(self, task: Task, name: str) -> float:
        """The learning rate with the best held-out accuracy; of equals the lower held-out loss."""
        method = self.benchmark.methods[name]
        task = self.benchmark.tasks[task.rates_of.get(name, task.name)]
        if len(method.grid) == 1:
            return method.grid[0]
        found: dict[float, tuple[float, float]] = {}
        for lr in method.grid:
            lines = [self._tried(task, name, lr, number) for number in range(task.grid_seeds)]
            accuracy = sum(line["held_out"]["accuracy"] for line in lines) / len(lines)
            loss = sum(line["held_out"]["loss"] for line in lines) / len(lines)
            found[lr] = accuracy, -loss
        return max(found, key=lambda lr: found[lr])

    def _tried(self, task: Task, name: str, lr: float, number: int) -> Line:
        """A run with one learning rate, scored on held-out rows alone."""
        method = self.benchmark.methods[name]
        recipe = self.benchmark.recipe(self.args, method, FIRST_GRID_SEED + number)
        if not recipe.validation_share:
            recipe = recipe.changed(validation_share=0.2)
        key = self._key("grid", task, name, recipe, lr)
        if standing := self._standing(key):
            return standing
        data = task.data(self.args, recipe, tested=False)
        recipe = with_epochs(recipe, len(data.train))
        outcome = method.run(task, data, recipe, lr)
        line = {**key, **self._line(outcome, task)}
        self._tell(line, outcome.held_out)
        return line

    def _key(self, kind: str, task: Task, name: str, recipe: Recipe, lr: float | None) -> Line:
        asked = settings_of(recipe)
        if not self.benchmark.methods[name].settings:  # no prompt, so only the budget matters
            asked = {setting: asked[setting] for setting in _BUDGET}
        key = {"bench": self.benchmark.name, "kind": kind, "task": task.name, "method": name,
               "seed": recipe.seed, "rows": self.args.rows or task.rows, "row": task.template,
               "test_rows": self.args.test_rows or task.test_rows, "asked": asked}  # fmt: skip
        return key if kind == "run" else {**key, "lr": lr}

    def _line(self, outcome: Outcome, task: Task) -> Line:
        return {
            "test": dict(outcome.test),
            "held_out": dict(outcome.held_out),
            "steps": outcome.steps,
            "seconds": round(outcome.seconds, 1),
            "trained": outcome.trained,
            "settings": dict(outcome.settings),
            "model": self.benchmark.model,
            "chosen_on": task.chosen_on,
            **machine(self.args.threads),
        }

    def _standing(self, key: Line) -> Line | None:
        # Through JSON, where a tuple is a list.
        wanted = json.loads(json.dumps(key))
        for line in read_lines(self.args.json):
            if all(line.get(name) == value for name, value in wanted.items()):
                return line
        return None

    def _tell(self, line: Line, scores: Mapping[str, float]) -> None:
        write_line(self.args.json, line)
        said = ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        rate = "" if line.get("lr") is None else f", lr {line['lr']:g}"
        print(
            f"{line['task']}, {line['method']}{rate}, seed {line['seed']} ({line['kind']}): "
            f"{said}; {line['steps']} steps in {line['seconds']:.0f} s",
            file=sys.stderr,
        )


def add_options(parser: ArgumentParser, benchmark: Benchmark) -> None:
    """Options that choose a part of the benchmark."""
    parser.add_argument("--task", action="append", choices=[*benchmark.tasks], help="default: all")
    parser.add_argument("--method", action="append", choices=[*benchmark.methods])
    parser.add_argument(
        "--seeds", default=str(benchmark.seeds), help='a count, or which: "5", "0,2", "3-4"'
    )
    parser.add_argument("--again", action="store_true", help="measure also what stands already")
    parser.add_argument("--epochs", type=int, help="of every method; default: ptune's")
    parser.add_argument("--batch-size", type=int, help="of every method; default: ptune's")
    parser.add_argument("--rows", type=int, help="training rows by seed; fewer for a quick try")
    parser.add_argument("--test-rows", type=int, help="test rows; fewer for a quick try")


def quiet() -> None:
    """No progress bars and no warnings of libraries between the results."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def main(benchmark: Benchmark, description: str | None) -> None:
    """Measure what is asked for, and print the table of all results in the file."""
    parser = options(description)
    add_options(parser, benchmark)
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    torch.set_num_threads(args.threads)
    quiet()
    if args.json is None:
        skip("Name a file for the results with --json FILE; the table is made from it.")
    session = Session(benchmark, args)
    methods = [name for name in args.method or benchmark.methods if not session.refuses(name)]
    for task in args.task or benchmark.tasks:
        for name in methods:
            seeds = numbers(args.seeds)
            for seed in seeds if benchmark.methods[name].seeded else seeds[:1]:
                session.measure(benchmark.tasks[task], name, seed)
    print(table(read_lines(args.json)))
