import pytest
import tiny
from tiny_runs import LABELS, TEMPLATE, TEXTS, Watcher, write_rows

import ptune
from ptune.bench.sides import Timed, backward_share, make_workload, own_side
from ptune.config import Recipe
from ptune.encoders import PrefixEncoder, SiteShape
from ptune.errors import ConfigError
from ptune.trainable import TrainablePrompt

SETTINGS = {
    "method": "prompt-tuning",
    "template": TEMPLATE,
    "batch_size": 2,
    "accumulation": 2,
    "validation_share": 0,
    "schedule": "constant",
    "warmup_share": 0,
}


@pytest.fixture
def rows(tmp_path):
    lines = [("text", "label"), *zip(TEXTS, LABELS, strict=True)]
    return str(write_rows(tmp_path / "rows.csv", lines))


def learner(rows, steps=3, name="llama", **settings):
    backbone = tiny.backbone(name)
    recipe = Recipe.make(backbone="tiny", train=rows, **(SETTINGS | settings))
    job = make_workload(recipe, backbone, steps=steps)
    return Timed(job, own_side(job)), backbone


@pytest.mark.parametrize(
    "more", [{}, {"tokens_per_batch": 24, "batch_size": 16, "accumulation": 2}]
)
def test_a_measured_step_is_a_step_of_training(rows, more):
    """The same losses as those that `train` tells, whatever the batches and the accumulation."""
    watcher, settings = Watcher(), SETTINGS | more
    ptune.train(tiny.backbone("llama"), rows, watcher=watcher, epochs=3, max_steps=3, **settings)
    trained = [loss for _, loss in watcher.steps]
    measured, backbone = learner(rows, steps=len(trained), **more)
    with backbone.injected():
        losses = [measured.step()["loss"] for _ in trained]
    assert losses == pytest.approx(trained, rel=1e-6)
    assert len(set(losses)) == 3


def test_a_step_says_what_it_cost(rows):
    measured, backbone = learner(rows, max_rows=4)
    with backbone.injected():
        said = measured.step()
    sequences = [e.sequence for part in measured._workload.steps[0] for e in part]
    head = len(sequences[0].ids[: sequences[0].shared])
    own = sum(len(s.ids) - s.shared + sum(len(b.ids) for b in s.branches) for s in sequences)
    # Two batches of two rows: each computes the prompt in front once.
    assert said["tokens"] == said["computed"] == own + 2 * head
    assert said["padded"] > said["tokens"]
    assert said["words"] == sum(len(b.reads) for s in sequences for b in s.branches)
    assert said["seconds"] > 0
    assert measured.facts == {
        "body_parameters": 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48),
        "trained": 2 * 32,
        "another": None,
        "width": 32,
        "dtype": "float32",
        "device": "cpu",
    }


def test_dropout_of_the_backbone_is_on_in_a_measured_step_too(rows):
    one = {"epochs": 1, "max_steps": 1}
    (off, _), (on, backbone) = (
        learner(rows, steps=1, name="gpt2", backbone_dropout=asked, **one)
        for asked in (False, True)
    )
    with backbone.injected():
        drawn = on.step()["loss"]
    assert not any(module.training for module in backbone.model.modules())
    assert abs(drawn - off.step()["loss"]) > 1e-3
    with pytest.raises(ConfigError, match=r"^backbone_dropout: .* draws nothing in training"):
        learner(rows, backbone_dropout=True)


def test_rows_are_needed():
    with pytest.raises(ConfigError, match=r"^train is missing\. Give the file of the rows"):
        make_workload(Recipe.make(backbone="tiny", **SETTINGS), tiny.backbone("llama"), steps=1)


def test_the_gradient_passes_the_layers_above_the_lowest_prompt():
    deep = PrefixEncoder(2, [SiteShape(2, 8, 8)])
    assert backward_share(TrainablePrompt(deep=deep, sites=(2,)), 3) == pytest.approx(1 / 3)
    assert backward_share(TrainablePrompt(deep=deep, sites=(0,)), 3) == 1
