r"""What the head says at the reads of a batch, computed as far as it is asked, and once.

    words = Words(states, head)
    words.log_probabilities(tokens)     # of one token a read; never a whole (reads, vocab) tensor
    words.logits_of(reads, tokens)      # of some tokens alone: no other row of the head is touched
    words.logits()                      # all of them

What is asked again is known: a loss and a prediction of the same rows share their answers.

Rows of several prompts that are read together (replicas) are asked for one after the other, and
each question would read the whole matrix of the head, which may be larger than the body. So all of
them are rehearsed first, and what they ask is asked in one:

    rows of prompt 0    log p(5), log p(9)    \
    rows of prompt 1    log p(7)               >    states of 5 reads x matrix, once
    rows of prompt 2    log p(5), log p(3)    /

The gradient of a log-probability by its state is made together with it, a few reads at a time:

    d log p(t | s) / ds  =  J(s)^T (e_t - softmax(logits(s)))        J: of the head, by autograd

so the backward pass needs one number a read and no logits (Liger's and Apple's cut cross-entropy do
so for linear heads: arXiv:2410.10989, arXiv:2411.09009).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from ptune.inject.head import LanguageHead, Logits, States


class Question(NamedTuple):
    """What the head is asked at some reads.

    Args:
        among: the tokens whose logits are asked for at every read; None asks for the
            log-probability of one token at each read.
        tokens: those of the reads, in their order, where there is one for each.
    """

    reads: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    among: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the answer."""
        return (len(self.reads),) if self.among is None else (len(self.reads), len(self.among))

    def moved(self, by: int) -> "Question":
        """The same of reads that stand so many behind these."""
        return self._replace(reads=tuple(read + by for read in self.reads))

    @classmethod
    def joined(cls, questions: "Sequence[Question]") -> "Question":
        """One for several that agree in `among`: its answer is theirs, one behind the other.

        >>> Question.joined([Question((0, 1), (5, 9)), Question((2,), (7,))])
        Question(reads=(0, 1, 2), tokens=(5, 9, 7), among=None)
        """
        reads, tokens = (tuple(chain(*own)) for own in list(zip(*questions, strict=True))[:2])
        return cls(reads, tokens, questions[0].among)


class Words:
    """What the head says at the reads of a batch.

    Tokens and reads are numbers of the host, as the rows have them: two questions are compared
    without waiting for a GPU.

    Args:
        states: final states at the reads.
        head: the backbone's.
    """

    def __init__(self, states: States, head: LanguageHead) -> None:
        self.states = states
        self.head = head
        # Asked with gradients or without: those asked without have none.
        self._known: dict[tuple[Question, bool], Tensor] = {}

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, reads: slice) -> "Words":
        return Words(self.states[reads], self.head)

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self.states.device

    def logits(self) -> Logits:
        """Logits over the whole vocabulary, in one tensor."""
        return self.head(self.states)

    def logits_of(
        self, reads: Sequence[int], tokens: Sequence[int]
    ) -> Float[Tensor, "chosen tokens"]:
        """Logits of some tokens at some reads, in float32. Only their differences mean anything."""
        return self._ask(Question(tuple(reads), among=tuple(tokens)))

    def log_probabilities(
        self, tokens: Sequence[int], reads: Sequence[int] | None = None
    ) -> Float[Tensor, " chosen"]:
        """The log-probability of one token at each read (or at the chosen ones), in nats."""
        chosen = range(len(self)) if reads is None else reads
        return self._ask(Question(tuple(chosen), tuple(tokens)))

    def split(
        self, ends: Sequence[int], asking: Sequence[Callable[["Words"], object]]
    ) -> list["Words"]:
        """The reads in parts; what each is going to be asked is asked in one, for all of them.

        Args:
            ends: of the parts.
            asking: of each part, what is going to be done with it. It is rehearsed, with zeros for
                answers; what it asks then that it did not ask in the rehearsal is answered, too.
        """
        starts = [0, *ends[:-1]]
        parts = [self[start:end] for start, end in zip(starts, ends, strict=True)]
        if len(parts) == 1:
            return parts
        alike: dict[Any, list[tuple[Words, Question, Question]]] = defaultdict(list)
        for part, start, ask in zip(parts, starts, asking, strict=True):
            for question in _rehearsed(part, ask):
                alike[question.among].append((part, question, question.moved(start)))
        for several in alike.values():
            own, questions, moved = zip(*several, strict=True)
            answer = self._answer(Question.joined(moved))
            answers = torch.split(answer, [len(question.reads) for question in questions])
            for part, question, each in zip(own, questions, answers, strict=True):
                part._known[question, torch.is_grad_enabled()] = each
        return parts

    def _ask(self, question: Question) -> Tensor:
        key = question, torch.is_grad_enabled()
        if key not in self._known:
            self._known[key] = self._answer(question)
        return self._known[key]

    def _answer(self, question: Question) -> Tensor:
        states = self.states
        if question.reads != tuple(range(len(self))):
            states = states[self._numbers(question.reads)]
        if question.among is not None:
            return self.head.over(states, self._numbers(question.among)).float()
        tokens = self._numbers(question.tokens)
        if self.head.is_trained:  # by a user, beside the prompt: its gradient needs the logits
            return -functional.cross_entropy(self.head(states).float(), tokens, reduction="none")
        return _LogProbability.apply(states, tokens, self.head)  # type: ignore[no-untyped-call]

    def _numbers(self, numbers: tuple[int, ...]) -> Int[Tensor, " numbers"]:
        return torch.tensor(numbers, dtype=torch.long, device=self.device)


class _Unrehearsed(Exception):
    """Ends a rehearsal: all logits are asked for, which are made when they are needed."""


class _Rehearsal(Words):
    """Takes questions, and answers zeros."""

    def __init__(self, part: Words) -> None:
        super().__init__(part.states, part.head)
        self.asked: list[Question] = []

    def logits(self) -> Logits:
        raise _Unrehearsed

    def __getitem__(self, reads: slice) -> Words:
        raise _Unrehearsed

    def _answer(self, question: Question) -> Tensor:
        self.asked.append(question)
        return torch.zeros(question.shape, device=self.device)


def _rehearsed(part: Words, ask: Callable[[Words], object]) -> list[Question]:
    """What is asked of a part; random numbers that are drawn are drawn again."""
    rehearsal = _Rehearsal(part)
    devices = [part.device] if part.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), suppress(_Unrehearsed):
        ask(rehearsal)
    return rehearsal.asked


class _LogProbability(torch.autograd.Function):
    """log p(token | state), a chunk of reads at a time; its gradient is made on the way."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, tokens: Tensor, head: LanguageHead) -> Tensor:
        said = torch.empty(len(states), dtype=torch.float32, device=states.device)
        wanted = ctx.needs_input_grad[0]
        slopes = torch.empty_like(states) if wanted else None
        size = head.reads_at_once
        for start in range(0, len(states), size):
            part = slice(start, start + size)
            with torch.set_grad_enabled(wanted):
                inner = states[part].detach().requires_grad_(wanted)
                logits = head(inner).float()
                each = -functional.cross_entropy(logits, tokens[part], reduction="none")
                if slopes is not None:
                    # A read's number depends on its own state alone: the sum gives all gradients.
                    (slopes[part],) = torch.autograd.grad(each.sum(), inner)
            said[part] = each.detach()
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return said

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return grads[0][:, None].to(slopes.dtype) * slopes, None, None
