"""Models that are spread out: on one machine without GPUs, over its memory and its disk."""

import pytest
import tiny
import torch
from test_run import deep, shallow
from tiny_runs import DEEP, ROWS, TABLE, train

from ptune.api import Backbone
from ptune.batch import TokenSequence
from ptune.encoders import KeysValues
from ptune.errors import BackboneError
from ptune.generation import generate
from ptune.inject import Call, attention, injected, stored
from ptune.run import run

ROWS_OF_IDS = [
    TokenSequence((12, 40, 33, 17), reads=(0, 1, 2, 3)),
    TokenSequence((12, 7, 5), reads=(2,)),
]
# The last layer, the norm and the head on the disk, the rest in memory.
HALF = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "cpu",
    "model.layers.2": "disk",
    "model.norm": "disk",
    "lm_head": "disk",
}


def saved(folder, name):
    tiny.model(name).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("spread"), "llama")


@pytest.fixture(scope="module")
def whole(folder):
    return Backbone.load(folder)


def assert_alike(ours, theirs):
    for prompt in (shallow(theirs), deep(theirs)):
        batch = theirs.pack(ROWS_OF_IDS)
        for read in ("states", "logits"):
            expected = run(theirs, [prompt], batch, read=read)
            assert torch.equal(run(ours, [prompt], batch, read=read), expected)


@pytest.mark.parametrize("device_map", ["auto", "cpu", "disk", HALF])
def test_wherever_the_weights_lie_states_logits_and_texts_are_the_same(folder, whole, device_map):
    spread = Backbone.load(folder, device_map=device_map)
    assert_alike(spread, whole)
    for prompt in (shallow(whole), deep(whole)):
        rows = [TokenSequence((5, 6, 7)), TokenSequence((5,))]
        texts = [generate(b, [prompt], rows, max_new_tokens=4) for b in (spread, whole)]
        assert texts[0] == texts[1]
    assert (spread.device, spread.dtype) == (whole.device, whole.dtype)
    assert spread.fingerprint == whole.fingerprint
    assert spread.embedding_scale == whole.embedding_scale
    assert spread.parameters == whole.parameters


@pytest.mark.parametrize("name", ["bloom", "bert"])
def test_shims_and_encoders_run_from_the_disk_too(tmp_path, name):
    whole = Backbone.load(saved(tmp_path, name))
    assert_alike(Backbone.load(str(tmp_path), device_map="disk"), whole)


def test_weights_that_are_no_safetensors_go_to_the_offload_folder(tmp_path, folder, whole):
    model = tiny.model("llama")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    tiny.tokenizer().save_pretrained(tmp_path / "old")
    spread = Backbone.load(
        tmp_path / "old", device_map="disk", offload_folder=tmp_path / "offloaded"
    )
    assert_alike(spread, whole)
    assert list((tmp_path / "offloaded").iterdir())


@pytest.mark.parametrize("settings", [TABLE, DEEP | {"gradient_checkpointing": True}])
def test_a_prompt_trains_on_a_backbone_on_the_disk(folder, whole, settings):
    spread = Backbone.load(folder, device_map="disk")
    hooks = [m.__dict__.get("forward") for m in spread.model.modules()]
    ours, theirs = train(spread, settings, test=ROWS), train(whole, settings, test=ROWS)
    assert (spread.in_parts, whole.in_parts) == (True, False)
    for split, scores in theirs.scores.items():
        assert ours.scores[split] == pytest.approx(scores, rel=1e-4)
    assert [m.__dict__.get("forward") for m in spread.model.modules()] == hooks
    weight = spread.model.lm_head.weight
    assert weight.is_meta
    assert torch.equal(stored(spread.model.lm_head, "weight"), whole.model.lm_head.weight)


@pytest.mark.parametrize("by_rows", [False, True])
def test_attention_follows_its_layer_to_another_device(by_rows):
    # The only other device on every machine is the one without numbers.
    backbone = tiny.backbone("llama")
    site = backbone.geometry.sites[0]
    heads = torch.randn(3, site.shape.kv_heads, site.shape.key_dim)
    prompt = deep(backbone)
    prompt = type(prompt)(deep={0: KeysValues(heads, heads)})
    batch = None if by_rows else backbone.pack(ROWS_OF_IDS)
    rows = torch.tensor([0, 0]) if by_rows else None
    call = Call([prompt], batch, rows, backbone.geometry.num_embeddings)
    call.build_banks(torch.float32, torch.device("cpu"))
    shape = (2, 4) if by_rows else tuple(batch.ids.shape)
    kv = torch.empty(shape[0], site.shape.kv_heads, shape[1], site.shape.key_dim, device="meta")
    query = torch.empty(shape[0], 4, shape[1], site.shape.key_dim, device="meta")
    with injected(backbone.body, backbone.geometry.sites) as injection, injection.serving(call):
        module = backbone.body.get_submodule(site.name)
        function = attention.by_rows if by_rows else attention.packed
        mask = torch.ones(2, 1, 4, 4, dtype=torch.bool, device="meta") if by_rows else None
        answer, _ = function(module, query, kv, kv, mask)
    assert answer.device.type == "meta"
    assert answer.shape == (*shape, 4, site.shape.value_dim)
    assert call.banks[0].keys.device.type == "meta"  # moved once; the layer will be there again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": "float23"},
            "dtype = float23 is not known. Allowed: auto, float32, bfloat16, float16.",
        ),
        (
            {"quantization": "int3"},
            (
                "quantization = int3 is not known. Allowed: int8, or in Python a quantisation "
                "config of transformers."
            ),
        ),
        (
            {"quantization": "int8", "device_map": "auto"},
            (
                "quantization = int8 does not go with device_map: the layers are made int8 in "
                "memory. Leave one of the two out."
            ),
        ),
        (
            {"to_be_sharded": True, "device_map": "auto"},
            (
                "device_map does not go with --use_fsdp: one process spreads a model by the "
                "first, several by the second. Leave one of the two out."
            ),
        ),
        (
            {"device": "cpu", "device_map": "auto"},
            (
                "device = cpu does not go with device_map, which says where every weight goes. "
                'Leave device out, or write device_map: {"": "cpu"}.'
            ),
        ),
        (
            {"device": "cuda:77"},
            (
                "device = cuda:77: there is no such device here. Name another one, or leave "
                "device out."
            ),
        ),
    ],
)
def test_what_does_not_go_is_refused_in_a_sentence(folder, options, message):
    with pytest.raises(BackboneError) as error:
        Backbone.load(folder, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("device_map", "named"),
    [
        ("balance", "balance"),
        ("cuda:77", "cuda:77"),
        ("77", "77"),
        (HALF | {"lm_head": "cuda:77"}, "lm_head: cuda:77"),
        (HALF | {"model.norm": "hdd"}, "model.norm: hdd"),
    ],
)
def test_a_device_map_to_a_place_that_is_not_there_is_refused(folder, device_map, named):
    with pytest.raises(BackboneError) as error:
        Backbone.load(folder, device_map=device_map)
    assert str(error.value) == (
        f"device_map = {named}: there is no such device here. Allowed: auto, balanced, "
        "balanced_low_0, sequential, disk, a device of this machine (cpu, cuda:0, ...), or a "
        "mapping from modules to disk and devices."
    )


def test_the_trunk_of_a_spread_backbone_is_not_remembered(folder):
    spread = Backbone.load(folder, device_map="disk")
    result = train(spread, DEEP | {"layers": "upper:1"})
    assert result.facts["frozen trunk"] == (
        "Frozen trunk: not remembered, because the backbone is sharded, or spread by a device map."
    )
