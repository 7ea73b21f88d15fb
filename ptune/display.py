"""What the command line shows: tables, a progress bar, sentences. Knows no model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from ptune.bench.measure import BenchResult, SideTimes
from ptune.config import SettingRow
from ptune.config.presets import Preset
from ptune.errors import TrainingError
from ptune.nearest import nearest_tokens
from ptune.prompt import SoftPrompt
from ptune.showcase import Outcome
from ptune.tables import Line, across, console, named
from ptune.tasks import Prediction
from ptune.training import Result
from ptune.training.schedule import Plan
from ptune.training.scores import SHARES, spread
from ptune.training.sharing import SHARED, SharedResult


class ProgressBar:
    """Watches a run: loss, last score and remaining time.

    Args:
        bar: where it is shown; several runs may share it, a line each.
        name: what stands in front.
        tells: whether it says first what is trained on.
    """

    def __init__(self, bar: Progress, name: str = "training", *, tells: bool = True) -> None:
        self._bar, self._name, self._tells = bar, name, tells
        self._task: TaskID | None = None
        self._scores = ""
        self._metric = ""

    def on_start(self, plan: Plan, facts: Mapping[str, object]) -> None:
        """Say what is trained on. The bar appears now: an error before leaves no trace of it."""
        self._bar.start()
        self._metric = str(facts.get("metric"))
        for line in fact_lines(facts) if self._tells else []:
            self._bar.console.print(line, highlight=False)
        self._task = self._bar.add_task(self._name, total=plan.steps, loss="", score="")

    def on_step(self, step: int, plan: Plan, loss: float) -> None:
        """Move the bar."""
        assert self._task is not None
        self._bar.update(self._task, completed=step, loss=f"loss {loss:.3f}", score=self._scores)

    def on_scores(self, step: int, plan: Plan, scores: Mapping[str, float]) -> None:
        """Keep the last score beside the bar: the one that chooses the step."""
        first = next((k for k in scores if k not in ("loss", "perplexity")), "loss")
        name = self._metric if self._metric in scores else first
        self._scores = f"{name} {_score(name, scores[name])}"


def fact_lines(facts: Mapping[str, object]) -> list[str]:
    """What is worth knowing before a run, as lines."""
    first = (
        f"{facts['backbone']}: {_rows(facts['training rows'])} rows to train on, "
        f"{_rows(facts['validation rows'])} to validate, "
        f"{facts['trained parameters']:,} trained numbers "
        f"({100 * _number(facts['trained share']):.3g} % of the backbone's)"
    )
    lines = [first]
    lines += [str(facts[key]) for key in ("rows cut", "imbalance", "frozen trunk") if key in facts]
    notes = facts.get("notes")
    return lines + ([str(note) for note in notes] if isinstance(notes, list) else [])


def _rows(count: object) -> str:
    """How many rows, and of several sets how many of each."""
    if not isinstance(count, Mapping):
        return str(count)
    each = ", ".join(f"{name} {number}" for name, number in count.items())
    return f"{sum(count.values())} ({each})"


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


@contextmanager
def watching(*, silent: bool = False) -> Iterator[ProgressBar | None]:
    """Show a progress bar on standard error for the time of a run."""
    with watching_all(["training"], silent=silent) as bars:
        yield None if bars is None else bars[0]


@contextmanager
def watching_all(
    names: Sequence[str], *, silent: bool = False
) -> Iterator[list[ProgressBar] | None]:
    """Show a progress bar for each of several runs; the first says what is trained on."""
    if silent:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}  {task.fields[score]}", markup=False),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True, markup=False, emoji=False))
    try:
        yield [ProgressBar(bar, name, tells=at == 0) for at, name in enumerate(names)]
    finally:
        if bar.live.is_started:
            bar.stop()


def show_result(result: Result, output: Path) -> None:
    """Scores of a run, and where its prompt lies."""
    if result.scores:
        show_scores(result.scores)
    size = result.prompt.size_bytes
    console.print(
        f"{result.steps} steps in {result.seconds:.1f} s. The prompt is in {output / 'prompt'} "
        f"({size / 1000:.1f} kB).",
        highlight=False,
        soft_wrap=True,
    )


def show_replicas(
    names: Sequence[str], results: Sequence[Result | TrainingError], output: Path
) -> None:
    """A table a split: a line a replica, and the mean of all with its deviation."""
    trained = {n: r for n, r in zip(names, results, strict=True) if isinstance(r, Result)}
    for split, row in spread(results).items():
        scored = {name: one.scores.get(split, {}) for name, one in trained.items()}
        each = [(n, [_score(score, own.get(score)) for score in row]) for n, own in scored.items()]
        console.print(across(split, list(row), each, _spread_lines(row)))
    for name, result in zip(names, results, strict=True):
        if isinstance(result, TrainingError):
            console.print(f"{name}: {result}", highlight=False, soft_wrap=True)
    if trained:
        seconds = max(result.seconds for result in trained.values())  # equal: those of all
        console.print(
            f"Trained side by side in {seconds:.1f} s. The prompts are in {output}/*/prompt.",
            highlight=False,
            soft_wrap=True,
        )


def _spread_lines(row: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """Mean and deviation of each score, and the interval where there are several runs."""
    lines: list[Line] = [
        (word, [_score(score, both[word]) for score, both in row.items()])
        for word in ("mean", "deviation")
    ]
    ends = {score: both["interval"] for score, both in row.items()}
    if any(ends.values()):
        lines.append(("95 % interval", [_interval(score, own) for score, own in ends.items()]))
    return lines


def _interval(score: str, ends: Sequence[float] | None) -> str:
    return "-" if ends is None else " .. ".join(_score(score, end) for end in ends)


def show_shared(result: SharedResult, output: Path) -> None:
    """A table a set, and where the prompts lie."""
    for name, one in result.results.items():
        if one.scores:
            show_scores({f"{name}, {split}": scores for split, scores in one.scores.items()})
    console.print(
        f"{result.steps} steps in {result.seconds:.1f} s. The prompts are in {output}/*/prompt; "
        f"{output}/{SHARED}/prompt is the one that all sets share.",
        highlight=False,
        soft_wrap=True,
    )


# Settings of a preset that differ from run to run.
_SHOWN = ("prompt_length", "lr", "batch_size", "epochs", "seed")


def show_presets(presets: Sequence[Preset]) -> None:
    """A line a preset, and of each source where it is from and what differs."""
    table = named("preset\n  its backbone", "published", "settings")
    for one in presets:
        published = ", ".join(f"{name} {100 * score:.1f}" for name, score in one.published.items())
        own = {key: one.settings[key] for key in _SHOWN if key in one.settings}
        said = ", ".join(f"{key} {value}" for key, value in own.items())
        table.add_row(f"{one.name}\n  {one.settings.get('backbone', '')}", published, said)
    console.print(table)
    for source, differs in dict.fromkeys((one.source, one.differs) for one in presets):
        console.print(f"{source} Here: {differs}", highlight=False)


def show_scores(scores: Mapping[str, Mapping[str, float]]) -> None:
    """A line a split, a column a score; scores of a part of the answers have a table of theirs."""
    whole = {
        split: {name: score for name, score in row.items() if "/" not in name}
        for split, row in scores.items()
    }
    parts = {
        f"{split}, {part}": {
            name.rpartition("/")[2]: row[name] for name in row if name.rpartition("/")[0] == part
        }
        for split, row in scores.items()
        for part in dict.fromkeys(name.rpartition("/")[0] for name in row if "/" in name)
    }
    for lines in (whole, parts) if parts else (whole,):
        _show_table(lines)


def _show_table(scores: Mapping[str, Mapping[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in scores.values() for name in row))
    lines = [
        (split, [_score(name, row[name]) if name in row else "" for name in names])
        for split, row in scores.items()
    ]
    console.print(across("", names, lines))


def show_demo(outcome: Outcome) -> None:
    """The demo's last word: what the prompt changed, and what it cost."""
    result = outcome.result
    table = Table("", "", title="250 messages that the prompt never saw", show_header=False)
    table.add_row("always the larger class", _score("accuracy", outcome.majority))
    table.add_row("untuned backbone", _score("accuracy", outcome.untuned))
    table.add_row("tuned prompt", _score("accuracy", result.scores["test"]["accuracy"]))
    share = 100 * result.prompt.trained_parameters / outcome.backbone_parameters
    table.add_row("trained numbers", f"{result.prompt.trained_parameters:,} ({share:.2g} %)")
    table.add_row("seconds", f"{result.seconds:.0f}")
    table.add_row("prompt file", f"{result.prompt.size_bytes / 1000:.1f} kB")
    for text, prediction in outcome.examples:
        table.add_row(text, prediction_line(prediction))
    console.print(table)
    console.print(f'Try it: ptune predict {outcome.folder} "your message"', highlight=False)


