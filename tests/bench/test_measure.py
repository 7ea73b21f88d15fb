"""With sides that answer from a list, so that nothing is loaded."""

import sys

import pytest

from ptune.bench import measure as measuring
from ptune.bench.measure import Worker, measure
from ptune.config import Recipe
from ptune.errors import PtuneError

RECIPE = Recipe.make(backbone="tiny", train="rows.csv")
SIDE = """
import json, sys
from ptune.bench.process import say, serve
job = json.loads(sys.argv[1])
told = job["told"]
if job["side"] == "peak":
    rates = iter([{"small": 1.0, "large": 2.0}, {"small": 3.0, "large": 1.5}])
    assert (job["dtype"], job["device"], job["width"]) == ("float32", "cpu", 32)
    serve({}, {"step": lambda: next(rates)})
elif "error" in told.get(job["side"], {}):
    say(told[job["side"]])
else:
    factor = {"ptune": 1.0, "peft": 4.0}[job["side"]]
    losses = iter(told[job["side"]]["losses"])
    seconds = iter([9.0, 0.5, 0.25, 1.0])
    def step():
        return {"seconds": factor * next(seconds), "loss": next(losses), "tokens": 10,
                "padded": 30, "computed": 10 * factor, "words": 2, "flops": 6e8}
    assert job["steps"] == 4
    facts = {"trained": 5, "another": told[job["side"]].get("another"), "width": 32,
             "dtype": "float32", "device": "cpu"}
    serve(facts, {"step": step, "memory": lambda: {"peak_bytes": int(100 * factor)}})
"""
EQUAL = [3.0, 2.0, 1.5, 1.25]


def measured(own, other, **more):
    worker = Worker(
        command=(sys.executable, "-c", SIDE), more={"told": {"ptune": own, "peft": other}}
    )
    return measure(RECIPE, steps=3, worker=worker, **more)


def test_the_figures_are_medians_without_the_step_to_warm_up():
    heard = []
    found = measured(
        {"losses": EQUAL}, {"losses": [loss + 1e-5 for loss in EQUAL]}, tell=heard.append
    )
    assert (found.ptune.seconds, found.ptune.fastest, found.ptune.slowest) == (0.5, 0.25, 1.0)
    assert found.gflops == {"small": 3.0, "large": 2.0}  # the best of before and after
    assert found.floor_seconds == pytest.approx(0.2)
    assert found.times_floor == pytest.approx(2.5)
    assert found.times_faster == 4.0
    assert (found.tokens, found.padded, found.words, found.steps) == (10, 30, 2, 3)
    assert found.peft is not None
    assert (found.ptune.computed, found.peft.computed) == (10, 40)
    assert (found.ptune.peak_bytes, found.peft.peak_bytes) == (100, 400)
    assert found.notes == ["All 4 losses are equal to PEFT's to 1.0e-05."]
    assert heard[0] == "step to warm up: ptune 9.000 s, PEFT 36.000 s"
    assert heard[3] == "step 3 of 3: ptune 1.000 s, PEFT 4.000 s"
    assert found.to_dict()["times_floor"] == found.times_floor


def test_losses_that_should_be_equal_and_are_not_take_the_times_away():
    found = measured({"losses": EQUAL}, {"losses": [*EQUAL[:3], 1.35]})
    said = (
        "The losses differ by up to 1.0e-01, though both sides should compute the same (to "
        "1e-04): one of them is wrong for this model, so do not trust the times."
    )
    assert found.notes == [said]


def test_losses_that_are_no_numbers_are_not_equal():
    nan = [3.0, 2.0, 1.5, float("nan")]
    assert "do not trust the times" in measured({"losses": nan}, {"losses": EQUAL}).notes[0]
    first = [float("nan"), *EQUAL[1:]]
    assert "do not trust the times" in measured({"losses": first}, {"losses": EQUAL}).notes[0]


def test_losses_of_another_function_are_not_compared():
    found = measured({"losses": EQUAL}, {"losses": [9.0] * 4, "another": "Another loss."})
    assert found.notes == ["Another loss."]


def test_what_peft_cannot_say_leaves_ptune_alone():
    found = measured({"losses": EQUAL}, {"error": "PEFT is left out: it has no such thing."})
    assert (found.peft, found.times_faster) == (None, None)
    assert found.notes == ["PEFT is left out: it has no such thing."]


def test_without_peft_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    found = measured({"losses": EQUAL}, {})
    assert found.notes == [
        "PEFT is not installed, so there is nothing to measure beside. pip install peft"
    ]
    assert measured({"losses": EQUAL}, {}, peer=False).notes == []


def test_what_ptune_cannot_do_is_the_users_to_know():
    with pytest.raises(PtuneError, match=r"^rows\.csv: no such file\.$"):
        measured({"error": "rows.csv: no such file."}, {})
