"""Errors: one tree; every message says where, what was found, what is allowed, what to do.

    PtuneError
    ├── ConfigError      a recipe key or an argument
    ├── TemplateError    a template; shows the template and the column
    ├── DataError        a file or a row
    ├── BackboneError    a model that cannot be loaded, probed or used for this
    │   ├── ArchitectureError    of a kind that ptune cannot reach
    │   └── NotLoadedError       not there, or not to be read
    ├── ArtifactError    a prompt file that is damaged, foreign or made for another backbone
    └── TrainingError    a run that diverged or cannot go on

Each is also the builtin that a caller would expect, so `except ValueError` keeps working.
The command line prints the message alone and exits with status 1; a traceback is a bug of ours.
"""

import difflib


class PtuneError(Exception):
    """Something that the user can mend; the message says how."""


class ConfigError(PtuneError, ValueError):
    """A setting is unknown, out of range, or does not go with another one."""


class TemplateError(PtuneError, ValueError):
    """A template cannot be read, or does not fit the rows, the task or the tokenizer."""


class DataError(PtuneError, ValueError):
    """A file or a row cannot be used."""


class BackboneError(PtuneError, RuntimeError):
    """A model cannot be loaded, or cannot carry what was asked of it."""


class ArchitectureError(BackboneError):
    """A model is of a kind that ptune cannot reach (yet)."""


class NotLoadedError(BackboneError):
    """A model is not where it was looked for, or its files cannot be read."""


class ArtifactError(PtuneError, ValueError):
    """A prompt file is missing, damaged, foreign, or belongs to another backbone."""


class TrainingError(PtuneError, RuntimeError):
    """Training stopped and cannot go on by itself."""


def did_you_mean(word: str, known: list[str]) -> str:
    """Return " Did you mean X?" for the nearest known word, or an empty string.

    >>> did_you_mean("tempalte", ["template", "task"])
    ' Did you mean template?'
    >>> did_you_mean("zzz", ["template", "task"])
    ''
    """
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
