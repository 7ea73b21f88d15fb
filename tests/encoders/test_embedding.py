"""The embedding encoder: free vectors in units of the scale."""

import torch

from ptune.encoders import EmbeddingEncoder, fold


def test_it_trains_what_it_keeps():
    encoder = EmbeddingEncoder(20, 768)
    assert sum(p.numel() for p in encoder.parameters()) == 20 * 768 == fold(encoder).numel()


def test_the_prompt_is_the_weight_times_the_scale():
    encoder = EmbeddingEncoder(3, 4, scale=0.02)
    torch.testing.assert_close(fold(encoder), encoder.weight.detach() * 0.02, rtol=0, atol=0)


def test_the_weight_of_initial_vectors_is_in_units_of_the_scale():
    encoder = EmbeddingEncoder(2, 3, initial=torch.full((2, 3), 0.06), scale=0.02)
    torch.testing.assert_close(encoder.weight.detach(), torch.full((2, 3), 3.0))


def test_a_random_start_is_as_wide_spread_as_the_scale():
    start = fold(EmbeddingEncoder(200, 50, scale=0.02, generator=torch.Generator().manual_seed(0)))
    assert abs(start.std().item() / 0.02 - 1) < 0.03
    assert abs(start.mean().item()) < 0.001
