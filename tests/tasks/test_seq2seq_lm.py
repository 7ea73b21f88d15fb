import pytest
import tiny
import torch

from ptune import texts
from ptune.batch import PromptTensors
from ptune.errors import ConfigError, TemplateError
from ptune.evaluation import evaluate_examples, generate_answers, predict_examples
from ptune.run import run
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.flat import FlatExamples, computed_tokens
from ptune.template import Template

ROWS = [
    {"text": "my parcel is late"},
    {"text": "thank you"},
    {"text": "where is the film ? very bad not good"},
]
SOFT = "{soft:3}{text}"
DECODER = "label :{soft:2}{label}"
LABELS = ("good film", "very bad late", "complaint", "very")


@pytest.fixture(scope="module", params=["t5", "bart"])
def backbone(request):
    return tiny.backbone(request.param)


def prompt_of(backbone, slots=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return PromptTensors(vectors=torch.randn(slots, backbone.geometry.width, generator=generator))


def task_of(backbone, labels=LABELS, template=SOFT, decoder=DECODER, **settings):
    options = TaskOptions(labels=labels, decoder_template=decoder, **settings)
    return make_task("seq2seq-lm", Template.parse(template), backbone, options)


def ids_of(backbone, text):
    return backbone.tokenizer(text, add_special_tokens=False)["input_ids"]


def shares(backbone, prompt, row, answer):
    """Oracle: one plain forward on embeddings; log p of all words at each of an answer and behind.

    An answer of n ids has n + 1 lines.
    """
    model = backbone.model
    sides = [model.get_encoder(), model.get_decoder()]
    tables = [side.get_input_embeddings() for side in sides]
    encoder = [*prompt.vectors[:3], *tables[0](torch.tensor(ids_of(backbone, row["text"])))]
    front = [backbone.decoder_start, *ids_of(backbone, "label :")]
    decoder = [*tables[1](torch.tensor(front)), *prompt.vectors[3:]]
    decoder += list(tables[1](torch.tensor(answer, dtype=torch.long)))
    with torch.no_grad():
        logits = model(
            inputs_embeds=torch.stack(encoder)[None],
            decoder_inputs_embeds=torch.stack(decoder)[None],
            decoder_input_ids=None,
        ).logits[0]
    return logits[len(decoder) - len(answer) - 1 :].log_softmax(-1)


def log_probabilities(backbone, prompt, row, answer):
    each = shares(backbone, prompt, row, answer)
    return each[torch.arange(len(answer)), list(answer)]


def answers_of(backbone, labels, closed=True):
    """The ids of labels; the end token closes them, for "very" begins another one."""
    end = [backbone.tokenizer.eos_token_id] if closed else []
    return [ids_of(backbone, label) + end for label in labels]


def test_probabilities_are_those_of_one_plain_forward_a_label(backbone):
    prompt, task = prompt_of(backbone), task_of(backbone)
    got = predict_examples(backbone, prompt, task, None, task.examples(ROWS), batch_size=2)
    for row, one in zip(ROWS, got, strict=True):
        scores = torch.stack(
            [
                log_probabilities(backbone, prompt, row, answer).sum()
                for answer in answers_of(backbone, LABELS)
            ]
        )
        torch.testing.assert_close(
            torch.tensor(list(one.probabilities.values())), scores.softmax(0), rtol=1e-4, atol=1e-6
        )
        assert one.answer == LABELS[int(scores.argmax())]


def test_the_loss_over_labels_is_the_share_of_the_right_one(backbone):
    prompt, task = prompt_of(backbone), task_of(backbone)
    examples = task.training_examples(ROWS, list(LABELS[:3]))
    found = evaluate_examples(backbone, prompt, task, None, examples, batch_size=3)
    by_row = [
        predict_examples(backbone, prompt, task, None, [e], batch_size=1)[0].probabilities
        for e in examples
    ]
    right = torch.tensor([p[label] for p, label in zip(by_row, LABELS[:3], strict=True)])
    assert found.scores["loss"] == pytest.approx(float(-right.log().mean()), rel=1e-4)


@pytest.mark.parametrize("labels", [(), LABELS])
def test_the_loss_over_the_vocabulary_is_the_mean_over_the_words_of_the_answer(backbone, labels):
    prompt, task = prompt_of(backbone), task_of(backbone, labels, loss="vocabulary")
    said = list(LABELS[:3])
    examples = task.training_examples(ROWS, said)
    read = run(backbone, [prompt], backbone.pack([e.sequence for e in examples]), read="words")
    got = task.loss(read, examples, None)
    for row, answer, loss in zip(ROWS, answers_of(backbone, said), got, strict=True):
        expected = -log_probabilities(backbone, prompt, row, answer).mean()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_a_tokenizers_own_start_of_a_text_stands_before_the_answer_too():
    """BART's: `</s><s>` and the answer in the decoder, as it was trained."""
    backbone = tiny.backbone("bart")
    from tokenizers.processors import TemplateProcessing

    backbone.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    (example,) = task_of(backbone, decoder="{soft:2}{label}").examples(ROWS[:1])
    assert example.sequence.ids == (2, -1, -2, -3, *ids_of(backbone, "my parcel is late"), 3)
    assert example.sequence.decoder.ids == (3, 2, -4, -5)
    assert example.sequence.decoder.reads == (3,)


def test_generated_text_is_what_the_most_likely_words_say_up_to_the_end(backbone):
    prompt, task = prompt_of(backbone), task_of(backbone, (), max_new_tokens=4)
    examples = task.examples(ROWS, ["good", "bad", "late parcel"])
    got = generate_answers(backbone, prompt, task, examples, batch_size=2)
    for row, one in zip(ROWS, got, strict=True):
        said = []
        while len(said) < 4:
            step = int(shares(backbone, prompt, row, said)[-1].argmax())
            if step == backbone.tokenizer.eos_token_id:
                break
            said.append(step)
        assert one.answer == backbone.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_beams_and_their_penalty_reach_the_search(backbone, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ptune.evaluation.generate", lambda *args, **more: seen.append(more) or [[5]]
    )
    task = task_of(backbone, (), max_new_tokens=7, beams=3, length_penalty=0.5)
    generate_answers(backbone, prompt_of(backbone), task, task.examples(ROWS[:1]), batch_size=1)
    assert seen == [{"max_new_tokens": 7, "beams": 3, "length_penalty": 0.5}]


@pytest.mark.parametrize("labels", [(), LABELS])
def test_examples_come_back_from_flat_arrays_as_they_were(backbone, labels):
    task = task_of(backbone, labels)
    answers = list(LABELS[:3])
    for rows in (task.training_examples(ROWS, answers), task.examples(ROWS, answers)):
        flat = FlatExamples.of([rows[:2], rows[2:]])
        assert list(flat) == rows
        batch = backbone.pack([one.sequence for one in rows])
        computed = computed_tokens(rows, share=False)
        assert torch.equal(flat.computed(share=False), computed)
        assert int(computed.sum()) == batch.ids.numel() + batch.decoder.ids.numel()


def test_text_scores_are_those_of_the_packages(backbone):
    task = task_of(backbone, ())
    examples = task.examples(ROWS, ["good", "bad film", "late"])
    predictions = generate_answers(backbone, prompt_of(backbone), task, examples, batch_size=3)
    found = task.scores(predictions, examples)
    assert found == texts.scores(["good", "bad film", "late"], [p.answer for p in predictions])
    assert set(found) == {"exact_match", *texts.ROUGE, "bleu"}


# ------------------------------------------------------------------------------- refusals


def refusal(kind, *args, **more):
    with pytest.raises(kind) as error:
        task_of(*args, **more)
    return str(error.value)


def test_a_label_in_the_encoders_template_is_refused(backbone):
    said = refusal(TemplateError, backbone, template="{text} label : {label}")
    assert said.startswith('template "{text} label : {label}", column 16: {label}: in task')


@pytest.mark.parametrize("decoder", ["{soft:2}", "{label} .", "{soft:2} label"])
def test_a_decoder_template_ends_in_its_label(backbone, decoder):
    assert "{label} stands at the end" in refusal(TemplateError, backbone, decoder=decoder)


@pytest.mark.parametrize("decoder", ["{text}{label}", "{mask}{label}"])
def test_a_decoder_template_has_no_part_of_a_row(backbone, decoder):
    assert "virtual tokens, text and {label} only" in refusal(
        TemplateError, backbone, decoder=decoder
    )


def test_models_of_one_side_and_tasks_of_one_side_are_refused(backbone):
    assert "needs an encoder-decoder" in refusal(ConfigError, tiny.backbone("llama"))
    for name in ("causal-lm", "sequence-classification"):
        with pytest.raises(ConfigError, match="Use task: seq2seq-lm"):
            make_task(name, Template.parse(SOFT), backbone, TaskOptions(labels=LABELS))


def test_an_answer_longer_than_the_decoder_is_refused():
    said = refusal(ConfigError, tiny.backbone("bart"), (), max_new_tokens=80)
    assert said == (
        "max_new_tokens = 80: the decoder has 64 positions, and 5 stand before the answer. "
        "Ask for fewer, or shorten decoder_template."
    )


def test_a_metric_whose_package_is_absent_is_refused_before_the_run(backbone, monkeypatch):
    monkeypatch.setattr("ptune.texts.find_spec", lambda name: None)
    said = refusal(ConfigError, backbone, (), metric="bleu")
    assert said == "metric = bleu needs the package sacrebleu: pip install sacrebleu."
    assert texts.scores(["a"], ["a"]) == {"exact_match": 1.0}
