"""Settings of a run: `Recipe` and what lists it.

    recipe.py    every key once: default, range, meaning       start here
    rules.py     which settings go together
    room.py      how much may be kept, and where
    reading.py   YAML files and key=value texts
    wording.py   from a declaration to sentences

Knows no torch, no model and no data: `ptune --help` starts without them.
"""

from ptune.config.reading import seeds_of
from ptune.config.recipe import (
    BY_METHOD,
    HEAD_LR,
    MethodDefaults,
    Recipe,
    settings_table,
)
from ptune.config.room import Room
from ptune.config.rules import ENCODERS_OF, METRICS_OF
from ptune.config.wording import SettingRow

__all__ = [
    "BY_METHOD",
    "ENCODERS_OF",
    "HEAD_LR",
    "METRICS_OF",
    "MethodDefaults",
    "Recipe",
    "Room",
    "SettingRow",
    "seeds_of",
    "settings_table",
]
