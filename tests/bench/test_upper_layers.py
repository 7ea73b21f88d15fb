import pytest


@pytest.fixture
def bench():
    import upper_layers

    return upper_layers


def lines(bench, other):
    shape = {"layers": 12, "hidden": 768, "batch": 32, "slots": 20, "steps": 2, "seed": 0}
    shape |= {"tokens": 460.0, "vocabulary": 8192, "longest": 45}
    sides = {
        bench.ALL: (6.0, [1.0, 3.0]),
        bench.UPPER: (4.0, [1.0, 2.0]),
        bench.REMEMBERED: (2.0, [1.0, other]),
    }
    return [
        shape
        | {"side": side, "seconds": s, "fastest": s, "slowest": s, "first_epoch": s, "losses": one}
        for side, (s, one) in sides.items()
    ]


def test_the_table_compares_with_a_prompt_in_all_layers(bench):
    text = bench.table(lines(bench, 2.0))
    row = "| upper third, remembered | 2.000 | 2.000 .. 2.000 | 3.00 | 2.000 | 1.0000 .. 2.0000 |"
    assert row in text
    assert "All 2 losses of the upper third are the same with the trunk remembered" in text


@pytest.mark.parametrize("other", [2.1, float("nan")])
def test_losses_that_differ_end_the_script(bench, other):
    with pytest.raises(SystemExit, match="The losses with and without the memory differ"):
        bench.check_losses(lines(bench, other))
