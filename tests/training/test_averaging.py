"""The mean of the last steps: its numbers, and that it is what is judged, kept and gone on with."""

import pytest
import tiny
import torch
from tiny_runs import DEEP, ROWS, SHALLOW, TABLE, train

from ptune.api import evaluate
from ptune.config import Recipe
from ptune.config.presets import presets
from ptune.training.averaging import Average
from ptune.training.learner import Learner


def closed_form(history, decay):
    """Oracle: what each step weighs in the end, multiplied out, and their weighted sum."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(1, len(history))]
    weights = []
    for at in range(len(history)):
        own = 1.0 if at == 0 else 1 - decays[at - 1]
        for later in decays[at:]:
            own *= later
        weights.append(own)
    assert sum(weights) == pytest.approx(1.0)
    return sum(weight * value for weight, value in zip(weights, history, strict=True))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_mean_weighs_each_step_as_the_formula_says(decay):
    module = torch.nn.Linear(3, 2)
    average, history = Average(module, decay), [module.weight.detach().clone()]
    for step in range(1, 13):
        with torch.no_grad():
            module.weight.copy_(torch.randn(2, 3))
        average.take(step)
        history.append(module.weight.detach().clone())
    torch.testing.assert_close(average.mean["weight"], closed_form(history, decay))


def test_inside_the_module_holds_the_mean_and_outside_its_own_numbers_also_after_an_error():
    module = torch.nn.Linear(2, 1)
    average = Average(module, 0.9)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    held = []

    def fails():
        with average.instead():
            held.append(module.weight.detach().clone())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fails()
    assert torch.equal(held[0], start)
    assert torch.equal(module.weight, start + 1.0)


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def recorded(monkeypatch):
    """What the prompt was before the first step and after each."""
    history = []
    begin, advance = Learner.begin, Learner.advance

    def keep(learner):
        history.append({k: v.detach().clone() for k, v in learner.prompt.named_parameters()})

    def beginning(learner):
        begin(learner)
        keep(learner)

    def advancing(learner, *told):
        advance(learner, *told)
        keep(learner)

    monkeypatch.setattr(Learner, "begin", beginning)
    monkeypatch.setattr(Learner, "advance", advancing)
    return history


def test_what_comes_back_is_the_mean_and_with_0_the_last_step(backbone, monkeypatch):
    settings = TABLE | {"validation_share": 0.0, "epochs": 2}
    for average in (0.9, 0.0):
        history = recorded(monkeypatch)
        got = train(backbone, settings | {"average": average}).prompt.vectors
        monkeypatch.undo()
        ways = [next(iter(step.values())) for step in history]
        assert all(len(step) == 1 for step in history)
        expected = closed_form(ways, average) if average else ways[-1]
        torch.testing.assert_close(got / backbone.embedding_scale, expected)


def test_the_steps_themselves_are_those_of_a_run_without(backbone, monkeypatch):
    histories = []
    for average in (0.9, 0.0):
        histories.append(recorded(monkeypatch))
        train(backbone, DEEP | {"average": average, "epochs": 2})
        monkeypatch.undo()
    for with_mean, without in zip(*histories, strict=True):
        assert all(torch.equal(with_mean[name], without[name]) for name in without)


def test_the_validation_score_is_that_of_the_prompt_that_comes_back(backbone):
    settings = SHALLOW | {"average": 0.9, "validation_share": 0.0, "epochs": 2}
    result = train(backbone, settings, validation=ROWS[:6])
    again = evaluate(backbone, result.prompt, ROWS[:6]).scores
    assert result.scores["validation"]["loss"] == pytest.approx(again["loss"], rel=1e-5)


def test_it_is_on_unless_all_of_the_backbone_is_trained_and_in_no_run_of_a_paper():
    assert Recipe.make().resolved().average == 0.99
    assert Recipe.make(average=0).resolved().average == 0
    assert Recipe.make(train_backbone="adapters").resolved().average == 0.99
    assert Recipe.make(train_backbone=True).resolved().average == 0
    assert all(float(preset.settings["average"]) == 0 for preset in presets().values())
