import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from tiny_runs import (
    DEEP,
    ROWS,
    SHALLOW,
    TABLE,
    WITH_DROPOUT,
    Killed,
    Watcher,
    document_of,
    log_of,
    same,
    tensors_of,
    train,
)

from ptune.errors import ArtifactError, ConfigError
from ptune.training.learner import Learner

TESTS = Path(__file__).parents[1]
# Trained on, too: what is said of that stands in the log, once.
TEST = ROWS[:3]


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def assert_equal_runs(output, whole):
    """Everything that a run leaves behind, but the seconds."""
    assert same(tensors_of(output / "prompt"), tensors_of(whole / "prompt"))
    assert same(tensors_of(output / "checkpoint"), tensors_of(whole / "checkpoint"))
    assert document_of(output / "checkpoint") == document_of(whole / "checkpoint")
    assert document_of(output / "prompt") == document_of(whole / "prompt")
    assert log_of(output) == log_of(whole)


@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_killed_after_any_step_and_resumed_is_never_stopped(tmp_path, backbone, kind):
    settings = WITH_DROPOUT[kind] | {"epochs": 2}
    never = train(backbone, settings, output=tmp_path / "whole", test=TEST)
    assert never.steps == 4
    for step in range(1, 5):
        output = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            train(backbone, settings, output=output, test=TEST, watcher=Watcher(die_after=step))
        assert not (output / "prompt").exists()
        again = train(backbone, settings, output=output, test=TEST, resume=True)
        assert_equal_runs(output, tmp_path / "whole")
        assert again.scores == never.scores
        assert again.steps == 4


def test_a_process_that_is_new_draws_what_the_first_one_draws(tmp_path, backbone, monkeypatch):
    """A run of one process is gone on with as the second of two: its encoder's masks are equal."""
    settings = WITH_DROPOUT["shallow"]
    train(backbone, settings, output=tmp_path / "whole")
    with pytest.raises(Killed):
        train(backbone, settings, output=tmp_path / "a", watcher=Watcher(die_after=5))
    load = Learner.load

    def as_second(learner):
        alone = learner._accelerator
        learner._accelerator = SimpleNamespace(process_index=1)
        notes = load(learner)
        learner._accelerator = alone
        return notes

    monkeypatch.setattr(Learner, "load", as_second)
    train(backbone, settings, output=tmp_path / "a", resume=True)
    assert_equal_runs(tmp_path / "a", tmp_path / "whole")


@pytest.mark.parametrize("step", [2, 6])
def test_killed_between_an_evaluation_and_its_checkpoint_is_never_stopped(tmp_path, backbone, step):
    settings = WITH_DROPOUT["shallow"]
    train(backbone, settings, output=tmp_path / "whole")
    with pytest.raises(Killed):
        train(backbone, settings, output=tmp_path / "a", watcher=Watcher(die_at_scores=step))
    train(backbone, settings, output=tmp_path / "a", resume=True)
    assert_equal_runs(tmp_path / "a", tmp_path / "whole")


def test_killed_again_and_again_is_never_stopped(tmp_path, backbone):
    settings = WITH_DROPOUT["deep"] | {"save_every": 1}
    train(backbone, settings, output=tmp_path / "whole")
    for step in range(1, 7):
        with pytest.raises(Killed):
            train(
                backbone,
                settings,
                output=tmp_path / "a",
                resume=step > 1,
                watcher=Watcher(die_after=step + 1 if step < 6 else 6),
            )
    train(backbone, settings, output=tmp_path / "a", resume=True)
    assert_equal_runs(tmp_path / "a", tmp_path / "whole")


def test_a_finished_run_is_gone_on_with_by_reading_its_result(tmp_path, backbone):
    first = train(backbone, TABLE, output=tmp_path)
    watcher = Watcher()
    again = train(backbone, TABLE, output=tmp_path, resume=True, watcher=watcher)
    assert watcher.steps == []
    assert again.scores == first.scores
    assert torch.equal(again.prompt.vectors, first.prompt.vectors)


SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import tiny
from tiny_runs import WITH_DROPOUT, Watcher, train

