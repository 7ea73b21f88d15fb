"""The table of PEFT's faults: all items of the list, and what an item says."""

import json
import warnings

import pytest
import torch

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")


def test_every_item_of_the_list_is_there():
    import peft_faults

    assert list(peft_faults.ITEMS) == [f"S{n}" for n in range(1, 13)] + [
        str(n) for n in range(1, 15)
    ]


def test_the_committed_results_have_every_item_measured_in_ptune():
    import peft_faults
    from common import RESULTS, latest, read_lines

    lines = latest(read_lines(RESULTS / "peft_faults.jsonl"), "item")
    assert {line["item"] for line in lines} == set(peft_faults.ITEMS)
    assert all(line["peft"]["right"] is False for line in lines)
    # What ptune cannot do either is said in these two; wrong is never allowed.
    assert {line["item"] for line in lines if not line["ptune"]["right"]} == {"11", "13"}
    for line in lines:
        assert not {"wrong", "raises"} & set(line["ptune"]["said"].replace("(", " ").split())


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
