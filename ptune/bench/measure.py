"""Ask the sides in turn, and sum up what they said.

    measured = measure(recipe, steps=10)
    measured.ptune.seconds                  of a step: the median of ten, after one to warm up
    measured.times_floor                    that, over the least that the machine could take
    measured.peft                           the same in PEFT; None where PEFT cannot say the recipe

Loads no model: every side is a process of its own (`ptune.bench.worker`).
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from math import isnan, nan
from typing import Any

from ptune.bench import NO_PEFT
from ptune.bench.process import Line, Process, in_turn, spread
from ptune.config import Recipe
from ptune.errors import PtuneError

# Losses of one function in two libraries agree to this, in float32.
AGREEMENT = 1e-4


@dataclass(frozen=True, slots=True)
class SideTimes:
    """What one side took.

    Args:
        seconds: of a step, the median; `fastest` and `slowest` are its spread.
        peak_bytes: most memory of its process, weights included; on a GPU, of the GPU's.
        losses: of every step, the one to warm up included.
        computed: positions that it ran through the model in a step (median), pads included.
        trained: numbers that are trained.
    """

    seconds: float
    fastest: float
    slowest: float
    peak_bytes: int | None
    losses: list[float]
    computed: float
    trained: int


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A recipe's step on this machine.

    Args:
        steps: timed.
        tokens: real tokens of a step (median), a shared prefix of the rows once.
        padded: positions, if its rows were padded to the longest.
        words: positions that ask for the whole vocabulary (median).
        flops: of its matrix products (median).
        floor_seconds: the least that they take at `gflops`.
        gflops: the machine's matrix peak, of the kinds of products that were tried.
        format: of the products, e.g. float32.
        peft: None where it was not asked for or cannot say the recipe.
        notes: sentences that belong to the figures.
    """

    steps: int
    tokens: float
    padded: float
    words: float
    flops: float
    floor_seconds: float
    gflops: dict[str, float]
    format: str
    device: str
    ptune: SideTimes
    peft: SideTimes | None
    notes: list[str] = field(default_factory=list)

    @property
    def times_floor(self) -> float:
        """Seconds of a step over the floor."""
        return self.ptune.seconds / self.floor_seconds

    @property
    def times_faster(self) -> float | None:
        """PEFT's seconds over ptune's."""
        return None if self.peft is None else self.peft.seconds / self.ptune.seconds

    def to_dict(self) -> Line:
        """All of it, as JSON knows it."""
        more = {"times_floor": self.times_floor, "times_faster": self.times_faster}
        return asdict(self) | more


