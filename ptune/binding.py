r"""Binding: a template's parts become pieces, and all that is not of a row is spelled, once.

    template   {soft:3}Review: {text} Sentiment:{label}

    Fixed      [CLS]   -1 -2 -3   Review :           Sentiment :            [SEP]
    Value                                    text
    Answer                                                        label

White space before a field goes over to the field where the tokenizer writes it so; masks are
spelled together with the text around them. Virtual token `s` has the id `-1 - s`.

Knows strings and ids. Next: `layout.py` puts rows between the pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ptune.errors import TemplateError
from ptune.parts import Anchor, Begin, Field, Label, Mask, Part, Separator, Soft, fault
from ptune.spelling import Frame, Ids, Span, Speller, Tokenizer, frame


@dataclass(frozen=True, slots=True)
class Fixed:
    """Ids that are the same in every row; `masks` are offsets among them."""

    span: Span
    masks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """Where a field stands. `lead` is the white space that belongs to it."""

    field: Field
    lead: str
    opens: bool
    segment: int
    words: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Where the label stands. `lead` is the white space that belongs to it."""

    lead: str
    opens: bool
    segment: int


Piece: TypeAlias = Fixed | Value | Answer


class Binding:
    """Walks through the parts once and spells everything that is not of a row.

    Attributes:
        pieces: in the order of a row.
        slots: number of distinct virtual tokens, numbered in order of first appearance.
        texts: for each block that has an initial text, its slots and as many ids of the text.
        at_mask: how a word is spelled that stands for the first mask; None where there is none.

    Raises:
        TemplateError: the tokenizer cannot write one of the parts.
    """

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
        self.pieces: list[Piece] = []
        self.texts: list[tuple[range, Ids]] = []
        self.slots = 0
        self.at_mask: Answer | None = None
        self._named: dict[str, range] = {}
        self._text = ""  # anchors and masks that wait to be spelled together
        self._opens = True  # no text stands before, in this one of the two texts
        self._frame = self._watch(tokenizer, parts)
        self._segment = self._frame.segments[0]
        parts = parts if any(isinstance(p, Begin) for p in parts) else (Begin(), *parts)
        for before, part in zip((None, *parts), parts, strict=False):
            if isinstance(part, Begin):
                self.pieces.append(Fixed(self._frame.before))
            self._take(part, after_separator=isinstance(before, Separator))
        self._spell_waiting()
        self.pieces.append(Fixed(self._frame.after))

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
                self.pieces.append(Fixed(self._frame.between))
                self._segment, self._opens = self._frame.segments[1], True
            case Field():
                lead, opens = self._spell_before()
                words = part.name == self._words
                self.pieces.append(Value(part, lead, opens, self._segment, words))
            case Label():
                self.pieces.append(Answer(*self._spell_before(), self._segment))

    def _take_mask(self, part: Mask) -> None:
        if self.mask_id is None:
            reason = f"{part}: this tokenizer has no mask token. Use {{label}} instead."
            raise fault(self.source, part.at, reason)
        self.at_mask = self.at_mask or self._before_mask()
        # Spelled with the text around it: some mask tokens swallow the space before them.
        self._text += self.mask_token * part.count

    def _before_mask(self) -> Answer:
        """How a word is spelled that stands for the first mask.

        The space before a mask is that word's own where the mask swallows it, as RoBERTa's does.
        """
        bare = self._text.rstrip(" \t")
        texts = [self._spell(text + self.mask_token, self._opens) for text in (self._text, bare)]
        lead = " " if bare != self._text and texts[0] == texts[1] else ""
        return Answer(lead, self._opens and not self._text, self._segment)

    def _fix(self, ids: Ids, masks: tuple[int, ...] = ()) -> None:
        self.pieces.append(Fixed(Span(ids, (self._segment,) * len(ids)), masks))

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
