"""Several prompts in one pass, held against the same prompts trained alone.

Equal means to 1e-5 in the losses: the backbone adds its sums up in another order when other rows
stand beside. AdamW divides a gradient by its own size, so that order may show more in the numbers
of a prompt: 1e-4 of their size.
"""

import os
import signal

import pytest
import tiny
import tiny_cloze
import torch
from tiny_runs import (
    DEEP,
    HEAD,
    ROWS,
    SHALLOW,
    TABLE,
    Killed,
    Watcher,
    document_of,
    log_of,
    same,
    tensors_of,
)

import ptune
from ptune.backbone import Backbone
from ptune.encoders import KeysValues
from ptune.errors import ConfigError, TrainingError
from ptune.inject import LanguageHead
from ptune.training.learner import Learner

LONGER = "{soft:5}{text} label : {label}"
BARE = "{text} label : {label}"
# One of each kind: what may differ, differs somewhere.
VARIANTS = (
    {},
    {"seed": 1, "encoder_dropout": 0.3},
    {"lr": 0.05, "template": LONGER, "schedule": "constant", "clip": 0.1},
    {"method": "prompt-tuning", "encoder": None, "batch_size": 2, "accumulation": 2},
    {"encoder": "mlp", "epochs": 1, "loss": "vocabulary", "weight_decay": 0.1},
    {"method": "prompt-tuning", "encoder": "residual", "batch_size": 3, "init": "vocabulary",
     "schedule": "exponential", "epoch_decay": 0.5},
    {"method": "p-tuning-v2", "encoder": None, "template": BARE, "prompt_length": 3, "seed": 2,
     "prefix_dropout": 0.3, "layers": "upper:2"},
    {"method": "p-tuning-v2", "encoder": None, "template": BARE, "prompt_length": 6,
     "projection": 8, "init": "random"},
)  # fmt: skip


def with_head(variant):
    """The same variant for a task with a head, whose template has no label."""
    plain = {k: v for k, v in variant.items() if k != "loss"}
    if "template" in plain:
        plain["template"] = plain["template"].replace(" label : {label}", "")
    return plain


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def numbers(prompt):
    deep = {f"{site}.{n}": t for site, kv in prompt.deep.items() for n, t in kv._asdict().items()}
    vectors = {} if prompt.vectors is None else {"vectors": prompt.vectors}
    return vectors | deep | dict(prompt.head)


def close(first, second, tolerance=1e-4):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance)


def together(backbone, variants, common, rows=ROWS, **more):
    watchers = [Watcher() for _ in variants]
    results = ptune.train_replicas(backbone, rows, variants, watchers=watchers, **(common | more))
    return results, watchers


def alone(backbone, variant, common, rows=ROWS, **more):
    watcher = Watcher()
    result = ptune.train(backbone, rows, watcher=watcher, **(common | variant | more))
    return result, watcher


def assert_as_if_alone(result, watcher, single, single_watcher):
    assert [step for step, _ in watcher.steps] == [step for step, _ in single_watcher.steps]
    for (_, loss), (_, expected) in zip(watcher.steps, single_watcher.steps, strict=True):
        assert loss == pytest.approx(expected, abs=1e-5)
    for (at, scores), (due, expected) in zip(watcher.scores, single_watcher.scores, strict=True):
        assert at == due
        assert scores == pytest.approx(expected, rel=1e-4)
    assert result.scores.keys() == single.scores.keys()
    for split, expected in single.scores.items():
        assert result.scores[split] == pytest.approx(expected, rel=1e-4)
    close(numbers(result.prompt), numbers(single.prompt))
    # What can be remembered depends on all prompts of a pass.
    facts, alone_facts = (
        {name: said for name, said in one.facts.items() if name != "frozen trunk"}
        for one in (result, single)
    )
    assert (result.steps, facts) == (single.steps, alone_facts)


