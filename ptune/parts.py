r"""Parts: what a template is made of, once it has been read.

    {soft:3}   {bos}   Review :   {text}   It was   {mask}   {label}   {sep}
    Soft       Begin   Anchor     Field    Anchor   Mask     Label     Separator

`str(part)` gives the part as it is written in a template. Each part remembers where it stood
(`at`, not compared), so that an error can point to it.
Knows strings only. Next: `ptune.template` reads a template into parts.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from ptune.errors import TemplateError


@dataclass(frozen=True, slots=True)
class Anchor:
    """Text that is the same in every row."""

    text: str
    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True, slots=True)
class Soft:
    """A block of virtual tokens.

    Args:
        length: how many; None where the text decides, or an earlier block of the same name.
        text: what the block starts from; None for the initialisation of the recipe.
        name: blocks of one name are one block, standing at several places.
    """

    length: int | None = None
    text: str | None = None
    name: str | None = None
    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        length = "" if self.length is None else f"{self.length}"
        text = "" if self.text is None else '"' + _escape(self.text) + '"'
        name = "" if self.name is None else f"#{self.name}"
        inside = "=".join(filter(None, (length, text)))
        return f"{{soft{':' if inside else ''}{inside}{name}}}"


@dataclass(frozen=True, slots=True)
class Field:
    """A value of the row, `limit` tokens at most."""

    name: str
    limit: int | None = None
    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{{{self.name}}}" if self.limit is None else f"{{{self.name}:.{self.limit}}}"


@dataclass(frozen=True, slots=True)
class Mask:
    """Mask tokens, `count` in a row."""

    count: int = 1
    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return "{mask}" if self.count == 1 else f"{{mask*{self.count}}}"


@dataclass(frozen=True, slots=True)
class Label:
    """Where the label stands."""

    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return "{label}"


@dataclass(frozen=True, slots=True)
class Separator:
    """Where the first of two texts ends and the second begins."""

    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return "{sep}"


@dataclass(frozen=True, slots=True)
class Begin:
    """Where the tokenizer's opening special tokens stand; without it they come before all."""

    at: int = field(default=0, compare=False, repr=False)

    def __str__(self) -> str:
        return "{bos}"


Part: TypeAlias = Anchor | Soft | Field | Mask | Label | Separator | Begin


def fault(source: str, at: int, reason: str) -> TemplateError:
    """Return the error that points to the character `at` (from 0) of a template.

    Columns count from 1. Of a template with several lines, only the line in question is shown.

    >>> print(fault("{text} {label:2}", 7, "cannot read {label:2}. Write {label}."))
    template "{text} {label:2}", column 8: cannot read {label:2}. Write {label}.
    >>> print(fault("Say:\\n{text} {label:2}", 12, "cannot read {label:2}. Write {label}."))
    template line 2 "{text} {label:2}", column 8: cannot read {label:2}. Write {label}.
    """
    line = source.count("\n", 0, at)
    column = at - (source.rfind("\n", 0, at) + 1) + 1
    where = f"line {line + 1} " if "\n" in source else ""
    shown = source.split("\n")[line]
    return TemplateError(f'template {where}"{shown}", column {column}: {reason}')


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
