"""Checkpoints of the authors' code: what their modules compute, folded."""

import argparse

import pytest
import tiny
import torch
from oracles import peft_models as oracle
from oracles import thudm

from ptune.api import Backbone
from ptune.batch import TokenSequence
from ptune.errors import ArtifactError, ConfigError
from ptune.formats import import_thudm
from ptune.heads import ClassificationHead
from ptune.run import run

TEMPLATE = "{soft:2}{text}{soft:1} {label}"
SLOTS, WIDTH = 3, 32


@pytest.fixture(scope="module")
def llama():
    return tiny.backbone("llama")


def v1(kind):
    torch.manual_seed(0)
    if kind == "lama":
        return thudm.LamaPromptEncoder(SLOTS, WIDTH)
    return thudm.FewShotPrompt(SLOTS, WIDTH, kind)


def written(tmp_path, found, name="embeddings.pth"):
    torch.save(found, tmp_path / name)
    return tmp_path / name


def imported(file, backbone, **more):
    return import_thudm(file, backbone, **{"template": TEMPLATE, "task": "causal-lm"} | more)


def lama_file(module):
    """What the LAMA code saves: the encoder among scores and the run's options."""
    return {
        "embedding": module.state_dict(),
        "dev_hit@1": 0.5,
        "test_size": 9,
        "ckpt_name": "epoch_1.ckpt",
        "time": "2021",
        "args": argparse.Namespace(model_name="bert-base-cased", template=(3, 3, 3)),
    }


@pytest.mark.parametrize("kind", ["lama", "lstm", "mlp"])
def test_p_tuning_is_what_its_encoder_computes(tmp_path, llama, kind):
    module = v1(kind)
    prompt = imported(
        written(tmp_path, lama_file(module) if kind == "lama" else module.saved()), llama
    )
    assert prompt.template == TEMPLATE
    assert prompt.settings["method"] == "p-tuning"
    assert torch.allclose(prompt.vectors, module().detach(), atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "prompt_encoder.", "model.prompt_encoder."])
def test_a_flat_state_dict_is_read_under_any_name(tmp_path, llama, prefix):
    module = v1("lama")
    flat = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    flat["bert.embeddings.word_embeddings.weight"] = torch.zeros(5, WIDTH)
    prompt = imported(written(tmp_path, flat), llama)
    assert torch.allclose(prompt.vectors, module().detach(), atol=1e-6)


def v2(projection, labels=2):
    base = oracle.base("bert", "SEQ_CLS")
    torch.manual_seed(5)
    return thudm.BertPrefixForSequenceClassification(base.bert, 4, labels, projection).eval()


@pytest.mark.parametrize("projection", [None, 16])
@pytest.mark.parametrize("with_body", [True, False])
def test_p_tuning_v2_says_what_the_authors_model_says(tmp_path, projection, with_body):
    module = v2(projection)
    with torch.no_grad():
        wanted = module(torch.tensor([oracle.IDS]))[0]
    own = ("prefix_encoder.", "classifier.")
    state = {n: t for n, t in module.state_dict().items() if with_body or n.startswith(own)}
    backbone = Backbone.load(oracle.base("bert", "SEQ_CLS"), tokenizer=tiny.tokenizer())
    prompt = import_thudm(written(tmp_path, state, "pytorch_model.bin"), backbone)
    assert prompt.settings["pooling"] == "first"
    head = ClassificationHead(32, 2, form=prompt.settings["head_form"])
    head.load_state_dict(dict(prompt.head))
    with torch.no_grad():
        batch = backbone.pack([TokenSequence(oracle.IDS, reads=(0,))])
        found = head(run(backbone, [prompt.tensors()], batch))[0]
    assert torch.allclose(found, wanted, atol=1e-5)


def bert_and(module_of, task, tmp_path):
    """A model of the authors' on a BERT, its file, and a backbone of the same numbers."""
    torch.manual_seed(5)
    module = module_of(oracle.base("bert", task).bert).eval()
    file = written(tmp_path, module.state_dict(), "pytorch_model.bin")
    return module, file, Backbone.load(oracle.base("bert", task), tokenizer=tiny.tokenizer())


@torch.no_grad()
def head_says(backbone, prompt, ids, types=()):
    head = ClassificationHead(32, 2, form=prompt.settings["head_form"])
    head.load_state_dict(dict(prompt.head))
    reads = tuple(range(len(ids)))
    batch = backbone.pack([TokenSequence(ids, reads=reads, types=types)])
    return head(run(backbone, [prompt.tensors()], batch))


