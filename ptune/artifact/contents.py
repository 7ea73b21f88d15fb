r"""What is in the files of a prompt folder: bytes from tensors and a document, and back.

    prompt.json   {
                   "sha256": "9f2c...",          the hash of every byte after this line
                   "format": "ptune soft prompt",
                   "schema_version": 1,
                   "tensors_sha256": "41d0...",  the hash of prompt.safetensors
                   "tensors": {"vectors": {"dtype": "float32", "shape": [20, 64], "sha256": ...}},
                   "document": {...}             what `ptune.prompt` says of the tensors
                  }

Any other byte in either file is found and refused, with a sentence that says where. The hashes find
damage and mix-ups; they are no signature. Nothing is ever unpickled. Knows no disk and no prompt.

The hash can be checked without ptune: tail -n +3 prompt.json | sha256sum
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ptune.errors import ArtifactError

# Goes up when an older ptune would misread a file; a new optional key is no reason.
SCHEMA_VERSION = 1
FORMAT = "ptune soft prompt"
DOCUMENT, TENSORS, CARD = "prompt.json", "prompt.safetensors", "README.md"
FILES = (DOCUMENT, TENSORS, CARD)
COPY_AGAIN = "Copy the whole folder again from where it was made."

_KEYS = {"schema_version": int, "tensors_sha256": str, "tensors": dict, "document": dict}
_OPENING, _CLOSING = b'{\n "sha256": "', b'",\n'


def to_files(
    tensors: Mapping[str, Tensor], document: Mapping[str, Any], card: str
) -> dict[str, bytes]:
    """Return the three files as bytes. The same prompt gives the same bytes.

    Raises:
        ArtifactError: the document holds something that JSON cannot carry.

    >>> files = to_files({"vectors": torch.zeros(2, 4)}, {"task": "causal-lm"}, "# A prompt")
    >>> {name: len(data) for name, data in files.items()}
    {'prompt.json': 437, 'prompt.safetensors': 104, 'README.md': 10}
    """
    plain = {name: t.detach().cpu().clone().contiguous() for name, t in sorted(tensors.items())}
    numbers = safetensors.torch.save(plain)
    sheet = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "tensors_sha256": _sha256(numbers),
        "tensors": {name: _entry(tensor) for name, tensor in plain.items()},
        "document": document,
    }
    try:
        text = json.dumps(sheet, indent=1, ensure_ascii=False, allow_nan=False)
        body = text.removeprefix("{\n").encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"The prompt's document cannot be written as JSON: {error}. "
            "Keep to strings, finite numbers, true, false, null, lists and dictionaries."
        ) from error
    head = _OPENING + _sha256(body).encode() + _CLOSING
    return {DOCUMENT: head + body, TENSORS: numbers, CARD: card.encode()}


def _entry(tensor: Tensor) -> dict[str, Any]:
    numbers = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "sha256": _sha256(numbers),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def from_files(name: str, raw: bytes, numbers: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the document and the tensors, bit for bit as they were given to `to_files`.

    Args:
        name: what messages call the prompt.
        raw: the bytes of prompt.json.
        numbers: the bytes of prompt.safetensors.
    Raises:
        ArtifactError: no prompt, written by a newer ptune, or not the bytes that were written.
    """
    sheet = _sheet(name, raw)
    return sheet["document"], _tensors(name, numbers, sheet)


def _sheet(name: str, raw: bytes) -> dict[str, Any]:
    """Parse and verify prompt.json; the version first, for a newer one may hash otherwise."""
    try:
        sheet = json.loads(raw)
    except (ValueError, RecursionError) as error:
        known = {UnicodeDecodeError: "not UTF-8", RecursionError: "nested too deeply"}
        reason = known.get(type(error)) or first_line(error)
        raise ArtifactError(
            f"{name}: {DOCUMENT} is damaged: not JSON ({reason}). {COPY_AGAIN}"
        ) from error
    if not isinstance(sheet, dict) or sheet.get("format") != FORMAT:
        raise ArtifactError(
            f'{name}: {DOCUMENT} is damaged or not ptune\'s: it does not say "format": "{FORMAT}". '
            f"{COPY_AGAIN}"
        )
    version = sheet.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{name}: was written by a newer ptune (schema version {version}; this one reads up to "
            f"{SCHEMA_VERSION}). Update: pip install --upgrade ptune."
        )
    start = len(_OPENING) + 64 + len(_CLOSING)
    if raw[:start] != _OPENING + _sha256(raw[start:]).encode() + _CLOSING:
        raise ArtifactError(
            f"{name}: {DOCUMENT} is damaged or was edited: its hash is not the one in its first "
            f"line. {COPY_AGAIN}"
        )
    for key, kind in _KEYS.items():
        if not isinstance(sheet.get(key), kind):
            raise ArtifactError(
                f'{name}: {DOCUMENT} has no "{key}", or one of another kind: it was not written by '
                "ptune. Ask who made it."
            )
    return sheet


def _tensors(name: str, numbers: bytes, sheet: Mapping[str, Any]) -> dict[str, Tensor]:
    """Verify prompt.safetensors, and only then parse it."""
    if _sha256(numbers) != sheet["tensors_sha256"]:
        raise ArtifactError(
            f"{name}: {TENSORS} is damaged, or belongs to another prompt: its hash is not the one "
            f"in {DOCUMENT}. {COPY_AGAIN}"
        )
    try:
        tensors = safetensors.torch.load(numbers)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{name}: {TENSORS} is not a safetensors file ({first_line(error)}), and ptune reads "
            "nothing else. Ask who made it."
        ) from error
    found, said = {key: _entry(tensor) for key, tensor in tensors.items()}, sheet["tensors"]
    wrong = sorted(key for key in {*found, *said} if found.get(key) != said.get(key))
    if wrong:
        raise ArtifactError(
            f"{name}: {TENSORS} holds other tensors than {DOCUMENT} says: {few(wrong)}. "
            "Ask who made it."
        )
    return tensors


def few(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)


def first_line(error: Exception) -> str:
    """What the system or a library said, in one line without a full stop."""
    text = (isinstance(error, OSError) and error.strerror) or str(error).strip()
    return (text or type(error).__name__).splitlines()[0].rstrip(".")
