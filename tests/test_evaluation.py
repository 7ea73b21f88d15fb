import math

import pytest
import tiny
import torch

from ptune.batch import PromptTensors, TokenSequence
from ptune.errors import ConfigError
from ptune.evaluation import (
    by_length,
    evaluate_examples,
    measure_examples,
    predict_examples,
    summarize,
)
from ptune.inject import LanguageHead
from ptune.tasks import Prediction, TaskOptions, make_task
from ptune.tasks.task import Example
from ptune.template import Template

TEXTS = ["late", "my parcel is very late", "thank you", "good film", "bad bad bad no"]
ANSWERS = ["yes", "no", "no", "yes", "yes"]


@pytest.fixture(scope="module")
def parts():
    backbone = tiny.backbone("llama")
    template = Template.parse("{soft:2}{text} label : {label}")
    task = make_task("causal-lm", template, backbone, TaskOptions(labels=("yes", "no")))
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    return backbone, PromptTensors(vectors=vectors), task, None


def examples_of(task, answers=ANSWERS):
    return task.examples([{"text": text} for text in TEXTS], answers)


def test_predictions_come_back_in_the_order_of_the_rows_whatever_the_batches(parts):
    task = parts[2]
    alone = [predict_examples(*parts, [e], batch_size=1)[0] for e in examples_of(task)]
    for batch_size in (1, 2, 5):
        together = evaluate_examples(*parts, examples_of(task), batch_size=batch_size)
        for one, other in zip(alone, together.predictions, strict=True):
            assert one.answer == other.answer
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_losses_come_back_in_the_order_of_the_rows_too(parts):
    examples = examples_of(parts[2])
    alone = [measure_examples(*parts, [example], batch_size=1)[0].loss for example in examples]
    together = [one.loss for one in measure_examples(*parts, examples, batch_size=5)]
    assert together == pytest.approx(alone, rel=1e-4)


def test_the_loss_is_the_mean_over_rows_and_perplexity_its_exponential(parts):
    task = parts[2]
    scores = evaluate_examples(*parts, examples_of(task), batch_size=2).scores
    shares = [p.probabilities for p in predict_examples(*parts, examples_of(task), batch_size=5)]
    losses = [-math.log(p[answer]) for p, answer in zip(shares, ANSWERS, strict=True)]
    assert scores["loss"] == pytest.approx(sum(losses) / 5, rel=1e-4)
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    right = [max(p, key=p.get) == answer for p, answer in zip(shares, ANSWERS, strict=True)]
    assert scores["accuracy"] == pytest.approx(sum(right) / 5)


def test_rows_shared_out_and_put_together_give_the_scores_of_all(parts):
    examples = examples_of(parts[2])
    whole = evaluate_examples(*parts, examples, batch_size=5).scores
    first = measure_examples(*parts, examples[0::2], batch_size=2)
    second = measure_examples(*parts, examples[1::2], batch_size=2)
    mixed = [first[0], second[0], first[1], second[1], first[2]]
    assert summarize(parts[2], mixed, examples).scores == pytest.approx(whole, rel=1e-5)


def test_a_loss_and_a_prediction_of_the_same_rows_ask_the_head_once(parts, monkeypatch):
    sizes, call = [], LanguageHead.__call__
    predict_examples(*parts, examples_of(parts[2]), batch_size=5)  # the first time it is tried

    def counting(self, states):
        sizes.append(len(states))
        return call(self, states)

    monkeypatch.setattr(LanguageHead, "__call__", counting)
    longer = make_task("causal-lm", Template.parse("{soft:2}{text} label : {label}"), parts[0],
                       TaskOptions(labels=("yes", "no parcel")))  # fmt: skip
    examples = examples_of(longer, ["yes", "no parcel", "yes", "yes", "no parcel"])
    measure_examples(*parts[:2], longer, None, examples, batch_size=5)
    assert sizes == [5, 5]  # the first words behind each row, and the second word of one label


def test_of_no_rows_nothing_is_measured(parts):
    assert measure_examples(*parts, [], batch_size=2) == []


def test_a_hopeless_loss_has_a_perplexity_that_is_still_a_number(parts):
    task = parts[2]
    (example, *_) = examples_of(task)
    measured = measure_examples(*parts, [example], batch_size=1)
    worse = [type(measured[0])(1e6, Prediction("yes"))]
    assert math.isfinite(summarize(task, worse, [example]).scores["perplexity"])


def test_nothing_is_trained_and_nothing_keeps_a_graph(parts):
    backbone, prompt, task, _ = parts
    vectors = prompt.vectors.clone().requires_grad_()
    evaluate_examples(
        backbone, PromptTensors(vectors=vectors), task, None, examples_of(task), batch_size=5
    )
    assert vectors.grad is None
    assert not backbone.model.training


def test_the_longest_rows_go_first_and_rows_of_like_length_together():
    lengths = [3, 9, 1, 9, 4]
    examples = [Example(TokenSequence(tuple(range(5, 5 + n)))) for n in lengths]
    assert list(by_length(examples, 2)) == [[1, 3], [4, 0], [2]]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_a_row_or_more(size):
    with pytest.raises(
        ConfigError, match=f"batch_size = {size} is not allowed. Allowed: 1 or more"
    ):
        list(by_length([], size))
