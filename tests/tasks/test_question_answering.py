import math
import re

import pytest
import tiny
import torch

import ptune
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.evaluation import PromptedRows, measure_examples, predict_examples, read_together
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.flat import FlatExamples
from ptune.template import Template

CLS, SEP = 2, 3
LONG = (
    "my parcel is late . thank you , the film is very good . where is the parcel ? one two three "
    "four five six seven . not bad , very good film , a question"
)
ROWS = [
    {"question": "where is my parcel ?", "context": LONG},
    {"question": "one ?", "context": "one two three"},
    {"question": "is the film good ?", "context": "the film is  not good , the film is bad"},
]
# Texts, and their places in the contexts.
ANSWERS = [
    (("the parcel", LONG.index("the parcel")),),
    (("two", 4), ("two three", 4)),
    (("not good", 13),),
]


def encoder():
    """Its tokenizer writes [CLS] question [SEP] context [SEP] with two segments, as BERT's does."""
    return Backbone.load(tiny.model("bert"), tokenizer=tiny.pair_tokenizer())


@pytest.fixture(scope="module")
def backbone():
    return encoder()


def task_of(backbone, template="{soft:3}{question}{sep}{context}", **options):
    options = {"stride": 4, "max_tokens": 30} | options
    return make_task(
        "question-answering", Template.parse(template), backbone, TaskOptions(**options)
    )


def prompt_of(backbone, slots=3):
    generator = torch.Generator().manual_seed(1)
    return PromptTensors(vectors=torch.randn(slots, backbone.geometry.width, generator=generator))


def head_of(task, backbone):
    head = task.head(backbone.geometry.hidden).eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in head.parameters():
        parameter.data.normal_(generator=generator)
    return head


def words_of(text):
    """Oracle: the words of a text with their places, as the tiny tokenizer splits it."""
    return [(m.start(), m.end()) for m in re.finditer(r"\w+|[^\w\s]+", text)]


