"""Choices scored by their words: in a decoder as what follows, in a masked model in a gap.

    It rained, so the lawn was  wet         log p(wet | ...)
    It rained, so the lawn was  [MASK]      log p(wet at the mask | ...)

Knows the layout with an open place at `{choice}`, and ids. The task: `ptune.tasks.multiple_choice`.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.batch import Branch, TokenSequence
from ptune.errors import DataError
from ptune.inject import Words
from ptune.layout import Layout, Rendered
from ptune.spelling import Ids
from ptune.tasks.choosing import Encoded, MultipleChoice
from ptune.tasks.task import Example, Row
from ptune.values import place_of


class _Spoken(MultipleChoice):
    """A choice by the log-probability of its words.

    Args:
        layout: the template with an open place at `{choice}`.
        mean: over the tokens of a choice, and not their sum.
        room: longest choice, in tokens.
        margin: as of `MultipleChoice`.
    Attributes:
        continues: whether a choice follows what stands before it, which then must be something.
    """

    continues = False

    def __init__(self, layout: Layout, *, mean: bool, room: int, margin: bool = False) -> None:
        super().__init__(layout, margin=margin)
        self.mean, self.room = mean, room

    def _encoded(
        self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]
    ) -> Iterator[Encoded]:
        for at, (texts, one) in enumerate(zip(choices, self.layout.render(rows), strict=True)):
            if self.continues and one.label_at == 0:
                raise DataError(
                    f"{place_of(rows, at)}: the row has no token before its choice, since its "
                    "fields are empty. Put some words before {choice} in the template, or leave "
                    "the row out."
                )
            whole = self._closed(self.layout.answer_ids(texts, plain=True))
            kept = [ids[: self.room] for ids in whole]
            cut = sum(map(len, whole)) - sum(map(len, kept))
            if len(set(kept)) < len(kept):
                raise DataError(
                    f"{place_of(rows, at)}: two choices have the same tokens: {', '.join(texts)}. "
                    f"{self.room} tokens of a choice are read. Mend or delete the row, or set "
                    "choose_by: head."
                )
            yield Encoded(tuple(self._laid_out(one, kept)), one.cut + cut, tuple(kept))

    def _closed(self, choices: Sequence[Ids]) -> Sequence[Ids]:
        """The choices, told apart where one is the beginning of another."""
        return choices

    def _laid_out(self, one: Rendered, choices: Sequence[Ids]) -> Iterator[TokenSequence]:
        raise NotImplementedError

    def _of_choices(
        self, each: Float[Tensor, " tokens"], examples: Sequence[Example]
    ) -> Float[Tensor, " choices"]:
        """The sum over the tokens of each choice, or their mean."""
        parts = torch.split(each, _lengths(examples))
        return torch.stack([part.mean() if self.mean else part.sum() for part in parts])

    def _for_margin(
        self, scores: Float[Tensor, " choices"], examples: Sequence[Example]
    ) -> Float[Tensor, " choices"]:
        if self.mean:
            return scores
        return scores / torch.tensor(_lengths(examples), device=scores.device)


def _lengths(examples: Sequence[Example]) -> list[int]:
    """How many tokens each choice of each example has."""
    return [len(ids) for example in examples for ids in example.target[2]]


class ByWords(_Spoken):
    """In a decoder: the choices continue the row, which is computed once.

    Args:
        end: the end token; None where the tokenizer has none.
    """

    continues = True

    def __init__(
        self, layout: Layout, *, mean: bool, room: int, end: int | None, margin: bool = False
    ) -> None:
        super().__init__(layout, mean=mean, room=room, margin=margin)
        self.end = end

    def _closed(self, choices: Sequence[Ids]) -> Sequence[Ids]:
        begins = any(a != b and b[: len(a)] == a for a in choices for b in choices)
        return [(*ids, self.end) for ids in choices] if begins and self.end is not None else choices

    def _laid_out(self, one: Rendered, choices: Sequence[Ids]) -> Iterator[TokenSequence]:
        assert one.label_at is not None
        yield TokenSequence(
            ids=one.ids[: one.label_at],
            reads=(one.label_at - 1,),
            shared=min(one.shared, one.label_at),
            types=one.types[: one.label_at],
            branches=tuple(
                Branch(ids[:-1], tuple(range(len(ids) - 1))) for ids in choices if len(ids) > 1
            ),
        )

    def _scores(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " choices"]:
        tokens: list[int] = []
        reads: list[int] = []
        row = 0  # the read behind an example's row; those of its branches follow
        for words in (example.target[2] for example in examples):
            behind = row + 1
            for ids in words:
                tokens += ids
                reads += [row, *range(behind, behind + len(ids) - 1)]
                behind += len(ids) - 1
            row = behind
        return self._of_choices(read.log_probabilities(tokens, reads), examples)


class ByMasks(_Spoken):
    """In a masked model: a sequence a choice, with a mask for each of its tokens.

    Args:
        mask: id of the mask token.
    """

    def __init__(
        self, layout: Layout, *, mean: bool, room: int, mask: int, margin: bool = False
    ) -> None:
        super().__init__(layout, mean=mean, room=room, margin=margin)
        self.mask = mask

    def _laid_out(self, one: Rendered, choices: Sequence[Ids]) -> Iterator[TokenSequence]:
        at = one.label_at
        assert at is not None
        for ids in choices:
            yield TokenSequence(
                ids=(*one.ids[:at], *(self.mask,) * len(ids), *one.ids[at:]),
                reads=tuple(range(at, at + len(ids))),
                shared=min(one.shared, at),
                types=(*one.types[:at], *(one.label_type,) * len(ids), *one.types[at:]),
            )

    def _scores(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " choices"]:
        tokens = [id for example in examples for ids in example.target[2] for id in ids]
        return self._of_choices(read.log_probabilities(tokens), examples)
