import copy

import pytest
import tiny
import torch
from oracles.plain_loss import word_loss
from tiny_runs import (
    HEAD,
    ROWS,
    SHALLOW,
    TABLE,
    WITH_DROPOUT,
    Killed,
    Watcher,
    document_of,
    log_of,
    same,
    tensors_of,
    train,
)

import ptune
from ptune.api import make_ready
from ptune.artifact import read_folder, write_folder
from ptune.errors import ArtifactError, BackboneError, ConfigError
from ptune.training.thawed import refuse_trained_backbone

THAWED = {"train_backbone": True}
NOTE = (
    "train_backbone: the backbone is NOT frozen. Its {:,} weights are trained too, with steps up "
    "to 1e-05; the prompt carries them and works with no others."
)


@pytest.fixture(scope="module")
def backbone():
    return ptune.Backbone.load(tiny.model("llama"), tokenizer=tiny.tokenizer())


@pytest.fixture(scope="module")
def thawed(tmp_path_factory, backbone):
    """A run that trains the backbone with large steps, and what the backbone was before it."""
    output = tmp_path_factory.mktemp("thawed")
    before = weights_of(backbone)
    settings = TABLE | THAWED | {"backbone_lr": 1e-2}
    return train(backbone, settings, output=output, test=ROWS[:4]), output, before


def weights_of(backbone):
    return {name: w.detach().clone() for name, w in backbone.model.named_parameters()}


def refused(kind, call):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def test_the_backbone_that_was_given_stays_as_it_was(backbone, thawed):
    result, _, before = thawed
    assert same(weights_of(backbone), before)
    assert not any(w.requires_grad for w in backbone.model.parameters())
    assert not backbone.model.training
    assert backbone.tuned_by is None
    trained = result.prompt.backbone_weights
    assert trained.keys() == before.keys()
    moved = [name for name in before if not torch.equal(trained[name], before[name])]
    assert moved == list(before)  # every weight of this model takes part


def test_other_runs_leave_no_weights_and_say_nothing(tmp_path, backbone):
    result = train(backbone, TABLE, output=tmp_path)
    assert result.prompt.backbone_weights == {}
    assert "backbone_trained" not in document_of(tmp_path / "prompt")
    assert not any(name.startswith("backbone.") for name in tensors_of(tmp_path / "prompt"))
    assert "NOT frozen" not in (tmp_path / "log.jsonl").read_text()
    assert "changes none of that model's weights" in (tmp_path / "prompt/README.md").read_text()


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_step_is_that_of_plain_torch_on_the_plain_model(backbone, decay):
    """One step on all rows, by AdamW on the model itself, with no part of ptune."""
    rows = [row | {"label": word} for row, word in zip(ROWS[:6], ["yes", "no"] * 3, strict=True)]
    settings = TABLE | THAWED | {
        "backbone_lr": 1e-2, "backbone_weight_decay": decay, "lr": 1e-8, "clip": 0.0,
        "schedule": "constant", "warmup_share": 0.0, "max_steps": 1, "batch_size": 6,
        "validation_share": 0, "template": "{soft:2}{text} answer :{label}",
    }  # fmt: skip
    result = train(backbone, settings, rows=rows)
    model = copy.deepcopy(backbone.model).requires_grad_(True)
    matrices = [w for w in model.parameters() if w.ndim > 1]
    others = [w for w in model.parameters() if w.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}],
        lr=1e-2,
    )
    # The prompt hardly moves with this lr, so that it is the one that the run began with.
    prompt = result.prompt.vectors
    word_loss(model, backbone.tokenizer, rows, prompt, ["no", "yes"]).backward()
    optimizer.step()
    for name, weight in model.named_parameters():
        # Where the gradient is nearly nothing, AdamW's first step is rounding made large.
        clear = weight.grad.abs() > 1e-5
        found = result.prompt.backbone_weights[name]
        torch.testing.assert_close(found[clear], weight[clear].detach(), rtol=1e-3, atol=2e-4)
        if decay == 0.0:
            still = weight.grad == 0
            before = dict(backbone.model.named_parameters())[name]
            assert torch.equal(found[still], before[still])


