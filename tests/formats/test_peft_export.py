"""A folder that is exported gives, in PEFT, the logits that the prompt has here."""

import json
import logging

import pytest
import tiny
import torch
from oracles import peft_models as oracle
from safetensors.torch import load_file
from tiny_runs import ROWS

import ptune
from ptune.api import Backbone
from ptune.batch import TokenSequence
from ptune.encoders import KeysValues
from ptune.errors import ArtifactError
from ptune.formats import export_peft, import_peft
from ptune.formats.rotation import moved
from ptune.heads import ClassificationHead
from ptune.prompt import SoftPrompt
from ptune.run import keys_values_of, run

pytestmark = pytest.mark.filterwarnings("ignore")


def backbone_of(name, task="CAUSAL_LM"):
    return Backbone.load(oracle.base(name, task), tokenizer=tiny.tokenizer())


def shallow(backbone, **changes):
    torch.manual_seed(3)
    parts = {
        "template": "{soft:4}{bos}{text} {label}",
        "task": "causal-lm",
        "slots": 4,
        "vectors": torch.randn(4, backbone.geometry.width),
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint,
    }
    return SoftPrompt(**parts | changes)


def deep(backbone, *, slots=4, **changes):
    torch.manual_seed(3)
    pairs = {
        at: KeysValues(
            torch.randn(slots, site.shape.kv_heads, site.shape.key_dim),
            torch.randn(slots, site.shape.kv_heads, site.shape.value_dim),
        )
        for at, site in enumerate(backbone.geometry.sites)
    }
    parts = {"template": "{text} {label}", "slots": 0, "vectors": None, "deep": pairs}
    return shallow(backbone, **parts | changes)


@torch.no_grad()
def logits(backbone, prompt):
    row = (*(-1 - slot for slot in range(prompt.slots)), *oracle.IDS)
    pooling = {"first": [prompt.slots], "last": [len(row) - 1], "virtual": [0]}
    reads = pooling.get(prompt.settings.get("pooling"), range(len(row)))
    batch = backbone.pack([TokenSequence(row, reads=tuple(reads))])
    if prompt.task == "causal-lm":
        return run(backbone, [prompt.tensors()], batch, read="logits")
    form = prompt.settings["head_form"]
    head = ClassificationHead(backbone.geometry.hidden, 2, form=form)
    head.load_state_dict(dict(prompt.head))
    return head(run(backbone, [prompt.tensors()], batch))[0]


def assert_the_same_in_peft(name, backbone, prompt, folder, task="CAUSAL_LM"):
    export_peft(prompt, backbone, folder)
    found = oracle.logits(oracle.loaded(oracle.base(name, task), folder))
    wanted = logits(backbone, prompt)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bloom"])
def test_vectors_in_front(tmp_path, name):
    backbone = backbone_of(name)
    assert_the_same_in_peft(name, backbone, shallow(backbone), tmp_path / "peft")


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "bloom"])
def test_deep_prompts_are_moved_to_where_peft_has_them(tmp_path, name):
    backbone = backbone_of(name)
    assert_the_same_in_peft(name, backbone, deep(backbone), tmp_path / "peft")


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_deep_prompts_that_move_the_text_stay_as_they_are(tmp_path, name):
    task = "SEQ_CLS" if name == "bert" else "CAUSAL_LM"
    backbone = backbone_of(name, task)
    more = headed(backbone, "tanh", "first") if name == "bert" else {}
    prompt = deep(backbone, offset=4, **more)
    assert_the_same_in_peft(name, backbone, prompt, tmp_path / "peft", task)


def headed(backbone, form, pooling):
    head = ClassificationHead(backbone.geometry.hidden, 2, form=form)
    torch.nn.init.normal_(head.linear.weight)
    if form == "tanh":
        if backbone.body.pooler is None:  # RoBERTa's class has a head of its own
            torch.nn.init.normal_(head.dense.weight)
            torch.nn.init.normal_(head.linear.bias)
        else:
            head.dense.load_state_dict(backbone.body.pooler.dense.state_dict())
    return {
        "task": "sequence-classification",
        "template": "{text}",
        "head": head.state_dict(),
        "labels": ("good", "bad"),
        "settings": {"head_form": form, "pooling": pooling},
    }


