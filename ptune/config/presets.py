"""Presets: the run tables of the papers, by name.

    preset: p-tuning-v2/rte-roberta-large       backbone, template, lr, length, epochs, seed, ...
    lr: 1e-2                                    what the recipe says itself goes before

The tables are data (`presets.yaml`): each run with the score that its authors published, each
source with what is different here. Knows no rule about settings; a recipe checks what comes out.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ptune.config.reading import read_yaml
from ptune.errors import ConfigError, did_you_mean

_FILE = Path(__file__).with_name("presets.yaml")


class Preset(NamedTuple):
    """One run of a paper's table.

    Args:
        source: where settings and score come from.
        differs: what ptune does otherwise than that code.
        published: score by name, 0 .. 1.
        settings: keys of a recipe.
    """

    name: str
    source: str
    differs: str
    published: Mapping[str, float]
    settings: Mapping[str, Any]


@cache
def presets() -> Mapping[str, Preset]:
    """Every preset by its name.

    >>> presets()["p-tuning-v2/rte-roberta-large"].settings["prompt_length"]
    '128'
    """
    found = {}
    for group, table in read_yaml(_FILE).items():
        for run, own in table["runs"].items():
            name = f"{group}/{run}"
            found[name] = Preset(
                name,
                table["source"],
                table["differs"],
                {metric: float(score) for metric, score in own["published"].items()},
                {**table["settings"], **own["settings"]},
            )
    return found


def preset_settings(name: str) -> Mapping[str, Any]:
    """The settings of a preset.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in presets():
        near = did_you_mean(name, list(presets()))
        raise ConfigError(f"preset = {name} is unknown.{near} `ptune presets` lists all of them.")
    return presets()[name].settings
