"""Few-shot SuperGLUE recipes: each renders the published pattern, and trains on rows of its form.

The rows are made up, in the shape of the data set's files. Where the data set is beside the
repository (../shared/data), its own files are read too.
"""

import json
import math
import re
from functools import cache
from pathlib import Path

import pytest
import tiny_tokenizers
import torch
import transformers

import ptune
from ptune.config import Recipe, kind_of
from ptune.data import answers_of, load_rows, rows_for
from ptune.data.choices import with_choices
from ptune.template import Template
from ptune.training.job import task_of
from ptune.training.schedule import Plan

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes" / "fewglue").glob("*.yaml"))
DATA = ROOT.parent / "shared" / "data" / "fewglue_32dev"
FOLDERS = {
    "boolq": "BoolQ", "cb": "CB", "rte": "RTE", "multirc": "MultiRC", "wic": "WiC", "copa": "COPA",
    "wsc": "WSC",
}  # fmt: skip
each = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)

ROWS = {
    "boolq": [
        {"passage": "the tweet was dull", "question": "is it great", "label": label, "idx": 0}
        for label in (True, False)
    ],
    "cb": [
        {"premise": "it was so dull", "hypothesis": "no reply", "label": label, "idx": 0}
        for label in ("entailment", "contradiction", "neutral")
    ],
    "rte": [
        {"premise": "it was so dull .", "hypothesis": "no reply.", "label": label, "idx": 0}
        for label in ("entailment", "not_entailment")
    ],
    "multirc": [
        {
            "idx": 0,
            "version": 1.1,
            "passage": {
                "text": "the tweet was dull",
                "questions": [
                    {
                        "question": "is it great",
                        "answers": [{"text": "no", "label": 1}, {"text": "yes", "label": 0}],
                    }
                ],
            },
        }
    ],
    "wic": [
        {"word": "film", "sentence1": "great film .", "sentence2": "dull film .", "label": label}
        for label in (True, False)
    ],
    "copa": [
        {
            "premise": "The film was dull.",
            "choice1": "No reply.",
            "choice2": "It was great.",
            "question": question,
            "label": label,
        }
        for question, label in (("effect", 0), ("cause", 1))
    ],
    "wsc": [
        {
            "text": "The film was so dull that it had no reply .",
            "target": {
                "span1_text": "film", "span1_index": 1, "span2_text": "it", "span2_index": 6
            },
            "label": label,
        }
        for label in (True, False)
    ],
}  # fmt: skip
# The pattern of PT-Fewshot for the first row; [0] is the block, <n> a gap of n masks at most.
# Spaces are left out, letters are small.
PATTERNS = {
    "boolq": "[CLS]the tweet was dull.[0]question:is it great?answer:<1>.[SEP]",
    "cb": "[CLS]it was so dull[SEP]no reply?[0]answer:<1>[SEP]",
    "rte": "[CLS]it was so dull.question:no reply?[0]answer:<1>.[SEP]",
    "multirc": "[CLS]the tweet was dull.question:is it great?is it no?[0]<1>.[SEP]",
    "wic": "<s>great film.</s></s>dull film.[0]*film*?<1></s>",
    "copa": "[CLS]no reply or it was great?the film was dull so[0]<2>.[SEP]",
    "wsc": "<s>[0]The film was so dull that*it*had no reply.[1]pronoun'*it*'refers to<8>.</s>",
}


def recipe_of(path: Path) -> Recipe:
    return Recipe.load(path)


@cache
def backbone_of(name: str, kind: str = "wordpiece") -> ptune.Backbone:
    """A tiny masked model without training: the shape of the runs, and not their scores."""
    tokenizer = tiny_tokenizers.KINDS[kind]()
    tokenizer.model_max_length = 512
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or "[PAD]"
    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 48,
    }  # fmt: skip
    if name == "albert":
        config = transformers.AlbertConfig(**sizes, embedding_size=16)
        return ptune.Backbone.load(transformers.AlbertForMaskedLM(config), tokenizer=tokenizer)
    model = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    return ptune.Backbone.load(model, tokenizer=tokenizer)


def test_there_is_a_recipe_for_each_task():
    assert {path.stem for path in RECIPES} == set(FOLDERS)


@each
def test_a_recipe_is_a_cloze_and_renders_the_published_pattern(path):
    recipe = recipe_of(path)
    assert recipe.task == ("multiple-choice" if path.stem == "copa" else "masked-lm")
    rows = rows_for(ROWS[path.stem], recipe.to_dict())
    kind = "roberta" if path.stem in ("wic", "wsc") else "wordpiece"  # which knows no star
    backbone = backbone_of("bert", kind)
    plain = recipe.changed(verbalizer={})  # the pattern is the same whatever the answer words are
    labels = ("yes", "no") if recipe.verbalizer else ()
    task = task_of(plain, Template.parse(recipe.template), backbone, labels)
    shown = task.examples(rows)[0].sequences[0 if path.stem == "copa" else -1]
    token_of = backbone.tokenizer.convert_ids_to_tokens
    tokens = (f"[{-1 - token}]" if token < 0 else token_of(token) for token in shown.ids)
    spelled = "".join(tokens).replace("##", "").replace("Ġ", "")
    mask = backbone.tokenizer.mask_token
    found = re.sub(f"({re.escape(mask)})+", lambda gap: f"<{len(gap[0]) // len(mask)}>", spelled)
    assert found == PATTERNS[path.stem].replace(" ", "")
    assert {shown.ids[at] for at in shown.reads} == {backbone.tokenizer.mask_token_id}


