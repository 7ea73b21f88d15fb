"""What of a document may leave the user's machine, and in which form JSON can carry it.

    /home/ann/runs/late  ->  ./late         names of folders tell who and where
    nan                  ->  null           JSON has no word for it

Knows plain data only.
"""

from collections.abc import Mapping
from math import isfinite, nan
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

# Texts of a recipe, which may begin with a slash and yet be no path.
_TEXTS = ("template", "init_text", "labels", "verbalizer")


def portable(value: Any) -> Any:
    """Make plain JSON of a setting, and take the user's folders out of it.

    >>> portable({"output": "/home/ann/runs/late", "lr": 0.1, "template": "/ {text}"})
    {'output': './late', 'lr': 0.1, 'template': '/ {text}'}
    """
    if isinstance(value, Mapping):
        return {str(k): v if k in _TEXTS else portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return _short(str(value)) if isinstance(value, str | Path) else value


def _short(text: str) -> str:
    """Keep the name alone of a path that would tell where the user's files lie."""
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    if absolute or text.startswith(("~", "file:")):
        return f"./{PureWindowsPath(text).name}"  # splits at both kinds of slash
    return text


def model_name(name: str) -> str:
    """A backbone's name such that no folder is taken for a model of the hub."""
    short = _short(name)
    is_folder = short == name and not name.startswith(".") and Path(name).is_dir()
    return f"./{name}" if is_folder else short


def without_nan(scores: Any) -> Any:
    """JSON has no word for a number that is undefined (a correlation of constants): null."""
    if isinstance(scores, Mapping):
        return {str(name): without_nan(score) for name, score in scores.items()}
    return None if isinstance(scores, float) and not isfinite(scores) else scores


def with_nan(scores: Any) -> Any:
    """Scores as they were before `without_nan`."""
    if isinstance(scores, Mapping):
        return {name: with_nan(score) for name, score in scores.items()}
    return nan if scores is None else scores