def at_step(step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train(tiny.backbone("llama"), WITH_DROPOUT["shallow"], output=sys.argv[2],
      watcher=Watcher(at_step=at_step))
"""


def test_a_process_killed_by_the_system_and_resumed_in_another_is_never_stopped(tmp_path, backbone):
    settings = WITH_DROPOUT["shallow"]
    train(backbone, settings, output=tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(TESTS), str(tmp_path / "a")],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert document_of(tmp_path / "a" / "checkpoint")["progress"]["step"] == 4
    train(backbone, settings, output=tmp_path / "a", resume=True)
    assert_equal_runs(tmp_path / "a", tmp_path / "whole")


def test_a_line_of_the_log_that_a_kill_cut_short_is_written_anew(tmp_path, backbone):
    settings = TABLE | {"save_every": 1}
    train(backbone, settings, output=tmp_path / "whole")
    with pytest.raises(Killed):
        train(backbone, settings, output=tmp_path / "a", watcher=Watcher(die_after=4))
    with (tmp_path / "a" / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "epo')
    train(backbone, settings, output=tmp_path / "a", resume=True)
    assert log_of(tmp_path / "a") == log_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, backbone):
    """A run that was killed at its third step."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Killed):
        train(backbone, TABLE, output=output, watcher=Watcher(die_after=3))
    return output


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def unchanged(output, call):
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file() and p.suffix != ".jsonl"}
    call()
    assert {p: p.read_bytes() for p in before} == before


def test_another_setting_is_refused(stopped, backbone):
    message = (
        f"{stopped}/checkpoint: this checkpoint belongs to another run, which differs in schedule, "
        "weight_decay (schedule: 'linear' there, 'cosine' now). Give what that run was given, or "
        "start anew without resume."
    )
    more = {"schedule": "cosine", "weight_decay": 0.1, "lr": 0.1}
    call = lambda: train(backbone, TABLE, output=stopped, resume=True, **more)  # noqa: E731
    unchanged(stopped, lambda: refused(ConfigError, message, call))