def oracle_scores(backbone, task, head, prompt, row, stride=4, limit=30):
    """Oracle: start and end scores of [CLS] and of each token of the context, window by window.

    A plain forward of the model on embeddings, virtual tokens put in by hand, cut by arithmetic.
    """
    ids = {word: i for i, word in enumerate(tiny.WORDS)}
    question = [ids[row["question"][a:b]] for a, b in words_of(row["question"])]
    context = [ids[row["context"][a:b]] for a, b in words_of(row["context"])]
    room = limit - 3 - 3 - len(question)
    table = backbone.model.get_input_embeddings().weight
    found, at = [], 0
    while True:
        piece = context[at : at + room]
        front = [CLS, -1, -2, -3, *question, SEP]
        whole = [*front, *piece, SEP]
        words = torch.stack([prompt.vectors[-1 - i] if i < 0 else table[i] for i in whole])
        types = torch.tensor([[0] * len(front) + [1] * (len(piece) + 1)])
        with torch.no_grad():
            states = backbone.body(inputs_embeds=words[None], token_type_ids=types)
        states = states.last_hidden_state[0]
        read = torch.cat([states[:1], states[len(front) : len(front) + len(piece)]])
        normal = (read - read.mean(1, keepdim=True)) / (
            read.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        found.append((at, (normal @ head.linear.weight.T + head.linear.bias).detach()))
        if at + room >= len(context):
            return found
        at += room - stride


def read_of(backbone, task, examples, prompt):
    with torch.no_grad():
        return read_together(backbone, [PromptedRows(prompt, task, examples)])[0]


# --- the rows as the backbone sees them -----------------------------------------------------------


def test_a_long_context_becomes_windows_and_the_question_stands_in_each(backbone):
    task = task_of(backbone)
    example = task.examples(ROWS, ANSWERS)[0]
    question = task.layout.values(ROWS)[0][0].ids
    assert len(example.sequences) == 3
    for sequence in example.sequences:
        assert sequence.ids[: 5 + len(question)] == (CLS, -1, -2, -3, *question, SEP)
        assert sequence.types[: 5 + len(question)] == (0,) * (5 + len(question))
        assert set(sequence.types[5 + len(question) :]) == {1}
        # [CLS], and the tokens between the last two separators
        assert sequence.reads == (0, *range(5 + len(question), len(sequence.ids) - 1))
    assert example.answer == ("the parcel",)


def test_the_scores_of_every_window_are_those_of_a_plain_forward(backbone):
    task, prompt = task_of(backbone), prompt_of(backbone)
    head = head_of(task, backbone)
    examples = task.examples(ROWS)
    read = head(read_of(backbone, task, examples, prompt))
    expected = [
        scores for row in ROWS for _, scores in oracle_scores(backbone, task, head, prompt, row)
    ]
    torch.testing.assert_close(read, torch.cat(expected), atol=2e-4, rtol=1e-4)


# --- loss -----------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_windows_of_start_and_end(backbone):
    task, prompt = task_of(backbone), prompt_of(backbone)
    head = head_of(task, backbone)
    measured = measure_examples(
        backbone, prompt, task, head, task.examples(ROWS, ANSWERS), batch_size=2
    )
    nulls = 0
    for row, answers, one in zip(ROWS, ANSWERS, measured, strict=True):
        text, start = answers[0]
        words = words_of(row["context"])
        first = [a for a, _ in words].index(start)
        last = [b for _, b in words].index(start + len(text))
        losses = []
        for at, scores in oracle_scores(backbone, task, head, prompt, row):
            inside = at <= first and last < at + len(scores) - 1
            nulls += not inside
            wanted = (first - at + 1, last - at + 1) if inside else (0, 0)
            for column, target in enumerate(wanted):
                shares = [math.exp(float(score)) for score in scores[:, column]]
                losses.append(-math.log(shares[target] / sum(shares)))
        assert one.loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert nulls == 1


def test_a_question_without_an_answer_points_at_the_first_token(backbone):
    task = task_of(backbone, no_answer=0.0)
    for example in task.training_examples(ROWS, [()] * 3):
        assert example.target.positions == ((0, 0),) * len(example.sequences)
        assert example.answer == ()


def test_rows_to_train_on_hold_the_same_positions_and_no_text(backbone):
    task = task_of(backbone)
    pairs = zip(task.training_examples(ROWS, ANSWERS), task.examples(ROWS, ANSWERS), strict=True)
    for trained, measured in pairs:
        assert trained.sequences == measured.sequences
        assert trained.target.positions == measured.target.positions
        assert (trained.target.context, trained.target.characters) == ("", ())


# --- the best part of the context -----------------------------------------------------------------


def brute_force(task, example, scores, context):
    """Oracle: all pairs of all windows, one by one; the texts of each window's n best."""
    found, texts, nulls, firsts = {}, {}, [], example.target.firsts
    words = words_of(context)
    for first, sequence in zip(firsts, example.sequences, strict=True):
        own, scores = scores[: len(sequence.reads)], scores[len(sequence.reads) :]
        nulls.append(float(own[0, 0] + own[0, 1]))
        tokens = len(sequence.reads) - 1
        window = {}
        for i in range(tokens):
            for j in range(i, tokens):
                if j - i < task.max_answer_tokens:
                    span = words[first + i][0], words[first + j][1]
                    window[span] = float(own[1 + i, 0]) + float(own[1 + j, 1])
        for (start, stop), score in window.items():
            found[start, stop] = max(score, found.get((start, stop), -math.inf))
            if score in sorted(window.values())[-task.n_best :]:
                text = context[start:stop]
                texts[text] = max(score, texts.get(text, -math.inf))
    assert len(scores) == 0
    return found, dict(sorted(texts.items(), key=lambda one: -one[1])[: task.n_best]), min(nulls)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("longest", "no_answer"), [(1, None), (3, 0.0), (50, None), (50, 2.5)])
def test_the_answer_is_the_best_of_all_pairs_of_all_windows(backbone, seed, longest, no_answer):
    task = task_of(backbone, max_answer_tokens=longest, n_best=7, no_answer=no_answer)
    examples = task.examples(ROWS)
    reads = [sum(len(one.reads) for one in example.sequences) for example in examples]
    scores = torch.randn(sum(reads), 2, generator=torch.Generator().manual_seed(seed))
    predictions = task.predict(scores, examples, torch.nn.Identity())
    rows = zip(ROWS, examples, predictions, scores.split(reads), strict=True)
    for row, example, prediction, own in rows:
        found, texts, null = brute_force(task, example, own, row["context"])
        (start, stop), best = max(found.items(), key=lambda pair: pair[1])
        assert prediction.text == row["context"][start:stop]
        assert prediction.margin == pytest.approx(null - best, abs=1e-5)
        silent = no_answer is not None and null - best > no_answer
        assert prediction.answer == ("" if silent else row["context"][start:stop])
        if no_answer is not None:
            texts[""] = null
        whole = sum(map(math.exp, texts.values()))
        shares = {text: math.exp(score) / whole for text, score in texts.items()}
        assert prediction.probabilities == pytest.approx(shares, rel=1e-4)