@dataclass(frozen=True, slots=True)
class Worker:
    """How the measured processes are started.

    Args:
        command: of a program that takes a job as its last argument.
        more: what the job says beside side, recipe and steps.
        threads: of each process; None leaves the number to torch.
        environment: more variables.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "ptune.bench.worker")
    more: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, job: Mapping[str, Any]) -> Process:
        """Start a process; it is ready when this returns."""
        text = json.dumps({**job, **self.more})
        return Process([*self.command, text], threads=self.threads, environment=self.environment)


def measure(
    recipe: Recipe,
    *,
    steps: int = 10,
    peer: bool = True,
    tell: Callable[[str], None] | None = None,
    worker: Worker | None = None,
) -> BenchResult:
    """Measure a recipe's training step.

    Args:
        steps: timed; one more warms up.
        peer: also in PEFT, where it is installed and can say the recipe.
        tell: hears a line a step.
        worker: starts the sides; None takes the recipe's own backbone.
    Raises:
        PtuneError: the recipe cannot be trained here; the message says why.
    """
    chosen = worker or Worker()
    with ExitStack() as stack:

        def start(side: str) -> Process:
            job = {"side": side, "recipe": recipe.to_dict(), "steps": steps + 1}
            process = chosen.start(job)
            stack.callback(process.close)
            return process

        sides = [start("ptune")]
        facts = sides[0].facts
        notes = []
        if peer:
            try:
                sides.append(_peer(start))
            except PtuneError as error:
                notes.append(str(error))
        peak = start_peak(chosen, **{k: facts[k] for k in ("dtype", "device", "width")})
        stack.callback(peak.close)
        rates = [peak.ask("step")]
        answers = in_turn(sides, steps + 1, tell=None if tell is None else _teller(tell, steps))
        rates.append(peak.ask("step"))
        times = [_side(s, own, s.ask("memory")) for s, own in zip(sides, answers, strict=True)]
    notes += _compared(sides[1:], times, facts["dtype"])
    return _sum_up(facts, answers[0][1:], rates, times, notes)


def start_peak(worker: Worker, *, dtype: str, width: int, device: str = "cpu") -> Process:
    """A process whose steps measure the matrix peak, in GFLOP/s."""
    return worker.start({"side": "peak", "dtype": dtype, "device": device, "width": width})


def _peer(start: Callable[[str], Process]) -> Process:
    if find_spec("peft") is None:
        raise PtuneError(NO_PEFT)
    return start("peft")


def _teller(tell: Callable[[str], None], steps: int) -> Callable[[int, list[Line]], None]:
    def line(number: int, answers: list[Line]) -> None:
        name = f"step {number} of {steps}" if number else "step to warm up"
        said = zip(("ptune", "PEFT"), answers, strict=False)
        tell(f"{name}: " + ", ".join(f"{side} {a['seconds']:.3f} s" for side, a in said))

    return line


def _side(process: Process, answers: Sequence[Line], memory: Line) -> SideTimes:
    return SideTimes(
        **spread([answer["seconds"] for answer in answers[1:]]),
        peak_bytes=memory["peak_bytes"],
        losses=[answer["loss"] for answer in answers],
        computed=statistics.median(answer["computed"] for answer in answers[1:]),
        trained=process.facts["trained"],
    )


def _compared(peers: Sequence[Process], times: Sequence[SideTimes], dtype: str) -> list[str]:
    """Say whether the losses are equal, where they must be."""
    if not peers:
        return []
    if peers[0].facts["another"] is not None:
        return [peers[0].facts["another"]]
    own, other = (side.losses for side in times)
    worst = largest_difference(own, other)
    if worst <= AGREEMENT:
        return [f"All {len(own)} losses are equal to PEFT's to {worst:.1e}."]
    if dtype != "float32":
        return [f"The losses differ by up to {worst:.1e} ({dtype} rounds both sides)."]
    said = (
        f"The losses differ by up to {worst:.1e}, though both sides should compute the same "
        f"(to {AGREEMENT:.0e}): one of them is wrong for this model, so do not trust the times."
    )
    return [said]


def largest_difference(own: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of two rows of losses; nan where one of them is no number.

    >>> largest_difference([1.0, 2.0], [1.0, 2.5]), largest_difference([1.0, nan], [1.0, 2.0])
    (0.5, nan)
    """
    differences = [abs(a - b) for a, b in zip(own, other, strict=True)]
    return nan if any(map(isnan, differences)) else max(differences)


def _sum_up(
    facts: Line,
    answers: Sequence[Line],
    rates: Sequence[Line],
    times: Sequence[SideTimes],
    notes: list[str],
) -> BenchResult:
    best = {name: max(rate[name] for rate in rates) for name in rates[0]}
    median = {
        name: statistics.median(answer[name] for answer in answers)
        for name in ("tokens", "padded", "words", "flops")
    }
    return BenchResult(
        steps=len(answers),
        tokens=median["tokens"],
        padded=median["padded"],
        words=median["words"],
        flops=median["flops"],
        floor_seconds=median["flops"] / max(best.values()) / 1e9,
        gflops=best,
        format=facts["dtype"],
        device=facts["device"],
        ptune=times[0],
        peft=times[1] if len(times) > 1 else None,
        notes=notes,
    )
