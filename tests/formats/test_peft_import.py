"""A prompt imported from PEFT gives PEFT's own logits."""

import json
import logging

import pytest
import tiny
import torch
from oracles import peft_models as oracle
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from ptune.api import Backbone
from ptune.batch import TokenSequence
from ptune.errors import ArtifactError
from ptune.formats import import_peft
from ptune.heads import ClassificationHead
from ptune.prompt import SoftPrompt
from ptune.run import run

# PEFT's classes and transformers warn of much; what is asked here is what comes out.
pytestmark = pytest.mark.filterwarnings("ignore")

SHALLOW = ["PROMPT_TUNING", "P_TUNING", "P_TUNING LSTM", "MULTITASK_PROMPT_TUNING"]
DEEP = ["PREFIX_TUNING", "PREFIX_TUNING projected", "CARTRIDGE"]


def saved(tmp_path, name, kind, task, **more):
    model = oracle.base(name, task)
    made = oracle.wrapped(model, kind, task, **more)
    made.save_pretrained(tmp_path / "peft")
    which = {"task_ids": torch.tensor([1])} if kind.startswith("MULTI") else {}
    wanted = oracle.logits(made, **which)
    return (
        tmp_path / "peft",
        Backbone.load(made.get_base_model(), tokenizer=tiny.tokenizer()),
        wanted,
    )


def imported(folder, backbone, kind, **more):
    index = 1 if kind.startswith("MULTI") else None
    return import_peft(folder, backbone, task_index=index, **more)


@torch.no_grad()
def logits(backbone, prompt, ids=oracle.IDS):
    """The prompt's logits of the same row, at the tokens where PEFT gives some."""
    row = (*(-1 - slot for slot in range(prompt.slots)), *ids)
    places = {"last": [len(row) - 1], "first": [prompt.slots], "virtual": [0]}
    reads = places.get(prompt.settings.get("pooling"), range(len(row)))
    batch = backbone.pack([TokenSequence(row, reads=tuple(reads))])
    if prompt.task == "causal-lm":
        return run(backbone, [prompt.tensors()], batch, read="logits")
    head = ClassificationHead(
        backbone.geometry.hidden,
        len(prompt.head["linear.weight"]),
        form=prompt.settings["head_form"],
    )
    head.load_state_dict(dict(prompt.head))
    found = head(run(backbone, [prompt.tensors()], batch))
    return found[0] if prompt.task == "sequence-classification" else found


def assert_same(backbone, prompt, wanted):
    found = logits(backbone, prompt)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5
    assert wanted.std() > 1e-3  # there is something to agree on


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "bloom"])
@pytest.mark.parametrize("kind", [*SHALLOW, *DEEP, "CPT"])
def test_causal_prompts_say_what_peft_says(tmp_path, name, kind):
    folder, backbone, wanted = saved(tmp_path, name, kind, "CAUSAL_LM")
    prompt = imported(folder, backbone, kind)
    assert_same(backbone, prompt, wanted)
    prompt.save(tmp_path / "ours")
    assert_same(backbone, SoftPrompt.load(tmp_path / "ours"), wanted)


def test_a_narrow_embedding_is_carried(tmp_path):
    folder, backbone, wanted = saved(tmp_path, "opt", "P_TUNING", "CAUSAL_LM", token_dim=16)
    assert_same(backbone, imported(folder, backbone, "P_TUNING"), wanted)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta"])
