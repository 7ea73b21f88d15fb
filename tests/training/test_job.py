import pytest
import tiny
import torch
import transformers
from tiny_runs import (
    DEEP,
    HEAD,
    ROWS,
    SHALLOW,
    TABLE,
    Watcher,
    log_of,
    train,
)

import ptune
from ptune.api import predict
from ptune.backbone import Backbone
from ptune.display import fact_lines
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.training import job


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_rows_of_the_test_file_are_looked_at_before_the_first_step(backbone):
    watcher = Watcher()
    test = [{"text": "late", "label": "compliment"}]
    message = (
        "the given rows, row 1: label 'compliment' never occurs in the rows left for "
        "training, 8 of the 10 of the given rows. Known: "
        "complaint, no complaint. Did you mean complaint? Mend the row, or add the label."
    )
    refused(DataError, message, lambda: train(backbone, TABLE, test=test, watcher=watcher))
    test = [{"text": None, "label": "complaint"}]
    with pytest.raises(DataError, match="the value is missing"):
        train(backbone, TABLE, test=test, watcher=watcher)
    assert watcher.steps == []


def test_a_column_that_is_missing_in_one_of_the_files_is_named_with_the_file(tmp_path, backbone):
    file = tmp_path / "test.csv"
    file.write_text("txt,label\nlate,complaint\n")
    with pytest.raises(TemplateError) as error:
        train(backbone, TABLE, test=str(file))
    assert str(error.value) == (
        f'{file}: template "{{soft:2}}{{text}} label : {{label}}", column 9: unknown slot '
        "{text}. Known: {soft:N}, {mask}, {label}, {sep}, {bos} or a field of the rows: txt, "
        "label. Did you mean txt?"
    )


def test_without_a_template_the_one_text_column_is_taken(backbone):
    settings = {"epochs": 1, "batch_size": 8, "prompt_length": 3}
    assert train(backbone, settings).prompt.template == "{soft:3}{text} Label : {label}"
    deep = settings | {"method": "p-tuning-v2"}
    assert train(backbone, deep).prompt.template == "{text} Label : {label}"
    head = settings | {"task": "sequence-classification"}
    assert train(backbone, head).prompt.template == "{soft:3}{text}"


def test_without_a_template_several_or_no_columns_are_refused(backbone):
    rows = [row | {"more": "text"} for row in ROWS]
    message = (
        "template is missing, and the given rows has several columns to choose from: text, more. "
        'Say how a row looks, e.g. template="{soft:20}{text}".'
    )
    refused(ConfigError, message, lambda: train(backbone, {}, rows))
    head = {"task": "sequence-classification"}
    message = message.replace("{text}", "{text}{sep}{more}")
    refused(ConfigError, message, lambda: train(backbone, head, rows))
    rows = [{"label": row["label"]} for row in ROWS]
    message = (
        "template is missing, and the given rows has no column beside label. "
        "Add a column with the texts."
    )
    refused(ConfigError, message, lambda: train(backbone, {}, rows))


def test_a_method_that_has_nothing_to_train_is_refused(backbone):
    message = (
        'template "{text} label : {label}" has no virtual tokens, which method p-tuning trains. '
        "Put {soft:20} where they should stand, or use method: p-tuning-v2."
    )
    refused(
        ConfigError,
        message,
        lambda: train(backbone, SHALLOW, template="{text} label : {label}"),
    )


def test_a_layer_that_is_not_there_is_refused(backbone):
    message = (
        "layers = [5]: the backbone has 3 attention sites, numbered 0 .. 2. Choose among them."
    )
    refused(ConfigError, message, lambda: train(backbone, DEEP, layers=[5]))


@pytest.mark.parametrize(("layers", "sites"), [("upper:2", {1, 2}), ([0, 2], {0, 2})])
def test_chosen_layers_alone_are_trained(backbone, layers, sites):
    assert set(train(backbone, DEEP, layers=layers).prompt.deep) == sites


def test_several_answer_words_are_trained_and_kept(backbone):
    words = {"complaint": ["bad", "late"], "no complaint": ["good"]}
    prompt = train(backbone, TABLE, verbalizer=words).prompt
    assert prompt.verbalizer == words
    said = predict(backbone, prompt, ["thank you"])[0]
    assert set(said.probabilities) == {"complaint", "no complaint"}


