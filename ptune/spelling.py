r"""Spelling: how one tokenizer writes text, found by watching it, never by its name.

                       Llama, T5, XLM-R        GPT-2, Qwen, Llama 3
    "dull" opening     _dull                   dull
    "dull" inside      dull                    dull
    " dull" inside     _dull                   _dull

Tokenizers of the first kind put a space in front of whatever they are given. A template is spelled
piece by piece, and only the piece that opens the text may get that space. So the others are spelled
behind a marker, whose own tokens are then taken away.

`frame` finds the special tokens that the tokenizer puts around one text, or two.

`Speller.spell_words` writes a list of words and knows where each begins.

Knows strings and ids; the tokenizer is passed in. Next: `ptune.layout` spells a template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, NamedTuple, TypeAlias

from ptune.errors import ConfigError

Ids: TypeAlias = tuple[int, ...]
# The characters of a text that a token stands for: the first, and the one behind the last.
Characters: TypeAlias = tuple[int, int]
Tokenizer: TypeAlias = Any  # one of transformers: called with texts, has `mask_token`

# Tried in turn: a marker serves if its tokens come first, whole, so it must not melt into the text.
# A comma does not melt into words, the others do not melt into commas.
_MARKERS = (",", "0", "a", ")")


class Spelled(NamedTuple):
    """A value of a row as ids; of a list of words, where each begins (-1: it has no token)."""

    ids: Ids
    words: tuple[int, ...] = ()

    @classmethod
    def of(cls, words: Sequence[Ids]) -> "Spelled":
        """Words, one behind the other."""
        starts = accumulate(map(len, words[:-1]), initial=0)
        ids = tuple(chain.from_iterable(words))
        return cls(ids, tuple(at if word else -1 for at, word in zip(starts, words, strict=True)))

    def up_to(self, length: int) -> "Spelled":
        """The first ids, `length` at most; whole words, where there are words."""
        if length >= len(self.ids):
            return self
        if not self.words:
            return Spelled(self.ids[:length])
        whole = max(at for at in (0, *self.words) if at <= length)
        words = tuple(at if at < whole else -1 for at in self.words)
        return Spelled(self.ids[:whole], words)


class Speller:
    """Writes pieces of one text as the tokenizer would write them where they stand.

    Attributes:
        prefixes: whether the tokenizer puts a space in front of whatever it is given.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._unknown: int | None = getattr(tokenizer, "unk_token_id", None)
        self.prefixes = self._opening_differs()

    def spell(self, texts: Sequence[str], *, opens: bool, plain: bool = False) -> list[Ids]:
        """Return the ids of each text, without the specials of `frame`.

        Args:
            texts: pieces that stand at the same place.
            opens: nothing stands before them in their text.
            plain: a name of a special token in the text is not that token, where the tokenizer can.
        """
        return [ids for _, ids in self._marked(texts, opens=opens, plain=plain)]

    def locate(
        self, texts: Sequence[str], *, opens: bool, plain: bool = False
    ) -> list[tuple[Ids, tuple[Characters, ...]]]:
        """Return the ids of each text as `spell` does, and the characters each id stands for.

        White space at either side of a token's characters is left out. A character written with
        several tokens (bytes) is that of each of them.

        Raises:
            ConfigError: the tokenizer does not know them (one in Python).
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise ConfigError(
                f"{type(self.tokenizer).__name__} does not say which characters its tokens stand "
                "for. Load the model with a fast tokenizer, which has a tokenizer.json."
            )
        marked = self._marked(texts, opens=opens, plain=plain)
        whole = [marker + text for (marker, _), text in zip(marked, texts, strict=True)]
        places = (
            self._call(whole, plain, return_offsets_mapping=True)["offset_mapping"] if whole else []
        )
        return [
            (
                ids,
                tuple(
                    _trimmed(text, len(marker), *pair) for pair in pairs[len(pairs) - len(ids) :]
                ),
            )
            for text, (marker, ids), pairs in zip(texts, marked, places, strict=True)
        ]

    def _marked(self, texts: Sequence[str], *, opens: bool, plain: bool) -> list[tuple[str, Ids]]:
        """The ids of each text, and the marker behind which they were found."""
        if opens or not self.prefixes:
            return [("", ids) for ids in self._encode(texts, plain)]
        found: dict[int, tuple[str, Ids]] = {}
        for marker in _MARKERS:
            left = [at for at in range(len(texts)) if at not in found]
            if not left:
                break
            head, *marked = self._encode([marker, *(marker + texts[at] for at in left)], plain)
            found |= {
                at: (marker, ids[len(head) :])
                for at, ids in zip(left, marked, strict=True)
                if self._stands_alone(head, ids)
            }
        left = [at for at in range(len(texts)) if at not in found]
        alone = self._encode([texts[at] for at in left], plain)
        found |= {at: ("", ids) for at, ids in zip(left, alone, strict=True)}
        return [found[at] for at in range(len(texts))]

    def spell_words(
        self, rows: Sequence[Sequence[str]], *, lead: str, opens: bool
    ) -> list[Spelled]:
        """Return the ids of lists of words: each with a space in front, each distinct one once.

        That is how the tokenizer writes words which it is given one by one (`is_split_into_words`
        of transformers, with `add_prefix_space` where there is one).

        Args:
            lead: white space before the first word, in place of its space.
            opens: nothing stands before them in their text.
        """
        lead = lead or ("" if opens and self.prefixes else " ")
        first = sorted({words[0] for words in rows})
        later = sorted({word for words in rows for word in words[1:]})
        opening = self.spell([lead + word for word in first], opens=opens, plain=True)
        inside = self.spell([" " + word for word in later], opens=False, plain=True)
        as_first = dict(zip(first, opening, strict=True))
        as_later = dict(zip(later, inside, strict=True))
        return [
            Spelled.of([as_first[words[0]], *(as_later[word] for word in words[1:])])
            for words in rows
        ]

    def spell_one(self, text: str, *, opens: bool) -> Ids:
        """Return the ids of one text of the template itself."""
        return self.spell([text], opens=opens)[0]

    def _opening_differs(self) -> bool:
        for marker in _MARKERS:
            head, joined, alone = self._encode([marker, marker + "b", "b"], plain=False)
            if self._stands_alone(head, joined):
                return joined[len(head) :] != alone
        return False

    def _stands_alone(self, head: Ids, ids: Ids) -> bool:
        # Two unknown characters may become one unknown token: such a marker would swallow the text.
        return bool(head) and self._unknown not in head and ids[: len(head)] == head

    def _encode(self, texts: Sequence[str], plain: bool) -> list[Ids]:
        if not texts:
            return []
        return [tuple(ids) for ids in self._call(texts, plain)["input_ids"]]

    def _call(self, texts: Sequence[str], plain: bool, **more: bool) -> Any:
        return self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=plain,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # long rows are cut by the layout, so there is nothing to warn of
            **more,
        )


def _trimmed(text: str, before: int, start: int, stop: int) -> Characters:
    """A token's characters in its own text, without white space at either side.

    >>> _trimmed("in Ohio", 0, 2, 7), _trimmed("in Ohio", 1, 1, 3), _trimmed("in Ohio", 0, 2, 3)
    ((3, 7), (0, 2), (3, 3))
    """
    start, stop = max(0, start - before), max(0, stop - before)
    while start < stop and text[start].isspace():
        start += 1
    while start < stop and text[stop - 1].isspace():
        stop -= 1
    return start, stop


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring ids with their segments (`token_type_ids`)."""

    ids: Ids
    types: Ids

    def part(self, start: int, stop: int) -> "Span":
        """Those from `start` to before `stop`."""
        return Span(self.ids[start:stop], self.types[start:stop])


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens around one text or two, and the segments of the texts.

    before  FIRST  between  SECOND  after
    [CLS]   text   [SEP]    text    [SEP]
    0       0      0        1       1
    """

    before: Span
    between: Span
    after: Span
    segments: tuple[int, int]


def frame(tokenizer: Tokenizer, *, pair: bool) -> Frame | None:
    """Watch the tokenizer write one text, or a pair. None if the texts are not found again."""
    texts = ["a", "b"] if pair else ["a"]
    coded = tokenizer(*texts)
    ids = tuple(coded["input_ids"])
    types = tuple(coded.get("token_type_ids") or (0,) * len(ids))
    alone = [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    first = _find(alone[0], ids, 0)
    second = _find(alone[1], ids, first.stop) if first and pair else first
    if first is None or second is None:
        return None
    whole = Span(ids, types)
    return Frame(
        before=whole.part(0, first.start),
        between=whole.part(first.stop, second.start),
        after=whole.part(second.stop, len(ids)),
        segments=(types[first.start], types[second.start]),
    )


def _find(part: Ids, ids: Ids, start: int) -> range | None:
    places = (range(at, at + len(part)) for at in range(start, len(ids) - len(part) + 1))
    return next((place for place in places if ids[place.start : place.stop] == part), None)
