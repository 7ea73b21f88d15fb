r"""Ranks: which place the right object has among the words, and the scores made of that.

    log p       Florence -1.2   Rome -1.9   the -0.3       at the answer of "Dante was born in"
    the list    Florence        Rome                       `the` is no word of the list
    rank        1

    P@k = share of facts of rank <= k        MRR = mean of 1 / rank

Equal tokens stand in the order of their ids, so that a rank is one number. Other right objects of a
subject are not taken out (the code of Liu et al. 2021 does not either).

Task `FactTask` trains and measures a prompt by these: the loss is over the whole vocabulary, ranks
are over the list alone. A masked language model is read at its mask, a causal one behind its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.errors import ConfigError, DataError
from ptune.inject import Words
from ptune.layout import Layout, Rendered
from ptune.probing.words import Spelling
from ptune.tasks import Answer, Example, Prediction
from ptune.tasks.task import Row
from ptune.template import Template
from ptune.values import place_of


def ranks(
    scores: Float[Tensor, "facts vocab"],
    right: Int[Tensor, " facts"],
    allowed: Int[Tensor, " words"] | None = None,
) -> Int[Tensor, " facts"]:
    """The place of the right token among the allowed ones, from 1.

    Args:
        scores: of every token of the vocabulary; only their order counts.
        right: token of each fact's object; one of `allowed`.
        allowed: the tokens that are ranked; None ranks all.

    >>> ranks(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2]), torch.tensor([0, 2]))
    tensor([1])
    """
    own = scores.gather(1, right[:, None])
    tokens = torch.arange(scores.shape[1], device=scores.device) if allowed is None else allowed
    others = scores[:, tokens]
    # Counted from behind: a score that is no number (nan) then makes the rank the last one.
    from_own_on = (others < own) | ((others == own) & (tokens >= right[:, None]))
    return 1 + others.shape[1] - from_own_on.sum(dim=1)


def scores_of(found: Sequence[int]) -> dict[str, float]:
    """P@1, P@10 and MRR of some ranks.

    >>> scores_of([1, 2, 20])
    {'p_at_1': 0.3333333333333333, 'p_at_10': 0.6666666666666666, 'mrr': 0.5166666666666667}
    """
    return {
        "p_at_1": sum(rank <= 1 for rank in found) / len(found),
        "p_at_10": sum(rank <= 10 for rank in found) / len(found),
        "mrr": sum(1 / rank for rank in found) / len(found),
    }


@dataclass(frozen=True, slots=True)
class Ranked(Prediction):
    """The first word of the list, and the rank of the right one."""

    rank: int = 0


class FactTask:
    """One relation: the object as the one token at the answer.

    Args:
        layout: the template, bound to the tokenizer.
        spelling: how words are written at the answer.
        allowed: tokens that are ranked; None ranks the whole vocabulary.
        masked: whether the answer is a mask, and not the next token.
    """

    name = "facts"
    read: Literal["states", "words"] = "words"
    labels: tuple[str, ...] = ()
    room = 0

    def __init__(
        self,
        layout: Layout,
        tokenizer: object,
        spelling: Spelling,
        *,
        allowed: Int[Tensor, " words"] | None,
        masked: bool,
    ) -> None:
        self.layout, self.spelling = layout, spelling
        self.allowed, self.masked = allowed, masked
        self._tokenizer = tokenizer
        self._listed = None if allowed is None else set(allowed.tolist())

    def known(self, objects: Sequence[str]) -> tuple[list[int | None], int]:
        """The token of each object that can be ranked, else None; and how many are off the list.

        The others that are None are no single token of the tokenizer.
        """
        tokens = self.spelling.tokens(objects)
        if self._listed is None:
            return tokens, 0
        kept = [token if token in self._listed else None for token in tokens]
        return kept, sum(a is not None for a in tokens) - sum(a is not None for a in kept)

    def head(self, hidden: int) -> nn.Module | None:
        """None: the backbone's own language-model head gives the words."""
        return None

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Subjects, each with the token of its object.

        Raises:
            DataError: an object is no token that can be ranked (`known` says which).
        """
        if answers is None:
            return [
                Example(self._sequence(one, place_of(rows, at)), cut=one.cut)
                for at, one in enumerate(self.layout.render(rows))
            ]
        tokens, _ = self.known([str(answer) for answer in answers])
        for at, (token, answer) in enumerate(zip(tokens, answers, strict=True)):
            if token is None:
                raise DataError(
                    f"{place_of(rows, at)}: the object {str(answer)!r} is not one token of the "
                    "model, or not on the list of words. Leave the fact out."
                )
        told = zip(self.layout.render(rows), tokens, answers, strict=True)
        return [
            Example(self._sequence(one, place_of(rows, at)), token, answer, one.cut)
            for at, (one, token, answer) in enumerate(told)
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """The same: the object is no part of what is seen."""
        return self.examples(rows, answers)

    def _sequence(self, one: Rendered, place: str) -> TokenSequence:
        if self.masked:
            return TokenSequence(one.ids, reads=one.masks, shared=one.shared, types=one.types)
        assert one.label_at is not None
        if one.label_at == 0:
            raise DataError(
                f"{place}: the fact has no token before its answer, since its subject is empty. "
                "Give one, or leave the fact out."
            )
        seen = slice(0, one.label_at)
        return TokenSequence(
            one.ids[seen],
            reads=(one.label_at - 1,),
            shared=min(one.shared, one.label_at),
            types=one.types[seen],
        )

    def loss(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " examples"]:
        """Negative log-probability of the object among all tokens of the vocabulary."""
        return -read.log_probabilities([example.target for example in examples])

    def predict(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> list[Prediction]:
        """The first word of the list for each fact, and the rank of its object."""
        scores = read.logits().float()
        right = torch.tensor([example.target for example in examples], device=scores.device)
        allowed = None if self.allowed is None else self.allowed.to(scores.device)
        found = ranks(scores, right, allowed).tolist()
        best = scores.argmax(1) if allowed is None else allowed[scores[:, allowed].argmax(1)]
        decode = getattr(self._tokenizer, "batch_decode")  # noqa: B009  # any tokenizer
        words = decode([[token] for token in best.tolist()])
        return [Ranked(word.strip(), rank=at) for word, at in zip(words, found, strict=True)]

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """P@1, P@10, MRR."""
        return scores_of([one.rank for one in predictions if isinstance(one, Ranked)])


def fact_task(
    template: Template, backbone: Backbone, words: Sequence[str] | None, *, max_tokens: int
) -> FactTask:
    """Bind a template of `ptune.probing.templates` to a backbone.

    Args:
        words: the list that objects are ranked among; None ranks the whole vocabulary.
        max_tokens: longest row.
    Raises:
        ConfigError: no word of the list is one token of the backbone.
        TemplateError: the tokenizer has no mask token, or the template is too long.
    """
    tokenizer, masked = backbone.tokenizer, not template.has_label
    # One token is kept free for the object.
    layout = template.bind(tokenizer, max_tokens=max_tokens - (not masked))
    spelling = Spelling(tokenizer, layout)
    allowed = None
    if words is not None:
        tokens = sorted({token for token in spelling.tokens(words) if token is not None})
        if not tokens:
            raise ConfigError(
                f'no word of the list is one token of "{backbone.name}". Make a list for it: '
                "ptune vocabulary MODEL --output words.txt."
            )
        allowed = torch.tensor(tokens)
    return FactTask(layout, tokenizer, spelling, allowed=allowed, masked=masked)
