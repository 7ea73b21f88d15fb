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


def require_peft() -> None:
    """End with a sentence where there is nothing to compare with."""
    if machine()["machine"]["peft"] is None:
        skip(NO_PEFT)


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


def older(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to say of prompts that were measured with defaults which are no longer the defaults."""
    if all("average" in line for line in lines):
        return []
    return ["measured before ptune kept the mean of a prompt's last steps"]


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
