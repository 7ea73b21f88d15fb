"""A tag for every word: states, loss, predictions, scores, saved prompts."""

import json
import logging
import re

import pytest
import tiny
import torch
from tiny_runs import Killed, Watcher, same
from torch.nn import functional

import ptune
from ptune.batch import PromptTensors
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.evaluation import evaluate_examples, measure_examples, predict_examples
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.flat import FlatExamples
from ptune.template import Template
from ptune.training import train_replicas

TAGS = ("B-X", "I-X", "O")
# The tokenizer of the tests writes a hyphenated word as several tokens.
ROWS = [
    {"tokens": ["my", "parcel-late", "is", "late"], "label": ["O", "B-X", "I-X", "O"]},
    {"tokens": ["thank", "you"], "label": ["O", "B-X"]},
    {"tokens": ["film", "?", "very-very-bad", "bad"], "label": ["B-X", "O", "O", "B-X"]},
    {"tokens": ["late"], "label": ["O"]},
] * 2
ANSWERS = [tuple(row["label"]) for row in ROWS]

SHORT = {"task": "token-classification", "batch_size": 2, "epochs": 3, "validation_share": 0.25}
DEEP = SHORT | {"method": "p-tuning-v2", "prompt_length": 3, "template": "{tokens}"}
SHALLOW = SHORT | {"method": "p-tuning", "encoder": "mlp", "template": "{soft:2}{tokens}"}
TABLE = SHORT | {"method": "prompt-tuning", "template": "text : {soft:2}{tokens}"}
METHODS = {"deep": DEEP, "shallow": SHALLOW, "table": TABLE}


@pytest.fixture(scope="module")
def backbones():
    return {
        name: ptune.Backbone.load(tiny.model(name), tokenizer=tiny.tokenizer())
        for name in ("bert", "llama")
    }


def task_of(backbone, template="{soft:3}{tokens}", **options):
    options = TaskOptions(labels=TAGS, **options)
    return make_task("token-classification", Template.parse(template), backbone, options)


def prompt_of(backbone, slots=3):
    generator = torch.Generator().manual_seed(1)
    return PromptTensors(vectors=torch.randn(slots, backbone.geometry.width, generator=generator))


def head_of(task, backbone):
    head = task.head(backbone.geometry.hidden).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in head.parameters():
        parameter.data.normal_(generator=generator)
    return head


def word_logits(backbone, prompt, head, words, before, after):
    """Oracle: a plain forward on embeddings; the state of each word's first token; the head."""
    ids, first = [-1 - slot for slot in range(before)], []
    for word in words:
        first.append(len(ids))
        ids += backbone.tokenizer(word, add_special_tokens=False)["input_ids"]
    ids += [-1 - before - slot for slot in range(after)]
    table = backbone.model.get_input_embeddings().weight
    vectors = torch.stack([prompt.vectors[-1 - id] if id < 0 else table[id] for id in ids])
    with torch.no_grad():
        states = backbone.body(inputs_embeds=vectors[None]).last_hidden_state[0][first]
    states = states - states.mean(-1, keepdim=True)
    normal = states / (states.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return (normal @ head.linear.weight.T + head.linear.bias).detach()


@pytest.mark.parametrize(
    ("name", "template", "before", "after"),
    [
        ("bert", "{soft:3}{tokens}", 3, 0),
        ("bert", "{soft:1}{tokens}{soft:2}", 1, 2),
        ("llama", "{soft:3}{tokens}", 3, 0),
        ("llama", "{soft:2}{tokens}{soft:1}", 2, 1),
    ],
)
def test_each_word_is_told_by_the_state_of_its_first_token(
    backbones, name, template, before, after
):
    backbone = backbones[name]
    task, prompt = task_of(backbone, template), prompt_of(backbone)
    head = head_of(task, backbone)
    examples = task.examples(ROWS, ANSWERS)
    found = measure_examples(backbone, prompt, task, head, examples, batch_size=3)
    for row, one in zip(ROWS, found, strict=True):
        logits = word_logits(backbone, prompt, head, row["tokens"], before, after)
        targets = torch.tensor([TAGS.index(tag) for tag in row["label"]])
        assert one.loss == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-3)
        assert one.prediction.answer == tuple(TAGS[best] for best in logits.argmax(-1))


