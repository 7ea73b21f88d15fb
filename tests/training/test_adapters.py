"""Prompt and LoRA trained together (`train_backbone: adapters`); PEFT's own model is the oracle."""

import copy

import pytest
import tiny
import torch
import transformers as hf
from oracles.plain_loss import word_loss
from tiny_runs import (
    DEEP,
    HEAD,
    ROWS,
    TABLE,
    Killed,
    Watcher,
    document_of,
    log_of,
    same,
    tensors_of,
    train,
)
from torch.nn import functional

import ptune
from ptune.encoders import EmbeddingEncoder, PrefixEncoder
from ptune.errors import ArtifactError, ConfigError
from ptune.formats import export_peft
from ptune.run import run
from ptune.training.dropout import draws

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ADAPTERS = {"train_backbone": "adapters", "backbone_lr": 1e-2}
LONG, SHORT = (12, 40, 33, 17, 25, 61), (14, 7, 5)
EVERYWHERE = {"target_modules": "all-linear"}


def lora(name="llama", seed=1, model=None, **settings):
    """PEFT's model with a LoRA that is far from nothing, and is to be trained."""
    own = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    config = peft.LoraConfig(**own | settings)
    wrapped = peft.get_peft_model(tiny.model(name) if model is None else model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in wrapped.named_parameters():
            if "lora_" in key:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return wrapped


def load(model):
    return ptune.Backbone.load(model, tokenizer=tiny.tokenizer())


def drawn(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights_of(backbone):
    return {name: w.detach().clone() for name, w in backbone.model.named_parameters()}


def refused(kind, call):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


@pytest.fixture(scope="module")
def backbone():
    return load(lora())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, backbone):
    output = tmp_path_factory.mktemp("adapters")
    before = weights_of(backbone)
    return train(backbone, TABLE | ADAPTERS, output=output, test=ROWS[:4]), output, before


# --------------------------------------------------------------------------- gradients and steps


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (0.5, True)])
def test_dropout_of_a_lora_is_that_of_its_backbone(share, expected):
    assert draws(load(lora(lora_dropout=share))) is expected  # Llama has none of its own
    new = peft.LoraConfig(lora_dropout=share, **EVERYWHERE)  # which changes nothing yet
    assert draws(load(peft.get_peft_model(tiny.model("llama"), new))) is expected


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", EVERYWHERE),
        ("llama", {"modules_to_save": ["lm_head"]}),
        ("llama", {"target_modules": ["v_proj", "embed_tokens"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("bert", {"target_modules": ["query", "value", "dense"]}),
    ],
    ids=["all-linear", "saved-head", "embeddings", "gpt2", "bert"],
)
def test_gradients_are_those_of_autograd_through_pefts_model_padded(name, settings):
    """Two rows behind three vectors, padded on the right, by PEFT's model alone."""
    wrapped = lora(name, **settings)
    oracle = copy.deepcopy(wrapped).eval()
    backbone = load(wrapped)
    prompt = ptune.TrainablePrompt(
        shallow=EmbeddingEncoder(3, 32, initial=drawn(3, 32)),
        backbone=ptune.BackboneWeights(backbone, adapters=True),
    )
    ids = torch.tensor([LONG, (*SHORT, 0, 0, 0)])
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    labels = ids.masked_fill(mask == 0, -100)
    ptune.PromptedBackbone(backbone, prompt)(ids, mask, labels)["loss"].backward()

    vectors = drawn(3, 32).requires_grad_()
    words = oracle.get_input_embeddings()(ids)
    embedded = torch.cat([vectors.expand(2, 3, 32), words], dim=1)
    seen = torch.cat([torch.ones(2, 3, dtype=mask.dtype), mask], dim=1)
    logits = oracle(inputs_embeds=embedded, attention_mask=seen).logits[:, 3:]
    if name != "bert":  # an encoder fills in, a decoder says the next one
        logits, labels = logits[:, :-1], labels[:, 1:]
    functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()

    scale = prompt.shallow.scale  # the table is kept in units of the embeddings
    torch.testing.assert_close(prompt.shallow.weight.grad, vectors.grad * scale)
    found = dict(prompt.backbone.named_parameters())
    theirs = {
        key.removeprefix("base_model.model.").replace(".", "/"): weight.grad
        for key, weight in oracle.named_parameters()
        if weight.requires_grad
    }
    assert found.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(found[key].grad, gradient, rtol=1e-4, atol=1e-5)
        assert gradient.abs().max() > 1e-4
    frozen = [w for key, w in backbone.model.named_parameters() if key not in backbone.adapters]
    assert frozen
    assert all(not w.requires_grad and w.grad is None for w in frozen)


def test_a_step_is_that_of_plain_torch_on_pefts_model(backbone):
    """One step on all rows by AdamW, the LoRA with its own step size."""
    rows = [row | {"label": word} for row, word in zip(ROWS[:6], ["yes", "no"] * 3, strict=True)]
    settings = TABLE | ADAPTERS | {
        "lr": 1e-8, "clip": 0.0, "average": 0, "schedule": "constant", "warmup_share": 0.0,
        "max_steps": 1,
        "batch_size": 6, "validation_share": 0, "template": "{soft:2}{text} answer :{label}",
    }  # fmt: skip
    result = train(backbone, settings, rows=rows)
    model = copy.deepcopy(backbone.model)
    own = {name: w.requires_grad_() for name, w in model.named_parameters() if "lora_" in name}
    optimizer = torch.optim.AdamW(own.values(), lr=1e-2, weight_decay=0.0)
    # The prompt hardly moves with this lr, so that it is the one that the run began with.
    prompt = result.prompt.vectors
    word_loss(model, backbone.tokenizer, rows, prompt, ["no", "yes"]).backward()
    optimizer.step()
    assert result.prompt.backbone_weights.keys() == own.keys()
    for name, weight in own.items():
        # Where the gradient is nearly nothing, AdamW's first step is rounding made large.
        clear = weight.grad.abs() > 1e-5
        found = result.prompt.backbone_weights[name]
        torch.testing.assert_close(found[clear], weight[clear].detach(), rtol=1e-3, atol=2e-4)


def test_the_step_size_of_adapters_is_that_of_the_lora_paper_where_nothing_is_said():
    recipe = ptune.Recipe.make(backbone="x", **TABLE, train_backbone="adapters").resolved()
    assert recipe.backbone_lr == 2e-4
    assert ptune.Recipe.make(backbone="x", **TABLE, train_backbone=True).resolved().backbone_lr == (
        1e-5
    )


# --------------------------------------------------------------------------- runs


def test_prompt_and_adapters_move_and_nothing_else(backbone, trained):
    result, output, before = trained
    assert same(weights_of(backbone), before)  # the adapters that were given stay, too
    assert not any(w.requires_grad for w in backbone.model.parameters())
    weights = result.prompt.backbone_weights
    assert set(weights) == {name for name in before if "lora_" in name}
    assert all(not torch.equal(weights[name], before[name]) for name in weights)
    losses = [line["loss"] for line in log_of(output) if "loss" in line]
    assert losses[-1] < losses[0]


def test_the_log_the_document_and_the_card_say_it(trained):
    result, output, before = trained
    count = sum(w.numel() for name, w in before.items() if "lora_" in name)
    whole = sum(w.numel() for w in before.values())
    assert log_of(output)[0]["note"] == (
        f"train_backbone = adapters: {count:,} of the backbone's {whole:,} weights are trained "
        "too, with steps up to 0.01; the others are frozen. The prompt carries them and works "
        "with no others."
    )
    document = document_of(output / "prompt")
    assert document["backbone_trained"] == result.prompt.weights_digest
    assert document["trained_parameters"] == count + result.prompt.vectors.numel()
    card = (output / "prompt" / "README.md").read_text()
    assert "**The model's adapters were trained too (`train_backbone: adapters`).**" in card
    assert result.prompt.summary()["backbone_weights"] == count


def test_a_saved_prompt_brings_its_adapters_to_any_that_have_their_shape(backbone, trained):
    result, output, _ = trained
    loaded = ptune.SoftPrompt.load(output / "prompt")
    assert same(loaded.backbone_weights, result.prompt.backbone_weights)
    for other in (backbone, load(lora(seed=2)), load(lora().eval().requires_grad_(False))):
        before = weights_of(other)
        again = ptune.evaluate(other, loaded, ROWS[:4])
        assert again.scores == pytest.approx(result.scores["test"], rel=1e-4)
        assert same(weights_of(other), before)


def test_the_copy_that_it_runs_on_shares_the_frozen_weights(backbone, trained):
    made = ptune.api.make_ready(backbone, trained[0].prompt).backbone
    own = dict(backbone.model.named_parameters())
    shared = {name for name, w in made.model.named_parameters() if w is own[name]}
    assert shared == {name for name in own if "lora_" not in name}


def test_without_these_adapters_the_prompt_is_refused_in_a_sentence(trained):
    soft = trained[0].prompt
    sentence = (
        "The prompt was trained together with adapters (train_backbone: adapters), and "
        '"LlamaForCausalLM" has no place for them: model.layers.0.self_attn.q_proj.lora_A.'
        "default.weight is missing, or has another shape. Put adapters of the same settings on "
        "the model before Backbone.load; the prompt brings their weights."
    )
    for model in (tiny.model("llama"), lora(r=2)):
        assert refused(ArtifactError, lambda m=model: ptune.evaluate(load(m), soft, ROWS)) == (
            sentence
        )
    # Adapters in other places, of another strength, or on another model.
    for other in (lora(**EVERYWHERE), lora(lora_alpha=16), lora(model=tiny.model("llama", seed=3))):
        said = refused(ArtifactError, lambda m=other: ptune.evaluate(load(m), soft, ROWS))
        assert said.startswith("The prompt was made for backbone")


def test_killed_and_resumed_is_never_stopped_though_the_adapters_begin_elsewhere(
    tmp_path, backbone
):
    settings = HEAD | ADAPTERS | {"epochs": 2}
    train(backbone, settings, output=tmp_path / "whole")
    with pytest.raises(Killed):
        train(backbone, settings, output=tmp_path / "killed", watcher=Watcher(die_after=2))
    train(load(lora(seed=7)), settings, output=tmp_path / "killed", resume=True)
    for part in ("prompt", "checkpoint"):
        assert same(tensors_of(tmp_path / "killed" / part), tensors_of(tmp_path / "whole" / part))
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_checkpointing_and_a_deep_prompt_in_the_upper_layers_change_nothing_else(backbone):
    deep = DEEP | ADAPTERS | {"layers": "upper:1"}
    one = train(backbone, deep)
    two = train(backbone, deep | {"gradient_checkpointing": True})
    assert one.scores["validation"] == pytest.approx(two.scores["validation"], rel=1e-4)
    lowest = "model.layers.0.self_attn.q_proj.lora_B.default.weight"
    before = dict(backbone.model.named_parameters())[lowest]
    assert not torch.equal(one.prompt.backbone_weights[lowest], before)  # beneath the prompt, too


def test_a_row_alone_is_the_row_in_a_batch_after_training(backbone, trained):
    ready = ptune.api.make_ready(backbone, trained[0].prompt)
    b, prompts = ready.backbone, [ready.tensors]
    rows = [
        ptune.TokenSequence((-1, *LONG, -2), reads=(6, 7)),
        ptune.TokenSequence((-1, -2, *SHORT), reads=(2, 4)),
    ]
    together = run(b, prompts, b.pack(rows), read="logits")
    alone = torch.cat([run(b, prompts, b.pack([row]), read="logits") for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_weights_may_be_in_bfloat16_beneath_adapters_in_float32():
    b = load(lora(model=tiny.model("llama").bfloat16()))
    assert {w.dtype for w in b.model.parameters()} == {torch.bfloat16, torch.float32}
    result = train(b, TABLE | ADAPTERS)
    assert {w.dtype for w in result.prompt.backbone_weights.values()} == {torch.float32}
    before = weights_of(b)
    moved = [n for n, w in result.prompt.backbone_weights.items() if not torch.equal(w, before[n])]
    assert moved == list(result.prompt.backbone_weights)


def test_adapters_held_in_bfloat16_are_refused():
    said = refused(ConfigError, lambda: train(load(lora().bfloat16()), TABLE | ADAPTERS))
    assert said == (
        "train_backbone: the adapters are held in bfloat16, where steps as small as backbone_lr "
        "are lost in rounding. Load them with dtype: float32, and leave precision out."
    )


@pytest.mark.parametrize("frozen", [True, False], ids=["all-frozen", "all-thawed"])
def test_a_model_without_adapters_to_train_is_refused(frozen):
    b = load(lora().requires_grad_(False) if frozen else tiny.model("llama"))
    assert refused(ConfigError, lambda: train(b, TABLE | ADAPTERS)) == (
        '"LlamaForCausalLM" has no adapters to train: when Backbone.load got the model, its '
        "weights were all frozen, or all to be trained. Give one whose adapters alone require "
        "gradients: peft.get_peft_model(model, config), or PeftModel.from_pretrained(model, "
        "folder, is_trainable=True)."
    )


def test_replicas_of_one_leave_the_given_adapters_alone(backbone):
    before = weights_of(backbone)
    (result,) = ptune.train_replicas(backbone, ROWS, [{"seed": 3}], **TABLE, **ADAPTERS)
    assert result.prompt.with_adapters
    assert same(weights_of(backbone), before)
    assert not any(w.requires_grad for w in backbone.model.parameters())


def test_pefts_folders_have_no_place_for_weights_beside_a_prompt(tmp_path, backbone, trained):
    said = refused(ArtifactError, lambda: export_peft(trained[0].prompt, backbone, tmp_path / "x"))
    assert said == (
        "The prompt was trained together with weights of its backbone (train_backbone), and a "
        "prompt of PEFT's brings none. Keep the prompt in ptune."
    )


# --------------------------------------------------------------------------- loops of one's own


def prompted(wrapped):
    """A deep and a shallow prompt, and the LoRA, on a backbone."""
    b = load(wrapped)
    prompt = ptune.TrainablePrompt(
        shallow=EmbeddingEncoder(2, 32, initial=drawn(2, 32)),
        deep=PrefixEncoder(2, [b.geometry.sites[1].shape], generator=torch.Generator()),
        sites=(1,),
        backbone=ptune.BackboneWeights(b, adapters=True),
    )
    return ptune.PromptedBackbone(b, prompt)


def groups(model):
    own = {id(w) for w in model.prompt.backbone.parameters()}
    return [
        {"params": [w for w in model.parameters() if id(w) not in own], "lr": 0.05},
        {"params": list(model.prompt.backbone.parameters()), "lr": 5e-3},
    ]


def test_in_a_plain_loop_both_learn_and_pefts_own_model_has_the_weights(tmp_path):
    wrapped = lora(lora_dropout=0.5)
    model = prompted(wrapped)
    before = weights_of(model.backbone)
    optimizer = torch.optim.AdamW(groups(model))
    ids = torch.tensor([LONG])
    losses = []
    for _ in range(6):
        loss = model(ids, labels=ids)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    after = weights_of(model.backbone)
    assert [n for n in before if not torch.equal(before[n], after[n])] == [
        n for n in before if "lora_" in n
    ]
    # What PEFT saves is the trained LoRA: on it the prompt says the same.
    wrapped.save_pretrained(tmp_path / "lora")
    again = peft.PeftModel.from_pretrained(tiny.model("llama"), tmp_path / "lora")
    frozen = ptune.PromptedBackbone(load(again), model.prompt)
    with torch.no_grad():
        assert torch.equal(frozen(ids)["logits"], model(ids)["logits"])


@pytest.mark.filterwarnings("default")  # what Trainer itself warns about is not ours
def test_transformers_trainer_trains_saves_and_resumes_both(tmp_path):
    def trainer(folder, seed):
        torch.manual_seed(0)
        model = prompted(lora(seed=seed))
        rows = [{"input_ids": row, "labels": row} for row in (LONG, LONG[::-1]) * 4]
        arguments = hf.TrainingArguments(
            output_dir=str(folder), max_steps=4, per_device_train_batch_size=2, save_steps=2,
            logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        optimizer = torch.optim.AdamW(groups(model))
        return hf.Trainer(
            model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None)
        )

    whole = trainer(tmp_path / "a", seed=1)
    whole.train()
    losses = [line["loss"] for line in whole.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]
    resumed = trainer(tmp_path / "b", seed=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    expected = whole.model.state_dict()
    assert any("lora_A" in key for key in expected)
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())
