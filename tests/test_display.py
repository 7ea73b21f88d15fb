"""What the command line shows: a user's text as it is, names whole."""

import pytest

from ptune import display


@pytest.fixture
def shown(capsys, monkeypatch):
    """What is shown on a terminal of 80 columns."""
    monkeypatch.setattr(display.console, "width", 80)

    def call(show, *arguments):
        show(*arguments)
        return capsys.readouterr().out

    return call


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
