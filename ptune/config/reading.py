"""YAML files and `key=value` texts to settings, before they are checked.

    labels: [no, yes, 1.0]      -> {"labels": ["no", "yes", "1.0"]}   not False, True, 1
    lr=1e-3                     -> ("lr", "1e-3")                      made a number by its setting

Only null is special; every other plain word stays text, and the setting decides what it means.
YAML 1.1 would make `no` false and leave `1e-3` a text. Knows no setting by name but their kinds.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ptune.errors import ConfigError, did_you_mean

_NULL_TAG = "tag:yaml.org,2002:null"
_MOST_SEEDS = 1000
_SHOWN = 40
_NULLS = ("", "~", "null", "Null", "NULL")


class _TextLoader(yaml.SafeLoader):
    """A safe loader in which every plain word but null is text and no key stands twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag == _NULL_TAG]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: PyYAML would keep the last one in silence."""
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value} stands twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))  # a list as a key is refused below
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the settings of a recipe file.

    Raises:
        ConfigError: there is no such file, or it is not a YAML mapping in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        if "=" in path.name:
            raise ConfigError(
                f"{path}: is a setting, and the recipe that it changes comes first: ptune train "
                f"recipe.yaml {path}. A recipe is a YAML file, with the lines backbone and train "
                "at least; `ptune settings` lists what else it may say."
            ) from None
        near = did_you_mean(path.name, _neighbours(path))
        raise ConfigError(f"{path}: no such recipe in {path.parent.absolute()}.{near}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder. Name the YAML file in it.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8. Save the recipe as UTF-8."
        ) from None
    settings = _parse(text, str(path))
    if not isinstance(settings, dict | None):
        raise ConfigError(
            f"{path}: a recipe is lines of the form key: value; "
            f"this is a {'list' if isinstance(settings, list) else 'text'}."
        )
    return {str(key): value for key, value in (settings or {}).items()}


def override(text: str, structured: Mapping[str, bool]) -> tuple[str, Any]:
    """Split a `key=value` text; the value of a `structured` key that opens a bracket is YAML.

    A template opens with a brace as well, so the brackets alone do not tell.

    >>> override("template={soft:20}{text}", {"labels": True})
    ('template', '{soft:20}{text}')
    >>> override("labels=[no, 1]", {"labels": True})
    ('labels', ['no', '1'])

    Raises:
        ConfigError: there is no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"{text!r} is not of the form key=value, e.g. epochs=5.")
    if structured.get(key) and value.lstrip()[:1] in ("[", "{"):
        return key, _parse(value, f"{key}={value}")
    return key, None if value in _NULLS else value


def seeds_of(text: str) -> list[int]:
    """Read seeds: numbers and ranges.

    >>> seeds_of("0-3"), seeds_of("7"), seeds_of("0,5-6")
    ([0, 1, 2, 3], [7], [0, 5, 6])

    Raises:
        ConfigError: it is something else, names a seed twice, or more than 1,000 seeds.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", part)
        seeds = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if len(found) + len(seeds) > _MOST_SEEDS:  # before they are counted out
            raise ConfigError(
                f"--seeds {text[:_SHOWN]}: these are more than {_MOST_SEEDS:,} seeds. Give fewer, "
                "in several runs."
            )
        if not seeds or set(seeds) & set(found):
            raise ConfigError(
                f"--seeds {text[:_SHOWN]}: give different seeds, as numbers and ranges, "
                "e.g. 0-7 or 0,3,5."
            )
        found += seeds
    return found


def _parse(text: str, where: str) -> object:
    try:
        return yaml.load(text, Loader=_TextLoader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        spot = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{where}{spot}: not YAML: {error.problem}. "
            'A text with braces or a colon needs quotes, as in template: "{soft:20}{text}".'
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where}: not YAML: {' '.join(str(error).split())}.") from None


def _neighbours(path: Path) -> list[str]:
    """Return the names of the files beside a file that is not there."""
    return sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
