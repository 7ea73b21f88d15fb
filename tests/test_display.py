"""What the command line shows: a user's text as it is, names whole."""

from pathlib import Path

import pytest
from prompts import make

from ptune import display
from ptune.config import settings_table
from ptune.config.presets import presets
from ptune.training import Result
from ptune.training.schedule import Plan


@pytest.fixture
def shown(capsys, monkeypatch):
    """What is shown on a terminal of 80 columns."""
    monkeypatch.setattr(display.console, "width", 80)

    def call(show, *arguments):
        show(*arguments)
        return capsys.readouterr().out

    return call


def result(scores):
    return Result(make(), scores, 2, 1.0, {})


def test_brackets_in_a_prompt_are_shown_as_they_are(shown):
    template = "[b]Text[/b] [one] {text}[/INST] :smile:"
    out = shown(
        display.show_summary,
        {
            "template": template,
            "labels": ["[/bold]", "[red]"],
            "scores": {"test": {"[/x]/f1": 1.0}},
            "norms": [1.0],
            "nearest tokens": ["'[/INST]' 0.99"],
        },
    )
    assert template in out
    assert "[/bold], [red]" in out
    assert "[/x]/f1: 1" in out
    assert "'[/INST]' 0.99" in out


def test_brackets_in_the_name_of_a_score_or_a_split_are_shown_as_they_are(shown):
    out = shown(display.show_scores, {"[/test]": {"f1": 0.5, "B-[/x]/f1": 0.25}})
    assert "[/test], B-[/x]" in out
    assert "25.0 %" in out


def test_brackets_beside_the_progress_bar_are_shown_as_they_are(capsys):
    with display.watching_all(["[/seed]"]) as (bar,):
        bar._bar.start()
        bar._bar.add_task("[/seed]", total=1, loss="", score="[/x] 1")
    said = capsys.readouterr().err
    assert "[/seed]" in said
    assert "[/x] 1" in said


@pytest.mark.parametrize(
    ("metric", "said"),
    [("exact_match", "exact_match 20.0 %"), (None, "f1 40.0 %"), ("loss", "loss 1.5")],
)
def test_the_score_beside_the_bar_is_the_one_that_chooses_the_step(metric, said):
    plan = Plan.make(4, rows_per_step=2, epochs=1, max_steps=None, seed=0)
    facts = {"backbone": "b", "training rows": 4, "validation rows": 2, "metric": metric}
    facts |= {"trained parameters": 8, "trained share": 0.1}
    with display.watching_all(["run"]) as (bar,):
        bar.on_start(plan, facts)
        bar.on_scores(1, plan, {"loss": 1.5, "f1": 0.4, "exact_match": 0.2})
        assert bar._scores == said


def test_the_names_of_presets_and_settings_are_whole_in_80_columns(shown):
    out = shown(display.show_presets, list(presets().values()))
    assert all(f"│ {name} " in out for name in presets())
    assert "…" not in out
    out = shown(display.show_settings, settings_table())
    assert all(f"│ {row.key} " in out for row in settings_table())
    assert "…" not in out


def test_scores_that_do_not_fit_beside_each_other_stand_below_each_other(shown):
    names = ["loss", "answerable_f1", "answerable_exact_match", "unanswerable_accuracy", "best_f1"]
    out = shown(display.show_scores, {"test": dict.fromkeys(names, 0.5)})
    assert [line.split()[1] for line in out.splitlines() if line.startswith("│")] == names
    assert "…" not in out


def test_scores_that_fit_stand_beside_each_other(shown):
    out = shown(display.show_scores, {"validation": {"f1": 0.5}, "test": {"f1": 0.25}})
    lines = [line.split() for line in out.splitlines() if line.startswith("│")]
    assert [line[1] for line in lines] == ["validation", "test"]


def test_the_scores_of_seeds_that_do_not_fit_stand_below_each_other(shown):
    row = {"answerable_exact_match": 0.5, "unanswerable_accuracy": 0.5, "best_f1": 0.5}
    scored = [result({"test": row}), result({"test": row})]
    out = shown(display.show_replicas, ["seed-0", "seed-1"], scored, Path("runs"))
    assert all(f"│ {name} " in out for name in row)
    assert "seed-1 ┃ mean   ┃ deviation" in out
    assert "…" not in out
