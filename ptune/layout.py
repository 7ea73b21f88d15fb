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
from typing import TypeAlias

from ptune.errors import TemplateError
from ptune.parts import Anchor, Begin, Field, Label, Mask, Part, Separator, Soft, fault
from ptune.spelling import Characters, Frame, Ids, Span, Spelled, Speller, Tokenizer, frame
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
    """

    ids: Ids
    types: Ids
    shared: int
    label_at: int | None
    masks: tuple[int, ...]
    cut: int
    words: tuple[int, ...] = ()
    fields: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fixed:
    """Ids that are the same in every row; `masks` are offsets among them."""

    span: Span
    masks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Value:
    """Where a field stands. `lead` is the white space that belongs to it."""

    field: Field
    lead: str
    opens: bool
    segment: int
    words: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    """Where the label stands. `lead` is the white space that belongs to it."""

    lead: str
    opens: bool


_Piece: TypeAlias = _Fixed | _Value | _Answer


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
        binding = _Binding(source, parts, tokenizer, max_tokens, words)
        self.source = source
        self.slots = binding.slots
        self.texts = tuple(binding.texts)
        self.shared = _count_shared(binding.pieces)
        self.rows_cut = 0
        self._speller = binding.speller
        self._pieces = tuple(binding.pieces)
        self._values = [piece for piece in self._pieces if isinstance(piece, _Value)]
        labels = (piece for piece in self._pieces if isinstance(piece, _Answer))
        self._answer = next(labels, binding.at_mask)
        self.field_tokens = self._count_room(max_tokens, label_words)

    def label_ids(self, word: str) -> Ids:
        """Return the ids of a label word as it would be spelled at `{label}`, else at `{mask}`.

        Raises:
            TemplateError: the template has neither, or the word has no token.
        """
        return self.answer_ids([word])[0]

    def answer_ids(self, words: Sequence[str]) -> list[Ids]:
        """Return the ids of several words or texts, which is faster than one by one.

        Raises:
            TemplateError: the template has no place for them, or one of them has no token.
        """
        if self._answer is None:
            raise TemplateError(
                f'template "{self.source}": there is no place for the label word "{words[0]}". '
                "Write {label} where it stands."
            )
        texts = [self._answer.lead + word for word in words]
        spelled = self._speller.spell(texts, opens=self._answer.opens)
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
        ends = (piece for piece in reversed(self._pieces) if piece != _Fixed(Span((), ())))
        last = next(ends, None)
        return isinstance(last, _Fixed) and last.span.ids[-1] < 0

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

    def values(self, rows: Sequence[Mapping[str, object]]) -> list[tuple[Spelled, ...]]:
        """Return each row's `fields` as ids, not cut. Raises: as `render`."""
        columns = [self._spell_column(place, rows) for place in self._values]
        return list(zip(*columns, strict=True)) if columns else [()] * len(rows)

    def _spell_column(self, place: _Value, rows: Sequence[Mapping[str, object]]) -> list[Spelled]:
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
        label_at = None
        for piece in self._pieces:
            match piece:
                case _Fixed():
                    masks += [len(ids) + at for at in piece.masks]
                    ids += piece.span.ids
                    types += piece.span.types
                case _Value():
                    value = next(left)
                    fields.append(len(ids))
                    words += tuple(len(ids) + at if at >= 0 else -1 for at in value.words)
                    ids += value.ids
                    types += [piece.segment] * len(value.ids)
                case _Answer():
                    label_at = len(ids)
        made = tuple(ids), tuple(types), self.shared, label_at, tuple(masks), cut, words
        return Rendered(*made, tuple(fields))

    def _count_room(self, max_tokens: int, label_words: Sequence[str]) -> int:
        """Return what is left for the fields."""
        fixed = [
            token for piece in self._pieces if isinstance(piece, _Fixed) for token in piece.span.ids
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


class _Binding:
    """Walks through the parts once and spells everything that is not of a row."""

    def __init__(
        self,
        source: str,
        parts: Sequence[Part],
        tokenizer: Tokenizer,
        max_tokens: int,
        words: str | None,
    ) -> None:
        self.source = source
        self.max_tokens = max_tokens
        self._words = words
        self.mask_token, self.mask_id = tokenizer.mask_token, tokenizer.mask_token_id
        self.speller = Speller(tokenizer)
        self.pieces: list[_Piece] = []
        self.texts: list[tuple[range, Ids]] = []
        self.slots = 0
        self.at_mask: _Answer | None = None
        self._named: dict[str, range] = {}
        self._text = ""  # anchors and masks that wait to be spelled together
        self._opens = True  # no text stands before, in this one of the two texts
        self._frame = self._watch(tokenizer, parts)
        self._segment = self._frame.segments[0]
        parts = parts if any(isinstance(p, Begin) for p in parts) else (Begin(), *parts)
        for before, part in zip((None, *parts), parts, strict=False):
            if isinstance(part, Begin):
                self.pieces.append(_Fixed(self._frame.before))
            self._take(part, after_separator=isinstance(before, Separator))
        self._spell_waiting()
        self.pieces.append(_Fixed(self._frame.after))

    def _watch(self, tokenizer: Tokenizer, parts: Sequence[Part]) -> Frame:
        separator = next((part for part in parts if isinstance(part, Separator)), None)
        found = frame(tokenizer, pair=separator is not None)
        if found is None:
            raise TemplateError(
                f'template "{self.source}": this tokenizer writes text differently when it adds '
                "special tokens, so they cannot be told apart. Use another tokenizer."
            )
        if separator and not found.between.ids:
            reason = "{sep}: this tokenizer puts nothing between two texts. Write text instead."
            raise fault(self.source, separator.at, reason)
        return found

    def _take(self, part: Part, *, after_separator: bool) -> None:
        match part:
            case Anchor():
                self._text += part.text.lstrip(" \t") if after_separator else part.text
            case Mask():
                self._take_mask(part)
            case Soft():
                self._spell_waiting()
                self._fix(tuple(-1 - slot for slot in self._block(part)))
            case Separator():
                self._spell_waiting()
                self.pieces.append(_Fixed(self._frame.between))
                self._segment, self._opens = self._frame.segments[1], True
            case Field():
                lead, opens = self._spell_before()
                words = part.name == self._words
                self.pieces.append(_Value(part, lead, opens, self._segment, words))
            case Label():
                self.pieces.append(_Answer(*self._spell_before()))

    def _take_mask(self, part: Mask) -> None:
        if self.mask_id is None:
            reason = f"{part}: this tokenizer has no mask token. Use {{label}} instead."
            raise fault(self.source, part.at, reason)
        self.at_mask = self.at_mask or self._before_mask()
        # Spelled with the text around it: some mask tokens swallow the space before them.
        self._text += self.mask_token * part.count

    def _before_mask(self) -> _Answer:
        """How a word is spelled that stands for the first mask.

        The space before a mask is that word's own where the mask swallows it, as RoBERTa's does.
        """
        bare = self._text.rstrip(" \t")
        texts = [self._spell(text + self.mask_token, self._opens) for text in (self._text, bare)]
        lead = " " if bare != self._text and texts[0] == texts[1] else ""
        return _Answer(lead, self._opens and not self._text)

    def _fix(self, ids: Ids, masks: tuple[int, ...] = ()) -> None:
        self.pieces.append(_Fixed(Span(ids, (self._segment,) * len(ids)), masks))

    def _spell_waiting(self) -> None:
        """Spell the text before virtual tokens, `{sep}` or the end, without spaces at its end."""
        self._spell_anchor(self._text.rstrip(" \t"))
        self._text = ""

    def _spell_before(self) -> tuple[str, bool]:
        """Spell the waiting text before a field or the label; return their `lead` and `opens`.

        How much white space goes over to the field depends on the tokenizer: GPT-2's splits
        "A:\n\nyes" before the last new line, Llama 3's keeps ":\n\n" as one token. So the new
        lines stay with the anchor where only that leaves the spelling of the whole as it is.
        """
        text, self._text = self._text, ""
        cuts = [len(text.rstrip()), len(text.rstrip(" \t"))]
        whole = self._spell(text + "a", self._opens)
        cut = next((cut for cut in cuts if self._joined(text, cut) == whole), cuts[0])
        self._spell_anchor(text[:cut])
        lead, opens = text[cut:], self._opens and not text
        self._opens = False
        return lead, opens

    def _joined(self, text: str, cut: int) -> Ids:
        lead = self._spell(text[cut:] + "a", self._opens and cut == 0)
        return self._spell(text[:cut], self._opens) + lead

    def _spell(self, text: str, opens: bool) -> Ids:
        # A tokenizer's own space goes before a text that has none.
        return self.speller.spell_one(text, opens=opens and not text[:1].isspace()) if text else ()

    def _spell_anchor(self, text: str) -> None:
        if text:
            ids = self._spell(text, self._opens)
            self._fix(ids, tuple(at for at, token in enumerate(ids) if token == self.mask_id))
            self._opens = False

    def _block(self, part: Soft) -> range:
        """Return the slots of a block, new ones unless its name is known."""
        if part.name in self._named:
            return self._named[part.name]
        ids = self._spell(part.text or "", self._opens)
        if part.text and not ids:
            raise fault(self.source, part.at, f"{part}: the text has no token. Write some words.")
        length = part.length or len(ids)
        if length > self.max_tokens:
            reason = f"{part} alone is longer than max_tokens = {self.max_tokens}. Ask for fewer."
            raise fault(self.source, part.at, reason)
        slots = range(self.slots, self.slots + length)
        self.slots = slots.stop
        if part.name is not None:
            self._named[part.name] = slots
        if ids:
            repeats = -(-length // len(ids))
            self.texts.append((slots, (ids * repeats)[:length]))
        return slots


def _count_shared(pieces: Sequence[_Piece]) -> int:
    shared = 0
    for piece in pieces:
        if not isinstance(piece, _Fixed):
            break
        shared += len(piece.span.ids)
    return shared
