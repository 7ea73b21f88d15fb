import pytest
import tiny
import torch
import transformers as hf

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.inject import LanguageHead, Words, head
from ptune.run import run

ROW = TokenSequence((9, 10, 11, 12, 13, 14), reads=(1, 3, 4, 5))


def backbone_of(kind):
    if kind != "bert, masked":
        return tiny.backbone(kind)
    torch.manual_seed(0)
    return Backbone.load(
        hf.BertForMaskedLM(hf.BertConfig(**tiny.SMALL)), tokenizer=tiny.tokenizer()
    )


def words_of(backbone):
    return run(backbone, [PromptTensors()], backbone.pack([ROW]), read="words")


def fresh(kind="llama"):
    """Words whose states are a leaf, so that their gradient can be looked at."""
    backbone = backbone_of(kind)
    states = words_of(backbone).states.detach().clone().requires_grad_()
    return Words(states, backbone.language_head(object))


@pytest.fixture
def asked(monkeypatch):
    """At how many reads the head was computed, pass by pass."""
    sizes, call = [], LanguageHead.__call__

    def counting(self, states):
        sizes.append(len(states))
        return call(self, states)

    monkeypatch.setattr(LanguageHead, "__call__", counting)
    return sizes


@pytest.mark.parametrize("reads_at_once", [1, 3, 100])
@pytest.mark.parametrize("kind", ["llama", "gemma2-window-4", "bert, masked"])
def test_log_probabilities_and_their_gradients_do_not_depend_on_how_many_are_made_at_once(
    kind, reads_at_once, monkeypatch
):
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", reads_at_once * tiny.VOCABULARY)
    words = fresh(kind)
    states = words.states
    reads, tokens = [0, 2, 3, 2, 1], [5, 40, 6, 41, 5]
    weights = torch.tensor([0.3, -1.0, 2.0, 0.7, 0.0])
    got = words.log_probabilities(tokens, reads)
    (got * weights).sum().backward()
    gradient, states.grad = states.grad, None
    expected = words.logits().log_softmax(-1)[reads, tokens]
    (expected * weights).sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient, states.grad, rtol=1e-4, atol=1e-6)


def test_no_more_logits_stand_in_memory_than_allowed(monkeypatch):
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", 2 * tiny.VOCABULARY)
    words = words_of(backbone_of("llama"))
    sizes = []
    words.head.model.lm_head.register_forward_hook(lambda m, i, out: sizes.append(out.numel()))
    words.log_probabilities([5, 6, 7, 8])
    assert sizes == [2 * tiny.VOCABULARY] * 2


def test_a_slice_of_the_reads_is_what_stands_at_those_reads():
    words = words_of(backbone_of("llama"))
    assert len(words) == 4
    assert len(words[1:3]) == 2
    torch.testing.assert_close(words[1:3].logits(), words.logits()[1:3])


def test_the_gradient_of_a_head_that_is_trained_is_not_lost():
    backbone = backbone_of("llama")
    weight = backbone.model.lm_head.weight.requires_grad_()
    words, tokens = words_of(backbone), [5, 6, 7, 8]
    words.log_probabilities(tokens).sum().backward()
    gradient, weight.grad = weight.grad, None
    logits = backbone.model(input_ids=torch.tensor([ROW.ids])).logits[0, list(ROW.reads)]
    logits.log_softmax(-1)[torch.arange(4), tokens].sum().backward()
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------- asked once


def test_what_is_asked_again_is_known(asked):
    words = fresh()
    words.logits_of([0], [5])  # the first time the head is tried
    asked.clear()
    first = words.log_probabilities([5, 6], [1, 3]), words.logits_of([2, 0], [5, 40])
    again = words.log_probabilities([5, 6], [1, 3]), words.logits_of([2, 0], [5, 40])
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert asked == [2, 2]
    words.log_probabilities([5, 7], [1, 3])
    words.log_probabilities([5, 6], [0, 3])
    words.logits_of([2, 0], [5, 41])
    assert asked == [2] * 5


