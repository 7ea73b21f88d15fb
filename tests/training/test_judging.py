"""Which evaluation is kept, and when a run ends: by one score or by two."""

from types import SimpleNamespace

import pytest
import torch

from ptune.evaluation import Evaluation
from ptune.training.checkpoint import Progress
from ptune.training.learner import Learner


def judged(scores, *, metric="accuracy", second=None, keep="better"):
    """The steps kept, one after the other, and evaluations without gain at the end."""
    learner = object.__new__(Learner)
    learner.options = SimpleNamespace(metric=metric, second_metric=second, keep=keep)
    learner.progress, learner.best, learner.plan = Progress(), None, None
    learner.average = None
    learner.prompt = torch.nn.Linear(1, 1)
    learner.report = SimpleNamespace(evaluation=lambda *_: None)
    kept = []
    for step, found in enumerate(scores, start=1):
        learner.progress.step = step
        learner.judge(Evaluation({"loss": 1.0} | found))
        if learner.progress.best_step == step:
            kept.append(step)
    return kept, learner.progress.without_gain


def few_shot_code(pairs):
    """Oracle: the branch of PT-Fewshot/pet/wrapper.py for CB and MultiRC, by its conditions."""
    best_acc = best_f1 = 0.0
    kept, without_gain = [], 0
    for step, (acc, f1) in enumerate(pairs, start=1):
        if acc >= best_acc and f1 >= best_f1:
            without_gain = 0 if acc > best_acc and f1 > best_f1 else without_gain + 1
            best_acc, best_f1 = acc, f1
            kept.append(step)
        else:
            without_gain += 1
    return kept, without_gain


PAIRS = [
    [(0.5, 0.4), (0.6, 0.3), (0.5, 0.5), (0.6, 0.6), (0.6, 0.6), (0.7, 0.5)],
    [(0.5, 0.4), (0.4, 0.9), (0.9, 0.3)],
    [(0.2, 0.2), (0.3, 0.2), (0.3, 0.3), (0.4, 0.4)],
    [(0.8, 0.8), (0.7, 0.7), (0.8, 0.8), (0.8, 0.9)],
]


@pytest.mark.parametrize("pairs", PAIRS)
def test_two_scores_are_judged_as_the_few_shot_code_judges_them(pairs):
    scores = [{"accuracy": acc, "macro_f1": f1} for acc, f1 in pairs]
    found = judged(scores, second="macro_f1", keep="equal")
    assert found == few_shot_code(pairs)


def test_with_keep_better_both_must_be_better():
    scores = [{"accuracy": a, "macro_f1": f} for a, f in [(0.5, 0.5), (0.6, 0.5), (0.6, 0.6)]]
    assert judged(scores, second="macro_f1") == ([1, 3], 0)


def test_one_score_is_judged_alone():
    scores = [{"accuracy": a, "macro_f1": f} for a, f in [(0.5, 0.5), (0.6, 0.1), (0.6, 0.9)]]
    assert judged(scores) == ([1, 2], 1)
    assert judged(scores, keep="equal") == ([1, 2, 3], 1)


def test_of_a_second_score_less_may_be_better():
    scores = [{"accuracy": 0.5, "loss": 2.0}, {"accuracy": 0.6, "loss": 3.0}]
    scores += [{"accuracy": 0.6, "loss": 1.0}]
    assert judged(scores, second="loss", keep="equal") == ([1, 3], 0)
