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
    with _aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)


def check_writable(path: Path) -> None:
    """Refuse a place where no file can be written, before the work that leads to it.

    Raises:
        ArtifactError: it cannot be written.
    """
    with _aside(path) as aside:
        aside.touch()
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside a file, cleared up at the end."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
    except OSError as error:
        raise ArtifactError(
            f"{path}: cannot be written ({error.strerror}). Choose another place for --output."
        ) from None
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
