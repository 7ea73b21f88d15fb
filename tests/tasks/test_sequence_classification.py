import pytest
import tiny
import torch
from tokenizers import processors
from torch.nn import functional

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.errors import DataError, TemplateError
from ptune.evaluation import evaluate_examples, predict_examples
from ptune.run import run
from ptune.tasks import TaskOptions, make_task
from ptune.template import Template

ROWS = [{"text": "my parcel is late"}, {"text": "thank you"}, {"text": "film ? very bad"}]
CLS, SEP = 2, 3


def encoder():
    """Its tokenizer writes [CLS] text [SEP], as BERT's does."""
    return Backbone.load(tiny.model("bert"), tokenizer=tiny.pair_tokenizer())


@pytest.fixture(scope="module")
def backbones():
    return {"encoder": encoder(), "decoder": tiny.backbone("llama")}


def prompt_of(backbone, slots=3):
    generator = torch.Generator().manual_seed(1)
    return PromptTensors(vectors=torch.randn(slots, backbone.geometry.width, generator=generator))


def task_of(backbone, template="{soft:3}{text}", labels=("good", "bad"), **settings):
    return make_task(
        "sequence-classification",
        Template.parse(template),
        backbone,
        TaskOptions(labels=labels, **settings),
    )


def head_of(task, backbone):
    head = task.head(backbone.geometry.hidden).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in head.parameters():
        parameter.data.normal_(generator=generator)
    return head


def states(backbone, prompt, ids):
    """Oracle: a plain forward of the model on embeddings, virtual tokens put in by hand."""
    table = backbone.model.get_input_embeddings().weight
    words = torch.stack([prompt.vectors[-1 - id] if id < 0 else table[id] for id in ids])
    with torch.no_grad():
        return backbone.body(inputs_embeds=words[None]).last_hidden_state[0]


def logits(head, state):
    """Oracle of the head: normalised without trained factors, then linear."""
    normal = (state - state.mean()) / (state.var(correction=0) + 1e-5).sqrt()
    return normal @ head.linear.weight.T + head.linear.bias


@pytest.mark.parametrize(
    ("kind", "template", "layout", "pooled"),
    [
        ("encoder", "{soft:3}{text}", lambda words: [CLS, -1, -2, -3, *words, SEP], 0),
        ("encoder", "{text}{soft:3}", lambda words: [CLS, *words, -1, -2, -3, SEP], 0),
        ("decoder", "{soft:3}{text}", lambda words: [-1, -2, -3, *words], -1),
        ("decoder", "{soft:2}{text}{soft:1}", lambda words: [-1, -2, *words, -3], -2),
        ("decoder", "{soft:1}{text}{soft:2}", lambda words: [-1, *words, -2, -3], -3),
    ],
)
def test_the_state_of_cls_or_of_the_last_real_token_is_pooled(
    backbones, kind, template, layout, pooled
):
    backbone = backbones[kind]
    task, prompt = task_of(backbone, template), prompt_of(backbone)
    head = head_of(task, backbone)
    got = predict_examples(backbone, prompt, task, head, task.examples(ROWS), batch_size=3)
    for row, one in zip(ROWS, got, strict=True):
        words = backbone.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        state = states(backbone, prompt, layout(words))[pooled]
        expected = logits(head, state).softmax(-1)
        shares = torch.tensor([one.probabilities["good"], one.probabilities["bad"]])
        torch.testing.assert_close(shares, expected, rtol=1e-3, atol=1e-5)
        assert one.answer == ("good", "bad")[int(expected.argmax())]


@pytest.mark.parametrize(
    ("pooling", "pooled"), [("first", [0]), ("last", [-1]), ("mean", [0, *range(4, 20), -1])]
)
def test_what_the_head_sees_can_be_chosen_and_virtual_tokens_are_left_out(
    backbones, pooling, pooled
):
    backbone = backbones["encoder"]
    task = task_of(backbone, "{soft:3}{text}{soft:1}", pooling=pooling)
    prompt, head = prompt_of(backbone, slots=4), head_of(task, backbone)
    got = predict_examples(backbone, prompt, task, head, task.examples(ROWS), batch_size=3)
    for row, one in zip(ROWS, got, strict=True):
        words = backbone.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        ids = [CLS, -1, -2, -3, *words, -4, SEP]
        places = sorted({at % len(ids) for at in pooled if at < 4 + len(words)})
        state = states(backbone, prompt, ids)[places].mean(0)
        expected = logits(head, state).softmax(-1)
        shares = torch.tensor([one.probabilities["good"], one.probabilities["bad"]])
        torch.testing.assert_close(shares, expected, rtol=1e-3, atol=1e-5)


