import hashlib
import json
import math
import pickle
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.artifact.contents import FILES, few, first_line, from_files, to_files
from ptune.errors import ArtifactError

TENSORS = {"vectors": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([1.5, -2.0])}
DOCUMENT = {"task": "causal-lm", "labels": ["complaint", "plainte é"], "scores": {"accuracy": 0.5}}
AGAIN = "Copy the whole folder again from where it was made."


def written() -> tuple[bytes, bytes]:
    files = to_files(TENSORS, DOCUMENT, "card")
    return files["prompt.json"], files["prompt.safetensors"]


def refusal(raw: bytes, numbers: bytes) -> str:
    with pytest.raises(ArtifactError) as error:
        from_files("complaints", raw, numbers)
    return str(error.value)


def signed(sheet: dict[str, object]) -> bytes:
    """What a program of somebody else would write with right hashes."""
    body = json.dumps(sheet).removeprefix("{").encode()
    return b'{\n "sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'",\n' + body


def sheet_of(numbers: bytes, **changes: object) -> dict[str, object]:
    raw = json.loads(written()[0])
    del raw["sha256"]
    return raw | {"tensors_sha256": hashlib.sha256(numbers).hexdigest()} | changes


def test_document_and_tensors_come_back():
    document, tensors = from_files("complaints", *written())
    assert document == DOCUMENT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_pattern_comes_back_in_its_dtype(dtype):
    bits = torch.arange(2**16, dtype=torch.int32)  # with all NaNs, infinities and subnormals
    word = torch.int32 if dtype == torch.float32 else torch.int16
    tensor = (bits * 65_537 if dtype == torch.float32 else bits).to(word).view(dtype)
    files = to_files({"vectors": tensor}, {}, "")
    read = from_files("complaints", files["prompt.json"], files["prompt.safetensors"])[1]
    assert read["vectors"].dtype == dtype
    assert torch.equal(read["vectors"].view(word), tensor.view(word))


def test_views_empty_and_scalar_tensors_and_parameters_come_back():
    table = torch.randn(4, 6)
    given_ones = {
        "column": table[:, 1],
        "turned": table.T,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "trained": torch.nn.Parameter(table),
        "same storage": table,
    }
    files = to_files(given_ones, {}, "")
    read = from_files("complaints", files["prompt.json"], files["prompt.safetensors"])[1]
    for name, tensor in given_ones.items():
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor.detach())


def test_equal_prompts_give_equal_bytes_in_any_order():
    turned = dict(reversed(TENSORS.items()))
    assert list(turned) != list(TENSORS)
    assert to_files(turned, DOCUMENT, "card") == to_files(TENSORS, DOCUMENT, "card")
    assert tuple(to_files(TENSORS, DOCUMENT, "card")) == FILES


def test_the_first_line_is_the_hash_of_the_lines_after_it():
    lines = written()[0].splitlines(keepends=True)
    digest = hashlib.sha256(b"".join(lines[2:])).hexdigest()
    assert lines[1] == f' "sha256": "{digest}",\n'.encode()


def test_every_tensor_has_its_own_hash():
    entry = json.loads(written()[0])["tensors"]["head.bias"]
    digest = hashlib.sha256(TENSORS["head.bias"].numpy().tobytes()).hexdigest()
    assert entry == {"dtype": "float32", "shape": [2], "sha256": digest}


@pytest.mark.parametrize("which", [0, 1])
def test_every_single_flipped_bit_is_refused(which):
    files = list(written())
    whole = files[which]
    for at in range(len(whole)):
        for bit in range(8):
            files[which] = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
            assert refusal(*files).startswith("complaints: ")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_cut_insertion_or_replacement_is_refused(data):
    files = list(written())
    which = data.draw(st.sampled_from([0, 1]))
    whole = files[which]
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    files[which] = whole[:start] + data.draw(st.binary(max_size=40)) + whole[stop:]
    if files[which] != whole:
        assert refusal(*files).startswith("complaints: ")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": \xff}', "not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_a_document_that_is_no_json_is_refused(raw, reason):
    expected = f"complaints: prompt.json is damaged: not JSON ({reason}). {AGAIN}"
    assert refusal(raw, b"") == expected


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"format": "other"}'])
def test_a_foreign_document_is_refused(raw):
    assert refusal(raw, b"") == (
        "complaints: prompt.json is damaged or not ptune's: it does not say "
        f'"format": "ptune soft prompt". {AGAIN}'
    )