@each
def test_the_labels_of_the_rows_are_those_of_the_verbalizer(path):
    recipe = recipe_of(path)
    rows = rows_for(ROWS[path.stem], recipe.to_dict())
    answers = answers_of(rows, recipe.label_column, kind_of(recipe.task, recipe.problem))
    if recipe.verbalizer:
        assert set(answers) == set(recipe.verbalizer)
    elif path.stem == "copa":
        assert answers == ["no reply", "it was great"]
    else:
        assert answers == ["film", "film"]


@each
def test_a_recipe_follows_the_protocol_of_the_few_shot_runs(path):
    recipe = recipe_of(path)
    asked = {
        "batch_size": 16, "evaluate_every": 20, "keep": "equal", "patience": 10, "clip": 1.0,
        "train_backbone": True, "backbone_lr": 1e-5, "backbone_weight_decay": 0.1,
        "method": "p-tuning", "encoder": "lstm", "encoder_hidden": 256, "init": "paper",
        "schedule": "linear",
    }  # fmt: skip
    assert {key: getattr(recipe, key) for key in asked} == asked
    assert recipe.lr == recipe.encoder_lr
    assert recipe.lr == (1e-5 if path.stem in ("cb", "copa", "wic") else 1e-4)
    assert recipe.max_steps == (250 if path.stem in ("boolq", "cb", "multirc") else 3500)
    warmup = math.ceil(recipe.warmup_share * recipe.max_steps)  # as Learner counts it
    assert warmup == (150 if path.stem == "rte" else 0)
    plan = Plan.make(32, rows_per_step=16, epochs=recipe.epochs, max_steps=recipe.max_steps, seed=0)
    assert plan.steps == recipe.max_steps


SCORES = {
    "cb": {"accuracy", "macro_f1"},
    "multirc": {"accuracy", "f1", "exact_match"},
    "wsc": {"accuracy"},
}


@each
def test_a_recipe_is_judged_by_the_scores_of_superglue(path):
    recipe = recipe_of(path).resolved()
    assert recipe.metric == "accuracy"
    seconds = {"cb": "macro_f1", "multirc": "f1"}
    assert recipe.second_metric == seconds.get(path.stem)
    assert recipe.loss == ("margin" if path.stem == "copa" else "labels")


@each
def test_a_recipe_begins_with_what_it_is_and_its_command_and_states_no_score(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0].startswith("# ")
    assert lines[2] == f"#     ptune train recipes/fewglue/{path.name}"
    assert "No score is stated" in text
    assert recipe_of(path).output == f"runs/fewglue/{path.stem}"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        *(pytest.param("albert", path, id=f"albert-{path.stem}") for path in RECIPES),
        *(pytest.param("bert", path, id=f"bert-{path.stem}") for path in RECIPES[:2]),
    ],
)
def test_a_recipe_trains_a_masked_model_on_files_of_the_shape_of_the_data_set(name, path, tmp_path):
    recipe, backbone = recipe_of(path), backbone_of(name)
    file = tmp_path / "rows.jsonl"
    rows = "".join(json.dumps(row) + "\n" for row in ROWS[path.stem] * 3)
    file.write_text(rows, encoding="utf-8")
    own = {"train", "validation", "test", "backbone", "output"}
    settings = {key: value for key, value in recipe.to_dict().items() if key not in own}
    settings |= {"max_steps": 1, "epochs": 1, "batch_size": 2, "cache": "off"}
    for starred in ("'*{pronoun}*'", "*{word} *"):  # their tokenizer knows no star
        plain = starred.strip("'* ")
        settings["template"] = settings["template"].replace(starred, plain)
    if path.stem == "cb":  # it writes Maybe as several tokens
        settings["verbalizer"] = recipe.verbalizer | {"neutral": ("great",)}
    result = ptune.train(backbone, file, validation=file, test=file, **settings)
    assert (result.steps, set(result.scores)) == (1, {"validation", "test"})
    assert SCORES.get(path.stem, {"accuracy"}) <= result.scores["test"].keys()
    assert ("perplexity" in result.scores["test"]) == (path.stem != "copa")
    assert result.prompt.backbone_weights
    assert result.prompt.task == recipe.task
    again = ptune.evaluate(backbone, result.prompt, file)
    assert again.scores == pytest.approx(result.scores["test"], rel=1e-4)


@pytest.mark.skipif(not DATA.is_dir(), reason="needs FewGLUE_32dev in ../shared/data")
@each
def test_the_files_of_the_data_set_are_read(path):
    recipe = recipe_of(path)
    counts = {"train": 32, "dev32": 32}
    if path.stem == "multirc":
        counts = {"train": 154, "dev32": 167}
    for name, count in counts.items():
        source = DATA / FOLDERS[path.stem] / f"{name}.jsonl"
        rows = rows_for(source, recipe.to_dict())
        assert len(rows) == count
        answers = answers_of(rows, recipe.label_column, kind_of(recipe.task, recipe.problem))
        if recipe.verbalizer:
            assert set(answers) == set(recipe.verbalizer)
        Template.parse(recipe.template).check(rows.columns)
    if path.stem == "copa":
        plain = with_choices(load_rows(source))
        assert [len(row["choice"]) for row in plain] == [2] * 32
