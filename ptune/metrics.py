"""Scores: from truth and predictions to numbers with one name each.

    truth      a  a  b  b
    predicted  a  b  b  b      -> {"accuracy": 0.75, "macro_f1": 0.7333}

Also what a score has to be held against: the majority class.
Knows labels and numbers, no model. scikit-learn takes a second to import: only a score pays for it.
"""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Sequence

from ptune.errors import DataError, did_you_mean

# The largest class may have so many times the rows of the smallest before it is worth a sentence.
_BALANCED_RATIO = 3


def classification(
    truth: Sequence[str], predicted: Sequence[str], labels: Sequence[str]
) -> dict[str, float]:
    """Return accuracy and macro F1 of one label per row.

    F1 of a label = 2 TP / (2 TP + FP + FN); macro F1 is its plain mean over `labels`. A label that
    is neither in `truth` nor predicted has no F1 and is left out. A prediction outside `labels`
    (free text) is wrong, and no class of its own.

    Raises:
        DataError: there are no rows, the lengths differ, or a true label is not one of `labels`.

    >>> classification(["a", "a", "b", "b"], ["a", "b", "b", "b"], ["a", "b", "c"])
    {'accuracy': 0.75, 'macro_f1': 0.7333333333333334}
    """
    from sklearn.metrics import f1_score

    _check_pairs(truth, predicted)
    _check_known(set(truth), labels)
    seen = set(truth) | set(predicted)
    used = [label for label in labels if label in seen]
    f1 = f1_score(list(truth), list(predicted), labels=used, average="macro", zero_division=0.0)
    right = sum(t == p for t, p in zip(truth, predicted, strict=True))
    return {"accuracy": right / len(truth), "macro_f1": float(f1)}


def multilabel(
    truth: Sequence[Collection[str]], predicted: Sequence[Collection[str]], labels: Sequence[str]
) -> dict[str, float]:
    """Return micro and macro F1 of any number of labels per row.

    Micro F1 counts every (row, label) pair alike; macro F1 is the mean over the labels that are in
    `truth` or predicted. Where nothing is true and nothing predicted both are 0.

    Raises:
        DataError: there are no rows, the lengths differ, or a true label is not one of `labels`.

    >>> multilabel([{"a", "b"}, {"b"}], [{"a"}, {"a", "b"}], ["a", "b", "c"])
    {'micro_f1': 0.6666666666666666, 'macro_f1': 0.6666666666666666}
    """
    import numpy as np
    from sklearn.metrics import f1_score

    _check_pairs(truth, predicted)
    _check_known({label for row in truth for label in row}, labels)
    seen = {label for row in (*truth, *predicted) for label in row}
    used = [label for label in labels if label in seen]
    if not used:
        return {"micro_f1": 0.0, "macro_f1": 0.0}
    # One column more than there are labels: scikit-learn takes a single column for a binary target.
    hits, answers = (
        np.array([[label in row for label in used] + [False] for row in rows], dtype=int)
        for rows in (truth, predicted)
    )
    columns = list(range(len(used)))
    return {
        f"{kind}_f1": float(
            f1_score(hits, answers, labels=columns, average=kind, zero_division=0.0)
        )
        for kind in ("micro", "macro")
    }


def regression(truth: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Return the mean squared error, and Pearson's and Spearman's correlation.

    A constant side correlates with nothing: both correlations are 0 then, not nan, so that a run
    which starts from a constant still improves.

    Raises:
        DataError: there are no rows, the lengths differ, or a number is not finite.

    >>> regression([1.0, 2.0, 3.0], [1.0, 2.0, 6.0])
    {'mse': 3.0, 'pearson': 0.944911182523068, 'spearman': 1.0}
    """
    _check_pairs(truth, predicted)
    for name, side in (("truth", truth), ("prediction", predicted)):
        for i, value in enumerate(side):
            if not math.isfinite(value):
                raise DataError(f"{name} {i + 1} of {len(side)} is {value}, not a finite number.")
    errors = ((t - p) ** 2 for t, p in zip(truth, predicted, strict=True))
    return {
        "mse": math.fsum(errors) / len(truth),
        "pearson": _correlation(truth, predicted),
        "spearman": _correlation(_ranks(truth), _ranks(predicted)),
    }


def perplexity(loss: float) -> float:
    """Return exp(loss), the number of equally likely tokens that gives this loss per token.

    Above a loss of 700 it stays at about 1e304: scores are kept as JSON, which has no infinity.

    >>> perplexity(0.0), perplexity(1e6) == perplexity(700)
    (1.0, True)
    """
    return math.exp(min(loss, 700.0))


def majority(truth: Sequence[str]) -> tuple[str, float]:
    """Return the most frequent label and its share; of equals, the first in alphabetical order.

    Raises:
        DataError: there are no rows.

    >>> majority(["b", "a", "b", "a"])
    ('a', 0.5)
    """
    if not truth:
        raise DataError("there are no rows to score.")
    counts = Counter(truth)
    label = min(counts, key=lambda name: (-counts[name], name))
    return label, counts[label] / len(truth)


def imbalance(truth: Sequence[str]) -> str | None:
    """Return a sentence where the largest class has more than 3 times the rows of the smallest.

    >>> print(imbalance(["a"] * 9 + ["b"]))  # doctest: +ELLIPSIS
    Unbalanced labels: 'a' has 9 of 10 rows, 'b' has 1. Always answering 'a' is right in 90.0 % ...
    """
    largest, share = majority(truth)
    counts = Counter(truth)
    smallest = min(counts, key=lambda name: (counts[name], name))
    if counts[largest] <= _BALANCED_RATIO * counts[smallest]:
        return None
    return (
        f"Unbalanced labels: {largest!r} has {counts[largest]} of {len(truth)} rows, "
        f"{smallest!r} has {counts[smallest]}. Always answering {largest!r} is right in "
        f"{100 * share:.1f} % of the rows: hold accuracy against that, and look at macro F1."
    )


def _correlation(a: Sequence[float], b: Sequence[float]) -> float:
    try:
        return statistics.correlation(a, b)
    except statistics.StatisticsError:  # fewer than two rows, or a constant side
        return 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of every value from 1; equal values share the mean of their ranks."""
    counts = Counter(values)
    below, rank = 0, {}
    for value in sorted(counts):
        rank[value] = below + (counts[value] + 1) / 2
        below += counts[value]
    return [rank[value] for value in values]


def _check_pairs(truth: Sequence[object], predicted: Sequence[object]) -> None:
    if len(truth) != len(predicted):
        raise DataError(f"{len(predicted)} predictions for {len(truth)} rows; give one a row.")
    if not truth:
        raise DataError("there are no rows to score.")


def _check_known(found: set[str], labels: Sequence[str]) -> None:
    unknown = sorted(found - set(labels))
    if unknown:
        near = did_you_mean(unknown[0], list(labels))
        raise DataError(
            f"label {unknown[0]!r} is not one of the labels that are scored: "
            f"{', '.join(labels)}.{near}"
        )
