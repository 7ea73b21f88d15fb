r"""Masked language modelling (cloze): the label is the word that fills the gap.

    [CLS] P P P the film is a delight . It was [MASK] . [SEP]        great -> positive
                                                ^ read               bad   -> negative

With a set of labels, a row's score of a label is that of its words in the gap, of the model's own
masked-language-model head, and

    p(label | row) = softmax over labels of  sum_j log p(word_j | row, masks)

A word of k tokens is scored in a gap of k masks, so every word has the gap that fits it; `{mask*n}`
takes words of up to n tokens. In training all masks are filled together, as in PET (Schick and
Schütze 2021, arXiv:2009.07118), whose gap, though, has the masks of the longest word for all words,
and whose loss is a hinge. For predictions they may be filled one by one, the most certain first, as
PET does (`fill: confident`): `ptune.tasks.filling`.
A label with several words: `ptune.tasks.answers`. Without labels the answer is free text:
`ptune.tasks.masked_text`.

Two losses: `labels`, the negative log of that p, and `vocabulary`, of the first word of the right
label among all words of the vocabulary, the mean over its tokens.

A causal model has no gaps: there `{mask}`, which then is the last part of the template, is what is
said next (`ptune.tasks.causal_lm`), so that one recipe runs on both kinds.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ptune import texts
from ptune.backbone import Backbone
from ptune.errors import ConfigError, TemplateError
from ptune.inject import Words
from ptune.layout import Layout
from ptune.parts import Anchor, Label, fault
from ptune.tasks import causal_lm
from ptune.tasks.answers import LabelWords, refuse_equal, token_scores
from ptune.tasks.filling import Filling, advance, with_gap
from ptune.tasks.masked_text import MaskedText
from ptune.tasks.options import Loss, TaskOptions
from ptune.tasks.task import Answer, Example, Prediction, Row, Task, given, index_of
from ptune.template import Template

Fill = Literal["together", "confident"]
_EXAMPLE = '"{soft:20}{text} It was {mask}."'


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> Task:
    """Bind a template to a model with a masked-language-model head, or to a causal one.

    Raises:
        ConfigError: the backbone has no such head or no mask token, or the labels cannot be told
            apart or do not fit the gap.
        TemplateError: the template has not one `{mask}`, or a `{label}`.
    """
    if not backbone.has_lm_head:
        raise ConfigError(
            f'task = masked-lm needs a model with a trained masked-LM head; "{backbone.name}" '
            f"({type(backbone.model).__name__}) has none. Use a model saved with one "
            "(...ForMaskedLM), or task: sequence-classification."
        )
    _require_one_mask(template)
    _require_all_labels(options)
    if backbone.geometry.causal:
        return _as_next_words(template, backbone, options)
    _require_mask_token(template, backbone)
    layout = template.bind(backbone.tokenizer, max_tokens=options.limit(backbone))
    masks = template.masks[0].count
    if not options.labels:
        texts.check(options.metric)
        _refuse_search(options, backbone)
        return MaskedText(layout, backbone.tokenizer.decode, masks=masks, fill=options.fill)
    words = LabelWords.of(options)
    _refuse_unknown(words.spelled, layout, backbone)
    return MaskedLM(layout, words, masks=masks, loss=options.loss, fill=options.fill)


def _require_one_mask(template: Template) -> None:
    label = next((part for part in template.parts if isinstance(part, Label)), None)
    if label is not None:
        reason = "{label} has no place in task masked-lm, which fills a gap. Write {mask}, or use "
        raise fault(template.source, label.at, reason + "task: causal-lm.")
    if not template.masks:
        raise TemplateError(
            f'template "{template.source}": task masked-lm needs one {{mask}}, where the answer '
            f"stands; this one has none. For example: {_EXAMPLE}."
        )
    if len(template.masks) > 1:
        reason = "a second mask. An answer has one place; write {mask*2} for one of two tokens."
        raise fault(template.source, template.masks[1].at, reason)


def _require_all_labels(options: TaskOptions) -> None:
    missed = [label for label in options.labels if label not in options.verbalizer]
    if options.verbalizer and missed:
        raise ConfigError(
            f'verbalizer: label "{missed[0]}" has no answer word. Give every label one; without a '
            "verbalizer each label is its own word."
        )


def _require_mask_token(template: Template, backbone: Backbone) -> None:
    token = backbone.tokenizer.mask_token
    if token is None:
        raise ConfigError(
            f'task = masked-lm needs a mask token, and the tokenizer of "{backbone.name}" has '
            "none. Use a model that was trained with one, or task: sequence-classification."
        )
    for part in template.parts:
        if isinstance(part, Anchor) and token in part.text:
            at = part.at + part.text.index(token)
            raise fault(template.source, at, f"{token} is the mask token itself. Write {{mask}}.")


def _refuse_search(options: TaskOptions, backbone: Backbone) -> None:
    """Nothing is generated in a gap: `{mask*n}` says how long an answer is."""
    defaults = {one.name: one.default for one in fields(TaskOptions)}
    for key in ("max_new_tokens", "beams", "length_penalty"):
        if getattr(options, key) != defaults[key]:
            raise ConfigError(
                f"{key} = {getattr(options, key)} goes with models that generate; "
                f'"{backbone.name}" fills a gap, whose length {{mask*n}} says. Leave {key} out.'
            )


def _as_next_words(template: Template, backbone: Backbone, options: TaskOptions) -> Task:
    """The task of a causal model: what stands in the gap is what is said next."""
    (mask,) = template.masks
    if template.parts[-1] != mask:
        reason = (
            f'"{backbone.name}" is a causal model, which knows nothing of what stands behind the '
            "gap: {mask} must be the last part of the template. Leave out what follows."
        )
        raise fault(template.source, mask.at, reason)
    if options.fill != "together":
        raise ConfigError(
            f'fill = {options.fill} goes with encoders; "{backbone.name}" is a causal model, '
            "which says its tokens in their order. Leave fill out."
        )
    asked = Template(template.source, (*template.parts[:-1], Label(mask.at)))
    return causal_lm.bind(asked, backbone, options)


class MaskedLM:
    """Label words in the gap of a row.

    Args:
        layout: the template, bound to the tokenizer.
        words: the labels and the words that stand for them.
        masks: of the template: the longest word, in tokens.
        loss: over the labels, or over the whole vocabulary (where the first word is learned).
        fill: how a word of several tokens is scored for predictions.
    Raises:
        ConfigError: a word does not fit the gap, or the tokenizer cannot tell two apart.
    """

    name = "masked-lm"
    read: Literal["states", "words"] = "words"
    room = 0

    def __init__(
        self,
        layout: Layout,
        words: LabelWords,
        *,
        masks: int,
        loss: Loss = "labels",
        fill: Fill = "together",
    ) -> None:
        self.layout = layout
        self.answers = words
        self.labels = words.labels
        self.over_labels = loss == "labels"
        self.fill = fill
        self._words = layout.answer_ids(words.spelled)
        _refuse_longer(words.spelled, self._words, masks)
        refuse_equal(words.spelled, self._words)
        self._gaps = sorted({len(ids) for ids in self._words})

    def head(self, hidden: int) -> nn.Module | None:
        """None: the backbone's own masked-language-model head gives the words."""
        return None

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows with their gap, once for every length that a word has."""
        made = []
        for one, answer in zip(self.layout.render(rows), given(rows, answers), strict=True):
            first, *others = (with_gap(one, gap) for gap in self._gaps)
            target = None if answer is None else index_of(answer, self.labels)
            made.append(Example(first, target, answer, one.cut, tuple(others)))
        return made

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """What is trained on: as for scoring, or each row with the gap of its own word alone."""
        if self.over_labels:
            return self.examples(rows, answers)
        first = self.answers.label_of.index
        said = [self._words[first(index_of(answer, self.labels))] for answer in answers]
        return [
            Example(with_gap(one, len(ids)), ids, answer, one.cut)
            for one, ids, answer in zip(self.layout.render(rows), said, answers, strict=True)
        ]

    def loss(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " examples"]:
        """Negative log-probability of the right label, or the mean over the tokens of its word."""
        if isinstance(examples[0].target, tuple):
            words = [id for e in examples for id in e.target]
            parts = torch.split(-read.log_probabilities(words), [len(e.target) for e in examples])
            return torch.stack([part.mean() for part in parts])
        scores = self.answers.by_label(self._word_scores(read, self._fillings(examples)))
        targets = torch.tensor([e.target for e in examples], device=read.device)
        return functional.cross_entropy(scores, targets, reduction="none")

    def further(self, read: Words, examples: Sequence[Example]) -> list[Example]:
        """The rows with one more token of every word filled in; none where all is known."""
        fillings = self._fillings(examples)
        if self.fill == "together" or max(map(len, fillings[0].open)) < 2:
            return []
        scores = self._place_scores(read, fillings, exact=True).tolist()
        return [
            advance(example, filling, self._words, own)
            for example, filling, own in zip(examples, fillings, scores, strict=True)
        ]

    def _fillings(self, examples: Sequence[Example]) -> list[Filling]:
        """How far each row is: nothing is filled before the first pass."""
        if isinstance(examples[0].target, Filling):
            return [example.target for example in examples]
        return [Filling.start([len(ids) for ids in self._words])] * len(examples)

    def _word_scores(
        self, read: Words, fillings: Sequence[Filling]
    ) -> Float[Tensor, "examples words"]:
        """Log-probability of every word, up to a number that is the same for all of a row."""
        # Words of one length share their masks, where the sum over the vocabulary cancels.
        begun = max(map(len, fillings[0].open)) < self._gaps[-1]
        exact = begun or len(self._gaps) > 1
        each = self._place_scores(read, fillings, exact=exact)
        said = torch.tensor([filling.said for filling in fillings], device=read.device)
        word_of = torch.tensor([word for word, _, _ in fillings[0].places], device=read.device)
        return said.index_add(1, word_of, each)

    def _place_scores(
        self, read: Words, fillings: Sequence[Filling], *, exact: bool
    ) -> Float[Tensor, "examples places"]:
        """Log-probability of every token that is still masked, word by word."""
        tokens = sorted({id for ids in self._words for id in ids})
        column = {token: at for at, token in enumerate(tokens)}
        table = token_scores(read, tokens, exact=exact)
        reads = torch.tensor([at for _, _, at in fillings[0].places], device=read.device)
        columns = [
            [column[self._words[word][place]] for word, place, _ in filling.places]
            for filling in fillings
        ]
        count = len(fillings)
        rows = torch.arange(count, device=read.device)[:, None] * (len(read) // count)
        return table[rows + reads, torch.tensor(columns, device=read.device)]

    def predict(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> list[Prediction]:
        """The most likely label of each row, with the probabilities of all."""
        return self.answers.predictions(self._word_scores(read, self._fillings(examples)))

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Accuracy and macro F1; further ones where they are asked for."""
        return self.answers.scores(predictions, examples)


def _refuse_unknown(words: Sequence[str], layout: Layout, backbone: Backbone) -> None:
    for word, ids in zip(words, layout.answer_ids(words), strict=True):
        if backbone.tokenizer.unk_token_id in ids:
            raise ConfigError(
                f'The answer word "{word}" is unknown to the tokenizer of "{backbone.name}", so '
                "the backbone cannot say it. Choose another word with verbalizer."
            )


def _refuse_longer(words: Sequence[str], ids: Sequence[tuple[int, ...]], masks: int) -> None:
    for word, own in zip(words, ids, strict=True):
        if len(own) > masks:
            fits = "one token" if masks == 1 else f"{masks} tokens"
            raise ConfigError(
                f'The answer word "{word}" has {len(own)} tokens, and the gap of the template has '
                f"room for {fits}. Write {{mask*{len(own)}}} in the template, or choose another "
                "word with verbalizer."
            )