def test_the_start_from_labels_is_the_words_that_stand_for_them(backbone):
    settings = TABLE | {
        "init": "labels",
        "verbalizer": {"complaint": ["bad"]},
        "lr": 1e-8,
        "max_steps": 1,
    }
    vectors = train(backbone, settings).prompt.vectors
    ids = backbone.tokenizer("bad no", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(vectors, backbone.embed(ids), rtol=1e-5, atol=1e-5)


def test_another_prompt_is_gone_on_from(tmp_path, backbone):
    first = train(backbone, TABLE, output=tmp_path)
    settings = TABLE | {"init": str(tmp_path / "prompt"), "lr": 1e-8, "max_steps": 1}
    second = train(backbone, settings)
    torch.testing.assert_close(second.prompt.vectors, first.prompt.vectors, rtol=1e-5, atol=1e-5)


def test_another_prompt_is_gone_on_from_where_the_template_has_a_text_too(tmp_path, backbone):
    own = TABLE | {"template": '{soft:2="good film"}{soft:2}{text} label : {label}'}
    first = train(backbone, own, output=tmp_path)
    settings = own | {"init": str(tmp_path / "prompt"), "lr": 1e-8, "max_steps": 1}
    vectors = train(backbone, settings).prompt.vectors
    torch.testing.assert_close(vectors, first.prompt.vectors, rtol=1e-5, atol=1e-5)


def test_a_head_of_another_form_is_not_gone_on_from(tmp_path, backbone):
    train(backbone, HEAD, output=tmp_path)
    with pytest.raises(ConfigError) as error:
        train(backbone, HEAD | {"init": str(tmp_path / "prompt"), "head_form": "tanh"})
    assert str(error.value) == (
        "head_form = tanh: the prompt to start from answers the same question with a head of "
        "another form (normalized). Give both the same head_form."
    )


def test_a_text_in_the_template_is_what_its_block_starts_from(backbone):
    template = '{soft:"thank you"}{text} label : {label}'
    settings = TABLE | {"template": template, "init": "random", "lr": 1e-8, "max_steps": 1}
    ids = backbone.tokenizer("thank you", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(
        train(backbone, settings).prompt.vectors, backbone.embed(ids), rtol=1e-5, atol=1e-5
    )


def test_a_model_that_mixes_tokens_outside_attention_is_padded_and_that_is_said(tmp_path):
    config = transformers.Lfm2Config(
        **tiny.SMALL, num_key_value_heads=2, layer_types=["conv", "full_attention", "conv"]
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    backbone = Backbone.load(model, tokenizer=tiny.tokenizer())
    assert backbone.geometry.padded
    watcher = Watcher()
    settings = {k: v for k, v in TABLE.items() if k != "batch_size"} | {"tokens_per_batch": 30}
    result = train(backbone, settings, output=tmp_path, watcher=watcher)
    said = (
        "Lfm2ForCausalLM mixes tokens outside attention, so the rows of a batch are padded to the "
        "longest instead of packed, and nothing is shared between them: pads and repeated heads "
        "are computed too."
    )
    assert result.facts["notes"] == watcher.facts["notes"] == [said]
    assert said in fact_lines(result.facts)
    assert [line["note"] for line in log_of(tmp_path) if "note" in line] == [said]
    assert all(line["loss"] < 50 for line in log_of(tmp_path) if "loss" in line)


def hybrid(kind):
    torch.manual_seed(0)
    if kind == "hybrid":
        layers = ["conv", "full_attention", "conv"]
        config = transformers.Lfm2Config(**tiny.SMALL, num_key_value_heads=2, layer_types=layers)
    else:
        config = transformers.MambaConfig(
            vocab_size=tiny.VOCABULARY, hidden_size=16, num_hidden_layers=1, pad_token_id=0
        )
    model = transformers.AutoModelForCausalLM.from_config(config)
    return Backbone.load(model, tokenizer=tiny.tokenizer())


def test_how_many_layers_a_deep_prompt_can_enter_is_said():
    said = "The deep prompt can enter 1 of 3 layers: the others have no attention."
    assert said in train(hybrid("hybrid"), DEEP | {"max_steps": 1}).facts["notes"]
    assert said not in train(hybrid("hybrid"), TABLE | {"max_steps": 1}).facts["notes"]


def test_a_deep_prompt_where_there_is_no_attention_is_refused():
    with pytest.raises(ConfigError) as error:
        train(hybrid("none"), DEEP)
    assert str(error.value) == (
        "method = p-tuning-v2: MambaForCausalLM has no attention that a deep prompt could enter. "
        "Set method: prompt-tuning or p-tuning."
    )


def test_a_model_that_can_be_packed_has_nothing_to_say(backbone):
    assert "notes" not in train(backbone, TABLE).facts


def test_a_budget_without_room_for_a_row_is_refused(backbone):
    settings = {k: v for k, v in TABLE.items() if k != "batch_size"}
    settings |= {"template": "{soft:20}{text} label : {label}"}
    message = (
        "tokens_per_batch = 20: every batch begins with the 20 tokens that all rows share, so no "
        "row would fit. Raise it, or set batch_size."
    )
    refused(ConfigError, message, lambda: train(backbone, settings, tokens_per_batch=20))
    assert train(backbone, settings, tokens_per_batch=21, max_steps=1).steps == 1


def test_few_shot_trains_on_so_many_of_each_label_and_validates_on_as_many_others(backbone):
    result = train(backbone, TABLE, few_shot=2, max_steps=1)
    assert (result.facts["training rows"], result.facts["validation rows"]) == (4, 4)
    result = train(backbone, TABLE, few_shot=3, max_steps=1)
    assert (result.facts["training rows"], result.facts["validation rows"]) == (6, 4)
    result = train(backbone, TABLE, few_shot=3, max_steps=1, validation_share=0)
    assert (result.facts["training rows"], result.facts["validation rows"]) == (6, 0)
    result = train(backbone, TABLE, few_shot=3, max_steps=1, validation=ROWS)
    assert (result.facts["training rows"], result.facts["validation rows"]) == (6, 10)


@pytest.mark.parametrize("template", ["{text}{soft:2}", "{soft:1}{text}{soft:1}"])
def test_virtual_tokens_that_a_decoders_head_would_never_see_are_refused(backbone, template):
    message = (
        f'template "{template}": task sequence-classification reads the tokens of the row, and in '
        "a decoder they do not see what stands behind them, so the virtual tokens at the end "
        "would never be trained. Put them before the text."
    )
    refused(TemplateError, message, lambda: train(backbone, HEAD, template=template))


def test_a_decoders_first_token_is_not_pooled_since_it_sees_nothing_of_the_row(backbone):
    message = (
        "pooling = first: in a decoder the first token does not see the row. Set pooling: last or "
        "mean."
    )
    refused(ConfigError, message, lambda: train(backbone, HEAD, pooling="first"))
    encoder = tiny.backbone("bert")
    assert train(encoder, HEAD, pooling="first", max_steps=1).prompt.settings["pooling"] == "first"


def test_virtual_tokens_behind_the_text_are_trained_in_an_encoder():
    prompt = train(tiny.backbone("bert"), HEAD, template="{text}{soft:2}", max_steps=1).prompt
    assert prompt.slots == 2


def test_rows_are_cut_so_that_keys_at_absolute_positions_have_theirs():
    backbone = tiny.backbone("gpt2")  # of 64 positions
    rows = [row | {"text": row["text"] + " late" * 100} for row in ROWS]
    prompt = train(backbone, DEEP, rows).prompt
    assert prompt.offset == 3
    said = predict(backbone, prompt, ["late " * 100])
    assert said[0].answer in ("complaint", "no complaint")


def test_free_text_is_trained_and_generated(backbone):
    rows = [
        {"text": t, "reply": f"thank you {w}"} for t, w in zip("abcdefgh", "abcdefgh", strict=True)
    ]
    settings = TABLE | {"answer": "text", "label_column": "reply"}
    result = train(backbone, settings, rows, test=rows[:2])
    of_texts = {"exact_match", "rouge1", "rouge2", "rougeL", "bleu"}
    assert set(result.scores["test"]) == {"loss", "perplexity", *of_texts}
    assert result.prompt.labels == ()
    assert "imbalance" not in result.facts
    assert isinstance(predict(backbone, result.prompt, ["late"])[0].answer, str)


def test_several_labels_and_numbers_are_trained(backbone):
    several = [row | {"label": "a|b" if at % 2 else ""} for at, row in enumerate(ROWS)]
    result = train(backbone, HEAD | {"problem": "multi-label"}, several)
    assert set(result.scores["validation"]) == {"loss", "micro_f1", "macro_f1"}
    numbers = [row | {"label": str(at)} for at, row in enumerate(ROWS)]
    result = train(backbone, HEAD | {"problem": "regression"}, numbers)
    assert {"mse", "pearson", "spearman"} < set(result.scores["validation"])
    assert isinstance(predict(backbone, result.prompt, ["late"])[0].answer, float)


def test_unknown_settings_are_refused(backbone):
    with pytest.raises(ConfigError) as error:
        ptune.train(backbone, ROWS, epoch=3)
    assert "epoch" in str(error.value)
    assert "Did you mean epochs?" in str(error.value)


def test_mistakes_in_the_rows_are_told_before_the_backbone_is_loaded(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("text,label\nlate,complaint\n")
    with pytest.raises(DataError):
        ptune.train("nowhere/at-all", str(file), validation_share=0)


def test_each_of_several_launched_processes_takes_a_gpu_of_its_own(monkeypatch):
    asked, loaded = {}, tiny.backbone()
    monkeypatch.setattr(job.Backbone, "load", lambda *a, **k: asked.update(k) or loaded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    recipe = ptune.Recipe.make(backbone="b", train="t.csv")
    job.load_backbone(recipe)
    assert asked["device"] == "cuda:3"
    job.load_backbone(recipe.changed(device="cpu"))
    assert asked["device"] == "cpu"


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({}, "auto"),
        ({"precision": "bf16"}, "bfloat16"),
        ({"precision": "fp32"}, "float32"),
        ({"precision": "bf16", "dtype": "float16"}, "float16"),
    ],
)
def test_the_precision_decides_how_the_weights_are_held(monkeypatch, settings, dtype):
    asked, loaded = {}, tiny.backbone()
    monkeypatch.setattr(job.Backbone, "load", lambda *a, **k: asked.update(k) or loaded)
    job.load_backbone(ptune.Recipe.make(backbone="b", train="t.csv", **settings))
    assert asked["dtype"] == dtype


def test_the_run_is_told_to_tensorboard_too(tmp_path, backbone):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = TABLE | {"tracker": "tensorboard"}
    train(backbone, settings, output=tmp_path)
    log = events.EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    assert [e.step for e in log.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in log.Scalars("validation/accuracy")] == [2, 4, 6]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"prompt_length": 50},
            (
                "prompt_length = 50 has no effect: the template says how many virtual tokens "
                "there are."
            ),
        ),
        (
            {"encoder_lr": 0.5},
            "encoder_lr = 0.5 has no effect: the prompt is a table, whose step size is lr = 0.05.",
        ),
    ],
)
def test_a_setting_that_says_nothing_of_the_run_is_told(backbone, settings, said):
    few = TABLE | {"lr": 0.05, "max_steps": 1}
    assert said in train(backbone, few | settings).facts["notes"]
    assert "notes" not in train(backbone, few).facts


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dtype": "bfloat16", "revision": "main"}, "dtype, revision"),
        ({"quantization": "int8"}, "quantization"),
        ({"device": "nonsense", "device_map": "disk"}, "device, device_map"),
    ],
)
def test_how_to_load_a_backbone_is_not_said_of_one_that_is_loaded(backbone, settings, named):
    with pytest.raises(ConfigError) as error:
        train(backbone, TABLE | {"max_steps": 1} | settings)
    assert str(error.value) == (
        f'{named}: "{backbone.name}" is loaded already, and this says how to load a backbone. '
        "Leave it out, or give the backbone's name instead."
    )
    plain = {"dtype": "auto", "quantization": None, "device": "auto"}
    assert train(backbone, TABLE | {"max_steps": 1} | plain).steps == 1


def test_a_home_folder_is_written_out_for_all_that_a_run_writes(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    train(backbone, TABLE | {"max_steps": 1}, output="~/run")
    found = {path.name for path in (tmp_path / "home" / "run").iterdir()}
    assert {"prompt", "checkpoint", "log.jsonl", "scores.json"} <= found
    assert not (tmp_path / "~").exists()
    keys = ("backbone", "train", "validation", "test", "output", "init", "cache")
    recipe = ptune.Recipe.make(**{key: f"~/of/{key}" for key in keys})
    for key in keys:
        assert getattr(recipe, key) == f"{tmp_path}/home/of/{key}"
