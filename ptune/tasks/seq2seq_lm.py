r"""Sequence to sequence: an encoder reads the row, a decoder says the answer.

    template          {soft:20}{text}             -> encoder   P P P my parcel is late </s>
    decoder_template  {soft:5}{label}             -> decoder   <start> P P | late delivery </s>
                                                               \_prefix__/  \__ answer ____/

Scores and losses are those of causal language modelling (`ptune.tasks.causal_lm`), with the
decoder's prefix in place of the row:

    p(label | row) = softmax over labels of  sum_t log p(word_t | row, prefix, words before t)

The encoder reads a row once, however many labels there are: each label continues the prefix as a
branch of the decoder. Free text is learned with the end token behind it, and generated.
The prefix begins with the token that the model's decoder was trained to begin with, then what its
tokenizer puts in front of a text (BART: `<s>`), as in the model's own training.
"""

from collections.abc import Sequence
from dataclasses import replace

from ptune.backbone import Backbone
from ptune.batch import Branch, TokenSequence
from ptune.errors import ConfigError, TemplateError
from ptune.layout import Layout, Rendered
from ptune.parts import Anchor, Label, Soft, fault
from ptune.spelling import Ids
from ptune.tasks.answers import LabelWords
from ptune.tasks.causal_lm import MOST_NEW_TOKENS, CausalLM, search_of, words_of
from ptune.tasks.options import Loss, TaskOptions
from ptune.tasks.task import Example, Search
from ptune.template import Template


def bind(template: Template, backbone: Backbone, options: TaskOptions) -> "Seq2SeqLM":
    """Bind two templates to an encoder-decoder with a language-model head.

    Raises:
        ConfigError: the backbone is none, or the labels cannot be told apart.
        TemplateError: `{label}` stands in the encoder's template, or the decoder's has other parts
            than virtual tokens, text and `{label}` at the end.
    """
    if not (backbone.has_lm_head and backbone.geometry.two_sided):
        raise ConfigError(
            f'task = seq2seq-lm needs an encoder-decoder with a language-model head; "'
            f'{backbone.name}" ({type(backbone.model).__name__}) is none. Use task: causal-lm or '
            "sequence-classification."
        )
    for part in template.parts:
        if isinstance(part, Label):
            reason = (
                "{label}: in task seq2seq-lm the decoder says the label. Take it out here; "
                'decoder_template says what stands before it, e.g. "{soft:5}{label}".'
            )
            raise fault(template.source, part.at, reason)
    limit, search = options.limit(backbone), search_of(options)
    decoder = Template.parse(options.decoder_template)
    _check_decoder(decoder)
    words = words_of(options)
    layout = TwoSided(
        template,
        decoder,
        backbone,
        max_tokens=limit,
        label_words=words.spelled,
        offset=options.offset,
    )
    room = _room(options, backbone, options.offset + len(layout.prefix))
    end = backbone.tokenizer.eos_token_id
    return Seq2SeqLM(layout, words, end=end, loss=options.loss, room=room, search=search)


def _check_decoder(template: Template) -> None:
    for part in template.parts:
        if not isinstance(part, Anchor | Soft | Label):
            reason = (
                f"{part}: decoder_template has virtual tokens, text and {{label}} only. Rows are "
                "read by the encoder: put it into template."
            )
            raise fault(template.source, part.at, reason)
    if not template.parts or not isinstance(template.parts[-1], Label):
        raise TemplateError(
            f'decoder_template "{template.source}": {{label}} stands at the end, where the decoder '
            'goes on. For example: "{soft:5}{label}".'
        )


def _room(options: TaskOptions, backbone: Backbone, prefix: int) -> int:
    """The longest free text, in tokens."""
    wanted = options.max_new_tokens or MOST_NEW_TOKENS
    positions = backbone.geometry.max_tokens
    room = wanted if positions is None else min(wanted, positions - prefix)
    if room < 1 or (options.max_new_tokens is not None and room < wanted):
        raise ConfigError(
            f"max_new_tokens = {wanted}: the decoder has {positions} positions, and {prefix} stand "
            "before the answer. Ask for fewer, or shorten decoder_template."
        )
    return room


class TwoSided(Layout):
    """The layout of an encoder's rows, and beside it what its decoder begins with.

    Virtual tokens of the decoder are numbered behind those of the encoder.

    Attributes:
        prefix: ids that stand before every answer in the decoder.
    """

    def __init__(
        self,
        template: Template,
        decoder: Template,
        backbone: Backbone,
        *,
        max_tokens: int,
        label_words: Sequence[str],
        offset: int = 0,
    ) -> None:
        tokenizer = backbone.tokenizer
        super().__init__(template.source, template.parts, tokenizer, max_tokens=max_tokens)
        positions = backbone.geometry.max_tokens or max_tokens
        # One place is the start token's; a prompt that moves the decoder's tokens takes some more.
        room = positions - 1 - offset
        self.decoder = decoder.bind(tokenizer, max_tokens=room, label_words=label_words)
        (one,) = self.decoder.render([{}])
        front = (id - self.slots if id < 0 else id for id in one.ids[: one.label_at])
        self.prefix: Ids = (backbone.decoder_start, *front)
        behind = self.decoder.texts
        first = self.slots
        self.texts += tuple((range(b.start + first, b.stop + first), ids) for b, ids in behind)
        self.slots += self.decoder.slots

    def answer_ids(self, words: Sequence[str], *, plain: bool = False) -> list[Ids]:
        """The ids of answers as the decoder's template spells them."""
        return self.decoder.answer_ids(words, plain=plain)

    @property
    def key(self) -> str:
        """As of `Layout`, for both sides."""
        return repr((super().key, self.decoder.key, self.prefix))


class Seq2SeqLM(CausalLM):
    """Label words, or free text, said by the decoder of an encoder-decoder.

    Args:
        layout: both templates, bound to the backbone.
        words, end, loss, room, search: as of `CausalLM`.
    """

    name = "seq2seq-lm"

    def __init__(
        self,
        layout: TwoSided,
        words: LabelWords,
        *,
        end: int | None,
        loss: Loss = "labels",
        room: int = MOST_NEW_TOKENS,
        search: Search | None = None,
    ) -> None:
        self._prefix = layout.prefix
        super().__init__(layout, words, end=end, loss=loss, room=room, search=search)

    def question(self, example: Example) -> TokenSequence:
        """The row, and the decoder's side up to the answer."""
        return replace(example.sequence, decoder=TokenSequence(self._prefix))

    def _begun(self, one: Rendered) -> bool:
        return bool(one.ids)

    def _sequence(
        self, one: Rendered, *, branches: tuple[Branch, ...] = (), answer: tuple[int, ...] = ()
    ) -> TokenSequence:
        last = len(self._prefix) - 1
        decoder = TokenSequence(
            ids=self._prefix + answer[:-1],
            reads=tuple(range(last, last + max(1, len(answer)))),
            branches=branches,
        )
        return TokenSequence(ids=one.ids, types=one.types, decoder=decoder)
