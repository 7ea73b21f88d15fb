import pytest
import tiny
import torch
from tiny_runs import DEEP, ROWS, SHORT, Killed, Watcher, log_of, same, tensors_of, train

import ptune
from ptune.batch import TokenSequence
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.tasks import Example
from ptune.trainable import TrainablePrompt
from ptune.training.remember import Batches, _chunks, _each_row_once, remember
from ptune.training.schedule import Plan

UPPER = DEEP | {"layers": "upper:1"}
HEAD = SHORT | {
    "method": "p-tuning-v2",
    "task": "sequence-classification",
    "template": "{text}",
    "prompt_length": 3,
    "layers": "upper:1",
}


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def said(backbone, settings, **more):
    watcher = Watcher()
    train(backbone, settings, watcher=watcher, **more)
    return watcher.facts.get("frozen trunk")


def runs_of_the_first_layer(backbone, settings, **more):
    runs = []
    site = backbone.body.get_submodule(backbone.geometry.sites[0].name)
    handle = site.register_forward_pre_hook(lambda *_: runs.append(1))
    train(backbone, settings, **more)
    handle.remove()
    return len(runs)


@pytest.mark.parametrize(("name", "settings"), [("llama", UPPER), ("bert", HEAD), ("albert", HEAD)])
@pytest.mark.parametrize("room", ["auto", "disk:1MB", "0.006MB"])
def test_a_run_that_remembers_is_the_run_that_does_not(tmp_path, name, settings, room):
    b = tiny.backbone(name)
    plain, ours = Watcher(), Watcher()
    expected = train(b, settings, watcher=plain, trunk_cache="off", test=ROWS[:3])
    got = train(b, settings, watcher=ours, trunk_cache=room, test=ROWS[:3], output=tmp_path / "run")
    assert "frozen trunk" in ours.facts
    assert "frozen trunk" not in plain.facts
    for (_, loss), (_, other) in zip(ours.steps, plain.steps, strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
    assert got.scores["test"] == pytest.approx(expected.scores["test"], rel=1e-5)
    assert got.scores["validation"] == pytest.approx(expected.scores["validation"], rel=1e-5)
    for site, kv in expected.prompt.deep.items():
        torch.testing.assert_close(got.prompt.deep[site].keys, kv.keys, rtol=1e-4, atol=1e-4)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoint",
        "log.jsonl",
        "prompt",
        "scores.json",
    ]


def test_the_first_layer_runs_in_the_first_epoch_alone(backbone):
    two, six = UPPER | {"epochs": 2}, UPPER | {"epochs": 6}
    once = runs_of_the_first_layer(backbone, two)
    assert runs_of_the_first_layer(backbone, six) == once
    # Off: the same passes to find starts and answers, and 3 a further epoch (2 steps, 1 scoring).
    off = {"trunk_cache": "off"}
    assert (
        runs_of_the_first_layer(backbone, six, **off)
        == runs_of_the_first_layer(backbone, two, **off) + 4 * 3
    )


@pytest.mark.parametrize("room", ["auto", "disk:1MB", "0.006MB"])
def test_killed_after_any_step_and_resumed_is_never_stopped(tmp_path, backbone, room):
    settings = UPPER | {"prefix_dropout": 0.3, "trunk_cache": room}
    train(backbone, settings, output=tmp_path / "whole")
    for step in (1, 3, 5):
        output = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            train(backbone, settings, output=output, watcher=Watcher(die_after=step))
        train(backbone, settings, output=output, resume=True)
        assert same(tensors_of(output / "prompt"), tensors_of(tmp_path / "whole" / "prompt"))
        assert log_of(output) == log_of(tmp_path / "whole")


def test_bf16_training_of_a_float32_backbone_scores_in_float32_as_ever(backbone):
    both = [train(backbone, UPPER, precision="bf16", trunk_cache=room) for room in ("auto", "off")]
    first, second = (run.scores["validation"] for run in both)
    assert first == pytest.approx(second, rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "more", "sentence"),
    [
        # 40 words, "label :" ten times, and a continuation of each row: 70 tokens of 32 floats.
        (UPPER, {}, "Frozen trunk: 2 of 3 layers remembered, 8.96 kB in memory."),
        (
            UPPER,
            {"trunk_cache": "disk:0.006MB"},
            "Frozen trunk: 2 of 3 layers remembered for 6 of 10 rows, 5.5 kB on disk.",
        ),
        (
            UPPER,
            {"trunk_cache": "0.001MB"},
            "Frozen trunk: not remembered, because 0.001MB has no room for a batch.",
        ),
        (UPPER, {"epochs": 1}, "Frozen trunk: not remembered, because the run has one epoch."),
        (
            UPPER,
            {"template": "{soft:1}{text} label : {label}"},
            "Frozen trunk: not remembered, because the template has virtual tokens.",
        ),
        (UPPER, {"trunk_cache": "off"}, None),
        (DEEP, {}, None),
        (DEEP | {"layers": "upper:3"}, {}, None),
    ],
)
def test_a_run_says_what_it_remembers(backbone, settings, more, sentence):
    assert said(backbone, settings | more) == sentence


