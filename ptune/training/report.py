"""What a run tells: a log of JSON lines, TensorBoard where asked, and whoever watches.

    {"step": 20, "epoch": 3, "loss": 0.41, "lr": 0.05, "seconds": 12.1}
    {"step": 20, "epoch": 3, "scores": {"loss": 0.52, "accuracy": 0.8, "macro_f1": 0.79}}

A run that goes on drops the lines behind its checkpoint first, so the log is that of one run.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ptune.errors import ConfigError
from ptune.training.schedule import Plan


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
        self._board = _board(output) if tracker == "tensorboard" and output else None
        self._start = time.perf_counter()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def start(self, plan: Plan, facts: Mapping[str, object], *, resume: bool) -> None:
        """The run begins; a new one begins a new log."""
        if self._path is not None and not resume:
            self._path.write_text("", encoding="utf-8")
        if self._watcher is not None:
            self._watcher.on_start(plan, facts)

    def resume(self, step: int) -> None:
        """Drop what was logged behind the checkpoint that the run goes on from."""
        if self._path is None or not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

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
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._lines)
        self._lines = []
        if self._board is not None:
            self._board.flush()

    def _add(self, step: int, plan: Plan, **what: Any) -> None:
        line = {"step": step, "epoch": plan.epoch_of(step - 1) + 1, **what}
        line["seconds"] = round(time.perf_counter() - self._start, 3)
        self._lines.append(json.dumps(line) + "\n")


def _board(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "tracker = tensorboard needs the package tensorboard: pip install 'ptune[track]'."
        ) from None
    return SummaryWriter(str(output / "tensorboard"))
