r"""Layouts: a template bound to a tokenizer, which turns rows into ids.

    template   {soft:3}Review: {text} Sentiment:{label}
    row        {"text": "so dull"}

    ids        [CLS]  -1 -2 -3  Review :  so dull  Sentiment :  [SEP]
               \___ shared ____________/  \_cut_/             ^
                                                              label_at

Virtual token `s` has the id `-1 - s`. The label itself is not among the ids: `label_at` says where
it would stand, `label_ids` how it is spelled there, and room is kept for the longest.

Pieces of text between the braces are spelled one by one, so an anchor is the same in every row.
Where a sequence would be too long, its fields are cut at their ends, the longest first; virtual
tokens, anchors and the room of the label are never touched.

One field may hold a list of words, which is written as its words with a space before each; of
every word it is known where its first token stands, and a row that is too long loses whole words.

Knows strings and ids; no tensor, no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptune.binding import Answer, Binding, Fixed, Piece, Value
from ptune.errors import TemplateError
from ptune.parts import Part
from ptune.spelling import Characters, Ids, Span, Spelled, Tokenizer
from ptune.values import shorten, text_of, words_of


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row as ids.

    Args:
        ids: token ids; virtual token `s` is `-1 - s`.
        types: the segment of each id (`token_type_ids`), zeros where the tokenizer gives none.
        shared: how many of the first ids are the same in every row.
        label_at: offset at which the label would be inserted; None without `{label}`.
        masks: offsets of the mask tokens.
        cut: field tokens that did not fit.
        words: of the field of words, offset of each word's first token; -1 where the word did not
            fit, or is written without a token.
        fields: offsets at which the fields begin, in their order in the template.
        label_type: the segment of the label.
    """

    ids: Ids
    types: Ids
    shared: int
    label_at: int | None
    masks: tuple[int, ...]
    cut: int
    words: tuple[int, ...] = ()
    fields: tuple[int, ...] = ()
    label_type: int = 0


