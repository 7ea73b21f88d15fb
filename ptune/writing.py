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
    """Write a file aside and rename it.

    Raises:
        ArtifactError: it cannot be written; what was there is untouched.
    """
    with _aside(path, "--output") as aside:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


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
    with _aside(path, option) as aside:
        aside.touch()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")


@contextmanager
def _aside(path: Path, option: str) -> Iterator[Path]:
    """A name beside a file, cleared up at the end."""
    aside = path.parent / f".{path.name}.{os.getpid()}"  # "." and "/" have no name
    try:
        yield aside
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be written ({error.strerror}). Choose another place for {option}."
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
