r"""Extractive question answering: the answer is a part of the row's context.

    reads     [CLS]  what ? [SEP]  Paris is the capital [SEP]
              null                 s,e   s,e s,e s,e          at each token of the context

    score(i, j) = start_i + end_j                    i <= j < i + max_answer_tokens
    null        = start_0 + end_0                    at the first token, as BERT does on SQuAD 2.0
                                                     (Devlin et al. 2019); in a decoder at the last
                                                     one, which alone has seen the row and must
                                                     stand behind the context, whose last word may
                                                     be an answer

A context that is too long is cut into windows that overlap (`ptune.windows`); the question stands
whole in each. Every part of the context is weighed in every window that holds it, and has its best
score; null is the lowest of all windows, since a window without the answer says nothing of the
others. The answer is empty where

    null - max score > no_answer                     (SQuAD 2.0; never where no_answer is null)

Loss of a window: the mean of the cross-entropies of start and end over its tokens that are read; a
window that does not hold the whole answer has null for its target. Loss of a row: the mean over its
windows, so that a question counts once, however long its context is.

The text of an answer is cut out of the context by the characters of its tokens, letter by letter.
A text that stands in the context several times counts once, where it is best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ptune import metrics
from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.heads import ClassificationHead, HeadForm
from ptune.layout import Layout
from ptune.parts import Field, fault
from ptune.spelling import Characters
from ptune.tasks.options import TaskOptions
from ptune.tasks.spans import Span, best_spans, once_each, position_in, tokens_of
from ptune.tasks.task import Answer, Example, Prediction, Row, given
from ptune.template import Template
from ptune.values import place_of
from ptune.windows import Window, Windowed, cut_windows

CONTEXT = "context"


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "QuestionAnswering":
    """Bind a template to any backbone with a fast tokenizer.

    Raises:
        ConfigError: the tokenizer does not know the characters of its tokens.
        TemplateError: `{context}` is not there once, whole, and (in a decoder) the last field.
    """
    causal = backbone.geometry.causal
    _check_fields(template, causal=causal)
    if not getattr(backbone.tokenizer, "is_fast", False):
        raise ConfigError(
            f"task = question-answering cuts answers out of the context, and the tokenizer of "
            f'"{backbone.name}" ({type(backbone.tokenizer).__name__}) does not say which '
            "characters its tokens stand for. Use a model with a fast tokenizer (tokenizer.json)."
        )
    return QuestionAnswering(
        template.bind(backbone.tokenizer, max_tokens=options.limit(backbone)),
        stride=options.stride,
        max_answer_tokens=options.max_answer_tokens,
        n_best=options.n_best,
        no_answer=options.no_answer,
        causal=causal,
        dropout=options.head_dropout,
        head_form=options.head_form,
    )


def _check_fields(template: Template, *, causal: bool) -> None:
    fields = [part for part in template.parts if isinstance(part, Field)]
    found = [field for field in fields if field.name == CONTEXT]
    if template.has_label or len(found) != 1:
        wrong = "{label} has no place" if template.has_label else "{context} must stand once"
        raise TemplateError(
            f'template "{template.source}": {wrong} in task question-answering, whose answers are '
            'parts of the context. For example: "{question}{sep}{context}". Where a column has '
            "another name, say so with columns."
        )
    if found[0].limit is not None:
        raise fault(
            template.source,
            found[0].at,
            f"{found[0]}: a long context is cut into windows, not short. Write {{context}}, and "
            "set max_tokens for smaller windows.",
        )
    if causal and fields[-1] is not found[0]:
        raise fault(
            template.source,
            found[0].at,
            "{context}: in a decoder the tokens of the context see only what stands before them. "
            "Put the other fields before it.",
        )


class Target(NamedTuple):
    """What is known of a row beside its sequences.

    Args:
        positions: of each window, which of its reads are the answer's start and end, 0 for null;
            empty where the row has no answer to learn from.
        firsts: of each window, its first token among those of the context.
        characters: of each token of the context; empty where the row is only trained on.
        context: the text.
    """

    positions: tuple[tuple[int, int], ...]
    firsts: tuple[int, ...] = ()
    characters: tuple[Characters, ...] = ()
    context: str = ""


@dataclass(frozen=True, slots=True)
class SpanPrediction(Prediction):
    """An answer, and what a threshold for no answer is judged by.

    Args:
        text: the best part of the context, also where the answer is empty.
        margin: null score less the best part's.
    """

    text: str = ""
    margin: float = 0.0


class QuestionAnswering:
    """A part of the context for a question.

    Args:
        layout: the template, bound to the tokenizer.
        stride: tokens that a window shares with the next one.
        max_answer_tokens: of the longest answer.
        n_best: parts of the context that are weighed against each other in `probabilities`.
        no_answer: by how much null must score better than the best part; None never gives it.
        causal: whether a token sees only those before it.
        dropout: of the head, 0 .. 1.
        head_form: see `ptune.heads`.
    """

    name = "question-answering"
    read: Literal["states", "words"] = "states"
    labels: tuple[str, ...] = ()
    room = 0

    def __init__(
        self,
        layout: Layout,
        *,
        stride: int,
        max_answer_tokens: int,
        n_best: int,
        no_answer: float | None,
        causal: bool = False,
        dropout: float = 0.0,
        head_form: HeadForm = "normalized",
    ) -> None:
        self.layout = layout
        self.stride = stride
        self.max_answer_tokens = max_answer_tokens
        self.n_best = n_best
        self.no_answer = no_answer
        self.causal = causal
        self.dropout = dropout
        self.head_form: HeadForm = head_form

    def head(self, hidden: int) -> nn.Module | None:
        """A linear head: start and end."""
        return ClassificationHead(hidden, 2, dropout=self.dropout, form=self.head_form)

    # ------------------------------------------------------------------------------- rows

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows in windows, with all that a prediction needs to be text again."""
        return [
            self._example(one, answer, place_of(rows, index), whole=True)
            for index, (one, answer) in enumerate(
                zip(self._windowed(rows), given(rows, answers), strict=True)
            )
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """Rows in windows, with the positions of their first answer.

        Raises:
            DataError: a row has no answer, and the task never gives an empty one.
        """
        for index, answer in enumerate(answers):
            if not answer and self.no_answer is None:
                raise DataError(
                    f"{place_of(rows, index)}: the question has no answer in its context. Set "
                    "no_answer: 0 to train a prompt that may say so, or leave such rows out."
                )
        windowed = self._windowed(rows)
        self._check_null(windowed[0].windows[0])
        return [
            self._example(one, answer, place_of(rows, index), whole=False)
            for index, (one, answer) in enumerate(zip(windowed, answers, strict=True))
        ]

    def _check_null(self, window: Window) -> None:
        """Refuse to train where null would be read at the last word of the context."""
        if self.causal and window.at + window.count == len(window.rendered.ids):
            source = self.layout.source
            raise TemplateError(
                f'template "{source}": {{context}} stands at its end, and a decoder says at the '
                "last token that a text has no answer, or that a window of it has none: that "
                "would be the last word of the context, which may be an answer. Write something "
                f'behind it, for example "{source} Answer :".'
            )

    def _windowed(self, rows: Sequence[Row]) -> list[Windowed]:
        return cut_windows(self.layout, rows, CONTEXT, self.stride)

    def _example(self, one: Windowed, answer: Answer | None, place: str, *, whole: bool) -> Example:
        first, *others = (self._sequence(window) for window in one.windows)
        positions: tuple[tuple[int, int], ...] = ()
        if answer is not None:
            tokens = tokens_of(_spans(answer), one, place)
            positions = tuple(position_in(tokens, window) for window in one.windows)
        target = Target(positions)
        if whole:
            firsts = tuple(window.first for window in one.windows)
            target = Target(positions, firsts, one.characters, one.text)
        texts = None if answer is None else tuple(text for text, _ in _spans(answer))
        return Example(first, target, texts, one.cut, tuple(others))

    def _sequence(self, window: Window) -> TokenSequence:
        """A window with what is read of it: null first, then the tokens of the context."""
        one = window.rendered
        first = next(at for at, id in enumerate(one.ids) if id >= 0)
        null = len(one.ids) - 1 if self.causal else first
        return TokenSequence(
            ids=one.ids,
            reads=(null, *range(window.at, window.at + window.count)),
            shared=one.shared,
            types=one.types,
        )

    # ------------------------------------------------------------------------------- loss

    def loss(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> Float[Tensor, " examples"]:
        """The mean over start and end, then over the windows of a row."""
        parts = _by_window(read, examples, head)
        scores = pad_sequence(list(parts), batch_first=True, padding_value=-torch.inf)
        wanted = torch.tensor(
            [pair for example in examples for pair in Target(*example.target).positions],
            device=read.device,
        )
        each = functional.cross_entropy(scores, wanted, reduction="none").mean(dim=1)
        counts = [len(example.sequences) for example in examples]
        return torch.stack([own.mean() for own in torch.split(each, counts)])

    # ------------------------------------------------------------------------------- prediction

    def predict(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> list[Prediction]:
        """The best part of each context, or nothing, with the probabilities of the n best."""
        parts = iter(_by_window(read.detach(), examples, head))
        return [
            self._best(Target(*example.target), [next(parts).cpu() for _ in example.sequences])
            for example in examples
        ]

    def _best(self, target: Target, windows: Sequence[Float[Tensor, "_ 2"]]) -> SpanPrediction:
        scores: dict[Span, float] = {}
        for first, window in zip(target.firsts, windows, strict=True):
            characters = target.characters[first : first + len(window) - 1]
            for span, score in best_spans(
                window[1:], characters, self.max_answer_tokens, self.n_best
            ):
                scores[span] = max(score, scores.get(span, score))
        null = min(float(window[0].sum()) for window in windows)
        ranked = once_each(target.context, scores, self.n_best)
        if not ranked:  # no token of the context stands for a character that can be seen
            return SpanPrediction("")
        texts = [target.context[start:stop] for (start, stop), _ in ranked]
        margin = null - ranked[0][1]
        silent = self.no_answer is not None and margin > self.no_answer
        weighed = [score for _, score in ranked]
        if self.no_answer is not None:
            texts, weighed = [*texts, ""], [*weighed, null]
        shares = torch.tensor(weighed, dtype=torch.float64).softmax(0).tolist()
        probabilities = dict(zip(texts, shares, strict=True))
        answer = "" if silent else texts[0]
        return SpanPrediction(answer, probabilities, text=texts[0], margin=margin)

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Exact match and F1 as SQuAD's official script has them."""
        golds = [_texts(example.answer) for example in examples]
        found = metrics.extraction(golds, [str(p.answer) for p in predictions])
        spans = [p for p in predictions if isinstance(p, SpanPrediction)]
        if self.no_answer is not None and not all(golds) and len(spans) == len(golds):
            found |= metrics.best_no_answer(
                golds, [p.text for p in spans], [p.margin for p in spans]
            )
        return found


def _by_window(
    read: Float[Tensor, "reads hidden"], examples: Sequence[Example], head: nn.Module | None
) -> tuple[Float[Tensor, "_ 2"], ...]:
    """Start and end scores, window by window."""
    assert head is not None
    lengths = [len(window.reads) for example in examples for window in example.sequences]
    scores: Tensor = head(read)
    return torch.split(scores, lengths)


def _spans(answer: Any) -> tuple[tuple[str, int], ...]:
    """Answers with the character at which each begins (`ptune.data.spans_of`)."""
    assert isinstance(answer, tuple)
    return answer


def _texts(answer: Any) -> tuple[str, ...]:
    assert isinstance(answer, tuple)
    return answer
