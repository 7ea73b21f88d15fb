import json
import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptune.artifact import write_folder
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError, ConfigError
from ptune.prompt import SoftPrompt, nearest_tokens

STORED = Path(__file__).parent / "artifacts"
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


# ------------------------------------------------------------------------------- files


def test_a_version_1_prompt_loads_for_ever():
    """Never written again. It was made by:

    SoftPrompt(
        template="{soft:2}Tweet text : {text} Label : {label}",
        task="causal-lm",
        slots=2,
        vectors=torch.arange(8.0).view(2, 4) / 8,
        deep={
            site: KeysValues(
                torch.full((2, 1, 3), site + 0.5).bfloat16(), torch.ones(2, 1, 2).half()
            )
            for site in (0, 10)
        },
        offset=2,
        head={"weight": torch.eye(2)},
        labels=("no complaint", "complaint"),
        verbalizer={"no complaint": ["no"], "complaint": ["yes", "sí"]},
        backbone="example/tiny",
        fingerprint={"architecture": "a" * 32, "weights": "b" * 32, "tokenizer": "c" * 32},
        settings={
            "method": "p-tuning", "encoder": "lstm", "lr": 0.003, "columns": {"text": "Tweet"}
        },
        scores={"test": {"accuracy": 0.875, "pearson": float("nan")}},
        trained_parameters=1234,
        license="cc0-1.0",
    ).save("v1")
    """
    prompt = SoftPrompt.load(STORED / "v1")
    assert prompt.template == "{soft:2}Tweet text : {text} Label : {label}"
    assert (prompt.task, prompt.slots, prompt.offset) == ("causal-lm", 2, 2)
    same_bits(prompt.vectors, torch.arange(8.0).view(2, 4) / 8)
    assert list(prompt.deep) == [0, 10]
    for site, (keys, values) in prompt.deep.items():
        same_bits(keys, torch.full((2, 1, 3), site + 0.5).bfloat16())
        same_bits(values, torch.ones(2, 1, 2).half())
    assert list(prompt.head) == ["weight"]
    same_bits(prompt.head["weight"], torch.eye(2))
    assert prompt.labels == ("no complaint", "complaint")
    assert prompt.verbalizer == {"no complaint": ["no"], "complaint": ["yes", "sí"]}
    assert (prompt.backbone, prompt.fingerprint) == ("example/tiny", FINGERPRINT)
    assert prompt.settings["columns"] == {"text": "Tweet"}
    assert prompt.scores["test"]["accuracy"] == 0.875
    assert math.isnan(prompt.scores["test"]["pearson"])
    assert (prompt.trained_parameters, prompt.license) == (1234, "cc0-1.0")


