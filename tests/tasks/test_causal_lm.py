import pytest
import tiny
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from ptune import texts
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.evaluation import evaluate_examples, predict_examples
from ptune.run import run
from ptune.tasks import TASKS, TaskOptions, make_task
from ptune.template import Template

ROWS = [
    {"text": "my parcel is late"},
    {"text": "thank you"},
    {"text": "where is the film ? very bad not good"},
]
SOFT = "{soft:3}{text} label : {label}"


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def prompt_of(backbone, slots=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return PromptTensors(vectors=torch.randn(slots, backbone.geometry.width, generator=generator))


def task_of(backbone, labels, template=SOFT, **settings):
    return make_task(
        "causal-lm", Template.parse(template), backbone, TaskOptions(labels=labels, **settings)
    )


def ids_of(backbone, text):
    return backbone.tokenizer(text, add_special_tokens=False)["input_ids"]


def log_probabilities(backbone, prompt, row, answer):
    """Oracle: one plain forward of the model on embeddings; log p of each id of the answer."""
    table = backbone.model.get_input_embeddings().weight
    before = ids_of(backbone, row["text"]) + ids_of(backbone, "label :")
    words = torch.cat([prompt.vectors, table[before], table[list(answer)]])
    with torch.no_grad():
        logits = backbone.model(inputs_embeds=words[None]).logits[0]
    start = len(prompt.vectors) + len(before) - 1
    shares = logits[start : start + len(answer)].log_softmax(-1)
    return shares[torch.arange(len(answer)), list(answer)]


def probabilities(backbone, prompt, row, answers):
    scores = [log_probabilities(backbone, prompt, row, answer).sum() for answer in answers]
    return torch.stack(scores).softmax(0)


def predicted(backbone, task, prompt, rows=ROWS):
    return predict_examples(backbone, prompt, task, None, task.examples(rows), batch_size=2)


@pytest.mark.parametrize(
    "labels",
    [
        ("yes", "no"),
        ("good film", "very bad late", "complaint"),
        ("yes yes", "yes no", "no yes"),
    ],
)
def test_probabilities_are_those_of_one_plain_forward_a_label(backbone, labels):
    prompt = prompt_of(backbone)
    answers = [ids_of(backbone, label) for label in labels]
    got = predicted(backbone, task_of(backbone, labels), prompt)
    for row, one in zip(ROWS, got, strict=True):
        expected = probabilities(backbone, prompt, row, answers)
        torch.testing.assert_close(
            torch.tensor(list(one.probabilities.values())), expected, rtol=1e-4, atol=1e-6
        )
        assert tuple(one.probabilities) == labels
        assert one.answer == labels[int(expected.argmax())]


def test_where_one_label_begins_another_all_are_closed_by_the_end_token(backbone):
    labels, prompt = ("no", "no complaint", "yes"), prompt_of(backbone)
    end = backbone.tokenizer.eos_token_id
    answers = [[*ids_of(backbone, label), end] for label in labels]
    got = predicted(backbone, task_of(backbone, labels), prompt)
    for row, one in zip(ROWS, got, strict=True):
        expected = probabilities(backbone, prompt, row, answers)
        torch.testing.assert_close(
            torch.tensor(list(one.probabilities.values())), expected, rtol=1e-4, atol=1e-6
        )


def test_a_label_has_the_sum_of_the_probabilities_of_its_words(backbone):
    prompt, words = prompt_of(backbone), {"pos": ["good", "very good"], "neg": ["bad"]}
    task = task_of(backbone, ("pos", "neg"), verbalizer=words)
    end = backbone.tokenizer.eos_token_id  # none: no word begins another
    answers = [ids_of(backbone, word) for word in ("good", "very good", "bad")]
    assert all(end not in answer for answer in answers)
    for row, one in zip(ROWS, predicted(backbone, task, prompt), strict=True):
        good, very_good, bad = probabilities(backbone, prompt, row, answers)
        torch.testing.assert_close(
            torch.tensor([one.probabilities["pos"], one.probabilities["neg"]]),
            torch.stack([good + very_good, bad]),
            rtol=1e-4,
            atol=1e-6,
        )


def test_the_loss_over_the_labels_is_the_negative_log_of_the_right_ones_probability(backbone):
    labels, prompt = ("yes", "no complaint"), prompt_of(backbone)
    task = task_of(backbone, labels)
    truth = ["no complaint", "yes", "yes"]
    examples = task.training_examples(ROWS, truth)
    read = run(backbone, [prompt], backbone.pack([e.sequence for e in examples]), read="words")
    answers = [ids_of(backbone, label) for label in labels]
    expected = [
        -probabilities(backbone, prompt, row, answers)[labels.index(label)].log()
        for row, label in zip(ROWS, truth, strict=True)
    ]
    torch.testing.assert_close(
        task.loss(read, examples, None), torch.stack(expected), rtol=1e-4, atol=1e-5
    )


def test_the_loss_over_the_vocabulary_is_transformers_own_on_the_label_tokens(backbone):
    labels, prompt = ("yes", "no complaint"), prompt_of(backbone)
    task = task_of(backbone, labels, loss="vocabulary")
    truth = ["no complaint", "yes", "no complaint"]
    examples = task.training_examples(ROWS, truth)
    read = run(backbone, [prompt], backbone.pack([e.sequence for e in examples]), read="words")
    table = backbone.model.get_input_embeddings().weight
    expected = []
    for row, label in zip(ROWS, truth, strict=True):
        before = ids_of(backbone, row["text"]) + ids_of(backbone, "label :")
        answer = ids_of(backbone, label)
        ids = [-100] * (3 + len(before)) + answer
        words = torch.cat([prompt.vectors, table[before], table[answer]])
        with torch.no_grad():
            out = backbone.model(inputs_embeds=words[None], labels=torch.tensor([ids]))
        expected.append(out.loss)
    torch.testing.assert_close(
        task.loss(read, examples, None), torch.stack(expected), rtol=1e-5, atol=1e-5
    )


def test_rows_are_measured_by_the_labels_even_where_the_vocabulary_was_trained_on(backbone):
    prompt = prompt_of(backbone)
    scores = []
    for loss in ("labels", "vocabulary"):
        task = task_of(backbone, ("yes", "no complaint"), loss=loss)
        examples = task.examples(ROWS, ["yes", "yes", "no complaint"])
        scores.append(
            evaluate_examples(backbone, prompt, task, None, examples, batch_size=3).scores
        )
    assert scores[0] == scores[1]
    assert set(scores[0]) == {"loss", "perplexity", "accuracy", "macro_f1"}


def test_a_row_is_computed_once_for_all_of_its_labels(backbone):
    task = task_of(backbone, ("yes", "no complaint", "very bad film"))
    examples = task.examples(ROWS[:1])
    batch = backbone.pack([examples[0].sequence])
    row = 3 + 4 + 2
    assert batch.ids.numel() == row + 1 + 2  # all but the last word of each label
    assert len(batch.reads) == 1 + 1 + 2


def test_free_text_is_learned_to_its_end_and_no_further(backbone):
    task, prompt = task_of(backbone, ()), prompt_of(backbone)
    examples = task.training_examples(ROWS[:2], ["very good", "no"])
    end = backbone.tokenizer.eos_token_id
    answers = [[*ids_of(backbone, "very good"), end], [*ids_of(backbone, "no"), end]]
    assert [list(e.target) for e in examples] == answers
    read = run(backbone, [prompt], backbone.pack([e.sequence for e in examples]), read="words")
    expected = [
        -log_probabilities(backbone, prompt, row, answer).mean()
        for row, answer in zip(ROWS, answers, strict=False)
    ]
    torch.testing.assert_close(
        task.loss(read, examples, None), torch.stack(expected), rtol=1e-5, atol=1e-5
    )


def test_free_text_is_answered_word_by_word_as_the_model_alone_would(backbone):
    task, prompt = task_of(backbone, ()), prompt_of(backbone)
    end, table = backbone.tokenizer.eos_token_id, backbone.model.get_input_embeddings().weight
    answers = predicted(backbone, task, prompt)
    for row, answer in zip(ROWS, answers, strict=True):
        before = ids_of(backbone, row["text"]) + ids_of(backbone, "label :")
        words = torch.cat([prompt.vectors, table[before]])
        said = []
        for _ in range(task.room):
            with torch.no_grad():
                said.append(int(backbone.model(inputs_embeds=words[None]).logits[0, -1].argmax()))
            if said[-1] == end:
                said.pop()
                break
            words = torch.cat([words, table[said[-1:]]])
        assert answer.answer == backbone.tokenizer.decode(said, skip_special_tokens=True).strip()
        assert answer.probabilities == {}


def test_free_text_is_right_to_the_letter_or_wrong(backbone):
    task, prompt = task_of(backbone, ()), prompt_of(backbone)
    said = [p.answer for p in predicted(backbone, task, prompt)]
    examples = task.examples(ROWS, [said[0], f" {said[1]} ", said[2] + " no"])
    scores = evaluate_examples(backbone, prompt, task, None, examples, batch_size=2).scores
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert set(scores) == {"loss", "perplexity", "exact_match", *texts.ROUGE, "bleu"}


def test_the_name_of_a_special_token_in_a_free_text_is_text(backbone):
    (example,) = task_of(backbone, ()).training_examples(ROWS[:1], ["good </s> bad"])
    end = backbone.tokenizer.eos_token_id
    assert example.target.index(end) == len(example.target) - 1  # it closes the answer alone


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_row_of_free_text_leaves_room_for_its_answer_and_a_long_answer_is_cut(name):
    backbone = tiny.backbone(name)  # of 64 positions
    task, prompt = task_of(backbone, ()), prompt_of(backbone)
    long = {"text": "late " * 500}
    assert task.room == 16
    (example,) = task.training_examples([long], ["bad " * 400])
    assert len(example.target) == 16
    assert len(example.sequence.ids) == 64 - 1
    assert example.cut == 500 - (64 - 16 - 3 - 2) + (400 + 1 - 16)
    (answer,) = predicted(backbone, task, prompt, [long])
    assert isinstance(answer.answer, str)


def test_a_row_that_is_too_long_keeps_its_prompt_its_anchors_and_room_for_every_label(backbone):
    task = task_of(backbone, ("yes", "no complaint"))
    (example,) = task.examples([{"text": "late " * 10_000}])
    ids = example.sequence.ids
    assert ids[:3] == (-1, -2, -3)
    assert list(ids[-2:]) == ids_of(backbone, "label :")
    assert len(ids) + 2 == backbone.max_tokens == 64
    assert example.cut == 10_000 - (64 - 3 - 2 - 2)


def test_a_deep_prompt_at_absolute_positions_takes_them_from_the_rows():
    backbone = tiny.backbone("gpt2")
    template = Template.parse("{text} label : {label}")
    task = make_task("causal-lm", template, backbone, TaskOptions(labels=("yes", "no"), offset=10))
    (example,) = task.examples([{"text": "late " * 100}])
    assert len(example.sequence.ids) + 1 == 64 - 10


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_labels_of_the_same_tokens_are_refused(backbone):
    message = (
        'The label words "cat" and "dog" have the same tokens (as words that the tokenizer does '
        "not know may have), so the backbone cannot tell them apart. Choose other words with "
        "verbalizer."
    )
    refused(ConfigError, message, lambda: task_of(backbone, ("yes", "cat", "dog")))


def test_an_unknown_label_in_the_verbalizer_is_refused(backbone):
    message = 'verbalizer: unknown label "yess". Known: yes, no. Did you mean yes?'
    refused(
        ConfigError,
        message,
        lambda: task_of(backbone, ("yes", "no"), verbalizer={"yess": ["good"]}),
    )


def test_labels_that_begin_alike_need_an_end_token():
    words = {word: index for index, word in enumerate(tiny.WORDS)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    endless = hf.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    backbone = Backbone.load(tiny.model("llama"), tokenizer=endless)
    message = (
        "Labels 'no', 'no complaint': the words of one are the beginning of another's, and the "
        "tokenizer has no end token to tell them apart. Choose other words with verbalizer."
    )
    refused(ConfigError, message, lambda: task_of(backbone, ("no", "no complaint")))


@pytest.mark.parametrize(
    ("template", "found"),
    [("{soft:3}{text}", "has none"), ("{soft:3}{label} : {text}", "has it elsewhere")],
)
def test_a_template_without_the_label_at_its_end_is_refused(backbone, template, found):
    message = (
        f'template "{template}": task causal-lm needs one {{label}}, at the end; this one {found}. '
        'For example: "{soft:20}{text} Label : {label}".'
    )
    refused(TemplateError, message, lambda: task_of(backbone, ("yes", "no"), template))


def test_an_encoder_is_refused():
    message = (
        'task = causal-lm needs a decoder with a language-model head; "BertForMaskedLM" '
        "(BertForMaskedLM) is none. Use task: sequence-classification."
    )
    refused(ConfigError, message, lambda: task_of(tiny.backbone("bert"), ("yes", "no")))


def test_an_unknown_task_is_refused(backbone):
    message = f"task = 'casual' is unknown. Known: {', '.join(TASKS)}."
    template = Template.parse(SOFT)
    refused(ConfigError, message, lambda: make_task("casual", template, backbone))


def test_a_row_with_nothing_before_its_label_is_refused(backbone):
    task = task_of(backbone, ("yes", "no"), "{text}{label}")
    message = (
        "row 2: the row has no token before its answer, since its fields are empty. Put some words "
        "before it in the template, or leave the row out."
    )
    refused(DataError, message, lambda: task.examples([{"text": "late"}, {"text": ""}]))


def test_an_unknown_answer_is_refused(backbone):
    task = task_of(backbone, ("yes", "no"))
    refused(
        DataError,
        "label 'maybe' is unknown to the task. Known: 'yes', 'no'. Mend the row, or train with "
        "rows of this label.",
        lambda: task.examples(ROWS[:1], ["maybe"]),
    )
