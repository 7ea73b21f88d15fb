"""By what a prompt knows its backbone: hashes of its shapes, of its weights and of its tokenizer.

    fingerprint_of(body, tokenizer)
    {"architecture": "5f0c…", "weights": "a91b…", "tokenizer": "77d2…"}

A few numbers of each weight are looked at, so that a model of any size takes a moment. Knows no
prompt and no family of models.
"""

import hashlib
import json
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ptune.inject import stored

# Values of each weight that enter the fingerprint: enough to tell a fine-tuned copy from its
# origin, few enough to be read in a moment from a model of any size.
SAMPLES_PER_WEIGHT = 64


def fingerprint_of(
    body: nn.Module, tokenizer: Any, without: Collection[str] = ()
) -> dict[str, str]:
    """Hashes of a model without its head, and of its tokenizer.

    `architecture`: names and shapes of the body's weights. `weights`: a sample of each, rounded
    to bfloat16, so that float32 and bfloat16 copies of a model agree; and which of PEFT's
    adapters are in force. `tokenizer`: its vocabulary and special tokens.

    Args:
        without: names of weights of the body whose values do not count, for a prompt brings them.
    """
    shapes, values = hashlib.sha256(), hashlib.sha256()
    shapes.update(type(body).__name__.encode())
    for name in sorted(name for name, _ in body.named_parameters()):
        weight = _weight(body, name)
        shapes.update(f"{name}{tuple(weight.shape)}".encode())
        if name not in without:
            values.update(_sample(weight))
    for name, adapters in adapters_of(body).items():
        values.update(f"{name} {adapters}".encode())
    words = json.dumps(
        [sorted(tokenizer.get_vocab().items()), _special_tokens(tokenizer)], ensure_ascii=False
    )
    return {
        "architecture": shapes.hexdigest()[:32],
        "weights": values.hexdigest()[:32],
        "tokenizer": hashlib.sha256(words.encode()).hexdigest()[:32],
    }


def adapters_of(model: nn.Module) -> dict[str, str]:
    """Which of PEFT's adapters are in force in which module, and how strongly.

    Weights alone do not say it.
    """
    found = {}
    for name, module in model.named_modules():
        active: Any = getattr(module, "active_adapters", None)
        if isinstance(active, list):  # a method of the same name is transformers' own
            off, merged = (getattr(module, key, None) for key in ("disable_adapters", "merged"))
            found[name] = f"{sorted(active)} off={off} merged={merged}"
            scaling: Any = getattr(module, "scaling", None)
            if isinstance(scaling, dict):
                found[name] += f" by={[scaling.get(adapter) for adapter in sorted(active)]}"
    return found


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    return {k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())}


def _weight(body: nn.Module, name: str) -> Tensor:
    parent, _, own = name.rpartition(".")
    return stored(body.get_submodule(parent), own)


def _sample(weight: Tensor) -> bytes:
    plain = type(weight.detach()) is Tensor and weight.is_floating_point()
    if not plain:  # quantised by a library: its numbers depend on the method
        return b""
    flat = weight.detach().flatten()
    step = max(1, len(flat) // SAMPLES_PER_WEIGHT)
    picked = flat[::step][:SAMPLES_PER_WEIGHT].to("cpu", torch.bfloat16).contiguous()
    return bytes(picked.view(torch.uint8).tolist())