def test_a_newer_schema_is_refused_before_its_hash_is_looked_at():
    raw = b'{"format": "ptune soft prompt", "schema_version": 2}'
    assert refusal(raw, b"") == (
        "complaints: was written by a newer ptune (schema version 2; this one reads up to 1). "
        "Update: pip install --upgrade ptune."
    )


def test_an_edited_document_is_refused():
    raw, numbers = written()
    assert refusal(raw.replace(b"0.5", b"0.9"), numbers) == (
        "complaints: prompt.json is damaged or was edited: its hash is not the one in its first "
        f"line. {AGAIN}"
    )


@pytest.mark.parametrize("key", ["schema_version", "tensors_sha256", "tensors", "document"])
@pytest.mark.parametrize("value", [None, []])
def test_a_signed_document_of_another_shape_is_refused(key, value):
    numbers = written()[1]
    assert refusal(signed(sheet_of(numbers, **{key: value})), numbers) == (
        f'complaints: prompt.json has no "{key}", or one of another kind: it was not written by '
        "ptune. Ask who made it."
    )


def test_tensors_of_another_prompt_are_refused():
    other = to_files({"vectors": torch.ones(2, 3)}, DOCUMENT, "card")["prompt.safetensors"]
    assert refusal(written()[0], other) == (
        "complaints: prompt.safetensors is damaged, or belongs to another prompt: its hash is not "
        f"the one in prompt.json. {AGAIN}"
    )


def test_a_pickle_is_refused_and_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    numbers = pickle.dumps(Trap())
    message = refusal(signed(sheet_of(numbers)), numbers)
    assert re.fullmatch(
        r"complaints: prompt\.safetensors is not a safetensors file \(.+\), and ptune reads "
        r"nothing else\. Ask who made it\.",
        message,
    )
    assert not tmp_path.joinpath("sprung").exists()
    pickle.loads(numbers)
    assert tmp_path.joinpath("sprung").exists()  # the trap works: only reading it is safe


@pytest.mark.parametrize(
    "tensors",
    [
        {"vectors": TENSORS["vectors"]},
        TENSORS | {"head.bias": torch.tensor([1.5, -2.5])},
        TENSORS | {"head.bias": TENSORS["head.bias"].half()},
        TENSORS | {"head.bias": TENSORS["head.bias"][None]},
    ],
)
def test_signed_tensors_other_than_said_are_refused_by_name(tensors):
    numbers = to_files(tensors, DOCUMENT, "card")["prompt.safetensors"]
    assert refusal(signed(sheet_of(numbers)), numbers) == (
        "complaints: prompt.safetensors holds other tensors than prompt.json says: head.bias. "
        "Ask who made it."
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [(math.nan, ValueError), (object, TypeError), ("\ud800", UnicodeEncodeError)],
)
def test_what_json_cannot_carry_is_refused_when_writing(value, kind):
    with pytest.raises(ArtifactError) as error:
        to_files({}, {"value": value}, "")
    assert type(error.value.__cause__) is kind
    assert str(error.value) == (
        f"The prompt's document cannot be written as JSON: {error.value.__cause__}. Keep to "
        "strings, finite numbers, true, false, null, lists and dictionaries."
    )


def test_long_lists_of_names_are_cut():
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(["a", "b", "c", "d"]) == "a, b, c, …"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("401.\nLog in\n"), "401"),
        (KeyError(), "KeyError"),
    ],
)
def test_errors_of_others_become_one_line(error, line):
    assert first_line(error) == line
