"""Prompt folders: three files that are read only when every byte is the one that was written.

    complaints/
      prompt.safetensors   the numbers
      prompt.json          what they are, and the hashes of everything
      README.md            the model card, for people; the one file that may be edited

    contents.py   tensors and a document -> bytes, and back     start here
    folder.py     bytes -> a folder, atomically, and back
    plain.py      what of a document may leave the user's machine
    hub.py        a folder -> the Hugging Face hub, and back

What the tensors mean is the business of `ptune.prompt`.
"""

from ptune.artifact.contents import (
    DOCUMENT,
    FILES,
    SCHEMA_VERSION,
    TENSORS,
    few,
    first_line,
    to_files,
)
from ptune.artifact.folder import check_place, exists, read_folder, write_files, write_folder
from ptune.artifact.hub import fetch, pull, push
from ptune.artifact.plain import model_name, portable, with_nan, without_nan

__all__ = [
    "DOCUMENT",
    "FILES",
    "SCHEMA_VERSION",
    "TENSORS",
    "check_place",
    "exists",
    "fetch",
    "few",
    "first_line",
    "model_name",
    "portable",
    "pull",
    "push",
    "read_folder",
    "to_files",
    "with_nan",
    "without_nan",
    "write_files",
    "write_folder",
]