def test_a_learned_answer_is_cut_out_of_the_context_letter_by_letter(backbone):
    """Scores that point at the gold tokens give the gold text, white space and all."""
    task = task_of(backbone)
    examples = task.examples(ROWS, ANSWERS)
    scores = []
    for example in examples:
        for (start, end), one in zip(example.target.positions, example.sequences, strict=True):
            own = torch.zeros(len(one.reads), 2)
            own[start, 0] = own[end, 1] = 5.0
            scores.append(own)
    said = task.predict(torch.cat(scores), examples, torch.nn.Identity())
    assert [p.answer for p in said] == [answers[0][0] for answers in ANSWERS]
    assert task.scores(said, examples) == {"f1": 1.0, "exact_match": 1.0}


def test_scores_count_unanswerable_rows_and_find_the_threshold(backbone):
    task = task_of(backbone, no_answer=0.0)
    examples = task.examples(ROWS, [ANSWERS[0], (), ()])
    reads = sum(len(one.reads) for example in examples for one in example.sequences)
    scores = torch.randn(reads, 2, generator=torch.Generator().manual_seed(0))
    found = task.scores(task.predict(scores, examples, torch.nn.Identity()), examples)
    assert found.keys() == {
        *("f1", "exact_match", "answerable_f1", "answerable_exact_match"),
        *("unanswerable_accuracy", "best_f1", "best_no_answer"),
    }
    again = task_of(backbone, no_answer=found["best_no_answer"])
    best = again.scores(again.predict(scores, examples, torch.nn.Identity()), examples)
    assert best["f1"] == pytest.approx(found["best_f1"]) == best["best_f1"]


# --- batches and the cache ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_row_alone_is_the_row_in_any_batch(backbone, name):
    template = "{soft:3}{question}{sep}{context}"
    if name == "gpt2":
        backbone = tiny.backbone("gpt2")
        template = "{soft:3}question : {question} text : {context} ."
    task, prompt = task_of(backbone, template), prompt_of(backbone)
    head = head_of(task, backbone)
    examples = task.examples(ROWS, ANSWERS)
    alone = [
        measure_examples(backbone, prompt, task, head, [example], batch_size=1)[0]
        for example in examples
    ]
    for size in (2, 3):
        together = measure_examples(backbone, prompt, task, head, examples, batch_size=size)
        for one, other in zip(alone, together, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=1e-4)
            assert one.prediction.answer == other.prediction.answer
            assert one.prediction.margin == pytest.approx(other.prediction.margin, abs=1e-3)


def test_what_comes_from_the_cache_is_measured_alike(backbone):
    task, prompt = task_of(backbone), prompt_of(backbone)
    head = head_of(task, backbone)
    examples = task.examples(ROWS, ANSWERS)
    flat = FlatExamples.of([examples[:2], examples[2:]])
    assert list(flat) == examples
    ours, theirs = (
        measure_examples(backbone, prompt, task, head, some, batch_size=2)
        for some in (flat, examples)
    )
    assert ours == theirs


def test_rows_without_answers_are_predicted(backbone):
    task, prompt = task_of(backbone), prompt_of(backbone)
    head = head_of(task, backbone)
    said = predict_examples(backbone, prompt, task, head, task.examples(ROWS), batch_size=2)
    for row, prediction in zip(ROWS, said, strict=True):
        assert prediction.answer
        assert prediction.answer in row["context"]


@pytest.mark.parametrize("behind", [" .", "{soft:2}"])
def test_in_a_decoder_null_is_read_behind_the_context_where_the_whole_row_was_seen(behind):
    task = task_of(tiny.backbone("llama"), "question : {question} text : {context}" + behind)
    for example in task.training_examples(ROWS, ANSWERS):
        for one in example.sequences:
            assert one.reads[0] == len(one.ids) - 1
            assert one.reads[0] not in one.reads[1:]


