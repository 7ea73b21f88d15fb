"""Files that are there whole, or as they were before.

    write_text(Path("predictions.jsonl"), "...")    written aside, then renamed

Knows no format. Prompts and checkpoints, which are folders, have `ptune.artifact`.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptune.errors import ArtifactError


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it; a link stays and what it leads to is written.

    What is there and is no file (a pipe, a device) is written to as it is.

    Raises:
        ArtifactError: it cannot be written; what was there is untouched.
    """
    target = _target(path)
    with _aside(target, "--output", path) as aside:
        if _is_special(target):
            target.write_text(text, encoding="utf-8")
        else:
            aside.write_text(text, encoding="utf-8")
            aside.replace(target)


def check_writable(path: Path, *, option: str = "--output", reads: str | None = None) -> None:
    """Refuse a place where no file can be written, before the work that leads to it.

    Args:
        option: by which the place was named.
        reads: the file that the work reads, which would be lost.
    Raises:
        ArtifactError: it cannot be written.
    """
    if reads is not None and path.exists() and Path(reads).exists() and path.samefile(reads):
        raise ArtifactError(
            f"{path}: is the file that is read, and would be lost. Choose another place for "
            f"{option}."
        )
    target = _target(path)
    with _aside(target, option, path) as aside:
        if _is_special(target):
            return
        aside.touch()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")


def _target(path: Path) -> Path:
    """Where a file is written: home folders written out, links followed."""
    path = path.expanduser()
    return path.resolve() if path.is_symlink() else path


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _aside(path: Path, option: str, name: Path) -> Iterator[Path]:
    """A name beside a file, cleared up at the end; `name` is what the user called it."""
    aside = path.parent / f".{path.name}.{os.getpid()}"  # "." and "/" have no name
    try:
        yield aside
    except OSError as error:
        raise ArtifactError(
            f"{name}: cannot be written ({error.strerror}). Choose another place for {option}."
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
