r"""Causal language modelling: the label is the next words.

    Tweet text : no reply for three days Label : | complaint
    \________________ row ____________________/  | \_ label _/

With a set of labels, a row's score of a label is the log-probability of its words, and

    p(label | row) = softmax over labels of  sum_t log p(word_t | row, words before t)

which is exact for labels of any length: where one label is the beginning of another ("no" and
"no complaint"), every label is closed by the end token, so that the shorter one is not favoured.
A label with several words (verbalizer) has the sum of their probabilities, or the mean of their
logarithms (`ptune.tasks.answers`).
The row is computed once; each label continues it (`ptune.batch.Branch`). Behind the row itself all
labels are compared, so the sum over the vocabulary cancels there, and the head is asked for their
first words alone: with labels of one token no other logit is computed at all.

Two losses: `labels`, the negative log of that p, and `vocabulary`, of the words among all words
of the vocabulary. The first spends no step on learning to say a label at all, and trained prompts
to far higher scores (`bench/defaults.py`); the second is what other libraries compute, and the one
for free text.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ptune import texts
from ptune.backbone import Backbone
from ptune.batch import Branch, TokenSequence
from ptune.errors import ConfigError, DataError, TemplateError
from ptune.inject import Words
from ptune.layout import Layout, Rendered
from ptune.parts import Label
from ptune.tasks.answers import LabelWords, refuse_equal
from ptune.tasks.options import Loss, TaskOptions
from ptune.tasks.scoring import text_scores
from ptune.tasks.task import Answer, Example, Prediction, Row, Search, given, index_of
from ptune.template import Template
from ptune.values import place_of

# Longest answer of free text, in tokens, its end included.
MOST_NEW_TOKENS = 64


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "CausalLM":
    """Bind a template to a decoder with a language-model head.

    Raises:
        ConfigError: the backbone has no such head, or the labels cannot be told apart.
        TemplateError: `{label}` is not the last part of the template.
    """
    if not (backbone.has_lm_head and backbone.geometry.causal):
        raise ConfigError(
            f'task = causal-lm needs a decoder with a language-model head; "{backbone.name}" '
            f"({type(backbone.model).__name__}) is none. Use task: sequence-classification."
        )
    _require_last_label(template)
    limit, search = options.limit(backbone), search_of(options)
    end = backbone.tokenizer.eos_token_id
    words = words_of(options)
    if not words.labels:
        room = _room(options, limit)
        layout = template.bind(backbone.tokenizer, max_tokens=limit - room)
        return CausalLM(layout, words, end=end, room=room, search=search)
    layout = template.bind(backbone.tokenizer, max_tokens=limit, label_words=words.spelled)
    return CausalLM(layout, words, end=end, loss=options.loss)


def words_of(options: TaskOptions) -> LabelWords:
    """The labels and what stands for them; none for free text."""
    if not options.labels:
        return LabelWords({})
    return LabelWords.of(options)


def search_of(options: TaskOptions) -> Search:
    """How free text is looked for.

    Raises:
        ConfigError: the run is to be judged by a score whose package is not installed.
    """
    texts.check(options.metric)
    return Search(options.beams, options.length_penalty)


def _room(options: TaskOptions, limit: int) -> int:
    """The longest free text, in tokens; a quarter of a row at most where nothing else is said."""
    wanted = options.max_new_tokens
    if wanted is not None and wanted >= limit:
        raise ConfigError(
            f"max_new_tokens = {wanted}: row and answer together have {limit} tokens at most. "
            "Ask for fewer, or raise max_tokens."
        )
    return wanted or min(MOST_NEW_TOKENS, limit // 4)


def _require_last_label(template: Template) -> None:
    at = [i for i, part in enumerate(template.parts) if isinstance(part, Label)]
    if at != [len(template.parts) - 1]:
        found = "has none" if not at else "has it elsewhere"
        raise TemplateError(
            f'template "{template.source}": task causal-lm needs one {{label}}, at the end; this '
            f'one {found}. For example: "{{soft:20}}{{text}} Label : {{label}}".'
        )


class CausalLM:
    """Label words, or free text, as the continuation of a row.

    Args:
        layout: the template, bound to the tokenizer.
        words: the labels and the words that stand for them. None of them: free text.
        end: the end token, which closes free text and labels that begin alike.
        loss: over the labels, or over the whole vocabulary (where the first word is learned).
        room: longest free text, in tokens; the rest of an answer is cut.
        search: for free text; None is greedy.
    Raises:
        ConfigError: the tokenizer cannot tell two labels apart.
    """

    name = "causal-lm"
    read: Literal["states", "words"] = "words"

    def __init__(
        self,
        layout: Layout,
        words: LabelWords,
        *,
        end: int | None,
        loss: Loss = "labels",
        room: int = MOST_NEW_TOKENS,
        search: Search | None = None,
    ) -> None:
        self.layout = layout
        self.answers = words
        self.labels = words.labels
        self.search = search or Search()
        self.end = end
        self.generates = not words.labels
        self.over_labels = bool(words.labels) and loss == "labels"
        self.room = room
        self._words = [layout.label_ids(word) for word in words.spelled]
        refuse_equal(words.spelled, self._words)
        self._close_words()

    def _close_words(self) -> None:
        """Append the end token to every word where one begins another."""
        ids = self._words
        if not any(a != b and b[: len(a)] == a for a in ids for b in ids):
            return
        if self.end is None:
            raise ConfigError(
                f"Labels {', '.join(map(repr, self.labels))}: the words of one are the beginning "
                "of another's, and the tokenizer has no end token to tell them apart. Choose "
                "other words with verbalizer."
            )
        self._words = [(*word, self.end) for word in ids]

    def head(self, hidden: int) -> nn.Module | None:
        """None: the backbone's own language-model head gives the words."""
        return None

    def question(self, example: Example) -> TokenSequence:
        """The row up to its answer."""
        said = len(example.target or ()) - 1 if self.generates else 0
        ids = example.sequence.ids
        return replace(example.sequence, ids=ids[: len(ids) - max(0, said)], reads=(), branches=())

    def examples(
        self, rows: Sequence[Row], answers: Sequence[Answer] | None = None
    ) -> list[Example]:
        """Rows up to their label, with every label as a continuation."""
        if self.generates and answers is not None:
            return self.training_examples(rows, answers)
        branches = tuple(
            Branch(ids[:-1], tuple(range(len(ids) - 1))) for ids in self._words if len(ids) > 1
        )
        return [
            Example(
                self._sequence(one, branches=branches),
                None if answer is None else self._index(answer),
                answer,
                one.cut,
            )
            for one, answer in zip(self._rendered(rows), given(rows, answers), strict=True)
        ]

    def training_examples(self, rows: Sequence[Row], answers: Sequence[Answer]) -> list[Example]:
        """What is trained on: as for scoring, or each row with its own words alone."""
        if self.over_labels:
            return self.examples(rows, answers)
        said = self._spoken(answers)
        return [
            Example(
                self._sequence(one, answer=ids[: self.room]),
                ids[: self.room],
                answer,
                one.cut + len(ids[self.room :]),
            )
            for one, ids, answer in zip(self._rendered(rows), said, answers, strict=True)
        ]

    def _rendered(self, rows: Sequence[Row]) -> list[Rendered]:
        """The rows as ids, each with a token or more before its answer."""
        made = self.layout.render(rows)
        for index, one in enumerate(made):
            if not self._begun(one):
                raise DataError(
                    f"{place_of(rows, index)}: the row has no token before its answer, since its "
                    "fields are empty. Put some words before it in the template, or leave the row "
                    "out."
                )
        return made

    def _begun(self, one: Rendered) -> bool:
        return one.label_at != 0

    def _index(self, answer: Answer) -> int:
        return index_of(answer, self.labels)

    def _spoken(self, answers: Sequence[Answer]) -> list[tuple[int, ...]]:
        """The ids of answers: the words of their labels, or free text and the end token."""
        if self.labels:
            return [
                self._words[self.answers.label_of.index(self._index(answer))] for answer in answers
            ]
        close = () if self.end is None else (self.end,)
        texts = self.layout.answer_ids([str(answer) for answer in answers], plain=True)
        return [(*ids, *close) for ids in texts]

    def _sequence(
        self, one: Rendered, *, branches: tuple[Branch, ...] = (), answer: tuple[int, ...] = ()
    ) -> TokenSequence:
        """The row up to its label, and as much of an answer as is needed to predict the rest."""
        assert one.label_at is not None
        ids = one.ids[: one.label_at] + answer[:-1]
        last = one.label_at - 1
        return TokenSequence(
            ids=ids,
            reads=tuple(range(last, last + max(1, len(answer)))),
            shared=min(one.shared, one.label_at),
            types=one.types[: one.label_at] + (one.label_type,) * len(answer[:-1]),
            branches=branches,
        )

    def loss(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> Float[Tensor, " examples"]:
        """Negative log-probability of the right label, or the mean over the words of the answer."""
        if isinstance(examples[0].target, tuple):
            words = [id for e in examples for id in e.target]
            lengths = [len(e.target) for e in examples]
            parts = torch.split(-read.log_probabilities(words), lengths)
            return torch.stack([part.mean() for part in parts])
        scores = self.answers.by_label(self._word_scores(read, len(examples)))
        targets = torch.tensor([e.target for e in examples], device=read.device)
        return functional.cross_entropy(scores, targets, reduction="none")

    def _word_scores(self, read: Words, count: int) -> Float[Tensor, "examples words"]:
        """Log-probability of every word, up to a number that is the same for all of a row."""
        by_word = self._first_scores(read, count)
        later = [(at, id) for at, ids in enumerate(self._words) for id in ids[1:]]
        if later:
            word_of, ids = zip(*later, strict=True)
            # Each example has one read behind its row, then those of its branches.
            reads = [at for at in range(len(read)) if at % (len(read) // count)]
            each = read.log_probabilities(ids * count, reads).view(count, -1)
            by_word = by_word.index_add(1, torch.tensor(word_of, device=read.device), each)
        return by_word

    def _first_scores(self, read: Words, count: int) -> Float[Tensor, "examples words"]:
        """Logits of every word's first token, behind the row."""
        first = [ids[0] for ids in self._words]
        tokens = sorted(set(first))
        reads = range(0, len(read), len(read) // count)
        return read.logits_of(reads, tokens)[:, [tokens.index(id) for id in first]]

    def predict(
        self, read: Words, examples: Sequence[Example], head: nn.Module | None
    ) -> list[Prediction]:
        """The most likely label of each row, with the probabilities of all."""
        return self.answers.predictions(self._word_scores(read, len(examples)))

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Those of labels, or of free text (`ptune.tasks.scoring`)."""
        if self.generates:
            return text_scores([str(e.answer) for e in examples], predictions, examples)
        return self.answers.scores(predictions, examples)