@pytest.mark.parametrize(
    ("name", "common", "chosen"),
    [
        ("llama", SHALLOW | {"epochs": 2}, range(8)),
        # Absolute positions: deep prompts that start from a text move the rows, others do not.
        ("gpt2", SHALLOW | {"epochs": 2}, [1, 6, 7]),
        ("bert", HEAD | {"encoder": "lstm", "epochs": 2}, [1, 2, 6]),
    ],
)
def test_each_replica_is_as_if_alone(name, common, chosen):
    backbone = tiny.backbone(name)
    variants = [VARIANTS[at] for at in chosen]
    if "task" in common:
        variants = [with_head(variant) for variant in variants]
    results, watchers = together(backbone, variants, common, test=ROWS[:3])
    for variant, result, watcher in zip(variants, results, watchers, strict=True):
        single = alone(backbone, variant, common, test=ROWS[:3])
        assert_as_if_alone(result, watcher, *single)


def test_one_replica_is_a_run_bit_for_bit(backbone):
    (result,), (watcher,) = together(backbone, [{"encoder_dropout": 0.3}], SHALLOW)
    single, seen = alone(backbone, {"encoder_dropout": 0.3}, SHALLOW)
    assert watcher.steps == seen.steps
    assert same(numbers(result.prompt), numbers(single.prompt))


def test_random_numbers_are_those_of_the_seed_one_step_after_the_other(backbone, monkeypatch):
    seen, tensors = [], Learner.tensors

    def watched(self):
        found = tensors(self)
        seen.append((self, found.vectors.detach()))
        return found

    monkeypatch.setattr(Learner, "tensors", watched)
    still = {"init": "paper", "lr": 1e-8, "encoder_lr": 1e-8, "encoder_dropout": 0.5}
    together(backbone, [still | {"seed": 5}, {"encoder_dropout": 0.3}], SHALLOW)
    learner = seen[0][0]
    drawn = [vectors for owner, vectors in seen if owner is learner]
    assert len(drawn) == 6
    assert not torch.allclose(drawn[0], drawn[1])
    learner.prompt.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for vectors in drawn:
            expected = learner.prompt.tensors().vectors
            torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)


def test_free_text_is_trained_side_by_side_too(backbone):
    rows = [{"text": t, "reply": f"thank you {t}"} for t in "abcdefgh"]
    common = TABLE | {"answer": "text", "label_column": "reply", "epochs": 1}
    results, watchers = together(backbone, [{}, {"seed": 1}], common, rows)
    for seed in (0, 1):
        single = alone(backbone, {"seed": seed}, common, rows)
        assert_as_if_alone(results[seed], watchers[seed], *single)


GAP = {"task": "masked-lm", "template": "{soft:2}{text} {mask*2}"}
REPLY = {"answer": "text", "template": "{soft:2}{text} : {label}"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("llama", {}),  # labels of one token and of two: both kinds of question
        ("llama", {"verbalizer": {"complaint": "yes", "no complaint": "no"}}),  # no vocabulary
        ("llama", {"loss": "vocabulary"}),
        ("llama", REPLY),
        ("t5", {"task": "seq2seq-lm", "template": "{soft:2}{text}"}),
        ("bert", GAP),
        ("bert", GAP | {"loss": "vocabulary"}),
    ],
)
def test_the_head_is_computed_as_often_for_three_as_for_one(name, more, monkeypatch):
    backbone = tiny_cloze.backbone() if name == "bert" else tiny.backbone(name)
    common, sizes, call = TABLE | {"epochs": 1} | more, [], LanguageHead.__call__

    def counting(self, states):
        sizes.append(len(states))
        return call(self, states)

    variants = [{}, {"seed": 1}, {"template": f"{{soft:1}}{common['template']}"}]
    single = alone(backbone, variants[2], common)  # the first time the head is tried
    monkeypatch.setattr(LanguageHead, "__call__", counting)
    alone(backbone, variants[2], common)
    one = list(sizes)
    sizes.clear()
    results, watchers = together(backbone, variants, common)
    assert len(sizes) == len(one) > 0
    assert sum(sizes) == 3 * sum(one)
    assert_as_if_alone(results[2], watchers[2], *single)


