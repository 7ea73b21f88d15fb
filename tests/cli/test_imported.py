"""A prefix of PEFT's on the command line: imported, evaluated and predicted as PEFT answers."""

import json

import pytest
import tiny
import torch
import transformers
from oracles import peft_models as oracle

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = ("my parcel is late", "the film is very good", "where is the parcel", "one two three")
CONTEXT = "my parcel is late . thank you , the film is very good"
QUESTIONS = ("where is it ?", "is it good ?", "two ?")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder of a BERT whose tokenizer has segments, as BERT's own."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = tiny.pair_tokenizer()
    tokenizer.save_pretrained(folder / "backbone")
    # What was set on the object is not saved with it.
    file = folder / "backbone/tokenizer_config.json"
    names = {"model_input_names": tokenizer.model_input_names}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    tiny.model("bert").save_pretrained(folder / "backbone")
    return folder


def theirs(folder, task):
    """A prefix on the model of the folder, saved; and the model that has it."""
    base = oracle.CLASSES[task].from_pretrained(folder / "backbone").eval()
    made = oracle.wrapped(base, "PREFIX_TUNING", task)
    head = made.get_base_model().qa_outputs if "QUESTION" in task else made.get_base_model()
    for parameter in getattr(head, "classifier", head).parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made.save_pretrained(folder / f"peft-{task}")
    return made, folder / f"peft-{task}"


def test_tags_of_an_imported_prefix_are_pefts(bert, ptune):
    made, folder = theirs(bert, "TOKEN_CLS")
    tokenizer, ours = tiny.tokenizer(), bert / "tags"
    logits = [oracle.logits(made, [2, *tokenizer(t).input_ids, 3])[1:-1] for t in WORDS]
    gold = [one.argmax(-1).tolist() for one in logits]
    assert {tag for row in gold for tag in row} == {0, 1}
    rows = [
        "\n".join(f"{word} {('O', 'B-X')[tag]}" for word, tag in zip(t.split(), tags, strict=True))
        for t, tags in zip(WORDS, gold, strict=True)
    ]
    (bert / "gold.conll").write_text("\n\n".join(rows) + "\n")
    on = ("--backbone", bert / "backbone")
    code, _, err = ptune("import", folder, *on, "--output", ours, "--labels", "O,B-X")
    assert code == 0, err
    code, out, err = ptune("evaluate", ours, "--data", bert / "gold.conll", "--json", *on)
    assert code == 0, err
    assert json.loads(out)["f1"] == 1.0
    said = bert / "tags.jsonl"
    code, _, err = ptune("predict", ours, "--input", bert / "gold.conll", "--output", said, *on)
    assert code == 0, err
    found = [json.loads(line)["answer"] for line in said.read_text().splitlines()]
    assert found == [[("O", "B-X")[tag] for tag in tags] for tags in gold]


def best_span(logits, begin, end):
    """The likeliest start and end in the context, the end not before the start, by trying all."""
    spans = [(a, b) for a in range(begin, end) for b in range(a, end)]
    return max(spans, key=lambda s: float(logits[s[0], 0] + logits[s[1], 1]))


def test_answers_of_an_imported_prefix_are_pefts(bert, ptune, caplog):
    """PEFT drops the segments of question answering, and the import keeps that."""
    made, folder = theirs(bert, "QUESTION_ANS")
    tokenizer, gold = tiny.tokenizer(), []
    context = tokenizer(CONTEXT).input_ids
    for question in QUESTIONS:
        asked = tokenizer(question).input_ids
        begin = len(asked) + 2
        types = torch.tensor([[0] * begin + [1] * (len(context) + 1)])
        logits = oracle.logits(made, [2, *asked, 3, *context, 3], token_type_ids=types)
        first, last = best_span(logits, begin, begin + len(context))
        gold.append(" ".join(CONTEXT.split()[first - begin : last + 1 - begin]))
    rows = [
        {"id": str(at), "question": q, "context": CONTEXT, "answers": answer}
        for at, (q, answer) in enumerate(zip(QUESTIONS, gold, strict=True))
    ]
    (bert / "asked.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    ours, on = bert / "answers", ("--backbone", bert / "backbone")
    code, _, err = ptune("import", folder, *on, "--output", ours)
    assert code == 0
    assert "its template has </s> for {sep}" in caplog.text
    to = bert / "answers.json"
    code, _, err = ptune("predict", ours, "--input", bert / "asked.jsonl", "--output", to, *on)
    assert code == 0, err
    assert json.loads(to.read_text()) == dict(enumerate_as_text(gold))
    code, out, err = ptune("evaluate", ours, "--data", bert / "asked.jsonl", "--json", *on)
    assert code == 0, err
    assert json.loads(out)["exact_match"] == 1.0


def enumerate_as_text(answers):
    return ((str(at), answer) for at, answer in enumerate(answers))


FIRST_WORD = 5


def two_words(scores):
    """Two words of which each is the likelier one in some row, as far apart as can be."""
    apart = scores[:, :, None] - scores[:, None, :]
    least = torch.minimum(apart.amax(0), (-apart).amax(0))
    return list(divmod(int(least.argmax()), len(least)))


def test_labels_of_an_imported_prefix_of_bart_are_pefts(bert, ptune):
    torch.manual_seed(0)
    config = transformers.BartConfig(**tiny.BART | {"decoder_layers": 2})
    folder = bert / "bart"
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    made = oracle.wrapped(
        oracle.CLASSES["SEQ_2_SEQ_LM"].from_pretrained(folder), "PREFIX_TUNING", "SEQ_2_SEQ_LM"
    )
    made.save_pretrained(bert / "peft-bart")
    tokenizer, start = tiny.tokenizer(), {"decoder_input_ids": torch.tensor([[3]])}
    scores = [oracle.logits(made, tokenizer(t).input_ids, **start)[-1] for t in WORDS]
    words = two_words(torch.stack(scores)[:, FIRST_WORD:])
    labels = tokenizer.convert_ids_to_tokens([FIRST_WORD + word for word in words])
    chosen = [labels[int(one[FIRST_WORD:][words].argmax())] for one in scores]
    assert set(chosen) == set(labels)
    rows = ["text,label", *(f"{t},{label}" for t, label in zip(WORDS, chosen, strict=True))]
    (bert / "rows.csv").write_text("\n".join(rows) + "\n")
    on = ("--backbone", folder)
    args = ("--output", bert / "said", "--labels", ",".join(labels))
    code, out, err = ptune("import", bert / "peft-bart", *on, *args)
    assert code == 0, err
    assert "(seq2seq-lm, {text})" in out
    code, out, err = ptune("evaluate", bert / "said", "--data", bert / "rows.csv", "--json", *on)
    assert code == 0, err
    assert json.loads(out)["accuracy"] == 1.0