def test_a_prompt_with_all_parts_comes_back(tmp_path):
    prompt = make()
    prompt.save(tmp_path / "complaints")
    assert_same(prompt, SoftPrompt.load(tmp_path / "complaints"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_shallow_prompt_comes_back_in_its_dtype(tmp_path, dtype):
    prompt = make(vectors=torch.randn(2, 8).to(dtype), deep={}, head={}, license=None)
    prompt.save(tmp_path / "complaints")
    loaded = SoftPrompt.load(tmp_path / "complaints")
    assert loaded.vectors.dtype == dtype
    assert_same(prompt, loaded)
    assert loaded.license is None


def test_a_deep_prompt_without_vectors_and_a_template_without_prompt_come_back(tmp_path):
    for changes in ({}, {"deep": {}}):
        prompt = make(vectors=None, slots=0, template="{text} is {label}", **changes)
        prompt.save(tmp_path / "complaints")
        assert_same(prompt, SoftPrompt.load(tmp_path / "complaints"))


def test_attention_sites_come_back_in_their_order(tmp_path):
    deep = {site: KeysValues(torch.ones(2, 1, 3), torch.ones(2, 1, 3)) for site in range(30)}
    make(deep=deep).save(tmp_path / "a")
    assert list(SoftPrompt.load(tmp_path / "a").deep) == list(range(30))


def test_a_loaded_prompt_saves_to_the_same_bytes(tmp_path):
    make(scores={"test": {"pearson": math.nan}}, settings={"train": "/x/y.csv"}).save(
        tmp_path / "a"
    )
    SoftPrompt.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("prompt.json", "prompt.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_size_is_that_of_the_two_files_on_the_disk(tmp_path):
    prompt = make()
    prompt.save(tmp_path / "a")
    sizes = [(tmp_path / "a" / n).stat().st_size for n in ("prompt.json", "prompt.safetensors")]
    assert prompt.size_bytes == sum(sizes)


def test_undefined_scores_are_null_in_the_file_and_nan_again_when_read(tmp_path):
    make(scores={"test": {"pearson": math.nan, "mse": math.inf}, "n": 3}).save(tmp_path / "a")
    written = json.loads((tmp_path / "a/prompt.json").read_text())["document"]["scores"]
    assert written == {"test": {"pearson": None, "mse": None}, "n": 3}
    scores = SoftPrompt.load(tmp_path / "a").scores
    assert math.isnan(scores["test"]["pearson"])
    assert math.isnan(scores["test"]["mse"])
    assert scores["n"] == 3


def test_no_file_tells_where_the_user_keeps_things(tmp_path):
    home = "/home/alice"
    settings = {
        "backbone": f"{home}/models/tiny",
        "train": f"{home}/data/train.csv",
        "test": Path(f"{home}/data/test.csv"),
        "validation": "C:\\Users\\alice\\dev.csv",
        "output": "~alice/runs",
        "init": f"file://{home}/old",
        "more": [{"path": f"{home}/z"}, ("a", 1, None, True)],
        "dataset": "hub:alicia/tweets",
        "relative": "data/train.csv",
        "template": "/imagine {text}",
        "init_text": "/imagine",
    }
    make(backbone=f"{home}/models/tiny", settings=settings).save(tmp_path / "complaints")
    everything = b"".join(p.read_bytes() for p in (tmp_path / "complaints").iterdir())
    assert b"alice" not in everything
    assert str(tmp_path).encode() not in everything
    prompt = SoftPrompt.load(tmp_path / "complaints")
    assert prompt.backbone == "./tiny"
    assert prompt.settings == {
        "backbone": "./tiny",
        "train": "./train.csv",
        "test": "./test.csv",
        "validation": "./dev.csv",
        "output": "./runs",
        "init": "./old",
        "more": [{"path": "./z"}, ["a", 1, None, True]],
        "dataset": "hub:alicia/tweets",
        "relative": "data/train.csv",
        "template": "/imagine {text}",
        "init_text": "/imagine",
    }


def test_a_folder_is_not_taken_for_a_model_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models/tiny").mkdir(parents=True)
    for given_name, kept in (
        ("models/tiny", "./models/tiny"),
        ("./models/tiny", "./models/tiny"),
        ("models/other", "models/other"),
        ("gpt2", "gpt2"),
    ):
        document = make(backbone=given_name, settings={"backbone": given_name}).document()
        assert document["backbone"] == document["settings"]["backbone"] == kept


def test_a_missing_folder_is_said_and_the_network_not_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal(SoftPrompt.load, "bob/complaints") == (
        "bob/complaints: there is no such folder. Give the folder that a training run wrote, or "
        "hub:owner/name for a prompt on the Hugging Face hub."
    )


@pytest.mark.parametrize("key", ["template", "slots", "labels", "settings", "trained_parameters"])
@pytest.mark.parametrize("value", [None, 1.5])
def test_a_document_of_another_shape_is_refused(tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    prompt = make()
    write_folder("complaints", {"vectors": prompt.vectors}, prompt.document() | {key: value}, "")
    assert refusal(SoftPrompt.load, "complaints") == (
        f'complaints: its document has no "{key}", or one of another kind: it was not written by '
        "ptune. Ask who made it."
    )


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (
            {"optimizer": torch.ones(1)},
            (
                '"optimizer" is no tensor of a prompt. Known: vectors, deep.N.keys, deep.N.values '
                "and head.NAME. Ask who made it."
            ),
        ),
        (
            {"deep.7.values": torch.ones(2, 1, 3)},
            "attention site 7 has values alone, and needs keys and values. Ask who made it.",
        ),
        (
            {"vectors": torch.ones(3, 3)},
            (
                "The prompt has 2 virtual tokens and vectors for 3. "
                "Give one vector for each virtual token."
            ),
        ),
    ],
)
def test_tensors_that_make_no_prompt_are_refused(tmp_path, monkeypatch, tensors, sentence):
    monkeypatch.chdir(tmp_path)
    write_folder("complaints", tensors, make().document(), "")
    assert refusal(SoftPrompt.load, "complaints") == f"complaints: {sentence}"


def test_new_keys_of_a_later_ptune_are_passed_over(tmp_path):
    prompt = make(deep={}, head={})
    document = prompt.document() | {"notes": "later", "vectors": "later"}
    write_folder(tmp_path / "a", {"vectors": prompt.vectors}, document, "")
    assert_same(prompt, SoftPrompt.load(tmp_path / "a"))


def test_saving_over_a_prompt_that_cannot_be_written_leaves_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make().save("complaints")
    Path("complaints/mine.txt").touch()
    assert refusal(make(slots=0, vectors=None, deep={}).save, "complaints") == (
        "complaints: holds other files (mine.txt), and a prompt needs a folder of its own. "
        "Choose another name."
    )
    assert SoftPrompt.load("complaints").slots == 2


def test_the_hub_is_asked_for_hub_names(tmp_path, monkeypatch):
    calls = {}

    def push(path, repo_id, *, private, api):
        calls["pushed"] = (repo_id, private, api)
        Path(path).rename(tmp_path / "remote")
        return "https://hub/bob/x"

    def pull(repo_id, *, revision, api):
        calls["pulled"] = (repo_id, revision, api)
        return tmp_path / "remote"

    monkeypatch.setattr("ptune.artifact.push", push)
    monkeypatch.setattr("ptune.artifact.pull", pull)
    prompt = make()
    assert prompt.push_to_hub("bob/x", private=True) == "https://hub/bob/x"
    assert_same(prompt, SoftPrompt.load("hub:bob/x", revision="v1"))
    assert calls == {"pushed": ("bob/x", True, None), "pulled": ("bob/x", "v1", None)}
    card = (tmp_path / "remote/README.md").read_text()
    assert "\n# x\n" in card
    assert 'ptune.SoftPrompt.load("hub:bob/x")' in card


def test_the_card_of_a_saved_prompt_bears_the_name_of_its_folder(tmp_path):
    make().save(tmp_path / "complaints")
    card = (tmp_path / "complaints/README.md").read_text()
    assert "\n# complaints\n" in card
    assert "2 virtual tokens and keys and values for 2 positions at 2 attention sites" in card
    assert 'ptune.SoftPrompt.load("complaints")' in card


# ------------------------------------------------------------------------------- checks


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
        f"{what}. Load the backbone that it was made for, or pass force=True if you know that the "
        "difference does not matter."
    )
    make().check(FINGERPRINT | changes, "example/other", force=True)


def test_a_prompt_that_does_not_know_its_backbone_is_refused():
    prompt = make(fingerprint={"architecture": "a" * 32, "weights": "b" * 32})
    assert refusal(prompt.check, FINGERPRINT, "example/other") == (
        'The prompt was made for backbone "example/tiny" and not for "example/other": another '
        "tokenizer (tokenizer unknown, not cccccccc). Load the backbone that it was made for, or "
        "pass force=True if you know that the difference does not matter."
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


# ------------------------------------------------------------------------------- nearest tokens


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 40))
def test_nearest_tokens_are_those_of_the_plain_formula(seed, k, rows_at_once):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(30, 4, generator=generator)
    vectors = torch.randn(3, 4, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ptune.prompt.ROWS_AT_ONCE", rows_at_once)
        found = nearest_tokens(vectors, table, k)
    for vector, nearest in zip(vectors, found, strict=True):
        cosines = [float(vector @ row / (vector.norm() * row.norm())) for row in table]
        expected = sorted(range(30), key=lambda token: -cosines[token])[:k]
        assert [token for token, _ in nearest] == expected
        assert [c for _, c in nearest] == pytest.approx([cosines[t] for t in expected], abs=1e-5)


def test_a_half_precision_table_is_compared_in_full_precision():
    table = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    ((best, _),) = nearest_tokens(table[7:8].float(), table, k=2)
    assert best == (7, pytest.approx(1.0, abs=1e-6))


def test_k_beyond_the_table_gives_all_and_zero_vectors_have_cosine_zero():
    table = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert nearest_tokens(torch.tensor([[2.0, 0.0]]), table, k=9) == [[(1, 1.0), (0, 0.0)]]


def test_nearest_tokens_refuse_what_cannot_be_compared():
    with pytest.raises(ConfigError) as error:
        nearest_tokens(torch.ones(1, 2), torch.ones(1, 2), k=0)
    assert str(error.value) == "k = 0: ask for at least 1 token."
    unchecked = getattr(nearest_tokens, "__wrapped__", nearest_tokens)  # as in production
    with pytest.raises(ConfigError) as error:
        unchecked(torch.ones(1, 2), torch.ones(1, 3), k=1)
    assert str(error.value) == (
        "The prompt's vectors have 2 numbers and the tokens 3. "
        "Give the embeddings of the backbone that the prompt was made for."
    )
