import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptune.data import (
    Rows,
    draw_groups,
    draw_rows,
    few_shot,
    few_shot_split,
    load_rows,
    split_groups,
    split_rows,
)
from ptune.errors import ConfigError, DataError

LABELS = st.lists(st.sampled_from("aabc"), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(labels: str | list[str]) -> Rows:
    return load_rows([{"id": i, "y": label} for i, label in enumerate(labels)])


def ids(rows: Rows) -> list[object]:
    return rows.column("id")


def refusal(draw: object, *arguments: object) -> str:
    assert callable(draw)
    with pytest.raises((DataError, ConfigError)) as caught:
        draw(*arguments)
    return str(caught.value)


# These numbers are a promise: a recipe and its seed name the same rows for ever.
def test_draws_are_the_same_for_ever():
    rows = rows_of("aaaaaaaaaabbbbbbbbbb")
    assert ids(split_rows(rows, 0.2, 0, "y").held_out) == [1, 9, 12, 19]
    assert ids(split_rows(rows, 0.2, 1, "y").held_out) == [3, 9, 10, 18]
    assert ids(split_rows(rows, 0.2, 0).held_out) == [9, 11, 12, 19]
    assert ids(few_shot(rows, 2, 0, "y")) == [6, 9, 11, 19]
    assert ids(few_shot_split(rows, 2, 0, "y").held_out) == [1, 4, 12, 14]
    assert ids(draw_rows(rows, 4, 0)) == [7, 8, 12, 13]


def test_draws_do_not_depend_on_the_hash_seed():
    code = (
        "from ptune.data import *; r = load_rows([{'y': c} for c in 'abcd' * 9]); "
        "print(split_rows(r, .3, 5, 'y').held_out.numbers, few_shot(r, 3, 5, 'y').numbers, "
        "draw_rows(r, 9, 5).numbers, check_labels(r, [], 'y'))\n"
        "r = load_rows([{'y': c} for c in 'aaaaaaaaabcdefg']); "
        "print(split_rows(r, .3, 5, 'y').notes)"
    )
    root = str(Path(__file__).parents[2])
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(printed) == 1


@given(LABELS, st.integers(1, 99), SEEDS)
def test_a_split_is_disjoint_complete_and_stratified_within_one_row(
    labels: list[str], percent: int, seed: int
):
    rows, share = rows_of(labels), percent / 100
    try:
        train, held_out, notes = split_rows(rows, share, seed, "y")
    except DataError:
        one_row_each = max(Counter(labels).values()) == 1
        assert one_row_each or not 0.5 <= share * len(labels) < len(labels) - 0.5
        return
    assert sorted(ids(train) + ids(held_out)) == list(range(len(labels)))
    assert ids(train) == sorted(ids(train))
    assert ids(held_out) == sorted(ids(held_out))
    held = Counter(held_out.column("y"))
    for label, count in Counter(labels).items():
        assert abs(held[label] - share * count) < 1
        assert held[label] < count
        assert (held[label] == 0) == any(f"'{label}'" in note for note in notes)


@given(st.integers(2, 60), st.integers(1, 99), SEEDS)
def test_a_plain_split_holds_out_the_rounded_share(count: int, percent: int, seed: int):
    target = (2 * percent * count + 100) // 200
    rows = rows_of("a" * count)
    if 0 < target < count:
        train, held_out, notes = split_rows(rows, percent / 100, seed)
        assert (len(train), len(held_out), notes) == (count - target, target, ())
        assert sorted(ids(train) + ids(held_out)) == list(range(count))
    else:
        refusal(split_rows, rows, percent / 100, seed)


def test_the_held_out_rows_are_as_many_as_the_share_says():
    # 0.2 of 7, 8 and 9 rows are 1.4, 1.6 and 1.8: 5 in all, one more for the largest remainders.
    split = split_rows(rows_of("a" * 7 + "b" * 8 + "c" * 9), 0.2, 0, "y")
    assert Counter(split.held_out.column("y")) == {"a": 1, "b": 2, "c": 2}


def test_a_share_is_the_decimal_that_was_written():
    # As a float 0.15 is a little less: 1.5 of 10 rows would be rounded down.
    assert len(split_rows(rows_of("a" * 10), 0.15, 0).held_out) == 2
    # 0.29 of 150 and 50 rows are 43.5 and 14.5; of equal remainders the first label gets the row.
    split = split_rows(rows_of("a" * 150 + "b" * 50), 0.29, 0, "y")
    assert Counter(split.held_out.column("y")) == {"a": 44, "b": 14}


def test_seeds_give_different_rows_and_every_row_is_held_out_as_often():
    rows = rows_of("a" * 10 + "b" * 10)
    held = Counter(i for seed in range(300) for i in ids(split_rows(rows, 0.2, seed, "y").held_out))
    assert all(40 < held[i] < 80 for i in range(20))


def test_rows_keep_their_places_in_a_split():
    split = split_rows(rows_of("aabb"), 0.5, 0, "y")
    for side in (split.train, split.held_out):
        assert [side.where(k) for k in range(2)] == [
            f"the given rows, row {index + 1}" for index in side.column("id")
        ]


def test_a_label_with_one_row_stays_in_train_and_is_told():
    split = split_rows(rows_of("aaaaab"), 0.5, 0, "y")
    assert "b" in split.train.column("y")
    assert split.notes == ("the given rows: too few rows to hold one out of label 'b'.",)


def test_a_split_with_an_empty_side_is_refused():
    assert refusal(split_rows, rows_of("aab"), 0.1, 0, "y") == (
        "the given rows: validation_share = 0.1 of 3 rows leaves none to hold out. "
        "Change the share, add rows, or name a validation file."
    )
    assert refusal(split_rows, rows_of("aabb"), 0.9, 0, "y") == (
        "the given rows: validation_share = 0.9 of 4 rows leaves none to train on. "
        "Change the share, add rows, or name a validation file."
    )


def test_labels_with_one_row_each_cannot_be_split():
    assert refusal(split_rows, rows_of("abcde"), 0.4, 0, "y") == (
        "the given rows: every label has one row only, so none can be held out. "
        "Add rows, or name a validation file."
    )


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float):
    assert refusal(split_rows, rows_of("ab"), share, 0, "y") == (
        f"validation_share = {share} is not between 0 and 1, both excluded."
    )


