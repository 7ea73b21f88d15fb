import json

import pytest

from ptune.errors import ConfigError
from ptune.training.report import Report
from ptune.training.schedule import Plan

PLAN = Plan.make(4, rows_per_step=2, epochs=3, max_steps=None, seed=0)


def started(folder, **settings):
    report = Report(folder, **settings)
    report.start(PLAN, {})
    return report


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_lines_are_collected_and_written_when_asked(tmp_path):
    report = started(tmp_path)
    report.step(1, PLAN, 0.5, 0.1)
    report.evaluation(2, PLAN, {"loss": 0.25})
    assert lines(tmp_path) == []
    report.flush()
    report.flush()
    first, second = lines(tmp_path)
    assert (first["step"], first["epoch"], first["loss"], first["lr"]) == (1, 1, 0.5, 0.1)
    assert (second["step"], second["epoch"], second["scores"]) == (2, 1, {"loss": 0.25})


def test_lines_behind_the_checkpoint_are_dropped_when_a_run_goes_on(tmp_path):
    report = started(tmp_path)
    for step in (1, 2, 3):
        report.step(step, PLAN, 0.5, 0.1)
    report.close()
    again = Report(tmp_path)
    again.start(PLAN, {}, step=2)
    again.step(3, PLAN, 0.75, 0.1)
    again.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 0.5), (2, 0.5), (3, 0.75)
    ]  # fmt: skip


def test_without_a_folder_and_a_watcher_it_is_silent():
    report = started(None)
    report.step(1, PLAN, 0.5, 0.1)
    report.close()


def test_without_tensorboard_its_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError) as error:
        Report(tmp_path, tracker="tensorboard")
    assert str(error.value) == (
        "tracker = tensorboard needs the package tensorboard: pip install tensorboard."
    )
