"""One prompt on several sets of rows, held against plain sums over the same rows."""

import functools
import json
import math
import operator

import pytest
import tiny
import torch
from tiny_runs import DEEP, HEAD, LABELS, ROWS, TEXTS, Killed, Watcher, log_of, same, tensors_of

import ptune
from ptune.batch import TokenSequence
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.run import run
from ptune.tasks import Example
from ptune.training.schedule import Plan
from ptune.training.shared import BySets, Sets, set_of
from ptune.training.sharing import train_shared

# The second set asks another question of other rows: is the parcel in it?
PARCEL = [{"line": text, "label": "yes" if "parcel" in text else "no"} for text in TEXTS * 2]
DEEP_HEAD = DEEP | {"task": "sequence-classification", "template": "{text}", "lr": 0.01}


def recipes(settings=DEEP_HEAD, **more):
    """Two sets; rows are given in memory, so `train` is set afterwards."""
    second = settings["template"].replace("{text}", "{line}")
    return {
        "complaints": Recipe.make(**settings, **more),
        "parcels": Recipe.make(**settings | {"template": second}, **more),
    }


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("bert")


@pytest.fixture
def files(tmp_path):
    """The rows of both sets as files."""
    for name, rows in (("complaints", ROWS), ("parcels", PARCEL)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return {name: str(tmp_path / f"{name}.jsonl") for name in ("complaints", "parcels")}


def shared(backbone, files, settings=DEEP_HEAD, *, test=False, output=None, **more):
    keys = {k: more.pop(k) for k in ("temperature", "rank_one", "resume", "watcher") if k in more}
    made = {
        name: recipe.changed(train=files[name], test=files[name] if test else None)
        for name, recipe in recipes(settings | more).items()
    }
    return train_shared(made, backbone=backbone, output=output, **keys)


# ------------------------------------------------------------------------------- which rows


def test_every_batch_is_of_one_set():
    batching = BySets((7, 20, 3), 4)
    plan = Plan.of(batching, 2, epochs=3, max_steps=None, seed=5)
    ends = (7, 27, 30)
    for step in range(plan.steps):
        rows = plan.rows_of(step)
        parts = plan.parts(rows)
        assert sorted(functools.reduce(operator.iadd, parts, [])) == sorted(rows)
        for part in parts:
            assert len({next(n for n, end in enumerate(ends) if row < end) for row in part}) == 1
            assert len(part) <= 4


def test_a_sets_rows_come_once_before_any_comes_again():
    batching = BySets((6, 6), 2)
    order = batching.epoch(torch.Generator().manual_seed(0)).order.tolist()
    of_first = [row for row in order if row < 6]
    for start in range(0, len(of_first) - 5, 6):
        assert sorted(of_first[start : start + 6]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1000.0])
def test_sets_are_drawn_by_size_to_the_power_of_one_over_the_temperature(temperature):
    counts = (900, 100)
    batching = BySets(counts, 1, temperature)
    drawn = batching.epoch(torch.Generator().manual_seed(1))
    # Rows of a batch: one; so rows count batches.
    share = float((drawn.order >= 900).double().mean())
    weights = [count ** (1 / temperature) for count in counts]
    assert share == pytest.approx(weights[1] / sum(weights), abs=0.05)


def test_a_row_names_its_set_and_a_slice_may_span_two():
    rows = Sets([[Example(TokenSequence((5,)))], [], [Example(TokenSequence((6,)), 1)] * 2])
    assert [set_of(one) for one in rows] == [0, 2, 2]
    assert [one.sequence.ids for one in rows[0:2]] == [(5,), (6,)]
    assert len(rows) == 3
    with pytest.raises(IndexError):
        rows[3]


# ------------------------------------------------------------------------------- what is learned


def test_each_set_has_its_own_head_and_all_have_one_prompt(backbone, files):
    found = shared(backbone, files)
    first, second = (found.results[name].prompt for name in ("complaints", "parcels"))
    for site, (keys, values) in first.deep.items():
        assert torch.equal(keys, second.deep[site].keys)
        assert torch.equal(values, second.deep[site].values)
        assert torch.equal(keys, found.shared.deep[site].keys)
    assert first.labels == ("complaint", "no complaint")
    assert second.labels == ("no", "yes")
    assert not torch.equal(first.head["linear.weight"], second.head["linear.weight"])
    assert not found.shared.head


def test_a_step_is_adamw_on_the_mean_loss_of_one_sets_rows(backbone, files):
    """The first step by hand: a gradient of ones' sign, times the step size, where it is not 0."""
    settings = {"max_steps": 1, "schedule": "constant", "warmup_share": 0, "clip": 0, "average": 0}
    found = shared(backbone, files, **settings)
    names = [n for n, one in found.results.items() if one.prompt.head["linear.weight"].any()]
    assert len(names) == 1  # heads start at zero, and the other set's rows were not seen
    moved = found.results[names[0]].prompt.head["linear.weight"]
    step = Recipe.make(**DEEP_HEAD).resolved().head_lr
    assert float(moved.abs().max()) == pytest.approx(step, rel=1e-3)


