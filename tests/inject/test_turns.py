"""Threads that use one model wait for each other."""

import copy
import threading

import pytest
import tiny
import torch

from ptune.batch import PromptTensors, TokenSequence
from ptune.inject.turns import turn
from ptune.run import run


def asked(b, prompt, *, read="states"):
    row = TokenSequence((-1, -2, 12, 40, 33, 17, 25), reads=(6,))
    with torch.no_grad():
        return run(b, [prompt], b.pack([row]), read=read)


def prompts_of(b):
    generator = torch.Generator().manual_seed(1)
    return [PromptTensors(torch.randn(2, b.geometry.width, generator=generator)) for _ in range(2)]


def in_threads(*works):
    errors = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    return errors


@pytest.mark.parametrize("read", ["states", "logits"])
def test_each_thread_gets_the_answer_of_its_own_prompt(read):
    b = tiny.backbone("llama")
    prompts = prompts_of(b)
    expected = [asked(b, prompt, read=read) for prompt in prompts]
    wrong = []

    def work(at):
        for _ in range(60):
            if not torch.equal(asked(b, prompts[at], read=read), expected[at]):
                wrong.append(at)

    assert in_threads(lambda: work(0), lambda: work(1)) == []
    assert wrong == []
    assert not any("_ptune" in module.__dict__ for module in b.model.modules())


def test_a_thread_waits_for_the_one_that_is_inside_and_models_do_not_wait_for_each_other():
    b, other = tiny.backbone("llama"), tiny.backbone("llama")
    inside, may_leave, done = threading.Event(), threading.Event(), []

    def first():
        with b.injected(), b.injected():  # its own turn does not stop a thread
            inside.set()
            may_leave.wait(60)
            done.append("first")

    def second():
        inside.wait(60)
        with other.injected():
            done.append("other")
            may_leave.set()
        with b.injected():
            done.append("second")

    assert in_threads(first, second) == []
    assert done[0] == "other"
    assert done.index("first") < done.index("second")


def test_the_body_of_a_model_and_the_whole_have_one_turn_and_can_be_copied():
    b = tiny.backbone("llama")
    entered = []

    def work():
        with turn(b.model):
            entered.append(True)

    with turn(b.body):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(timeout=0.2)
        assert not entered
    thread.join(timeout=60)
    assert entered
    copy.deepcopy(b.model)


def test_a_backward_pass_in_another_thread_does_not_wait_for_the_one_that_waits_for_it():
    """On a GPU, layers that are computed again run in threads of the backward pass."""
    b = tiny.backbone("llama")
    b.gradient_checkpointing = True
    row = TokenSequence((-1, -2, 12, 40, 33), reads=(4,))

    def gradient(elsewhere):
        vectors = prompts_of(b)[0].vectors.requires_grad_()
        with b.injected():
            loss = run(b, [PromptTensors(vectors)], b.pack([row])).sum()
            assert in_threads(loss.backward) == [] if elsewhere else loss.backward() is None
        return vectors.grad

    assert torch.equal(gradient(True), gradient(False))


def test_a_backward_pass_in_another_thread_waits_for_the_passes_of_a_third():
    b = tiny.backbone("llama")
    b.gradient_checkpointing = True
    first, second = prompts_of(b)
    expected, row = asked(b, second), TokenSequence((-1, -2, 12, 40, 33), reads=(4,))
    vectors = first.vectors.requires_grad_()
    (known,) = torch.autograd.grad(run(b, [first], b.pack([row])).sum(), vectors)
    losses = [run(b, [first], b.pack([row])).sum() for _ in range(20)]
    wrong = []

    def backwards():
        for loss in losses:
            (found,) = torch.autograd.grad(loss, vectors)
            if not torch.equal(found, known):
                wrong.append("gradient")

    def predictions():
        for _ in range(40):
            if not torch.equal(asked(b, second), expected):
                wrong.append("prediction")

    assert in_threads(backwards, predictions) == []
    assert wrong == []