def test_the_log_the_document_and_the_card_say_it(backbone, thawed):
    result, output, before = thawed
    count = sum(w.numel() for w in before.values())
    note = NOTE.format(count).replace("1e-05", "0.01")
    assert log_of(output)[0] == {"step": 0, "epoch": 1, "note": note}
    assert result.facts["notes"][0] == note
    document = document_of(output / "prompt")
    assert document["backbone_trained"] == result.prompt.weights_digest
    assert document["settings"]["train_backbone"] is True
    assert document["trained_parameters"] == count + result.prompt.vectors.numel()
    card = (output / "prompt" / "README.md").read_text()
    assert "**The backbone was trained too (`train_backbone`).**" in card
    assert "frozen" not in card
    assert result.prompt.summary()["backbone_weights"] == count


def test_the_step_size_is_1e_5_where_nothing_is_said(tmp_path, backbone):
    watcher = Watcher()
    train(backbone, TABLE | THAWED, watcher=watcher)
    assert watcher.facts["notes"][0] == NOTE.format(backbone.parameters)


def test_a_saved_prompt_brings_its_weights_and_scores_as_it_was_scored(backbone, thawed):
    result, output, before = thawed
    loaded = ptune.SoftPrompt.load(output / "prompt")
    assert same(loaded.backbone_weights, result.prompt.backbone_weights)
    again = ptune.evaluate(backbone, loaded, ROWS[:4])
    assert again.scores == pytest.approx(result.scores["test"], rel=1e-4)
    assert same(weights_of(backbone), before)
    # Without its weights it would say something else, so the test above has seen them.
    alone = ptune.SoftPrompt(**{**vars_of(loaded), "backbone_weights": {}})
    other = ptune.evaluate(backbone, alone, ROWS[:4])
    assert abs(other.scores["loss"] - again.scores["loss"]) > 1e-2


def vars_of(prompt):
    return {k: v for k, v in vars(prompt).items() if k != "weights_digest"}


def test_a_backbone_made_ready_once_serves_from_then_on_and_takes_no_other_prompt(backbone, thawed):
    result, _, _ = thawed
    ready = make_ready(backbone, result.prompt)
    assert ready.backbone is not backbone
    assert make_ready(ready.backbone, result.prompt).backbone is ready.backbone
    frozen = train(backbone, TABLE | {"max_steps": 1}).prompt
    said = refused(ArtifactError, lambda: ptune.evaluate(ready.backbone, frozen, ROWS))
    assert "another weights" in said


def test_weights_that_do_not_fit_are_refused(thawed):
    result, _, _ = thawed
    bare = ptune.Backbone.load(tiny.model("llama").base_model, tokenizer=tiny.tokenizer())
    said = refused(ArtifactError, lambda: ptune.evaluate(bare, result.prompt, ROWS, force=True))
    assert said == (
        'The prompt brings weights of its own, which do not fit "LlamaModel": embed_tokens.weight '
        "is missing on one side, or has another shape. Load the backbone that the prompt was made "
        "for, with the head that it was saved with."
    )


@pytest.mark.parametrize("change", ["other", "none"])
def test_weights_that_are_not_those_of_the_document_are_refused(tmp_path, thawed, change):
    _, output, _ = thawed
    document, tensors = read_folder(output / "prompt")
    changed = {
        name: tensor + 1 if change == "other" and name.startswith("backbone.") else tensor
        for name, tensor in tensors.items()
        if change == "other" or not name.startswith("backbone.")
    }
    write_folder(tmp_path / "prompt", changed, document, "")
    said = refused(ArtifactError, lambda: ptune.SoftPrompt.load(tmp_path / "prompt"))
    assert said == (
        f"{tmp_path}/prompt: its backbone was trained too, and the weights that it brings are not "
        "the ones that its document names. Ask who made it."
    )


