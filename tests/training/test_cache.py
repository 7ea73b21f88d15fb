import os

import pytest
import tiny
import tiny_cloze
from tiny_runs import ROWS, TABLE, Watcher, same, tensors_of, train

from ptune.config import Recipe
from ptune.data import load_rows
from ptune.errors import DataError
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.flat import FlatExamples
from ptune.template import Template
from ptune.training import cache as caching
from ptune.training.cache import Cache, default_folder, encode_rows
from ptune.training.job import task_of
from ptune.training.rows import Sources, read_rows

KINDS = {
    "labels": {"template": "{soft:2}{text} label : {label}"},
    "words": {
        "template": "{soft:2}{text} label : {label}",
        "loss": "vocabulary",
        "verbalizer": {"complaint": ["bad", "not good"]},
    },
    "free text": {"template": "{soft:2}{text} label : {label}", "answer": "text"},
    "head": {"template": "{soft:2}{text}", "task": "sequence-classification"},
    "numbers": {
        "template": "{soft:2}{text}",
        "task": "sequence-classification",
        "problem": "regression",
        "label_column": "stars",
    },
    "several": {
        "template": "{soft:2}{text}",
        "task": "sequence-classification",
        "problem": "multi-label",
        "label_column": "tags",
    },
    "cut": {"template": "{soft:2}{text} label : {label}", "max_tokens": 12},
}
DATA = [row | {"stars": i / 3, "tags": "a|b" if i % 2 else "a"} for i, row in enumerate(ROWS * 3)]


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


@pytest.fixture(autouse=True)
def _always(monkeypatch, tmp_path):
    """Small rows are cached too, a few at a time, and nowhere but here."""
    monkeypatch.setattr(caching, "LEAST_CHARACTERS", 0)
    monkeypatch.setattr(caching, "PART", 7)
    monkeypatch.setenv("PTUNE_CACHE", str(tmp_path / "cache"))


def encoded(backbone, settings, rows=DATA, **more):
    recipe = Recipe.make(backbone="b", **(settings | more)).resolved()
    data = read_rows(recipe, Sources(rows, None, rows[:4]))
    task = task_of(recipe, data.template, backbone, data.labels)
    return encode_rows(recipe, backbone, task, data), task, data


def files_of(folder):
    return sorted(folder.glob("*.safetensors"))


def never(monkeypatch):
    """From here on nothing may be tokenised."""

    def refuse(parts):
        raise AssertionError("rows were encoded anew")

    monkeypatch.setattr(FlatExamples, "of", refuse)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cached_is_what_is_made_anew(monkeypatch, tmp_path, backbone, kind):
    first, task, data = encoded(backbone, KINDS[kind])
    assert len(files_of(tmp_path / "cache")) == 3
    never(monkeypatch)
    again, _, _ = encoded(backbone, KINDS[kind])
    column = KINDS[kind].get("label_column", "label")
    fresh = task.examples(data.train, first_answers := [e.answer for e in again.training])
    if kind == "labels":
        assert first_answers == data.train.column(column)
    assert (
        list(first.training)
        == list(again.training)
        == list(task.training_examples(data.train, first_answers))
    )
    assert list(again.validation) == list(first.validation)
    assert (
        list(again.test)
        == list(first.test)
        == list(task.examples(data.test, [e.answer for e in again.test]))
    )
    assert len(fresh) == len(again.training)
    assert any(e.cut for e in again.training) == (kind == "cut")
    assert again.notes == []


def test_a_run_on_cached_rows_is_the_run_on_fresh_ones(monkeypatch, tmp_path, backbone):
    settings = TABLE | {"max_tokens": 10, "batch_size": 4, "max_steps": 3}
    fresh, mapped, plain = Watcher(), Watcher(), Watcher()
    train(backbone, settings, output=tmp_path / "a", watcher=fresh)
    with monkeypatch.context() as patch:
        never(patch)
        train(backbone, settings, output=tmp_path / "b", watcher=mapped)
    train(backbone, settings, output=tmp_path / "c", watcher=plain, cache="off")
    assert fresh.steps == mapped.steps == plain.steps
    for other in ("b", "c"):
        assert same(tensors_of(tmp_path / "a" / "prompt"), tensors_of(tmp_path / other / "prompt"))
    said = "3 of 8 training rows were too long and were cut."
    assert [watcher.facts["rows cut"] for watcher in (fresh, mapped, plain)] == [said] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"template": "{soft:3}{text} label : {label}"},
        {"template": "{soft:2}{text} answer : {label}"},
        {"max_tokens": 11},
        {"loss": "vocabulary"},
        {"verbalizer": {"complaint": ["bad"]}},
        {"labels": ["no complaint", "complaint"]},
        {"answer": "text"},
    ],
)
def test_another_way_to_encode_is_another_file(tmp_path, backbone, change):
    encoded(backbone, KINDS["labels"])
    before = len(files_of(tmp_path / "cache"))
    encoded(backbone, KINDS["labels"] | change)
    assert len(files_of(tmp_path / "cache")) == 2 * before


