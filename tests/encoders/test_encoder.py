"""What every prompt encoder keeps: exact folds, the start, gradients, seeds, messages."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from ptune.encoders import (
    EmbeddingEncoder,
    Encoder,
    KeysValues,
    LSTMEncoder,
    MLPEncoder,
    PrefixEncoder,
    ResidualEncoder,
    SiteScale,
    SiteShape,
    fold,
)
from ptune.errors import ConfigError

SLOTS, WIDTH, SCALE = 5, 12, 0.3
SITES = [SiteShape(2, 2, 1), SiteShape(1, 4, 2)]  # 12 floats a slot, like the shallow ones
SHALLOW = {
    "embedding": EmbeddingEncoder,
    "lstm": LSTMEncoder,
    "mlp": MLPEncoder,
    "residual": ResidualEncoder,
}
ALL = [*SHALLOW, "prefix", "projected prefix"]
WITH_NETWORK = ["lstm", "mlp", "residual", "projected prefix"]
WITH_DROPOUT = {
    "lstm": lambda share: LSTMEncoder(SLOTS, WIDTH, dropout=share),
    "prefix": lambda share: PrefixEncoder(SLOTS, SITES, dropout=share),
    "projected prefix": lambda share: PrefixEncoder(SLOTS, SITES, dropout=share, projection=3),
}


def make(kind: str, *, seed: int = 0, start: Tensor | None = None, scale: float = SCALE) -> Encoder:
    generator = torch.Generator().manual_seed(seed)
    if kind in SHALLOW:
        return SHALLOW[kind](SLOTS, WIDTH, initial=start, scale=scale, generator=generator)
    return PrefixEncoder(
        SLOTS,
        SITES,
        projection=3 if kind == "projected prefix" else None,
        initial=None if start is None else PrefixEncoder(SLOTS, SITES).split(start),
        scales=[SiteScale(scale, scale)] * 2,
        generator=generator,
    )


def start_vectors() -> Tensor:
    return torch.randn(SLOTS, WIDTH, generator=torch.Generator().manual_seed(9))


def shuffled_rows() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(SLOTS, generator=generator) for _ in range(4)])


def move(encoder: Encoder) -> None:
    """Give every parameter values of its own, as training does."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def raises(message: str) -> pytest.RaisesExc[ConfigError]:
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("start", [None, start_vectors()], ids=["random", "initial"])
@pytest.mark.parametrize("kind", ALL)
def test_the_fold_is_bit_for_bit_what_every_row_of_a_batch_gets(kind, start):
    encoder = make(kind, start=start)
    move(encoder)
    folded, rows = fold(encoder), shuffled_rows()
    assert folded.unique(dim=0).shape == (SLOTS, WIDTH)  # else the order could not matter
    for mode in (encoder.train(), encoder.eval()):  # no dropout here, so training is the same
        torch.testing.assert_close(mode(rows), folded[rows], rtol=0, atol=0)
        with torch.no_grad():
            torch.testing.assert_close(mode(rows), folded[rows], rtol=0, atol=0)
        with torch.inference_mode():
            torch.testing.assert_close(mode(rows), folded[rows], rtol=0, atol=0)


def test_the_fold_of_a_wide_lstm_is_exact_too():
    encoder = LSTMEncoder(9, 256)  # wide enough for torch's other kernels
    rows = torch.arange(9)[None]
    trained = encoder(rows)[0]
    torch.testing.assert_close(fold(encoder), trained.detach(), rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(rows)[0], trained, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ALL)
def test_a_slot_may_be_asked_for_twice_and_by_ids_of_16_bits(kind):
    encoder = make(kind)
    twice = encoder(torch.tensor([[1, 1, 4]], dtype=torch.int16))[0]
    torch.testing.assert_close(twice, fold(encoder)[[1, 1, 4]], rtol=0, atol=0)


@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_a_fold_has_no_gradient_no_dropout_and_leaves_the_modes_alone(kind):
    encoder = WITH_DROPOUT[kind](0.5)
    encoder.train()
    *_, part = encoder.modules()
    part.eval()  # a user's own choice
    modes = [module.training for module in encoder.modules()]
    folded = fold(encoder)
    assert [module.training for module in encoder.modules()] == modes
    assert not folded.requires_grad
    torch.testing.assert_close(folded, fold(encoder), rtol=0, atol=0)


def test_the_modes_come_back_when_folding_fails():
    encoder = make("mlp").train()
    encoder.mlp = nn.Linear(WIDTH + 1, WIDTH)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fold(encoder)
    assert encoder.training


