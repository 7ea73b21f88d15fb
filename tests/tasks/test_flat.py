import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.batch import Branch, TokenSequence, pack
from ptune.tasks import Example, TaskOptions, make_task
from ptune.tasks.flat import FlatExamples, computed_tokens, lengths_of, rows_cut
from ptune.template import Template

IDS = st.lists(st.integers(-4, 300_000), min_size=1, max_size=9).map(tuple)
NUMBERS = st.integers(-5, 5) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=9)
TUPLES = st.lists(st.integers(0, 300_000), max_size=4).map(tuple)
TARGETS = st.none() | NUMBERS | TUPLES | st.tuples(TUPLES, TEXTS)
ANSWERS = st.none() | TEXTS | st.floats(allow_nan=False) | st.lists(TEXTS, max_size=3).map(tuple)
TYPES = st.sampled_from([(), (0,) * 9, (1, 0, 2) * 3])
READS = st.lists(st.integers(0, 8), max_size=3).map(tuple)
SMALL = st.integers(0, 2)
# Plain values: what checks types at run time draws random numbers, which hypothesis forbids inside.
RAW = st.tuples(
    *(IDS, SMALL, READS, SMALL, TYPES, st.lists(IDS, max_size=2), TARGETS, ANSWERS, SMALL),
    st.lists(IDS, max_size=2),
)
RAWS = st.lists(RAW, min_size=1, max_size=8)


def example(ids, prompt, reads, shared, types, branches, target, answer, cut, others):
    made = tuple(Branch(some, (0,)) for some in branches)
    sequence = TokenSequence(ids, prompt, reads, shared, types[: len(ids)], made)
    more = tuple(TokenSequence(other, types=(0,) * len(other)) for other in others)
    return Example(sequence, target, answer, cut, more)


def in_parts(rows, size):
    return [rows[at : at + size] for at in range(0, len(rows), size)]


@settings(max_examples=60, deadline=None)
@given(RAWS, st.integers(1, 8))
def test_flat_examples_are_the_examples_they_were_made_of(raws, size):
    rows = [example(*raw) for raw in raws]
    flat = FlatExamples.of(in_parts(rows, size))
    assert len(flat) == len(rows)
    assert list(flat) == rows
    for one, other in zip(flat, rows, strict=True):
        assert type(one.target) is type(other.target)
        assert type(one.answer) is type(other.answer)
    assert flat[-1] == rows[-1]
    assert list(flat[1::2]) == rows[1::2]
    assert list(flat[::-1][1:]) == rows[::-1][1:]


@settings(max_examples=30, deadline=None)
@given(RAWS, st.booleans())
def test_what_is_counted_without_making_examples_is_what_the_examples_say(raws, share):
    rows = [example(*raw) for raw in raws]
    flat = FlatExamples.of([rows])[::2]
    assert lengths_of(flat) == lengths_of(rows[::2])
    assert rows_cut(flat) == rows_cut(rows[::2])
    ours, theirs = (computed_tokens(some, share=share) for some in (flat, rows[::2]))
    assert ours.tolist() == theirs.tolist()


def test_the_end_of_the_rows_is_an_end():
    flat = FlatExamples.of([[Example(TokenSequence((5,)))] * 3])[1:]
    assert len(flat) == 2
    with pytest.raises(IndexError):
        flat[2]


def test_one_and_one_point_nought_are_not_mixed_up():
    rows = [Example(TokenSequence((5,)), target, None) for target in (1, 1.0, True)]
    assert [type(one.target) for one in FlatExamples.of([rows])] == [int, float, bool]


def test_equal_targets_and_branches_are_kept_once():
    branches = (Branch((7, 8), (0, 1)),)
    rows = [Example(TokenSequence((5, i), branches=branches), i % 2, "ab"[i % 2]) for i in range(9)]
    tensors = FlatExamples.of([rows[:4], rows[4:]]).tensors
    assert tensors["record"].tolist() == [0, 1] * 4 + [0]
    assert bytes(tensors["records"].tolist()) == b'[0,"a"][1,"b"]'
    assert bytes(tensors["layouts"].tolist()) == b"[0,0,[[[7,8],[0,1]]]]"


def test_what_would_come_back_as_something_else_is_refused():
    with pytest.raises(TypeError, match=r"\[1, 2\] or None cannot be kept"):
        FlatExamples.of([[Example(TokenSequence((5,)), [1, 2])]])


def test_a_row_may_have_several_sequences():
    row = Branch((3, 3), (1,))
    windows = (TokenSequence((7, 8, 9), reads=(0, 2)), TokenSequence((7,), types=(1,)))
    rows = [
        Example(TokenSequence((5, 6), types=(0, 0))),
        Example(TokenSequence((4,), branches=(row,)), ((1, 2), 3), "a", 2, windows),
        Example(TokenSequence((2, 2), types=(0, 1)), None, "b"),
    ]
    flat = FlatExamples.of([rows[:2], rows[2:]])
    assert list(flat) == rows
    assert lengths_of(flat) == lengths_of(rows) == [2, 5, 2]
    assert lengths_of(flat[1:]) == [5, 2]
    for share in (True, False):
        ours, theirs = (computed_tokens(some, share=share) for some in (flat, rows))
        assert ours.tolist() == theirs.tolist()


def test_arrays_are_small():
    rows = [Example(TokenSequence(tuple(range(30)), reads=(29,), types=(0,) * 30), 1, "a")] * 1000
    size = sum(tensor.nbytes for tensor in FlatExamples.of([rows]).tensors.values())
    assert size < 1000 * (30 * 4 + 36)


def test_a_batchs_tokens_are_those_of_its_rows_and_the_shared_head():
    """The count that batches are cut by, against the pack that is run."""
    backbone = tiny.backbone("llama")
    template = Template.parse("{soft:2}{text} label : {label}")
    task = make_task(
        "causal-lm", template, backbone, TaskOptions(labels=("yes", "very good", "bad film no"))
    )
    rows = task.examples([{"text": text} for text in ("late", "my parcel is late", "thank you")])
    sequences = [row.sequence for row in rows]
    shared = computed_tokens(rows, share=True)
    assert int(shared.sum()) + task.layout.shared == pack(sequences, share=True).real_tokens
    alone = computed_tokens(rows, share=False)
    assert torch.equal(alone, torch.tensor([pack([s], share=False).real_tokens for s in sequences]))
