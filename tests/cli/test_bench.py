import json

import pytest

from ptune.bench import measure as measuring
from ptune.bench.measure import BenchResult, SideTimes

SIDE = SideTimes(0.5, 0.4, 1.0, 2_000_000_000, [3.0, 2.0], computed=40.0, trained=64)
PEER = SideTimes(2.0, 1.5, 2.5, None, [3.0, 2.0], computed=120.0, trained=64)


@pytest.fixture
def asked(monkeypatch):
    """What `measure` was asked for; it answers at once."""
    found = []

    def answer(recipe, **more):
        found.append((recipe, more))
        return BenchResult(
            1, 40.0, 120.0, 2.0, 5e9, 0.25, {"square": 20.0}, "float32", "cpu", SIDE, PEER,
            ["All 2 losses are equal to PEFT's to 1.0e-06."],
        )  # fmt: skip

    monkeypatch.setattr(measuring, "measure", answer)
    return found


def test_a_recipe_is_measured_as_it_is_overridden(place, ptune, asked):
    code, out, err = ptune("bench", place / "recipe.yaml", "batch_size=2", "--steps", 3)
    assert (code, err) == (0, "")
    recipe, more = asked[0]
    assert (recipe.batch_size, recipe.backbone) == (2, f"{place}/backbone")
    assert (more["steps"], more["peer"]) == (3, True)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    assert [line for line in cells if line] == [
        ["seconds (median)", "0.5000", "2.0000"],
        ["fastest .. slowest", "0.4000 .. 1.0000", "1.5000 .. 2.5000"],
        ["peak memory", "2.00 GB", "?"],
        ["tokens computed", "40", "120"],
        ["trained numbers", "64", "64"],
        ["loss, first .. last", "3.0000 .. 2.0000", "3.0000 .. 2.0000"],
        ["real tokens a second", "80", "20"],
        ["times the floor", "2.00", "8.00"],
    ]
    assert out.endswith(
        "1 steps in turn after one to warm up, in float32 on cpu: 40 real tokens a step, 120 if "
        "every row were padded to the longest.\n"
        "Floor: 0.2500 s, the matrix products of ptune's step at this machine's peak of 20 "
        "GFLOP/s. Attention and norms are not in it.\n"
        "A step takes PEFT 4.00 times as long.\n"
        "All 2 losses are equal to PEFT's to 1.0e-06.\n"
    )


@pytest.mark.parametrize("changes", [(), ("batch_size=2",), ("batch_size=2", "lr=0.1")])
def test_without_a_recipe_it_is_the_demos(ptune, asked, changes):
    code, out, err = ptune("bench", *changes, "--json", "--no-peer")
    assert (code, err) == (0, "")
    recipe, more = asked[0]
    assert (recipe.backbone, recipe.method) == ("ptune-tiny", "p-tuning-v2")
    assert recipe.batch_size == (2 if changes else 16)
    assert recipe.lr == (0.1 if len(changes) == 2 else None)
    assert (more["peer"], more["tell"]) == (False, None)
    said = json.loads(out)
    assert (said["times_floor"], said["times_faster"]) == (2.0, 4.0)
    assert said["ptune"]["losses"] == [3.0, 2.0]


def test_a_mistake_in_the_recipe_is_a_sentence(place, ptune, asked):
    code, out, err = ptune("bench", place / "recip.yaml")
    assert (code, out) == (1, "")
    assert err == (
        f"ptune: {place}/recip.yaml: no such recipe in {place}. Did you mean recipe.yaml?\n"
    )
    assert not asked


def test_a_real_measurement_of_one_step(place, ptune):
    """Real processes; PEFT's is left to `tests/bench/test_peer.py`."""
    code, out, _ = ptune("bench", place / "recipe.yaml", "--steps", 1, "--json", "--no-peer")
    said = json.loads(out)
    assert (code, said["peft"], said["notes"]) == (0, None, [])
    assert (said["steps"], said["format"], said["device"]) == (1, "float32", "cpu")
    assert len(said["ptune"]["losses"]) == 2
    assert said["times_floor"] > 1  # the floor is one
    assert said["ptune"]["peak_bytes"] > 1e8