def test_what_was_asked_without_gradients_is_asked_again_where_there_are_some():
    words = fresh()
    with torch.no_grad():
        plain = words.log_probabilities([5, 6, 7, 8])
    assert not plain.requires_grad
    words.log_probabilities([5, 6, 7, 8]).sum().backward()
    assert words.states.grad.abs().sum() > 0


def questions(words):
    """Both kinds, as a task asks them: of labels with words of one token and of several."""
    behind = words.logits_of([0], [5, 40])
    later = words.log_probabilities([6] * (len(words) - 1), range(1, len(words)))
    return behind.log_softmax(-1)[:, 0].sum() + later.mul(torch.arange(len(later)) + 1.0).sum()


def chosen(words):
    """One kind alone, at some of the reads."""
    return words.log_probabilities([7], [len(words) - 1]).sum()


@pytest.mark.parametrize("kind", ["llama", "gemma2-window-4", "bert, masked"])
def test_parts_are_answered_as_if_alone_and_the_head_is_computed_once_for_all(kind, asked):
    whole, losses = fresh(kind), [questions, chosen, questions]
    spans = [slice(0, 2), slice(2, 3), slice(3, 4)]
    sum(loss(whole[span]) for loss, span in zip(losses, spans, strict=True)).backward()
    gradient, whole.states.grad = whole.states.grad, None
    expected = [loss(whole[span]).item() for loss, span in zip(losses, spans, strict=True)]
    asked.clear()
    parts = whole.split([2, 3, 4], losses)
    assert sorted(asked) == [2, 2]  # logits behind two rows, log-probabilities at two reads
    got = [loss(part) for loss, part in zip(losses, parts, strict=True)]
    assert len(asked) == 2
    assert [one.item() for one in got] == pytest.approx(expected, abs=1e-5)
    sum(got).backward()
    torch.testing.assert_close(whole.states.grad, gradient, rtol=1e-4, atol=1e-6)


def test_different_words_are_told_apart_among_parts():
    words = fresh()
    asking = [lambda w: w.logits_of([0], [5, 40]), lambda w: w.logits_of([0], [6, 41, 7])]
    parts = words.split([1, 4], asking)
    torch.testing.assert_close(asking[0](parts[0]), asking[0](words[0:1]))
    torch.testing.assert_close(asking[1](parts[1]), asking[1](words[1:4]))


def test_what_was_not_rehearsed_is_answered_too():
    """Its second question depends on the first answer, which a rehearsal does not have."""

    def asking(words):
        best = int(words.logits_of([0], [5, 6, 7]).argmax())
        return words.log_probabilities([(5, 6, 7)[best]], [0])

    words = fresh()
    parts = words.split([1, 2, 4], [asking] * 3)
    for part, span in zip(parts, [slice(0, 1), slice(1, 2), slice(2, 4)], strict=True):
        torch.testing.assert_close(asking(part), asking(words[span]))


@pytest.mark.parametrize("asking", [lambda w: w.logits().sum(), lambda w: w[0:1].logits().sum()])
def test_all_logits_are_made_when_they_are_used_and_not_in_a_rehearsal(asking, asked):
    parts = fresh().split([2, 4], [asking] * 2)
    assert asked == []
    asking(parts[0])
    assert len(asked) == 1


def test_a_rehearsal_draws_no_random_number_that_is_missed():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fresh_state = torch.get_rng_state()
    words = fresh()
    torch.set_rng_state(fresh_state)
    words.split([2, 4], [lambda w: torch.rand(5)] * 2)
    assert torch.equal(torch.rand(2), expected)


def test_one_part_alone_is_asked_when_it_asks(asked):
    asked.clear()
    (part,) = fresh().split([4], [questions])
    assert asked == []
    questions(part)
    assert 3 in asked
