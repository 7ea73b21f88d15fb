"""The tables of the quality benchmarks: mean and spread over the seeds, and how it was measured.

A rate at the edge of its grid is marked, from the lines of the grid. A note below each table names
rows, epochs and the choice of the epoch, what is not the same for all methods, and which prompts
were measured with defaults that are no longer the defaults.
"""

from collections.abc import Sequence

from common import (
    Line,
    averaged,
    edge_said,
    latest,
    markdown,
    mean_spread,
    rate_told,
    seeds_told,
    settings_line,
    spread_said,
)

from ptune.training.build import FEW_STEPS, MOST_EPOCHS

# Methods of a recipe; those of baselines have other names.
PROMPTS = ("prompt-tuning", "p-tuning", "p-tuning-v2")
# What is not as it is for the other methods of a benchmark.
UNLIKE = {
    ("quality_encoder", "PEFT PREFIX_TUNING"): "PEFT PREFIX_TUNING reads [CLS] through the model's "
    "frozen pooler, and is trained with the model's dropout; all others read the mean, and prompts "
    "of ptune's are trained without dropout",
    ("quality_tagging", "PEFT PREFIX_TUNING"): "PEFT PREFIX_TUNING is trained with the model's "
    "dropout, prompts of ptune's without",
    ("quality_qa", "PEFT PREFIX_TUNING"): "PEFT PREFIX_TUNING is trained with the model's dropout, "
    "prompts of ptune's without, and PEFT passes no token_type_ids on to the model",
}
# The scores in a table: of rows, or of entities.
SHOWN = (("accuracy", "macro_f1"), ("f1", "precision", "recall"), ("exact_match", "f1"))


def table(lines: Sequence[Line], part: str | None = None) -> str:
    """Mean and spread over the seeds, a table for each task; `part` names one task."""
    told = ("task", "rows", "test_rows")
    runs = latest((x for x in lines if x["kind"] == "run"), *told, "method", "seed")
    grid = [line for line in lines if line["kind"] == "grid"]
    kinds = dict.fromkeys(tuple(run[key] for key in told) for run in runs)
    texts = [
        _table([run for run in runs if tuple(run[key] for key in told) == kind], grid)
        for kind in kinds
        if part in (None, kind[0])
    ]
    return "\n\n".join(texts) or "Nothing was measured yet."


def _tried(run: Line, grid: Sequence[Line]) -> list[float]:
    """The rates that a run's was chosen from: on its own rows, or else on those of other tasks."""
    own = [line for line in grid if line["method"] == run["method"]]
    same = [line for line in own if (line["task"], line["rows"]) == (run["task"], run["rows"])]
    return [line["lr"] for line in same or own]


def _table(runs: Sequence[Line], grid: Sequence[Line]) -> str:
    scores = _scores(runs)
    shown = _shown(runs)
    head = ["method", "trained", *shown, f"{shown[0]}, held out", "seeds", "lr", "steps"]
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        found = [run for run in runs if run["method"] == method]
        rates = {run["lr"] if run["lr"] is not None else run["settings"].get("lr") for run in found}
        tried = _tried(found[0], grid)
        trains = found[0]["trained"] > 0
        rows.append(
            [
                method,
                f"{found[0]['trained']:,}" if trains else "-",
                *(mean_spread([run["test"][name] for run in found]) for name in scores),
                _held_out(found, scores[0]),
                seeds_told(run["seed"] for run in found) if trains else "-",
                ", ".join(rate_told(rate, tried) for rate in sorted(rates)) if trains else "-",
                f"{max(run['steps'] for run in found)}" if trains else "-",
            ]
        )
    shown = markdown(head, rows)
    return "\n".join([shown, "", _note(runs, shown)])


def _held_out(runs: Sequence[Line], name: str) -> str:
    """The score of the rows that the epoch was chosen on: like those that were trained on."""
    found = [run["held_out"][name] for run in runs if name in run["held_out"]]
    return mean_spread(found) if len(found) == len(runs) else "-"


def _scores(runs: Sequence[Line]) -> tuple[str, ...]:
    return next(names for names in SHOWN if set(names) <= runs[0]["test"].keys())


def _shown(runs: Sequence[Line]) -> list[str]:
    return [name.replace("_", " ").replace("f1", "F1") for name in _scores(runs)]


def _note(runs: Sequence[Line], shown: str) -> str:
    one = runs[0]
    *names, last = _shown(runs)
    trained = [run for run in runs if run["trained"]]
    prompts = [run["settings"] for run in trained if run["settings"].get("method") in PROMPTS]
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
        *([f"epochs {_or(epochs)}, batch {_or(batches)}, {chosen}"] if trained else []),
        ", ".join([f"{', '.join(names)} and {last} in percent", *spread_said(shown)]),
        *edge_said(shown),
        *averaged(prompts),
        *_unlike(runs),
        *_older(runs),
    )


def _unlike(runs: Sequence[Line]) -> list[str]:
    """What a reader must know of methods before comparing them."""
    keys = dict.fromkeys((run["bench"], run["method"]) for run in runs)
    return [UNLIKE[key] for key in keys if key in UNLIKE]


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
