import re
from dataclasses import replace

import pytest
import tiny
import torch
from tiny_runs import LABELS, TEMPLATE, TEXTS, write_rows

from ptune.bench import peer
from ptune.bench.peer import padded_inputs, peer_side, peer_workload
from ptune.bench.sides import Timed, make_workload, own_side
from ptune.config import Recipe
from ptune.errors import ConfigError

pytest.importorskip("peft")
# PEFT asks transformers for a property, and hands over a cache, by their old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning"),
]

WORDS = {"method": "prompt-tuning", "template": TEMPLATE, "loss": "vocabulary"}
DEEP = {"method": "p-tuning-v2", "prompt_length": 3}
SAID = DEEP | {"template": "{text} label : {label}", "loss": "vocabulary"}
HEAD = DEEP | {"template": "{text}", "task": "sequence-classification"}

LABEL = tiny.WORDS.index("label")
ANOTHER_LOSS = (
    "The losses are not compared: the recipe's is over the labels, PEFT's over the whole "
    "vocabulary. With loss=vocabulary they are the same."
)
ANOTHER_NETWORK = (
    "The losses are not compared: PEFT's network that makes the prompt is another one, and starts "
    "elsewhere. With method=prompt-tuning, or without projection, they are the same."
)
ANOTHER_PLACE = (
    "PEFT is left out: its virtual tokens stand in front of everything, and those of template "
    '"{text} {soft:2} label : {label}" do not.'
)
ANOTHER_POOL = (
    "PEFT is left out: with prompt-tuning and a trained head it pools a virtual token or a pad, "
    "which is another computation."
)


@pytest.fixture
def rows(tmp_path):
    lines = [("text", "label"), *zip(TEXTS, LABELS, strict=True)]
    return str(write_rows(tmp_path / "rows.csv", lines))


def recipe_of(rows, settings):
    batches = {} if "tokens_per_batch" in settings else {"batch_size": 4}
    return Recipe.make(backbone="tiny", train=rows, validation_share=0, **batches, **settings)


def peer_of(rows, settings, family="llama"):
    recipe, backbone = recipe_of(rows, settings), tiny.backbone(family)
    job = peer_workload(recipe, backbone, steps=3)
    return job, peer_side(job, recipe)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", WORDS),  # answers of one token and of two
        ("llama", SAID),
        ("gpt2", SAID),  # absolute positions: keys of a text take some from the rows
        ("bloom", SAID),
        ("bert", HEAD),
        ("bert", HEAD | {"pooling": "mean"}),
        ("roberta", HEAD),
        ("llama", HEAD),
    ],
)
def test_peft_takes_the_same_steps(rows, family, settings):
    recipe, backbone = recipe_of(rows, settings), tiny.backbone(family)
    job = make_workload(recipe, backbone, steps=3)
    own = Timed(job, own_side(job))
    with backbone.injected():
        losses = [own.step()["loss"] for _ in range(3)]
    job, side = peer_of(rows, settings, family)
    other = Timed(job, side)
    assert side.another is None
    assert [other.step()["loss"] for _ in range(3)] == pytest.approx(losses, abs=2e-5)
    assert losses[0] != pytest.approx(losses[2], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            WORDS | {"loss": "labels"},
            ANOTHER_LOSS,
        ),
        (
            WORDS | {"method": "p-tuning", "encoder": "mlp"},
            ANOTHER_NETWORK,
        ),
        (
            SAID | {"projection": 4},
            ANOTHER_NETWORK,
        ),
        (
            HEAD | {"prefix_dropout": 0.5},
            "The losses are not compared: PEFT has no dropout on keys and values.",
        ),
    ],
)
def test_losses_of_another_function_are_told_to_be(rows, settings, sentence):
    job, side = peer_of(rows, settings)
    assert side.another == sentence
    assert Timed(job, side).step()["loss"] > 0