def test_a_decoder_is_not_trained_where_null_would_be_the_last_word_of_the_context():
    task = task_of(tiny.backbone("llama"), "{soft:2}{question} : {context}")
    with pytest.raises(TemplateError) as error:
        task.training_examples(ROWS, ANSWERS)
    assert str(error.value) == (
        'template "{soft:2}{question} : {context}": {context} stands at its end, and a decoder '
        "says at the last token that a text has no answer, or that a window of it has none: that "
        "would be the last word of the context, which may be an answer. Write something behind "
        'it, for example "{soft:2}{question} : {context} Answer :".'
    )
    assert task.examples(ROWS)  # prompts that others trained so are still read


def test_a_text_that_stands_several_times_counts_once_and_the_answer_is_the_likeliest(backbone):
    task = task_of(backbone, no_answer=0.0, max_answer_tokens=1)
    row = {"question": "how ?", "context": "one two three two three two three"}
    (example,) = task.examples([row])
    scores = torch.full((1 + 7, 2), -9.0)
    scores[1] = 1.0  # one
    scores[[3, 5, 7]] = 0.9  # three, three times
    found = task.predict(scores, [example], torch.nn.Identity())[0]
    assert found.answer == "one" == max(found.probabilities, key=found.probabilities.get)
    weights = {"one": 2.0, "three": 1.8, "two": -18.0, "": -18.0}
    total = sum(map(math.exp, weights.values()))
    for text, weight in weights.items():
        assert found.probabilities[text] == pytest.approx(math.exp(weight) / total)


# --- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{question}", "{context} must stand once in task question-answering"),
        ("{context}{sep}{context}", "{context} must stand once"),
        ("{question}{sep}{context}{label}", "{label} has no place"),
        ("{question}{sep}{context:.90}", "column 16: {context:.90}: a long context is cut into"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(backbone, template, said):
    with pytest.raises(TemplateError, match=re.escape(said)):
        task_of(backbone, template)


def test_a_decoder_wants_the_context_behind_the_question():
    with pytest.raises(TemplateError, match=r"in a decoder the tokens of the context see only"):
        task_of(tiny.backbone("llama"), "text : {context} question : {question}")


def test_a_tokenizer_without_characters_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(type(backbone.tokenizer), "is_fast", False)
    with pytest.raises(ConfigError, match="does not say which characters its tokens stand for"):
        task_of(backbone)


def test_training_rows_without_an_answer_need_a_threshold(backbone):
    with pytest.raises(DataError, match="row 2: the question has no answer in its context"):
        task_of(backbone).training_examples(ROWS, [ANSWERS[0], (), ANSWERS[2]])


def test_an_answer_that_no_token_stands_for_is_refused(backbone):
    row = {"question": "one ?", "context": "one  two"}
    with pytest.raises(DataError, match="row 1: the answer ' ' has no token of the tokenizer"):
        task_of(backbone).training_examples([row], [((" ", 3),)])


# --- learned --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_prompt_learns_the_answers_and_which_questions_have_none(kind):
    """Each question stands with a context that answers it and with one that does not."""
    place, number, film = "where is my parcel ?", "one ?", "is the film good ?"
    story, count = "my parcel is late . the film is good", "one two three four"
    asked = [(place, story, "late"), (film, story, "good"), (number, count, "two three")]
    asked += [(place, count, None), (film, count, None), (number, story, None)]
    rows = [
        {
            "question": question,
            "context": context,
            "answers": {
                "text": [] if text is None else [text],
                "answer_start": [] if text is None else [context.index(text)],
            },
        }
        for question, context, text in asked
    ]
    backbone = encoder() if kind == "bert" else tiny.backbone("llama")
    settings = {"task": "question-answering", "method": "p-tuning-v2", "no_answer": 0.0}
    settings |= {"prompt_length": 8, "validation_share": 0, "epochs": 60, "batch_size": 6}
    result = ptune.train(backbone, rows, test=rows, **settings)
    said = ptune.predict(backbone, result.prompt, rows)
    assert [one.answer for one in said] == [text or "" for _, _, text in asked]
    assert result.scores["test"]["exact_match"] == 1.0
