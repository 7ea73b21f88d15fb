import math
import re
from collections import Counter

import pytest

from ptune import texts
from ptune.errors import ConfigError, DataError

TRUTH = ["the parcel is late", "good film", "thank you very much"]
SAID = ["the parcel is very late", "good film ", "you thank"]


def grams(text, n):
    words = text.split()
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def f1(hits, truth, said):
    return 2 * hits / (truth + said) if truth + said and hits else 0.0


def rouge_n(truth, said, n):
    """Oracle: overlap of n-grams, clipped (Lin 2004)."""
    a, b = grams(truth, n), grams(said, n)
    return f1((a & b).total(), a.total(), b.total())


def rouge_l(truth, said):
    """Oracle: the longest common subsequence, by trying every one."""
    a, b = truth.split(), said.split()

    def longest(i, j):
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    return f1(longest(0, 0), len(a), len(b))


def bleu(truths, saids):
    """Oracle: four precisions of all rows together, and the penalty for brevity."""
    score = 0.0
    for n in range(1, 5):
        hits = sum((grams(t, n) & grams(s, n)).total() for t, s in zip(truths, saids, strict=True))
        score += math.log(hits / sum(grams(s, n).total() for s in saids)) / 4
    said, truth = (sum(len(x.split()) for x in side) for side in (saids, truths))
    return math.exp(score + min(0.0, 1 - truth / said))


def test_exact_match_counts_texts_that_are_equal_but_for_white_space_at_the_ends():
    assert texts.scores(TRUTH, SAID)["exact_match"] == pytest.approx(1 / 3)


def test_rouge_is_the_mean_f1_of_the_rows():
    found = texts.scores(TRUTH, SAID)
    pairs = [(t, s.strip()) for t, s in zip(TRUTH, SAID, strict=True)]
    for name, one in (
        ("rouge1", lambda t, s: rouge_n(t, s, 1)),
        ("rouge2", lambda t, s: rouge_n(t, s, 2)),
        ("rougeL", rouge_l),
    ):
        assert found[name] == pytest.approx(sum(one(t, s) for t, s in pairs) / 3)


def test_bleu_is_that_of_all_rows_together_from_0_to_1():
    truth = ["a b c d e f g", "h i j k l"]
    said = ["a b c d e x g", "h i j k"]
    assert texts.scores(truth, said)["bleu"] == pytest.approx(bleu(truth, said))


@pytest.mark.parametrize("metric", ["rouge1", "bleu"])
def test_a_metric_whose_package_is_absent_is_refused_with_what_brings_it(metric, monkeypatch):
    texts.check(metric)
    texts.check("accuracy")
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    package = {"rouge1": "rouge-score", "bleu": "sacrebleu"}[metric]
    said = f"metric = {metric} needs the package {package}: pip install {package}."
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        texts.check(metric)
    assert texts.scores(["a"], ["a"]) == {"exact_match": 1.0}


def test_predictions_without_a_row_each_are_refused():
    with pytest.raises(DataError, match="1 predictions for 2 rows"):
        texts.scores(["a", "b"], ["a"])