@pytest.mark.parametrize("projection", [None, 16])
def test_p_tuning_v2_tags_as_the_authors_model_does(tmp_path, projection):
    module, file, backbone = bert_and(
        lambda bert: thudm.BertPrefixForTokenClassification(bert, 4, 2, projection),
        "TOKEN_CLS",
        tmp_path,
    )
    prompt = import_thudm(file, backbone, task="token-classification", labels=("O", "B-X"))
    assert (prompt.template, prompt.labels) == ("{tokens}", ("O", "B-X"))
    with torch.no_grad():
        wanted = module(torch.tensor([oracle.IDS]))[0]
    assert torch.allclose(head_says(backbone, prompt, oracle.IDS), wanted, atol=1e-5)
    words = backbone.tokenizer.convert_ids_to_tokens(oracle.IDS)
    (found,) = backbone.predict([{"tokens": words}], prompt)
    assert list(found.answer) == [("O", "B-X")[label] for label in wanted.argmax(-1)]


@pytest.mark.parametrize("projection", [None, 16])
def test_p_tuning_v2_finds_answers_as_the_authors_model_does(tmp_path, projection):
    module, file, backbone = bert_and(
        lambda bert: thudm.BertPrefixModelForQuestionAnswering(bert, 4, projection),
        "QUESTION_ANS",
        tmp_path,
    )
    more = {"task": "question-answering", "template": "{question} : {context}"}
    prompt = import_thudm(file, backbone, **more)
    assert prompt.settings["label_column"] == "answers"  # as `ptune evaluate` reads rows
    types = (0, 0, 1, 1, 1)
    with torch.no_grad():
        wanted = module(torch.tensor([oracle.IDS]), token_type_ids=torch.tensor([types]))[0]
        other = module(torch.tensor([oracle.IDS]))[0]
    found = head_says(backbone, prompt, oracle.IDS, types)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(wanted, other, atol=1e-2)  # the authors' code has segments


def refusal(*args, kind=ArtifactError, **kwargs):
    with pytest.raises(kind) as error:
        imported(*args, **kwargs)
    return str(error.value)


def test_p_tuning_needs_a_template(tmp_path, llama):
    said = refusal(written(tmp_path, v1("mlp").saved()), llama, template=None, kind=ConfigError)
    assert "holds the 3 virtual tokens of P-tuning, and not where they stand." in said


def test_p_tuning_has_no_head(tmp_path, llama):
    file = written(tmp_path, v1("mlp").saved())
    said = refusal(file, llama, task="sequence-classification", kind=ConfigError)
    assert "holds virtual tokens of P-tuning and no head, which task = sequence-classifi" in said
    said = refusal(file, llama, task="causal_lm", kind=ConfigError)
    assert "task causal_lm is unknown. Did you mean causal-lm? Known: causal-lm, masked-" in said


def test_a_template_of_another_length_is_refused(tmp_path, llama):
    said = refusal(written(tmp_path, v1("mlp").saved()), llama, template="{soft:5}{text} {label}")
    assert "has 5 virtual tokens, and the prompt 3." in said


def test_another_width_is_refused(tmp_path):
    said = refusal(written(tmp_path, v1("mlp").saved()), tiny.backbone("opt"))
    assert "its prompt has the shape (3, 32), and 3 virtual tokens of" in said


def test_a_prefix_for_another_model_is_refused(tmp_path, llama):
    said = refusal(written(tmp_path, v2(None).state_dict()), llama, template=None)
    assert "its prefix has 192 numbers a virtual token, and" in said


def test_a_file_of_something_else_is_refused(tmp_path, llama):
    said = refusal(written(tmp_path, {"weight": torch.ones(2)}), llama)
    assert "holds no prompt encoder of P-tuning" in said
    assert "there is no such file" in refusal(tmp_path / "nowhere.pth", llama)
    (tmp_path / "broken.pth").write_bytes(b"123")
    assert "is damaged, or holds more than tensors" in refusal(tmp_path / "broken.pth", llama)
    (tmp_path / "broken.safetensors").write_bytes(b"123")
    assert "is damaged" in refusal(tmp_path / "broken.safetensors", llama)


def test_an_encoder_with_a_part_missing_is_refused(tmp_path, llama):
    state = v1("lama").state_dict()
    del state["mlp_head.2.weight"]
    assert "do not fit together (" in refusal(written(tmp_path, state), llama)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_is_unpickled(tmp_path, llama, capsys):
    said = refusal(written(tmp_path, v1("mlp").saved() | {"args": Evil()}), llama)
    assert "ptune runs no code from files" in said
    assert capsys.readouterr().out == ""