def test_virtual_tokens_and_the_tokens_inside_a_word_are_no_words(backbones):
    backbone = backbones["bert"]
    (example, *_) = task_of(backbone, "{soft:2}{tokens}{soft:1}").examples(ROWS)
    assert len(backbone.tokenizer("parcel-late")["input_ids"]) == 3
    assert example.sequence.reads == (2, 3, 6, 7)
    assert example.sequence.ids[-1] == -3


def test_other_fields_are_read_and_are_no_words(backbones):
    backbone = backbones["bert"]
    rows = [{**row, "asked": word} for row in ROWS[:1] for word in ("parcel-late", "is")]
    alone, first, second = (
        *task_of(backbone, "{soft:2}{tokens}").examples(rows[:1], ANSWERS[:1]),
        *task_of(backbone, "{soft:2}{tokens} : {asked}").examples(rows, ANSWERS[:1] * 2),
    )
    assert first.sequence.ids != second.sequence.ids
    for one in (first, second):
        assert one.sequence.ids[: len(alone.sequence.ids)] == alone.sequence.ids
        assert (one.sequence.reads, one.target) == (alone.sequence.reads, alone.target)


def test_a_row_has_the_loss_and_prediction_that_it_has_alone(backbones):
    backbone = backbones["llama"]
    task, prompt = task_of(backbone), prompt_of(backbone)
    head = head_of(task, backbone)
    examples = task.examples(ROWS, ANSWERS)
    together = measure_examples(backbone, prompt, task, head, examples, batch_size=8)
    for example, one in zip(examples, together, strict=True):
        (alone,) = measure_examples(backbone, prompt, task, head, [example], batch_size=1)
        assert one.loss == pytest.approx(alone.loss, rel=1e-4)
        assert one.prediction == alone.prediction


def test_words_that_do_not_fit_are_not_trained_on_and_predicted_outside(backbones):
    backbone = backbones["bert"]
    prompt = prompt_of(backbone)
    task = task_of(backbone, max_tokens=3 + 5)
    head = head_of(task, backbone)
    head.linear.bias.data[:] = torch.tensor([100.0, 0.0, 0.0])  # B-X, whatever the word
    rows = [{"tokens": ["my"] * 7}, {"tokens": ["late"]}]
    answers = [("B-X",) * 7, ("B-X",)]
    examples = task.examples(rows, answers)
    assert (examples[0].cut, examples[1].cut) == (2, 0)
    assert len(examples[0].sequence.reads) == 5
    found = evaluate_examples(backbone, prompt, task, head, examples, batch_size=2)
    assert found.predictions[0].answer == ("B-X",) * 5 + ("O",) * 2
    assert found.scores["accuracy"] == 6 / 8
    assert found.scores["words_unread"] == 2.0
    assert found.scores["recall"] == 6 / 8
    whole = evaluate_examples(backbone, prompt, task, head, examples[1:], batch_size=2)
    assert "words_unread" not in whole.scores


def test_a_row_of_which_no_word_fits_has_no_loss(backbones):
    backbone = backbones["bert"]
    task = task_of(backbone, "{soft:3}good bad film very late{tokens}", max_tokens=9)
    long_first = ROWS[0] | {"tokens": ["parcel-late", "my", "is", "late"]}
    examples = task.examples([long_first], ANSWERS[:1])
    assert examples[0].sequence.reads == ()
    (one,) = measure_examples(
        backbone, prompt_of(backbone), task, head_of(task, backbone), examples, batch_size=1
    )
    assert one.loss == 0.0
    assert one.prediction.answer == ("O",) * 4