def show_bench(result: BenchResult) -> None:
    """What a step costs, and the sentences that belong to it."""
    sides = {"ptune": result.ptune} | ({"PEFT": result.peft} if result.peft else {})
    table = named("a training step", *sides)
    for name, cell in _BENCH_ROWS.items():
        table.add_row(name, *map(cell, sides.values()))
    floor = result.floor_seconds
    table.add_row(
        "real tokens a second", *(f"{result.tokens / s.seconds:,.0f}" for s in sides.values())
    )
    table.add_row("times the floor", *(f"{s.seconds / floor:.2f}" for s in sides.values()))
    console.print(table)
    for line in bench_lines(result):
        console.print(line, highlight=False, soft_wrap=True)


_BENCH_ROWS: Mapping[str, Callable[[SideTimes], str]] = {
    "seconds (median)": lambda side: f"{side.seconds:.4f}",
    "fastest .. slowest": lambda side: f"{side.fastest:.4f} .. {side.slowest:.4f}",
    "peak memory": lambda side: (
        "?" if side.peak_bytes is None else f"{side.peak_bytes / 1e9:.2f} GB"
    ),
    "tokens computed": lambda side: f"{side.computed:,.0f}",
    "trained numbers": lambda side: f"{side.trained:,}",
    "loss, first .. last": lambda side: f"{side.losses[0]:.4f} .. {side.losses[-1]:.4f}",
}


