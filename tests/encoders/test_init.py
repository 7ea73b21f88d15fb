"""Vectors to start from, and random layers from a generator."""

import re

import pytest
import torch
from torch import nn

from ptune.encoders import random_vectors, sample_vocabulary
from ptune.encoders.init import linear, started
from ptune.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raises(message: str) -> pytest.RaisesExc[ConfigError]:
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}$")


def test_random_vectors_have_the_scale_as_standard_deviation():
    vectors = random_vectors(200, 50, 0.02, seeded())
    assert abs(vectors.std().item() / 0.02 - 1) < 0.03
    assert abs(vectors.mean().item()) < 0.001


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator: random_vectors(4, 3, 1.0, generator),
        lambda generator: sample_vocabulary(torch.randn(50, 3, generator=seeded()), 4, generator),
    ],
)
def test_one_seed_draws_the_same_vectors(draw):
    torch.testing.assert_close(draw(seeded(1)), draw(seeded(1)), rtol=0, atol=0)
    assert not torch.equal(draw(seeded(1)), draw(seeded(2)))


def test_a_vocabulary_sample_is_different_rows_in_random_order():
    table = torch.arange(40.0).reshape(40, 1)
    drawn = sample_vocabulary(table, 30, seeded()).flatten().tolist()
    assert len(set(drawn)) == 30
    assert set(drawn) <= set(range(40))
    assert drawn != sorted(drawn)


def test_a_small_vocabulary_is_used_evenly():
    drawn = sample_vocabulary(torch.arange(3.0).reshape(3, 1), 7, seeded()).flatten().tolist()
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == [0, 1, 2]
    assert len(drawn) == 7


def test_vectors_are_copies_in_full_precision_without_gradient():
    table = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    picked = sample_vocabulary(table, 2, seeded())
    assert (picked.dtype, picked.requires_grad) == (torch.float32, False)
    picked += 1
    assert (table == 1).all()


def test_layers_start_as_torchs_own_from_the_same_seed():
    torch.manual_seed(0)
    theirs = nn.Linear(6, 4)
    ours = linear(6, 4, seeded())
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=0)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=0, atol=0)


def test_every_parameter_of_a_started_layer_is_drawn_within_the_bound():
    lstm = started(lambda: nn.LSTM(20, 10, 2, bidirectional=True), 0.25, seeded())
    for parameter in lstm.parameters():
        assert parameter.device.type == "cpu"
        assert 0.2 < parameter.abs().max() <= 0.25


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("random_vectors", lambda: random_vectors(0, 3)),
        ("sample_vocabulary", lambda: sample_vocabulary(torch.ones(2, 3), 0)),
    ],
)
def test_no_slots_are_refused(name, call):
    with raises(f"{name}: slots = 0 must be at least 1: it is the number of virtual tokens."):
        call()


def test_vectors_without_width_are_refused():
    with raises("random_vectors: width = 0 must be at least 1."):
        random_vectors(2, 0)


def test_a_table_without_rows_is_refused():
    with raises("sample_vocabulary: the table of embeddings has no row to draw from."):
        sample_vocabulary(torch.ones(0, 3), 2)