@pytest.mark.parametrize(
    ("name", "form", "pooling"),
    [("llama", "plain", "last"), ("bert", "tanh", "virtual"), ("roberta", "tanh", "virtual")],
)
def test_heads_go_along(tmp_path, name, form, pooling):
    backbone = backbone_of(name, "SEQ_CLS")
    parts = headed(backbone, form, pooling) | {"template": "{soft:4}{bos}{text}"}
    assert_the_same_in_peft(name, backbone, shallow(backbone, **parts), tmp_path, "SEQ_CLS")


def test_a_plain_head_that_was_trained_here_goes_to_llama(tmp_path):
    backbone = backbone_of("llama", "SEQ_CLS")
    settings = {"head_form": "plain", "template": "{soft:4}{bos}{text}", "batch_size": 4}
    settings |= {"method": "prompt-tuning", "task": "sequence-classification", "epochs": 2}
    prompt = ptune.train(backbone, ROWS, **settings).prompt
    assert prompt.head["linear.weight"].abs().max() > 0
    assert_the_same_in_peft("llama", backbone, prompt, tmp_path / "peft", "SEQ_CLS")


@pytest.mark.parametrize("kind", ["P_TUNING", "PREFIX_TUNING"])
def test_there_and_back_again_is_the_same_bits(tmp_path, kind):
    made = oracle.wrapped(oracle.base("llama", "CAUSAL_LM"), kind, "CAUSAL_LM")
    made.save_pretrained(tmp_path / "one")
    backbone = backbone_of("llama")
    export_peft(import_peft(tmp_path / "one", backbone), backbone, tmp_path / "two")
    file = "adapter_model.safetensors"
    one, two = load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file)
    assert one.keys() == two.keys()
    assert torch.equal(one["prompt_embeddings"], two["prompt_embeddings"])


def test_tags_go_back_with_their_head(tmp_path):
    made = oracle.wrapped(oracle.base("bert", "TOKEN_CLS"), "P_TUNING", "TOKEN_CLS")
    made.save_pretrained(tmp_path / "one")
    backbone = backbone_of("bert", "TOKEN_CLS")
    export_peft(import_peft(tmp_path / "one", backbone), backbone, tmp_path / "two")
    found = oracle.logits(oracle.loaded(oracle.base("bert", "TOKEN_CLS"), tmp_path / "two"))
    assert torch.equal(found, oracle.logits(made))


def test_the_encoder_travels_beside_and_peft_passes_over_it(tmp_path):
    backbone = backbone_of("llama")
    encoder = {"lstm.weight": torch.ones(2, 2)}
    export_peft(shallow(backbone), backbone, tmp_path / "peft", encoder=encoder)
    tensors = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert torch.equal(tensors["ptune_encoder.lstm.weight"], torch.ones(2, 2))
    oracle.loaded(oracle.base("llama", "CAUSAL_LM"), tmp_path / "peft")


def test_a_folder_is_replaced_and_others_are_left_alone(tmp_path):
    backbone = backbone_of("llama")
    export_peft(shallow(backbone), backbone, tmp_path / "peft")
    export_peft(deep(backbone), backbone, tmp_path / "peft")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert config["peft_type"] == "PREFIX_TUNING"
    (tmp_path / "peft/mine.txt").write_text("mine")
    assert "holds other files (mine.txt)" in refusal(shallow(backbone), backbone, tmp_path / "peft")


# --- keys that are moved --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
@pytest.mark.parametrize("by", [3, -2])
def test_moved_keys_are_those_of_the_text_elsewhere(name, by):
    backbone = tiny.backbone(name)
    here = keys_values_of(backbone, [7, 9, 11], at=4)
    there = keys_values_of(backbone, [7, 9, 11], at=4 + by)
    for site, (keys, values) in moved(here.deep, by, backbone).items():
        assert torch.allclose(keys, there.deep[site].keys, atol=1e-5)
        assert torch.allclose(values, there.deep[site].values, atol=1e-5)
    assert not torch.allclose(here.deep[0].keys, there.deep[0].keys, atol=1e-2)


def test_keys_of_neighbouring_pairs_are_moved():
    import transformers as hf

    torch.manual_seed(0)
    config = hf.CohereConfig(**tiny.SMALL, num_key_value_heads=2)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    backbone = Backbone.load(model, tokenizer=tiny.tokenizer())
    here = keys_values_of(backbone, [7, 9, 11], at=0)
    there = keys_values_of(backbone, [7, 9, 11], at=5)
    found = moved(here.deep, 5, backbone)
    assert all(torch.allclose(found[s].keys, there.deep[s].keys, atol=1e-5) for s in found)


