"""The cache of tokenised rows: a large file of rows is tokenised once, and mapped from then on.

    ~/.cache/ptune/9f2c4e....safetensors      the arrays of `ptune.tasks.flat`, and their hash
    \\_ cache ___/ \\_ all that decides _/
                     what is in it

The name is a hash of the rows, their answers, the template as it was bound, the tokenizer, the task
and ptune's own code that turns rows into examples: a file of that name is the right one, or it is
damaged. What is damaged is told and made anew; where nothing can be written, a run goes on without.

Rows of less text than `LEAST_CHARACTERS` are tokenised every time: that is as fast. Files that were
not used for longest are removed when all of them together pass `MOST_BYTES`. The folder may be
deleted at any time.

Knows rows, tasks and files; no training. Next: `ptune.training.loop` picks the rows of a step.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.data import Rows, sift
from ptune.errors import DataError
from ptune.tasks import Answer, Example, Marks, Task, TaskOptions
from ptune.tasks.flat import FlatExamples
from ptune.training.rows import RunRows, answers_in

# Two thousand sentences: a tenth of a second of tokenising, a hundredth of reading what is kept.
LEAST_CHARACTERS = 100_000
# Of all files in the folder.
MOST_BYTES = 4 * 2**30
# Rows that are encoded at once, so that few examples are in memory as objects.
PART = 4096
# What an interrupted write left is removed after this time.
STALE_S = 3600.0

# Rows, and their answers, to examples: `Task.examples` or `Task.training_examples`.
Encode = Callable[[Rows, Sequence[Answer]], Sequence[Example]]


class Cache:
    """Examples of large files of rows, kept between runs.

    Args:
        folder: where; None keeps nothing.
        key: all that decides how rows are encoded, beside the rows; None where that is not known.
        fields: the columns that are encoded.
    Attributes:
        notes: sentences that the user should read.
    """

    def __init__(self, folder: Path | None, key: str | None, fields: Sequence[str]) -> None:
        self.notes: list[str] = []
        self._folder = None if key is None else folder
        self._key = key
        self._fields = tuple(fields)

    def examples(
        self, encode: Encode, rows: Rows, answers: Sequence[Answer], *, kind: str
    ) -> Sequence[Example]:
        """What `encode` makes of the rows, from the cache where it is there.

        Args:
            kind: "training" or "evaluation": a task encodes the same rows otherwise.
        Raises:
            DataError: a row cannot be encoded.
        """
        name, characters = self._identify(rows, answers, kind)
        if characters < LEAST_CHARACTERS:
            return encode(rows, answers)
        path = None if self._folder is None else self._folder / f"{name}.safetensors"
        found = None if path is None else self._load(path)
        if found is None:
            found = FlatExamples.of(_in_parts(encode, rows, answers))
            if path is not None:
                self._save(path, found.tensors)
        return found

    def _identify(self, rows: Rows, answers: Sequence[Answer], kind: str) -> tuple[str, int]:
        """A hash of all that decides what the examples are, and how much text the rows are."""
        digest = hashlib.sha256(f"{kind} {self._key}".encode())
        characters = 0
        for start in range(0, len(rows), PART):
            part = [
                [row.get(field) for field in self._fields] for row in rows[start : start + PART]
            ]
            text = json.dumps([part, answers[start : start + PART]], default=repr)
            digest.update(text.encode())
            characters += len(text)
        return digest.hexdigest()[:40], characters

    def _load(self, path: Path) -> FlatExamples | None:
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                said = (file.metadata() or {}).get("sha256")
        except (SafetensorError, OSError, ValueError, RuntimeError):
            said, tensors = None, {}
        if said != _hash(tensors):
            self.notes.append(f"{path}: is damaged; its rows were tokenised anew.")
            return None
        with suppress(OSError):  # a folder that is only read
            os.utime(path)  # used now: removed last
        return FlatExamples(tensors)

    def _save(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensors), aside, metadata={"sha256": _hash(tensors)})
            aside.replace(path)
        except (OSError, SafetensorError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            self.notes.append(
                f"{path.parent}: tokenised rows cannot be kept there ({reason}), so every run "
                "tokenises them anew. Name another folder with cache, or set cache: off."
            )
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        with suppress(OSError):
            _trim(path.parent)


class Encoded(NamedTuple):
    """The rows of a run as examples, sentences that the user should read, and the rows."""

    training: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    notes: list[str]
    data: RunRows


def encode_rows(recipe: Recipe, backbone: Backbone, task: Task, data: RunRows) -> Encoded:
    """All rows of a run as examples, from the recipe's cache where they are there.

    A row that cannot be encoded, as one that is too long, is left out where the recipe says so.

    Raises:
        DataError: a row cannot be encoded.
    """
    marks = Marks.of(recipe.to_dict())
    folder = default_folder() if recipe.cache == "auto" else Path(recipe.cache).expanduser()
    cache = Cache(
        None if recipe.cache == "off" else folder,
        encoding_key(recipe, backbone, task),
        (*data.template.fields, *marks.columns),
    )
    notes: list[str] = []

    def encoded(
        encode: Encode, rows: Rows | None, kind: str
    ) -> tuple[Sequence[Example], Rows | None]:
        if rows is None:
            return (), None
        try:
            return cache.examples(encode, rows, answers_in(recipe, rows), kind=kind), rows
        except DataError:
            if recipe.bad_rows != "skip":
                raise
        kept = sift(rows, lambda some: encode(some, answers_in(recipe, some)), skip=True)
        notes.extend(kept.notes)
        answers = answers_in(recipe, kept.rows)
        return cache.examples(encode, kept.rows, answers, kind=kind), kept.rows

    def scored(rows: Rows, answers: Sequence[Answer]) -> list[Example]:
        return marks.on(task.examples(rows, answers), rows)

    training, train = encoded(task.training_examples, data.train, "training")
    validation, held_out = encoded(scored, data.validation, "evaluation")
    test, last = encoded(scored, data.test, "evaluation")
    used = replace(data, train=train or data.train, validation=held_out, test=last)
    return Encoded(training, validation, test, cache.notes + notes, used)


def default_folder() -> Path:
    """`$PTUNE_CACHE`, or ptune's own folder in the user's cache."""
    own = os.environ.get("PTUNE_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{users}/ptune").expanduser()


def encoding_key(recipe: Recipe, backbone: Backbone, task: Task) -> str | None:
    """All that decides how rows are encoded, beside the rows; None where a tokenizer hides it."""
    written = getattr(getattr(backbone.tokenizer, "backend_tokenizer", None), "to_str", None)
    if written is None:  # a tokenizer in Python: its code decides, and that has no hash
        return None
    options = asdict(TaskOptions.of(recipe.to_dict(), labels=task.labels))
    # What tasks ask of the backbone itself, beside its tokenizer.
    asked = (backbone.pooling, backbone.geometry.causal, backbone.geometry.two_sided)
    parts = [
        written(),
        backbone.fingerprint["tokenizer"],
        task.layout.key,
        json.dumps([recipe.task, options, task.room, *asked, Marks.of(recipe.to_dict()).columns]),
        _code(),
        *_versions(),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@cache
def _versions() -> tuple[str, str]:
    return version("tokenizers"), version("transformers")


@cache
def _code() -> str:
    """A hash of the code that makes examples: another ptune may make others."""
    package = files("ptune")
    names = [
        "windows.py",
        "layout.py",
        "values.py",
        "spelling.py",
        "parts.py",
        "template.py",
        "verbalizer.py",
    ]
    folders = ("batch", "tasks")
    tasks = sorted(f"{name}/{one.name}" for name in folders for one in (package / name).iterdir())
    digest = hashlib.sha256()
    for name in (*names, *(name for name in tasks if name.endswith(".py"))):
        digest.update((package / name).read_bytes())
    return digest.hexdigest()


def _in_parts(encode: Encode, rows: Rows, answers: Sequence[Answer]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(rows), PART):
        yield encode(rows[start : start + PART], answers[start : start + PART])


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {len(tensor)} ".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def _trim(folder: Path) -> None:
    """Remove what was not used for longest, and what interrupted writes left."""
    kept = [(one.stat(), one) for one in folder.glob("*.safetensors")]
    total = 0
    for status, one in sorted(kept, key=lambda pair: -pair[0].st_mtime):
        total += status.st_size
        if total > MOST_BYTES:
            one.unlink(missing_ok=True)
    for aside in folder.glob(".*.safetensors.*"):
        if aside.stat().st_mtime < time.time() - STALE_S:
            aside.unlink(missing_ok=True)
