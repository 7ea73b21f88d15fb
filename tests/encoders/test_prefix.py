"""The prefix encoder against its formulas, its layout and the papers' counts."""

import math
import re

import pytest
import torch
from torch import Tensor

from ptune.encoders import KeysValues, PrefixEncoder, SiteScale, SiteShape, fold
from ptune.errors import ConfigError

# Sites may differ in everything: heads, and the widths of keys and values.
MIXED = [SiteShape(2, 3, 3), SiteShape(1, 4, 2), SiteShape(3, 1, 5)]
BERT_LARGE = [SiteShape(kv_heads=16, key_dim=64, value_dim=64)] * 24


def pairs(slots: int = 4, shapes: list[SiteShape] = MIXED) -> list[KeysValues]:
    generator = torch.Generator().manual_seed(5)
    return [
        KeysValues(
            torch.randn(slots, heads, key_dim, generator=generator),
            torch.randn(slots, heads, value_dim, generator=generator),
        )
        for heads, key_dim, value_dim in shapes
    ]


def assert_equal_pairs(found: list[KeysValues], expected: list[KeysValues], rtol: float = 0):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.keys, other.keys, rtol=rtol, atol=0)
        torch.testing.assert_close(one.values, other.values, rtol=rtol, atol=0)


def trained(**settings) -> tuple[PrefixEncoder, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    encoder = PrefixEncoder(4, MIXED, generator=generator, **settings)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return encoder, {name: p.detach().double() for name, p in encoder.named_parameters()}


def formula(p: dict[str, Tensor]) -> Tensor:
    inner = torch.tanh(p["embedding"] @ p["projection.0.weight"].T + p["projection.0.bias"])
    return inner @ p["projection.2.weight"].T + p["projection.2.bias"]


def test_the_projection_is_the_authors_network():
    encoder, parameters = trained(projection=5)
    expected = formula(parameters)
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)


def test_with_initial_pairs_the_projection_is_added_in_units_of_the_scales():
    scales = [SiteScale(0.1, 2.0), SiteScale(0.5, 0.25), SiteScale(3.0, 0.01)]
    encoder, parameters = trained(projection=5, initial=pairs(), scales=scales)
    expected = []
    for start, change, scale in zip(
        pairs(), encoder.split(parameters["shift"] + formula(parameters)), scales, strict=True
    ):
        keys, values = change.keys * scale.keys, change.values * scale.values
        expected.append(KeysValues(start.keys + keys, start.values + values))
    for found, one in zip(encoder.split(fold(encoder).double()), expected, strict=True):
        torch.testing.assert_close(found.keys, one.keys, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.values, one.values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("projection", [None, 5])
def test_it_starts_at_the_initial_pairs(projection):
    scales = [SiteScale(0.1, 2.0), SiteScale(0.5, 0.3), SiteScale(3.0, 0.01)]
    encoder = PrefixEncoder(4, MIXED, projection=projection, initial=pairs(), scales=scales)
    rtol = 2e-7 if projection is None else 0  # free pairs: to rounding; a projection: bit for bit
    assert_equal_pairs(encoder.split(fold(encoder)), pairs(), rtol)


@pytest.mark.parametrize("projection", [None, 5])
def test_every_site_has_units_of_its_own_for_keys_and_for_values(projection):
    scales = [SiteScale(0.1, 2.0), SiteScale(0.5, 0.25), SiteScale(3.0, 0.01)]
    one = trained(projection=projection)[0]
    scaled = trained(projection=projection, scales=scales)[0]
    expected = [
        KeysValues(pair.keys * scale.keys, pair.values * scale.values)
        for pair, scale in zip(one.split(fold(one)), scales, strict=True)
    ]
    assert_equal_pairs(scaled.split(fold(scaled)), expected, rtol=2e-7)


def test_a_slot_is_keys_then_values_site_by_site_head_by_head():
    encoder = PrefixEncoder(2, [SiteShape(2, 2, 1), SiteShape(1, 1, 2)])
    first, second = encoder.split(torch.arange(18).reshape(2, 9).float())
    assert first.keys.tolist() == [[[0, 1], [2, 3]], [[9, 10], [11, 12]]]
    assert first.values.tolist() == [[[4], [5]], [[13], [14]]]
    assert second.keys.tolist() == [[[6]], [[15]]]
    assert second.values.tolist() == [[[7, 8]], [[16, 17]]]


def test_the_layout_is_that_of_the_authors_view():
    layers, heads, dim, slots = 3, 2, 4, 5
    encoder = PrefixEncoder(slots, [SiteShape(heads, dim, dim)] * layers)
    flat = fold(encoder)
    # model/sequence_classification.py, get_prompt: view, permute([2, 0, 3, 1, 4]), split(2).
    theirs = flat.view(1, slots, layers * 2, heads, dim).permute([2, 0, 3, 1, 4]).split(2)
    expected = [KeysValues(*(half[0].transpose(0, 1) for half in layer)) for layer in theirs]
    assert_equal_pairs(encoder.split(flat), expected)


def test_gradients_pass_through_split():
    encoder = PrefixEncoder(2, MIXED)
    row = encoder(torch.arange(2)[None])[0]
    encoder.split(row)[1].values.sum().backward()
    touched = encoder.embedding.grad[0].nonzero().flatten().tolist()
    assert touched == [16, 17]  # behind 12 floats of site 0 and the 4 keys of site 1


@pytest.mark.parametrize("slots", [4, 20, 128])
def test_free_pairs_are_slots_x_2_x_layers_x_kv_width(slots):
    encoder = PrefixEncoder(slots, BERT_LARGE)
    assert sum(p.numel() for p in encoder.parameters()) == slots * 2 * 24 * 1024


def test_shared_keys_make_a_smaller_prompt():
    shapes = [SiteShape(kv_heads=8, key_dim=64, value_dim=64)] * 16  # Llama-3.2-1B: 32 query heads
    encoder = PrefixEncoder(10, shapes)
    assert sum(p.numel() for p in encoder.parameters()) == 10 * 2 * 16 * 512


def test_the_projection_of_bert_large_trains_the_papers_25_8_million():
    encoder = PrefixEncoder(20, BERT_LARGE, projection=512)
    expected = 20 * 1024 + 1025 * 512 + 513 * 24 * 2 * 1024
    assert sum(p.numel() for p in encoder.parameters()) == expected == 25_760_256
    assert fold(encoder).numel() == 20 * 24 * 2 * 1024


def test_the_projection_may_begin_with_another_width():
    encoder = PrefixEncoder(3, MIXED, projection=5, embedding_width=9)
    assert encoder.embedding.shape == (3, 9)
    assert sum(p.numel() for p in encoder.parameters()) == 3 * 9 + 10 * 5 + 6 * 36


@pytest.mark.parametrize("projection", [None, 5])
def test_its_random_start_is_that_of_the_authors_layers(projection):
    torch.manual_seed(0)
    ours = fold(PrefixEncoder(4, MIXED, projection=projection))
    torch.manual_seed(0)
    nn = torch.nn
    theirs = nn.Embedding(4, 36 if projection is None else 6).weight
    if projection is not None:
        theirs = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 36))(theirs)
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=0)


