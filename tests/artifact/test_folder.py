import errno
import os
import shutil
import stat
from pathlib import Path

import pytest
from folders import names, read, refusal, write

from ptune.artifact import exists, read_folder
from ptune.errors import ArtifactError

FILES = ["README.md", "prompt.json", "prompt.safetensors"]
AGAIN = "Copy the whole folder again from where it was made."


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in an empty folder, so that messages are the same everywhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
        "complaints: is a PEFT adapter. Make it a prompt of ptune's first: ptune import complaints."
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
