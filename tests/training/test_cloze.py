"""Cloze prompts, trained on a masked language model that knows two kinds of sentences."""

import math

import pytest
import tiny
import tiny_cloze
import torch
from tiny_runs import Killed, Watcher, document_of, same, tensors_of

import ptune
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.evaluation import evaluate_examples
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.calibration import CONTENT_FREE
from ptune.template import Template
from ptune.training import found, train_replicas
from ptune.training.rows import Sources, read_rows

TRAIN, TEST = tiny_cloze.rows(64, 1), tiny_cloze.rows(64, 2)
WORDS = {"fine": ["yes"], "poor": ["no"]}
SHORT = {"task": "masked-lm", "verbalizer": WORDS, "evaluation_batch_size": 16}
FEW = SHORT | {"method": "prompt-tuning", "template": "{soft:2}{text} : {mask} .", "epochs": 1}
METHODS = {
    "prompt-tuning": {"template": "{soft:2}{text} : {mask} .", "epochs": 12},
    "p-tuning": {"template": "{soft:1}{text} : {mask} {soft:1}.", "epochs": 12},
    "p-tuning-v2": {"template": "{text} : {mask} .", "prompt_length": 4, "epochs": 20, "lr": 0.2},
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_cloze.trained_backbone()


def train(backbone, settings=FEW, **more):
    return ptune.train(backbone, TRAIN, **(settings | more))


def without_prompt(backbone, template):
    options = TaskOptions(labels=tuple(WORDS), verbalizer=WORDS)
    task = make_task("masked-lm", Template.parse(template), backbone, options)
    examples = task.examples(TEST, [row["label"] for row in TEST])
    evaluation = evaluate_examples(backbone, PromptTensors(), task, None, examples, batch_size=32)
    return evaluation.scores["accuracy"]


def test_without_a_prompt_the_backbone_is_hardly_better_than_chance(backbone):
    assert without_prompt(backbone, "{text} : {mask} .") < 0.7
    assert without_prompt(backbone, "where {text} : {mask} .") == 1.0  # it knows, when it is told


@pytest.mark.parametrize("method", METHODS)
def test_every_method_tells_the_backbone_what_is_asked(backbone, method, tmp_path):
    settings = SHORT | METHODS[method] | {"method": method, "batch_size": 16}
    result = train(backbone, settings, test=TEST, output=tmp_path)
    assert result.scores["test"]["accuracy"] > 0.9
    prompt = ptune.SoftPrompt.load(tmp_path / "prompt")
    again = ptune.evaluate(backbone, prompt, TEST, batch_size=7)
    assert again.scores == pytest.approx(result.scores["test"], rel=1e-4)
    said = ptune.predict(backbone, prompt, [row["text"] for row in TEST])
    right = [one.answer == row["label"] for one, row in zip(said, TEST, strict=True)]
    assert sum(right) / len(right) == again.scores["accuracy"]


def test_killed_and_resumed_is_never_stopped(backbone, tmp_path):
    train(backbone, output=tmp_path / "whole")
    with pytest.raises(Killed):
        train(backbone, output=tmp_path / "killed", watcher=Watcher(die_after=2))
    train(backbone, output=tmp_path / "killed", resume=True)
    assert same(tensors_of(tmp_path / "killed/prompt"), tensors_of(tmp_path / "whole/prompt"))
    assert document_of(tmp_path / "killed/prompt") == document_of(tmp_path / "whole/prompt")


def test_replicas_are_what_each_is_alone(backbone):
    settings = FEW | {"max_steps": 2}
    together = train_replicas(backbone, TRAIN, [{"seed": 0}, {"seed": 1}], **settings)
    for seed, one in zip((0, 1), together, strict=True):
        alone = train(backbone, settings, seed=seed)
        torch.testing.assert_close(one.prompt.vectors, alone.prompt.vectors, rtol=1e-4, atol=1e-5)


def test_free_text_is_trained_and_scored_by_its_answers(backbone):
    rows = [row | {"label": WORDS[row["label"]][0]} for row in TRAIN]
    settings = FEW | {"verbalizer": {}, "answer": "text", "epochs": 6}
    result = ptune.train(backbone, rows, **settings)
    assert result.prompt.labels == ()
    assert result.scores["validation"]["exact_match"] > 0.7
    assert ptune.predict(backbone, result.prompt, ["the film is late"])[0].answer in ("yes", "no")


def test_the_default_template_runs_on_both_kinds_of_models(backbone):
    for one in (backbone, tiny.backbone("llama")):
        settings = FEW | {"template": None, "prompt_length": 2, "max_steps": 1}
        assert train(one, settings).prompt.template == "{soft:2}{text} Label : {mask}"


# ---------------------------------------------------------------------------------- calibration


def shares(backbone, prompt, rows):
    return [list(one.probabilities.values()) for one in ptune.predict(backbone, prompt, rows)]


@pytest.mark.parametrize("task", ["masked-lm", "causal-lm"])
@pytest.mark.parametrize("kind", ["contextual", "batch"])
def test_predictions_are_divided_by_what_is_said_of_no_row_in_particular(task, kind, tmp_path):
    settings, backbone = FEW | {"task": task, "max_steps": 1}, tiny_cloze.trained_backbone()
    if task == "causal-lm":
        backbone = tiny.backbone("llama")
        settings |= {"template": "{soft:2}{text} : {label}"}
    held_out = TEST[:10]
    more = {"validation": held_out, "test": TEST[10:]}
    plain = train(backbone, settings, **more).prompt
    result = train(backbone, settings, calibration=kind, output=tmp_path, **more)
    prompt = ptune.SoftPrompt.load(tmp_path / "prompt")
    free = [{"text": text} for text in CONTENT_FREE] if kind == "contextual" else held_out
    said = torch.tensor(shares(backbone, plain, free))
    prior = said.mean(0).log() if kind == "contextual" else said.log().mean(0)
    assert list(prompt.prior) == ["fine", "poor"]
    assert list(prompt.prior.values()) == pytest.approx(prior.tolist(), rel=1e-4)
    expected = torch.tensor(shares(backbone, plain, TEST)) / prior.exp()
    expected /= expected.sum(1, keepdim=True)
    got = torch.tensor(shares(backbone, prompt, TEST))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
    for split, rows in (("validation", held_out), ("test", TEST[10:])):
        scores = ptune.evaluate(backbone, prompt, rows).scores
        assert scores == pytest.approx(result.scores[split], rel=1e-4)


def test_what_cannot_be_calibrated_after_a_run_is_refused_before_it(tmp_path):
    settings = FEW | {"task": "causal-lm", "template": "{text} {label}", "method": "p-tuning-v2"}
    with pytest.raises(ConfigError) as error:
        train(tiny.backbone("llama"), settings, calibration="contextual", output=tmp_path)
    assert str(error.value) == (
        "calibration = contextual asks the model about rows without content, and of an empty one "
        'nothing stands before the answer in the template "{text} {label}". Put some words before '
        "the answer, or set calibration: batch."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_trunk_that_is_remembered_changes_no_calibration(backbone):
    settings = SHORT | METHODS["p-tuning-v2"] | {"method": "p-tuning-v2", "layers": "upper:1"}
    settings |= {"epochs": 2, "calibration": "contextual"}
    kept, computed = (train(backbone, settings, trunk_cache=how) for how in ("auto", "off"))
    assert kept.prompt.prior == pytest.approx(computed.prompt.prior, rel=1e-3)


def test_calibration_changes_the_answers_of_a_prompt_that_leans(backbone):
    settings = FEW | {"max_steps": 1, "lr": 1e-6}
    plain = train(backbone, settings, test=TEST)
    mended = train(backbone, settings, test=TEST, calibration="batch")
    assert mended.scores["test"]["macro_f1"] > plain.scores["test"]["macro_f1"] + 0.1


# ---------------------------------------------------------------------------------- found words


def likelihood_ratios(model, tokens, template, words):
    """Oracle: of every word, mean logit in the rows of "fine" less that in the others."""
    sides = {"fine": [], "poor": []}
    for row in TRAIN:
        ids = torch.tensor([tokens(template.format(row["text"]))["input_ids"]])
        with torch.no_grad():
            p = model(ids).logits[ids == tokens.mask_token_id][0].softmax(-1).tolist()
        sides[row["label"]].append([math.log(share / (1 - share)) for share in p])
    fine, poor = (torch.tensor(several).mean(0).tolist() for several in sides.values())
    ids = {word: tokens.convert_tokens_to_ids(word) for word in words}
    return {word: fine[id] - poor[id] for word, id in ids.items()}


def test_the_words_that_are_found_tell_the_labels_apart_best(backbone):
    template = "{soft:1}where {text} : {mask} ."
    settings = {key: value for key, value in FEW.items() if key != "verbalizer"}
    settings |= {"template": template, "validation_share": 0, "max_steps": 1}
    watcher = Watcher()
    result = train(backbone, settings, found_words=3, watcher=watcher)
    words = [word for word in tiny.WORDS if word.isalpha() and len(word) > 1]
    ratios = likelihood_ratios(*tiny_cloze.trained(), "where {} : [MASK] .", words)
    best = sorted(words, key=ratios.get)
    assert result.prompt.verbalizer["fine"] == best[::-1][:3]
    assert result.prompt.verbalizer["poor"] == best[:3]
    assert "yes" in best[-3:]
    said = f"fine: {', '.join(best[::-1][:3])}; poor: {', '.join(best[:3])}"
    assert watcher.facts["notes"] == [f"Answer words found in the training rows: {said}."]


def test_a_word_is_weighed_by_its_odds_and_not_by_its_probability(backbone, monkeypatch):
    """From 0.5 to 0.9 is more, as odds, than from 0.005 to 0.02; as a ratio it is less."""
    tokens = backbone.tokenizer
    likely = {"good": {"fine": 0.9, "poor": 0.5}, "late": {"fine": 0.02, "poor": 0.005}}

    def told(_backbone, _task, rows, size):
        shares = torch.full((len(rows), len(tokens)), 1e-6)
        for word, by_label in likely.items():
            shares[:, tokens.convert_tokens_to_ids(word)] = torch.tensor(
                [by_label[row["label"]] for row in rows]
            )
        # One word tells of the other label.
        shares[:, tokens.convert_tokens_to_ids("bad")] = torch.tensor(
            [{"fine": 0.001, "poor": 0.4}[row["label"]] for row in rows]
        )
        yield 0, shares

    monkeypatch.setattr(found, "_shares", told)
    recipe = Recipe.make(task="masked-lm", template="{text} {mask}", found_words=2).resolved()
    data = read_rows(recipe.changed(validation_share=0), Sources(TRAIN, None, None))
    words = found.find_words(recipe, data, backbone)
    assert words["fine"] == ("good", "late")
    assert words["poor"][0] == "bad"


def test_fewer_words_than_were_asked_for_are_told(backbone, monkeypatch):
    few = {"fine": ("good", "late"), "poor": ("bad",)}
    monkeypatch.setattr(found, "find_words", lambda *given: few)
    recipe = Recipe.make(task="masked-lm", template="{text} {mask}", found_words=2).resolved()
    data = read_rows(recipe.changed(validation_share=0), Sources(TRAIN, None, None))
    changed, told = found.with_found_words(recipe, data, backbone)
    assert changed.verbalizer == few
    assert told.notes == (
        "Answer words found in the training rows: fine: good, late; poor: bad.",
        (
            'found_words = 2: label "poor" has 1, since no other word is likelier in its rows than '
            "in those of the other labels."
        ),
    )


def test_words_are_found_on_a_causal_model_too():
    settings = {key: value for key, value in FEW.items() if key != "verbalizer"}
    settings |= {"task": "causal-lm", "template": "{soft:2}{text} : {label}", "max_steps": 1}
    verbalizer = train(tiny.backbone("llama"), settings, found_words=2).prompt.verbalizer
    assert [len(words) for words in verbalizer.values()] == [2, 2]
    assert len({word for words in verbalizer.values() for word in words}) == 4


def test_words_are_looked_for_where_the_decoder_says_them():
    settings = {"task": "seq2seq-lm", "decoder_template": "the {soft:2}answer : {label}"}
    recipe, backbone = Recipe.make(**settings).resolved(), tiny.backbone("t5")
    task = found._plain_task(recipe, Template.parse("{soft:3}{text}"), backbone)
    (example,) = task.examples([{"text": "very good"}])
    front = backbone.tokenizer("the answer :", add_special_tokens=False)["input_ids"]
    assert example.sequence.decoder.ids == (backbone.decoder_start, *front)
    assert min(example.sequence.ids) >= 0


def test_a_label_that_no_word_stands_for_is_refused(backbone):
    rows = [{"text": "the film is good", "label": label} for label in ("a", "b", "c")] * 3
    settings = {key: value for key, value in FEW.items() if key != "verbalizer"}
    with pytest.raises(ConfigError) as error:
        ptune.train(backbone, rows, found_words=2, validation_share=0, **settings)
    assert str(error.value) == (
        'found_words = 2: no word stands for label "a" in the training rows. Give more rows of '
        "it, or give the words by verbalizer."
    )