def refused(message: str, **settings) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        PrefixEncoder(**{"slots": 4, "shapes": MIXED, **settings})


def test_a_prompt_without_sites_is_refused():
    refused(
        "PrefixEncoder: there is no attention site to make keys and values for. Choose at least "
        "one layer of the backbone.",
        shapes=[],
    )


def test_a_site_without_width_is_refused():
    refused(
        "PrefixEncoder: attention site 1 has kv_heads = 2, key_dim = 0, value_dim = 3; each must "
        "be at least 1. Take the shapes from the backbone's geometry.",
        shapes=[SiteShape(1, 1, 1), SiteShape(2, 0, 3)],
    )


@pytest.mark.parametrize(
    ("settings", "middle"),
    [
        ({"projection": 0}, "projection = 0 must be at least 1: it is the width in the middle of"),
        (
            {"projection": 2, "embedding_width": 0},
            "embedding_width = 0 must be at least 1: it is the width at the start of",
        ),
    ],
)
def test_a_projection_without_width_is_refused(settings, middle):
    refused(f"PrefixEncoder: {middle} the network.", **settings)


def test_an_embedding_width_without_projection_is_refused():
    refused(
        "PrefixEncoder: embedding_width = 6 goes with a projection only. Set projection, or leave "
        "embedding_width out.",
        embedding_width=6,
    )


@pytest.mark.parametrize(
    ("name", "value"), [("initial", pairs()[:2]), ("scales", [SiteScale(1.0, 1.0)] * 2)]
)
def test_a_missing_site_is_refused(name, value):
    refused(
        f"PrefixEncoder: {name} has 2 entries for 3 attention sites. Give one for each site of "
        "this prompt, in the same order.",
        **{name: value},
    )


@pytest.mark.parametrize("projection", [None, 5])
def test_initial_pairs_of_another_shape_are_refused(projection):
    wrong = pairs()
    wrong[1] = KeysValues(wrong[1].keys, torch.zeros(4, 1, 4))
    refused(
        "PrefixEncoder: initial[1].values has the shape 4 x 1 x 4, but slots x kv_heads x head_dim "
        "are 4 x 1 x 2 here. Make it for this prompt and this backbone.",
        initial=wrong,
        projection=projection,
    )


def test_initial_pairs_that_are_not_finite_are_refused():
    wrong = pairs()
    wrong[2].keys[0, 0, 0] = math.nan
    refused(
        "PrefixEncoder: initial[2].keys holds a number that is not finite (NaN or infinity). Look "
        "where it comes from: training cannot start there.",
        initial=wrong,
    )


def test_a_scale_that_is_no_unit_is_refused():
    refused(
        "PrefixEncoder: scales[2].values = 0.0 must be a positive number: it is the unit of the "
        "parameters. Good is the standard deviation of what the backbone has there.",
        scales=[SiteScale(1.0, 1.0), SiteScale(1.0, 1.0), SiteScale(1.0, 0.0)],
    )