@pytest.mark.parametrize("kind", ["P_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
def test_heads_come_along(tmp_path, name, kind, task):
    folder, backbone, wanted = saved(tmp_path, name, kind, task)
    # The tokenizer at hand has nothing to put between two texts.
    template = "{question} : {context}" if task == "QUESTION_ANS" else None
    assert_same(backbone, imported(folder, backbone, kind, template=template), wanted)


def test_the_form_of_electras_head_is_found(tmp_path):
    folder, backbone, wanted = saved(tmp_path, "electra", "PREFIX_TUNING", "SEQ_CLS")
    prompt = imported(folder, backbone, "PREFIX_TUNING")
    assert prompt.settings["head_form"] == "gelu"
    assert_same(backbone, prompt, wanted)


@pytest.mark.parametrize(("name", "kind"), [("bert", "P_TUNING"), ("llama", "PREFIX_TUNING")])
def test_an_imported_prompt_predicts_texts(tmp_path, name, kind):
    """The way of a user: a text in, a label with PEFT's own probability out."""
    folder, backbone, _ = saved(tmp_path, name, kind, "SEQ_CLS")
    ids = backbone.tokenizer("my parcel is late").input_ids
    model = oracle.loaded(oracle.base(name, "SEQ_CLS"), folder)
    wanted = oracle.logits(model, ids).softmax(-1)
    prompt = import_peft(folder, backbone, labels=("good", "bad"))
    (found,) = backbone.predict(["my parcel is late"], prompt)
    assert list(found.probabilities) == ["good", "bad"]
    assert torch.allclose(torch.tensor(list(found.probabilities.values())), wanted, atol=1e-5)


def test_an_imported_prompt_tags_words(tmp_path):
    """What PEFT can run and not train: tags with virtual tokens in front."""
    folder, backbone, _ = saved(tmp_path, "bert", "P_TUNING", "TOKEN_CLS")
    ids = tuple(range(5, 35))
    model = oracle.loaded(oracle.base("bert", "TOKEN_CLS"), folder)
    margin = oracle.logits(model, ids)[oracle.SLOTS :].diff(dim=-1).median()
    weights = load_file(folder / "adapter_model.safetensors")
    weights["base_model.classifier.bias"][1] -= margin  # so that both tags are given
    save_file(weights, folder / "adapter_model.safetensors")
    wanted = oracle.logits(oracle.loaded(oracle.base("bert", "TOKEN_CLS"), folder), ids)
    words = [backbone.tokenizer.convert_ids_to_tokens(one) for one in ids]
    prompt = import_peft(folder, backbone, labels=("O", "B-X"))
    (found,) = backbone.predict([{"tokens": words}], prompt)
    best = wanted[oracle.SLOTS :].argmax(-1).tolist()
    assert list(found.answer) == [("O", "B-X")[label] for label in best]
    assert len(set(best)) == 2


def test_a_masked_language_model_lends_the_pooler_of_its_files(tmp_path):
    """bert-base is saved with a word head, and its pooler is in the file."""
    model = oracle.base("bert", "SEQ_CLS")
    oracle.wrapped(model, "PREFIX_TUNING", "SEQ_CLS").save_pretrained(tmp_path / "peft")
    wanted = oracle.logits(oracle.loaded(oracle.base("bert", "SEQ_CLS"), tmp_path / "peft"))
    oracle.base("bert", "SEQ_CLS").save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    words = BertForMaskedLM(BertConfig.from_dict(config)).state_dict()
    head = {name: value.clone() for name, value in words.items() if name.startswith("cls.")}
    file = tmp_path / "model/model.safetensors"
    save_file(load_file(file) | head, file, metadata={"format": "pt"})
    backbone = Backbone.load(tmp_path / "model", tokenizer=tiny.tokenizer())
    assert backbone.has_lm_head
    assert backbone.body.pooler is None
    assert_same(backbone, import_peft(tmp_path / "peft", backbone), wanted)


def test_a_pickled_file_is_read_as_tensors(tmp_path):
    folder, backbone, wanted = saved(tmp_path, "llama", "PREFIX_TUNING", "CAUSAL_LM")
    weights = folder / "adapter_model.safetensors"
    torch.save(load_file(weights), folder / "adapter_model.bin")
    weights.unlink()
    assert_same(backbone, import_peft(folder, backbone), wanted)


def test_what_peft_pools_is_kept_and_said(tmp_path, caplog):
    folder, backbone, _ = saved(tmp_path, "bert", "P_TUNING", "SEQ_CLS")
    with caplog.at_level(logging.WARNING, logger="ptune"):
        prompt = import_peft(folder, backbone)
    assert prompt.settings["pooling"] == "virtual"
    assert "reads the first virtual token where the model's own reads [CLS]" in caplog.text


def test_a_window_in_which_peft_loses_the_prompt_is_said(tmp_path, caplog):
    folder, backbone, wanted = saved(tmp_path, "mistral-window-4", "PREFIX_TUNING", "CAUSAL_LM")
    with caplog.at_level(logging.WARNING, logger="ptune"):
        prompt = import_peft(folder, backbone)
    assert "see 4 tokens back. There PEFT loses the prompt" in caplog.text
    assert (logits(backbone, prompt) - wanted).abs().max() > 0.1


# --- what cannot be imported ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder, backbone, _ = saved(tmp_path_factory.mktemp("p"), "llama", "PROMPT_TUNING", "CAUSAL_LM")
    return folder, backbone


def copied(llama, tmp_path, **changes):
    folder, backbone = llama
    config = json.loads((folder / "adapter_config.json").read_text()) | changes
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    return tmp_path, backbone


def refusal(*args, **kwargs):
    with pytest.raises(ArtifactError) as error:
        import_peft(*args, **kwargs)
    return str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "LORA"}, "is a LORA adapter, which is not a prompt: it changes the model's"),
        ({"peft_type": None}, 'adapter_config.json has no "peft_type".'),
        ({"num_virtual_tokens": 0}, '"num_virtual_tokens": 0, and a prompt has at least 1.'),
        ({"num_virtual_tokens": 9}, "has the shape (4, 32), and 9 virtual tokens of"),
        ({"task_type": "FEATURE_EXTRACTION"}, "its task_type is 'FEATURE_EXTRACTION', which ptune"),
        ({"task_type": "SEQ_CLS"}, "has no trained head (classifier, score or qa_outputs)"),
        ({"peft_type": "PREFIX_TUNING"}, "its prefix has 32 numbers a virtual token, and"),
        ({"peft_type": "MULTITASK_PROMPT_TUNING"}, 'have no tensor "prefix_task_cols" (found: pro'),
        ({"base_model_name_or_path": "a/b"}, 'was made for "a/b", and the backbone is "LlamaFor'),
    ],
)
def test_what_does_not_fit_is_refused(llama, tmp_path, changes, said):
    folder, backbone = copied(llama, tmp_path, **changes)
    assert said in refusal(folder, backbone)