@given(LABELS, st.integers(1, 20), SEEDS)
def test_few_shot_draws_the_same_number_of_every_label(labels: list[str], shots: int, seed: int):
    rows = rows_of(labels)
    smallest = min(Counter(labels).values())
    if shots > smallest:
        assert refusal(few_shot, rows, shots, seed, "y").endswith(
            f"The largest draw is {smallest}."
        )
        return
    drawn = few_shot(rows, shots, seed, "y")
    assert Counter(drawn.column("y")) == dict.fromkeys(labels, shots)
    assert ids(drawn) == sorted(set(ids(drawn)))
    assert set(ids(few_shot(rows, 1, seed, "y"))) <= set(ids(drawn))


@given(LABELS, st.integers(1, 9), SEEDS)
def test_few_shot_holds_out_as_many_others_of_every_label_or_what_there_is(
    labels: list[str], shots: int, seed: int
):
    rows, counts = rows_of(labels), Counter(labels)
    if shots >= max(counts.values()) or shots > min(counts.values()):
        refusal(few_shot_split, rows, shots, seed, "y")
        return
    split = few_shot_split(rows, shots, seed, "y")
    assert ids(split.train) == ids(few_shot(rows, shots, seed, "y"))
    left = {label: min(shots, count - shots) for label, count in counts.items()}
    assert Counter(split.held_out.column("y")) == {k: n for k, n in left.items() if n}
    assert not set(ids(split.train)) & set(ids(split.held_out))
    assert ids(split.held_out) == sorted(set(ids(split.held_out)))
    assert bool(split.notes) == (0 in left.values())


def test_few_shot_that_takes_every_row_has_none_to_hold_out():
    assert refusal(few_shot_split, rows_of("abab"), 2, 0, "y") == (
        "the given rows: few_shot = 2 trains on every row, so none is left to hold out. "
        "Draw fewer, name a validation file, or set validation_share: 0."
    )


def test_few_shot_names_the_labels_that_are_too_small():
    assert refusal(few_shot, rows_of("cabbaaab"), 4, 0, "y") == (
        "the given rows: few_shot = 4 needs as many rows of every label, but 'b' has 3, 'c' has 1. "
        "The largest draw is 1."
    )


@given(st.integers(1, 30), st.integers(1, 40), SEEDS)
def test_a_draw_has_at_most_as_many_rows_and_grows(count: int, wanted: int, seed: int):
    rows = rows_of("a" * count)
    drawn = ids(draw_rows(rows, wanted, seed))
    assert len(drawn) == min(count, wanted)
    assert drawn == sorted(set(drawn))
    assert set(drawn) <= set(ids(draw_rows(rows, wanted + 1, seed)))


def test_the_draws_are_independent_of_one_another():
    rows = rows_of("a" * 40)
    assert ids(split_rows(rows, 0.5, 0, "y").held_out) != ids(few_shot(rows, 20, 0, "y"))
    assert ids(draw_rows(rows, 20, 0)) != ids(few_shot(rows, 20, 0, "y"))


# --- groups ---------------------------------------------------------------------------------------


def grouped(count: int, size: int) -> Rows:
    return load_rows([{"q": str(i), "context": f"c{i // size}"} for i in range(count * size)])


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_one_context_are_never_parted(seed: int):
    split = split_groups(grouped(10, 3), 0.2, seed, "context")
    trained, held = (set(part.column("context")) for part in (split.train, split.held_out))
    assert not trained & held
    assert (len(split.train), len(split.held_out)) == (24, 6)
    again = split_groups(grouped(10, 3), 0.2, seed, "context")
    assert list(again.held_out) == list(split.held_out)


def test_a_share_that_falls_inside_a_context_holds_it_out_whole():
    assert len(split_groups(grouped(4, 5), 0.1, 0, "context").held_out) == 5


def test_one_context_alone_cannot_be_split():
    with pytest.raises(DataError, match="the rows of one context stay together"):
        split_groups(grouped(1, 6), 0.5, 0, "context")


@given(st.integers(3, 40), SEEDS)
def test_groups_are_drawn_whole_and_a_larger_draw_holds_the_smaller_one(count: int, seed: int):
    rows = load_rows([{"q": str(i), "group": str(i // 3)} for i in range(30)])
    drawn, more = (draw_groups(rows, n, seed, "group") for n in (count, count + 3))
    assert len(drawn) == min(30, 3 * (count // 3))
    assert set(Counter(drawn.column("group")).values()) == {3}
    assert set(drawn.column("q")) <= set(more.column("q"))
    assert list(drawn) == sorted(drawn, key=lambda row: int(str(row["q"])))


def test_a_draw_that_no_group_fits_into_is_refused():
    rows = load_rows([{"group": "a"}] * 4)
    assert refusal(draw_groups, rows, 3, 0, "group") == (
        "the given rows: max_rows = 3 is less than the rows of one group, which are drawn "
        "together. Set more, or leave it out."
    )
