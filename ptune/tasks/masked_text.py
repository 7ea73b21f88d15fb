r"""Free text in a gap: the tokens that the model finds most likely there.

    It was [MASK] .             -> bad          mean log p = -1.6
    It was [MASK] [MASK] .      -> not good     mean log p = -0.9     the answer

How many tokens an answer has is not known before, so each number of masks that `{mask*n}` allows
is tried, and the one with the largest mean log-probability is kept (X-FACTR, Jiang et al. 2020,
arXiv:2010.06189; scripts/probe.py of its code). Masks are filled together, or one by one, the most
certain first (`fill: confident`). Trained on each answer in the gap that fits it.

Knows the layout and ids; no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.errors import DataError
from ptune.inject import Words
from ptune.layout import Layout
from ptune.tasks.answers import best_tokens
from ptune.tasks.filling import filled, with_gap
from ptune.tasks.scoring import text_scores
from ptune.tasks.task import Answer, Example, Prediction, Row
from ptune.values import place_of


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that is being written, in a gap of its own.

    Args:
        tokens: its ids; None where a mask still stands.
        said: log-probability of what is written.
    """

    tokens: tuple[int | None, ...]
    said: float = 0.0

    @property
    def open(self) -> list[int]:
        """Places where masks still stand."""
        return [at for at, token in enumerate(self.tokens) if token is None]

    def write(self, place: int, token: int, score: float) -> "Written":
        """The answer with one more token."""
        tokens = (*self.tokens[:place], token, *self.tokens[place + 1 :])
        return Written(tokens, self.said + score)


class MaskedText:
    """Free text in the gap of a row.

    Args:
        layout: the template, bound to the tokenizer.
        decode: ids to text.
        masks: of the template: the longest answer, in tokens.
        fill: how an answer of several tokens is found.
    """

    name = "masked-lm"
    read: Literal["states", "words"] = "words"
    labels: tuple[str, ...] = ()

    def __init__(
        self,
        layout: Layout,
        decode: Callable[[Sequence[int]], str],
        *,
        masks: int,
        fill: Literal["together", "confident"] = "together",
    ) -> None:
        self.layout = layout
        self.room = masks
        self.fill = fill
        self._decode = decode

    def head(self, hidden: int) -> nn.Module | None:
        """None: the backbone's own masked-language-model head gives the words."""
        return None

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows with gaps of every length."""
        said = [None] * len(rows) if answers is None else self._ids(rows, answers)
        made = []
        for at, (one, ids) in enumerate(zip(self.layout.render(rows), said, strict=True)):
            first, *others = (with_gap(one, gap) for gap in range(1, self.room + 1))
            answer = None if answers is None else answers[at]
            made.append(Example(first, ids, answer, one.cut, tuple(others)))
        return made

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """Rows with the gaps that their answers fit."""
        said = self._ids(rows, answers)
        return [
            Example(with_gap(one, len(ids)), ids, answer, one.cut)
            for one, ids, answer in zip(self.layout.render(rows), said, answers, strict=True)
        ]

    def _ids(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[tuple[int, ...]]:
        said = self.layout.answer_ids([str(answer) for answer in answers], plain=True)
        for at, ids in enumerate(said):
            if len(ids) > self.room:
                raise DataError(
                    f'{place_of(rows, at)}: the answer "{answers[at]}" has {len(ids)} tokens, and '
                    f"the gap of the template has room for {self.room}. Write {{mask*{len(ids)}}} "
                    "in the template, or leave the row out."
                )
        return said

    def loss(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " examples"]:
        """The mean over the tokens of the right answer, in the gap that it fits."""
        reads: list[int] = []
        start = 0
        for example in examples:
            gap = len(example.target)
            before = sum(range(gap)) if example.others else 0  # reads of the shorter gaps
            reads += range(start + before, start + before + gap)
            start += sum(len(one.reads) for one in example.sequences)
        words = [id for e in examples for id in e.target]
        each = -read.log_probabilities(words, reads)
        parts = torch.split(each, [len(e.target) for e in examples])
        return torch.stack([part.mean() for part in parts])

    def further(self, read: Words, examples: Sequence[Example]) -> list[Example]:
        """The rows with one more token of every answer; none where one is left at most."""
        most = max(len(sequence.reads) for sequence in examples[0].sequences)
        if self.fill == "together" or most < 2:
            return []
        return [
            _advanced(example, best) for example, best in zip(*_by_row(read, examples), strict=True)
        ]

    def predict(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> list[Prediction]:
        """The most likely answer of each row."""
        answers = []
        for example, best in zip(*_by_row(read, examples), strict=True):
            done = [_completed(written, found) for written, found in _pairs(example, best)]
            chosen = max(done, key=lambda one: one.said / len(one.tokens))
            ids = [token for token in chosen.tokens if token is not None]
            answers.append(Prediction(self._decode(ids).strip()))
        return answers

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Exact match, ROUGE and BLEU (`ptune.texts`) of answers as the tokenizer writes them."""
        truth = [self._decode(example.target) for example in examples]
        return text_scores(truth, predictions, examples)


# At one read: the log-probability of the most likely token, and its id.
Best = tuple[float, int]


def _by_row(read: Words, examples: Sequence[Example]) -> tuple[Sequence[Example], list[list[Best]]]:
    """The examples, and the best token at every read of each."""
    scores, ids = best_tokens(read)
    pairs = list(zip(scores.tolist(), ids.tolist(), strict=True))
    ends = list(accumulate(sum(len(one.reads) for one in e.sequences) for e in examples))
    starts = [0, *ends[:-1]]
    return examples, [pairs[start:end] for start, end in zip(starts, ends, strict=True)]


def _pairs(example: Example, best: Sequence[Best]) -> list[tuple[Written, list[Best]]]:
    """Every answer that is being written with the best tokens at its masks."""
    begun: Sequence[Written] = ()
    if example.target and isinstance(example.target[0], Written):
        begun = example.target
    found, left = [], iter(best)
    shown = iter(example.sequences)
    for written in begun or [Written((None,) * len(one.reads)) for one in example.sequences]:
        own = [next(left) for _ in next(shown).reads] if written.open else []
        found.append((written, own))
    return found


def _completed(written: Written, found: Sequence[Best]) -> Written:
    for place, (score, token) in zip(written.open, found, strict=True):
        written = written.write(place, token, score)
    return written


def _advanced(example: Example, best: Sequence[Best]) -> Example:
    """The row with the most certain token of every answer written."""
    writings, sequences = [], []
    shown = iter(example.sequences)
    for written, found in _pairs(example, best):
        if written.open:
            at = max(range(len(found)), key=lambda place: found[place][0])
            score, token = found[at]
            written, sequence = written.write(written.open[at], token, score), next(shown)
            if written.open:
                sequences.append(filled(sequence, at, token))
        writings.append(written)
    return replace(
        example, sequence=sequences[0], others=tuple(sequences[1:]), target=tuple(writings)
    )