def read_of(backbone, prompt, examples):
    return run(backbone, [prompt], backbone.pack([e.sequence for e in examples]))


def test_the_loss_of_one_label_is_cross_entropy(backbones):
    backbone = backbones["encoder"]
    task, prompt = task_of(backbone, labels=("a", "b", "c")), prompt_of(backbone)
    head = head_of(task, backbone)
    examples = task.training_examples(ROWS, ["c", "a", "b"])
    read = read_of(backbone, prompt, examples)
    expected = [
        -logits(head, state).log_softmax(-1)[truth]
        for state, truth in zip(read, (2, 0, 1), strict=True)
    ]
    torch.testing.assert_close(task.loss(read, examples, head), torch.stack(expected))


def test_several_labels_each_have_a_sigmoid_and_any_number_may_be_right(backbones):
    backbone = backbones["decoder"]
    task = task_of(backbone, labels=("late", "rude", "lost"), problem="multi-label")
    prompt, head = prompt_of(backbone), head_of(task, backbone)
    answers = [("late", "lost"), (), ("rude",)]
    examples = task.training_examples(ROWS, answers)
    read = read_of(backbone, prompt, examples)
    wanted = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    outputs = torch.stack([logits(head, state) for state in read])
    shares = outputs.sigmoid()
    each = -(wanted * shares.log() + (1 - wanted) * (1 - shares).log()).mean(1)
    torch.testing.assert_close(task.loss(read, examples, head), each, rtol=1e-3, atol=1e-4)
    for one, row in zip(task.predict(read, examples, head), shares, strict=True):
        expected = tuple(
            label for label, p in zip(task.labels, row.tolist(), strict=True) if p > 0.5
        )
        assert one.answer == expected
        torch.testing.assert_close(torch.tensor(list(one.probabilities.values())), row)
    scores = evaluate_examples(backbone, prompt, task, head, examples, batch_size=2).scores
    assert set(scores) == {"loss", "micro_f1", "macro_f1"}


def test_a_number_is_predicted_by_the_squared_error(backbones):
    backbone = backbones["decoder"]
    task = task_of(backbone, labels=(), problem="regression")
    prompt, head = prompt_of(backbone), head_of(task, backbone)
    assert head.linear.out_features == 1
    numbers = [4.5, -1.0, 0.0]
    examples = task.training_examples(ROWS, numbers)
    read = read_of(backbone, prompt, examples)
    outputs = torch.stack([logits(head, state)[0] for state in read])
    torch.testing.assert_close(
        task.loss(read, examples, head), (outputs - torch.tensor(numbers)) ** 2
    )
    evaluation = evaluate_examples(backbone, prompt, task, head, examples, batch_size=2)
    torch.testing.assert_close(
        torch.tensor([p.answer for p in evaluation.predictions]), outputs, rtol=1e-4, atol=1e-5
    )
    scores = evaluation.scores
    assert set(scores) == {"loss", "mse", "pearson", "spearman"}
    assert scores["loss"] == pytest.approx(scores["mse"], rel=1e-4)


def test_a_constant_head_predicts_the_first_of_equally_likely_labels(backbones):
    backbone = backbones["encoder"]
    task = task_of(backbone)
    head = task.head(backbone.geometry.hidden)
    (one, *_) = predict_examples(
        backbone, prompt_of(backbone), task, head, task.examples(ROWS), batch_size=3
    )
    assert (one.answer, one.probabilities) == ("good", {"good": 0.5, "bad": 0.5})


def test_the_cross_entropy_of_a_new_head_is_that_of_guessing(backbones):
    backbone = backbones["decoder"]
    task = task_of(backbone)
    examples = task.examples(ROWS, ["good", "bad", "bad"])
    head = task.head(backbone.geometry.hidden)
    loss = task.loss(read_of(backbone, prompt_of(backbone), examples), examples, head)
    torch.testing.assert_close(
        loss, functional.cross_entropy(torch.zeros(3, 2), torch.tensor([0, 1, 1]), reduction="none")
    )


