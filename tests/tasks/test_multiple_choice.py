import json
import math

import pytest
import tiny
import torch
from torch.nn import functional

import ptune
from ptune.artifact import read_folder
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.evaluation import measure_examples, predict_examples
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.flat import FlatExamples
from ptune.template import Template

CLS, SEP, MASK, END = 2, 3, 4, 3
ROWS = [
    {"text": "my parcel", "choice": ("is late", "good film", "bad")},
    {"text": "thank you", "choice": ("very good", "yes")},
    {"text": "the film is", "choice": ("not", "not good", "a")},
]
RIGHT = ["good film", "yes", "not good"]
NUMBERS = [1, 1, 1]


def encoder(name="bert"):
    tokenizer = tiny.pair_tokenizer()
    tokenizer.mask_token = "[MASK]"
    return Backbone.load(tiny.model(name), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def backbones():
    return {"encoder": encoder(), "decoder": tiny.backbone("llama")}


def prompt_of(backbone, slots=2):
    generator = torch.Generator().manual_seed(1)
    return PromptTensors(vectors=torch.randn(slots, backbone.geometry.width, generator=generator))


def task_of(backbone, template="{soft:2}{text} answer : {choice}", **options):
    return make_task("multiple-choice", Template.parse(template), backbone, TaskOptions(**options))


def head_of(task, backbone):
    head = task.head(backbone.geometry.hidden)
    if head is not None:
        generator = torch.Generator().manual_seed(2)
        for parameter in head.eval().parameters():
            parameter.data.normal_(generator=generator)
    return head


def ids_of(backbone, text):
    return backbone.tokenizer(text, add_special_tokens=False)["input_ids"]


def embedded(backbone, prompt, ids):
    table = backbone.model.get_input_embeddings().weight
    return torch.stack([prompt.vectors[-1 - id] if id < 0 else table[id] for id in ids])[None]


@torch.no_grad()
def head_score(backbone, prompt, head, ids, at):
    """Oracle: one sequence alone through the plain model; the head by its formula."""
    states = backbone.body(inputs_embeds=embedded(backbone, prompt, ids)).last_hidden_state[0]
    state = states[at]
    normal = (state - state.mean()) / (state.var(correction=0) + 1e-5).sqrt()
    return float(normal @ head.linear.weight[0] + head.linear.bias[0])


@torch.no_grad()
def log_probabilities(backbone, prompt, ids):
    """Oracle: log p of every word at every place, of one sequence alone."""
    return backbone.model(inputs_embeds=embedded(backbone, prompt, ids)).logits[0].log_softmax(-1)


def words_score(backbone, prompt, row, choice, others, mean):
    before = [-1, -2, *ids_of(backbone, f"{row['text']} answer :")]
    said = ids_of(backbone, choice)
    begins = [ids_of(backbone, one) for one in others]
    if any(a != b and b[: len(a)] == a for a in begins for b in begins):
        said = [*said, END]
    each = log_probabilities(backbone, prompt, [*before, *said])
    parts = [float(each[len(before) - 1 + at, id]) for at, id in enumerate(said)]
    return sum(parts) / (len(parts) if mean else 1)


def masks_score(backbone, prompt, row, choice, others, mean):
    before = [CLS, -1, -2, *ids_of(backbone, f"{row['text']} answer :")]
    said = ids_of(backbone, choice)
    each = log_probabilities(
        backbone, prompt, [*before, *[MASK] * len(said), *ids_of(backbone, "."), SEP]
    )
    parts = [float(each[len(before) + at, id]) for at, id in enumerate(said)]
    return sum(parts) / (len(parts) if mean else 1)


def check(backbone, prompt, task, head, scores_of):
    """Probabilities, answers and losses are those of the oracle's scores, row by row."""
    examples = task.examples(ROWS, RIGHT)
    got = measure_examples(backbone, prompt, task, head, examples, batch_size=3)
    for row, one, right in zip(ROWS, got, NUMBERS, strict=True):
        scores = torch.tensor([scores_of(row, choice) for choice in row["choice"]])
        shares = torch.tensor([one.prediction.probabilities[text] for text in row["choice"]])
        torch.testing.assert_close(shares, scores.softmax(0), rtol=2e-3, atol=1e-5)
        assert one.prediction.answer == row["choice"][int(scores.argmax())]
        expected = float(functional.cross_entropy(scores[None], torch.tensor([right])))
        assert one.loss == pytest.approx(expected, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize(("kind", "at"), [("encoder", 0), ("decoder", -1)])
def test_a_head_scores_each_choice_in_a_sequence_of_its_own(backbones, kind, at):
    backbone = backbones[kind]
    prompt, task = prompt_of(backbone), task_of(backbone)
    head = head_of(task, backbone)
    assert head.linear.weight.shape[0] == 1

    def score(row, choice):
        ids = [-1, -2, *ids_of(backbone, f"{row['text']} answer : {choice}")]
        whole = [CLS, *ids, SEP] if kind == "encoder" else ids
        return head_score(backbone, prompt, head, whole, at)

    check(backbone, prompt, task, head, score)


def test_a_head_sees_a_choice_wherever_it_stands_also_as_the_second_text(backbones):
    backbone = backbones["encoder"]
    prompt = prompt_of(backbone)
    task = task_of(backbone, "{soft:2}{choice}{sep}{text}", pooling="first")
    (first, *_), *_ = (example.sequences for example in task.examples(ROWS))
    choice, text = ids_of(backbone, "is late"), ids_of(backbone, "my parcel")
    assert first.ids == (CLS, -1, -2, *choice, SEP, *text, SEP)
    assert prompt.vectors is not None


@pytest.mark.parametrize("mean", [False, True])
def test_a_decoders_words_score_the_choices_as_continuations(backbones, mean):
    backbone = backbones["decoder"]
    prompt = prompt_of(backbone)
    task = task_of(backbone, choose_by="words-mean" if mean else "words")
    check(
        backbone,
        prompt,
        task,
        task.head(backbone.geometry.hidden),
        lambda row, choice: words_score(backbone, prompt, row, choice, row["choice"], mean),
    )


@pytest.mark.parametrize("mean", [False, True])
def test_a_masked_model_scores_the_choices_by_as_many_masks_as_they_have_tokens(backbones, mean):
    backbone = backbones["encoder"]
    prompt = prompt_of(backbone)
    way = "words-mean" if mean else "words"
    task = task_of(backbone, "{soft:2}{text} answer : {choice} .", choose_by=way)
    check(
        backbone,
        prompt,
        task,
        None,
        lambda row, choice: masks_score(backbone, prompt, row, choice, row["choice"], mean),
    )


@pytest.mark.parametrize("way", ["head", "words", "words-mean"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_margin_is_one_more_than_what_the_best_wrong_choice_is_ahead(backbones, kind, way):
    backbone = backbones[kind]
    template = "{soft:2}{text} answer : {choice}" + (" ." if kind == "encoder" else "")
    prompt, task = prompt_of(backbone), task_of(backbone, template, choose_by=way, loss="margin")
    plain = task_of(backbone, template, choose_by=way)
    head = head_of(task, backbone)
    score = words_score if kind == "decoder" else masks_score
    examples = task.examples(ROWS, RIGHT)
    got = measure_examples(backbone, prompt, task, head, examples, batch_size=3)
    said = measure_examples(backbone, prompt, plain, head, examples, batch_size=3)
    for row, one, other, right in zip(ROWS, got, said, NUMBERS, strict=True):
        assert one.prediction == other.prediction  # the margin is of the loss alone
        texts = row["choice"]
        if way == "head":  # differences of scores from the probabilities
            scores = [math.log(other.prediction.probabilities[text]) for text in texts]
        else:
            scores = [score(backbone, prompt, row, text, texts, mean=True) for text in texts]
        wrong = max(s for at, s in enumerate(scores) if at != right)
        expected = max(0.0, 1 + wrong - scores[right])
        assert one.loss == pytest.approx(expected, rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("way", ["head", "words"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_row_alone_is_a_row_in_a_batch_and_rows_come_back_from_flat_arrays(backbones, kind, way):
    backbone = backbones[kind]
    prompt, task = prompt_of(backbone), task_of(backbone, choose_by=way)
    head = head_of(task, backbone)
    examples = task.examples(ROWS, RIGHT)
    flat = FlatExamples.of([examples])
    assert list(flat) == examples
    together = predict_examples(backbone, prompt, task, head, flat, batch_size=3)
    for example, one in zip(examples, together, strict=True):
        (alone,) = predict_examples(backbone, prompt, task, head, [example], batch_size=1)
        assert alone.answer == one.answer
        assert alone.probabilities == pytest.approx(one.probabilities, rel=1e-3)


def test_a_row_is_computed_once_for_all_of_its_choices(backbones):
    backbone = backbones["decoder"]
    (example, *_) = task_of(backbone, choose_by="words").examples(ROWS)
    assert not example.others
    # "is late" and "good film" go on by one token, the last of each is only predicted.
    assert [len(branch.ids) for branch in example.sequence.branches] == [1, 1]


def test_rows_without_answers_are_predicted(backbones):
    backbone = backbones["decoder"]
    task = task_of(backbone, choose_by="words")
    prompt = prompt_of(backbone)
    got = predict_examples(backbone, prompt, task, None, task.examples(ROWS), batch_size=2)
    assert [list(one.probabilities) for one in got] == [list(row["choice"]) for row in ROWS]
    assert all(sum(one.probabilities.values()) == pytest.approx(1) for one in got)


def test_accuracy_counts_the_right_choices(backbones):
    backbone = backbones["decoder"]
    task = task_of(backbone, choose_by="words")
    examples = task.examples(ROWS, RIGHT)
    predictions = predict_examples(
        backbone, prompt_of(backbone), task, None, examples, batch_size=2
    )
    right = [one.answer == answer for one, answer in zip(predictions, RIGHT, strict=True)]
    assert task.scores(predictions, examples) == {"accuracy": sum(right) / 3}


def refused(kind, call):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{soft:2}{text}",
            (
                "task multiple-choice needs one {choice}, where the text of a choice goes; this "
                'one has none. For example: "{soft:20}{text} {choice}".'
            ),
        ),
        (
            "{soft:2}{choice} {choice}",
            (
                "task multiple-choice needs one {choice}, where the text of a choice goes; this "
                'one has 2. For example: "{soft:20}{text} {choice}".'
            ),
        ),
        (
            "{soft:2}{choice} {label}",
            (
                "{label} has no place in task multiple-choice. Write {choice} where the text of a "
                "choice goes."
            ),
        ),
    ],
)
def test_a_template_without_one_place_for_the_choice_is_refused(backbones, template, message):
    said = refused(TemplateError, lambda: task_of(backbones["decoder"], template))
    assert said == f'template "{template}": {message}'


def test_words_in_a_decoder_need_the_choice_at_the_end(backbones):
    template = "{soft:2}{choice} answer : {text}"
    said = refused(
        TemplateError, lambda: task_of(backbones["decoder"], template, choose_by="words")
    )
    assert said == (
        f'template "{template}": choose_by = words scores the words that follow, so in a decoder '
        "{choice} is the last part. Move it to the end, or set choose_by: head."
    )


def test_words_need_a_model_that_says_some(backbones):
    body = Backbone.load(backbones["decoder"].body, tokenizer=tiny.tokenizer())
    assert refused(ConfigError, lambda: task_of(body, choose_by="words")) == (
        'choose_by = words needs a model that says or fills in words; "LlamaModel" (LlamaModel) '
        "has no language-model head. Set choose_by: head."
    )
    masked = Backbone.load(tiny.model("bert"), tokenizer=tiny.tokenizer())
    assert refused(ConfigError, lambda: task_of(masked, choose_by="words-mean")) == (
        "choose_by = words-mean needs a model that says or fills in words; "
        '"BertForMaskedLM" (BertForMaskedLM) has no mask token. Set choose_by: head.'
    )


def test_choices_that_the_tokenizer_writes_alike_are_refused_by_words(backbones):
    rows = [{"text": "my parcel", "choice": ("blue", "green")}]  # both unknown to it
    task = task_of(backbones["decoder"], choose_by="words")
    assert refused(DataError, lambda: task.examples(rows)) == (
        "row 1: two choices have the same tokens: blue, green. 16 tokens of a choice are read. "
        "Mend or delete the row, or set choose_by: head."
    )


def test_a_row_with_nothing_before_its_choice_is_refused_with_its_place(backbones):
    rows = [{"text": text, "choice": ("yes", "no")} for text in ("late", "")]
    task = task_of(backbones["decoder"], choose_by="words", template="{text}{choice}")
    assert refused(DataError, lambda: task.examples(rows)) == (
        "row 2: the row has no token before its choice, since its fields are empty. Put some words "
        "before {choice} in the template, or leave the row out."
    )


TRAIN = [
    {"text": text, "choice1": "good film", "choice2": "bad film", "choice3": more, "label": label}
    for text, more, label in [
        ("thank you", "", 0), ("my parcel is late", "no", 1), ("very good", "", "good film"),
        ("not good", "yes", 1), ("where is my parcel ?", "a film", 2), ("thank you very", "", 0),
    ]
]  # fmt: skip
SHORT = {"epochs": 2, "batch_size": 2, "validation_share": 0.34, "task": "multiple-choice"}


@pytest.mark.parametrize("way", ["head", "words", "words-mean"])
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_prompt_is_trained_saved_and_scores_as_it_was_scored(tmp_path, backbones, kind, way):
    backbone = backbones[kind]
    settings = SHORT | {"choose_by": way, "template": "{soft:2}{text} answer : {choice}"}
    result = ptune.train(backbone, TRAIN, test=TRAIN, output=tmp_path, **settings)
    assert set(result.scores["test"]) >= {"loss", "accuracy"}
    loaded = ptune.SoftPrompt.load(tmp_path / "prompt")
    assert bool(loaded.head) == (way == "head")
    again = ptune.evaluate(backbone, loaded, TRAIN)
    assert again.scores == pytest.approx(result.scores["test"], rel=1e-4)
    assert [one.answer for one in ptune.predict(backbone, loaded, TRAIN)] == [
        one.answer for one in again.predictions
    ]
    assert read_folder(tmp_path / "prompt")[0]["labels"] == []


def test_bad_rows_are_left_out_of_an_evaluation(backbones, caplog):
    settings = SHORT | {"template": "{soft:2}{text} answer : {choice}", "max_steps": 1}
    prompt = ptune.train(backbones["decoder"], TRAIN, **settings).prompt
    bad = [TRAIN[0] | {"label": 7}, TRAIN[0] | {"choice2": "good film"}, TRAIN[0] | {"text": None}]
    expected = ptune.evaluate(backbones["decoder"], prompt, TRAIN).scores
    found = ptune.evaluate(backbones["decoder"], prompt, [*TRAIN, *bad], skip_bad_rows=True)
    assert found.scores == pytest.approx(expected)
    told = ("1 of 9 rows is", "row 8: choices 0 and 1", "2 of 8 rows are", "row 7: column label",
            'row 9, column "text"')  # fmt: skip
    assert all(sentence in caplog.text for sentence in told)


@pytest.mark.parametrize("choices", [None, "ends", ["choice1", "choice2"]])
def test_the_rows_of_the_cards_example_can_be_predicted(tmp_path, backbones, choices):
    rows = [{"ends": [row["choice1"], row["choice2"]]} | row for row in TRAIN if row["label"] != 2]
    settings = SHORT | {"choices": choices, "template": "{soft:2}{text} {choice}", "max_steps": 1}
    ptune.train(backbones["decoder"], rows, output=tmp_path, **settings)
    card = (tmp_path / "prompt" / "README.md").read_text()
    (line,) = (one for one in card.splitlines() if one.startswith("rows = "))
    shown = json.loads(line.removeprefix("rows = "))
    loaded = ptune.SoftPrompt.load(tmp_path / "prompt")
    (prediction,) = ptune.predict(backbones["decoder"], loaded, shown)
    assert list(prediction.probabilities) == ["one", "another"]


def test_a_bad_label_ends_the_run_before_anything_is_computed(backbones):
    rows = [*TRAIN, TRAIN[0] | {"label": 2}]
    said = refused(
        DataError,
        lambda: ptune.train(
            backbones["decoder"], rows, **SHORT, template="{soft:2}{text} {choice}"
        ),
    )
    assert said.startswith("the given rows, row 7: column label holds '2', which is no choice")


def test_two_prompts_of_different_choices_are_not_one_in_the_cache(
    tmp_path, backbones, monkeypatch
):
    """The choices decide what a row is: the tokenised rows of other choices are others."""
    monkeypatch.setattr("ptune.training.cache.LEAST_CHARACTERS", 0)
    settings = SHORT | {"template": "{soft:2}{text} {choice}", "max_steps": 1}
    settings |= {"cache": f"{tmp_path}/cache"}
    first = ptune.train(backbones["decoder"], TRAIN, **settings, test=TRAIN, choose_by="words")
    other = [row | {"choice2": "very very bad"} for row in TRAIN]
    second = ptune.train(backbones["decoder"], other, **settings, test=other, choose_by="words")
    assert first.scores["test"] != second.scores["test"]


def test_a_choice_in_the_second_text_has_its_segment():
    backbone = encoder()
    task = task_of(backbone, "{text}{sep}{choice}", choose_by="words")
    (example,) = task.examples(ROWS[:1])
    for choice, sequence in zip(ROWS[0]["choice"], example.sequences, strict=True):
        written = backbone.tokenizer(ROWS[0]["text"], choice)
        assert len(sequence.ids) == len(written["input_ids"])
        assert list(sequence.types) == written["token_type_ids"]
        assert set(sequence.types) == {0, 1}


def test_a_choice_that_is_scored_by_its_words_has_no_limit(backbones):
    template = "{soft:2}{text} answer : {choice:.1}"
    said = refused(
        TemplateError, lambda: task_of(backbones["decoder"], template, choose_by="words")
    )
    assert "{choice:.1}: choose_by = words scores a choice by its words, and a limit" in said
    task_of(backbones["decoder"], template, choose_by="head")


def test_the_name_of_a_special_token_in_a_choice_is_text(backbones):
    rows = [{"text": "my parcel", "choice": ("good </s> film", "bad")}]
    task = task_of(backbones["decoder"], choose_by="words")
    end = backbones["decoder"].tokenizer.eos_token_id
    assert end is not None
    assert end not in task.examples(rows)[0].target[2][0]
