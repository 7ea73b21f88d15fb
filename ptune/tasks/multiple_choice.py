r"""Multiple choice: a row brings the texts that are asked about, two or more of its own.

    The man broke his toe because   he got a hole in his sock .            choice 0
    The man broke his toe because   he dropped a hammer on his foot .      choice 1

`{choice}` stands in the template where the text of a choice goes. What a choice is scored by:

    head         a sequence a choice; a linear head with one output on its pooled state
    words        log p(the choice's words | the rest of the row)
    words-mean   that, divided by the number of its tokens

    p(choice | row) = softmax over the row's choices of  score

The head has one output, as in P-tuning v2's code (arXiv:2110.07602, model/multiple_choice.py). The
words need no new weights. In a decoder the choice ends the template, the row is computed once and
each choice continues it (`ptune.batch.Branch`); where one choice is the beginning of another, all
of the row are closed by the end token. In a masked model as many masks as the choice has tokens
stand in its place, all filled at once: pseudo-likelihood, not the most confident first, as PET and
P-tuning v1 decode (arXiv:2009.07118).

Knows rows with the field `choice` (`ptune.data.choices`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ptune.backbone import Backbone
from ptune.batch import Branch, TokenSequence
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.heads import ClassificationHead, HeadForm
from ptune.inject import Words
from ptune.layout import Layout, Rendered
from ptune.parts import Field, Label
from ptune.spelling import Ids
from ptune.tasks.options import Pooling, TaskOptions
from ptune.tasks.sequence_classification import pooled_sequence, pooled_states, pooling_of
from ptune.tasks.task import Answer, Example, Prediction, Row, best_label, given, index_of
from ptune.template import Template
from ptune.values import place_of

FIELD = "choice"
# Longest choice that is scored by its words, in tokens; the rest of it is cut.
MOST_CHOICE_TOKENS = 64


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "MultipleChoice":
    """Bind a template to a backbone: any for a head, one with a language-model head for words.

    Raises:
        ConfigError: the backbone cannot give words.
        TemplateError: `{choice}` is missing, or not at the end where a decoder's words score it.
    """
    _check(template)
    limit = options.limit(backbone)
    if options.choose_by == "head":
        layout = template.bind(backbone.tokenizer, max_tokens=limit)
        pooling = pooling_of(template, layout, backbone, options)
        return ByHead(layout, pooling, dropout=options.head_dropout, form=options.head_form)
    mean = options.choose_by == "words-mean"
    room = min(MOST_CHOICE_TOKENS, limit // 4)
    # The place of the choice is one that the layout leaves open.
    parts = tuple(Label(p.at) if _is_choice(p) else p for p in template.parts)
    layout = replace(template, parts=parts).bind(backbone.tokenizer, max_tokens=limit - room)
    if not backbone.has_lm_head:
        raise _no_words(backbone, options, "has no language-model head")
    if not backbone.geometry.causal:
        mask = backbone.tokenizer.mask_token_id
        if mask is None:
            raise _no_words(backbone, options, "has no mask token")
        return ByMasks(layout, mean=mean, room=room, mask=mask)
    if not _is_choice(template.parts[-1]):
        raise TemplateError(
            f'template "{template.source}": choose_by = {options.choose_by} scores the words that '
            "follow, so in a decoder {choice} is the last part. Move it to the end, or set "
            "choose_by: head."
        )
    return ByWords(layout, mean=mean, room=room, end=backbone.tokenizer.eos_token_id)


def _no_words(backbone: Backbone, options: TaskOptions, found: str) -> ConfigError:
    return ConfigError(
        f'choose_by = {options.choose_by} needs a model that says or fills in words; "'
        f'{backbone.name}" ({type(backbone.model).__name__}) {found}. Set choose_by: head.'
    )


def _is_choice(part: object) -> bool:
    return isinstance(part, Field) and part.name == FIELD


def _check(template: Template) -> None:
    if template.has_label:
        raise TemplateError(
            f'template "{template.source}": {{label}} has no place in task multiple-choice. Write '
            "{choice} where the text of a choice goes."
        )
    count = sum(map(_is_choice, template.parts))
    if count != 1:
        found = "has none" if not count else f"has {count}"
        raise TemplateError(
            f'template "{template.source}": task multiple-choice needs one {{choice}}, where the '
            f'text of a choice goes; this one {found}. For example: "{{soft:20}}{{text}} {{choice}}'
            '".'
        )


class MultipleChoice:
    """What the ways to score a choice have in common; a way gives sequences and scores.

    An example's target is (number of the right choice or None, all choices, their ids for words).

    Args:
        layout: the template, bound to the tokenizer.
    """

    name = "multiple-choice"
    read: Literal["states", "words"] = "words"
    labels: tuple[str, ...] = ()
    generates = False
    room = 0

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def head(self, hidden: int) -> nn.Module | None:
        """None, where the backbone's own head gives the words."""
        return None

    def question(self, example: Example) -> TokenSequence:
        """Never asked: this task does not generate."""
        return example.sequence

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows with a sequence or a branch for each choice."""
        choices = [_choices(rows, index) for index in range(len(rows))]
        made = zip(self._encoded(rows, choices), choices, given(rows, answers), strict=True)
        return [
            Example(
                encoded.sequences[0],
                (_number(own, answer), own, encoded.words),
                answer,
                encoded.cut,
                encoded.sequences[1:],
            )
            for encoded, own, answer in made
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """The same: what is right is no part of the text."""
        return self.examples(rows, answers)

    def _encoded(
        self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]
    ) -> "Iterator[_Encoded]":
        raise NotImplementedError

    def _scores(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " choices"]:
        """The score of every choice of every example, one behind the other."""
        raise NotImplementedError

    def _table(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, "examples most_choices"]:
        """The scores, a line an example; minus infinity where it has fewer choices."""
        counts = [len(example.target[1]) for example in examples]
        each = torch.split(self._scores(read, examples, head), counts)
        return nn.utils.rnn.pad_sequence(list(each), batch_first=True, padding_value=-torch.inf)

    def loss(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " examples"]:
        """Negative log-probability of the right choice."""
        scores = self._table(read, examples, head)
        right = torch.tensor([example.target[0] for example in examples], device=scores.device)
        return functional.cross_entropy(scores, right, reduction="none")

    def predict(
        self, read: Any, examples: Sequence[Example], head: nn.Module | None
    ) -> list[Prediction]:
        """The most likely choice of each row, with the probabilities of all, in their order."""
        shares = self._table(read, examples, head).softmax(dim=-1).tolist()
        choices = [example.target[1] for example in examples]
        return [best_label(row[: len(own)], own) for row, own in zip(shares, choices, strict=True)]

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """The share of rows whose right choice was found."""
        pairs = zip(predictions, examples, strict=True)
        right = [one.answer == example.answer for one, example in pairs]
        return {"accuracy": sum(right) / len(right)}


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A row as the backbone sees it, and the ids of its choices where words score them."""

    sequences: tuple[TokenSequence, ...]
    cut: int
    words: tuple[Ids, ...] = ()