def test_killed_after_any_step_and_resumed_is_never_stopped(tmp_path, backbone):
    settings = WITH_DROPOUT["head"] | THAWED | {"epochs": 2, "backbone_lr": 1e-2}
    train(backbone, settings, output=tmp_path / "whole")
    for step in (1, 2, 3):
        output = tmp_path / f"killed-{step}"
        with pytest.raises(Killed):
            train(backbone, settings, output=output, watcher=Watcher(die_after=step))
        train(backbone, settings, output=output, resume=True)
        for part in ("prompt", "checkpoint"):
            assert same(tensors_of(output / part), tensors_of(tmp_path / "whole" / part))
        assert log_of(output) == log_of(tmp_path / "whole")


def test_the_weights_kept_are_those_of_the_best_step(backbone):
    """The last steps spoil the backbone; what is kept scores as the best step did."""
    watcher = Watcher()
    settings = SHALLOW | THAWED | {"backbone_lr": 0.5, "evaluate_every": 1, "metric": "loss"}
    result = train(backbone, settings, validation=ROWS, watcher=watcher)
    losses = [scores["loss"] for _, scores in watcher.scores]
    assert min(losses) < losses[-1]
    assert ptune.evaluate(backbone, result.prompt, ROWS).scores["loss"] == pytest.approx(
        min(losses), rel=1e-4
    )


def test_it_works_with_a_deep_prompt_and_a_head_and_with_checkpointing(backbone):
    deep = HEAD | THAWED | {"method": "p-tuning-v2", "encoder": None, "template": "{text}"}
    one = train(backbone, deep | {"prompt_length": 2, "backbone_lr": 1e-3})
    two = train(
        backbone,
        deep | {"prompt_length": 2, "backbone_lr": 1e-3, "gradient_checkpointing": True},
    )
    assert one.scores["validation"] == pytest.approx(two.scores["validation"], rel=1e-4)
    assert one.prompt.backbone_weights


def test_replicas_are_refused(backbone):
    said = refused(
        ConfigError,
        lambda: ptune.train_replicas(backbone, ROWS, [{"seed": 0}, {"seed": 1}], **TABLE, **THAWED),
    )
    assert said == (
        "train_backbone does not go with replicas: 2 prompts share one backbone, and each would "
        "need its own. Train them in several runs."
    )
    assert not any(w.requires_grad for w in backbone.model.parameters())


def test_several_processes_and_halved_numbers_are_refused(backbone):
    assert refused(ConfigError, lambda: refuse_trained_backbone(backbone, processes=2)) == (
        "train_backbone needs all weights in one process, on one device. Start without accelerate "
        "launch and device_map."
    )
    half = ptune.Backbone.load(tiny.model("llama").bfloat16(), tokenizer=tiny.tokenizer())
    assert refused(ConfigError, lambda: train(half, TABLE | THAWED)) == (
        "train_backbone: the weights are held in bfloat16, where steps as small as backbone_lr are "
        "lost in rounding. Load them with dtype: float32, and leave precision out."
    )


def test_such_a_prompt_is_no_start_for_another_one(backbone, thawed):
    _, output, _ = thawed
    start = f"{output}/prompt"
    assert refused(ConfigError, lambda: train(backbone, TABLE | {"init": start})) == (
        f"init = {start}: this prompt was trained together with its backbone (train_backbone) and "
        "means nothing without those weights. Start from another prompt."
    )


def test_a_quantised_backbone_carries_no_other_weights(thawed):
    result, _, _ = thawed
    int8 = ptune.Backbone.load("ptune-tiny", quantization="int8")
    assert refused(
        BackboneError, lambda: ptune.evaluate(int8, result.prompt, ROWS, force=True)
    ) == (
        '"ptune-tiny" is quantised, sharded, or spread by a device map, so it cannot be copied to '
        "carry other weights. Load it whole, on one device."
    )
