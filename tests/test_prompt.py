import json
import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from prompts import FINGERPRINT, make, refusal, same_bits

from ptune.encoders import KeysValues


@pytest.mark.parametrize("slots", [0, 1, 3])
def test_vectors_and_virtual_tokens_must_agree(slots):
    assert refusal(make, slots=slots) == (
        f"The prompt has {slots} virtual tokens and vectors for 2. "
        "Give one vector for each virtual token."
    )


def test_virtual_tokens_without_vectors_are_refused():
    assert refusal(make, vectors=None) == (
        "The prompt has 2 virtual tokens and vectors for 0. Give one vector for each virtual token."
    )


def test_keys_and_values_must_agree():
    for keys, values in (((2, 1, 3), (2, 2, 3)), ((2, 1, 3), (3, 1, 3)), ((2, 3), (2, 3))):
        pair = KeysValues(torch.zeros(keys), torch.zeros(values))
        assert refusal(make, deep={4: pair}) == (
            "The keys and values at attention site 4 do not fit together: their shapes are "
            f"{keys} and {values}. Both are (slots, kv_heads, head_dim), equal in the first two."
        )


def test_numbers_that_are_not_finite_are_refused():
    for value in (math.nan, math.inf, -math.inf):
        head = {"weight": torch.tensor([1.0, value, value])}
        assert refusal(make, head=head) == (
            "2 of the 3 numbers in head.weight are not finite, so the prompt cannot work. "
            "Train again with a smaller lr."
        )


def test_a_prompt_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        make().slots = 3


def test_the_backbone_it_was_made_for_is_accepted():
    make().check(FINGERPRINT, "a copy under another name")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"weights": "d" * 32}, "weights (weights bbbbbbbb, not dddddddd)"),
        (
            {"weights": "d" * 32, "tokenizer": "e" * 32},
            (
                "weights and tokenizer (weights bbbbbbbb, not dddddddd; "
                "tokenizer cccccccc, not eeeeeeee)"
            ),
        ),
        (
            {"architecture": "f" * 32, "weights": "d" * 32, "tokenizer": "e" * 32},
            (
                "architecture, weights and tokenizer (architecture aaaaaaaa, not ffffffff; "
                "weights bbbbbbbb, not dddddddd; tokenizer cccccccc, not eeeeeeee)"
            ),
        ),
    ],
)
def test_another_backbone_is_refused_part_by_part_unless_forced(changes, what):
    assert refusal(make().check, FINGERPRINT | changes, "example/other") == (
        f'The prompt was made for backbone "example/tiny" and not for "example/other": another '
        f"{what}. Load the backbone that it was made for, or pass --force (force=True) if you know "
        "that the difference does not matter."
    )
    make().check(FINGERPRINT | changes, "example/other", force=True)


def test_a_prompt_that_does_not_know_its_backbone_is_refused():
    prompt = make(fingerprint={"architecture": "a" * 32, "weights": "b" * 32})
    assert refusal(prompt.check, FINGERPRINT, "example/other") == (
        'The prompt was made for backbone "example/tiny" and not for "example/other": another '
        "tokenizer (tokenizer unknown, not cccccccc). Load the backbone that it was made for, or "
        "pass --force (force=True) if you know that the difference does not matter."
    )


# ------------------------------------------------------------------------------- using it


def test_tensors_are_the_parts_in_the_dtype_asked_for():
    prompt = make()
    kept, cast = prompt.tensors(), prompt.tensors("cpu", torch.float64)
    assert (kept.offset, cast.offset) == (2, 2)
    same_bits(kept.vectors, prompt.vectors)
    same_bits(kept.deep[9].keys, prompt.deep[9].keys)
    same_bits(cast.vectors, prompt.vectors.double())
    same_bits(cast.deep[9].values, prompt.deep[9].values.double())
    assert make(vectors=None, slots=0).tensors(dtype=torch.float16).vectors is None
    assert prompt.tensors(device="meta").vectors.is_meta


def test_the_summary_is_plain_data():
    summary = make().summary()
    assert json.loads(json.dumps(summary)) == summary
    assert {key: summary[key] for key in summary.keys() - make().document().keys()} == {
        "schema_version": 1,
        "width": 3,
        "norms": [5.0, 2.0],
        "sites": {"9": [2, 1, 3], "10": [2, 2, 3]},
        "head": {"weight": [2, 4], "out.bias": [2]},
        "dtypes": ["bfloat16", "float16", "float32"],
        "numbers": 6 + 12 + 16 + 6 + 6 + 8 + 2,
        "size_bytes": make().size_bytes,
    }
    assert summary["task"] == "causal-lm"
    bare = make(vectors=None, deep={}, slots=0, head={}).summary()
    assert (bare["width"], bare["norms"], bare["numbers"]) == (None, [], 0)


def test_a_prompt_is_shown_in_one_line():
    assert repr(make()) == (
        "SoftPrompt('causal-lm', 2 virtual tokens, 2 attention sites, 2 labels, "
        "backbone='example/tiny')"
    )
