"""Scores: from truth and predictions to numbers with one name each.

    truth      a  a  b  b
    predicted  a  b  b  b      -> {"accuracy": 0.75, "macro_f1": 0.7333}

Also what a score has to be held against: the majority class.
Knows labels and numbers, no model. scikit-learn takes a second to import: only a score pays for it.
"""

import itertools
import math
import re
import statistics
import string
from collections import Counter
from collections.abc import Collection, Sequence

from ptune.errors import DataError, did_you_mean

# The largest class may have so many times the rows of the smallest before it is worth a sentence.
_BALANCED_RATIO = 3
_PUNCTUATION = frozenset(string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


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


def label_f1(truth: Sequence[str], predicted: Sequence[str], label: str) -> float:
    """Return F1 of one label, 2 TP / (2 TP + FP + FN); 0 where it is neither true nor predicted.

    Raises:
        DataError: there are no rows, or the lengths differ.

    >>> label_f1(["1", "0", "1"], ["1", "1", "1"], "1")
    0.8
    """
    _check_pairs(truth, predicted)
    both = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
    either = sum(side.count(label) for side in (list(truth), list(predicted)))
    return 2 * both / either if either else 0.0


def grouped(groups: Sequence[str], right: Sequence[bool]) -> float:
    """Return the share of groups in which every row is right.

    Raises:
        DataError: there are no rows, or the lengths differ.

    >>> grouped(["a", "b", "a", "b"], [True, True, False, True])
    0.5
    """
    _check_pairs(groups, right)
    whole = dict.fromkeys(groups, True)
    for group, one in zip(groups, right, strict=True):
        whole[group] = whole[group] and one
    return sum(whole.values()) / len(whole)


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


def extraction(truth: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """Return exact match and F1 of answers that are parts of a text.

    Both are those of SQuAD's official script (evaluate-v2.0, Rajpurkar et al. 2018): of texts in
    lower case without punctuation, articles and further white space; the best over the right
    answers of a row; the mean over rows. F1 is that of the bags of words. Where there are rows
    without an answer, both are also given for the two kinds of rows alone.

    The script of version 1.1 differs in one case: an answer of articles alone ("The") has no F1.

    Args:
        truth: the right answers of each row; none where the text does not hold any.
        predicted: an empty text says that there is no answer.
    Raises:
        DataError: there are no rows, or the lengths differ.

    >>> extraction([["the Seine", "Seine river"]], ["The Seine."])
    {'f1': 1.0, 'exact_match': 1.0}
    """
    _check_pairs(truth, predicted)
    answers = [_counted(own) for own in truth]
    f1 = [max(word_f1(p, a) for a in own) for p, own in zip(predicted, answers, strict=True)]
    exact = [
        float(any(normalized(p) == normalized(a) for a in own))
        for p, own in zip(predicted, answers, strict=True)
    ]
    scores = {"f1": statistics.fmean(f1), "exact_match": statistics.fmean(exact)}
    held = [bool(own) for own in truth]
    if all(held):
        return scores
    if any(held):
        scores["answerable_f1"] = statistics.fmean(itertools.compress(f1, held))
        scores["answerable_exact_match"] = statistics.fmean(itertools.compress(exact, held))
    silent = [score for score, there in zip(exact, held, strict=True) if not there]
    return scores | {"unanswerable_accuracy": statistics.fmean(silent)}


def best_no_answer(
    truth: Sequence[Sequence[str]], texts: Sequence[str], margins: Sequence[float]
) -> dict[str, float]:
    """Return the threshold for no answer with the best F1, and that F1.

    As the official script finds it: rows by their margin, smallest first; each says its text in
    place of nothing, and the best prefix is kept.

    Args:
        texts: what is said where the answer is not left empty.
        margins: by how much no answer scores better; it is given above the threshold.

    >>> best_no_answer([["Rome"], []], ["Rome", "Bonn"], [-2.0, 1.0])
    {'best_f1': 1.0, 'best_no_answer': -2.0}
    """
    answers = [_counted(own) for own in truth]
    best = total = float(sum(not own for own in truth))
    threshold = min(margins) - 1.0  # all are left empty
    for row in sorted(range(len(margins)), key=margins.__getitem__):
        if truth[row]:
            total += max(word_f1(texts[row], answer) for answer in answers[row])
        elif texts[row]:
            total -= 1
        if total > best:
            best, threshold = total, margins[row]
    return {"best_f1": best / len(margins), "best_no_answer": threshold}


def normalized(answer: str) -> str:
    """Return an answer as SQuAD's official script compares it.

    >>> normalized(" The  U.S.  Army")
    'us army'
    """
    bare = "".join(letter for letter in answer.lower() if letter not in _PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", bare).split())


def word_f1(predicted: str, answer: str) -> float:
    """Return F1 of the words of two answers; of empty ones, whether both are.

    >>> word_f1("in Paris, France", "Paris")
    0.5
    """
    said, right = normalized(predicted).split(), normalized(answer).split()
    if not said or not right:
        return float(said == right)
    same = sum((Counter(said) & Counter(right)).values())
    return 2 * same / (len(said) + len(right))


def _counted(answers: Sequence[str]) -> Sequence[str]:
    """The answers that have a word; an empty one where there is none, as the script has it."""
    return [answer for answer in answers if normalized(answer)] or [""]


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
        raise DataError("there are no rows to score. Give at least one.")
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
        raise DataError(
            f"{len(predicted)} predictions for {len(truth)} rows; give one for each row."
        )
    if not truth:
        raise DataError("there are no rows to score. Give at least one.")


def _check_known(found: set[str], labels: Sequence[str]) -> None:
    unknown = sorted(found - set(labels))
    if unknown:
        near = did_you_mean(unknown[0], list(labels))
        raise DataError(
            f"label {unknown[0]!r} is not one of the labels that are scored: "
            f"{', '.join(labels)}.{near}"
        )