def test_predictions_name_entities_with_their_words(backbones):
    backbone = backbones["bert"]
    task = task_of(backbone)
    head = task.head(backbone.geometry.hidden).eval()
    head.linear.bias.data[:] = torch.tensor([0.0, 1.0, 0.0])  # I-X, whatever the word
    (one,) = predict_examples(
        backbone, prompt_of(backbone), task, head, task.examples(ROWS[:1]), batch_size=1
    )
    assert one.answer == ("I-X",) * 4
    assert one.more == {
        "words": ["my", "parcel-late", "is", "late"],
        "entities": [{"type": "X", "start": 0, "stop": 4, "text": "my parcel-late is late"}],
    }


def test_examples_are_kept_in_flat_arrays_as_they_are(backbones):
    task = task_of(backbones["bert"], max_tokens=6)
    for examples in (task.examples(ROWS, ANSWERS), task.examples(ROWS)):
        flat = FlatExamples.of([examples])
        assert list(flat) == examples


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{tokens} : {label}", "task token-classification has no place for {label}"),
        ("{text}", "task token-classification needs {tokens}, the words of the row, once; this"),
        ("{tokens} {tokens}", "this one has it 2 times."),
    ],
)
def test_a_template_needs_the_words_once_and_no_label(backbones, template, message):
    with pytest.raises(TemplateError, match=re.escape(message)):
        task_of(backbones["bert"], template)