def test_a_backbone_that_is_read_elsewhere_is_another_file(tmp_path, backbone):
    """An encoder is read at its first token, a decoder at its last one; they share a tokenizer."""
    encoded(backbone, KINDS["head"])
    before = len(files_of(tmp_path / "cache"))
    encoded(tiny.backbone("bert"), KINDS["head"])
    assert len(files_of(tmp_path / "cache")) == 2 * before


def test_rows_that_cannot_be_encoded_are_left_out_where_the_recipe_says_so(tmp_path):
    settings = {"task": "masked-lm", "answer": "text", "template": "{soft:2}{text} {mask}"}
    rows = [{"text": "the film", "label": "good"}, {"text": "my film", "label": "very bad"}] * 3
    bert = tiny_cloze.backbone()
    with pytest.raises(DataError, match='row 2: the answer "very bad" has 2 tokens'):
        encoded(bert, settings, rows, validation_share=0.0)
    found, _, data = encoded(bert, settings, rows, validation_share=0.0, bad_rows="skip")
    assert (len(data.train), len(found.data.train), len(found.training)) == (6, 3, 3)
    assert found.notes[0] == "the given rows: 3 of 6 rows are left out:"
    assert "row 2: the answer" in found.notes[1]
    assert (len(found.test), len(found.data.test)) == (2, 2)


def test_other_rows_answers_or_another_tokenizer_are_another_file(tmp_path, backbone):
    folder = tmp_path / "cache"
    encoded(backbone, KINDS["labels"])
    encoded(backbone, KINDS["labels"], [*DATA[:-1], DATA[-1] | {"text": "late"}])
    assert len(files_of(folder)) == 4  # where this row is; the others are the same
    numbers = KINDS["numbers"]
    encoded(backbone, numbers)
    encoded(backbone, numbers, [*DATA[:-1], DATA[-1] | {"stars": 0.5}])
    assert len(files_of(folder)) == 4 + 4
    tokens = tiny.tokenizer()
    tokens.add_tokens(["parcels"])
    encoded(type(backbone).load(tiny.model("llama"), tokenizer=tokens), KINDS["labels"])
    assert len(files_of(folder)) == 8 + 3


def test_the_same_rows_to_train_on_and_to_test_on_are_two_files(tmp_path, backbone):
    recipe = Recipe.make(backbone="b", **KINDS["words"], validation_share=0).resolved()
    data = read_rows(recipe, Sources(DATA, None, DATA))
    task = task_of(recipe, data.template, backbone, data.labels)
    found = encode_rows(recipe, backbone, task, data)
    assert len(files_of(tmp_path / "cache")) == 2
    assert (
        list(found.training)
        != list(found.test)
        == list(task.examples(DATA, [row["label"] for row in DATA]))
    )


def test_a_column_that_is_not_encoded_does_not_matter(tmp_path, backbone):
    encoded(backbone, KINDS["labels"])
    encoded(backbone, KINDS["labels"], [row | {"stars": 0} for row in DATA])
    assert len(files_of(tmp_path / "cache")) == 3


@pytest.mark.parametrize("damage", ["a bit", "cut short", "no safetensors", "empty"])
def test_a_damaged_file_is_told_and_made_anew(tmp_path, backbone, damage):
    whole, _, _ = encoded(backbone, KINDS["labels"])
    path = max(files_of(tmp_path / "cache"), key=lambda path: path.stat().st_size)
    before = path.read_bytes()
    broken = bytearray(before)
    broken[-20] ^= 1
    path.write_bytes(
        {"a bit": bytes(broken), "cut short": before[:-9], "empty": b""}.get(damage, b"x" * 99)
    )
    again, _, _ = encoded(backbone, KINDS["labels"])
    assert again.notes == [f"{path}: is damaged; its rows were tokenised anew."]
    assert list(again.training) == list(whole.training)
    assert path.read_bytes() == before
    assert encoded(backbone, KINDS["labels"])[0].notes == []


