"""The residual encoder against its formula."""

import torch

from ptune.encoders import ResidualEncoder, fold


def trained(**settings) -> tuple[ResidualEncoder, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    encoder = ResidualEncoder(3, 4, bottleneck=5, generator=generator, **settings)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    return encoder, {name: p.detach().double() for name, p in encoder.named_parameters()}


def formula(p: dict[str, torch.Tensor]) -> torch.Tensor:
    inner = (p["weight"] @ p["network.0.weight"].T + p["network.0.bias"]).clamp(min=0)
    out = inner @ p["network.2.weight"].T + p["network.2.bias"]
    centred = out - out.mean(dim=1, keepdim=True)
    normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
    return p["weight"] + p["network.3.weight"] * normed + p["network.3.bias"]


def test_it_is_the_papers_network():
    encoder, parameters = trained(scale=0.3)
    expected = 0.3 * formula(parameters)
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)


def test_initial_vectors_are_the_start_of_the_trained_ones():
    start = torch.arange(12.0).reshape(3, 4)
    encoder, parameters = trained(initial=start, scale=0.5)
    expected = 0.5 * formula(parameters)
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)
    untouched = ResidualEncoder(3, 4, initial=start, scale=0.5)
    torch.testing.assert_close(untouched.weight.detach(), start * 2, rtol=0, atol=0)


def test_in_the_first_step_the_vectors_learn_as_if_there_were_no_network():
    encoder = ResidualEncoder(3, 4, initial=torch.ones(3, 4), scale=0.5)
    encoder(torch.arange(3)[None]).sum().backward()
    torch.testing.assert_close(encoder.weight.grad, torch.full((3, 4), 0.5), rtol=0, atol=0)
    learning = [name for name, p in encoder.named_parameters() if p.grad.abs().sum() > 0]
    assert learning == ["weight", "network.3.weight", "network.3.bias"]  # 3 is the layer norm


def test_without_initial_vectors_the_network_speaks_from_the_start():
    encoder = ResidualEncoder(3, 4, generator=torch.Generator().manual_seed(0))
    change = fold(encoder) - encoder.weight.detach()
    torch.testing.assert_close(change.var(dim=1, unbiased=False), torch.ones(3), atol=0.01, rtol=0)


def test_it_trains_as_many_floats_as_the_formula_says():
    encoder = ResidualEncoder(10, 768)
    expected = 10 * 768 + 769 * 128 + 129 * 768 + 2 * 768
    assert sum(p.numel() for p in encoder.parameters()) == expected
    assert fold(encoder).numel() == 7680


def test_the_network_is_one_for_all_slots():
    encoder = ResidualEncoder(2, 4, initial=torch.ones(2, 4))
    with torch.no_grad():
        for parameter in encoder.network.parameters():
            parameter += 0.1
    folded = fold(encoder)
    torch.testing.assert_close(folded[0], folded[1], rtol=0, atol=0)
