"""The public names: those that are documented, no more, no less, and none of them costs torch."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ptune

ROOT = Path(__file__).resolve().parents[1]


def documented() -> set[str]:
    """The names in the README's table, behind its marker."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- names -->\n")[1]
    rows = re.findall(r"^\| (`.*?) \|", table.split("\n\n")[0], re.M)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_public_names_are_the_documented_ones():
    assert set(ptune.__all__) == documented() | {"__version__"}


def test_the_public_names_are_sorted_and_stand_once():
    assert ptune.__all__ == sorted(set(ptune.__all__), key=lambda name: (name.islower(), name))


@pytest.mark.parametrize("name", ptune.__all__)
def test_every_public_name_loads(name):
    assert getattr(ptune, name) is not None
    assert name in dir(ptune)


def test_every_public_name_says_what_it_is():
    undocumented = [
        name for name in ptune.__all__ if name != "__version__" and not getattr(ptune, name).__doc__
    ]
    assert undocumented == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'ptune' has no attribute 'tune'$"):
        _ = ptune.tune


def test_the_names_of_the_encoders_load():
    encoders = importlib.import_module("ptune.encoders")
    assert all(hasattr(encoders, name) for name in encoders.__all__)


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh Python has loaded."""
    heavy = "{'torch', 'transformers', 'datasets', 'accelerate', 'sklearn'}"
    show = f"import sys; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {show}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import ptune",
        "import ptune; dir(ptune)",
        "from ptune import PtuneError, Recipe, Template",
        "import ptune.cli",
        "import ptune.config; ptune.config.settings_table()",
    ],
)
def test_names_that_need_no_torch_load_none(code):
    assert loaded_after(code) == set()


def test_the_check_for_torch_would_find_it():
    assert "torch" in loaded_after("from ptune import PromptTensors")
