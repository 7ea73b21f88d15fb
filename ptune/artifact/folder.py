r"""Prompt folders on the disk: written whole or not at all.

A folder is written under a hidden name beside the target, flushed to the disk, and renamed:

    1  write   .complaints.new-1f3a
    2  rename  complaints            -> .complaints.old-1f3a
    3  rename  .complaints.new-1f3a  -> complaints
    4  remove  .complaints.old-1f3a

A crash at any step is harmless: between 2 and 3 a read takes the folder set aside, and a later
write clears up.

Several readers and one writer need no lock. Knows nothing of what is in the files.
"""

import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ptune.artifact.contents import (
    CARD,
    COPY_AGAIN,
    DOCUMENT,
    TENSORS,
    few,
    first_line,
    from_files,
    to_files,
)
from ptune.errors import ArtifactError

# In the folder of a run.
PROMPT = "prompt"

# Files that desktops leave everywhere; they do not make a folder somebody else's.
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
# Whatever an interrupted write left behind is removed after this time; until then it may belong to
# a write that is still going on.
STALE_S = 3600.0
# How often a read starts again because a write replaced the folder meanwhile.
READS = 20


def write_folder(
    path: str | Path, tensors: Mapping[str, Tensor], document: Mapping[str, Any], card: str
) -> None:
    """Write a prompt folder, in place of the one that is there.

    Args:
        path: the folder. It is made with its parents; only another prompt folder is replaced.
        document: what JSON can carry.
        card: the text of README.md.
    Raises:
        ArtifactError: the folder cannot be written or belongs to something else. What was there
            before is untouched.
    """
    write_files(path, to_files(tensors, document, card))


def write_files(path: str | Path, contents: Mapping[str, bytes]) -> None:
    """Write a folder of files, whole or not at all, in place of one that holds such files alone.

    Raises:
        ArtifactError: the folder cannot be written or belongs to something else. What was there
            before is untouched.
    """
    try:
        target = _resolved(path)
        _refuse_other_use(str(path), target, contents)
        _replace(target, contents)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(_cannot_write(path, contents, error)) from error


def check_place(path: str | Path, own: Collection[str]) -> None:
    """Refuse a folder that `write_files` could not replace, before the work that leads to it.

    Args:
        own: names of the files that would be written.

    Raises:
        ArtifactError: the folder belongs to something else.
    """
    with suppress(OSError, RuntimeError):  # said where it is written
        _refuse_other_use(str(path), _resolved(path), own)


def _resolved(path: str | Path) -> Path:
    """Follow links, so that a linked folder is replaced where it lies and the link stays."""
    return Path(path).expanduser().resolve()


