import dataclasses
import errno
import re
import warnings
from pathlib import Path

import pytest
import torch
from test_run import ROW, SHORT, deep
from tiny import ALL, backbone

from ptune.batch import Branch, PromptTensors, TokenSequence
from ptune.errors import BackboneError
from ptune.inject import Cut
from ptune.inject.session import layers
from ptune.run import run, run_beneath
from ptune.trunk import Disk, Memory, Trunk, find_cut

FROM = 2  # the first site with a prompt: two layers lie beneath
PLENTY = 10**6


def rows_of(b):
    """Rows that share a head, stand alone, are continued, and have segment types."""
    types = (0,) * 3 + (1,) * 6 if "token_type_ids" in b.geometry.takes else ()
    rows = [
        TokenSequence(ROW, reads=(0, 8), shared=2, types=types),
        TokenSequence(ROW[:2] + SHORT, reads=(4,), shared=2, types=types[:5]),
        TokenSequence(SHORT, reads=(0, 2)),
        TokenSequence(ROW, reads=(0, 8), shared=2),  # as the first one, of one type
        TokenSequence(ROW[::-1] + SHORT, reads=(11,)),
        TokenSequence(ROW[:4], reads=(3,), shared=4, types=types[:4]),
    ]
    if b.geometry.causal:
        branches = (Branch((7, 21), (0, 1)), Branch((31, 30, 29), (2,)))
        rows.append(
            TokenSequence(ROW[:6], reads=(5,), shared=2, branches=branches, types=types[:6])
        )
    return rows


def upper(b, **more):
    """A deep prompt in the upper layers, to be trained, and its numbers."""
    prompt = deep(b, sites=range(FROM, len(b.geometry.sites)), **more)
    leaves = [tensor.requires_grad_() for kv in prompt.deep.values() for tensor in kv]
    return prompt, leaves


def trunk_of(b, chunks, room=PLENTY, store=None):
    return Trunk(b, find_cut(b, FROM), chunks, store=store or Memory(), room=room)


def ordinary(b, prompts, rows, leaves=()):
    read = run(b, prompts, b.pack(rows))
    return (read, *torch.autograd.grad(read.sin().sum(), leaves)) if leaves else (read,)


def remembered(trunk, prompts, rows, leaves=()):
    b, batch = trunk.backbone, trunk.backbone.pack(rows)
    read = run(b, prompts, batch, entering=trunk.entering(rows, prompts, batch))
    return (read, *torch.autograd.grad(read.sin().sum(), leaves)) if leaves else (read,)