def test_gradient_checkpointing_and_bf16_hold_for_all(backbone):
    variants, common = VARIANTS[1:3], SHALLOW | {"max_steps": 2}
    plain = together(backbone, variants, common)[1]
    again = together(backbone, variants, common | {"gradient_checkpointing": True})[1]
    rough = together(backbone, variants, common | {"precision": "bf16"})[1]
    for at in range(2):
        exact = [loss for _, loss in plain[at].steps]
        assert [loss for _, loss in again[at].steps] == pytest.approx(exact, abs=1e-5)
        assert [loss for _, loss in rough[at].steps] == pytest.approx(exact, abs=0.2)
        assert [loss for _, loss in rough[at].steps] != pytest.approx(exact, abs=1e-5)
    assert not backbone.gradient_checkpointing


# ------------------------------------------------------------------------------- leaving the pass


def counted(monkeypatch):
    """How many prompts each training pass had."""
    passes, pack = [], Backbone.pack

    def counting(self, sequences):
        if torch.is_grad_enabled():
            passes.append(len({sequence.prompt for sequence in sequences}))
        return pack(self, sequences)

    monkeypatch.setattr(Backbone, "pack", counting)
    return passes


def test_one_that_stops_early_leaves_the_pass_and_the_others_go_on(backbone, monkeypatch):
    # Its score never changes: the steps are too small.
    tired = {"lr": 1e-8, "encoder_lr": 1e-8, "patience": 1}
    variants = [tired, {"seed": 1}, {"epochs": 1}]
    passes = counted(monkeypatch)
    results, watchers = together(backbone, variants, SHALLOW)
    monkeypatch.undo()
    assert [result.steps for result in results] == [4, 6, 2]
    assert passes == [3, 3, 2, 2, 1, 1]
    for variant, result, watcher in zip(variants, results, watchers, strict=True):
        assert_as_if_alone(result, watcher, *alone(backbone, variant, SHALLOW))


def spoilt(monkeypatch, seed, step):
    """The loss of one replica is no number from some step on."""
    losses = Learner.losses

    def spoil(self, read, examples):
        found = losses(self, read, examples)
        wrong = self.options.seed == seed and self.progress.step + 1 == step
        return found * float("nan") if wrong else found

    monkeypatch.setattr(Learner, "losses", spoil)


def test_one_that_diverges_ends_with_a_sentence_and_the_others_go_on(
    tmp_path, backbone, monkeypatch
):
    variants = [{"seed": 1}, {"seed": 2}, {"seed": 3}]
    with monkeypatch.context() as patch:
        spoilt(patch, seed=2, step=4)
        results, watchers = together(backbone, variants, SHALLOW, output=tmp_path)
    error = results[1]
    assert isinstance(error, TrainingError)
    assert str(error) == (
        "Training diverged: the loss or its gradient is no longer a number (loss nan) at step 4 of "
        f"6. The last good state is in {tmp_path}/replica-1/checkpoint; --resume goes on from it. "
        "Try a smaller lr (now 0.3), a longer warmup_share, or precision=fp32."
    )
    assert [len(watcher.steps) for watcher in watchers] == [6, 3, 6]
    assert not (tmp_path / "replica-1" / "prompt").exists()
    for at in (0, 2):
        assert_as_if_alone(results[at], watchers[at], *alone(backbone, variants[at], SHALLOW))
    # Without the mishap its last good state goes on, beside those that are done.
    again, _ = together(backbone, variants, SHALLOW, output=tmp_path, resume=True)
    close(numbers(again[1].prompt), numbers(alone(backbone, variants[1], SHALLOW)[0].prompt))


def test_numbers_that_overflow_in_one_prompt_reach_no_other_one(tmp_path, backbone):
    sane, _ = alone(backbone, {}, DEEP, output=tmp_path)
    deep = {
        site: KeysValues(torch.full_like(kv.keys, 1e38), torch.full_like(kv.values, 1e38))
        for site, kv in sane.prompt.deep.items()
    }
    fields = {name: getattr(sane.prompt, name) for name in sane.prompt.__dataclass_fields__}
    ptune.SoftPrompt(**(fields | {"deep": deep})).save(tmp_path / "huge")
    huge = {"init": str(tmp_path / "huge"), "prompt_length": 8}
    for variants in ([huge, {}, TABLE | {"prompt_length": 20}], [{}, huge]):
        results, watchers = together(backbone, variants, DEEP)
        for variant, result, watcher in zip(variants, results, watchers, strict=True):
            if variant is huge:
                assert "at step 1 of 6" in str(result)
            else:
                assert_as_if_alone(result, watcher, *alone(backbone, variant, DEEP))


