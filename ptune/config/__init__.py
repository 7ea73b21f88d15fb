"""Settings of a run: `Recipe` and what lists it.

    recipe.py    all keys together, checked                    start here
    settings/    every key once: default, range, meaning
    rules/       which settings go together
    room.py      how much may be kept, and where
    reading.py   YAML files and key=value texts
    wording.py   from a declaration to sentences

Knows no torch, no model and no data: `ptune --help` starts without them.
"""

from ptune.config.reading import seeds_of
from ptune.config.recipe import (
    BY_METHOD,
    MethodDefaults,
    Recipe,
    settings_table,
)
from ptune.config.room import Room
from ptune.config.rules import (
    ENCODERS_OF,
    METRICS_OF,
    OF_TASK,
    TRAINED_HEAD,
    kind_of,
    trains_head,
)
from ptune.config.settings.training import HEAD_LR
from ptune.config.wording import SettingRow

__all__ = [
    "BY_METHOD",
    "ENCODERS_OF",
    "HEAD_LR",
    "METRICS_OF",
    "OF_TASK",
    "TRAINED_HEAD",
    "MethodDefaults",
    "Recipe",
    "Room",
    "SettingRow",
    "kind_of",
    "seeds_of",
    "settings_table",
    "trains_head",
]
