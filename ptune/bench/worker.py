"""One side of a measurement in a process of its own: `python -m ptune.bench.worker JOB`.

JOB is JSON: `{"side": "ptune" | "peft", "recipe": {...}, "steps": 11}`, or
`{"side": "peak", "dtype": "float32", "device": "cpu", "width": 1024}` for the machine's peak.
`ptune.bench.measure` starts it; nobody else needs to.
"""

import json
import sys

import torch

from ptune.bench.floor import matrix_rates
from ptune.bench.process import Line, peak_memory, say, serve
from ptune.config import Recipe
from ptune.errors import PtuneError


def main() -> None:
    """Do what the job says; what cannot be done is told as an answer."""
    job: Line = json.loads(sys.argv[1])
    try:
        if job["side"] == "peak":
            work_peak(job)
        else:
            work_side(job)
    except PtuneError as error:
        say({"error": str(error)})


def work_peak(job: Line) -> None:
    """Measure the matrix peak whenever asked."""
    dtype = getattr(torch, job["dtype"])
    rates = {"step": lambda: matrix_rates(dtype, job["width"], device=job["device"])}
    serve({}, {**rates, "memory": peak_memory})


def work_side(job: Line) -> None:
    """Take a step whenever asked."""
    from ptune.bench.peer import peer_job, peer_side
    from ptune.bench.sides import Learner, make_job, own_side
    from ptune.training import load_backbone

    recipe = Recipe.make(**job["recipe"])
    backbone = load_backbone(recipe)
    if job["side"] == "peft":
        made = peer_job(recipe, backbone, steps=job["steps"])
        learner = Learner(made, peer_side(made, recipe))
        serve(learner.facts, {"step": learner.step, "memory": peak_memory})
        return
    made = make_job(recipe, backbone, steps=job["steps"])
    backbone.gradient_checkpointing = recipe.gradient_checkpointing
    learner = Learner(made, own_side(made))
    with backbone.injected():
        serve(learner.facts, {"step": learner.step, "memory": peak_memory})


if __name__ == "__main__":
    main()