def test_where_all_diverge_all_say_so(backbone, monkeypatch):
    spoilt(monkeypatch, seed=0, step=2)
    results, _ = together(backbone, [{}, {"lr": 0.2}], TABLE)
    assert ["(now 0.3)" in str(results[0]), "(now 0.2)" in str(results[1])] == [True, True]


# ------------------------------------------------------------------------------- files


def folder_of_a_run(output):
    return tensors_of(output / "checkpoint"), document_of(output / "checkpoint"), log_of(output)


def test_each_folder_is_that_of_a_run_alone(tmp_path, backbone):
    variants = [VARIANTS[1], VARIANTS[3]]
    together(backbone, variants, SHALLOW, output=tmp_path / "all", names=["a", "b"])
    for name, variant in zip("ab", variants, strict=True):
        single, _ = alone(backbone, variant, SHALLOW, output=tmp_path / name)
        tensors, document, log = folder_of_a_run(tmp_path / "all" / name)
        expected, expected_document, expected_log = folder_of_a_run(tmp_path / name)
        close(tensors, expected)  # prompt, best, optimizer, and the random state to the last bit
        random = {k: v for k, v in expected.items() if k.startswith("random.")}
        assert same({k: tensors[k] for k in random}, random)
        assert document["identity"] == expected_document["identity"]
        assert [line["step"] for line in log] == [line["step"] for line in expected_log]
        loaded = ptune.SoftPrompt.load(tmp_path / "all" / name / "prompt")
        close(numbers(loaded), numbers(single.prompt))
        # It can be gone on with alone: it is done, so its result is read.
        again, seen = alone(backbone, variant, SHALLOW, output=tmp_path / "all" / name, resume=True)
        assert seen.steps == []
        assert same(numbers(again.prompt), numbers(loaded))


def test_killed_after_any_step_and_resumed_is_never_stopped(tmp_path, backbone):
    variants, short = [VARIANTS[1], VARIANTS[6]], SHALLOW | {"epochs": 2}
    never, _ = together(backbone, variants, short, output=tmp_path / "whole")
    for step in (1, 3):
        output = tmp_path / f"killed-{step}"
        watchers = [Watcher(), Watcher(die_after=step)]
        with pytest.raises(Killed):
            ptune.train_replicas(
                backbone, ROWS, variants, output=output, watchers=watchers, **short
            )
        again, _ = together(backbone, variants, short, output=output, resume=True)
        for at, (result, expected) in enumerate(zip(again, never, strict=True)):
            assert same(numbers(result.prompt), numbers(expected.prompt))
            whole = tmp_path / "whole" / f"replica-{at}"
            assert log_of(output / f"replica-{at}") == log_of(whole)