class ByHead(MultipleChoice):
    """A sequence a choice, and one number from its pooled state.

    Args:
        layout: the template, bound to the tokenizer.
        pooling: which states of a sequence the head sees.
        dropout: of the head, 0 .. 1.
        form: of the head; see `ptune.heads`.
    """

    read = "states"

    def __init__(
        self,
        layout: Layout,
        pooling: Pooling,
        *,
        dropout: float = 0.0,
        form: HeadForm = "normalized",
    ) -> None:
        super().__init__(layout)
        self.pooling: Pooling = pooling
        self.dropout = dropout
        self.form: HeadForm = form

    def head(self, hidden: int) -> nn.Module | None:
        """A linear head with one output."""
        return ClassificationHead(hidden, 1, dropout=self.dropout, form=self.form)

    def _encoded(
        self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]
    ) -> Iterator[_Encoded]:
        rendered = iter(self.layout.render(_Expanded(rows, choices)))
        for at, texts in enumerate(choices):
            own = [next(rendered) for _ in texts]
            place = place_of(rows, at)
            sequences = tuple(pooled_sequence(one, self.pooling, place) for one in own)
            yield _Encoded(sequences, sum(one.cut for one in own))

    def _scores(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> Float[Tensor, " choices"]:
        assert head is not None
        sequences = [one for example in examples for one in example.sequences]
        scores: Tensor = head(pooled_states(read, sequences))
        return scores[:, 0]


class _Spoken(MultipleChoice):
    """A choice by the log-probability of its words.

    Args:
        layout: the template with an open place at `{choice}`.
        mean: over the tokens of a choice, and not their sum.
        room: longest choice, in tokens.
    Attributes:
        continues: whether a choice follows what stands before it, which then must be something.
    """

    continues = False

    def __init__(self, layout: Layout, *, mean: bool, room: int) -> None:
        super().__init__(layout)
        self.mean, self.room = mean, room

    def _encoded(
        self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]
    ) -> Iterator[_Encoded]:
        for at, (texts, one) in enumerate(zip(choices, self.layout.render(rows), strict=True)):
            if self.continues and one.label_at == 0:
                raise DataError(
                    f"{place_of(rows, at)}: the row has no token before its choice, since its "
                    "fields are empty. Put some words before {choice} in the template, or leave "
                    "the row out."
                )
            whole = self._closed(self.layout.answer_ids(texts))
            kept = [ids[: self.room] for ids in whole]
            cut = sum(map(len, whole)) - sum(map(len, kept))
            if len(set(kept)) < len(kept):
                raise DataError(
                    f"{place_of(rows, at)}: two choices have the same tokens: {', '.join(texts)}. "
                    f"{self.room} tokens of a choice are read. Mend or delete the row, or set "
                    "choose_by: head."
                )
            yield _Encoded(tuple(self._laid_out(one, kept)), one.cut + cut, tuple(kept))

    def _closed(self, choices: Sequence[Ids]) -> Sequence[Ids]:
        """The choices, told apart where one is the beginning of another."""
        return choices

    def _laid_out(self, one: Rendered, choices: Sequence[Ids]) -> Iterator[TokenSequence]:
        raise NotImplementedError

    def _of_choices(
        self, each: Float[Tensor, " tokens"], examples: Sequence[Example]
    ) -> Float[Tensor, " choices"]:
        """The sum over the tokens of each choice, or their mean."""
        lengths = [len(ids) for example in examples for ids in example.target[2]]
        parts = torch.split(each, lengths)
        return torch.stack([part.mean() if self.mean else part.sum() for part in parts])