def bench_lines(result: BenchResult) -> list[str]:
    """What the figures mean, as sentences."""
    peak = max(result.gflops.values())
    what = (
        f"{result.steps} steps in turn after one to warm up, in {result.format} on "
        f"{result.device}: {result.tokens:,.0f} real tokens a step, {result.padded:,.0f} if "
        "every row were padded to the longest."
    )
    floor = (
        f"Floor: {result.floor_seconds:.4f} s, the matrix products of ptune's step at this "
        f"machine's peak of {peak:,.0f} GFLOP/s. Attention and norms are not in it."
    )
    lines = [what, floor]
    if result.times_faster is not None:
        lines.append(f"A step takes PEFT {result.times_faster:.2f} times as long.")
    return lines + result.notes


def prediction_line(prediction: Prediction) -> str:
    """One prediction for a reader."""
    answer = prediction.answer
    if "entities" in prediction.more:
        return marked_line(prediction.more["words"], prediction.more["entities"])
    if isinstance(answer, tuple):
        return ", ".join(map(str, answer)) or "(none)"
    if isinstance(answer, float):
        return f"{answer:.4g}"
    share = prediction.probabilities.get(answer)
    return answer if share is None else f"{answer}  ({100 * share:.0f} %)"


def marked_line(words: Sequence[str], entities: Sequence[Mapping[str, Any]]) -> str:
    """A sentence with its entities in brackets.

    >>> marked_line(["Ann", "Lee", "left"], [{"type": "PER", "start": 0, "stop": 2}])
    '[PER Ann Lee] left'
    """
    shown = list(words)
    for entity in entities:
        first, last = entity["start"], entity["stop"] - 1
        shown[first] = f"[{entity['type']} {shown[first]}"
        shown[last] = f"{shown[last]}]"
    return " ".join(shown)


def nearest_words(backbone: Any, prompt: SoftPrompt, count: int) -> list[str]:
    """For each virtual token, the vocabulary's tokens nearest to it."""
    assert prompt.vectors is not None
    tokens = backbone.tokenizer
    table = backbone.embed(range(min(len(tokens), backbone.geometry.num_embeddings)))
    found = nearest_tokens(prompt.vectors.to(table.device), table, count)
    return [
        "  ".join(f"{tokens.decode([id_])!r} {cosine:.2f}" for id_, cosine in slot)
        for slot in found
    ]


def show_summary(summary: Mapping[str, Any]) -> None:
    """Everything of a prompt that is no tensor."""
    table = Table("", Column(overflow="fold"), show_header=False)
    near = summary.get("nearest tokens", [])
    for key, value in summary.items():
        if key == "scores":
            for split, scores in value.items():
                table.add_row(f"scores, {split}", _plain(scores))
        elif key not in ("norms", "nearest tokens", "settings"):
            table.add_row(key, _plain(value))
    for slot, norm in enumerate(summary.get("norms", [])):
        words = near[slot] if slot < len(near) else ""
        table.add_row(f"virtual token {slot}", f"norm {norm:.2f}  {words}")
    console.print(table)


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def show_settings(rows: Sequence[SettingRow]) -> None:
    """Every setting: default, range, meaning."""
    table = named("setting", "default", "allowed", "meaning")
    group = ""
    for row in rows:
        if row.group != group:
            table.add_section()
            group = row.group
        table.add_row(row.key, row.default, row.allowed, row.meaning)
    console.print(table)


def _score(name: str, value: float | None) -> str:
    if value is None:  # a run whose rows have no such score
        return "-"
    return f"{100 * value:.1f} %" if name in SHARES else f"{value:.4g}"