def test_ctrl_c_saves_all_and_says_how_to_go_on(tmp_path, backbone):
    def interrupt(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    variants = [{"seed": 1}, {"seed": 2}, {"epochs": 1}]
    never, _ = together(backbone, variants, SHALLOW)
    watchers = [Watcher(), Watcher(at_step=interrupt), Watcher()]
    settings = SHALLOW | {"output": tmp_path, "watchers": watchers}
    with pytest.raises(TrainingError) as error:
        ptune.train_replicas(backbone, ROWS, variants, **settings)
    assert str(error.value) == (
        f"Stopped with 1 of 3 replicas done. Their states are in {tmp_path}; run the same command "
        "with --resume to go on (in Python: resume=True)."
    )
    steps = [
        document_of(tmp_path / f"replica-{at}" / "checkpoint")["progress"]["step"]
        for at in range(3)
    ]
    assert steps == [3, 3, 2]
    again, _ = together(backbone, variants, SHALLOW, output=tmp_path, resume=True)
    for result, expected in zip(again, never, strict=True):
        assert same(numbers(result.prompt), numbers(expected.prompt))
    with pytest.raises(TrainingError) as error:
        ptune.train_replicas(backbone, ROWS, variants, watchers=watchers, **SHALLOW)
    assert str(error.value) == (
        "Stopped with 1 of 3 replicas done. Nothing was kept: the run has no output folder."
    )


def test_a_replica_that_is_new_begins_where_the_others_go_on(tmp_path, backbone):
    together(backbone, [{}], SHALLOW, output=tmp_path)
    results, watchers = together(backbone, [{}, {"seed": 1}], SHALLOW, output=tmp_path, resume=True)
    assert [len(watcher.steps) for watcher in watchers] == [0, 6]
    single, _ = alone(backbone, {"seed": 1}, SHALLOW)
    close(numbers(results[1].prompt), numbers(single.prompt))


def test_the_users_random_state_and_the_backbone_are_left_alone(backbone):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    torch.manual_seed(11)
    state = torch.get_rng_state()
    together(backbone, VARIANTS[:2], SHALLOW)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(before, dict(backbone.model.state_dict()))
    assert not any("_ptune" in module.__dict__ for module in backbone.model.modules())


def test_prompts_trained_side_by_side_on_int8_say_so(tmp_path):
    tiny.model("llama").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    held = Backbone.load(tmp_path, quantization="int8")
    for result in ptune.train_replicas(held, ROWS, [{}, {"seed": 1}], **TABLE, max_steps=1):
        assert result.prompt.settings["quantization"] == "int8"


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("variants", "more", "message"),
    [
        ([], {}, "variants is empty. Give the settings of one replica or more."),
        (
            [{}, {"task": "causal-lm", "precision": "bf16", "lr": 0.1}],
            {},
            (
                "variants[1] changes precision, task, which all replicas share: they are trained "
                "in one pass over one backbone, on the same rows and task. Set it for all, or "
                "train in several runs."
            ),
        ),
        (
            [{"projection": 8}],
            {},
            "variants[0]: projection = 8 goes with method = p-tuning-v2 only; method is p-tuning.",
        ),
        (
            [{}, {}],
            {"names": ["a", "a"]},
            "names = [a, a]: there are 2 replicas, and each needs a name of its own.",
        ),
        (
            [{}],
            {"names": ["../a"]},
            'names: "../a" cannot be the name of a folder. Choose another.',
        ),
        ([{}, {}], {"watchers": []}, "0 watchers for 2 replicas. Give one for each, or none."),
        ([{}], {"resume": True}, "resume needs the output folder of the run to go on with."),
    ],
)  # fmt: skip
def test_what_does_not_go_side_by_side_is_refused(backbone, variants, more, message):
    with pytest.raises(ConfigError) as error:
        ptune.train_replicas(backbone, ROWS, variants, **(SHALLOW | more))
    assert str(error.value) == message


def test_a_folder_without_any_checkpoint_is_refused(tmp_path, backbone):
    with pytest.raises(ConfigError) as error:
        together(backbone, [{}], SHALLOW, output=tmp_path, resume=True)
    assert str(error.value) == (
        f"{tmp_path}: no replica has a checkpoint there to go on from. Name the output folder of "
        "the run, or start without --resume (resume=True)."
    )


def test_an_unknown_setting_of_one_replica_is_named_with_its_place(backbone):
    with pytest.raises(ConfigError, match=r"^variants\[1\]: unknown key rate\."):
        ptune.train_replicas(backbone, ROWS, [{}, {"rate": 1}], **SHALLOW)


def test_several_processes_are_refused(backbone, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ConfigError) as error:
        ptune.train_replicas(backbone, ROWS, [{}, {"seed": 1}], **SHALLOW)
    assert str(error.value) == (
        "2 replicas in 2 processes: replicas train side by side in one process. Start without "
        "accelerate launch, or give each process replicas of its own."
    )