def _refuse_other_use(name: str, target: Path, own: Collection[str]) -> None:
    """A folder is replaced as a whole, so it must hold nothing but a prompt."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ArtifactError(f"{name}: is a file, and a prompt is a folder. Choose another name.")
    if target == Path.cwd():
        raise ArtifactError(
            f"{name}: is the current folder, and a prompt needs a folder of its own. "
            "Choose another name."
        )
    found = {p.name for p in target.iterdir()} - set(LITTER)
    # A README alone is somebody's, and not the card of a prompt.
    others = sorted(found if found == {CARD} else found - set(own))
    if others:
        raise ArtifactError(
            f"{name}: holds other files ({few(others)}), and a prompt needs a folder of its own. "
            "Choose another name."
        )


def _replace(target: Path, contents: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    new = target.with_name(f".{target.name}.new-{mark}")
    old = target.with_name(f".{target.name}.old-{mark}")
    interrupted = [] if target.exists() else _set_aside(target, "old")
    try:
        _write_files(new, contents)
        _swap(target, new, old)
    except BaseException:  # also when the user presses Ctrl-C
        shutil.rmtree(new, ignore_errors=True)
        raise
    _flush_folder(target.parent)
    for leftover in (old, *interrupted, *_stale(target)):
        shutil.rmtree(leftover, ignore_errors=True)


def _write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, data in contents.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _flush_folder(folder)


def _swap(target: Path, new: Path, old: Path) -> None:
    try:
        if target.exists():
            with suppress(OSError):
                target.touch()  # of several folders set aside, a read takes the newest
            target.rename(old)
        new.rename(target)
    except BaseException:
        # Fails where nothing was moved; and where it fails otherwise, reads take `old`.
        with suppress(OSError):
            old.rename(target)
        raise


def _flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders; some network disks flush none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _set_aside(target: Path, kind: str) -> list[Path]:
    """Folders of interrupted writes, the newest last."""
    pattern = f".{glob.escape(target.name)}.{kind}-{'[0-9a-f]' * 8}"
    return sorted(target.parent.glob(pattern), key=_changed)


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # just removed by the write it belongs to
        return 0.0


def _stale(target: Path) -> list[Path]:
    found = [*_set_aside(target, "new"), *_set_aside(target, "old")]
    return [folder for folder in found if _changed(folder) < time.time() - STALE_S]


def _cannot_write(path: str | Path, contents: Mapping[str, bytes], error: Exception) -> str:
    kept = "The prompt that was there is unchanged." if exists(path) else "Nothing was written."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        size = sum(map(len, contents.values()))
        return (
            f"{path}: the disk is full, and the prompt needs {size:,} bytes. {kept} "
            "Make room, or choose another place."
        )
    reason = first_line(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        reason = "a part of its path is a file"
    return f"{path}: cannot be written: {reason}. {kept} Choose another place."


def exists(path: str | Path) -> bool:
    """Whether something is there to be read: a folder, or what an interrupted write set aside."""
    try:
        return located(path).exists()
    except (OSError, RuntimeError):
        return False


def located(path: str | Path) -> Path:
    """The folder that a read takes: `path`, or what an interrupted write set aside."""
    target = _resolved(path)
    return _find(target) or target


def read_folder(
    path: str | Path, *, name: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a prompt folder: the document and the tensors, on the CPU, bit for bit as written.

    Args:
        path: the folder.
        name: what to call it in messages, where the path would tell the user nothing.
    Raises:
        ArtifactError: missing, no prompt, written by a newer ptune, or not as it was written.
    """
    name = name or str(path)
    try:
        raw, numbers = _read_files(name, path)
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{name}: cannot be read: {first_line(error)}.") from error
    return from_files(name, raw, numbers)


def _find(target: Path) -> Path | None:
    if target.exists():
        return target
    aside = _set_aside(target, "old")
    return aside[-1] if aside else None


def _identity(folder: Path | None) -> tuple[int, int] | None:
    with suppress(OSError):
        if folder is not None:
            found = folder.stat()
            return found.st_ino, found.st_mtime_ns
    return None


def _read_files(name: str, path: str | Path) -> tuple[bytes, bytes]:
    """Both files, from one and the same folder even while a write replaces it."""
    target = _resolved(path)
    for _ in range(READS):
        folder = _find(target)
        before = _identity(folder)
        raw, numbers = _bytes(folder, DOCUMENT), _bytes(folder, TENSORS)
        if _identity(_find(target)) == before:
            break
    if folder is None:
        raise ArtifactError(
            f"{name}: there is no such folder. Give the folder that a training run wrote, "
            "or hub:owner/name for a prompt on the Hugging Face hub."
        )
    if raw is None:
        raise ArtifactError(_no_prompt(name, folder))
    if numbers is None:
        raise ArtifactError(f"{name}: {TENSORS} is missing. {COPY_AGAIN}")
    return raw, numbers


def _bytes(folder: Path | None, file: str) -> bytes | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return None if folder is None else (folder / file).read_bytes()
    return None


def _no_prompt(name: str, folder: Path) -> str:
    if not folder.is_dir():
        return (
            f"{name}: is a file, and a prompt is a folder. Give the folder that holds {DOCUMENT}."
        )
    files = sorted(p.name for p in folder.iterdir())
    if "adapter_config.json" in files:
        return f"{name}: is a PEFT adapter. Make it a prompt of ptune's first: ptune import {name}."
    found = f"it holds {few(files)}" if files else "it is empty"
    advice = f"Its prompt is {Path(name) / PROMPT}" if PROMPT in files else "Give another folder"
    return f"{name}: is no prompt folder: {found}, and no {DOCUMENT}. {advice}."
