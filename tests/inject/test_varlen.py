"""The kernel itself runs on a GPU alone. Here a slow one stands in, as torch documents its own."""

import pytest
import torch
import transformers as hf
from oracles.varlen_kernel import Kernel
from test_run import ROW, SHORT, deep, equal, shallow
from test_run_two_sided import mixed
from tiny import ALL, ENCODER_DECODERS, SMALL, backbone, tokenizer
from torch._subclasses.fake_tensor import FakeTensorMode

from ptune.backbone import Backbone
from ptune.batch import Branch, PromptTensors, TokenSequence, pack
from ptune.inject import varlen
from ptune.inject.call import Call
from ptune.run import run

CPU = torch.device("cpu")
# ALiBi, relative positions, soft caps, and windows that hide something in every layer.
WITH_MASKS = {"bloom", "gemma2-window-4", "mistral-window-4", "t5", "t5-gated", "t5-untied", "mt5"}


def gpt_oss():
    return hf.GptOssConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1
    )


def deberta():
    return hf.DebertaV2Config(
        **SMALL, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"]
    )


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
    weight = torch.linspace(-1, 1, states.numel()).to(states).view(states.shape)
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


@pytest.mark.parametrize(
    ("ids", "shared", "fits"),
    [
        (ROW[:4], 0, True),
        (ROW[:5], 0, False),
        ((-1, -2, *ROW[:2]), 2, True),
        ((-1, -2, *ROW[:3]), 2, False),
    ],
)
def test_a_window_as_wide_as_the_longest_row_needs_no_mask(ids, shared, fits, kernel, monkeypatch):
    b = backbone("mistral-window-4")
    both = PromptTensors(vectors=shallow(b).vectors, deep=deep(b, 3).deep)
    rows = [TokenSequence(row, shared=shared, reads=(2,)) for row in (ids, ids[:-1])]
    calls = calls_where_it_agrees(b, [both], b.pack(rows), kernel, monkeypatch)
    assert calls == (len(b.geometry.sites) if fits else 0)


def test_a_window_to_both_sides_needs_no_mask_where_it_hides_nothing(kernel, monkeypatch):
    b = backbone("modernbert-window")
    rows = [TokenSequence(SHORT, prompt=at, reads=(0, 2)) for at in (0, 1)]
    prompts = [deep(b, 3), deep(b, 2, seed=4)]
    calls = calls_where_it_agrees(b, prompts, b.pack(rows), kernel, monkeypatch)
    assert calls == len(b.geometry.sites)


@pytest.mark.parametrize("config", [gpt_oss, deberta])
def test_sinks_and_scores_of_a_familys_own_go_with_masks(config, kernel, monkeypatch):
    torch.manual_seed(0)
    b = Backbone.load(hf.AutoModel.from_config(config()).float().eval(), tokenizer=tokenizer())
    rows = [TokenSequence(row, reads=(0, 2)) for row in (ROW, SHORT)]
    assert calls_where_it_agrees(b, [deep(b, 3)], b.pack(rows), kernel, monkeypatch) == 0


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_both_sides_and_what_lies_between_them_go_through_the_kernel(name, kernel, monkeypatch):
    b = backbone(name)
    prompts, rows = mixed(b)
    calls = calls_where_it_agrees(b, prompts, b.pack(rows), kernel, monkeypatch)
    cross = sum(site.kind == "cross" for site in b.geometry.sites)
    # Scores of T5's own text have a bias; those across have none.
    assert calls == (cross if "t5" in name else len(b.geometry.sites))


def flat(width=64, dtype=torch.bfloat16, device="cuda"):
    """A tensor on a device that need not be here."""
    with FakeTensorMode():
        return torch.zeros(9, 4, width, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([flat(), flat(), flat()], True),
        ([flat(dtype=torch.float16)] * 3, True),
        ([flat(dtype=torch.float32)] * 3, False),
        ([flat(), flat(), flat(dtype=torch.float16)], False),
        ([flat(device="cpu")] * 3, False),
        ([flat(width=256)] * 3, True),
        ([flat(width=264)] * 3, False),
        ([flat(width=20)] * 3, False),
        ([flat(width=64), flat(width=64), flat(width=32)], False),
    ],
)
def test_the_kernel_takes_16_bits_on_gpus_in_widths_that_it_has(given, taken, monkeypatch):
    monkeypatch.setattr(varlen, "is_trusted", lambda device, dtype, width: True)
    assert varlen.takes(*given) is taken


