"""Measured processes: each waits to be asked, so that several take one step each in turn.

    asks                                   is measured
    process = Process([... , job])   ->    say(facts)
    process.ask("step")              ->    answer(step)          one line of JSON each

What disturbs a machine for a second then disturbs all sides alike. A process of its own also makes
peak memory a fact of one side: all that it held, weights included. Imports no torch.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ptune.errors import PtuneError

Line = dict[str, Any]

# Large buffers are slow to allocate on small virtual machines, and drown what is measured.
ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
# Answers stand on lines of their own with this in front, whatever libraries print.
MARK = "@"


class Process:
    """A side that runs and waits to be asked.

    Args:
        command: starts it; it answers once, with its facts, when it is ready.
        threads: of its matrix products; None leaves the number to torch.
        environment: more variables of its environment.
    Raises:
        PtuneError: it cannot do what it is for, and says why; or it ended early.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        threads: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        variables = {
            **os.environ,
            **ALLOCATION,
            "TRANSFORMERS_VERBOSITY": "error",
            "PYTHONWARNINGS": "ignore::FutureWarning",
            **(environment or {}),
        }
        if threads is not None:
            variables["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        try:
            self.facts = self._answer()
        except PtuneError:
            self.close()
            raise

    def ask(self, what: str) -> Line:
        """Send a word, wait for the answer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone: `_answer` says so
            self._process.stdin.write(what + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Line:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            if text.startswith(MARK):
                answer: Line = json.loads(text[len(MARK) :])
                if "error" in answer:
                    raise PtuneError(answer["error"])
                return answer
        raise PtuneError(
            "A measured process ended early; what it said stands above. Where it said nothing, "
            "look whether the machine ran out of memory: every side holds its own weights."
        )

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def in_turn(
    processes: Sequence[Process],
    rounds: int,
    *,
    tell: Callable[[int, list[Line]], None] | None = None,
) -> list[list[Line]]:
    """Ask every process for a step, `rounds` times; the answers of each process."""
    answers: list[list[Line]] = [[] for _ in processes]
    for number in range(rounds):
        for process, own in zip(processes, answers, strict=True):
            own.append(process.ask("step"))
        if tell is not None:
            tell(number, [own[-1] for own in answers])
    return answers


def spread(values: Sequence[float]) -> Line:
    """Median, fastest and slowest of some seconds.

    >>> spread([3.0, 1.0, 2.0])
    {'seconds': 2.0, 'fastest': 1.0, 'slowest': 3.0}
    """
    return {
        "seconds": statistics.median(values),
        "fastest": min(values),
        "slowest": max(values),
    }


# ---- within a measured process ----


def say(answer: Mapping[str, Any]) -> None:
    """Answer on a line of its own."""
    print(MARK + json.dumps(answer), flush=True)


@contextmanager
def telling_errors() -> Iterator[None]:
    """What cannot be done is an answer; `Process` raises it again."""
    try:
        yield
    except PtuneError as error:
        say({"error": str(error)})


def serve(facts: Mapping[str, Any], answers: Mapping[str, Callable[[], Line]]) -> None:
    """Say that this side is ready, then answer until nobody asks any more."""
    say(facts)
    for line in sys.stdin:
        say(answers[line.strip()]())


def peak_memory(device: str = "cpu") -> Line:
    """Most memory that this process held since it began: resident, or on its GPU."""
    if device.startswith("cuda"):
        import torch

        return {"peak_bytes": torch.cuda.max_memory_allocated(device)}
    try:
        import resource
    except ImportError:  # Windows
        return {"peak_bytes": None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}
