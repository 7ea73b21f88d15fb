"""Crashes, failures half way, and reads while a folder is replaced."""

import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from folders import names, read, refusal, write

from ptune.artifact import exists
from ptune.artifact import folder as module
from ptune.artifact.folder import located


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in an empty folder, so that messages are the same everywhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class PowerCut(BaseException):
    """Nothing runs after it: every further change of the disk fails too."""


def disk_changes(monkeypatch: pytest.MonkeyPatch, last: int) -> Iterator[int]:
    """Let `last` changes of the disk happen, then cut the power; yields what was asked for."""
    done = 0

    def step(change: Callable[..., object], *, half: bool = False) -> Callable[..., object]:
        def limited(path: object, *args: object, **kw: object) -> object:
            nonlocal done
            if threatened := (change is not io.open or "w" in str(args)):
                done += 1
            if threatened and done > last:
                if half and done == last + 1 and Path(str(path)).is_dir():
                    next(Path(str(path)).iterdir()).unlink()
                raise PowerCut
            return change(path, *args, **kw)

        return limited

    monkeypatch.setattr(os, "mkdir", step(os.mkdir))
    monkeypatch.setattr(io, "open", step(io.open))
    monkeypatch.setattr(os, "fsync", step(os.fsync))
    monkeypatch.setattr(os, "utime", step(os.utime))
    monkeypatch.setattr(os, "rename", step(os.rename))
    monkeypatch.setattr(shutil, "rmtree", step(shutil.rmtree, half=True))
    while True:
        yield done


def write_until(monkeypatch: pytest.MonkeyPatch, number: int, last: int) -> bool:
    """Whether the write came to its end."""
    with monkeypatch.context() as patch:
        count = disk_changes(patch, last)
        next(count)
        try:
            write(number)
        except PowerCut:
            return False
        assert next(count) <= last
        return True


def make_old(path: Path) -> None:
    os.utime(path, (0, 0))


def test_after_a_crash_at_any_step_the_old_or_the_new_prompt_is_there(monkeypatch):
    last, ended, seen = 0, False, []
    while not ended:
        shutil.rmtree("complaints", ignore_errors=True)
        for leftover in Path().glob(".complaints*"):
            shutil.rmtree(leftover)
        write(1)
        ended = write_until(monkeypatch, 2, last)
        assert exists("complaints")
        seen.append(read())
        write(3)
        assert read() == 3
        for leftover in Path().glob(".complaints*"):
            make_old(leftover)
        write(4)
        assert names() == ["complaints"]
        assert read() == 4
        last += 1
    # 2 x mkdir, 3 x (open, fsync), fsync, touch, rename, rename, fsync, rmtree: the 12th puts it in
    assert seen == [1] * 12 + [2] * 3


def test_after_a_crash_in_a_first_write_there_is_no_prompt_or_a_whole_one(monkeypatch):
    last, ended, seen = 0, False, []
    while not ended:
        for leftover in [*Path().glob(".complaints*"), *Path().glob("complaints")]:
            shutil.rmtree(leftover)
        ended = write_until(monkeypatch, 2, last)
        seen.append(read() if exists("complaints") else None)
        write(3)
        assert read() == 3
        last += 1
    assert seen == [None] * 10 + [2] * 3


def test_of_several_folders_set_aside_the_newest_is_read():
    write(1, ".complaints.old-00000001")
    write(2, ".complaints.old-00000000")
    make_old(Path(".complaints.old-00000001"))
    assert read() == 2
    assert located("complaints").name == ".complaints.old-00000000"
    write(3)
    assert names() == ["complaints"]
    assert read() == 3


def test_names_with_wildcards_are_only_names():
    write(1, ".a[1]*.old-00000000")
    write(2, ".a1.old-00000000")
    assert read("a[1]*") == 1


def test_leftovers_of_other_prompts_are_not_touched():
    kept = [".complaint.old-00000000", ".complaints.old-mine", ".complaints.new-0000000"]
    for name in kept:
        write(1, name)
        make_old(Path(name))
    write(2)
    assert names() == sorted([*kept, "complaints"])


def test_a_fresh_leftover_may_belong_to_a_write_that_goes_on():
    write(1)
    write(2, ".complaints.new-00000000")
    write(3)
    assert names() == [".complaints.new-00000000", "complaints"]


@pytest.mark.parametrize("failing", [{1}, {2}, {2, 3}])
def test_where_renaming_fails_the_old_prompt_stays(monkeypatch, failing):
    write(1)
    calls, rename = 0, os.rename

    def sometimes(source: object, target: object) -> None:
        nonlocal calls
        calls += 1
        if calls in failing:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", sometimes)
        message = refusal(write, 2)
    assert calls >= max(failing)
    assert message == (
        "complaints: cannot be written: Input/output error. The prompt that was there is "
        "unchanged. Choose another place."
    )
    assert read() == 1
    assert not list(Path().glob("*.new-*"))


def test_a_key_pressed_between_the_renames_puts_the_old_prompt_back(monkeypatch):
    write(1)
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        rename(source, target)
        if ".old-" in target.name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(2)
    assert names() == ["complaints"]
    assert read() == 1


def test_a_read_while_the_folder_is_replaced_gives_one_of_the_two(monkeypatch):
    write(1)
    bytes_of, writes = module._bytes, iter([2, 3])

    def slowly(folder: Path | None, file: str) -> bytes | None:
        if file == "prompt.safetensors" and (number := next(writes, None)):
            write(number)  # after prompt.json was read, and before its tensors
        return bytes_of(folder, file)

    monkeypatch.setattr(module, "_bytes", slowly)
    assert read() == 3


def test_a_read_between_the_two_renames_finds_the_old_prompt(monkeypatch):
    write(1)
    rename, seen = os.rename, []

    def watched(source: Path, target: Path) -> None:
        seen.append(read())
        rename(source, target)
        seen.append(read())

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", watched)
        write(2)
    assert seen == [1, 1, 1, 2]


def test_a_read_that_just_missed_the_renaming_looks_again(monkeypatch):
    write(1, "renamed at the last moment")

    def none_aside(target: Path, kind: str) -> list[Path]:
        if not target.exists():
            Path("renamed at the last moment").rename(target)
        return []

    monkeypatch.setattr(module, "_set_aside", none_aside)
    assert read() == 1


def test_a_leftover_that_vanishes_while_it_is_looked_at_is_no_error():
    assert module._changed(Path("gone")) == 0.0
    assert module._identity(Path("gone")) is None
