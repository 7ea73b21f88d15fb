r"""Facts of relations: where they lie, and how they are split.

    trex/P19/{train,dev,test}.jsonl     a folder a relation (AutoPrompt's, as P-tuning used it)
    trex/P19.jsonl                      a file a relation (LPAQA's)
    trex/relations.jsonl                LAMA's manual templates, for both
    facts.jsonl                         one file, with a column for the relation

A file that is missing of the three is drawn from train by seed: test first, then dev. A relation is
read when its turn comes, so that a mistake in its file is its own failure and no other's.

Knows rows; no template language, no model. Next: `relations.py` probes one relation after another.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ptune.data import Rows, load_rows, split_rows
from ptune.errors import ConfigError, DataError, did_you_mean
from ptune.values import text_of

TEMPLATES = "relations.jsonl"
_SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns in the files; the defaults are LAMA's."""

    subject: str = "sub_label"
    object: str = "obj_label"
    relation: str = "relation"


@dataclass(frozen=True, slots=True)
class Shares:
    """What is held out where there is no file for it: shares of the rows, 0 .. 1, and the seed."""

    validation: float
    test: float
    seed: int


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one relation; rows have the fields `subject` and `object`."""

    train: Rows
    validation: Rows | None
    test: Rows

    def fingerprint(self) -> str:
        """Hash of subjects and objects, by which a result knows its facts."""
        parts = [
            None if rows is None else [[row["subject"], row["object"]] for row in rows]
            for rows in (self.train, self.validation, self.test)
        ]
        text = json.dumps(parts, ensure_ascii=False, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class FactSet:
    """Relations by name, each with its rows or the files of its splits.

    Args:
        source: as the user wrote it.
        places: relation -> its rows, or split -> file.
        templates: relation -> LAMA's template, as "[X] was born in [Y] .".
    """

    source: str
    places: Mapping[str, Rows | Mapping[str, Path]]
    columns: Columns = Columns()
    templates: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The relations in the order of the files."""
        return tuple(self.places)

    def chosen(self, names: Sequence[str]) -> tuple[str, ...]:
        """The relations that are asked for; all where none is named.

        Raises:
            ConfigError: one is unknown.
        """
        for name in names:
            if name not in self.places:
                near = did_you_mean(name, list(self.places))
                raise ConfigError(
                    f"{self.source}: there is no relation {name}.{near} "
                    f"It has: {', '.join(self.places)}."
                )
        return tuple(dict.fromkeys(names)) or self.names

    def read(self, name: str, shares: Shares) -> Facts:
        """The facts of a relation, split.

        Raises:
            DataError: a file cannot be read, lacks a column or a value, or is too small to split;
                or the relation's name cannot be that of its folder in the output.
        """
        if Path(name).name != name or name == ".." or not name.isprintable():
            raise DataError(
                f"{self.source}: relation {name!r} cannot be the name of a folder, where its "
                "prompt would lie. Rename it, without slashes."
            )
        place = self.places[name]
        found = (
            {"train": place}
            if isinstance(place, Rows)
            else {split: load_rows(path) for split, path in place.items()}
        )
        rows = {split: self._with_names(one) for split, one in found.items()}
        train = rows.get("train")
        if train is None:
            raise DataError(
                f"{self.source}: relation {name} has no train.jsonl. Add it, or probe with a file "
                "a relation."
            )
        test = rows.get("test")
        if test is None:
            split = split_rows(
                train, shares.test, shares.seed, name="--test-share", instead="add a test.jsonl"
            )
            train, test = split.train, split.held_out
        validation = rows.get("dev")
        if validation is None and shares.validation > 0:
            split = split_rows(train, shares.validation, shares.seed, instead="add a dev.jsonl")
            train, validation = split.train, split.held_out
        return Facts(train, validation, test)

    def _with_names(self, rows: Rows) -> Rows:
        _texts(rows, self.columns.subject, "subject")
        _texts(rows, self.columns.object, "object")
        names = {"subject": self.columns.subject, "object": self.columns.object}
        return rows.with_fields(names)


def find_facts(
    source: str | Path, columns: Columns | None = None, templates: str | Path | None = None
) -> FactSet:
    """Find the relations of a data set.

    Args:
        source: a folder or a file, as in the head of this module.
        templates: file of LAMA's manual templates; None takes relations.jsonl of the folder.
    Raises:
        DataError: nothing is there that could be a relation, a folder stands where a file should,
            or a relation has two templates.
    """
    columns, path = columns or Columns(), Path(source)
    places = _in_folder(path) if path.is_dir() else _in_file(path, columns)
    own = path / TEMPLATES
    file = Path(templates) if templates is not None else own if own.is_file() else None
    return FactSet(str(source), places, columns, {} if file is None else _read_templates(file))


def _in_folder(folder: Path) -> Mapping[str, Rows | Mapping[str, Path]]:
    splits = {
        inside.name: {
            split: inside / f"{split}.jsonl" for split in _SPLITS if _is_there(inside, split)
        }
        for inside in sorted(folder.iterdir())
        if inside.is_dir()
    }
    places: dict[str, Rows | Mapping[str, Path]] = {
        n: files for n, files in splits.items() if files
    }
    if not places:
        files = sorted(p for p in folder.glob("*.jsonl") if p.name != TEMPLATES)
        places = {file.stem: {"train": file} for file in files}
    if not places:
        raise DataError(
            f"{folder}: holds no relation. A relation is a folder with train.jsonl, dev.jsonl and "
            "test.jsonl, or a file NAME.jsonl."
        )
    return places


def _is_there(folder: Path, split: str) -> bool:
    file = folder / f"{split}.jsonl"
    if file.is_dir():
        raise DataError(
            f"{file}: is a folder, where the facts of a relation should be a file. Put the file "
            "in its place, or rename the folder."
        )
    return file.is_file()


def _in_file(path: Path, columns: Columns) -> Mapping[str, Rows]:
    rows = load_rows(path)
    if columns.relation not in rows.columns:
        raise DataError(
            f"{path}: there is no column {columns.relation} that says which relation a fact is of. "
            f"Columns: {', '.join(rows.columns)}. Name it with --relation-column."
        )
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(_texts(rows, columns.relation, "relation")):
        indices.setdefault(name, []).append(index)
    return {name: rows.take(own) for name, own in indices.items()}


def _read_templates(file: Path) -> dict[str, str]:
    """LAMA's template of each relation; two of one relation are refused."""
    rows = load_rows(file)
    names = _texts(rows, "relation", "relation")
    for index, name in enumerate(names):
        first = names.index(name)
        if first != index:
            raise DataError(
                f"{rows.where(index)}: relation {name} has a template in {rows.where(first)} "
                "already. Keep one of them."
            )
    return dict(zip(names, _texts(rows, "template", "template"), strict=True))


def _texts(rows: Rows, column: str, what: str) -> list[str]:
    """What stands in a column.

    Raises:
        DataError: there is no such column, or a row holds no text or number there, or a blank one.
    """
    for index, value in enumerate(rows.column(column)):
        if value is None or not str(value).strip():
            raise DataError(
                f"{rows.where(index)}: column {column} holds no {what}. Give one, or delete the "
                "row."
            )
    return [text_of(rows, index, column) for index in range(len(rows))]
