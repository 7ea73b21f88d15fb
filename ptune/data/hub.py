"""Data sets of the hub, Parquet files and `datasets` objects to rows: the one seam to `datasets`.

    hub:NAME                  split train
    hub:NAME:test             a split; train[:100] works as well
    hub:NAME:CONFIG:SPLIT     a configuration and its split

Class numbers become their names where the data set knows them; -1, its mark for unlabelled, becomes
a missing value. Only `hub:` asks the network. `datasets` takes seconds to import: done on use.
"""

import re
from pathlib import Path
from typing import Any

from ptune.data.rows import Row, Rows
from ptune.errors import DataError

_ADDRESS = re.compile(
    r"hub:(?P<name>[^:]+)(?::(?!(?:train|validation|test)\b)(?P<config>[^:]*))?(?::(?P<split>.+))?"
)


def read_hub(address: str, split: str | None = None, *, offline: bool = False) -> Rows:
    """Load `hub:NAME[:CONFIG][:SPLIT]`; `split` counts where the address has none.

    Args:
        offline: take it from the cache of `datasets`, and do not ask the hub.

    Raises:
        DataError: the address cannot be read, or the data set cannot be loaded.
    """
    import datasets

    parts = _ADDRESS.fullmatch(address)
    if parts is None:
        raise DataError(f"{address}: write hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT.")
    chosen = parts["split"] or split or "train"
    try:
        only = datasets.DownloadConfig(local_files_only=True) if offline else None
        dataset = datasets.load_dataset(
            parts["name"], parts["config"] or None, split=chosen, download_config=only
        )
    except Exception as error:  # the library raises builtins, its own and its clients' errors
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        taken = f'"{parts["config"]}" was taken for a configuration: a split of another name than '
        taken += "train, validation and test is written hub:NAME:CONFIG:SPLIT. "
        raise DataError(
            f"{address}: the data set cannot be loaded{' offline' if offline else ''}: {reason}. "
            f"{taken if parts['config'] and not parts['split'] else ''}"
            "Check name, split and network, or download it and name the file."
        ) from error
    return from_dataset(dataset, address)


def read_parquet(path: Path) -> Rows:
    """Read a Parquet file into memory; no copy of it is left in a cache.

    Raises:
        DataError: the file is damaged or has no rows.
    """
    import datasets
    import pyarrow.parquet  # type: ignore[import-untyped]  # comes with datasets

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        reason = str(error).split("\n")[0].rstrip(".")
        raise DataError(f"{path}: not a Parquet file that can be read: {reason}.") from None
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise DataError(f"{path}: the file names column {name} twice. Rename one of them.")
    return from_dataset(datasets.Dataset(table), str(path))


def from_dataset(dataset: Any, source: str, split: str | None = None) -> Rows:
    """Return the rows of a `datasets.Dataset`, or of one split of a `DatasetDict`.

    Raises:
        DataError: it is something else, or the split is not known.
    """
    import datasets

    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            said = f"there is no split {split}" if split else "the data set has several splits"
            raise DataError(f"{source}: {said}. Splits: {', '.join(dataset)}. Name one by split=.")
        dataset, split = dataset[split], None
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(
            f"{source}: rows cannot be read from a {type(dataset).__name__}. "
            "Give a path, hub:NAME, a list of mappings or a datasets.Dataset."
        )
    refuse_split(source, split)
    named = {key: names for key, f in dataset.features.items() if (names := _class_names(f))}
    rows = (_with_names(row, named) for row in dataset.to_list())
    return Rows.of(source, "row", enumerate(rows, start=1))


def refuse_split(source: str, split: str | None) -> None:
    """Refuse a split where there is nothing to choose from, rather than overlook it."""
    if split is not None:
        raise DataError(f"{source}: there are no splits to choose {split} from. Leave split out.")


def _class_names(feature: Any) -> list[str]:
    """Return the names behind the class numbers of a column, or of the lists in it."""
    import datasets

    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, datasets.ClassLabel) else []


def _with_names(row: dict[str, object], named: dict[str, list[str]]) -> Row:
    return {**row, **{key: _name(row[key], names) for key, names in named.items()}}


def _name(value: Any, names: list[str]) -> object:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    return None if value is None or value < 0 else names[value]