def test_where_nothing_can_be_written_the_run_goes_on_and_says_so(tmp_path, backbone):
    (tmp_path / "file").write_text("in the way")
    watcher = Watcher()
    train(backbone, TABLE, cache=f"{tmp_path}/file/cache", max_steps=1, watcher=watcher)
    (note, *_) = watcher.facts["notes"]
    assert note == (
        f"{tmp_path}/file/cache: tokenised rows cannot be kept there (Not a directory), so every "
        "run tokenises them anew. Name another folder with cache, or set cache: off."
    )


def test_without_a_cache_nothing_is_written(tmp_path, backbone):
    assert isinstance(encoded(backbone, KINDS["labels"], cache="off")[0].training, FlatExamples)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_ones_own_is_taken(tmp_path, backbone):
    encoded(backbone, KINDS["labels"], cache=f"{tmp_path}/mine")
    assert len(files_of(tmp_path / "mine")) == 3
    assert not (tmp_path / "cache").exists()


def test_few_rows_are_not_worth_a_file(monkeypatch, tmp_path, backbone):
    monkeypatch.setattr(caching, "LEAST_CHARACTERS", 100_000)
    assert isinstance(encoded(backbone, KINDS["labels"])[0].training, list)
    assert not (tmp_path / "cache").exists()


def test_a_tokenizer_that_hides_what_it_does_is_not_cached(tmp_path):
    class Slow:
        """A tokenizer in Python."""

        def __init__(self):
            self._fast = tiny.tokenizer()

        def __getattr__(self, name):
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self._fast, name)

        def __call__(self, *args, **kwargs):
            return self._fast(*args, **kwargs)

    backbone = tiny.backbone("llama")
    backbone.tokenizer = Slow()
    encoded(backbone, KINDS["labels"])
    assert not (tmp_path / "cache").exists()


def test_a_row_with_a_mistake_is_named_by_its_line_and_nothing_is_kept(tmp_path, backbone):
    file = tmp_path / "rows.jsonl"
    lines = [f'{{"text": "late {i}", "label": "{"ab"[i % 2]}"}}' for i in range(20)]
    lines[16] = '{"text": null, "label": "a"}'
    file.write_text("\n".join(lines))
    settings = KINDS["labels"] | {"validation_share": 0.0}
    recipe = Recipe.make(backbone="b", **settings).resolved()
    data = read_rows(recipe, Sources(str(file), None, None))
    task = task_of(recipe, data.template, backbone, data.labels)
    with pytest.raises(DataError) as error:
        encode_rows(recipe, backbone, task, data)
    assert str(error.value) == (
        f'{file}, line 17, column "text": the value is missing. Fill it in, or leave the row out.'
    )
    assert files_of(tmp_path / "cache") == []


def test_what_was_not_used_for_longest_goes_first(monkeypatch, tmp_path, backbone):
    rows = load_rows(DATA)
    task = make_task(
        "sequence-classification",
        Template.parse("{text}"),
        backbone,
        TaskOptions(labels=("a", "b")),
    )
    cache = Cache(tmp_path, "key", ["text"])
    folder, answers = tmp_path, ["a"] * len(rows)

    def use(count):
        cache.examples(task.examples, rows[:count], answers[:count], kind="evaluation")

    use(10)
    (first,) = files_of(folder)
    use(11)
    second = (set(files_of(folder)) - {first}).pop()
    os.utime(first, (1000, 1000))
    os.utime(second, (2000, 2000))
    use(10)  # used now, so the second one is the oldest
    monkeypatch.setattr(caching, "MOST_BYTES", first.stat().st_size * 2 + 200)
    leftover = folder / f".{first.name}.ab12cd34"
    leftover.write_bytes(b"of an interrupted write")
    os.utime(leftover, (1000, 1000))
    use(12)
    assert first in files_of(folder)
    assert second not in files_of(folder)
    assert len(files_of(folder)) == 2
    assert not leftover.exists()


def test_a_file_that_cannot_be_touched_is_used(monkeypatch, tmp_path, backbone):
    encoded(backbone, KINDS["labels"])

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    never(monkeypatch)
    assert encoded(backbone, KINDS["labels"])[0].notes == []


def test_the_folder_is_the_users_cache_or_the_one_that_is_named(monkeypatch, tmp_path):
    assert default_folder() == tmp_path / "cache"
    monkeypatch.delenv("PTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(default_folder()) == "/somewhere/ptune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(default_folder()) == "/home/me/.cache/ptune"
