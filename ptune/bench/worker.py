"""One side of a measurement in a process of its own: `python -m ptune.bench.worker JOB`.

JOB is JSON: `{"side": "ptune" | "peft", "recipe": {...}, "steps": 11}`, or
`{"side": "peak", "dtype": "float32", "device": "cpu", "width": 1024}` for the machine's peak.
`ptune.bench.measure` starts it; nobody else needs to.
"""

import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import torch

from ptune.bench.floor import matrix_rates
from ptune.bench.process import Line, peak_memory, serve, telling_errors

if TYPE_CHECKING:
    from ptune.backbone import Backbone


def main() -> None:
    """Do what the job says; what cannot be done is told as an answer."""
    job: Line = json.loads(sys.argv[1])
    with telling_errors():
        if job["side"] == "peak":
            work_peak(job)
        else:
            work_side(job)


def work_peak(job: Line) -> None:
    """Measure the matrix peak whenever asked."""
    dtype = getattr(torch, job["dtype"])
    rates = {"step": lambda: matrix_rates(dtype, job["width"], device=job["device"])}
    serve({}, {**rates, "memory": partial(peak_memory, job["device"])})


def work_side(job: Line, backbone: "Backbone | None" = None) -> None:
    """Take a step whenever asked; on the recipe's backbone, or on one that is given."""
    # Here and not above: the process that measures the peak needs none of it.
    from ptune.bench.peer import peer_side, peer_workload
    from ptune.bench.sides import Timed, make_workload, own_side
    from ptune.config import Recipe
    from ptune.training import load_backbone

    recipe = Recipe.make(**job["recipe"])
    loaded = backbone or load_backbone(recipe)
    if job["side"] == "peft":
        made = peer_workload(recipe, loaded, steps=job["steps"])
        timed = Timed(made, peer_side(made, recipe))
        serve(timed.facts, {"step": timed.step, "memory": partial(peak_memory, str(loaded.device))})
        return
    made = make_workload(recipe, loaded, steps=job["steps"])
    loaded.gradient_checkpointing = recipe.gradient_checkpointing
    loaded.compiled = recipe.compile
    timed = Timed(made, own_side(made))
    with loaded.injected():
        serve(timed.facts, {"step": timed.step, "memory": partial(peak_memory, str(loaded.device))})


if __name__ == "__main__":
    main()
