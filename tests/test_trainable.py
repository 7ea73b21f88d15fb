import copy

import pytest
import tiny
import torch
import transformers as hf
from safetensors.torch import load_file

import ptune
from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.encoders import EmbeddingEncoder, LSTMEncoder, PrefixEncoder
from ptune.errors import ConfigError
from ptune.heads import ClassificationHead
from ptune.run import run
from ptune.trainable import PromptedBackbone, TrainablePrompt

WIDTH = 32
LONG, SHORT = [12, 40, 33, 17, 25], [14, 7, 5]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shallow(slots=3, dropout=0.0):
    return LSTMEncoder(slots, WIDTH, dropout=dropout, generator=generator())


def deep(backbone, sites, dropout=0.0, projection=None):
    shapes = [backbone.geometry.sites[site].shape for site in sites]
    return PrefixEncoder(2, shapes, dropout=dropout, projection=projection, generator=generator(1))


def both(backbone, **dropout):
    return TrainablePrompt(
        shallow=shallow(**dropout), deep=deep(backbone, (0, 2), **dropout), sites=(0, 2)
    )


def test_an_encoder_alone_gives_vectors_for_a_batch_of_slots():
    encoder = ptune.encoders.LSTMEncoder(4, 8)
    assert encoder(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]])).shape == (2, 4, 8)


def test_what_is_trained_under_autocast_is_what_is_folded():
    prompt = both(tiny.backbone("llama"))
    with torch.autocast("cpu", torch.bfloat16):
        trained = prompt.tensors()
    folded = prompt.fold()
    assert torch.equal(trained.vectors, folded.vectors)
    assert all(torch.equal(trained.deep[site].keys, folded.deep[site].keys) for site in (0, 2))


@pytest.mark.parametrize("projection", [None, 12])
def test_folded_gives_the_same_logits_as_unfolded_bit_for_bit(projection):
    backbone = tiny.backbone("llama")
    prompt = TrainablePrompt(
        shallow=shallow(dropout=0.5),
        deep=deep(backbone, (0, 2), dropout=0.5, projection=projection),
        sites=(0, 2),
    )
    batch = backbone.pack([TokenSequence((-1, *LONG, -2, -3), reads=(5, 7))])
    prompt.train()
    folded = prompt.fold()
    assert prompt.training
    assert prompt.shallow.training
    prompt.eval()
    with torch.no_grad():
        whole = run(backbone, [prompt.tensors()], batch, read="logits")
    assert torch.equal(run(backbone, [folded], batch, read="logits"), whole)
    assert not any(t.requires_grad for t in (folded.vectors, *folded.deep[0], *folded.deep[2]))


def test_folding_leaves_every_module_in_its_own_mode():
    prompt = TrainablePrompt(shallow=shallow(), head=ClassificationHead(8, 2))
    prompt.train()
    prompt.head.eval()
    prompt.fold()
    assert prompt.training
    assert prompt.shallow.training
    assert not prompt.head.training


def test_dropout_changes_the_prompt_in_training_only():
    prompt = both(tiny.backbone("llama"), dropout=0.5)
    prompt.train()
    assert not torch.equal(prompt.tensors().vectors, prompt.tensors().vectors)
    assert not torch.equal(prompt.tensors().deep[2].keys, prompt.tensors().deep[2].keys)
    prompt.eval()
    assert torch.equal(prompt.tensors().vectors, prompt.tensors().vectors)


def test_keys_and_values_go_to_the_sites_that_were_chosen():
    backbone = tiny.backbone("llama")
    encoder = deep(backbone, (1, 2))
    made = TrainablePrompt(deep=encoder, sites=(1, 2)).tensors()
    assert made.vectors is None
    assert set(made.deep) == {1, 2}
    for kv, expected in zip(made.deep.values(), encoder.split(encoder.table()), strict=True):
        assert torch.equal(kv.keys, expected.keys)
        assert torch.equal(kv.values, expected.values)


