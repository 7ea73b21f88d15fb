"""What `ptune probe` shows: a line a relation, and the mean over relations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.probing.record import PROTOCOL, means_of
from ptune.tables import console, named

# How many relations that fail alike are named; the others are counted.
NAMED = 5


def show_probed(found: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """A line a relation, its scores by method, and the mean over relations."""
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    heads = [f"{method}: P@1 P@10 MRR" for method in found]
    table = named("relation", "facts", "dropped", "majority", *heads)
    for name in names:
        scored = [own[name] for own in found.values() if "scores" in own.get(name, {})]
        if scored:
            cells = [_probe_scores(own.get(name, {}).get("scores")) for own in found.values()]
            table.add_row(name, *_probe_counts(scored[0]), *cells)
    table.add_section()
    common = _common(found)
    means = [means_of({name: own[name] for name in common}) for own in found.values()]
    table.add_row("mean", "", "", "", *map(_probe_scores, means))
    console.print(table)
    for line in probed_lines(found):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Results and prompts are in {output}.", highlight=False)


def _common(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The relations that every method has scores of: only their means can be compared."""
    names = next(iter(found.values()))
    return [n for n in names if all("scores" in own.get(n, {}) for own in found.values())]


def _probe_counts(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    counts = entry["counts"]
    dropped = counts["dropped_tokens"] + counts["dropped_list"]
    return str(counts["test"]), str(dropped), f"{100 * entry['majority']:.1f}"


def _probe_scores(scores: Mapping[str, float] | None) -> str:
    if not scores:
        return "-"
    shares = f"{100 * scores['p_at_1']:.1f} {100 * scores['p_at_10']:.1f}"
    return f"{shares} {scores['mrr']:.3f}"


def probed_lines(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the table means, and which relations are not in it."""
    meaning = (
        "facts: to test. dropped: of all facts, those whose object is not one token of the model, "
        "or not on the list. majority: P@1 of always the most frequent object. In percent, but MRR."
    )
    lines = [meaning, PROTOCOL]
    tried = {name for own in found.values() for name in own}
    which = "" if len(found) == 1 else ", those that every method could do"
    lines.append(f"mean: over {len(_common(found))} of {len(tried)} relations{which}.")
    lines += _counted(found, "repeated", "to test are trained on too: their score is no knowledge")
    lines += _counted(found, "cut", "to test were longer than max_tokens and were cut")
    return lines + _failures(found)


def _counted(found: Mapping[str, Mapping[str, Any]], what: str, said: str) -> list[str]:
    """A line on facts that are counted under this name, if there are any: how many, and where."""
    counts: dict[str, int] = {}
    for own in found.values():
        for name, entry in own.items():
            count = entry.get("counts", {}).get(what, 0)  # older records do not have all
            counts[name] = max(counts.get(name, 0), count)
    names = [f"{name} ({count})" for name, count in counts.items() if count]
    return [f"facts {said}, by relation: {_few(names)}."] if names else []


def _failures(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each failure: the relations and methods it is of, and what it says."""
    relations: dict[tuple[str, str], list[str]] = {}
    for method, own in found.items():
        for name, entry in own.items():
            if "error" in entry:
                said = entry["error"].removeprefix(f"{name}: ")
                relations.setdefault((said, method), []).append(name)
    methods: dict[tuple[str, str], list[str]] = {}
    for (said, method), names in relations.items():
        methods.setdefault((_few(names), said), []).append(method)
    return [f"{names} ({', '.join(own)}): {said}" for (names, said), own in methods.items()]


def _few(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
