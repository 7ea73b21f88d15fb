"""Several sets of rows and one prompt, on the command line."""

import json

import pytest


@pytest.fixture(scope="module")
def sets(place):
    """Two recipes, each a set of rows."""
    text = (place / "recipe.yaml").read_text()
    for name in ("topic", "asks"):
        (place / f"{name}.yaml").write_text(text)
    return place / "topic.yaml", place / "asks.yaml"


def test_share_says_what_it_trains_on_and_what_came_out(ptune, sets, tmp_path):
    code, out, err = ptune("share", *sets, "max_steps=2", "--output", tmp_path / "both")
    assert code == 0, err
    told = " ".join(err.split())
    assert "16 (topic 8, asks 8) rows to train on, 4 (topic 2, asks 2) to validate, 64 tr" in told
    assert "(0.218 % of the backbone's)" in told
    assert "topic, test" in out
    assert "asks, validation" in out
    assert "2 steps in" in out
    assert (tmp_path / "both" / "asks" / "prompt" / "prompt.json").exists()


def test_share_prints_json_for_a_script(ptune, sets, tmp_path):
    code, out, err = ptune("share", *sets, "max_steps=2", "--output", tmp_path / "both", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["steps"] == 2
    assert set(told["scores"]) == {"topic", "asks"}