def padded(rows, side):
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    pairs = zip(rows, fill, strict=True)
    ids = [f + r if side == "left" else r + f for r, f in pairs]
    real = [[1] * len(r) for r in rows]
    mask = [f + m if side == "left" else m + f for m, f in zip(real, fill, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_padded_row_is_the_row_alone(name, side):
    backbone = tiny.backbone(name)
    model = PromptedBackbone(backbone, both(backbone), after=int(name == "bert")).eval()
    ids, mask = padded([LONG, SHORT], side)
    with torch.no_grad():
        together = model(ids, mask)["logits"]
        for row, real, logits in zip((LONG, SHORT), mask, together, strict=True):
            alone = model(torch.tensor([row]))["logits"][0]
            torch.testing.assert_close(logits[real.bool()], alone, rtol=1e-4, atol=1e-4)
            assert not logits[~real.bool()].any()


@pytest.mark.parametrize(("name", "after"), [("llama", 0), ("bert", 0), ("bert", 1)])
def test_logits_are_those_of_the_model_with_the_vectors_put_in(name, after):
    backbone = tiny.backbone(name)
    prompt = TrainablePrompt(shallow=EmbeddingEncoder(3, WIDTH, generator=generator()))
    table = backbone.model.get_input_embeddings().weight[LONG]
    words = torch.cat([table[:after], prompt.tensors().vectors, table[after:]])
    with torch.no_grad():
        native = backbone.model(inputs_embeds=words[None]).logits[0]
        logits = PromptedBackbone(backbone, prompt, after=after)(torch.tensor([LONG]))["logits"][0]
    expected = torch.cat([native[:after], native[after + 3 :]])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_is_transformers_own(name, side):
    backbone = tiny.backbone(name)
    prompt = TrainablePrompt(shallow=EmbeddingEncoder(3, WIDTH, generator=generator()))
    ids, mask = padded([LONG, SHORT], side)
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 1] = -100
    model = PromptedBackbone(backbone, prompt)
    with torch.no_grad():
        got = model(ids, mask, labels)["loss"]
        logits = model(ids, mask)["logits"]
    if name == "llama":
        native = backbone.model.loss_function(
            logits=logits, labels=labels, vocab_size=logits.shape[-1]
        )
    else:
        native = backbone.model.loss_function(logits, labels, vocab_size=logits.shape[-1])
    torch.testing.assert_close(got, native)


def test_padding_is_never_learned_even_where_a_label_stands_there():
    backbone = tiny.backbone("llama")
    model = PromptedBackbone(backbone, both(backbone)).eval()
    ids, mask = padded([LONG, SHORT], "right")
    clean = model(ids, mask, ids.masked_fill(mask == 0, -100))["loss"]
    assert torch.equal(model(ids, mask, ids)["loss"], clean)


def test_a_backbone_without_a_language_model_head_is_refused():
    body = hf.AutoModel.from_config(tiny.ENCODERS["bert"]())
    backbone = Backbone(body, tiny.tokenizer(), "headless")
    with pytest.raises(ConfigError) as error:
        PromptedBackbone(backbone, TrainablePrompt(shallow=shallow()))
    assert str(error.value) == (
        '"headless" has no language-model head. Load a model saved with one.'
    )


def test_in_a_plain_loop_the_prompt_learns_and_the_backbone_stays_as_it_is():
    backbone = tiny.backbone("llama")
    before = copy.deepcopy(backbone.model.state_dict())
    model = PromptedBackbone(backbone, both(backbone))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    ids, mask = padded([LONG, SHORT], "left")
    losses = []
    for _ in range(6):
        loss = model(ids, mask, ids)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_its_parameters_and_its_state_are_the_prompts_alone():
    backbone = tiny.backbone("llama")
    prompt = both(backbone)
    model = PromptedBackbone(backbone, prompt)
    assert set(model.state_dict()) == {f"prompt.{name}" for name in prompt.state_dict()}
    assert {id(p) for p in model.parameters()} == {id(p) for p in prompt.parameters()}
    assert model.config is backbone.model.config


def trainer(backbone, folder, steps, **settings):
    rows = [{"input_ids": row, "labels": row} for row in (LONG, LONG[::-1]) * 4]
    arguments = hf.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=0.05,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    torch.manual_seed(0)
    model = PromptedBackbone(backbone, both(backbone, dropout=0.2))
    return hf.Trainer(model=model, args=arguments, train_dataset=rows)


@pytest.mark.filterwarnings("default")  # what Trainer itself warns about is not ours
def test_transformers_trainer_trains_saves_and_resumes_the_prompt(tmp_path):
    backbone = tiny.backbone("llama")
    whole = trainer(backbone, tmp_path / "a", 4)
    whole.train()
    losses = [line["loss"] for line in whole.state.log_history if "loss" in line]
    assert losses[-1] < losses[0]

    saved = load_file(tmp_path / "a" / "checkpoint-2" / "model.safetensors")
    assert set(saved) == {f"prompt.{name}" for name in both(backbone).state_dict()}

    resumed = trainer(backbone, tmp_path / "b", 4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    expected = whole.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())

    back = PromptedBackbone(backbone, both(backbone))
    back.load_state_dict(load_file(tmp_path / "a" / "checkpoint-4" / "model.safetensors"))
    ids = torch.tensor([LONG])
    with torch.no_grad():
        assert torch.equal(back.eval()(ids)["logits"], whole.model.eval()(ids)["logits"])


@pytest.mark.filterwarnings("default")
def test_transformers_trainer_evaluates_and_predicts_with_the_prompt(tmp_path):
    one = trainer(tiny.backbone("llama"), tmp_path, 1)
    rows = [{"input_ids": LONG, "labels": LONG}] * 3
    said = one.predict(rows)
    assert said.predictions.shape == (3, 5, tiny.VOCABULARY)
    with torch.no_grad():
        expected = one.model(torch.tensor([LONG]), labels=torch.tensor([LONG]))
    assert said.metrics["test_loss"] == pytest.approx(float(expected["loss"]), rel=1e-4)