def test_virtual_tokens_behind_the_words_of_a_decoder_would_never_be_trained(backbones):
    settings = TABLE | {"template": "{tokens}{soft:2}"}
    with pytest.raises(TemplateError, match=r"task token-classification reads the tokens"):
        ptune.train(backbones["llama"], ROWS, **settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_saved_prompt_tags_and_scores_as_when_it_was_trained(tmp_path, backbones, name, method):
    backbone = backbones[name]
    result = ptune.train(backbone, ROWS, test=ROWS, **METHODS[method])
    result.prompt.save(tmp_path / "prompt")
    prompt = ptune.SoftPrompt.load(tmp_path / "prompt")
    assert prompt.labels == TAGS
    evaluation = backbone.evaluate(ROWS, prompt)
    assert evaluation.scores == pytest.approx(result.scores["test"], rel=1e-5)
    assert {"f1", "precision", "recall", "accuracy", "X/f1"} <= evaluation.scores.keys()
    assert backbone.predict(ROWS, prompt) == evaluation.predictions
    texts = [" ".join(row["tokens"]) for row in ROWS]
    assert backbone.predict(texts, prompt) == evaluation.predictions


def test_tags_that_the_words_decide_are_learned(backbones):
    rows = [
        {"tokens": words.split(), "label": ["B-X" if w == "parcel" else "O" for w in words.split()]}
        for words in ("my parcel is late", "thank you", "where is the parcel", "the film is bad")
    ] * 4
    settings = DEEP | {"epochs": 20, "batch_size": 4}
    result = ptune.train(backbones["bert"], rows, test=rows, **settings)
    assert result.scores["test"]["f1"] == 1.0


def test_a_killed_run_goes_on_as_if_it_had_not_been_killed(tmp_path, backbones):
    backbone = backbones["bert"]
    whole = ptune.train(backbone, ROWS, **DEEP)
    settings = DEEP | {"output": tmp_path, "save_every": 1}
    with pytest.raises(Killed):
        ptune.train(backbone, ROWS, watcher=Watcher(die_after=4), **settings)
    resumed = ptune.train(backbone, ROWS, resume=True, **settings)
    assert resumed.steps == whole.steps > 4
    assert same(dict(resumed.prompt.head), dict(whole.prompt.head))
    assert resumed.scores == whole.scores


def test_replicas_are_trained_side_by_side_as_alone(backbones):
    variants = [{"seed": 0}, {"seed": 1}]
    together = train_replicas(backbones["bert"], ROWS, variants, test=ROWS, **DEEP)
    for variant, one in zip(variants, together, strict=True):
        alone = ptune.train(backbones["bert"], ROWS, test=ROWS, **DEEP | variant)
        assert one.scores["test"] == pytest.approx(alone.scores["test"], rel=1e-3)


def test_a_validation_file_is_checked_too(tmp_path, backbones):
    validation = tmp_path / "dev.conll"
    validation.write_text("my O\nparcel B-Y\n")
    settings = {key: value for key, value in DEEP.items() if key != "validation_share"}
    with pytest.raises(DataError, match=r"dev.conll, line 2: label 'B-Y' never occurs in"):
        ptune.train(backbones["bert"], ROWS, validation=validation, **settings)
    validation.write_text("my O\nparcel I-X\n\nfilm B-X\n")
    with pytest.raises(DataError, match=r"dev.conll, line 2 \('parcel'\): tag I-X stands behind O"):
        ptune.train(backbones["bert"], ROWS, validation=validation, **settings)
    result = ptune.train(
        backbones["bert"], ROWS, validation=validation, bad_rows="skip", **settings
    )
    assert result.facts["validation rows"] == 1
    assert any("1 of 2 rows is left out" in note for note in result.facts["notes"])
    assert ptune.train(backbones["bert"], ROWS, validation=validation, scheme="iob1", **settings)


def test_rows_with_unknown_tags_are_left_out_of_an_evaluation_where_the_user_says_so(
    backbones, caplog
):
    backbone = backbones["bert"]
    prompt = ptune.train(backbone, ROWS, **DEEP).prompt
    rows = [*ROWS[:2], {"tokens": ["a"], "label": ["B-Y"]}, {"tokens": ["a"], "label": ["O", "O"]}]
    with pytest.raises(DataError, match="row 3, word 1: label 'B-Y' is unknown to the prompt"):
        backbone.evaluate(rows[:3], prompt)
    with caplog.at_level(logging.WARNING, "ptune"):
        scores = backbone.evaluate(rows, prompt, skip_bad_rows=True).scores
    assert scores == backbone.evaluate(ROWS[:2], prompt).scores
    assert "2 of 4 rows are left out:" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problem": "multi-label"}, "problem = multi-label does not go with task = token-class"),
        ({"answer": "text"}, "answer = text does not go with task = token-classification."),
        ({"pooling": "mean"}, "pooling = mean does not go with task = token-classification, whose"),
        ({"few_shot": 4}, "few_shot = 4 draws rows per label, and rows of task = token-classif"),
        ({"metric": "macro_f1"}, "metric = macro_f1 does not go with task = token-classification."),
        ({"verbalizer": {"O": "no"}}, "verbalizer goes with tasks that answer in words"),
        (
            {"task": "causal-lm", "scheme": "bio"},
            "scheme = bio goes with task = token-classification only; task is causal-lm.",
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings, message):
    from ptune.config import Recipe

    with pytest.raises(ConfigError, match=re.escape(message)):
        Recipe.make(**{"task": "token-classification", **settings})
    assert Recipe.make(task="token-classification").resolved().metric == "f1"


def test_columns_of_other_names_and_plain_tags(backbones):
    rows = [
        {"words": row["tokens"], "pos": ["N", "V", "P", "N"][: len(row["tokens"])]} for row in ROWS
    ]
    settings = {key: value for key, value in DEEP.items() if key != "template"}
    settings |= {"columns": {"tokens": "words"}, "label_column": "pos"}
    result = ptune.train(backbones["bert"], rows, test=rows, **settings)
    assert result.prompt.template == "{tokens}"
    assert result.prompt.labels == ("N", "P", "V")
    scores = result.scores["test"]
    assert scores["f1"] == scores["accuracy"]
    assert "N/f1" in scores
    evaluated = backbones["bert"].evaluate(rows, result.prompt)
    assert json.dumps(evaluated.predictions[0].more)
