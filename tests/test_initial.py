import pytest
import tiny
import torch

from ptune.encoders import KeysValues
from ptune.errors import ConfigError
from ptune.initial import Start, initial_keys_values, initial_vectors, text_ids
from ptune.prompt import SoftPrompt
from ptune.run import keys_values_of

IDS = (12, 40, 33)


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def saved(vectors=None, deep=None, offset=0):
    return SoftPrompt(
        template="{soft:2}{text}",
        task="causal-lm",
        slots=0 if vectors is None else len(vectors),
        vectors=vectors,
        deep=deep or {},
        offset=offset,
        backbone="tiny",
    )


def vectors_of(backbone, start, slots, seed=0):
    return initial_vectors(backbone, start, slots, seeded(seed))


@pytest.mark.parametrize("name", ["llama", "gemma2-window-4", "opt"])
def test_a_text_gives_its_embeddings_as_the_model_scales_them_then_words_drawn_at_random(name):
    backbone = tiny.backbone(name)
    table = backbone.embed(range(len(backbone.tokenizer)))
    for slots in (2, 3, 8):
        got = vectors_of(backbone, Start("text", IDS), slots)
        told = backbone.embed(IDS)[:slots]
        assert torch.equal(got[: len(told)], told)
        drawn = [int((table == row).all(dim=1).nonzero()[0]) for row in got[len(told) :]]
        assert len(drawn) == slots - len(told)
        assert len(set(drawn)) == len(drawn)


def test_random_vectors_have_the_size_of_the_backbones_embeddings(backbone):
    got = vectors_of(backbone, Start("random"), 400)
    size = got.square().mean().sqrt()
    assert float(size) == pytest.approx(backbone.embedding_scale, rel=0.05)


def test_a_sample_of_the_vocabulary_is_embeddings_of_different_words(backbone):
    got = vectors_of(backbone, Start("vocabulary"), 6)
    table = backbone.embed(range(len(backbone.tokenizer)))
    found = [int((table == row).all(dim=1).nonzero()) for row in got]
    assert len(set(found)) == 6


@pytest.mark.parametrize("kind", ["random", "vocabulary"])
def test_one_seed_makes_one_start_and_another_seed_another(backbone, kind):
    assert torch.equal(*(vectors_of(backbone, Start(kind), 4) for _ in range(2)))
    assert not torch.equal(*(vectors_of(backbone, Start(kind), 4, seed) for seed in (0, 1)))


def test_another_prompt_gives_its_vectors_repeated_or_cut(backbone):
    vectors = torch.randn(3, 32)
    got = vectors_of(backbone, Start("prompt", prompt=saved(vectors)), 5)
    assert torch.equal(got, vectors[[0, 1, 2, 0, 1]])


def deep_start(backbone, start, slots=3, sites=(0, 2), seed=0):
    return initial_keys_values(backbone, start, slots, sites, seeded(seed))


def test_a_text_gives_its_real_keys_and_values_at_the_chosen_sites(backbone):
    got = deep_start(backbone, Start("text", IDS))
    real = keys_values_of(backbone, IDS)
    for mine, site in zip(got.initial, (0, 2), strict=True):
        assert torch.equal(mine.keys, real.deep[site].keys)
        assert torch.equal(mine.values, real.deep[site].values)


def test_in_a_decoder_a_short_text_is_followed_by_words_as_one_text(backbone):
    got = deep_start(backbone, Start("text", IDS), slots=5)
    drawn = torch.randint(len(backbone.tokenizer), (2,), generator=seeded(0)).tolist()
    real = keys_values_of(backbone, (*IDS, *drawn))
    assert torch.equal(got.initial[1].keys, real.deep[2].keys)
    assert got.offset == real.offset


def test_in_an_encoder_noise_of_their_size_stands_behind_the_keys_and_values_of_a_short_text():
    backbone = tiny.backbone("bert")
    got = deep_start(backbone, Start("text", IDS), slots=60)
    real = keys_values_of(backbone, IDS)
    for mine, unit, site in zip(got.initial, got.scales, (0, 2), strict=True):
        assert torch.equal(mine.keys[: len(IDS)], real.deep[site].keys)
        assert torch.equal(mine.values[: len(IDS)], real.deep[site].values)
        behind = mine.keys[len(IDS) :], mine.values[len(IDS) :]
        for noise, size in zip(behind, unit, strict=True):
            assert float(noise.square().mean().sqrt()) == pytest.approx(size, rel=0.15)
            assert len(noise.flatten(1).unique(dim=0)) == len(noise)


