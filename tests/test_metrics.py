import math
import random

import numpy as np
import pytest
from oracles import squad_official
from scipy.stats import pearsonr, spearmanr

from ptune import texts
from ptune.config import METRICS_OF
from ptune.config.rules.known import COUNTED_BY
from ptune.errors import DataError
from ptune.metrics import (
    best_no_answer,
    classification,
    extraction,
    imbalance,
    majority,
    multilabel,
    perplexity,
    regression,
)


def f1(true_positives: int, false_positives: int, false_negatives: int) -> float:
    """Return F1 by its definition: the slow, independent version."""
    if not true_positives:
        return 0.0
    precision = true_positives / (true_positives + false_positives)
    recall = true_positives / (true_positives + false_negatives)
    return 2 * precision * recall / (precision + recall)


def counts(truth: list[set[str]], predicted: list[set[str]], label: str) -> tuple[int, int, int]:
    pairs = [(label in t, label in p) for t, p in zip(truth, predicted, strict=True)]
    return pairs.count((True, True)), pairs.count((False, True)), pairs.count((True, False))


def refusal(score: object, *arguments: object) -> str:
    assert callable(score)
    with pytest.raises(DataError) as caught:
        score(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("seed", range(5))
def test_classification_is_what_the_definition_says(seed: int):
    draw = random.Random(seed)
    truth = [draw.choice("abc") for _ in range(40)]
    predicted = [draw.choice("abcd") for _ in range(40)]
    singles = [{t} for t in truth], [{p} for p in predicted]
    scores = classification(truth, predicted, ["a", "b", "c"])
    assert scores == {
        "accuracy": sum(map(str.__eq__, truth, predicted)) / 40,
        "macro_f1": pytest.approx(np.mean([f1(*counts(*singles, label)) for label in "abc"])),
    }


def test_a_label_that_nobody_names_is_left_out_of_macro_f1():
    assert classification(["a", "b"], ["a", "b"], ["a", "b", "never"]) == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
    }


def test_a_label_that_is_predicted_wrongly_counts_in_macro_f1():
    assert classification(["a", "a"], ["a", "b"], ["a", "b"]) == {
        "accuracy": 0.5,
        "macro_f1": pytest.approx((2 / 3 + 0) / 2),
    }


def test_free_text_is_wrong_but_no_class_of_its_own():
    assert classification(["a", "b"], ["a", "no idea"], ["a", "b"]) == {
        "accuracy": 0.5,
        "macro_f1": 0.5,
    }
    assert classification(["a"], ["?"], ["a"]) == {"accuracy": 0.0, "macro_f1": 0.0}


@pytest.mark.parametrize("seed", range(5))
def test_multilabel_is_what_the_definition_says(seed: int):
    draw = random.Random(seed)
    truth, predicted = (
        [{c for c in "abc" if draw.random() < 0.5} for _ in range(40)] for _ in range(2)
    )
    per_label = [counts(truth, predicted, label) for label in "abc"]
    assert multilabel(truth, predicted, ["a", "b", "c", "never"]) == {
        "micro_f1": pytest.approx(f1(*(sum(column) for column in zip(*per_label, strict=True)))),
        "macro_f1": pytest.approx(np.mean([f1(*c) for c in per_label])),
    }


def test_multilabel_works_with_one_label_and_with_none():
    assert multilabel([["a"], []], [["a"], ["a"]], ["a"]) == {
        "micro_f1": pytest.approx(2 / 3),
        "macro_f1": pytest.approx(2 / 3),
    }
    assert multilabel([[]], [[]], ["a"]) == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_regression_agrees_with_scipy():
    draw = random.Random(0)
    truth = [float(draw.randrange(5)) for _ in range(30)]
    predicted = [t + draw.gauss(0, 1) for t in truth]
    assert regression(truth, predicted) == {
        "mse": pytest.approx(np.mean((np.array(truth) - np.array(predicted)) ** 2)),
        "pearson": pytest.approx(pearsonr(truth, predicted).statistic),
        "spearman": pytest.approx(spearmanr(truth, predicted).statistic),
    }


@pytest.mark.parametrize(
    ("truth", "predicted"), [([1.0, 2.0], [3.0, 3.0]), ([3.0, 3.0], [1.0, 2.0]), ([1.0], [2.0])]
)
def test_a_constant_side_and_a_single_row_correlate_with_nothing(
    truth: list[float], predicted: list[float]
):
    scores = regression(truth, predicted)
    assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)


def test_numbers_that_are_not_finite_are_refused():
    assert refusal(regression, [1.0, math.nan], [1.0, 1.0]) == (
        "truth 2 of 2 is nan, not a finite number."
    )
    assert refusal(regression, [1.0], [math.inf]) == (
        "prediction 1 of 1 is inf, not a finite number."
    )


def test_nothing_to_score_is_refused():
    for score, more in ((classification, [["a"]]), (multilabel, [["a"]]), (regression, [])):
        assert refusal(score, [], [], *more) == "there are no rows to score. Give at least one."
    assert refusal(majority, []) == "there are no rows to score. Give at least one."
    assert refusal(imbalance, []) == "there are no rows to score. Give at least one."


