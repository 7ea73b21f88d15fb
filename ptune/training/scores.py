r"""What a run reports, and by which protocol: `scores.json` in the output folder.

    strict   the step is chosen on the validation rows; the test rows are scored once, and that
             score is reported
    paper    the best score of all evaluations on the validation rows is reported, as the papers on
             P-tuning do; it is too good by what choosing gains

Over several seeds the mean is reported, with the sample deviation s and the interval that holds
the mean of all seeds with a probability of 95 % if scores are normal,

    mean +- t s / sqrt(n)          t: 97.5 % point of Student's t with n - 1 degrees of freedom

cut to the values that the score can have: 0 .. 1 of shares, 0 and more of a loss.

Knows finished runs; trains nothing.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ptune.config import Recipe
from ptune.config.presets import presets
from ptune.errors import TrainingError
from ptune.training.result import Result
from ptune.writing import write_text

FILE = "scores.json"
CONFIDENCE = 0.95
# Scores that are shares of 1 and are shown in percent.
SHARES = frozenset(
    {"accuracy", "macro_f1", "micro_f1", "exact_match", "f1", "precision", "recall"}
    | {"answerable_f1", "answerable_exact_match", "unanswerable_accuracy", "best_f1"}
)
# Least and greatest value of scores that are no shares.
_BOUNDS = {
    **dict.fromkeys(("loss", "mse"), (0.0, math.inf)),
    "perplexity": (1.0, math.inf),
    **dict.fromkeys(("pearson", "spearman"), (-1.0, 1.0)),
}


def reported_split(protocol: str, scores: Iterable[str]) -> str | None:
    """Which rows' score is reported; None where no rows were scored.

    >>> reported_split("strict", ["validation", "test"])
    'test'
    """
    order = ("validation",) if protocol == "paper" else ("test", "validation")
    return next((split for split in order if split in scores), None)


def how(protocol: str, split: str | None, *, validated: bool = True) -> str:
    """The protocol, in a sentence.

    Args:
        validated: whether there were validation rows.
    """
    if split is None:
        return f"{protocol}: nothing was scored."
    if protocol == "paper":
        return "paper: the best of all evaluations on the validation rows."
    if not validated:
        return "strict: the last step was kept, the test rows scored once."
    if split == "test":
        return "strict: the step was chosen on the validation rows, the test rows scored once."
    return (
        "strict, without test rows: the score is that of the validation rows on which the step "
        "was chosen, so it is too good."
    )


def run_scores(recipe: Recipe, result: Result) -> dict[str, Any]:
    """What one run reports.

    Args:
        recipe: resolved.
    """
    split = reported_split(recipe.protocol, result.scores)
    metric = recipe.metric or "accuracy"
    found: dict[str, Any] = {
        **_protocol(recipe, split, result.scores),
        "seed": recipe.seed,
        "steps": result.steps,
        "scores": result.scores,
        **_notes(result),
    }
    if split is not None:
        found["reported"] = {
            "rows": split,
            "metric": metric,
            "score": result.scores[split].get(metric),
        }
        if recipe.second_metric is not None:
            second = result.scores[split].get(recipe.second_metric)
            found["reported"] |= {"second_metric": recipe.second_metric, "second_score": second}
    return found


def replicas_scores(
    recipe: Recipe, names: Sequence[str], results: Sequence[Result | TrainingError]
) -> dict[str, Any]:
    """What several runs of one recipe report: each one's steps and scores or error, and the spread.

    Args:
        recipe: resolved; its seed is not used.
    """
    each = {
        name: {"error": str(result)}
        if isinstance(result, TrainingError)
        else {"steps": result.steps, "scores": result.scores, **_notes(result)}
        for name, result in zip(names, results, strict=True)
    }
    spreads = spread(results)
    split = reported_split(recipe.protocol, spreads)
    found = {**_protocol(recipe, split, spreads), "replicas": each, "scores": spreads}
    if split is not None:
        metric = recipe.metric or "accuracy"
        found["reported"] = {"rows": split, "metric": metric, **spreads[split].get(metric, {})}
        if recipe.second_metric is not None:
            second = spreads[split].get(recipe.second_metric, {})
            found["reported"] |= {"second_metric": recipe.second_metric, "second": second}
    return found


def _notes(result: Result) -> dict[str, Any]:
    """What was said of the run and its rows: those that were left out, scored rows trained on."""
    notes = result.facts.get("notes")
    return {"notes": notes} if notes else {}


def write_scores(folder: Path, scores: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all; a score that is undefined is null.

    Raises:
        ArtifactError: it cannot be written.
    """
    text = json.dumps(_finite(scores), ensure_ascii=False, indent=2)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, text + "\n")


def _protocol(recipe: Recipe, split: str | None, scored: Iterable[str]) -> dict[str, Any]:
    said = how(recipe.protocol, split, validated="validation" in scored)
    found: dict[str, Any] = {"protocol": recipe.protocol, "how": said}
    if recipe.preset is not None:
        preset = presets()[recipe.preset]
        found["preset"] = {
            "name": preset.name,
            "source": preset.source,
            "differs": preset.differs,
            "published": dict(preset.published),
        }
    return found


def spread(results: Sequence[Result | TrainingError]) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean, deviation, interval and number of each score over the replicas that have it.

    Of a single one the deviation is 0 and there is no interval; of scores that are undefined (nan)
    all are.
    """
    scores = [result.scores for result in results if isinstance(result, Result)]
    splits = dict.fromkeys(split for one in scores for split in one)
    return {split: _spread_of([one[split] for one in scores if split in one]) for split in splits}


def _spread_of(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    found = {}
    # Some scores depend on the rows, as those of a rare entity: not every run has them.
    for name in dict.fromkeys(name for row in rows for name in row):
        column = [row[name] for row in rows if name in row]
        # By hand: `statistics.stdev` fails on a score that is undefined (nan).
        mean = math.fsum(column) / len(column)
        apart = [score - mean for score in column]
        squares = math.fsum(d * d for d in apart)  # `d ** 2` raises where it overflows
        deviation = math.sqrt(squares / (len(column) - 1)) if len(column) > 1 else 0.0
        found[name] = {
            "mean": mean,
            "deviation": deviation,
            "interval": _clipped(name, interval(mean, deviation, len(column))),
            "runs": len(column),
        }
    return found


def interval(mean: float, deviation: float, runs: int) -> list[float] | None:
    """The 95 % interval of the mean; None of a single run.

    >>> [round(end, 2) for end in interval(0.80, 0.01, 5)]
    [0.79, 0.81]
    """
    if runs < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, runs - 1)) * deviation / math.sqrt(runs)
    return [mean - half, mean + half]


def _clipped(name: str, ends: list[float] | None) -> list[float] | None:
    """An interval without the values that the score cannot have; nan stays nan."""
    if ends is None:
        return None
    kind = name.rpartition("/")[2]
    low, high = (0.0, 1.0) if kind in SHARES else _BOUNDS.get(kind, (-math.inf, math.inf))
    # In this order of arguments nan is kept.
    return [min(max(end, low), high) for end in ends]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
