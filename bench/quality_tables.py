"""The tables of the quality benchmarks: mean and spread over the seeds, and how it was measured.

A note below each table names rows, epochs and the choice of the epoch, and says which prompts were
measured with defaults that are no longer the defaults.
"""

from collections.abc import Sequence

from common import Line, latest, markdown, mean_spread, settings_line

from ptune.training.build import FEW_STEPS, MOST_EPOCHS

# Methods of a recipe; those of baselines have other names.
PROMPTS = ("prompt-tuning", "p-tuning", "p-tuning-v2")
# The scores in a table: of rows, or of entities.
SHOWN = (("accuracy", "macro_f1"), ("f1", "precision", "recall"), ("exact_match", "f1"))


def table(lines: Sequence[Line], part: str | None = None) -> str:
    """Mean and spread over the seeds, a table for each task; `part` names one task."""
    told = ("task", "rows", "test_rows")
    runs = latest((x for x in lines if x["kind"] == "run"), *told, "method", "seed")
    kinds = dict.fromkeys(tuple(run[key] for key in told) for run in runs)
    texts = [
        _table([run for run in runs if tuple(run[key] for key in told) == kind])
        for kind in kinds
        if part in (None, kind[0])
    ]
    return "\n\n".join(texts) or "Nothing was measured yet."


def _table(runs: Sequence[Line]) -> str:
    scores = _scores(runs)
    shown = _shown(runs)
    head = ["method", "trained", *shown, f"{shown[0]}, held out", "seeds", "lr", "steps"]
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        found = [run for run in runs if run["method"] == method]
        rates = {run["lr"] if run["lr"] is not None else run["settings"].get("lr") for run in found}
        trains = found[0]["trained"] > 0
        rows.append(
            [
                method,
                f"{found[0]['trained']:,}" if trains else "-",
                *(mean_spread([run["test"][name] for run in found]) for name in scores),
                _held_out(found, scores[0]),
                str(len(found)) if trains else "-",
                ", ".join(f"{rate:g}" for rate in sorted(rates)) if trains else "-",
                f"{max(run['steps'] for run in found)}" if trains else "-",
            ]
        )
    return "\n".join([markdown(head, rows), "", _note(runs)])


def _held_out(runs: Sequence[Line], name: str) -> str:
    """The score of the rows that the epoch was chosen on: like those that were trained on."""
    found = [run["held_out"][name] for run in runs if name in run["held_out"]]
    return mean_spread(found) if len(found) == len(runs) else "-"


def _scores(runs: Sequence[Line]) -> tuple[str, ...]:
    return next(names for names in SHOWN if set(names) <= runs[0]["test"].keys())


def _shown(runs: Sequence[Line]) -> list[str]:
    return [name.replace("_", " ").replace("f1", "F1") for name in _scores(runs)]


def _note(runs: Sequence[Line]) -> str:
    one = runs[0]
    *shown, last = _shown(runs)
    trained = [run for run in runs if run["trained"]] or [one]
    epochs = sorted({run["settings"]["epochs"] for run in trained})
    batches = sorted({run["settings"]["batch_size"] for run in trained})
    shares = sorted({run["settings"]["validation_share"] for run in trained})
    chosen = (
        f"a share of {_or(shares)} of the training rows, held out by seed and the same for all "
        "methods"
    )
    chosen = one.get("chosen_on") or chosen
    rows = "all" if one["rows"] is None else f"{one['rows']:,} by seed"
    tested = "all" if one["test_rows"] is None else f"{one['test_rows']:,} of the"
    chosen = f"the best epoch chosen on {chosen}" if any(shares) else "the last step scored"
    return settings_line(
        runs,
        f"{one['task']} with {one['model']}, training rows: {rows}",
        f"{tested} test rows, scored once a run",
        f"epochs {_or(epochs)}, batch {_or(batches)}, {chosen}",
        f"{', '.join(shown)} and {last} in percent, mean ± standard deviation over the seeds",
        *_older(runs),
    )


def _older(runs: Sequence[Line]) -> list[str]:
    """Which prompts were measured with defaults that are no longer the defaults."""
    trained = [run for run in runs if run["trained"]]
    prompts = [run for run in trained if run["settings"].get("method") in PROMPTS]
    last = dict.fromkeys(run["method"] for run in prompts if "average" not in run["settings"])
    short = dict.fromkeys(run["method"] for run in prompts if _is_short(run))
    said = []
    if last:
        said.append(f"{', '.join(last)}: measured before ptune kept the mean of the last steps")
    if short:
        said.append(f"{', '.join(short)}: in fewer steps than ptune's default takes now")
    return said


def _is_short(run: Line) -> bool:
    asked = run.get("asked", {"epochs": True})
    default = asked["epochs"] is None and asked["max_steps"] is None
    return default and run["steps"] < FEW_STEPS and run["settings"]["epochs"] < MOST_EPOCHS


def _or(values: Sequence[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)