@pytest.mark.parametrize("kind", ALL)
def test_a_fold_does_not_follow_later_training(kind):
    encoder = make(kind, start=start_vectors(), scale=1.0)
    folded = fold(encoder)
    kept = folded.clone()
    move(encoder)
    torch.testing.assert_close(folded, kept, rtol=0, atol=0)
    assert not torch.allclose(fold(encoder), kept)


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("kind", ["prefix", "projected prefix"])
def test_prefix_dropout_zeroes_its_share_and_enlarges_the_rest_in_training_only(kind, share):
    torch.manual_seed(0)
    encoder = WITH_DROPOUT[kind](share)
    rows = torch.arange(SLOTS).expand(200, SLOTS)
    folded = fold(encoder).expand(200, -1, -1)
    torch.testing.assert_close(encoder.eval()(rows), folded, rtol=0, atol=0)
    dropped = encoder.train()(rows)
    zero = dropped == 0
    assert zero.float().mean().item() == pytest.approx(share, abs=0.02)
    torch.testing.assert_close(dropped[~zero], folded[~zero] / (1 - share))
    assert not torch.equal(zero[0], zero[1])  # each row has its own


def test_lstm_dropout_acts_in_training_only():
    encoder = WITH_DROPOUT["lstm"](0.5)
    rows = torch.arange(SLOTS)[None]
    torch.testing.assert_close(encoder.eval()(rows)[0], fold(encoder), rtol=0, atol=0)
    assert not torch.allclose(encoder.train()(rows)[0], fold(encoder))


@pytest.mark.parametrize("kind", ["lstm", "mlp", "projected prefix"])
def test_a_network_starts_at_the_initial_vectors_bit_for_bit(kind):
    start = start_vectors()
    torch.testing.assert_close(fold(make(kind, start=start)), start, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["embedding", "residual", "prefix"])
def test_free_vectors_start_at_the_initial_ones_to_rounding(kind):
    start = start_vectors()
    torch.testing.assert_close(fold(make(kind, start=start)), start, rtol=2e-7, atol=0)
    binary = make(kind, start=start, scale=0.25)
    torch.testing.assert_close(fold(binary), start, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ALL)
def test_the_caller_keeps_the_initial_vectors(kind):
    start = start_vectors()
    kept = start.clone()
    encoder = make(kind, start=start, scale=1.0)
    move(encoder)
    with torch.no_grad():
        for buffer in encoder.buffers():
            buffer += 1.0
    torch.testing.assert_close(start, kept, rtol=0, atol=0)


def test_half_precision_vectors_start_a_full_precision_prompt():
    encoder = make("embedding", start=start_vectors().bfloat16())
    assert encoder.weight.dtype == torch.float32


@pytest.mark.parametrize("start", [None, start_vectors()], ids=["random", "initial"])
@pytest.mark.parametrize("kind", ALL)
def test_a_gradient_reaches_every_parameter_after_the_first_step(kind, start):
    encoder = make(kind, start=start)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    target = start_vectors().flip(0)
    for _ in range(2):
        optimizer.zero_grad()
        (encoder(torch.arange(SLOTS)[None])[0] - target).square().sum().backward()
        optimizer.step()
    unmoved = [name for name, p in encoder.named_parameters() if not p.grad.abs().sum() > 0]
    assert unmoved == []


@pytest.mark.parametrize("kind", ["lstm", "mlp", "projected prefix"])
def test_only_the_table_and_the_silenced_last_layer_learn_in_the_first_step(kind):
    encoder = make(kind, start=start_vectors())
    encoder(torch.arange(SLOTS)[None]).square().sum().backward()
    moved = [name for name, p in encoder.named_parameters() if p.grad.abs().sum() > 0]
    last = "mlp.4" if kind == "mlp" else "mlp.2" if kind == "lstm" else "projection.2"
    assert moved == ["shift", f"{last}.weight", f"{last}.bias"]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("start", [None, "given"])
def test_direct_parameters_are_the_tables_that_have_the_prompts_own_shape(kind, start):
    encoder = make(kind, start=start and start_vectors())
    direct = encoder.direct_parameters()
    networked = kind in ("lstm", "mlp", "projected prefix")
    assert len(direct) == (0 if networked and start is None else 1)
    assert all(p.shape == fold(encoder).shape for p in direct)
    for parameter in direct:
        before = fold(encoder)
        with torch.no_grad():
            parameter[0, 0] += 1.0
        assert (fold(encoder) - before)[0].abs().sum() > 0


@pytest.mark.parametrize("kind", ALL)
def test_one_step_of_adam_moves_the_prompt_in_proportion_to_the_scale(kind):
    moves = []
    for scale in (1.0, 0.01):
        encoder = make(kind, start=start_vectors(), scale=scale)
        optimizer = torch.optim.SGD(encoder.parameters(), lr=1e-2)
        before = fold(encoder)
        encoder(torch.arange(SLOTS)[None]).sum().backward()
        for parameter in encoder.parameters():
            parameter.grad = parameter.grad.sign()  # Adam's first step, without its epsilon
        optimizer.step()
        moves.append((fold(encoder) - before).abs().mean().item())
    assert moves[1] == pytest.approx(0.01 * moves[0], rel=0.05)


@pytest.mark.parametrize("kind", ALL)
def test_one_seed_makes_one_encoder_and_leaves_torchs_own_numbers_alone(kind):
    torch.manual_seed(1)
    untouched = torch.get_rng_state()
    first, again, other = make(kind, seed=4), make(kind, seed=4), make(kind, seed=5)
    assert torch.equal(torch.get_rng_state(), untouched)
    for name, parameter in first.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=0, atol=0)
    assert not torch.equal(fold(first), fold(other))


