"""The LSTM encoder against a step-by-step LSTM, and against the paper's numbers."""

import re

import pytest
import torch
from torch import Tensor

from ptune.encoders import LSTMEncoder, fold
from ptune.errors import ConfigError


def step_by_step(encoder: LSTMEncoder, layers: int) -> Tensor:
    """`MLP(BiLSTM(E))` from the formulas, one slot and one gate at a time, in double precision."""
    p = {name: value.detach().double() for name, value in encoder.named_parameters()}
    x = p["embedding"]
    for layer in range(layers):
        ways = [
            one_way(p, f"l{layer}", list(x)),
            one_way(p, f"l{layer}_reverse", list(x)[::-1])[::-1],
        ]
        x = torch.stack([torch.cat(pair) for pair in zip(*ways, strict=True)])
    inner = (x @ p["mlp.0.weight"].T + p["mlp.0.bias"]).clamp(min=0)
    return inner @ p["mlp.2.weight"].T + p["mlp.2.bias"]


def one_way(p: dict[str, Tensor], name: str, inputs: list[Tensor]) -> list[Tensor]:
    # torch stacks the matrices of the gates in the order i, f, g, o.
    from_input = p[f"lstm.weight_ih_{name}"].chunk(4)
    from_state = p[f"lstm.weight_hh_{name}"].chunk(4)
    shifts = (p[f"lstm.bias_ih_{name}"] + p[f"lstm.bias_hh_{name}"]).chunk(4)
    state = cell = torch.zeros(from_state[0].shape[1], dtype=torch.float64)
    states = []
    for x in inputs:
        i, f, g, o = (
            a @ x + b @ state + shift
            for a, b, shift in zip(from_input, from_state, shifts, strict=True)
        )
        cell = sigmoid(f) * cell + sigmoid(i) * torch.tanh(g)
        state = sigmoid(o) * torch.tanh(cell)
        states.append(state)
    return states


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def trained(layers: int = 2, **settings) -> LSTMEncoder:
    generator = torch.Generator().manual_seed(0)
    encoder = LSTMEncoder(5, 4, layers=layers, generator=generator, **settings)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    return encoder


@pytest.mark.parametrize("hidden", [None, 6])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_equals_an_lstm_done_step_by_step(layers, hidden):
    encoder = trained(layers, hidden=hidden)
    expected = step_by_step(encoder, layers)
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)


def test_with_initial_vectors_it_adds_the_scaled_network_to_them():
    start = torch.arange(20.0).reshape(5, 4)
    encoder = trained(initial=start, scale=0.1)
    change = encoder.shift.detach().double() + step_by_step(encoder, 2)
    expected = start.double() + 0.1 * change
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)


def test_without_initial_vectors_the_scale_is_the_unit_of_the_network():
    encoder = trained(scale=0.1)
    expected = 0.1 * step_by_step(encoder, 2)
    torch.testing.assert_close(fold(encoder).double(), expected, rtol=1e-5, atol=1e-6)


def test_every_slot_depends_on_every_other():
    encoder = trained()
    for slot in range(5):
        encoder.zero_grad()
        encoder(torch.tensor([[slot]])).sum().backward()  # look at one slot alone ...
        assert (encoder.embedding.grad.abs().sum(dim=1) > 0).all()  # ... and all rows learn


@pytest.mark.parametrize(
    ("width", "millions", "kept"), [(768, 8.28, 6_912), (1024, 14.7, 9_216), (1600, 35.9, 14_400)]
)
def test_the_papers_template_3_3_3_trains_millions_and_keeps_thousands(width, millions, kept):
    with torch.device("meta"):
        expected = sum(p.numel() for part in papers_encoder(9, width) for p in part.parameters())
    assert expected / 1e6 == pytest.approx(millions, rel=2e-3)
    if width > 768:  # a hundred megabytes more would show the same
        return
    encoder = LSTMEncoder(9, width)
    assert sum(p.numel() for p in encoder.parameters()) == expected == 8_278_272
    assert fold(encoder).numel() == kept


def papers_encoder(slots: int, width: int) -> tuple[torch.nn.Module, ...]:
    """The layers of the authors' LAMA code, in its order."""
    nn = torch.nn
    return (
        nn.Embedding(slots, width),
        nn.LSTM(width, width // 2, 2, bidirectional=True, batch_first=True),
        nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)),
    )


def test_without_initial_vectors_it_starts_as_the_papers_encoder_does():
    torch.manual_seed(0)
    ours = LSTMEncoder(9, 8)
    torch.manual_seed(0)
    table, lstm, mlp = papers_encoder(9, 8)
    theirs = mlp(lstm(table.weight[None])[0])[0]
    torch.testing.assert_close(fold(ours), theirs.detach(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("width", "hidden", "said"),
    [(7, None, "7 (by default the width of the embeddings)"), (8, 5, "5")],
)
def test_an_odd_width_is_refused(width, hidden, said):
    more = (hidden or width) + 1
    message = (
        f"LSTMEncoder: hidden = {said} must be even: each direction of the LSTM gets half. "
        f"Set hidden to {more}, or use the mlp encoder."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        LSTMEncoder(2, width, hidden=hidden)


def test_odd_embeddings_are_fine_with_an_even_inside():
    assert fold(LSTMEncoder(2, 7, hidden=4)).shape == (2, 7)


def test_dropout_without_a_place_is_refused():
    message = (
        "LSTMEncoder: dropout = 0.1 acts between LSTM layers, and layers = 1 has no such place. "
        "Set dropout to 0, or layers to 2 or more."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        LSTMEncoder(2, 4, layers=1, dropout=0.1)


def test_an_lstm_without_layers_is_refused():
    message = "LSTMEncoder: layers = 0 must be at least 1: it is the number of LSTM layers."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        LSTMEncoder(2, 4, layers=0)
