r"""Token classification: a tag for every word, from a trained head on the word's first token.

    words      John    Smithson     sleeps
    tokens     John  Smith ##son  sleeps             virtual tokens and specials are no words
               ^     ^            ^                  read
    tags       B-PER I-PER        O

The words stand in the field `{tokens}` of the template. Each is written as the tokenizer writes a
word behind a space, and the state of its first token is what the head sees (as in P-tuning v2's
code and in BERT's paper). In a decoder that state knows the words before it alone.

The loss of a row is the mean over its words, so that it does not depend on the other rows of its
batch. (Others average over all words of a batch, which gives long rows more weight.)

A row that is too long loses words at its end. They have no state: they are not trained on, and are
predicted O, so that they count in every score; `words_cut` says how many.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from ptune import tags as rules
from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.errors import TemplateError
from ptune.heads import ClassificationHead, HeadForm
from ptune.layout import Layout, Rendered
from ptune.parts import Field, Label
from ptune.tasks.options import TaskOptions
from ptune.tasks.task import Answer, Example, Prediction, Row, given, index_of
from ptune.template import Template
from ptune.values import WORDS_FIELD, words_of

# The words of a row, which of them are read, and the indices of the tags of all (or none).
Target = tuple[Sequence[str], Sequence[int], Sequence[int]]


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "TokenClassification":
    """Bind a template to any backbone.

    Raises:
        TemplateError: the template has a `{label}`, or has not one `{tokens}`.
    """
    said = f'template "{template.source}": task token-classification'
    if any(isinstance(part, Label) for part in template.parts):
        raise TemplateError(
            f"{said} has no place for {{label}}: a trained head gives each word its tag. "
            "Leave it out."
        )
    places = [p for p in template.parts if isinstance(p, Field) and p.name == WORDS_FIELD]
    if len(places) != 1:
        raise TemplateError(
            f"{said} needs {{{WORDS_FIELD}}}, the words of the row, once; this one has it "
            f"{len(places)} times. Where the column has another name, set "
            f"columns={{{WORDS_FIELD}: NAME}}."
        )
    limit = options.limit(backbone)
    layout = template.bind(backbone.tokenizer, max_tokens=limit, words=WORDS_FIELD)
    scheme = rules.scheme_of(options.labels) if options.scheme == "auto" else options.scheme
    return TokenClassification(
        layout,
        options.labels,
        scheme=scheme,
        dropout=options.head_dropout,
        head_form=options.head_form,
    )


class TokenClassification:
    """A tag for each word.

    An example's target is its words, which of them are read, and the indices of their tags (none
    where the row has none).

    Args:
        layout: the template, bound to the tokenizer, with a field of words.
        labels: the tags.
        scheme: how they write entities, one of `ptune.tags.SCHEMES`.
        dropout: of the head, 0 .. 0.9.
        head_form: see `ptune.heads`.
    """

    name = "token-classification"
    read: Literal["states", "words"] = "states"
    room = 0

    def __init__(
        self,
        layout: Layout,
        labels: Sequence[str],
        *,
        scheme: str,
        dropout: float = 0.0,
        head_form: HeadForm = "normalized",
    ) -> None:
        self.layout = layout
        self.labels = tuple(labels)
        self.scheme = scheme
        self.dropout = dropout
        self.head_form: HeadForm = head_form

    def head(self, hidden: int) -> nn.Module | None:
        """A linear head, one number a tag."""
        labels = len(self.labels)
        return ClassificationHead(hidden, labels, dropout=self.dropout, form=self.head_form)

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows with the positions of their words' first tokens."""
        words = [words_of(rows, index, WORDS_FIELD) for index in range(len(rows))]
        rendered = self.layout.render(rows)
        return [
            self._example(one, own, answer)
            for one, own, answer in zip(rendered, words, given(rows, answers), strict=True)
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """The same: the tags are no part of the text."""
        return self.examples(rows, answers)

    def _example(self, one: Rendered, words: tuple[str, ...], answer: Answer | None) -> Example:
        read = tuple(word for word, at in enumerate(one.words) if at >= 0)
        tags = () if answer is None else tuple(index_of(tag, self.labels) for tag in _tags(answer))
        sequence = TokenSequence(
            ids=one.ids,
            reads=tuple(one.words[word] for word in read),
            shared=one.shared,
            types=one.types,
        )
        return Example(sequence, (words, read, tags), answer, one.cut)

    def loss(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> Float[Tensor, " examples"]:
        """Cross-entropy, the mean over the words of each row; 0 of a row that has none left."""
        assert head is not None
        wanted = [tags[word] for _, known, tags in _targets(examples) for word in known]
        targets = torch.tensor(wanted, device=read.device, dtype=torch.long)
        each = functional.cross_entropy(head(read), targets, reduction="none")
        counts = _counts(examples).to(read.device)
        owner = torch.arange(len(examples), device=read.device).repeat_interleave(counts)
        return each.new_zeros(len(examples)).index_add(0, owner, each) / counts.clamp(min=1)

    def predict(
        self,
        read: Float[Tensor, "reads hidden"],
        examples: Sequence[Example],
        head: nn.Module | None,
    ) -> list[Prediction]:
        """The most likely tag of each word, and the entities that they write."""
        assert head is not None
        best = iter(head(read).argmax(dim=-1).tolist())
        found = []
        for words, known, _ in _targets(examples):
            tags = [rules.OUTSIDE] * len(words)
            for word in known:
                tags[word] = self.labels[next(best)]
            found.append(self._prediction(words, tags))
        return found

    def _prediction(self, words: Sequence[str], tags: Sequence[str]) -> Prediction:
        entities = [
            {**entity._asdict(), "text": " ".join(words[entity.start : entity.stop])}
            for entity in rules.entities_of(tags, self.scheme)
        ]
        return Prediction(tuple(tags), more={"words": list(words), "entities": entities})

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Of entities, over all and by type; the share of right words; words that did not fit."""
        truth = [_tags(example.answer) for example in examples]
        found = rules.scores(truth, [_tags(p.answer) for p in predictions], self.scheme)
        cut = sum(len(words) - len(known) for words, known, _ in _targets(examples))
        return {**found, "words_unread": float(cut)} if cut else found


def _targets(examples: Sequence[Example]) -> list[Target]:
    return [example.target for example in examples]


def _counts(examples: Sequence[Example]) -> Int[Tensor, " examples"]:
    return torch.tensor([len(example.sequence.reads) for example in examples])


def _tags(answer: Answer | None) -> tuple[str, ...]:
    assert isinstance(answer, tuple)
    return tuple(str(one) for one in answer)
