"""Prompt folders that hold one number, for the tests of folders."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ptune.artifact import read_folder, write_folder
from ptune.errors import ArtifactError


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