@pytest.mark.parametrize("kind", ["text", "random", "vocabulary"])
def test_the_units_are_the_sizes_of_real_keys_and_values(backbone, kind):
    ids = IDS if kind == "text" else ()
    for at, unit in enumerate(deep_start(backbone, Start(kind, ids)).scales):
        real = keys_values_of(backbone, range(5, 90)).deep[(0, 2)[at]]
        assert unit.keys == pytest.approx(float(real.keys.square().mean().sqrt()), rel=0.6)
        assert unit.values == pytest.approx(float(real.values.square().mean().sqrt()), rel=0.6)


def test_noise_has_the_size_of_real_keys_and_values(backbone):
    got = deep_start(backbone, Start("random"), slots=200)
    for noise, unit in zip(got.initial, got.scales, strict=True):
        assert float(noise.keys.square().mean().sqrt()) == pytest.approx(unit.keys, rel=0.05)
        assert float(noise.values.square().mean().sqrt()) == pytest.approx(unit.values, rel=0.05)


@pytest.mark.parametrize(
    ("name", "kind", "offset"),
    [
        ("llama", "text", 0),
        ("gpt2", "text", 3),
        ("gpt2", "random", 0),
        ("bert", "text", 0),
    ],
)
def test_rows_are_moved_only_behind_real_keys_at_absolute_positions(name, kind, offset):
    ids = IDS if kind == "text" else ()
    assert deep_start(tiny.backbone(name), Start(kind, ids)).offset == offset


def test_another_deep_prompt_gives_its_keys_values_and_offset(backbone):
    shape = (4, 2, 8)
    deep = {site: KeysValues(torch.randn(shape), torch.randn(shape)) for site in (0, 1, 2)}
    got = deep_start(backbone, Start("prompt", prompt=saved(deep=deep, offset=7)), slots=5)
    assert got.offset == 7
    for mine, site in zip(got.initial, (0, 2), strict=True):
        assert torch.equal(mine.keys, deep[site].keys[[0, 1, 2, 3, 0]])
        assert torch.equal(mine.values, deep[site].values[[0, 1, 2, 3, 0]])


def test_the_tokens_of_a_text_are_taken_without_special_tokens(backbone):
    ids = text_ids(backbone, "thank you")
    assert backbone.tokenizer.convert_ids_to_tokens(list(ids)) == ["thank", "you"]


def refused(message, call):
    with pytest.raises(ConfigError) as error:
        call()
    assert str(error.value) == message


def test_a_text_without_a_token_is_refused(backbone):
    message = "init_text: ' ' has no token. Give a text of some words."
    refused(message, lambda: text_ids(backbone, " "))


def test_a_deep_prompt_cannot_start_a_shallow_one(backbone):
    deep = {0: KeysValues(torch.ones(1, 2, 8), torch.ones(1, 2, 8))}
    message = (
        "init: the prompt to start from has no input vectors (it is a deep prompt). "
        "Start from a prompt of method prompt-tuning or p-tuning."
    )
    refused(message, lambda: vectors_of(backbone, Start("prompt", prompt=saved(deep=deep)), 2))


def test_a_prompt_of_another_width_is_refused(backbone):
    message = (
        "init: the prompt to start from has vectors of width 16, the backbone's embeddings have "
        "32. Start from a prompt for this backbone."
    )
    start = Start("prompt", prompt=saved(torch.ones(2, 16)))
    refused(message, lambda: vectors_of(backbone, start, 2))


def test_a_deep_prompt_of_other_layers_is_refused(backbone):
    deep = {0: KeysValues(torch.ones(1, 2, 8), torch.ones(1, 2, 8))}
    message = (
        "init: the prompt to start from has no keys and values at attention site 2. "
        "Start from a prompt of method p-tuning-v2 with the same layers."
    )
    refused(message, lambda: deep_start(backbone, Start("prompt", prompt=saved(deep=deep))))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_prompt_longer_than_the_backbones_positions_is_refused(name):
    message = (
        "prompt_length = 64: the backbone has 64 positions, and keys and values that start from a "
        "text take one each. Choose a shorter prompt."
    )
    refused(message, lambda: deep_start(tiny.backbone(name), Start("random"), slots=64))