def test_different_lengths_are_refused():
    message = "1 predictions for 2 rows; give one for each row."
    assert refusal(classification, ["a", "b"], ["a"], ["a", "b"]) == message
    assert refusal(multilabel, [["a"], ["b"]], [["a"]], ["a", "b"]) == message
    assert refusal(regression, [1.0, 2.0], [1.0]) == message


def test_a_true_label_that_is_not_scored_is_refused():
    message = "label 'complant' is not one of the labels that are scored: complaint, no. "
    message += "Did you mean complaint?"
    labels = ["complaint", "no"]
    assert refusal(classification, ["complant"], ["no"], labels) == message
    assert refusal(multilabel, [["complant"]], [["no"]], labels) == message


def test_scores_bear_the_names_that_a_recipe_uses():
    made = {
        "single-label": set(classification(["a"], ["a"], ["a"])) | {"loss", "perplexity"},
        "multi-label": set(multilabel([["a"]], [["a"]], ["a"])) | {"loss"},
        "regression": set(regression([1.0], [1.0])) | {"loss"},
        "question-answering": set(extraction([["a"]], ["a"])) | {"loss"},
        # What these two give is held in their own tests, in tests/tasks.
        "token-classification": {"f1", "precision", "recall", "accuracy", "loss"},
        "multiple-choice": {"accuracy", "loss"},
        "text": set(texts.scores(["a b"], ["a b"])) | {"loss", "perplexity"},
    }
    for kind, counted in COUNTED_BY.items():  # tests/tasks/test_scoring.py
        made[kind] |= set(counted)
    assert made == {problem: set(names) for problem, names in METRICS_OF.items()}


def test_perplexity_is_the_exponential_of_the_loss():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert math.isnan(perplexity(math.nan))


def test_three_times_as_many_rows_are_still_balanced():
    assert imbalance(["a"] * 3 + ["b"]) is None
    assert imbalance(["a"]) is None
    assert imbalance(["a"] * 4 + ["b"]) == (
        "Unbalanced labels: 'a' has 4 of 5 rows, 'b' has 1. Always answering 'a' is right in "
        "80.0 % of the rows: hold accuracy against that, and look at macro F1."
    )


# --- answers that are parts of a text ---------------------------------------------------------

# Articles inside words and alone, punctuation of all kinds, case, accents, white space of Unicode.
WORDS = (
    *("the", "The", "a", "an", "theory", "Rome", "rome,", "U.S.", "us", "1,000", "1000", "—"),
    *("Zürich", "don't", "dont", "\u00a0", "(", ")", "猫"),
)


def some_answers(seed, *, empty):
    """Right answers, and predictions that often share words with them."""
    draw = random.Random(seed)

    def text():
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))

    golds = [[text() for _ in range(draw.randint(1, 3))] for _ in range(60)]
    said = [draw.choice(gold) if draw.random() < 0.3 else text() for gold in golds]
    if empty:
        golds = [[] if draw.random() < 0.3 else gold for gold in golds]
        said = ["" if draw.random() < 0.3 else one for one in said]
    return golds, said


@pytest.mark.parametrize("seed", range(20))
def test_extraction_is_that_of_the_official_script_2_0(seed: int):
    golds, said = some_answers(seed, empty=True)
    ours, theirs = extraction(golds, said), squad_official.evaluate_v2(golds, said)
    names = {
        "exact_match": "exact",
        "f1": "f1",
        "answerable_exact_match": "HasAns_exact",
        "answerable_f1": "HasAns_f1",
        "unanswerable_accuracy": "NoAns_exact",
    }
    assert ours.keys() == names.keys()
    for name, value in ours.items():
        assert 100 * value == pytest.approx(theirs[names[name]])


@pytest.mark.parametrize("seed", range(20))
def test_extraction_is_that_of_the_official_script_1_1(seed: int):
    golds, said = some_answers(seed, empty=False)
    # The one difference that is named: an answer of articles and signs alone.
    rows = [
        (gold, one)
        for gold, one in zip(golds, said, strict=True)
        if all(squad_official.normalize_answer(text) for text in gold)
    ]
    golds, said = zip(*rows, strict=True)
    ours, theirs = extraction(golds, said), squad_official.evaluate_v1(golds, said)
    assert {name: 100 * value for name, value in ours.items()} == pytest.approx(theirs)


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_for_no_answer_is_the_official_scripts(seed: int):
    golds, said = some_answers(seed, empty=True)
    # What is said in place of nothing has a word; articles alone count for nothing.
    golds = [[f"{text} Rome" for text in gold] for gold in golds]
    said = [f"{text} Rome" for text in said]
    draw = random.Random(seed)
    margins = [draw.uniform(-5, 5) + (2 if not gold else -2) for gold in golds]
    f1, threshold = squad_official.find_best_thresh(golds, said, margins)
    found = best_no_answer(golds, said, margins)
    assert 100 * found["best_f1"] == pytest.approx(f1)
    assert found["best_no_answer"] == threshold
    silenced = ["" if m > threshold else one for one, m in zip(said, margins, strict=True)]
    assert extraction(golds, silenced)["f1"] == pytest.approx(found["best_f1"], abs=1e-6)


def test_where_every_answer_is_best_left_empty_the_threshold_lies_below_all_margins():
    assert best_no_answer([[], []], ["a b", "c"], [-1.5, 3.0]) == {
        "best_f1": 1.0,
        "best_no_answer": -2.5,
    }