def equal(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class FirstLayer:
    """Counts how often the first layer computes. (It is called when it hands on, too.)"""

    def __init__(self, b):
        self.count = 0
        site = b.body.get_submodule(b.geometry.sites[0].name)
        site.register_forward_pre_hook(self._add)

    def _add(self, *_):
        self.count += 1


CASES = [(name, False) for name in ALL] + [(n, True) for n in ("albert", "bloom", "llama")]


@pytest.mark.parametrize(("name", "checkpointing"), CASES)
def test_states_and_gradients_are_those_of_the_ordinary_way(name, checkpointing):
    b = backbone(name)
    b.gradient_checkpointing = checkpointing
    rows = rows_of(b)
    prompt, leaves = upper(b)
    trunk = trunk_of(b, [rows[:2], rows[2:]])
    for batch in (rows[:2], rows, rows[:0:-1]):
        expected = ordinary(b, [prompt], batch, leaves)
        equal(remembered(trunk, [prompt], batch, leaves), expected)
        assert all((gradient != 0).any() for gradient in expected[1:])


@pytest.mark.parametrize("name", [name for name in ALL if name != "albert"])
def test_what_is_remembered_is_not_computed_again(name):
    b = backbone(name)
    rows = rows_of(b)
    prompt, _ = upper(b)
    trunk = trunk_of(b, [rows[:2], rows[2:]])
    calls = FirstLayer(b)
    remembered(trunk, [prompt], rows)
    assert calls.count == 2  # one pass a chunk
    for batch in (rows, rows[1:4], rows[::-1]):
        remembered(trunk, [prompt], batch)
    assert calls.count == 2


def test_one_module_that_is_every_layer_runs_for_the_upper_ones_alone():
    b = backbone("albert")
    rows = rows_of(b)
    prompt, _ = upper(b)
    trunk = trunk_of(b, [rows])
    calls = FirstLayer(b)
    remembered(trunk, [prompt], rows)
    assert calls.count == len(b.geometry.sites)  # two beneath, one above
    remembered(trunk, [prompt], rows)
    assert calls.count == len(b.geometry.sites) + 1


@pytest.mark.parametrize("name", ALL)
def test_without_the_cache_no_gradient_flows_into_the_layers_beneath(name):
    b = backbone(name)
    prompt, leaves = upper(b)
    need = []
    for layer in layers(b.model, b._sites):
        layer.register_forward_hook(
            lambda _m, _args, out: need.append(
                (out[0] if isinstance(out, tuple) else out).requires_grad
            )
        )
    ordinary(b, [prompt], rows_of(b)[:3], leaves)
    assert need == [False] * FROM + [True] * (len(b.geometry.sites) - FROM)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_rows_for_which_there_is_no_room_are_computed_every_time(name):
    b = backbone(name)
    rows = rows_of(b)
    prompt, leaves = upper(b)
    size = b.pack(rows[:2]).real_tokens * b.geometry.hidden * 4
    trunk = trunk_of(b, [rows[:2], rows[2:4], rows[4:]], room=size)
    assert (trunk.rows_kept, trunk.rows, trunk.bytes_kept) == (2, len(rows), size)
    calls = FirstLayer(b)
    for _ in range(2):
        equal(remembered(trunk, [prompt], rows, leaves), ordinary(b, [prompt], rows, leaves))
    assert calls.count == 1 + 2 + 2  # the chunk; twice the others, and twice the ordinary way


def test_a_head_that_rows_share_takes_room_once_in_a_chunk():
    b = backbone("llama")
    rows = rows_of(b)
    trunk = trunk_of(b, [rows])
    assert trunk.bytes_kept == b.pack(rows).real_tokens * 32 * 4
    assert b.pack(rows).real_tokens < sum(len(row.ids) for row in rows) + 5


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_what_a_batch_sees_does_not_depend_on_what_was_run_before(name, monkeypatch):
    b = backbone(name)

    def rounding(backbone, prompts, batch, cut):  # as large packs have it, but seen with the eye
        return run_beneath(backbone, prompts, batch, cut) + 0.01 * batch.real_tokens

    monkeypatch.setattr("ptune.trunk.run_beneath", rounding)
    rows = rows_of(b)
    prompt, _ = upper(b)
    chunks = [rows[:2], rows[1:4]]  # a row in both, and rows in none
    cut = Cut(FROM, len(b.geometry.sites), FROM, b.geometry.hidden * 4, None)
    fresh, used = (Trunk(b, cut, chunks, store=Memory(), room=PLENTY) for _ in range(2))
    for batch in (rows[2:], rows[1:2], rows[::-1]):
        remembered(used, [prompt], batch)
    batch = [rows[3], rows[0], rows[4], rows[1]]
    packed = b.pack(batch)
    assert torch.equal(
        fresh.entering(batch, [prompt], packed).states,
        used.entering(batch, [prompt], packed).states,
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_prompts_with_positions_of_their_own_share_a_batch(name):
    b = backbone(name)
    base = rows_of(b)[:4]
    first, _ = upper(b)
    second, _ = upper(b, seed=7)
    prompts = [first, dataclasses.replace(second, offset=5)]
    rows = [*base, *(dataclasses.replace(row, prompt=1) for row in base)]
    trunk = trunk_of(b, [base[:2]])  # the others are computed in their batch, at their offsets
    for batch in (rows, rows[::-1]):
        equal(remembered(trunk, prompts, batch), ordinary(b, prompts, batch))


def test_passes_in_two_precisions_remember_apart():
    b = backbone("bert")
    rows = rows_of(b)
    prompt, _ = upper(b)
    trunk = trunk_of(b, [rows])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        equal(remembered(trunk, [prompt], rows), ordinary(b, [prompt], rows))
    equal(remembered(trunk, [prompt], rows), ordinary(b, [prompt], rows))


def test_a_bfloat16_backbone_gets_back_what_it_computed(tmp_path):
    b = backbone("llama")
    b.model.to(torch.bfloat16)
    rows = rows_of(b)
    prompt, _ = upper(b)
    for store in (Memory(), Disk(tmp_path)):
        trunk = trunk_of(b, [rows], store=store)
        for _ in range(2):
            equal(remembered(trunk, [prompt], rows), ordinary(b, [prompt], rows), 0.0)
        trunk.close()


def test_on_disk_is_as_in_memory_and_leaves_nothing_behind(tmp_path):
    b = backbone("llama")
    rows = rows_of(b)
    prompt, _ = upper(b)
    memory, disk = trunk_of(b, [rows]), trunk_of(b, [rows], store=Disk(tmp_path))
    for batch in (rows, rows[::-1]):
        equal(remembered(disk, [prompt], batch), remembered(memory, [prompt], batch), 0.0)
    disk.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here that is always full")
def test_a_disk_without_room_is_an_error_that_can_be_met(monkeypatch):
    def always_full(buffering, dir):
        return Path("/dev/full").open("r+b", buffering=buffering)

    monkeypatch.setattr("tempfile.TemporaryFile", always_full)
    disk = Disk(None)
    with pytest.raises(OSError, match="No space left on device"):
        disk.put(torch.ones(2, 3))
    disk.close()


class Full(Memory):
    """A disk that fills up behind the first segments."""

    def __init__(self, room):
        self.room = room

    def put(self, states):
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return states


def test_a_full_disk_is_said_once_and_costs_time_alone():
    b = backbone("llama")
    rows = rows_of(b)
    prompt, _ = upper(b)
    trunk = trunk_of(b, [rows[2:3], rows[:2], rows[3:]], store=Full(2))
    message = (
        "frozen trunk: no more rows are remembered (No space left on device); the others are "
        "computed in every step. Choose another place or less room with trunk_cache."
    )
    with pytest.warns(UserWarning, match=re.escape(message)) as said:
        got = remembered(trunk, [prompt], rows)
    assert len(said) == 1
    equal(got, ordinary(b, [prompt], rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal(remembered(trunk, [prompt], rows[::-1]), ordinary(b, [prompt], rows[::-1]))


def test_a_prompt_that_reaches_beneath_the_cut_is_refused():
    b = backbone("llama")
    rows = rows_of(b)
    trunk = trunk_of(b, [rows])
    for prompt in (deep(b, sites=[1, 2]), PromptTensors(vectors=torch.zeros(1, 32))):
        with pytest.raises(
            ValueError, match="A prompt reaches beneath the cut of the frozen trunk"
        ):
            trunk.entering(rows, [prompt], b.pack(rows))


# ---- which backbones can be cut ----


def refusal(b, site=FROM):
    with pytest.raises(BackboneError) as error:
        find_cut(b, site)
    return str(error.value)


@pytest.mark.parametrize("name", ALL)
def test_the_cut_lies_beneath_the_layer_of_the_site(name):
    b = backbone(name)
    for site, _ in enumerate(b.geometry.sites):
        cut = find_cut(b, site)
        assert (cut.layers, cut.sites, cut.total) == (site, site, len(b.geometry.sites))
        assert cut.token_bytes == 32 * 4


def test_padded_batches_are_not_remembered():
    b = backbone("llama")
    b.geometry = dataclasses.replace(b.geometry, padded=True)
    assert refusal(b) == "its batches are padded"


def test_layers_that_return_more_than_states_are_not_cut():
    b = backbone("llama")
    layer = layers(b.model, b._sites)[1]
    forward = layer.forward
    layer.forward = lambda *args, **named: (forward(*args, **named), torch.ones(1))
    above = layers(b.model, b._sites)[2]
    above.register_forward_pre_hook(lambda _m, args: (args[0][0], *args[1:]))
    assert refusal(b) == "its layers return more than states"


def test_a_layer_that_reads_what_a_lower_one_left_behind_is_not_cut():
    b = backbone("llama")
    left = {}
    lower, _, top = layers(b.model, b._sites)
    lower.mlp.register_forward_hook(lambda _m, _args, out: left.update(states=out))
    top.register_forward_pre_hook(lambda _m, args: (args[0] + 1e-3 * left["states"], *args[1:]))
    assert refusal(b, 1) == "its upper layers need more than the states of the lower ones"


def test_a_layer_that_misses_what_a_lower_one_gives_is_not_cut():
    b = backbone("llama")
    given = {}
    lower, _, top = layers(b.model, b._sites)
    lower.mlp.register_forward_hook(lambda _m, _args, out: given.update(states=out))
    top.register_forward_pre_hook(lambda _m, args: (args[0] + given.pop("states"), *args[1:]))
    assert refusal(b, 1) == "its upper layers need the lower ones to run (KeyError)"


def test_the_backbone_is_as_before():
    b = backbone("llama")
    rows = rows_of(b)
    prompt, _ = upper(b)
    before = ordinary(b, [prompt], rows)
    remembered(trunk_of(b, [rows]), [prompt], rows)
    assert not any("forward" in module.__dict__ for module in b.model.modules())
    equal(ordinary(b, [prompt], rows), before, 0.0)
