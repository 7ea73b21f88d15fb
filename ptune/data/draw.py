"""Splits and draws: pure functions of the rows and a seed, the same on every machine for ever.

    order of rows    = by sha256("purpose:seed:index")      no random module, no hash seed
    split, share 1/4 : a a a a b b b b  ->  a a a b b b | a b     each label within one row of 1/4
    few shot, 2      : the first 2 of each label in that order; so the 2 are among the 4, and the
                       next 2 are held out

Draws keep the order of the source, so that a diff of two draws can be read.
Knows rows and labels, not what they are used for.
"""

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from hashlib import sha256
from typing import NamedTuple

from ptune.data.labels import labels_of
from ptune.data.rows import Rows
from ptune.errors import ConfigError, DataError


class Split(NamedTuple):
    """Rows to train on, rows held out, and sentences that the user should read."""

    train: Rows
    held_out: Rows
    notes: tuple[str, ...]


def split_rows(
    rows: Rows,
    share: float,
    seed: int,
    label: str | None = None,
    *,
    name: str = "validation_share",
    instead: str = "name a validation file",
) -> Split:
    """Hold out a share of the rows, drawn by seed.

    With `label`, each label gives its share rounded down or up (largest remainders first), and
    keeps at least one row to train on. Without (regression, multi-label) all rows are drawn alike.

    Args:
        share: between 0 and 1, both excluded.
        label: the column to stratify by.
        name: what an error calls the share.
        instead: what an error says can be done in place of a split.

    Raises:
        ConfigError: `share` is not between 0 and 1.
        DataError: one side would be empty.
    """
    if not 0 < share < 1:
        raise ConfigError(f"{name} = {share} is not between 0 and 1, both excluded.")
    groups = _groups(rows, label)
    counts = {one: len(indices) for one, indices in groups.items()}
    exact = Fraction(str(share))  # the decimal that was written, not its float
    target = math.floor(exact * len(rows) + Fraction(1, 2))
    if not 0 < target < len(rows):
        side = "hold out" if target == 0 else "train on"
        raise DataError(
            f"{rows.source}: {name} = {share} of {len(rows)} rows leaves none to {side}. "
            f"Change the share, add rows, or {instead}."
        )
    quota = _quotas(counts, exact, target)
    held = {
        index
        for one, indices in groups.items()
        for index in _drawn(indices, seed, "split")[: quota[one]]
    }
    if not held:
        raise DataError(
            f"{rows.source}: every label has one row only, so none can be held out. "
            f"Add rows, or {instead}."
        )
    kept = [index for index in range(len(rows)) if index not in held]
    absent = [one for one, count in quota.items() if count == 0]
    return Split(rows.take(kept), rows.take(sorted(held)), _notes(rows, absent))


def split_groups(rows: Rows, share: float, seed: int, column: str) -> Split:
    """Hold out a share of the rows, those of one text always together.

    Several questions are asked of one context. Were some of them held out and others trained on,
    the held-out rows would not be new. Groups are drawn by seed until the share is reached.

    Args:
        share: between 0 and 1, both excluded.
        column: rows with an equal value here stay together.

    Raises:
        ConfigError: `share` is not between 0 and 1.
        DataError: one side would be empty.
    """
    if not 0 < share < 1:
        raise ConfigError(f"validation_share = {share} is not between 0 and 1, both excluded.")
    members = _together(rows, column)
    wanted = max(1, math.floor(Fraction(str(share)) * len(rows) + Fraction(1, 2)))
    held: set[int] = set()
    for group in _drawn(range(len(members)), seed, "split"):
        if len(held) < wanted:
            held.update(members[group])
    if len(held) == len(rows):
        raise DataError(
            f"{rows.source}: validation_share = {share} leaves no row to train on, as the rows of "
            f"one {column} stay together. Add rows, or name a validation file."
        )
    kept = [index for index in range(len(rows)) if index not in held]
    return Split(rows.take(kept), rows.take(sorted(held)), ())


