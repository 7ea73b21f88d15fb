import dataclasses

import pytest
import torch

from ptune.config import Recipe
from ptune.encoders import EmbeddingEncoder, LSTMEncoder, PrefixEncoder, SiteShape
from ptune.heads import ClassificationHead
from ptune.trainable import TrainablePrompt
from ptune.training.options import Options

SHAPES = [SiteShape(2, 4, 4)]


def options(**settings):
    recipe = Recipe.make(backbone="b", train="t.csv", **settings).resolved()
    return Options.of(recipe, torch.float32)


def test_every_setting_of_the_recipe_that_the_loop_reads_arrives():
    given = {
        "lr": 0.5,
        "encoder_lr": 0.02,
        "weight_decay": 0.1,
        "clip": 2.0,
        "schedule": "exponential",
        "epoch_decay": 0.9,
        "warmup_share": 0.3,
        "evaluation_batch_size": 5,
        "evaluate_every": 7,
        "save_every": 11,
        "patience": 2,
        "metric": "loss",
        "seed": 13,
        "gradient_checkpointing": True,
    }
    made = dataclasses.asdict(options(**given))
    assert {key: made[key] for key in given} == given


def test_an_exponential_schedule_has_the_factor_of_p_tuning_v2_by_default():
    assert options(schedule="exponential").epoch_decay == 0.95


def test_the_metric_of_the_problem_is_the_default():
    assert options().metric == "accuracy"
    head = {"task": "sequence-classification"}
    assert options(**head, problem="multi-label").metric == "micro_f1"
    assert options(**head, problem="regression").metric == "pearson"


def groups(prompt, **settings):
    found = options(**settings).groups(prompt)
    assert all(group["lr"] == group["largest_lr"] for group in found)
    return {group["lr"]: {id(p) for p in group["params"]} for group in found}


def ids(*parameters):
    return {id(p) for p in parameters}


def test_numbers_of_the_prompt_networks_and_head_each_have_their_own_step_size():
    initial = torch.ones(2, 8)
    shallow, head = LSTMEncoder(2, 8, initial=initial), ClassificationHead(8, 2)
    prompt = TrainablePrompt(shallow=shallow, deep=PrefixEncoder(2, SHAPES), sites=(0,), head=head)
    found = groups(prompt, lr=0.5, encoder_lr=0.02, head_lr=0.003, task="sequence-classification")
    direct = [*shallow.direct_parameters(), *prompt.deep.direct_parameters()]
    assert found[0.5] == ids(*direct)
    assert found[0.003] == ids(*head.parameters())
    assert set.union(*found.values()) == ids(*prompt.parameters())
    assert sum(map(len, found.values())) == len(list(prompt.parameters()))


def test_a_plain_table_is_trained_at_the_learning_rate_of_the_prompt():
    shallow = EmbeddingEncoder(2, 8)
    found = groups(TrainablePrompt(shallow=shallow), lr=0.5, method="prompt-tuning")
    assert found == {0.5: ids(shallow.weight)}


@pytest.mark.parametrize("method", ["p-tuning", "prompt-tuning", "p-tuning-v2"])
def test_without_learning_rates_there_are_defaults(method):
    made = options(method=method)
    assert made.lr > 0
    assert made.encoder_lr > 0
    assert made.head_lr > 0
