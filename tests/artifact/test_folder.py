import errno
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ptune.artifact import exists, read_folder, write_folder
from ptune.artifact import folder as module
from ptune.artifact.folder import located
from ptune.errors import ArtifactError

FILES = ["README.md", "prompt.json", "prompt.safetensors"]
AGAIN = "Copy the whole folder again from where it was made."


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in an empty folder, so that messages are the same everywhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(number: int, path: str | Path = "complaints") -> None:
    write_folder(path, {"vectors": torch.full((2, 3), float(number))}, {"n": number}, f"# {number}")


def read(path: str | Path = "complaints") -> int:
    """The number that was written; the test fails if files of two writes are mixed."""
    document, tensors = read_folder(path)
    assert torch.equal(tensors["vectors"], torch.full((2, 3), float(document["n"])))
    return document["n"]


def refusal(call: Callable[..., object], *args: object) -> str:
    with pytest.raises(ArtifactError) as error:
        call(*args)
    return str(error.value)


def names(folder: str = ".") -> list[str]:
    return sorted(p.name for p in Path(folder).iterdir())


# ------------------------------------------------------------------------------- the good days


def test_a_written_folder_holds_three_files_and_reads_back():
    write(1)
    assert names() == ["complaints"]
    assert names("complaints") == FILES
    assert read() == 1
    assert Path("complaints/README.md").read_text() == "# 1"


def test_parents_are_made_and_the_home_folder_is_understood(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    write(1, "~/runs/a/b")
    assert names("home/runs/a/b") == FILES
    assert read("~/runs/a/b") == 1


def test_a_prompt_is_replaced_and_nothing_else_is_left():
    for number in range(3):
        write(number)
        assert read() == number
    assert names() == ["complaints"]


def test_an_empty_folder_and_one_with_a_desktops_litter_are_replaced():
    Path("complaints").mkdir()
    Path("complaints/.DS_Store").touch()
    write(1)
    assert names("complaints") == FILES


def test_a_linked_folder_is_replaced_where_it_lies():
    write(1, "disk/real")
    Path("link").symlink_to("disk/real")
    write(2, "link")
    assert Path("link").is_symlink()
    assert read("disk/real") == read("link") == 2


def test_others_may_read_the_folder_as_the_user_allows():
    before = os.umask(0o022)
    try:
        write(1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("complaints").stat().st_mode) == 0o755
    assert stat.S_IMODE(Path("complaints/prompt.json").stat().st_mode) == 0o644


def test_the_card_may_be_edited_or_missing():
    write(1)
    Path("complaints/README.md").unlink()
    assert read() == 1


# ------------------------------------------------------------------------------- the bad days


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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_is_said_with_the_size_needed(monkeypatch, code, before):
    if before:
        write(1)

    def full(handle: int) -> None:
        raise OSError(code, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = refusal(write, 2)
    kept = "The prompt that was there is unchanged." if before else "Nothing was written."
    assert message == (
        f"complaints: the disk is full, and the prompt needs {size_of(2):,} bytes. {kept} "
        "Make room, or choose another place."
    )
    assert names() == (["complaints"] if before else [])
    assert not before or read() == 1


def size_of(number: int) -> int:
    write(number, "measured")
    size = sum(p.stat().st_size for p in Path("measured").iterdir())
    shutil.rmtree("measured")
    return size


def test_a_file_that_is_really_cut_off_leaves_the_old_prompt():
    resource = pytest.importorskip("resource", reason="file size limits are a Unix thing")
    write(1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        message = refusal(write, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message == (
        "complaints: cannot be written: File too large. The prompt that was there is unchanged. "
        "Choose another place."
    )
    assert names() == ["complaints"]
    assert read() == 1


@pytest.mark.parametrize("path", ["file/complaints", "file/runs/complaints"])
def test_a_path_below_a_file_is_refused(path):
    Path("file").touch()
    assert refusal(write, 1, path) == (
        f"{path}: cannot be written: a part of its path is a file. Nothing was written. "
        "Choose another place."
    )
    assert not exists(path)


def test_an_unwritable_folder_is_refused(monkeypatch):
    def forbidden(path: object, *args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", forbidden)
        message = refusal(write, 1)
    assert message == (
        "complaints: cannot be written: Permission denied. Nothing was written. "
        "Choose another place."
    )


def test_a_path_that_leads_in_circles_is_refused():
    Path("a").symlink_to("b")
    Path("b").symlink_to("a")
    # What the system says of it depends on the version of Python.
    for call, verb in ((lambda: write(1, "a/c"), "written"), (lambda: read("a/c"), "read")):
        assert refusal(call).startswith(f"a/c: cannot be {verb}: ")
    assert not exists("a/c")


def test_a_file_is_not_replaced():
    Path("complaints").write_text("mine")
    assert refusal(write, 1) == (
        "complaints: is a file, and a prompt is a folder. Choose another name."
    )
    assert Path("complaints").read_text() == "mine"


def test_a_folder_with_other_files_is_not_replaced():
    Path("complaints/data").mkdir(parents=True)
    for name in ("train.csv", "notes.txt", "a.py"):
        Path("complaints", name).touch()
    assert refusal(write, 1) == (
        "complaints: holds other files (a.py, data, notes.txt, …), and a prompt needs a folder of "
        "its own. Choose another name."
    )
    assert names("complaints") == ["a.py", "data", "notes.txt", "train.csv"]


def test_the_current_folder_is_not_replaced():
    assert refusal(write, 1, ".") == (
        ".: is the current folder, and a prompt needs a folder of its own. Choose another name."
    )


# ------------------------------------------------------------------------------- reading


def test_a_missing_folder_is_said():
    assert refusal(read) == (
        "complaints: there is no such folder. Give the folder that a training run wrote, or "
        "hub:owner/name for a prompt on the Hugging Face hub."
    )


def test_a_folder_that_may_not_be_read_is_said(monkeypatch):
    write(1)

    def forbidden(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert refusal(read) == "complaints: cannot be read: Permission denied."


def test_a_file_is_no_prompt():
    write(1)
    assert refusal(read, "complaints/prompt.json") == (
        "complaints/prompt.json: is a file, and a prompt is a folder. "
        "Give the folder that holds prompt.json."
    )


@pytest.mark.parametrize(
    ("files", "found"),
    [([], "it is empty"), (["model.bin", "a", "b", "c"], "it holds a, b, c, …")],
)
def test_a_folder_without_a_document_is_no_prompt(files, found):
    Path("complaints").mkdir()
    for name in files:
        Path("complaints", name).touch()
    assert refusal(read) == (
        f"complaints: is no prompt folder: {found}, and no prompt.json. Give another folder."
    )


def test_a_peft_adapter_is_told_apart():
    Path("complaints").mkdir()
    Path("complaints/adapter_config.json").touch()
    assert refusal(read) == (
        "complaints: is a PEFT adapter, not a prompt of ptune. Convert it with `ptune import`."
    )


def test_missing_tensors_are_said():
    write(1)
    Path("complaints/prompt.safetensors").unlink()
    assert refusal(read) == f"complaints: prompt.safetensors is missing. {AGAIN}"


def test_damage_is_said_under_the_name_given():
    write(1)
    Path("complaints/prompt.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError) as error:
        read_folder("complaints", name="the prompt")
    assert str(error.value) == (
        "the prompt: prompt.safetensors is damaged, or belongs to another prompt: its hash is not "
        f"the one in prompt.json. {AGAIN}"
    )


# ------------------------------------------------------------------------------- at the same time


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
