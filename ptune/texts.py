"""Scores of generated texts: right to the letter, ROUGE, BLEU.

    truth      the parcel is late
    predicted  the parcel was late     -> {"exact_match": 0.0, "rouge1": 0.75, ..., "bleu": ...}

ROUGE and BLEU are those of the packages `rouge-score` and `sacrebleu` (the extra `text`),
which other people's figures come from; where a package is not installed, its scores are left out.
All scores go from 0 to 1. Knows texts; no model.
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec

from ptune.errors import ConfigError, DataError

ROUGE = ("rouge1", "rouge2", "rougeL")
# Score -> the module that gives it, and how its package is called.
_PACKAGES = {**dict.fromkeys(ROUGE, ("rouge_score", "rouge-score")), "bleu": ("sacrebleu",) * 2}

_LETTERS = re.compile(r"[^\W\d_]+")


def check(metric: str | None) -> None:
    """Refuse a metric whose package is not installed.

    Raises:
        ConfigError: names the package and how to install it.
    """
    if metric in _PACKAGES and not _there(metric):
        package = _PACKAGES[metric][1]
        raise ConfigError(f"metric = {metric} needs the package {package}: pip install {package}.")


def scores(truth: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Score generated texts against one right text each.

    `exact_match` passes over white space at both ends. ROUGE is the mean of the rows' F1, with
    Porter's stemmer, as summarisation reports it (Lin 2004, ROUGE: A Package for Automatic
    Evaluation of Summaries); BLEU is that of all rows together (arXiv:1804.08771).

    Raises:
        DataError: there are no rows, or the lengths differ.

    >>> scores(["very late", "good"], ["very late ", "bad"])["exact_match"]
    0.5
    """
    if not truth or len(truth) != len(predicted):
        raise DataError(
            f"{len(predicted)} predictions for {len(truth)} rows; give one for each row."
        )
    pairs = [(t.strip(), p.strip()) for t, p in zip(truth, predicted, strict=True)]
    found = {"exact_match": sum(t == p for t, p in pairs) / len(pairs)}
    if _there("rouge1"):
        found |= _rouge(pairs)
    if _there("bleu"):
        found |= _bleu(pairs)
    return found


def same_words(a: str, b: str) -> bool:
    """Tell whether all words of one text are in the other.

    As the code of P-tuning's few-shot work judges SuperGLUE's WSC, after T5: words are runs of
    letters in lower case (of any alphabet here), and a text without one is in every other.

    >>> same_words("the Fuzzy Bunny", "bunny."), same_words("the bunny", "the cat")
    (True, False)
    """
    first, second = (set(_LETTERS.findall(text.lower())) for text in (a, b))
    return first <= second or second <= first


def _there(metric: str) -> bool:
    return find_spec(_PACKAGES[metric][0]) is not None


def _rouge(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    rows = [scorer.score(truth, predicted) for truth, predicted in pairs]
    return {name: float(sum(row[name].fmeasure for row in rows) / len(rows)) for name in ROUGE}


def _bleu(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    from sacrebleu import corpus_bleu

    truth, predicted = zip(*pairs, strict=True)
    return {"bleu": corpus_bleu(list(predicted), [list(truth)]).score / 100}
