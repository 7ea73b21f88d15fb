"""Training prompts for encoder-decoders: the parts of a run that have two sides to get right."""

import pytest
import tiny
import torch
from tiny_runs import ROWS, Killed, Watcher, same, tensors_of, train

import ptune
from ptune.bench.sides import make_workload
from ptune.config import Recipe
from ptune.errors import BackboneError, ConfigError
from ptune.trainable import PromptedBackbone, TrainablePrompt
from ptune.training.build import build_prompt
from ptune.training.rows import Sources, read_rows

COMMON = {"task": "seq2seq-lm", "batch_size": 4, "epochs": 2, "evaluation_batch_size": 2}
SHALLOW = COMMON | {
    "method": "p-tuning",
    "encoder": "lstm",
    "encoder_dropout": 0.3,
    "template": '{soft:2}{text}{soft:2="very late"}',
    "decoder_template": '{soft:3="good film"} label :{label}',
}
DEEP = COMMON | {"method": "p-tuning-v2", "prompt_length": 3, "template": "{text}"}
TEXT = DEEP | {"answer": "text", "max_new_tokens": 3, "sites": ["encoder", "cross"]}
KINDS = {"shallow": SHALLOW, "deep": DEEP | {"prefix_dropout": 0.3}, "text": TEXT}


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("t5")


def made(backbone, settings):
    recipe = Recipe.make(backbone="tiny", train="rows", **settings).resolved()
    data = read_rows(recipe, Sources(ROWS, None, None))
    from ptune.training.job import task_of

    task = task_of(recipe, data.template, backbone, data.labels)
    return build_prompt(recipe, backbone, task, data.template, task.layout)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_is_never_stopped(tmp_path, backbone, kind):
    settings = KINDS[kind]
    never = train(backbone, settings, output=tmp_path / "whole", test=ROWS[:3])
    with pytest.raises(Killed):
        train(backbone, settings, output=tmp_path / "killed", watcher=Watcher(die_after=3))
    again = train(backbone, settings, output=tmp_path / "killed", test=ROWS[:3], resume=True)
    assert again.scores == never.scores
    assert same(tensors_of(tmp_path / "killed/prompt"), tensors_of(tmp_path / "whole/prompt"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_scores_as_what_was_trained(tmp_path, backbone, kind):
    result = train(backbone, KINDS[kind], output=tmp_path, test=ROWS)
    prompt = ptune.SoftPrompt.load(tmp_path / "prompt")
    found = ptune.evaluate(backbone, prompt, ROWS)
    assert found.scores == pytest.approx(result.scores["test"], rel=1e-5)
    answers = [one.answer for one in ptune.predict(backbone, prompt, ROWS)]
    assert answers == [one.answer for one in found.predictions]


def test_gradient_checkpointing_changes_no_loss(backbone):
    losses = []
    for checkpointing in (False, True):
        watcher = Watcher()
        train(backbone, DEEP, watcher=watcher, gradient_checkpointing=checkpointing)
        backbone.gradient_checkpointing = False
        losses.append([loss for _, loss in watcher.steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_virtual_tokens_of_the_decoder_stand_behind_those_of_the_encoder(backbone):
    prompt = made(
        backbone, SHALLOW | {"method": "prompt-tuning", "encoder": None} | {"encoder_dropout": 0.0}
    )
    table = prompt.fold().vectors
    assert len(table) == 7

    def words(text):
        ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        return backbone.embed(ids)

    torch.testing.assert_close(table[2:4], words("very late"), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(table[4:], words("good film good"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sites", "count"), [(None, 7), (["encoder"], 3), (["cross"], 2), (["decoder", "cross"], 4)]
)
def test_a_deep_prompt_enters_the_kinds_of_attention_that_were_asked_for(backbone, sites, count):
    prompt = made(backbone, DEEP | {"sites": sites})
    assert len(prompt.sites) == count
    kinds = {backbone.geometry.sites[at].kind for at in prompt.sites}
    assert kinds == set(sites or ("encoder", "decoder", "cross"))


def test_a_deep_prompt_starts_from_noise_of_the_size_of_real_keys_and_values(backbone):
    """A text is what other backbones start from; here it takes long to unlearn."""
    settings = DEEP | {"prompt_length": 64}
    auto, random, text = (
        made(backbone, settings | start).fold().deep
        for start in ({}, {"init": "random"}, {"init": "text", "init_text": "very late"})
    )
    for site, (keys, values) in auto.items():
        assert torch.equal(keys, random[site].keys)
        assert torch.equal(values, random[site].values)
        real = text[site]
        for noise, like in ((keys, real.keys), (values, real.values)):
            assert not torch.allclose(noise, like, atol=0.1)
            assert 0.5 < noise.square().mean() / like.square().mean() < 2


def test_sites_are_refused_where_there_is_one_kind():
    with pytest.raises(ConfigError, match="is no encoder-decoder, so its attention is of one kind"):
        train(
            tiny.backbone("llama"),
            DEEP
            | {"task": "causal-lm", "sites": ["decoder"], "template": "{text} label : {label}"},
        )


def test_the_trunk_is_not_remembered_and_the_run_says_why(backbone):
    result = train(backbone, DEEP | {"sites": ["decoder"]})
    assert result.facts["frozen trunk"] == (
        "Frozen trunk: not remembered, because it is an encoder-decoder, whose decoder sees its "
        "encoder's last states."
    )


def test_what_has_no_place_for_two_sides_refuses_them(backbone):
    with pytest.raises(ConfigError, match="is an encoder-decoder, for whose two sides"):
        PromptedBackbone(backbone, TrainablePrompt())
    with pytest.raises(ConfigError, match="which ptune bench cannot measure yet"):
        make_workload(Recipe.make(backbone="tiny", train="rows", **DEEP), backbone, steps=1)
    with pytest.raises(BackboneError, match="cannot divide among processes yet"):
        backbone.shard(torch.device("cpu"))


def test_an_encoder_decoder_is_loaded_from_a_folder_with_its_head(tmp_path):
    tiny.model("t5").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = ptune.Backbone.load(tmp_path)
    assert loaded.has_lm_head
    assert loaded.geometry.two_sided
    assert loaded.fingerprint == tiny.backbone("t5").fingerprint
