"""The kernel itself runs on a GPU alone. Here a slow one stands in, as torch documents its own."""

import pytest
import torch
from oracles.varlen_kernel import Kernel
from test_run import ROW, SHORT, deep, equal, shallow
from test_run_two_sided import mixed
from tiny import ALL, ENCODER_DECODERS, backbone

from ptune.batch import Branch, PromptTensors, TokenSequence, pack
from ptune.inject import varlen
from ptune.run import run

CPU = torch.device("cpu")
# ALiBi, relative positions, soft caps, and windows that hide something in every layer.
WITH_MASKS = {"bloom", "gemma2-window-4", "mistral-window-4", "t5", "t5-gated", "t5-untied", "mt5"}


@pytest.fixture
def kernel(monkeypatch):
    stand_in = Kernel()
    monkeypatch.setattr(varlen, "kernel", lambda: stand_in)
    monkeypatch.setattr(varlen, "takes", lambda *flat: True)
    return stand_in


def prompts_of(b):
    both = PromptTensors(vectors=shallow(b, seed=9).vectors, deep=deep(b, 3).deep)
    return [shallow(b), deep(b, 3), deep(b, 1, seed=5, sites=[1]), PromptTensors(), both]


def rows_of(b):
    branches = (Branch((7, 21), (0, 1)), Branch((7,), (0,))) if b.geometry.causal else ()
    return [
        TokenSequence((-1, -2, *ROW), prompt=0, reads=(4, 10), shared=2),
        TokenSequence((-1, -2, *SHORT), prompt=0, reads=(4,), shared=2, branches=branches),
        TokenSequence(ROW, prompt=1, reads=(0, 8)),
        TokenSequence(SHORT, prompt=2, reads=(2,)),
        TokenSequence(ROW + SHORT, prompt=3, reads=(11,)),
        TokenSequence((*SHORT, -1, -2, 9), prompt=4, reads=(0, 5)),
    ]


def leaves(prompts):
    """Every tensor of the prompts, ready for gradients."""
    found = [p.vectors for p in prompts if p.vectors is not None]
    found += [t for p in prompts for kv in p.deep.values() for t in (kv.keys, kv.values)]
    return [one.requires_grad_() for one in found]


def results(b, prompts, batch):
    """The states that are read, and the gradients of all prompts."""
    states = run(b, prompts, batch)
    weight = torch.linspace(-1, 1, states.numel()).view(states.shape)
    return [states, *torch.autograd.grad((states * weight).sum(), leaves(prompts))]


def calls_where_it_agrees(b, prompts, batch, kernel, monkeypatch):
    """How often a pass asks the kernel, once its states and gradients are those with masks."""
    leaves(prompts)
    kernel.calls = 0
    got = results(b, prompts, batch)
    calls = kernel.calls
    with monkeypatch.context() as masks:
        masks.setattr(varlen, "takes", lambda *flat: False)
        wanted = results(b, prompts, batch)
    assert kernel.calls == calls
    for one, other in zip(got, wanted, strict=True):
        equal(one, other, 3e-5)
    return calls


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_a_pack_through_the_kernel_is_the_pack_through_masks(name, padded, kernel, monkeypatch):
    b = backbone(name)
    rows = rows_of(b)
    if padded:
        rows = [row for row in rows if not row.branches]
    batch = pack(rows, share=b.geometry.causal and not padded, padded=padded)
    calls = calls_where_it_agrees(b, prompts_of(b), batch, kernel, monkeypatch)
    windows = sum(site.window is not None for site in b.geometry.sites)
    assert calls == (0 if name in WITH_MASKS else len(b.geometry.sites) - windows)


@pytest.mark.parametrize("name", ["mistral-window-4", "modernbert-window"])
def test_a_window_that_hides_nothing_needs_no_mask(name, kernel, monkeypatch):
    b = backbone(name)
    rows = [TokenSequence(SHORT, prompt=at, reads=(0, 2)) for at in (0, 1)]
    prompts = [deep(b, 3), deep(b, 2, seed=4)]
    calls = calls_where_it_agrees(b, prompts, b.pack(rows), kernel, monkeypatch)
    assert calls == len(b.geometry.sites)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_both_sides_and_what_lies_between_them_go_through_the_kernel(name, kernel, monkeypatch):
    b = backbone(name)
    prompts, rows = mixed(b)
    calls = calls_where_it_agrees(b, prompts, b.pack(rows), kernel, monkeypatch)
    cross = sum(site.kind == "cross" for site in b.geometry.sites)
    # Scores of T5's own text have a bias; those across have none.
    assert calls == (cross if "t5" in name else len(b.geometry.sites))


def test_the_kernel_is_asked_for_on_gpus_and_in_16_bits_alone():
    flat = torch.zeros(4, 2, 16, dtype=torch.bfloat16)
    assert not varlen.takes(flat, flat, flat)


@pytest.fixture
def capable(monkeypatch):
    """A device that could have the kernel, with nothing remembered of it."""
    varlen.is_trusted.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    yield monkeypatch
    varlen.is_trusted.cache_clear()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_kernel_that_is_right_passes_its_trial(capable, dtype):
    stand_in = Kernel()
    capable.setattr(varlen, "kernel", lambda: stand_in)
    assert varlen.is_trusted(CPU, dtype, 16)
    assert stand_in.calls == 2
    assert varlen.is_trusted(CPU, dtype, 16)
    assert stand_in.calls == 2  # once a device


class Detached(Kernel):
    """Right answers, and no gradient for the keys."""

    def __call__(self, query, key, *others, **options):
        return super().__call__(query, key.detach() + 0 * key, *others, **options)


class NotANumber(Kernel):
    """As a kernel that reads behind the end of its inputs."""

    def __call__(self, *args, **options):
        return super().__call__(*args, **options) * torch.nan


@pytest.mark.parametrize("wrong", [Kernel(first=True), Detached(), NotANumber()])
def test_a_kernel_with_other_answers_or_gradients_is_not_used(capable, wrong):
    capable.setattr(varlen, "kernel", lambda: wrong)
    with pytest.warns(UserWarning, match=r"is not used on cpu .* because its results differ by"):
        assert not varlen.is_trusted(CPU, torch.bfloat16, 16)


def test_a_kernel_that_fails_is_not_used(capable):
    def failing(*args, **kwargs):
        raise RuntimeError("no kernel image is available")

    capable.setattr(varlen, "kernel", lambda: failing)
    with pytest.warns(UserWarning, match="because it failed: no kernel image is available"):
        assert not varlen.is_trusted(CPU, torch.bfloat16, 16)


def test_gpus_without_the_kernel_are_passed_over_in_silence(capable, recwarn):
    capable.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not varlen.is_trusted(CPU, torch.bfloat16, 16)
    assert not recwarn.list


def test_torchs_kernel_has_the_arguments_that_are_used():
    assert varlen.kernel() is torch.nn.attention.varlen.varlen_attn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_of_this_gpu_is_right(dtype, width):
    assert varlen.trial(torch.device("cuda"), dtype, width) <= varlen.AGREEMENT


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_on_this_gpu_a_pack_through_the_kernel_is_the_pack_through_masks(name, monkeypatch):
    b = backbone(name)
    b.model.to("cuda", torch.bfloat16)
    batch = b.pack([TokenSequence(row, reads=(0, 2)) for row in (ROW, SHORT)])
    with torch.no_grad():
        got = run(b, [deep(b, 3)], batch)
        monkeypatch.setattr(varlen, "takes", lambda *flat: False)
        torch.testing.assert_close(got, run(b, [deep(b, 3)], batch), rtol=0.05, atol=0.05)