def test_another_name_can_be_forced(llama, tmp_path):
    folder, backbone = copied(llama, tmp_path, base_model_name_or_path="a/b")
    assert import_peft(folder, backbone, force=True).slots == 4


def test_a_folder_of_something_else_is_refused(llama, tmp_path):
    assert "there is no adapter_config.json" in refusal(tmp_path, llama[1])
    assert "there is no adapter_config.json" in refusal(tmp_path / "nowhere", llama[1])


@pytest.mark.parametrize(
    ("file", "data", "said"),
    [
        ("adapter_config.json", b"{", "adapter_config.json is damaged: not JSON"),
        ("adapter_model.safetensors", b"1234567890", "adapter_model.safetensors is damaged"),
    ],
)
def test_damaged_files_are_refused(llama, tmp_path, file, data, said):
    folder, backbone = copied(llama, tmp_path)
    (folder / file).write_bytes(data)
    assert said in refusal(folder, backbone)


def test_a_folder_without_weights_is_refused(llama, tmp_path):
    folder, backbone = copied(llama, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    assert "neither adapter_model.safetensors nor adapter_model.bin is" in refusal(folder, backbone)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_is_unpickled(llama, tmp_path, capsys):
    folder, backbone = copied(llama, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"prompt_embeddings": Evil()}, folder / "adapter_model.bin")
    assert "ptune runs no code from files" in refusal(folder, backbone)
    assert capsys.readouterr().out == ""


def test_another_model_is_refused(llama):
    assert "Load the backbone" in refusal(llama[0], tiny.backbone("opt"), force=True)


def test_a_template_of_another_length_is_refused(llama):
    said = refusal(*llama, template="{soft:3}{text} {label}")
    assert "has 3 virtual tokens, and the prompt 4. Write {soft:4}" in said


def test_a_multitask_prompt_needs_a_task(tmp_path):
    folder, backbone, _ = saved(tmp_path, "llama", "MULTITASK_PROMPT_TUNING", "CAUSAL_LM")
    assert "holds the prompts of 2 tasks, 0 to 1, and none was named." in refusal(folder, backbone)
    assert "and 2 was named" in refusal(folder, backbone, task_index=2)


def test_one_prompt_has_no_task_to_choose(llama):
    assert "so there is none to choose" in refusal(*llama, task_index=0)


def test_labels_are_as_many_as_outputs(tmp_path):
    folder, backbone, _ = saved(tmp_path, "llama", "P_TUNING", "SEQ_CLS")
    said = refusal(folder, backbone, labels=("a", "b", "c"))
    assert "3 labels were named, and its head has 2 outputs." in said


def test_a_class_with_unsaved_weights_before_its_head_is_refused(tmp_path):
    folder, backbone, _ = saved(tmp_path, "modernbert-window", "P_TUNING", "SEQ_CLS")
    assert "has head before its classifier, whose weights are not in the file" in refusal(
        folder, backbone
    )
