"""What travels with ptune: a small model, 400 labelled messages, and the recipe that joins them.

the model       Backbone.load("ptune-tiny"): by this name everywhere
the messages    folder() / "train.csv", "test.csv"; DATA.md and ptune-tiny/README.md say more
"""

from importlib.resources import files
from pathlib import Path

MODEL = "ptune-tiny"


def folder() -> Path:
    """Where the demo's files lie."""
    return Path(str(files("ptune.demo")))


def resolve(name: str) -> str:
    """The folder of the embedded model for its name; any other name as it is."""
    return str(folder() / MODEL) if name == MODEL else name