# --- what PEFT cannot say -------------------------------------------------------------------------


def refusal(prompt, backbone, folder):
    with pytest.raises(ArtifactError) as error:
        export_peft(prompt, backbone, folder)
    return str(error.value)


def some_sites(backbone):
    return {at: pair for at, pair in deep(backbone).deep.items() if at}


REFUSED = {
    "tokens inside": (
        lambda b: shallow(b, template="Say {soft:4}{text} {label}"),
        "PEFT puts virtual tokens before everything, each once, and here they stand elsewhere.",
    ),
    "a block twice": (
        lambda b: shallow(b, template="{soft:4#a}{text}{soft#a} {label}"),
        "each once, and here they stand elsewhere.",
    ),
    "another task": (
        lambda b: shallow(b, task="masked-lm"),
        "PEFT has no task for masked-lm; it has CAUSAL_LM,",
    ),
    "both kinds": (
        lambda b: shallow(b, deep=deep(b).deep),
        "The prompt is deep and stands in the text at once",
    ),
    "some sites": (
        lambda b: deep(b, deep=some_sites(b)),
        "it stands at the attention sites 1, 2 of 3, and PEFT's prefixes stand at all.",
    ),
    "lengths": (
        lambda b: deep(b, deep=deep(b).deep | {0: deep(b, slots=2).deep[0]}),
        "its sites have prompts of different lengths, and PEFT's are of one.",
    ),
    "ptune's head": (
        lambda b: shallow(b, **headed(b, "normalized", "last") | {"template": "{soft:4}{text}"}),
        "The prompt's head normalises the states first",
    ),
    "a bias": (
        lambda b: shallow(b, **biased(b) | {"template": "{soft:4}{text}"}),
        "its head has no bias, and the prompt's has one.",
    ),
    "pooling": (
        lambda b: shallow(b, **headed(b, "plain", "mean") | {"template": "{soft:4}{text}"}),
        "PEFT pools last there, and the prompt's head mean.",
    ),
    "calibration": (
        lambda b: shallow(b, prior={"yes": -0.1, "no": -2.4}, labels=("yes", "no")),
        "The prompt is calibrated: what it says of rows without content is taken out",
    ),
    "a moved text": (
        lambda b: shallow(b, offset=2),
        "The prompt moves the text by 2 positions, and PEFT cannot.",
    ),
}


def biased(backbone):
    parts = headed(backbone, "plain", "last")
    return parts | {"head": parts["head"] | {"linear.bias": torch.ones(2)}}


@pytest.mark.parametrize("name", REFUSED)
def test_what_peft_cannot_say_is_refused(tmp_path, name):
    backbone = tiny.backbone("llama")
    make, said = REFUSED[name]
    assert said in refusal(make(backbone), backbone, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_learned_positions_cannot_be_moved(tmp_path):
    backbone = tiny.backbone("gpt2")
    said = refusal(deep(backbone), backbone, tmp_path / "peft")
    assert "the text begins at position 4, and the prompt was trained with the text at 0." in said


def test_a_body_that_shares_its_layers_takes_no_prefix(tmp_path):
    backbone = backbone_of("albert", "SEQ_CLS")
    prompt = deep(backbone, offset=4, **headed(backbone, "plain", "first"))
    assert "takes no cache, in which PEFT hands a prefix" in refusal(prompt, backbone, tmp_path)


def test_opening_tokens_before_the_virtual_ones_are_named(tmp_path):
    backbone = tiny.backbone("llama")
    backbone.tokenizer._tokenizer.post_processor = opening()
    prompt = shallow(backbone, template="{soft:4}{text} {label}", fingerprint=backbone.fingerprint)
    said = refusal(prompt, backbone, tmp_path / "peft")
    assert "Here <s> stands before them; a template that begins with {soft:4}{bos}" in said


def opening():
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])


def test_another_backbone_is_refused(tmp_path):
    prompt = shallow(tiny.backbone("llama"))
    assert "was made for backbone" in refusal(prompt, tiny.backbone("opt"), tmp_path / "peft")


def test_a_window_in_which_peft_loses_the_prompt_is_said(tmp_path, caplog):
    backbone = tiny.backbone("mistral-window-4")
    with caplog.at_level(logging.WARNING, logger="ptune"):
        export_peft(deep(backbone), backbone, tmp_path / "peft")
    assert "There PEFT loses the prompt in longer rows" in caplog.text