def few_shot(rows: Rows, per_label: int, seed: int, label: str) -> Rows:
    """Draw the same number of rows of every label; a larger draw holds the smaller one.

    Raises:
        DataError: a label has fewer rows.
    """
    groups = _groups(rows, label)
    short = {name: len(indices) for name, indices in groups.items() if len(indices) < per_label}
    if short:
        have = ", ".join(f"{name!r} has {count}" for name, count in short.items())
        raise DataError(
            f"{rows.source}: few_shot = {per_label} needs as many rows of every label, but {have}. "
            f"The largest draw is {min(short.values())}."
        )
    chosen = (_drawn(indices, seed, "few_shot")[:per_label] for indices in groups.values())
    return rows.take(sorted(index for indices in chosen for index in indices))


def few_shot_split(rows: Rows, per_label: int, seed: int, label: str) -> Split:
    """The rows of `few_shot`, and as many others of every label, or what there is, held out.

    Raises:
        DataError: a label has fewer rows, or no row at all is left to hold out.
    """
    train = few_shot(rows, per_label, seed, label)
    groups = _groups(rows, label)
    held = {
        name: _drawn(indices, seed, "few_shot")[per_label : 2 * per_label]
        for name, indices in groups.items()
    }
    if not any(held.values()):
        raise DataError(
            f"{rows.source}: few_shot = {per_label} trains on every row, so none is left to hold "
            "out. Draw fewer, name a validation file, or set validation_share: 0."
        )
    absent = [name for name, indices in held.items() if not indices]
    held_out = sorted(index for indices in held.values() for index in indices)
    return Split(train, rows.take(held_out), _notes(rows, absent))


def draw_rows(rows: Rows, count: int, seed: int) -> Rows:
    """Draw at most `count` rows; a larger draw holds the smaller one."""
    return rows.take(sorted(_drawn(range(len(rows)), seed, "draw")[:count]))


def draw_groups(rows: Rows, count: int, seed: int, column: str) -> Rows:
    """Draw whole groups, of at most `count` rows in all; a larger draw holds the smaller one.

    Args:
        column: rows with an equal value here are a group.

    Raises:
        DataError: the first group that is drawn has more rows.
    """
    members = _together(rows, column)
    drawn: list[int] = []
    for group in _drawn(range(len(members)), seed, "draw"):
        if len(drawn) + len(members[group]) > count:
            break
        drawn += members[group]
    if not drawn:
        raise DataError(
            f"{rows.source}: max_rows = {count} is less than the rows of one {column}, which are "
            "drawn together. Set more, or leave it out."
        )
    return rows.take(sorted(drawn))


def _together(rows: Rows, column: str) -> list[list[int]]:
    """The rows of each value of a column, in the order of the rows."""
    groups: dict[object, list[int]] = {}
    for index, value in enumerate(rows.column(column)):
        groups.setdefault(value, []).append(index)
    return list(groups.values())


def _groups(rows: Rows, label: str | None) -> dict[str, list[int]]:
    """Return the rows of each label, labels sorted; all rows under one name without a label."""
    names = [""] * len(rows) if label is None else labels_of(rows, label)
    groups: dict[str, list[int]] = {name: [] for name in sorted(set(names))}
    for index, name in enumerate(names):
        groups[name].append(index)
    return groups


def _drawn(indices: Iterable[int], seed: int, purpose: str) -> list[int]:
    """Return `indices` in an order that depends on purpose, seed and each index alone."""
    return sorted(indices, key=lambda index: sha256(f"{purpose}:{seed}:{index}".encode()).digest())


def _quotas(counts: Mapping[str, int], share: Fraction, target: int) -> dict[str, int]:
    """Divide `target` among the labels by largest remainder; every label keeps a row."""
    quota = {name: math.floor(share * count) for name, count in counts.items()}
    by_remainder = sorted(counts, key=lambda name: (quota[name] - share * counts[name], name))
    for name in by_remainder:
        whole = quota[name] == share * counts[name]
        if sum(quota.values()) < target and not whole and quota[name] + 1 < counts[name]:
            quota[name] += 1
    return quota


def _notes(rows: Rows, absent: list[str]) -> tuple[str, ...]:
    if not absent:
        return ()
    names = ", ".join(repr(name) for name in absent)
    return (f"{rows.source}: too few rows to hold one out of label {names}.",)
