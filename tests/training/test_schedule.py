import functools
import math
import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.training.schedule import ByTokens, Plan, lr_share


def plan(rows=10, rows_per_step=4, epochs=3, max_steps=None, seed=0):
    return Plan.make(
        rows, rows_per_step=rows_per_step, epochs=epochs, max_steps=max_steps, seed=seed
    )


def epoch(plan, number):
    first = number * plan.steps_per_epoch
    return [plan.rows_of(step) for step in range(first, first + plan.steps_per_epoch)]


def test_every_row_is_seen_once_an_epoch_and_the_last_step_takes_what_is_left():
    for number in range(3):
        steps = epoch(plan(), number)
        assert [len(rows) for rows in steps] == [4, 4, 2]
        assert sorted(functools.reduce(operator.iadd, steps, [])) == list(range(10))


def test_every_epoch_has_an_order_of_its_own_and_so_has_every_seed():
    orders = {
        tuple(functools.reduce(operator.iadd, epoch(plan(seed=seed), e), []))
        for seed in (0, 1)
        for e in range(3)
    }
    assert len(orders) == 6


def test_what_a_step_sees_follows_from_seed_and_step_alone():
    torch.manual_seed(5)
    first = plan().rows_of(7)
    torch.manual_seed(6)
    assert plan().rows_of(7) == first


def test_the_order_of_rows_is_drawn_without_touching_the_random_state():
    before = torch.get_rng_state()
    plan().rows_of(0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 9), (5, 5), (100, 9)])
def test_max_steps_shortens_a_run_and_never_lengthens_it(max_steps, steps):
    assert plan(max_steps=max_steps).steps == steps


def test_epochs_are_counted_by_their_steps():
    assert [plan().epoch_of(step) for step in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_an_epoch_ends_with_its_last_step():
    assert [step for step in range(11) if plan().ends_epoch(step)] == [3, 6, 9]


def test_an_order_is_drawn_once_an_epoch_whatever_the_number_of_rows(monkeypatch):
    draw, calls = torch.randperm, []

    def counted(rows, **more):
        calls.append(rows)
        return draw(rows, **more)

    monkeypatch.setattr(torch, "randperm", counted)
    made = plan(rows=1000)
    for step in (0, 1, 2, 249, 250, 251, 252):
        made.rows_of(step)
    assert calls == [1000, 1000]


def test_what_is_run_at_once_is_a_batch_of_the_rows_of_a_step():
    made = Plan.make(10, rows_per_step=6, batch_size=3, epochs=1, max_steps=None, seed=0)
    assert [len(made.rows_of(step)) for step in range(made.steps)] == [6, 4]
    assert made.parts([7, 1, 4, 0]) == [[7, 1, 4], [0]]
    assert made.parts([]) == []
    same = Plan.make(10, rows_per_step=6, epochs=1, max_steps=None, seed=0)
    assert [same.rows_of(step) for step in (0, 1)] == [made.rows_of(step) for step in (0, 1)]


LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=120)
BUDGETS = st.integers(8, 100)


def by_tokens(lengths, budget, *, per_step=1, epochs=3, max_steps=None, seed=0, **more):
    batching = ByTokens(torch.tensor(lengths), budget, **more)
    return Plan.of(batching, per_step, epochs=epochs, max_steps=max_steps, seed=seed)


def cost(batch, lengths, head, padded):
    own = [lengths[row] for row in batch]
    return head + (max(own) * len(own) if padded else sum(own))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, BUDGETS, st.integers(1, 3), st.integers(0, 7), st.booleans(), st.integers(0, 9))
def test_by_tokens_every_row_is_seen_once_an_epoch_and_no_batch_is_over_its_budget(
    lengths, budget, per_step, head, padded, seed
):
    made = by_tokens(
        lengths, budget, per_step=per_step, head=head, padded=padded, seed=seed, epochs=2
    )
    steps = [made.rows_of(step) for step in range(made.steps)]
    for number in (0, 1):
        first, last = made.starts[number], made.starts[number + 1]
        rows = functools.reduce(operator.iadd, steps[first:last], [])
        assert sorted(rows) == list(range(len(lengths)))
    for rows in steps:
        for share in (rows, rows[0::2], rows[1::2]):  # alone, or one of two processes
            parts = made.parts(share)
            assert functools.reduce(operator.iadd, parts, []) == share
            for part in parts:
                assert len(part) == 1 or cost(part, lengths, head, padded) <= budget


@settings(max_examples=30, deadline=None)
@given(LENGTHS, BUDGETS, st.integers(0, 9))
def test_by_tokens_a_step_follows_from_the_seed_and_the_step_alone(lengths, budget, seed):
    first, again = (by_tokens(lengths, budget, seed=seed) for _ in range(2))
    steps = [first.rows_of(step) for step in range(first.steps)]
    for step in reversed(range(first.steps)):
        torch.manual_seed(step)
        assert again.rows_of(step) == steps[step]
    assert [first.epoch_of(step) for step in range(first.steps)] == [
        epoch for epoch in range(3) for _ in range(first.starts[epoch], first.starts[epoch + 1])
    ]


def drawn_lengths(rows):
    return torch.randint(5, 300, (rows,), generator=torch.Generator().manual_seed(0)).tolist()


