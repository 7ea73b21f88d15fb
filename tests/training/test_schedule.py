import functools
import math
import operator

import pytest
import torch

from ptune.training.schedule import Plan, lr_share


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


def shares(kind, steps=10, warmup=2):
    return [lr_share(step, steps, warmup=warmup, kind=kind) for step in range(steps)]


def test_the_learning_rate_rises_to_its_largest_at_the_end_of_the_warm_up():
    for kind in ("linear", "cosine", "constant"):
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