@pytest.mark.parametrize("kind", ALL)
def test_without_a_generator_torchs_own_seed_rules(kind):
    build = {**SHALLOW, "prefix": PrefixEncoder}.get(kind)
    if kind == "projected prefix":
        encoders = [_seeded(lambda: PrefixEncoder(SLOTS, SITES, projection=3)) for _ in "ab"]
    else:
        size = SITES if kind == "prefix" else WIDTH
        encoders = [_seeded(lambda: build(SLOTS, size)) for _ in "ab"]
    torch.testing.assert_close(fold(encoders[0]), fold(encoders[1]), rtol=0, atol=0)


def _seeded(build):
    torch.manual_seed(2)
    return build()


@pytest.mark.parametrize("start", [None, start_vectors()], ids=["random", "initial"])
@pytest.mark.parametrize("kind", ALL)
def test_the_state_dict_holds_all_that_the_prompt_depends_on(kind, start):
    trained = make(kind, start=start, seed=1)
    move(trained)
    fresh = make(kind, start=None if start is None else start + 1, seed=2, scale=0.7)
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(fold(fresh), fold(trained), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("indices", "low", "high"), [([[0, 5]], 0, 5), ([[3, -1]], -1, 3), ([[0], [9]], 0, 9)]
)
def test_an_index_that_is_no_slot_is_refused(kind, indices, low, high):
    encoder = make(kind)
    with raises(
        f"{type(encoder).__name__}: the indices run from {low} to {high}, but this prompt has the "
        "slots 0 .. 4. Give each virtual token the number of its slot."
    ):
        encoder(torch.tensor(indices))


@pytest.mark.parametrize("slots", [0, -3])
@pytest.mark.parametrize("kind", [*SHALLOW, "prefix"])
def test_a_prompt_without_slots_is_refused(kind, slots):
    encoder, size = (PrefixEncoder, SITES) if kind == "prefix" else (SHALLOW[kind], WIDTH)
    with raises(
        f"{encoder.__name__}: slots = {slots} must be at least 1: it is the number of virtual "
        "tokens."
    ):
        encoder(slots, size)


@pytest.mark.parametrize("kind", SHALLOW)
def test_vectors_without_width_are_refused(kind):
    encoder = SHALLOW[kind]
    with raises(
        f"{encoder.__name__}: width = 0 must be at least 1: it is the width of the backbone's "
        "input embeddings."
    ):
        encoder(SLOTS, 0)


@pytest.mark.parametrize("shape", [(4, 12), (5, 11), (12, 5)])
@pytest.mark.parametrize("kind", SHALLOW)
def test_initial_vectors_of_another_shape_are_refused(kind, shape):
    with raises(
        f"{SHALLOW[kind].__name__}: initial has the shape {shape[0]} x {shape[1]}, but slots x "
        "width are 5 x 12 here. Make it for this prompt and this backbone."
    ):
        make(kind, start=torch.zeros(shape))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", SHALLOW)
def test_initial_vectors_that_are_not_finite_are_refused(kind, bad):
    start = start_vectors()
    start[2, 3] = bad
    with raises(
        f"{SHALLOW[kind].__name__}: initial holds a number that is not finite (NaN or infinity). "
        "Look where it comes from: training cannot start there."
    ):
        make(kind, start=start)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", SHALLOW)
def test_a_scale_that_is_no_unit_is_refused(kind, scale):
    with raises(
        f"{SHALLOW[kind].__name__}: scale = {scale} must be a positive number: it is the unit of "
        "the parameters. Good is the standard deviation of what the backbone has there."
    ):
        make(kind, scale=scale)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan])
@pytest.mark.parametrize("kind", WITH_DROPOUT)
def test_a_dropout_that_is_no_share_is_refused(kind, share):
    name = "LSTMEncoder" if kind == "lstm" else "PrefixEncoder"
    with raises(
        f"{name}: dropout = {share} must be at least 0 and below 1: it is the share of numbers set "
        "to zero while training."
    ):
        WITH_DROPOUT[kind](share)


@pytest.mark.parametrize(
    ("encoder", "argument"),
    [(LSTMEncoder, "hidden"), (MLPEncoder, "hidden"), (ResidualEncoder, "bottleneck")],
)
def test_a_network_without_width_is_refused(encoder, argument):
    where = "encoder" if encoder is LSTMEncoder else "network"
    with raises(
        f"{encoder.__name__}: {argument} = 0 must be at least 1: it is the width inside the "
        f"{where}."
    ):
        encoder(SLOTS, WIDTH, **{argument: 0})


def test_keys_and_values_are_a_pair_of_tensors():
    keys, values = KeysValues(torch.zeros(1, 2, 3), torch.ones(1, 2, 3))
    assert (keys.sum(), values.sum()) == (0, 6)