def test_by_tokens_rows_of_like_length_go_together():
    lengths = drawn_lengths(4000)
    pads = {}
    for name, made in {
        "by rows": plan(rows=4000, rows_per_step=16, epochs=1),
        "by tokens": by_tokens(lengths, 2400, epochs=1),
    }.items():
        batches = [[lengths[row] for row in made.rows_of(step)] for step in range(made.steps)]
        whole = sum(max(batch) * len(batch) for batch in batches)
        pads[name] = 1 - sum(lengths) / whole
    assert pads["by rows"] > 0.4
    assert pads["by tokens"] < 0.05


def test_by_tokens_batches_are_full_and_as_many_as_the_tokens_ask_for():
    lengths = drawn_lengths(4000)
    made = by_tokens(lengths, 2400, epochs=1)
    assert made.steps < 1.1 * sum(lengths) / 2400


def test_by_tokens_who_meets_whom_and_what_comes_first_differs_from_epoch_to_epoch():
    lengths = drawn_lengths(1000)
    made = by_tokens(lengths, 2400, epochs=2)
    first, second = (
        [frozenset(made.rows_of(step)) for step in range(made.starts[e], made.starts[e + 1])]
        for e in (0, 1)
    )
    pairs = [
        {(a, b) for batch in epoch for a in batch for b in batch if a < b}
        for epoch in (first, second)
    ]
    assert len(pairs[0] & pairs[1]) < 0.25 * len(pairs[0])
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in first]
    assert means != sorted(means)
    assert means != sorted(means, reverse=True)


def test_by_tokens_a_row_over_the_budget_is_a_batch_of_its_own():
    made = by_tokens([500, 3, 4, 600, 5], 20, epochs=1)
    steps = sorted(sorted(made.rows_of(step)) for step in range(made.steps))
    assert [0] in steps
    assert [3] in steps
    assert sorted(functools.reduce(operator.iadd, steps, [])) == [0, 1, 2, 3, 4]


def test_by_tokens_the_steps_of_all_epochs_are_known_before_the_first():
    lengths = drawn_lengths(700)
    made = by_tokens(lengths, 2400, per_step=2, epochs=4)
    assert made.starts[-1] == made.steps
    counted = [
        math.ceil(len(made.batching.epoch(torch.Generator().manual_seed(epoch)).ends) / 2)
        for epoch in range(4)
    ]
    assert [b - a for a, b in zip(made.starts, made.starts[1:], strict=False)] == counted
    assert by_tokens(lengths, 2400, per_step=2, epochs=4, max_steps=5).steps == 5


def shares(kind, steps=10, warmup=2):
    made = plan(rows=steps, rows_per_step=1, epochs=1)
    return [lr_share(step, made, warmup=warmup, kind=kind) for step in range(steps)]


def test_the_learning_rate_rises_to_its_largest_at_the_end_of_the_warm_up():
    for kind in ("linear", "cosine", "constant", "exponential"):
        assert shares(kind)[:3] == [0.5, 1.0, 1.0]


def test_a_linear_schedule_falls_by_equal_steps_and_the_last_step_still_learns():
    assert shares("linear")[2:] == pytest.approx([1 - k / 8 for k in range(8)])


def test_a_cosine_schedule_is_half_way_down_in_the_middle():
    expected = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert shares("cosine")[2:] == pytest.approx(expected)
    assert shares("cosine")[6] == pytest.approx(0.5)


def test_a_constant_schedule_stays_up():
    assert set(shares("constant")[2:]) == {1.0}


def test_without_a_warm_up_the_first_step_is_the_largest():
    assert shares("linear", warmup=0)[0] == 1.0


def test_a_warm_up_as_long_as_the_run_only_rises():
    assert shares("linear", steps=4, warmup=4) == [0.25, 0.5, 0.75, 1.0]


def shares_by_epoch(made, warmup=0, decay=0.5):
    settings = {"warmup": warmup, "kind": "exponential", "epoch_decay": decay}
    return [lr_share(step, made, **settings) for step in range(made.steps)]


def test_an_exponential_schedule_falls_from_epoch_to_epoch_and_not_within_one():
    assert shares_by_epoch(plan()) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert shares_by_epoch(plan(), decay=1.0) == [1] * 9


def test_an_exponential_schedule_is_torchs_stepped_once_an_epoch():
    made, weight = plan(epochs=5), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    oracle = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)
    rates = []
    for step in range(made.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if made.ends_epoch(step + 1):
            oracle.step()
    assert shares_by_epoch(made, decay=0.95) == pytest.approx(rates)


def test_a_warm_up_reaches_the_largest_step_size_whatever_epoch_it_ends_in():
    assert shares_by_epoch(plan(), warmup=2) == [0.5, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert shares_by_epoch(plan(), warmup=4) == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5, 0.5]
    assert shares_by_epoch(plan(epochs=1), warmup=3) == [pytest.approx(k / 3) for k in (1, 2, 3)]


def test_an_exponential_schedule_does_not_know_where_the_run_ends():
    assert shares_by_epoch(plan(max_steps=5)) == shares_by_epoch(plan())[:5]


def test_by_tokens_an_exponential_schedule_falls_where_an_epoch_ends():
    made = by_tokens(drawn_lengths(200), 2400, per_step=3, epochs=3)
    sizes = [b - a for a, b in zip(made.starts, made.starts[1:], strict=False)]
    expected = [
        share for share, size in zip((1, 0.5, 0.25), sizes, strict=True) for _ in range(size)
    ]
    assert shares_by_epoch(made) == expected
