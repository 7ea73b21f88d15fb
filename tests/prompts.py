"""Soft prompts with all parts, for the tests of prompts."""

import pytest
import torch

from ptune.encoders import KeysValues
from ptune.errors import ArtifactError
from ptune.prompt import SoftPrompt

FINGERPRINT = {"architecture": "a" * 32, "weights": "b" * 32, "tokenizer": "c" * 32}


def make(**changes):
    parts = {
        "template": "{soft:2}Tweet text : {text} Label : {label}",
        "task": "causal-lm",
        "slots": 2,
        "vectors": torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]),
        "deep": {
            10: KeysValues(torch.randn(2, 2, 3), torch.randn(2, 2, 4)),
            9: KeysValues(torch.randn(2, 1, 3).bfloat16(), torch.randn(2, 1, 3).half()),
        },
        "offset": 2,
        "head": {"weight": torch.randn(2, 4), "out.bias": torch.randn(2)},
        "labels": ("no complaint", "complaint"),
        "verbalizer": {"no complaint": ["no"], "complaint": ["yes", "sí"]},
        "backbone": "example/tiny",
        "fingerprint": FINGERPRINT,
        "settings": {"method": "p-tuning", "lr": 0.003, "layers": None, "few_shot": [1, 2]},
        "scores": {"accuracy": 0.875},
        "trained_parameters": 1234,
        "license": "cc0-1.0",
    }
    return SoftPrompt(**parts | changes)


def refusal(call, *args, **kwargs):
    with pytest.raises(ArtifactError) as error:
        call(*args, **kwargs)
    return str(error.value)


def same_bits(one, other):
    assert one.dtype == other.dtype
    assert torch.equal(one, other)


def assert_same(one, other):
    assert one.document() == other.document()
    if one.vectors is None:
        assert other.vectors is None
    else:
        same_bits(one.vectors, other.vectors)
    assert sorted(one.deep) == list(other.deep)
    for site, pair in one.deep.items():
        same_bits(pair.keys, other.deep[site].keys)
        same_bits(pair.values, other.deep[site].values)
    assert one.head.keys() == other.head.keys()
    for name, tensor in one.head.items():
        same_bits(tensor, other.head[name])
