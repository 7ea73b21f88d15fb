"""The MLP encoder against its formula."""

import pytest
import torch

from ptune.encoders import MLPEncoder, fold


def trained(**settings) -> tuple[MLPEncoder, dict[str, torch.Tensor]]:
    encoder = MLPEncoder(3, 4, hidden=5, generator=torch.Generator().manual_seed(0), **settings)
    with torch.no_grad():
        for index, parameter in enumerate(encoder.parameters()):
            parameter += torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(index)
            )
    return encoder, {name: p.detach().double() for name, p in encoder.named_parameters()}


def formula(p: dict[str, torch.Tensor]) -> torch.Tensor:
    first = p["embedding"] @ p["mlp.0.weight"].T + p["mlp.0.bias"]
    second = first.clamp(min=0) @ p["mlp.2.weight"].T + p["mlp.2.bias"]
    return second.clamp(min=0) @ p["mlp.4.weight"].T + p["mlp.4.bias"]


def test_it_is_pefts_network():
    encoder, parameters = trained()
    torch.testing.assert_close(fold(encoder).double(), formula(parameters), rtol=1e-5, atol=1e-6)


def test_with_initial_vectors_it_adds_the_scaled_network_to_them():
    start = torch.arange(12.0).reshape(3, 4)
    encoder, parameters = trained(initial=start, scale=0.1)
    expected = start.double() + 0.1 * (parameters["shift"] + formula(parameters))
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("hidden", "inside"), [(None, 768), (64, 64)])
def test_it_trains_as_many_floats_as_the_formula_says(hidden, inside):
    encoder = MLPEncoder(9, 768, hidden=hidden)
    expected = 9 * 768 + 769 * inside + (inside + 1) * (inside + 768)
    assert sum(p.numel() for p in encoder.parameters()) == expected
    assert fold(encoder).numel() == 6912


def test_its_random_start_is_that_of_pefts_layers():
    torch.manual_seed(0)
    ours = fold(MLPEncoder(3, 4))
    torch.manual_seed(0)
    table, first = torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4)
    second, last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    expected = last(second(first(table.weight).relu()).relu()).detach()
    torch.testing.assert_close(ours, expected)