def test_rank_one_gives_each_set_the_shared_prompt_times_two_vectors(backbone, files):
    found = shared(backbone, files, rank_one=True, epochs=8, validation_share=0)
    for name in ("complaints", "parcels"):
        ratios = []
        for site, (keys, values) in found.results[name].prompt.deep.items():
            base = found.shared.deep[site]
            ratios += [(keys / base.keys).flatten(1), (values / base.values).flatten(1)]
        ratio = torch.cat(ratios, dim=1)
        # A matrix of rank one: every row is the first one times a number.
        expected = ratio[:, :1] * ratio[:1] / ratio[0, 0]
        torch.testing.assert_close(ratio, expected, rtol=1e-3, atol=1e-4)
        assert (ratio - 1).abs().max() > 1e-3
    first, second = (found.results[n].prompt.deep[0].keys for n in ("complaints", "parcels"))
    assert not torch.equal(first, second)


def test_a_sets_prompt_predicts_as_it_was_scored(backbone, files):
    found = shared(backbone, files, test=True, rank_one=True)
    for name, rows in (("complaints", ROWS), ("parcels", PARCEL)):
        result = found.results[name]
        again = ptune.evaluate(backbone, result.prompt, rows).scores
        for score, value in result.scores["test"].items():
            assert again[score] == pytest.approx(value, abs=1e-6), (name, score)


def test_label_words_and_shallow_prompts_are_shared_too(files):
    llama = tiny.backbone("llama")
    settings = HEAD | {"task": "causal-lm", "template": "{soft:2}{text} label : {label}"}
    found = shared(llama, files, settings, epochs=1)
    first, second = (found.results[name].prompt for name in ("complaints", "parcels"))
    assert torch.equal(first.vectors, second.vectors)
    batch = llama.pack([TokenSequence((-1, -2, 5), reads=(2,))])
    states = [run(llama, [prompt.tensors()], batch) for prompt in (first, found.shared)]
    assert torch.equal(*states)


def test_the_scores_without_a_name_are_the_means_over_the_sets(backbone, files):
    watcher = Watcher()
    shared(backbone, files, watcher=watcher)
    _step, scores = watcher.scores[-1]
    both = [scores["complaints/accuracy"], scores["parcels/accuracy"]]
    assert scores["accuracy"] == pytest.approx(math.fsum(both) / 2)
    assert scores["loss"] == pytest.approx((scores["complaints/loss"] + scores["parcels/loss"]) / 2)


# ------------------------------------------------------------------------------- stopped, gone on


@pytest.mark.parametrize("rank_one", [False, True])
def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(backbone, files, tmp_path, rank_one):
    more = {"rank_one": rank_one, "prefix_dropout": 0.2, "save_every": 1}
    shared(backbone, files, output=tmp_path / "whole", **more)
    watcher = Watcher(die_after=5)
    with pytest.raises(Killed):
        shared(backbone, files, output=tmp_path / "parts", watcher=watcher, **more)
    shared(backbone, files, output=tmp_path / "parts", resume=True, **more)
    for name in ("complaints", "parcels", "shared"):
        whole, parts = (tensors_of(tmp_path / p / name / "prompt") for p in ("whole", "parts"))
        assert same(whole, parts)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_going_on_otherwise_is_refused(backbone, files, tmp_path):
    shared(backbone, files, output=tmp_path, max_steps=2)
    with pytest.raises(ConfigError, match="belongs to another run, which differs in temperature"):
        shared(backbone, files, output=tmp_path, max_steps=2, temperature=2.0, resume=True)
    with pytest.raises(ConfigError) as error:
        shared(backbone, files, output=tmp_path, max_steps=3, temperature=2.0, resume=True)
    assert str(error.value) == (
        f"{tmp_path}/checkpoint: this checkpoint belongs to another run, which differs in "
        "max_steps (max_steps: 2 there, 3 now). Give what that run was given, or start anew "
        "without resume."
    )


def test_one_set_goes_on_from_the_prompt_and_its_head(backbone, files, tmp_path):
    found = shared(backbone, files, output=tmp_path, epochs=1)
    start = f"{tmp_path}/complaints/prompt"
    rest = {**DEEP_HEAD, "max_steps": 1, "lr": 1e-8, "head_lr": 1e-8}
    alone = ptune.train(backbone, ROWS, init=start, **rest)
    before = found.results["complaints"].prompt
    for name, value in before.head.items():
        torch.testing.assert_close(alone.prompt.head[name], value, rtol=0, atol=1e-6)
    for site, (keys, _) in before.deep.items():
        torch.testing.assert_close(alone.prompt.deep[site].keys, keys, rtol=1e-5, atol=1e-6)