class ByWords(_Spoken):
    """In a decoder: the choices continue the row, which is computed once.

    Args:
        end: the end token; None where the tokenizer has none.
    """

    continues = True

    def __init__(self, layout: Layout, *, mean: bool, room: int, end: int | None) -> None:
        super().__init__(layout, mean=mean, room=room)
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

    def __init__(self, layout: Layout, *, mean: bool, room: int, mask: int) -> None:
        super().__init__(layout, mean=mean, room=room)
        self.mask = mask

    def _laid_out(self, one: Rendered, choices: Sequence[Ids]) -> Iterator[TokenSequence]:
        at = one.label_at
        assert at is not None
        kind = one.types[at - 1 : at] or one.types[:1]
        for ids in choices:
            yield TokenSequence(
                ids=(*one.ids[:at], *(self.mask,) * len(ids), *one.ids[at:]),
                reads=tuple(range(at, at + len(ids))),
                shared=min(one.shared, at),
                types=(*one.types[:at], *kind * len(ids), *one.types[at:]),
            )

    def _scores(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " choices"]:
        tokens = [id for example in examples for ids in example.target[2] for id in ids]
        return self._of_choices(read.log_probabilities(tokens), examples)


class _Expanded(Sequence[Row]):
    """A row for each choice of each row, which know where they stand."""

    def __init__(self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]) -> None:
        self._rows = rows
        self._places = [(at, text) for at, texts in enumerate(choices) for text in texts]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[at] for at in range(len(self))[index]]
        at, text = self._places[index]
        return {**self._rows[at], FIELD: text}

    def where(self, index: int) -> str:
        """The place of the row that the choice belongs to."""
        return place_of(self._rows, self._places[index][0])


def _choices(rows: Sequence[Row], index: int) -> tuple[str, ...]:
    found = rows[index].get(FIELD)
    if not isinstance(found, list | tuple) or len(found) < 2:
        raise DataError(
            f"{place_of(rows, index)}: there are no choices, its field {FIELD} holds {found!r}. "
            "Give a list of two texts or more."
        )
    return tuple(map(str, found))


def _number(choices: Sequence[str], answer: Answer | None) -> int | None:
    return None if answer is None else index_of(answer, choices)
