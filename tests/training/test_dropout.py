"""Runs with the backbone's dropout on: what is drawn, what is judged, and where it is refused."""

from threading import Barrier, Thread

import pytest
import tiny
import torch
import transformers as hf
from tiny_runs import DEEP, ROWS, SHALLOW, TABLE, Killed, Watcher, log_of, same, tensors_of, train

import ptune
from ptune.errors import ConfigError
from ptune.training.dropout import check_dropout, draws

ON = {"backbone_dropout": True}


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("gpt2")  # whose rates are 0.1


def losses(backbone, settings):
    watcher = Watcher()
    result = train(backbone, settings, watcher=watcher)
    return [loss for _, loss in watcher.steps], result


def test_the_seed_says_what_is_drawn(backbone):
    off, _ = losses(backbone, TABLE)
    one, first = losses(backbone, TABLE | ON)
    torch.manual_seed(99)
    torch.rand(7)
    two, second = losses(backbone, TABLE | ON)
    assert one == two
    assert torch.equal(first.prompt.vectors, second.prompt.vectors)
    assert all(abs(a - b) > 1e-4 for a, b in zip(one, off, strict=True))
    assert not any(module.training for module in backbone.model.modules())


def test_a_step_draws_other_numbers_than_the_step_before(backbone):
    still = TABLE | ON | {"lr": 1e-8, "batch_size": 8, "average": 0}
    found, _ = losses(backbone, still)  # the same rows, the same prompt
    assert len(found) == 3
    assert len({round(loss, 4) for loss in found}) == 3
    without, _ = losses(backbone, still | {"backbone_dropout": False})
    assert max(without) - min(without) < 1e-4


def test_scores_are_those_of_the_model_without_dropout(backbone):
    result = train(backbone, TABLE | ON, test=ROWS[:4])
    for _ in range(2):
        found = ptune.evaluate(backbone, result.prompt, ROWS[:4]).scores
        assert found["loss"] == pytest.approx(result.scores["test"]["loss"], rel=1e-5)


@pytest.mark.parametrize("kind", [DEEP, SHALLOW | {"encoder_dropout": 0.3}])
def test_killed_after_any_step_and_resumed_is_never_stopped(tmp_path, backbone, kind):
    settings = kind | ON | {"epochs": 2}
    train(backbone, settings, output=tmp_path / "whole")
    for step in (1, 3):
        output = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            train(backbone, settings, output=output, watcher=Watcher(die_after=step))
        train(backbone, settings, output=output, resume=True)
        for part in ("prompt", "checkpoint"):
            assert same(tensors_of(output / part), tensors_of(tmp_path / "whole" / part))
        assert log_of(output) == log_of(tmp_path / "whole")


def test_gradient_checkpointing_changes_nothing(backbone):
    one, _ = losses(backbone, DEEP | ON)
    two, _ = losses(backbone, DEEP | ON | {"gradient_checkpointing": True})
    assert one == pytest.approx(two, rel=1e-4)


def test_no_trunk_is_remembered(backbone):
    watcher = Watcher()
    train(backbone, DEEP | ON | {"layers": "upper:1"}, watcher=watcher)
    assert watcher.facts["frozen trunk"] == (
        "Frozen trunk: not remembered, because the backbone's dropout is on."
    )


def test_runs_in_two_threads_draw_as_alone():
    backbones = [tiny.backbone("gpt2") for _ in "ab"]  # which draws from the process's state
    alone = [losses(backbones[0], TABLE | ON | {"seed": seed})[0] for seed in (0, 1)]
    found, both = {}, Barrier(2)

    def run(seed):
        both.wait()
        found[seed] = losses(backbones[seed], TABLE | ON | {"seed": seed})[0]

    threads = [Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0], found[1]] == alone


def refused(call):
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


def test_a_backbone_that_draws_nothing_is_refused():
    assert refused(lambda: train(tiny.backbone("llama"), TABLE | ON)) == (
        'backbone_dropout: "LlamaForCausalLM" draws nothing in training; its configuration has no '
        "dropout above 0. Set backbone_dropout: false."
    )


def test_a_backbone_on_several_devices_is_refused():
    b = tiny.backbone("gpt2")
    b.model.hf_device_map = {"transformer.h.0": 0, "transformer.h.1": "cpu"}
    assert refused(lambda: train(b, TABLE | ON)) == (
        "backbone_dropout does not go with a device map, whose devices draw from streams of their "
        "own. Leave device_map out, or set backbone_dropout: false."
    )


def test_a_device_whose_draws_are_not_kept_is_refused(monkeypatch):
    b = tiny.backbone("gpt2")
    monkeypatch.setattr(type(b), "device", property(lambda _: torch.device("mps")))
    assert refused(lambda: check_dropout(b)) == (
        "backbone_dropout: what mps draws does not follow from a seed. Set device: cpu, or "
        "backbone_dropout: false."
    )


def test_replicas_are_refused(backbone):
    def several(common, *variants):
        return refused(lambda: ptune.train_replicas(backbone, ROWS, variants, **TABLE, **common))

    assert several(ON, {"seed": 0}, {"seed": 1}, {"seed": 2}) == (
        "backbone_dropout does not go with replicas: what is drawn for one would depend on the "
        "others in the pass, and each is to be trained as if alone. Train them in several runs, "
        "or set backbone_dropout: false."
    )
    assert several({}, {}, ON).startswith("variants[1] changes backbone_dropout, which all")


def test_a_backbone_that_only_differs_in_train_mode_draws_nothing():
    """RWKV multiplies its weights between the two modes; here it stays as it is."""
    config = hf.RwkvConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=3, context_length=64, rescale_every=1
    )
    b = ptune.Backbone.load(hf.RwkvForCausalLM(config), tokenizer=tiny.tokenizer())
    before = {name: weight.clone() for name, weight in b.model.state_dict().items()}
    assert not draws(b)
    assert same(before, dict(b.model.state_dict()))


@pytest.mark.parametrize("name", ["bert", "t5", "bart"])
def test_it_is_found_out_by_running(name):
    b = tiny.backbone(name)
    before = torch.get_rng_state()
    assert draws(b)
    assert torch.equal(torch.get_rng_state(), before)
    for module in b.model.modules():
        for key in ("p", "dropout", "dropout_rate", "activation_dropout"):
            if isinstance(getattr(module, key, None), float):
                setattr(module, key, 0.0)
    assert not draws(b)
