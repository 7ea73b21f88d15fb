import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from ptune.data import load_rows, rows_for
from ptune.errors import DataError

FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "tags": datasets.List(datasets.ClassLabel(names=["late", "rude"])),
    }
)
RECORDS = {"text": ["a", "b", "c"], "label": [1, 0, -1], "tags": [[0, 1], [], [1]]}
ROWS = [
    {"text": "a", "label": "yes", "tags": ["late", "rude"]},
    {"text": "b", "label": "no", "tags": []},
    {"text": "c", "label": None, "tags": ["rude"]},
]


@pytest.fixture
def dataset() -> datasets.Dataset:
    return datasets.Dataset.from_dict(RECORDS, features=FEATURES)


def refusal(source: object, split: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(source, split=split)
    return str(caught.value)


def test_class_numbers_become_names(dataset: datasets.Dataset):
    rows = load_rows(dataset)
    assert list(rows) == ROWS
    assert rows.columns == ("text", "label", "tags")
    assert rows.where(2) == "the given rows, row 3"


def test_a_tensor_format_does_not_change_the_rows(dataset: datasets.Dataset):
    assert list(load_rows(dataset.with_format("numpy").select([1, 0]))) == [ROWS[1], ROWS[0]]


def test_a_parquet_file_keeps_types_and_class_names(tmp_path: Path, dataset: datasets.Dataset):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(dataset.data.table, path)
    assert list(load_rows(path)) == ROWS
    plain = pyarrow.table({"text": ["a", None], "label": [1, 2], "score": [0.5, 1.0]})
    pyarrow.parquet.write_table(plain, path)
    assert list(load_rows(str(path))) == [
        {"text": "a", "label": 1, "score": 0.5},
        {"text": None, "label": 2, "score": 1.0},
    ]
    assert load_rows(path).where(1) == f"{path}, row 2"


def test_local_files_leave_no_file_and_ask_no_network(tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), folder / "a.parquet")
    (folder / "a.csv").write_text("a\n1\n")
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from ptune.data import load_rows\n"
        "print(load_rows('a.csv'), load_rows('a.parquet'))"
    )
    home = tmp_path / "home"
    home.mkdir()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(root)}
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (
        "Rows(a.csv: 1 rows of a) Rows(a.parquet: 1 rows of a)\n",
        "",
    )
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "a.parquet"]
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_reading_text_files_imports_no_heavy_package(tmp_path: Path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    code = (
        "import sys; from ptune.data import load_rows; load_rows('a.csv'); "
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'sklearn'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but no more than that PAR0")
    assert refusal(path).startswith(f"{path}: not a Parquet file that can be read: Parquet magic")
    path.write_bytes(b"")
    assert refusal(path).startswith(f"{path}: not a Parquet file that can be read: Parquet file")


def test_a_parquet_file_without_rows_or_with_a_column_twice_is_refused(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], "string")}), path)
    assert refusal(path) == f"{path}: there are no rows. Give one or more."
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["a", "a"])
    pyarrow.parquet.write_table(twice, path)
    assert refusal(path) == f"{path}: the file names column a twice. Rename one of them."


def test_one_split_of_several_is_chosen_by_name(dataset: datasets.Dataset):
    both = datasets.DatasetDict(train=dataset, test=dataset.select([1]))
    assert list(load_rows(both, split="test")) == [ROWS[1]]
    assert refusal(both) == (
        "the given rows: the data set has several splits. Splits: train, test. Name one by split=."
    )
    assert refusal(both, "dev") == (
        "the given rows: there is no split dev. Splits: train, test. Name one by split=."
    )


def test_a_split_of_what_has_none_is_refused(tmp_path: Path, dataset: datasets.Dataset):
    said = "there are no splits to choose test from. Leave split out."
    given = [{"a": 1}]
    for source in (given, load_rows(given), dataset):
        assert refusal(source, "test") == f"the given rows: {said}"
    assert refusal(tmp_path / "a.csv", "test") == f"{tmp_path / 'a.csv'}: {said}"


@pytest.mark.parametrize(
    ("source", "kind"), [(3, "int"), ([{"a": 1}, "b"], "list"), (None, "NoneType")]
)
def test_what_has_no_rows_is_refused(source: object, kind: str):
    assert refusal(source) == (
        f"the given rows: rows cannot be read from a {kind}. "
        "Give a path, hub:NAME, a list of mappings or a datasets.Dataset."
    )


@pytest.mark.parametrize(
    ("address", "split", "asked"),
    [
        ("hub:glue", None, ("glue", None, "train")),
        ("hub:a/b", "test", ("a/b", None, "test")),
        ("hub:a/b:test", "train", ("a/b", None, "test")),
        ("hub:a/b:train[:100]", None, ("a/b", None, "train[:100]")),
        ("hub:a/b:sst2", None, ("a/b", "sst2", "train")),
        ("hub:a/b:sst2:dev", None, ("a/b", "sst2", "dev")),
        ("hub:a/b:trainers:test[5:]", None, ("a/b", "trainers", "test[5:]")),
        ("hub:a/b::dev", None, ("a/b", None, "dev")),
    ],
)
def test_an_address_of_the_hub_names_configuration_and_split(
    monkeypatch: pytest.MonkeyPatch,
    dataset: datasets.Dataset,
    address: str,
    split: str | None,
    asked: tuple[str, str | None, str],
):
    calls = []

    def load_dataset(
        name: str, config: str | None, split: str, download_config: object
    ) -> datasets.Dataset:
        calls.append((name, config, split))
        assert download_config is None
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = load_rows(address, split=split)
    assert calls == [asked]
    assert (list(rows), rows.source) == (ROWS, address)


def test_offline_rows_of_the_hub_are_those_that_were_loaded_before(
    monkeypatch: pytest.MonkeyPatch, dataset: datasets.Dataset
):
    asked = []

    def load_dataset(*_: object, download_config: object, **__: object) -> datasets.Dataset:
        asked.append(getattr(download_config, "local_files_only", False))
        return dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_rows("hub:a/b", offline=True)
    rows_for("hub:a/b", {"offline": True})
    rows_for("hub:a/b", {})
    assert asked == [True, True, False]


def test_a_split_of_another_name_was_taken_for_a_configuration_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch,
):
    def load_dataset(*_: object, **__: object) -> None:
        raise ValueError("BuilderConfig 'unsupervised' not found.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("hub:imdb:unsupervised") == (
        "hub:imdb:unsupervised: the data set cannot be loaded: BuilderConfig 'unsupervised' not "
        'found. "unsupervised" was taken for a configuration: a split of another name than train, '
        "validation and test is written hub:NAME:CONFIG:SPLIT. Check name, split and network, or "
        "download it and name the file."
    )


def test_an_address_without_a_name_is_refused():
    assert refusal("hub:") == "hub:: write hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT."


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("Dataset 'x' doesn't exist on the Hub.\nAnd more."), None),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_a_data_set_that_cannot_be_loaded_is_told(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str | None
):
    def load_dataset(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("hub:x") == (
        "hub:x: the data set cannot be loaded: "
        f"{reason or 'Dataset {!r} doesn{}t exist on the Hub'.format('x', chr(39))}. "
        "Check name, split and network, or download it and name the file."
    )