def test_a_device_that_failed_its_trial_does_without(monkeypatch):
    monkeypatch.setattr(varlen, "is_trusted", lambda device, dtype, width: False)
    assert not varlen.takes(flat(), flat(), flat())


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


class OneTile(Kernel):
    """Loses every key behind the 64th."""

    def __call__(self, query, key, *others, **options):
        late = torch.arange(len(key)).view(-1, 1, 1) >= 64
        return super().__call__(query, key.masked_fill(late, 0), *others, **options)


class Unscaled(Kernel):
    """Takes no notice of the scale."""

    def __call__(self, *args, scale=None, **options):
        return super().__call__(*args, **options)


class NotANumber(Kernel):
    """As a kernel that reads behind the end of its inputs."""

    def __call__(self, *args, **options):
        return super().__call__(*args, **options) * torch.nan


@pytest.mark.parametrize(
    "wrong", [Kernel(first=True), Detached(), OneTile(), Unscaled(), NotANumber()]
)
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


def test_a_torch_whose_kernel_takes_no_window_does_without(capable):
    def older(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
        raise AssertionError

    capable.setattr("torch.nn.attention.varlen.varlen_attn", older)
    varlen.kernel.cache_clear()
    try:
        with pytest.warns(UserWarning, match="its varlen_attn takes no scale and no window_size"):
            assert not varlen.is_trusted(CPU, torch.bfloat16, 16)
    finally:
        varlen.kernel.cache_clear()


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_a_kernel_that_is_right_passes_wherever_it_is_first_used(capable, mode):
    capable.setattr(varlen, "kernel", lambda: Kernel())
    with mode():
        assert varlen.is_trusted(CPU, torch.bfloat16, 16)


def test_the_first_use_may_lie_inside_a_checkpointed_layer(capable):
    stand_in = Kernel()
    capable.setattr(varlen, "kernel", lambda: stand_in)
    b = backbone("bert")
    capable.setattr(varlen, "takes", lambda *flat: varlen.is_trusted(CPU, torch.bfloat16, 16))
    prompt = deep(b, 3)
    (*_, last) = leaves([prompt])
    batch = b.pack([TokenSequence(row, reads=(0, 2)) for row in (ROW, SHORT)])
    b.gradient_checkpointing = True
    with torch.autocast("cpu", torch.bfloat16):
        run(b, [prompt], batch).float().square().sum().backward()
    assert last.grad.abs().sum() > 0
    assert stand_in.calls == 2 + 2 * len(b.geometry.sites)


def test_sequences_are_laid_out_once_a_pass_and_anew_on_another_device():
    b = backbone("llama")
    batch = b.pack([TokenSequence(row, reads=(0, 2)) for row in (ROW, SHORT)])
    call = Call([PromptTensors()], batch, None, b.geometry.num_embeddings)
    runs = call.runs("encoder", None)
    assert call.runs("encoder", None) is runs
    assert call.on(torch.device("meta"))._runs == {}


def test_gpus_without_the_kernel_are_passed_over_in_silence(capable, recwarn):
    capable.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not varlen.is_trusted(CPU, torch.bfloat16, 16)
    assert not recwarn.list


def test_torchs_kernel_has_the_arguments_that_are_used():
    assert varlen.kernel() is torch.nn.attention.varlen.varlen_attn


GPU = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < varlen.FIRST_CAPABILITY,
    reason="needs a GPU, Ampere or newer",
)


@GPU
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_of_this_gpu_is_right(dtype, width):
    assert varlen.trial(torch.device("cuda"), dtype, width) <= varlen.AGREEMENT


@GPU
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_on_this_gpu_a_pack_through_the_kernel_is_the_pack_through_masks(name, monkeypatch):
    b = backbone(name)
    b.model.to("cuda", torch.bfloat16)
    asked = []
    attend = varlen.attend
    monkeypatch.setattr(
        varlen, "attend", lambda *args, **more: asked.append(1) or attend(*args, **more)
    )
    prompt = deep(b, 3)
    leaves([prompt])
    batch = b.pack([TokenSequence(row, reads=(0, 2)) for row in (ROW, SHORT)])
    got = results(b, [prompt], batch)
    assert len(asked) == len(b.geometry.sites)
    monkeypatch.setattr(varlen, "takes", lambda *flat: False)
    for one, other in zip(got, results(b, [prompt], batch), strict=True):
        assert (one - other).norm() <= 0.05 * other.norm()
