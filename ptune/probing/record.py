r"""The record of a probing run: what is done, kept in one file, so that a stopped run goes on.

    runs/probe/probe.json
    {"protocol": "...",
     "methods": {"manual": {"settings": {...}, "relations": {"P19": {"scores": ...}, ...}}}}

Written aside and renamed after every relation: it is there whole or as it was. A relation counts as
done where its facts and its manual template are what they were; a failed one is tried again.
Results made with other settings are never mixed with new ones: that is refused.

Knows names and numbers; no model.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ptune.config.wording import show
from ptune.errors import ConfigError
from ptune.writing import write_text

# Of all relations at once, some of which may have no dev facts; `manual` chooses nothing.
PROTOCOL = (
    "strict: the step was chosen on the validation rows (where there are none, the last one is "
    "kept), the test rows scored once."
)
FILE = "probe.json"
SCORES = ("p_at_1", "p_at_10", "mrr")

# What is kept of one relation: "scores" or "error", counts, template, and "key", the hash of its
# facts.
Entry = Mapping[str, Any]


class Record:
    """The results in an output folder.

    Raises:
        ArtifactError, ConfigError: the folder cannot be written to, or its file is no record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._methods: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._methods = _read(self.path)
        else:
            self._write()

    def begin(self, method: str, settings: Mapping[str, Any]) -> None:
        """Take up a method.

        Raises:
            ConfigError: the results that are there were made with other settings.
        """
        settings = json.loads(json.dumps(settings))
        known = self._methods.setdefault(method, {"settings": settings, "relations": {}})
        changed = [
            f"{key}: {show(known['settings'].get(key))}, not {show(settings.get(key))}"
            for key in sorted(known["settings"].keys() | settings.keys())
            if known["settings"].get(key) != settings.get(key)
        ]
        if changed:
            raise ConfigError(
                f"{self.path}: its results of method {method} were made with other settings "
                f"({'; '.join(changed)}). Name another folder with --output."
            )

    def done(self, method: str, relation: str, key: str) -> bool:
        """Whether a relation needs no further work; `key` is the hash of its facts."""
        entry = self._methods[method]["relations"].get(relation, {})
        return "scores" in entry and entry.get("key") == key

    def add(self, method: str, relation: str, entry: Entry) -> None:
        """Keep the result of a relation, at once."""
        self._methods[method]["relations"][relation] = dict(entry)
        self._write()

    def results(
        self, methods: Sequence[str], relations: Sequence[str]
    ) -> dict[str, dict[str, Entry]]:
        """Method -> relation -> entry, of those that are there."""
        found = {method: self._methods[method]["relations"] for method in methods}
        return {
            method: {name: entries[name] for name in relations if name in entries}
            for method, entries in found.items()
        }

    def _write(self) -> None:
        kept = {"protocol": PROTOCOL, "methods": self._methods}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.path.parent}: cannot be made ({error.strerror}). Choose another place for "
                "--output."
            ) from None
        write_text(self.path, json.dumps(kept, ensure_ascii=False, indent=1) + "\n")


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        methods: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["methods"]
        for method in methods.values():
            dict(method["settings"]), dict(method["relations"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{path}: is no record of ptune probe. Name another folder with --output."
        ) from None
    return methods


def means_of(entries: Mapping[str, Entry]) -> dict[str, float]:
    """The mean of each score over the relations that have scores, each relation counted alike.

    >>> means_of({"P1": {"scores": {"p_at_1": 0.5, "p_at_10": 1.0, "mrr": 0.75}},
    ...           "P2": {"scores": {"p_at_1": 0.0, "p_at_10": 0.5, "mrr": 0.25}},
    ...           "P3": {"error": "no facts"}})
    {'p_at_1': 0.25, 'p_at_10': 0.75, 'mrr': 0.5}
    """
    scores = [entry["scores"] for entry in entries.values() if "scores" in entry]
    return {name: fmean(one[name] for one in scores) for name in SCORES} if scores else {}