@pytest.mark.parametrize("on", [False, True])
def test_peft_has_the_backbones_dropout_where_the_recipe_has_it(rows, on):
    job, side = peer_of(rows, WORDS | {"backbone_dropout": on}, "gpt2")
    (batch, *_) = job.steps[0]
    first, second = (side.losses(batch) for _ in "ab")
    assert torch.equal(first, second) is not on
    said = "The losses are not compared: dropout of the backbone is another draw on each side."
    assert side.another == (said if on else None)


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        (
            "llama",
            WORDS | {"template": "{text} {soft:2} label : {label}"},
            ANOTHER_PLACE,
        ),
        (
            "bert",
            HEAD | {"method": "prompt-tuning", "template": "{soft:2}{text}"},
            ANOTHER_POOL,
        ),
        (
            "llama",
            WORDS | {"encoder": "residual"},
            "PEFT is left out: it has no residual encoder.",
        ),
        (
            "llama",
            SAID | {"layers": "upper:1"},
            "PEFT is left out: its prefixes go to all layers or to none.",
        ),
        (
            "llama",
            SAID | {"template": TEMPLATE},
            "PEFT is left out: it has no prompt that is deep and stands in the text at once.",
        ),
        (
            "albert",
            HEAD,
            "PEFT is left out: it gives layers that share their weights no prefix.",
        ),
    ],
)
def test_what_peft_cannot_say_is_left_out(rows, family, settings, sentence):
    recipe = recipe_of(rows, settings)
    job = peer_workload(recipe, tiny.backbone(family), steps=1)
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        peer_side(job, recipe)


def test_both_sides_see_the_same_rows_where_labels_make_them_longer_than_their_own_words(rows):
    """Batches of so many tokens: one label's two tokens count in every row, or in its own ones."""
    settings = WORDS | {"loss": "labels", "tokens_per_batch": 40}
    recipe, backbone = recipe_of(rows, settings), tiny.backbone("llama")
    own = make_workload(recipe, backbone, steps=4)
    other = peer_workload(recipe, backbone, steps=4)

    def texts(job):
        front = [[[e.sequence.ids for e in part] for part in step] for step in job.steps]
        return [[[ids[: ids.index(LABEL)] for ids in part] for part in step] for step in front]

    assert texts(own) == texts(other)
    assert len({len(part) for step in texts(own) for part in step}) > 1
    assert all(isinstance(e.target, int) for step in own.steps for part in step for e in part)
    assert all(isinstance(e.target, tuple) for step in other.steps for part in step for e in part)


def test_without_peft_there_is_a_sentence(rows, monkeypatch):
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^PEFT is not installed, so .* pip install peft$"):
        peer_of(rows, WORDS)


def test_rows_are_padded_behind_their_answers():
    inputs = padded_inputs(tiny.backbone("llama"), [((5, 6), (7, 8)), ((9,), (7,))], -3)
    assert {name: value.tolist() for name, value in inputs.items()} == {
        "input_ids": [[5, 6, 7, 8], [9, 7, 0, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "labels": [[-100, -100, 7, 8], [-100, 7, -100, -100]],
        "position_ids": [[-3, -2, -1, 0]] * 2,
    }


def questions(tmp_path):
    """Contexts of several windows."""
    context = "my parcel is late , thank you , the film is very good . where is the parcel ?"
    rows = [
        ("question", "context", "answers"),
        *((f"{word} ?", context, "late") for word in ("one", "two", "three", "four")),
    ]
    return str(write_rows(tmp_path / "questions.csv", rows))


ASKED = DEEP | {
    "task": "question-answering",
    "template": "question : {question} text : {context} .",
    "max_tokens": 20,
    "stride": 3,
}


def test_peft_takes_the_same_steps_on_rows_of_several_windows(tmp_path):
    rows = questions(tmp_path)
    job = make_workload(recipe_of(rows, ASKED), tiny.backbone("llama"), steps=2)
    assert any(e.others for batches in job.steps for part in batches for e in part)
    test_peft_takes_the_same_steps(rows, "llama", ASKED)


def test_segments_that_peft_passes_over_leave_it_out(tmp_path):
    recipe, backbone = recipe_of(questions(tmp_path), ASKED), tiny.backbone("bert")
    job = peer_workload(recipe, backbone, steps=1)
    part = [
        replace(e, sequence=replace(e.sequence, types=(1,) * len(e.sequence.ids)))
        for e in job.steps[0][0]
    ]
    with pytest.raises(ConfigError, match="it passes no segments"):
        peer_side(replace(job, steps=[[part]]), recipe)
