r"""Multiple choice: a row brings the texts that are asked about, two or more of its own.

    The man broke his toe because   he got a hole in his sock .            choice 0
    The man broke his toe because   he dropped a hammer on his foot .      choice 1

`{choice}` stands in the template where the text of a choice goes. What a choice is scored by:

    head         a sequence a choice; a linear head with one output on its pooled state
    words        log p(the choice's words | the rest of the row)
    words-mean   that, divided by the number of its tokens

    p(choice | row) = softmax over the row's choices of  score

The loss is -log p of the right one, or with `loss: margin` the hinge

    max(0, 1 + largest score of a wrong choice - score of the right one)

where words are always scored by the mean over their tokens, as P-tuning's few-shot code has it for
COPA (PT-Fewshot/pet/task_helpers.py; there of the means over a batch, here row by row).

The head has one output, as in P-tuning v2's code (arXiv:2110.07602, model/multiple_choice.py). The
words need no new weights. In a decoder the choice ends the template, the row is computed once and
each choice continues it (`ptune.batch.Branch`); where one choice is the beginning of another, all
of the row are closed by the end token. In a masked model as many masks as the choice has tokens
stand in its place, all filled at once: pseudo-likelihood, not the most confident first, as PET and
P-tuning v1 decode (arXiv:2009.07118).

Knows rows with the field `choice` (`ptune.data.choices`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

from jaxtyping import Float
from torch import Tensor, nn

from ptune.backbone import Backbone
from ptune.errors import ConfigError, TemplateError
from ptune.heads import ClassificationHead, HeadForm
from ptune.layout import Layout
from ptune.parts import Field, Label, fault
from ptune.tasks.choosing import FIELD, Encoded, MultipleChoice
from ptune.tasks.options import Pooling, TaskOptions
from ptune.tasks.sequence_classification import pooled_sequence, pooled_states, pooling_of
from ptune.tasks.spoken_choices import ByMasks, ByWords
from ptune.tasks.task import Example, Row
from ptune.template import Template
from ptune.values import place_of

# Longest choice that is scored by its words, in tokens; the rest of it is cut.
MOST_CHOICE_TOKENS = 64


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "MultipleChoice":
    """Bind a template to a backbone: any for a head, one with a language-model head for words.

    Raises:
        ConfigError: the backbone cannot give words.
        TemplateError: `{choice}` is missing, or not at the end where a decoder's words score it.
    """
    _check(template)
    limit, margin = options.limit(backbone), options.loss == "margin"
    if options.choose_by == "head":
        layout = template.bind(backbone.tokenizer, max_tokens=limit)
        pooling = pooling_of(template, layout, backbone, options)
        form, dropout = options.head_form, options.head_dropout
        return ByHead(layout, pooling, dropout=dropout, form=form, margin=margin)
    mean = options.choose_by == "words-mean"
    _refuse_limit(template, options)
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
        return ByMasks(layout, mean=mean, room=room, mask=mask, margin=margin)
    if not _is_choice(template.parts[-1]):
        raise TemplateError(
            f'template "{template.source}": choose_by = {options.choose_by} scores the words that '
            "follow, so in a decoder {choice} is the last part. Move it to the end, or set "
            "choose_by: head."
        )
    end = backbone.tokenizer.eos_token_id
    return ByWords(layout, mean=mean, room=room, end=end, margin=margin)


def _refuse_limit(template: Template, options: TaskOptions) -> None:
    for part in template.parts:
        if isinstance(part, Field) and _is_choice(part) and part.limit is not None:
            reason = (
                f"{part}: choose_by = {options.choose_by} scores a choice by its words, and a "
                "limit would leave some out. Write {choice}."
            )
            raise fault(template.source, part.at, reason)


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


class ByHead(MultipleChoice):
    """A sequence a choice, and one number from its pooled state.

    Args:
        layout: the template, bound to the tokenizer.
        pooling: which states of a sequence the head sees.
        dropout: of the head, 0 .. 1.
        form: of the head; see `ptune.heads`.
        margin: as of `MultipleChoice`.
    """

    read = "states"

    def __init__(
        self,
        layout: Layout,
        pooling: Pooling,
        *,
        dropout: float = 0.0,
        form: HeadForm = "normalized",
        margin: bool = False,
    ) -> None:
        super().__init__(layout, margin=margin)
        self.pooling: Pooling = pooling
        self.dropout = dropout
        self.form: HeadForm = form

    def head(self, hidden: int) -> nn.Module | None:
        """A linear head with one output."""
        return ClassificationHead(hidden, 1, dropout=self.dropout, form=self.form)

    def _encoded(
        self, rows: Sequence[Row], choices: Sequence[tuple[str, ...]]
    ) -> Iterator[Encoded]:
        rendered = iter(self.layout.render(_Expanded(rows, choices)))
        for at, texts in enumerate(choices):
            own = [next(rendered) for _ in texts]
            place = place_of(rows, at)
            sequences = tuple(pooled_sequence(one, self.pooling, place) for one in own)
            yield Encoded(sequences, sum(one.cut for one in own))

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
