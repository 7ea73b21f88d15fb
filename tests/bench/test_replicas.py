import pytest


@pytest.fixture
def bench():
    import replicas

    return replicas


def test_losses_that_differ_end_the_script(bench):
    alone, beside = [[2.0, 4.0], [1.0, 1.0]], [[2.0, 4.002], [1.0, 1.0]]
    assert bench.apart({"in a row": alone, "side by side": beside}) == pytest.approx(0.0005)
    for wrong in (4.1, float("nan")):
        with pytest.raises(SystemExit, match="The losses of the two sides differ"):
            bench.apart({"in a row": alone, "side by side": [[2.0, wrong], [1.0, 1.0]]})


def test_the_table_says_how_many_times_faster_the_last_result_is(bench):
    sides = {
        "in a row": {"seconds": 3.0, "tokens": 40.0, "peak_bytes": 1e9},
        "side by side": {"seconds": 1.5, "tokens": 320.0, "peak_bytes": 2e9},
    }
    case = {"shape": "tiny", "method": "prompt-tuning", "tokens": 16, "batch": 1, "layers": 24,
            "dtype": "float32", "device": "cpu", "replicas": 8, "rounds": 3, "steps": 6,
            "difference": 1e-6}  # fmt: skip
    slow = sides | {"side by side": sides["side by side"] | {"seconds": 6.0}}
    said = bench.table([case | slow, case | sides])
    cells = [cell.strip() for cell in said.splitlines()[2].strip("|").split("|")]
    assert cells == ["tiny", "prompt-tuning", "16", "1", "40", "3.000", "1.500", "2.00", "1.00",
                     "2.00"]  # fmt: skip
    assert "The largest difference of any loss is 1.0e-06 of it (asserted: 1e-03)." in said
    assert bench.table([]) == "Nothing was measured yet."