def test_a_run_goes_on_with_a_smaller_step_size_where_it_is_asked_to(stopped, backbone, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    watcher = Watcher()
    more = {"lr": 0.1, "clip": 2.0, "warmup_share": 0.5, "schedule": "linear"}
    train(backbone, TABLE, output=tmp_path / "run", resume=True, watcher=watcher, **more)
    notes = [
        "From step 2 on, lr is 0.1; it was 0.3.",
        "From step 2 on, warmup_share is 0.5; it was 0.06.",
        "From step 2 on, clip is 2.0; it was 1.0.",
    ]
    assert watcher.facts["notes"] == notes
    log = log_of(tmp_path / "run")
    assert [(line["step"], line["note"]) for line in log if "note" in line] == [
        (2, note) for note in notes
    ]
    # lr times the schedule at steps 2 .. 5 of 6, of which 3 warm up
    rates = [line["lr"] for line in log if "lr" in line and line["step"] > 2]
    assert rates == pytest.approx([0.1, 0.1, 0.1 * 2 / 3, 0.1 / 3])
    assert document_of(tmp_path / "run" / "prompt")["settings"]["lr"] == 0.1


def test_batches_by_tokens_go_on_too(tmp_path, backbone):
    settings = {k: v for k, v in WITH_DROPOUT["shallow"].items() if k != "batch_size"}
    settings |= {"tokens_per_batch": 24, "accumulation": 2, "epochs": 2}
    whole = train(backbone, settings, output=tmp_path / "whole")
    assert whole.steps > 2
    for step in range(1, whole.steps):
        output = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            train(backbone, settings, output=output, watcher=Watcher(die_after=step))
        train(backbone, settings, output=output, resume=True)
        assert_equal_runs(output, tmp_path / "whole")


def test_step_sizes_that_fall_from_epoch_to_epoch_go_on_where_they_were(tmp_path, backbone):
    settings = TABLE | {"schedule": "exponential", "epoch_decay": 0.5, "warmup_share": 0.0}
    train(backbone, settings, output=tmp_path / "whole")
    with pytest.raises(Killed):
        train(backbone, settings, output=tmp_path / "a", watcher=Watcher(die_after=3))
    train(backbone, settings, output=tmp_path / "a", resume=True)
    assert_equal_runs(tmp_path / "a", tmp_path / "whole")
    rates = [line["lr"] for line in log_of(tmp_path / "a") if "lr" in line]
    assert rates == pytest.approx([0.3, 0.3, 0.15, 0.15, 0.075, 0.075])


def test_other_rows_are_refused(stopped, backbone):
    rows = [*ROWS[:-1], {"text": "good film", "label": "complaint"}]
    message = (
        f"{stopped}/checkpoint: this checkpoint belongs to another run, which differs in the rows. "
        "Give what that run was given, or start anew without resume."
    )
    refused(ConfigError, message, lambda: train(backbone, TABLE, rows, output=stopped, resume=True))


def test_another_backbone_is_refused(stopped):
    other = tiny.backbone("llama", seed=1)
    message = (
        f"{stopped}/checkpoint: this checkpoint belongs to another run, which differs in the "
        "backbone. Give what that run was given, or start anew without resume."
    )
    refused(ConfigError, message, lambda: train(other, TABLE, output=stopped, resume=True))


def test_where_the_rows_lie_does_not_matter(stopped, backbone, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert train(backbone, TABLE, str(file), output=tmp_path / "run", resume=True).steps == 6


def test_a_folder_without_a_checkpoint_is_refused(tmp_path, backbone):
    message = (
        f"{tmp_path}/checkpoint: there is no checkpoint to go on from. Name the output folder of "
        "the run, or start without --resume (resume=True)."
    )
    call = lambda: train(backbone, TABLE, output=tmp_path, resume=True)  # noqa: E731
    refused(ConfigError, message, call)


def test_without_an_output_folder_nothing_can_be_gone_on_with(backbone):
    message = "resume needs the output folder of the run to go on with."
    refused(ConfigError, message, lambda: train(backbone, DEEP, resume=True))


def test_a_damaged_checkpoint_is_refused(stopped, backbone, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    file = tmp_path / "run" / "checkpoint" / "prompt.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    message = (
        f"{tmp_path}/run/checkpoint: prompt.safetensors is damaged, or belongs to another prompt: "
        "its hash is not the one in prompt.json. Copy the whole folder again from where it was "
        "made."
    )
    call = lambda: train(backbone, TABLE, output=tmp_path / "run", resume=True)  # noqa: E731
    refused(ArtifactError, message, call)


def test_a_checkpoint_holds_the_prompt_and_nothing_of_the_backbone(stopped):
    names = {name.split(".")[0] for name in tensors_of(stopped / "checkpoint")}
    assert names == {"prompt", "best", "average", "random", "optimizer"}
    prompts = [n for n in tensors_of(stopped / "checkpoint") if n.startswith("prompt.")]
    assert all(name.startswith("prompt.shallow.") for name in prompts)


def test_a_new_run_in_the_folder_of_an_old_one_begins_a_new_log(tmp_path, backbone):
    train(backbone, TABLE, output=tmp_path)
    train(backbone, SHALLOW, output=tmp_path, max_steps=2)
    first, *others = log_of(tmp_path)
    said = f"{tmp_path}: an earlier run is replaced; resume would have gone on with it."
    assert (first["step"], first["note"]) == (0, said)
    old = f"{tmp_path}/prompt is of an earlier run, until this one ends."
    assert (others[0]["step"], others.pop(0)["note"]) == (0, old)
    assert [line["step"] for line in others] == [1, 2, 2]


def test_a_prompt_in_the_place_of_a_checkpoint_is_refused(tmp_path, backbone):
    train(backbone, SHALLOW | {"epochs": 1}, output=tmp_path)
    shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)
    shutil.copytree(tmp_path / "prompt", tmp_path / "checkpoint")
    with pytest.raises(ArtifactError) as error:
        train(backbone, SHALLOW | {"epochs": 1}, output=tmp_path, resume=True)
    assert str(error.value) == (
        f"{tmp_path / 'checkpoint'}: is no checkpoint of a run, but another folder of ptune's, as "
        "a saved prompt. Put the run's checkpoint there, or start anew without resume."
    )