def test_a_prompt_of_other_labels_gives_no_head(backbone, files, tmp_path):
    shared(backbone, files, output=tmp_path, epochs=1)
    start = f"{tmp_path}/parcels/prompt"
    rest = {**DEEP_HEAD, "max_steps": 1, "lr": 1e-8, "head_lr": 1e-8}
    alone = ptune.train(backbone, ROWS, init=start, **rest)
    assert float(alone.prompt.head["linear.weight"].abs().max()) < 1e-6


# ------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lr": 0.5},
            (
                "lr is 0.01 in a and 0.5 in b: sets that share a prompt are trained in one run. "
                "Give both the same lr."
            ),
        ),
        (
            {"prompt_length": 4},
            (
                "prompt_length is 3 in a and 4 in b: sets that share a prompt are trained in one "
                "run. Give both the same prompt_length."
            ),
        ),
    ],
)
def test_what_is_trained_is_said_once(backbone, change, message):
    pair = {"a": Recipe.make(**DEEP_HEAD), "b": Recipe.make(**DEEP_HEAD | change)}
    with pytest.raises(ConfigError) as error:
        train_shared(pair, backbone=backbone)
    assert str(error.value) == message


def test_sets_whose_answers_are_generated_are_scored(files):
    settings = {"template": "{soft:2}{text} : {label}", "answer": "text", "max_new_tokens": 2}
    found = shared(tiny.backbone("llama"), files, settings, test=True, max_steps=1)
    assert all("exact_match" in one.scores["test"] for one in found.results.values())


@pytest.mark.parametrize("settings", [{"calibration": "contextual"}, {"found_words": 1}])
def test_what_is_measured_of_one_prompt_alone_is_refused(backbone, settings):
    (key,) = settings
    one = Recipe.make(template="{soft:2}{text} {mask}", task="masked-lm", **settings)
    with pytest.raises(ConfigError, match=f"{key} does not go with a shared prompt"):
        train_shared({"a": one, "b": one}, backbone=backbone)


def test_a_trunk_is_not_kept_for_several_sets(backbone):
    one = Recipe.make(**DEEP_HEAD, layers=(2,), trunk_cache="1GB")
    with pytest.raises(ConfigError, match="trunk_cache does not go with a shared prompt"):
        train_shared({"a": one, "b": one}, backbone=backbone)


def test_a_setting_that_says_nothing_of_the_run_is_told(backbone, files):
    watcher = Watcher()
    shared(backbone, files, encoder_lr=0.5, max_steps=1, watcher=watcher)
    said = [note for note in watcher.facts["notes"] if note.startswith("encoder_lr = 0.5 has no")]
    assert len(said) == 1


def test_the_artifact_of_a_set_says_what_was_pooled(backbone, files):
    found = shared(backbone, files, max_steps=1)
    pooled = {one.prompt.settings["pooling"] for one in found.results.values()}
    assert pooled == {backbone.pooling}


def test_a_single_set_shares_nothing(backbone):
    with pytest.raises(ConfigError, match="needs two sets of rows or more"):
        train_shared({"a": Recipe.make(**DEEP_HEAD)}, backbone=backbone)


@pytest.mark.parametrize("name", ["shared", "checkpoint", "a/b", ".."])
def test_a_name_that_cannot_be_a_folder_is_refused(backbone, name):
    pair = {name: Recipe.make(**DEEP_HEAD), "b": Recipe.make(**DEEP_HEAD)}
    with pytest.raises(ConfigError, match="cannot be the name of a set's folder"):
        train_shared(pair, backbone=backbone)


def test_templates_with_unlike_numbers_of_virtual_tokens_are_refused(files):
    llama = tiny.backbone("llama")
    pair = {
        "a": Recipe.make(**HEAD, train=files["complaints"]),
        "b": Recipe.make(**HEAD | {"template": "{soft:3}{line}"}, train=files["parcels"]),
    }
    with pytest.raises(ConfigError) as error:
        train_shared(pair, backbone=llama)
    assert str(error.value) == (
        "The template of a has 2 virtual tokens and that of b 3. A shared prompt has as many in "
        "every set."
    )


@pytest.mark.parametrize("temperature", [0.5, math.nan])
def test_a_temperature_below_one_is_refused(backbone, temperature):
    with pytest.raises(ConfigError, match=r"temperature = .* is not allowed"):
        train_shared(recipes(), backbone=backbone, temperature=temperature)


def test_the_backbone_is_left_alone(backbone, files):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    shared(backbone, files, epochs=1)
    assert same(before, dict(backbone.model.state_dict()))
    assert len(LABELS) == len(ROWS)


def test_the_backbones_dropout_may_be_on(backbone, files):
    one, two, off = (
        shared(backbone, files, epochs=1, backbone_dropout=on).shared.deep
        for on in (True, True, False)
    )
    assert all(torch.equal(one[site].keys, two[site].keys) for site in one)
    assert not any(torch.equal(one[site].keys, off[site].keys) for site in one)


def test_the_backbone_is_not_trained_with_a_shared_prompt(backbone, files):
    with pytest.raises(ConfigError, match=r"^train_backbone does not go with a shared prompt"):
        shared(backbone, files, train_backbone=True)
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