def test_a_backbone_that_cannot_be_cut_is_trained_the_ordinary_way():
    b = tiny.backbone("llama")
    layer = b.body.layers[0]
    forward = layer.forward
    layer.forward = lambda *args, **named: (forward(*args, **named), torch.ones(1))
    b.body.layers[1].register_forward_pre_hook(lambda _m, args: (args[0][0], *args[1:]))
    sentence = "Frozen trunk: not remembered, because its layers return more than states."
    assert said(b, UPPER) == sentence


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, backbone):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "run"
    message = (
        f"{output}: cannot be written (Not a directory), and trunk_cache is to be kept there. "
        "Choose another output folder, or keep it in main memory (trunk_cache: 2GB)."
    )
    with pytest.raises(ConfigError) as error:
        train(backbone, UPPER, trunk_cache="disk:1MB", output=output)
    assert str(error.value) == message


@pytest.mark.parametrize("world", [1, 2])
def test_rows_are_computed_with_those_of_their_first_batch(world):
    rows = [Example(TokenSequence((at + 1,) * (at + 1))) for at in range(10)]
    plan = Plan.make(7, rows_per_step=4, batch_size=2, epochs=2, max_steps=None, seed=0)
    batches = Batches(rows[:7], rows[7:], plan, 2)
    chunks = list(_chunks(batches, rank=world - 1, world=world))
    first = [rows[at].sequence for at in plan.rows_of(0)[0::world]][:2]
    assert chunks[0] == first
    assert all(len(chunk) <= 2 for chunk in chunks)
    whole = [sequence.ids for chunk in chunks for sequence in chunk]
    # To train on, those of all processes; to validate on, the process's own: 8 is the second one's.
    mine = range(10) if world == 1 else [*range(7), 8]
    assert sorted(whole) == [rows[at].sequence.ids for at in mine]
    held_out = [[9, 8], [7]] if world == 1 else [[8]]
    assert chunks[-len(held_out) :] == [[rows[at].sequence for at in some] for some in held_out]


def test_rows_of_several_learners_take_room_once():
    rows = [Example(TokenSequence((at + 1,) * (at + 1))) for at in range(6)]
    plan = Plan.make(3, rows_per_step=3, epochs=2, max_steps=None, seed=0)
    sequences = [[row.sequence for row in rows[at : at + 3]] for at in (0, 2, 1, 3)]
    assert [[len(one.ids) for one in chunk] for chunk in _each_row_once(sequences)] == [
        [1, 2, 3],
        [4, 5],
        [6],
    ]
    learners = [Batches(rows[at : at + 3], (), plan, 2) for at in (0, 3)]
    chunks = [list(_chunks(one, rank=0, world=1)) for one in learners]
    assert [sorted(len(one.ids) for one in chunk) for (chunk,) in chunks] == [[1, 2, 3], [4, 5, 6]]


def test_the_rows_of_all_replicas_are_remembered(backbone):
    """The first one has few rows and one epoch; the second has all of them, and more."""
    few, all_rows = {"max_rows": 4, "epochs": 1}, {}
    watchers = [Watcher(), Watcher()]
    ptune.train_replicas(backbone, ROWS, variants=(few, all_rows), watchers=watchers, **UPPER)
    sentence = "Frozen trunk: 2 of 3 layers remembered, 8.96 kB in memory."
    assert [watcher.facts["frozen trunk"] for watcher in watchers] == [sentence] * 2


@pytest.mark.parametrize(("world", "epochs", "kept"), [(2, 2, False), (2, 3, True), (1, 2, True)])
def test_with_several_processes_it_takes_more_epochs_to_pay(backbone, world, epochs, kept):
    recipe = Recipe.make(**UPPER | {"epochs": epochs}).resolved()
    prompt = TrainablePrompt(sites=(2,))
    plan = Plan.make(4, rows_per_step=2, epochs=epochs, max_steps=None, seed=0)
    example = Example(TokenSequence((5, 6, 7), reads=(2,)))
    batches = [Batches([example] * 4, [], plan, 2)]
    found = remember(recipe, backbone, [prompt], batches, rank=0, world=world, output=None)
    assert (found.trunk is not None) == kept
    if not kept:
        assert found.said == (
            "Frozen trunk: not remembered, because with 2 processes it pays from 3 epochs on."
        )
    found.close()
