r"""Parts of a context: where an answer's tokens are, and which parts score best.

    context   Paris is the capital      answer "the capital", from character 9
    tokens    0     1  2   3            tokens_of   (2, 3)
    window    tokens 2, 3              position_in (1, 2): of its reads, the first of which is null

    scores    start 1.0 0.0, end 0.0 2.0      best_spans: characters (0, 8), score 3.0

A part is the characters from the start of one token to the end of another. Knows no template, no
head and no threshold: those are the task's (`question_answering.py`).
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ptune.errors import DataError
from ptune.spelling import Characters
from ptune.windows import Window, Windowed

# The start of a part of the context and its end, in characters.
Span: TypeAlias = tuple[int, int]


def tokens_of(
    answers: Sequence[tuple[str, int]], one: Windowed, place: str
) -> tuple[int, int] | None:
    """The first and the last token of the first answer; None where there is no answer.

    Args:
        answers: texts, each with the character at which it begins.
        place: of the row, for an error.

    Raises:
        DataError: the answer is no token's, e.g. white space.
    """
    if not answers:
        return None
    text, at = answers[0]
    start, stop = at + len(text) - len(text.lstrip()), at + len(text.rstrip())
    inside = [
        token
        for token, (first, end) in enumerate(one.characters)
        if first < stop and end > start and first < end
    ]
    if not inside:
        raise DataError(
            f"{place}: the answer {text!r} has no token of the tokenizer, so it cannot be found. "
            "Mend the answer, or leave the row out."
        )
    return inside[0], inside[-1]


def position_in(tokens: tuple[int, int] | None, window: Window) -> tuple[int, int]:
    """Where the answer is among a window's reads, the first of which is null's, 0.

    An answer that the window does not hold whole is null there.
    """
    if tokens is None:
        return 0, 0
    start, end = tokens
    if start < window.first or end >= window.first + window.count:
        return 0, 0
    return 1 + start - window.first, 1 + end - window.first


def best_spans(
    scores: Float[Tensor, "tokens 2"],
    characters: Sequence[Characters],
    longest: int,
    count: int,
) -> list[tuple[Span, float]]:
    """The best parts of one window, in characters, with their scores.

    All pairs are weighed: a band of `longest` ends for each start.

    >>> best_spans(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), [(0, 5), (6, 8)], 2, 1)
    [((0, 8), 3.0)]
    """
    tokens = len(scores)
    there = torch.tensor([start < stop for start, stop in characters])
    starts, ends = scores.masked_fill(~there[:, None], -torch.inf).unbind(dim=1)
    width = min(longest, tokens)
    band = functional.pad(ends, (0, width - 1), value=-torch.inf).unfold(0, width, 1)
    flat = (starts[:, None] + band).flatten()
    best = flat.topk(min(count, len(flat)))
    found = []
    for score, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if score > -torch.inf:
            start, more = divmod(at, width)
            found.append(((characters[start][0], characters[start + more][1]), score))
    return found


def once_each(context: str, scores: Mapping[Span, float], count: int) -> list[tuple[Span, float]]:
    """The best parts, the best first, each text where it has its best score.

    >>> once_each("a b a", {(0, 1): 1.0, (4, 5): 2.0, (2, 3): 0.5}, 2)
    [((4, 5), 2.0), ((2, 3), 0.5)]
    """
    best: dict[str, tuple[Span, float]] = {}
    for span, score in sorted(scores.items(), key=lambda found: (-found[1], found[0])):
        best.setdefault(context[slice(*span)], (span, score))
    return list(best.values())[:count]
