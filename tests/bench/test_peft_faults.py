"""The table of PEFT's faults: all items of the list, and what an item says."""

import json
import warnings

import pytest
import torch

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_item_of_the_list_is_there_but_those_that_are_others_again():
    import peft_faults

    again = {3, 5, 6, 10}
    assert list(peft_faults.ITEMS) == [f"S{n}" for n in range(1, 13)] + [
        str(n) for n in range(1, 15) if n not in again
    ]


def test_the_committed_results_have_every_item_measured_in_ptune():
    import peft_faults
    from common import RESULTS, latest, read_lines

    lines = latest(read_lines(RESULTS / "peft_faults.jsonl"), "item")
    lines = [line for line in lines if line["item"] in peft_faults.ITEMS]
    assert {line["item"] for line in lines} == set(peft_faults.ITEMS)
    assert all(line["peft"]["right"] is False for line in lines)
    # What ptune cannot do either is said in these two; wrong is never allowed.
    assert {line["item"] for line in lines if not line["ptune"]["right"]} == {"11", "13"}
    for line in lines:
        assert not {"wrong", "raises"} & set(line["ptune"]["said"].replace("(", " ").split())


def test_a_line_of_an_item_that_is_no_more_is_in_no_table():
    import peft_faults

    side = {"right": True, "said": "right"}
    gone = {"item": "3", "title": "Classify", "peft": side, "ptune": side}
    assert peft_faults.table([gone]) == "Not measured yet."


def test_items_are_left_out_where_another_fault_would_stand_in_them(monkeypatch):
    import peft_faults

    def out():
        return [number for number in peft_faults.ITEMS if peft_faults.left_out(number)]

    monkeypatch.setattr(peft_faults, "no_prefixes", lambda: "Install another.")
    assert out() == ["S4", "S10", "12"]
    monkeypatch.setattr(peft_faults, "no_prefixes", lambda: None)
    assert out() == ["S12"]


@torch.no_grad()
def test_a_run_of_ptunes_is_killed_and_gone_on_with():
    from faults_sides import gone_on_with

    found = gone_on_with()
    assert found["right"], found
    assert found["said"].startswith("killed in step 3, gone on with at step 3 of 6: right (")


@torch.no_grad()
def test_an_item_is_measured_on_both_sides():
    import peft_faults

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (line,) = peft_faults.measure("S7")
    assert line["peft"]["said"].startswith("wrong (")
    assert line["ptune"]["said"].startswith("right (")
    table = peft_faults.table([json.loads(json.dumps(line))])
    assert "| S7. Classify on an encoder from [CLS], virtual tokens in front | ✗ wrong (" in table


def test_a_difference_is_wrong_and_a_refusal_is_neither():
    from faults_sides import both, differs

    zeros = torch.zeros(3)
    assert differs(zeros, zeros)["right"] is True
    assert differs(zeros + 1e-3, zeros) == {"right": False, "said": "wrong (1.0e-03)"}
    neither = {"right": None, "said": "refused"}
    assert both(differs(zeros, zeros), neither)["right"] is None
    assert both(differs(zeros + 1, zeros), neither)["right"] is False
