"""From the declaration of a setting to the sentences about it.

    lr: float | None = setting(None, "Largest step.", group="training", low=0.1, high=1.0)
    -> a number from 0.1 to 1.0, or null                     what is allowed
    -> lr = 7 is not allowed. Allowed: a number from 0.1 ...  what an error says

One declaration feeds the listing, the docs and the errors, so they cannot drift apart.
Knows pydantic's fields, not which settings there are.
"""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from ptune.errors import did_you_mean

_LONGEST_VALUE = 60
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class SettingRow(NamedTuple):
    """One line of `ptune settings`."""

    group: str
    key: str
    default: str
    allowed: str
    meaning: str


def setting(
    default: Any,
    meaning: str,
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    allowed: str | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Declare a setting once.

    Args:
        low, high: the inclusive range.
        allowed: what may stand there, in words, where the type says too little.
        choices: words to suggest for a misspelt one, where the type does not list them.
    """
    extra = {"group": group, "allowed": allowed, "low": low, "high": high, "choices": choices}
    nonempty = 1 if isinstance(default, str) else None
    return Field(
        default,
        description=meaning,
        ge=low,
        le=high,
        min_length=nonempty,
        json_schema_extra=extra,  # type: ignore[arg-type]  # pydantic's JSON type is invariant
    )


def word_or_path(value: str, words: Sequence[str]) -> str:
    """Refuse a word that is not known, so that a slip does not become the name of a folder."""
    if value not in words and not {"/", "\\"} & set(value):
        raise ValueError
    return value


def at_home(value: object) -> object:
    """A path with `~` written out: not every part of a program reads it so."""
    if isinstance(value, str) and (value == "~" or value.startswith(("~/", "~\\"))):
        return str(Path(value).expanduser())
    return value


def as_written(value: object) -> object:
    """Refuse a set: its order changes from run to run."""
    if isinstance(value, set | frozenset):
        raise ValueError
    return value


def row(key: str, field: FieldInfo) -> SettingRow:
    """Return the line of the listing for a setting."""
    group = _extra(field)["group"]
    return SettingRow(group, key, show(field.default), allowed(field), field.description or "")


def refusal(key: str, value: object, fields: dict[str, FieldInfo]) -> str:
    """Say that a key is unknown, or which values it takes."""
    if key not in fields:
        near = did_you_mean(key, list(fields))
        return f"unknown key {key}.{near} `ptune settings` lists all keys."
    field = fields[key]
    near = ""
    if isinstance(value, str):
        listed = [c for kind in _kinds(field) for c in get_args(kind) if isinstance(c, str)]
        near = did_you_mean(value, listed or list(_extra(field)["choices"]))
    said = f"{key} = {show(value)} is not allowed. Allowed: {allowed(field)}.{near}"
    return f"{said} Meaning: {field.description}"


def absent(key: str, fields: dict[str, FieldInfo]) -> str:
    """Say that a key has no value but needs one."""
    meaning = fields[key].description
    return (
        f"{key} is missing. Write {key}: in the recipe, or {key}=... behind it. Meaning: {meaning}"
    )


def together(sentences: Sequence[str]) -> str:
    """Join mistakes: one stands alone, several become a list."""
    if len(sentences) == 1:
        return sentences[0]
    return "\n  - ".join([f"{len(sentences)} mistakes:", *sentences])


def show(value: object) -> str:
    """Write a value as a recipe would, on one line.

    >>> show(None), show(True), show(""), show("a"), show((1, 2))
    ('null', 'true', '""', 'a', '[1, 2]')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(show(part) for part in value)}]"
    elif isinstance(value, dict):
        text = f"{{{', '.join(f'{show(k)}: {show(v)}' for k, v in value.items())}}}"
    else:
        text = str(value) or '""'
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def allowed(field: FieldInfo) -> str:
    """Say in words what the type and the range of a setting let through."""
    kind = _kinds(field)[0]
    words = _extra(field)["allowed"]
    if words is None and get_origin(kind) is Literal:
        words = f"one of {', '.join(get_args(kind))}"
    elif words is None and get_origin(kind) is not None:
        words = "a list of texts" if get_origin(kind) is tuple else "a mapping from text to text"
    elif words is None:
        words = _KINDS[kind] + _range(**_extra(field))
    return words + (", or null" if NoneType in get_args(field.annotation) else "")


def takes_yaml(field: FieldInfo) -> bool:
    """Tell whether a setting may be a list or a mapping."""
    return any(get_origin(kind) in (tuple, dict) for kind in _kinds(field))


def _extra(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "settings are declared with setting()"
    return field.json_schema_extra


def _kinds(field: FieldInfo) -> list[Any]:
    """Return the members of a union, or the type alone; without None."""
    union = get_origin(field.annotation) in (Union, UnionType)
    kinds = get_args(field.annotation) if union else (field.annotation,)
    return [kind for kind in kinds if kind is not NoneType]


def _range(low: float | None, high: float | None, **_: object) -> str:
    if low is None:
        return ""
    return f", {low} or more" if high is None else f" from {low} to {high}"