class Layout:
    """Renders rows. Made by `Template.bind`.

    Attributes:
        source: the template.
        slots: number of distinct virtual tokens, numbered in order of first appearance.
        texts: for each block that has an initial text, its slots and as many ids of the text.
        shared: how many of the first ids are the same in every row.
        field_tokens: room for all fields of a row together.
        rows_cut: how many of the rows rendered so far did not fit whole.
    """

    def __init__(
        self,
        source: str,
        parts: Sequence[Part],
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        label_words: Sequence[str] = (),
        words: str | None = None,
    ) -> None:
        binding = Binding(source, parts, tokenizer, max_tokens, words)
        self.source = source
        self.slots = binding.slots
        self.texts = tuple(binding.texts)
        self.shared = _count_shared(binding.pieces)
        self.rows_cut = 0
        self._speller = binding.speller
        self._pieces = tuple(binding.pieces)
        self._values = [piece for piece in self._pieces if isinstance(piece, Value)]
        labels = (piece for piece in self._pieces if isinstance(piece, Answer))
        self._answer = next(labels, binding.at_mask)
        self.field_tokens = self._count_room(max_tokens, label_words)

    def label_ids(self, word: str) -> Ids:
        """Return the ids of a label word as it would be spelled at `{label}`, else at `{mask}`.

        Raises:
            TemplateError: the template has neither, or the word has no token.
        """
        return self.answer_ids([word])[0]

    def answer_ids(self, words: Sequence[str], *, plain: bool = False) -> list[Ids]:
        """Return the ids of several words or texts, which is faster than one by one.

        Args:
            plain: a name of a special token in a text is not that token: of texts of rows.

        Raises:
            TemplateError: the template has no place for them, or one of them has no token.
        """
        if self._answer is None:
            raise TemplateError(
                f'template "{self.source}": there is no place for the label word "{words[0]}". '
                "Write {label} where it stands."
            )
        texts = [self._answer.lead + word for word in words]
        spelled = self._speller.spell(texts, opens=self._answer.opens, plain=plain)
        for word, ids in zip(words, spelled, strict=True):
            if not word.strip() or not ids:
                raise TemplateError(
                    f'template "{self.source}": the label word "{word}" has no token. '
                    "Choose a word that the tokenizer can write."
                )
        return spelled

    @property
    def key(self) -> str:
        """All that decides how a row is rendered, but the tokenizer, as a text."""
        return repr((self._pieces, self.field_tokens))

    @property
    def ends_virtual(self) -> bool:
        """Whether virtual tokens are the last of every row."""
        ends = (piece for piece in reversed(self._pieces) if piece != Fixed(Span((), ())))
        last = next(ends, None)
        return isinstance(last, Fixed) and last.span.ids[-1] < 0

    def render(self, rows: Sequence[Mapping[str, object]]) -> list[Rendered]:
        """Return each row as ids.

        Args:
            rows: each with a value for every field. Where they know where they stand (`Placed`),
                errors say it; else they count the rows.

        Raises:
            DataError: a value is missing or is not text; names the row and the column.
        """
        rendered = [self._shortened(values) for values in self.values(rows)]
        self.rows_cut += sum(row.cut > 0 for row in rendered)
        return rendered

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in their order in the template."""
        return tuple(place.field.name for place in self._values)

    @property
    def limits(self) -> tuple[int | None, ...]:
        """How many tokens of each of the `fields` the template takes at most."""
        return tuple(place.field.limit for place in self._values)

    def values(self, rows: Sequence[Mapping[str, object]]) -> list[tuple[Spelled, ...]]:
        """Return each row's `fields` as ids, not cut. Raises: as `render`."""
        columns = [self._spell_column(place, rows) for place in self._values]
        return list(zip(*columns, strict=True)) if columns else [()] * len(rows)

    def _spell_column(self, place: Value, rows: Sequence[Mapping[str, object]]) -> list[Spelled]:
        if place.words:
            several = [words_of(rows, index, place.field.name) for index in range(len(rows))]
            return self._speller.spell_words(several, lead=place.lead, opens=place.opens)
        texts = [text_of(rows, index, place.field.name) for index in range(len(rows))]
        spelled = self._speller.spell(
            [place.lead + text for text in texts], opens=place.opens, plain=True
        )
        return [Spelled(ids) for ids in spelled]

    def locate(
        self, rows: Sequence[Mapping[str, object]], field: int
    ) -> list[tuple[tuple[Characters, ...], str]]:
        """Return which characters of a field's text each of its tokens stands for, and the text."""
        place = self._values[field]
        texts = [text_of(rows, index, place.field.name) for index in range(len(rows))]
        found = self._speller.locate(
            [place.lead + text for text in texts], opens=place.opens, plain=True
        )
        before = len(place.lead)
        return [
            (tuple((max(0, a - before), max(0, b - before)) for a, b in characters), text)
            for (_, characters), text in zip(found, texts, strict=True)
        ]

    def _shortened(self, values: Sequence[Spelled]) -> Rendered:
        """A row in which every field is cut until all fit."""
        pairs = list(zip(values, self._values, strict=True))
        room = [len(value.ids[: place.field.limit]) for value, place in pairs]
        kept = shorten(room, self.field_tokens)
        shown = [value.up_to(keep) for value, keep in zip(values, kept, strict=True)]
        before, after = (sum(len(value.ids) for value in some) for some in (values, shown))
        return self.assemble(shown, before - after)

    def assemble(self, values: Sequence[Spelled], cut: int = 0) -> Rendered:
        """Return the row that has these in its `fields`, `cut` tokens of which were left out."""
        left = iter(values)
        fields: list[int] = []
        ids: list[int] = []
        types: list[int] = []
        masks: list[int] = []
        words: tuple[int, ...] = ()
        label_at, label_type = None, 0
        for piece in self._pieces:
            match piece:
                case Fixed():
                    masks += [len(ids) + at for at in piece.masks]
                    ids += piece.span.ids
                    types += piece.span.types
                case Value():
                    value = next(left)
                    fields.append(len(ids))
                    words += tuple(len(ids) + at if at >= 0 else -1 for at in value.words)
                    ids += value.ids
                    types += [piece.segment] * len(value.ids)
                case Answer():
                    label_at, label_type = len(ids), piece.segment
        made = tuple(ids), tuple(types), self.shared, label_at, tuple(masks), cut, words
        return Rendered(*made, tuple(fields), label_type)

    def _count_room(self, max_tokens: int, label_words: Sequence[str]) -> int:
        """Return what is left for the fields."""
        fixed = [
            token for piece in self._pieces if isinstance(piece, Fixed) for token in piece.span.ids
        ]
        label = max((len(self.label_ids(word)) for word in label_words), default=0)
        room = max_tokens - len(fixed) - label
        if room < min(1, len(self.fields)):
            virtual = sum(token < 0 for token in fixed)
            more = f"more than max_tokens = {max_tokens}"
            if room == 0:
                more = f"and max_tokens = {max_tokens} leaves none for {', '.join(self.fields)}"
            raise TemplateError(
                f'template "{self.source}": {virtual} virtual tokens, {len(fixed) - virtual} of '
                f"text and specials and {label} of the longest label are {len(fixed) + label}, "
                f"{more}. Shorten the template, or raise max_tokens if it is not the model's own "
                "limit."
            )
        return room


def _count_shared(pieces: Sequence[Piece]) -> int:
    shared = 0
    for piece in pieces:
        if not isinstance(piece, Fixed):
            break
        shared += len(piece.span.ids)
    return shared
