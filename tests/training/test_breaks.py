import math
import os
import signal
import threading

import pytest
import tiny
import torch
from tiny_runs import (
    TABLE,
    Watcher,
    log_of,
    train,
)

from ptune.errors import ConfigError, TrainingError
from ptune.training import loop
from ptune.training.learner import Learner


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def losses(result_or_watcher):
    return [loss for _, loss in result_or_watcher.steps]


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def broken_at(monkeypatch, step, value):
    """The loss of one step is spoilt."""
    losses, calls = Learner.losses, []

    def spoilt(self, read, examples):
        calls.append(1)
        found = losses(self, read, examples)
        return value(self, found) if len(calls) == step else found

    monkeypatch.setattr(Learner, "losses", spoilt)


def diverged(found, output):
    return (
        f"Training diverged: the loss or its gradient is no longer a number ({found}) at step 4 of "
        f"6. The last good state is in {output}/checkpoint; --resume goes on from it. Try a "
        "smaller lr (now 0.3), a longer warmup_share, or precision=fp32."
    )


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_stops_the_run_and_the_last_good_state_goes_on(
    tmp_path, backbone, monkeypatch, what
):
    watcher = Watcher()
    whole = train(backbone, TABLE, output=tmp_path / "whole", watcher=watcher)
    spoil = {
        "loss": lambda learner, losses: losses * float("nan"),
        # finite itself, but its derivative at 0 is not
        "gradient": lambda one, losses: losses + (one.prompt.shallow.weight.sum() * 0).sqrt(),
    }
    with monkeypatch.context() as patch:
        broken_at(patch, 4, spoil[what])
        with pytest.raises(TrainingError) as error:
            train(backbone, TABLE, output=tmp_path / "a")
    seen = {"loss": "nan", "gradient": f"{losses(watcher)[3]:g}"}[what]
    assert str(error.value) == diverged(f"loss {seen}", tmp_path / "a")
    again = train(backbone, TABLE, output=tmp_path / "a", resume=True)
    assert torch.equal(again.prompt.vectors, whole.prompt.vectors)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "whole")


def test_a_validation_loss_that_is_none_stops_the_run_before_its_checkpoint(
    tmp_path, backbone, monkeypatch
):
    measure, calls = loop.measure_together, []

    def spoilt(*args, **settings):
        calls.append(1)
        (found,) = measure(*args, **settings)
        return [[type(m)(math.inf, m.prediction) for m in found] if len(calls) == 2 else found]

    monkeypatch.setattr(loop, "measure_together", spoilt)
    refused(
        TrainingError,
        diverged("loss inf", tmp_path),
        lambda: train(backbone, TABLE, output=tmp_path),
    )
    monkeypatch.undo()
    assert train(backbone, TABLE, output=tmp_path, resume=True).steps == 6


def test_a_prompt_with_a_number_that_is_none_never_becomes_a_checkpoint(
    tmp_path, backbone, monkeypatch
):
    def spoil(step):
        if step == 4:
            with torch.no_grad():
                learners[0].prompt.shallow.weight[0, 0] = math.nan

    learners = []
    begin = Learner.begin
    monkeypatch.setattr(Learner, "begin", lambda self: (learners.append(self), begin(self))[1])
    settings = TABLE | {"validation_share": 0.2, "evaluate_every": 6, "save_every": 1}
    refused(
        TrainingError,
        diverged("in the prompt itself", tmp_path),
        lambda: train(backbone, settings, output=tmp_path, watcher=Watcher(at_step=spoil)),
    )


def interrupt_at(step):
    def at_step(now):
        if now == step:
            os.kill(os.getpid(), signal.SIGINT)

    return Watcher(at_step=at_step)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, backbone):
    whole = train(backbone, TABLE, output=tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    message = (
        f"Stopped at step 4 of 6. The state is in {tmp_path}/a/checkpoint; run the same command "
        "with --resume to go on (in Python: resume=True)."
    )
    # The signal arrives when step 3 is done: step 4 is the one that is finished.
    refused(
        TrainingError,
        message,
        lambda: train(backbone, TABLE, output=tmp_path / "a", watcher=interrupt_at(3)),
    )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    again = train(backbone, TABLE, output=tmp_path / "a", resume=True)
    assert torch.equal(again.prompt.vectors, whole.prompt.vectors)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "whole")


def test_ctrl_c_without_an_output_folder_keeps_nothing_and_says_so(backbone):
    message = "Stopped at step 3 of 6. Nothing was kept: the run has no output folder."
    refused(TrainingError, message, lambda: train(backbone, TABLE, watcher=interrupt_at(2)))


def test_ctrl_c_in_the_last_step_lets_the_run_finish(tmp_path, backbone):
    assert train(backbone, TABLE, output=tmp_path, watcher=interrupt_at(5)).steps == 6
    assert (tmp_path / "prompt" / "prompt.json").exists()


@pytest.fixture
def pythons_own_ctrl_c():
    """A program that a shell starts in the background begins with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_own_ctrl_c")
def test_ctrl_c_twice_stops_at_once(backbone):
    def twice(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(backbone, TABLE, watcher=Watcher(at_step=twice))


def test_in_a_thread_signals_are_left_to_the_program(backbone):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(backbone, TABLE)))
    thread.start()
    thread.join()
    assert results[0].steps == 6


def test_after_an_error_the_backbone_is_as_before(backbone, monkeypatch):
    broken_at(monkeypatch, 2, lambda learner, losses: losses * math.nan)
    with pytest.raises(TrainingError):
        train(backbone, TABLE | {"gradient_checkpointing": True})
    assert not backbone.gradient_checkpointing
    for module in backbone.model.modules():
        assert "_ptune" not in module.__dict__
        assert "forward" not in module.__dict__
        assert not module._forward_hooks


def test_a_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path, backbone):
    (tmp_path / "file").write_text("no folder")
    output, watcher = tmp_path / "file" / "run", Watcher()
    message = (
        f"{output}/log.jsonl: cannot be written (Not a directory). Choose another output folder."
    )
    refused(ConfigError, message, lambda: train(backbone, TABLE, output=output, watcher=watcher))
    assert watcher.steps == []
