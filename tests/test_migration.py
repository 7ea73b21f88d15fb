"""The pairs of docs/migration.md: each side is accepted by its library."""

import re
from pathlib import Path

import peft
import pytest
import yaml

from ptune.config import Recipe
from ptune.parts import Soft
from ptune.template import Template

PAGE = Path(__file__).resolve().parents[1] / "docs" / "migration.md"


def pairs():
    table = PAGE.read_text(encoding="utf-8").split("<!-- pairs -->\n")[1].split("\n\n")[0]
    cells = [re.findall(r"`([^`]+)`", row) for row in table.splitlines()[2:]]
    return [(own[0], own[1:]) for own in cells]


PAIRS = pairs()


def test_there_are_pairs():
    assert len(PAIRS) == 8


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_both_sides_of_a_pair_ask_for_the_same_prompt(theirs, ours):
    config = eval(theirs, vars(peft) | {"base": "ptune-tiny"})
    settings = yaml.safe_load("\n".join(ours))
    recipe = Recipe.make(backbone="ptune-tiny", train="train.csv", **settings)
    assert recipe.method in (
        {"PREFIX_TUNING": ["p-tuning-v2"], "P_TUNING": ["p-tuning"]}.get(config.peft_type.value)
        or ["prompt-tuning"]
    )
    parts = Template.parse(recipe.template).parts
    slots = [part.length for part in parts if isinstance(part, Soft)]
    length = sum(slots) if slots else recipe.prompt_length
    assert length == config.num_virtual_tokens