def refused(kind, message, call):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == message


def test_a_template_with_a_label_is_refused(backbones):
    message = (
        'template "{soft:3}{text} : {label}": {label} has no place in task '
        "sequence-classification, where a trained head gives the label. Leave it out, or use "
        "task: causal-lm."
    )
    refused(
        TemplateError, message, lambda: task_of(backbones["decoder"], "{soft:3}{text} : {label}")
    )


def test_a_row_without_a_token_of_its_own_is_refused(backbones):
    task = task_of(backbones["decoder"])
    message = (
        "row 1: the row has no token that the head could read, since its fields are empty. Put "
        "some words into the template, or leave the row out."
    )
    refused(DataError, message, lambda: task.examples([{"text": ""}]))


def test_an_unknown_label_is_refused(backbones):
    task = task_of(backbones["decoder"])
    message = (
        "label 'ugly' is unknown to the task. Known: 'good', 'bad'. Mend the row, or train with "
        "rows of this label."
    )
    refused(DataError, message, lambda: task.examples(ROWS[:1], ["ugly"]))


PAIRS = [
    {"premise": "my parcel is late", "hypothesis": "thank you"},
    {"premise": "film ?", "hypothesis": "very bad film , very bad"},
]
PAIR = "{soft:3}{premise}{sep}{hypothesis}"


def roberta():
    """Its tokenizer writes <s> first </s></s> second </s>, all of one segment."""
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", CLS), ("</s>", SEP)],
    )
    return Backbone.load(tiny.model("roberta"), tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_two_texts_are_joined_and_told_apart_as_the_model_was_trained(kind):
    """Against the tokenizer's own pair, run by the plain model with its segments."""
    backbone = encoder() if kind == "bert" else roberta()
    task, prompt = task_of(backbone, PAIR, pooling="first"), prompt_of(backbone)
    head = head_of(task, backbone)
    got = predict_examples(backbone, prompt, task, head, task.examples(PAIRS), batch_size=2)
    table = backbone.model.get_input_embeddings().weight
    for row, one in zip(PAIRS, got, strict=True):
        pair = backbone.tokenizer(
            row["premise"], row["hypothesis"], return_token_type_ids=True, return_tensors="pt"
        )
        ids, types = pair["input_ids"][0], pair["token_type_ids"][0]
        assert set(types.tolist()) == ({0, 1} if kind == "bert" else {0})
        words = torch.cat([table[ids[:1]], prompt.vectors, table[ids[1:]]])
        types = torch.cat([types[:1], torch.zeros(3, dtype=torch.long), types[1:]])
        with torch.no_grad():
            state = backbone.body(inputs_embeds=words[None], token_type_ids=types[None])[0][0, 0]
        shares = torch.tensor([one.probabilities["good"], one.probabilities["bad"]])
        torch.testing.assert_close(shares, logits(head, state).softmax(-1), rtol=1e-3, atol=1e-5)


def test_a_tokenizer_that_joins_no_two_texts_is_told_where(backbones):
    with pytest.raises(TemplateError) as error:
        task_of(backbones["decoder"], PAIR)
    assert str(error.value) == (
        f'template "{PAIR}", column 18: {{sep}}: this tokenizer puts nothing between two texts. '
        "Write text instead."
    )


def test_pooling_virtual_reads_the_first_virtual_token(backbones):
    backbone = backbones["encoder"]
    for template, at in (("{soft:3}{bos}{text}", 0), ("{soft:3}{text}", 1)):
        made = task_of(backbone, template, pooling="virtual")
        assert [e.sequence.reads for e in made.examples(ROWS)] == [(at,)] * len(ROWS)


def test_pooling_virtual_needs_a_virtual_token(backbones):
    with pytest.raises(TemplateError, match="reads the first virtual token, and there is none"):
        task_of(backbones["encoder"], "{text}", pooling="virtual")


def test_the_form_of_the_head_is_as_set(backbones):
    assert task_of(backbones["encoder"], head_form="tanh").head(8).form == "tanh"
