"""What a run tells: a log of JSON lines, TensorBoard where asked, and whoever watches.

    {"step": 0, "epoch": 1, "note": "train.csv: no row has the label rude.", "seconds": 0.0}
    {"step": 20, "epoch": 3, "loss": 0.41, "lr": 0.05, "seconds": 12.1}
    {"step": 20, "epoch": 3, "scores": {"loss": 0.52, "accuracy": 0.8, "macro_f1": 0.79}}

A run that goes on drops the lines behind its checkpoint first, so the log is that of one run.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ptune.errors import ConfigError
from ptune.training.schedule import Plan


@runtime_checkable
class Watcher(Protocol):
    """Somebody who watches a run: the progress bar of the command line."""

    def on_start(self, plan: Plan, facts: Mapping[str, object]) -> None:
        """The run begins; `facts` are sentences and numbers worth showing."""

    def on_step(self, step: int, plan: Plan, loss: float) -> None:
        """A step is done."""

    def on_scores(self, step: int, plan: Plan, scores: Mapping[str, float]) -> None:
        """The validation rows were scored."""


class Report:
    """Passes on what happens. Without a folder and a watcher it is silent."""

    def __init__(
        self, output: Path | None, *, tracker: str | None = None, watcher: Watcher | None = None
    ) -> None:
        self._path = None if output is None else output / "log.jsonl"
        self._lines: list[str] = []
        self._watcher = watcher
        self._new_board = _board_of(output) if tracker == "tensorboard" and output else None
        self._board: Any = None
        self._start = time.perf_counter()

    def start(self, plan: Plan, facts: Mapping[str, object], *, step: int = 0) -> None:
        """The run begins, or goes on behind `step`: what was logged behind it is dropped.

        Raises:
            ConfigError: the folder cannot be written to. Now, and not when the run is done.
        """
        if self._path is not None:
            with _writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                _keep_until(self._path, step)
            self._add_notes(step, plan, facts.get("notes"))
        if self._new_board is not None:
            self._board = self._new_board(step + 1)
        if self._watcher is not None:
            self._watcher.on_start(plan, facts)

    def step(self, step: int, plan: Plan, loss: float, lr: float) -> None:
        """A step is done."""
        self._add(step, plan, loss=loss, lr=lr)
        if self._board is not None:
            self._board.add_scalar("train/loss", loss, step)
            self._board.add_scalar("train/lr", lr, step)
        if self._watcher is not None:
            self._watcher.on_step(step, plan, loss)

    def evaluation(self, step: int, plan: Plan, scores: Mapping[str, float]) -> None:
        """The validation rows were scored."""
        self._add(step, plan, scores=dict(scores))
        if self._board is not None:
            for name, value in scores.items():
                self._board.add_scalar(f"validation/{name}", value, step)
        if self._watcher is not None:
            self._watcher.on_scores(step, plan, scores)

    def flush(self) -> None:
        """Write what was collected."""
        if self._path is not None and self._lines:
            with _writing(self._path), self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
        self._lines = []
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Write what was collected, and let go of the files."""
        self.flush()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _add_notes(self, step: int, plan: Plan, notes: object) -> None:
        """Log the sentences that the log does not have yet: a run that goes on says most again."""
        assert self._path is not None
        lines = self._path.read_text(encoding="utf-8").splitlines()
        known = [json.loads(line).get("note") for line in lines]
        for note in notes if isinstance(notes, list) else ():
            if note not in known:
                self._add(step, plan, note=note)

    def _add(self, step: int, plan: Plan, **what: Any) -> None:
        line = {"step": step, "epoch": plan.epoch_of(max(0, step - 1)) + 1, **what}
        line["seconds"] = round(time.perf_counter() - self._start, 3)
        self._lines.append(json.dumps(line) + "\n")


def _keep_until(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines() if step and path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    aside = path.with_name(f".{path.name}.new")
    aside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    aside.replace(path)


def _step_of(line: str) -> float:
    """The step of a line; infinite for one that a kill cut short."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}). Choose another output folder."
        ) from None


def _board_of(output: Path) -> Callable[[int], Any]:
    """What opens TensorBoard's log, without what it holds from some step on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "tracker = tensorboard needs the package tensorboard: pip install tensorboard."
        ) from None
    return lambda first: SummaryWriter(str(output / "tensorboard"), purge_step=first)
