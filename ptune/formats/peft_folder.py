"""A PEFT folder of a prompt, as it lies on the disk.

    complaints-peft/
      adapter_config.json         {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20, ...}
      adapter_model.safetensors   prompt_embeddings, base_model.classifier.weight, ...
                                  (or adapter_model.bin, read with `weights_only`)

Knows names and tensors; what they mean is the business of `peft_import` and `peft_export`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from torch import Tensor

from ptune.artifact import fetch, few, first_line, write_files
from ptune.errors import ArtifactError

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CARD = "README.md"
# Kinds of prompts: keys and values at attention sites, or vectors in front of the text.
DEEP = ("PREFIX_TUNING", "CARTRIDGE")
SHALLOW = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
# PEFT's task -> ptune's.
TASKS: Mapping[str, str] = {
    "CAUSAL_LM": "causal-lm",
    "SEQ_2_SEQ_LM": "seq2seq-lm",
    "SEQ_CLS": "sequence-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
}
HEADS = ("classifier", "score", "qa_outputs")
AGAIN = "Copy the whole folder again from where it was made."


@dataclass(frozen=True, slots=True)
class PeftFolder:
    """What a folder says and holds.

    Args:
        name: what messages call it.
        config: adapter_config.json.
        tensors: by their names in the file.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        """PEFT's name of the method."""
        return str(self.config["peft_type"])

    @property
    def slots(self) -> int:
        """Number of virtual tokens."""
        return int(self.config["num_virtual_tokens"])

    def tensor(self, name: str, axes: int = 2) -> Tensor:
        """One tensor, in float32.

        Raises:
            ArtifactError: it is not there, or has another number of axes.
        """
        found = self.tensors.get(name)
        if found is None or found.ndim != axes:
            seen = few(sorted(self.tensors)) or "nothing"
            what = "no" if found is None else f"shape {tuple(found.shape)} for"
            raise ArtifactError(
                f'{self.name}: the weights have {what} tensor "{name}" (found: {seen}), which a '
                f"{self.kind} folder has. {AGAIN}"
            )
        return found.float()

    def head(self) -> dict[str, Tensor]:
        """Tensors of the trained head, named from its module on: "classifier.weight"."""
        head = {}
        for name, tensor in self.tensors.items():
            own = name.removeprefix("base_model.").removeprefix("model.")
            if own.split(".")[0] in HEADS:
                head[own] = tensor.float()
        return head


def read_peft(
    source: str | Path, *, revision: str | None = None, api: HfApi | None = None
) -> PeftFolder:
    """Read a folder, or "hub:owner/name".

    Raises:
        ArtifactError: missing, damaged, or no prompt of PEFT's.
    """
    name, folder = str(source), Path(source)
    if name.startswith("hub:"):
        wanted = (CONFIG, WEIGHTS, PICKLED)
        folder = fetch(name.removeprefix("hub:"), wanted, revision=revision, api=api)
    config = _config(name, folder)
    return PeftFolder(name, config, _weights(name, folder))


def _config(name: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{name}: there is no {CONFIG}, so it is no folder of PEFT's. Give the folder that "
            "save_pretrained wrote, or hub:owner/name for one on the hub; an adapter that is not "
            "called default lies in a folder of its name within it."
        ) from error
    except OSError as error:
        raise ArtifactError(f"{name}: {CONFIG} cannot be read: {first_line(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{name}: {CONFIG} is damaged: not JSON ({first_line(error)}). {AGAIN}"
        ) from error
    _check_config(name, config)
    return config


def _check_config(name: str, config: Any) -> None:
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ArtifactError(f'{name}: {CONFIG} has no "peft_type". {AGAIN}')
    if kind not in (*DEEP, *SHALLOW):
        known = ", ".join((*SHALLOW, *DEEP))
        raise ArtifactError(
            f"{name}: is a {kind} adapter, which is not a prompt: it changes the model's weights. "
            f"Use PEFT for it. Prompts that ptune imports: {known}."
        )
    slots = config.get("num_virtual_tokens")
    if not isinstance(slots, int) or slots < 1:
        raise ArtifactError(
            f'{name}: {CONFIG} says "num_virtual_tokens": {slots!r}, and a prompt has at least 1. '
            f"{AGAIN}"
        )


def _weights(name: str, folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).exists():
        try:
            return safetensors.torch.load((folder / WEIGHTS).read_bytes())
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"{name}: {WEIGHTS} is damaged ({first_line(error)}). {AGAIN}"
            ) from error
    if not (folder / PICKLED).exists():
        raise ArtifactError(f"{name}: neither {WEIGHTS} nor {PICKLED} is there. {AGAIN}")
    return plain_tensors(f"{name}: {PICKLED}", load_pickled(f"{name}: {PICKLED}", folder / PICKLED))


def load_pickled(name: str, file: Path) -> Any:
    """Read a file of torch's, which may hold tensors and plain data, and no code.

    Raises:
        ArtifactError: damaged, or it holds more than that.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no file of torch's fail in any way
        raise ArtifactError(
            f"{name}: is damaged, or holds more than tensors ({first_line(error)}), and ptune runs "
            "no code from files. Save the tensors alone again: torch.save(state_dict, file)."
        ) from error


def plain_tensors(name: str, found: Any) -> dict[str, Tensor]:
    """Refuse anything but tensors by name."""
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ArtifactError(f"{name}: holds something else than tensors by name. {AGAIN}")
    return {str(key): tensor for key, tensor in found.items()}


def write_peft(
    path: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str
) -> None:
    """Write a folder that `PeftModel.from_pretrained` loads, whole or not at all.

    Raises:
        ArtifactError: it cannot be written or holds other files.
    """
    plain = {name: t.detach().float().cpu().clone().contiguous() for name, t in tensors.items()}
    files = {
        CONFIG: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
        WEIGHTS: safetensors.torch.save(plain, metadata={"format": "pt"}),
        CARD: card.encode(),
    }
    write_files(path, files)
