r"""Templates: where virtual tokens, words, fields and the answer stand.

    {soft:20}Tweet text : {text} Label : {label}
    \_______/\__________/\_____/\_______/\_____/
     virtual    anchor    field   anchor  answer

    {soft:20}                      20 virtual tokens
    {soft:"Classify the tweet"}    as many as the text has tokens, initialised from it
    {soft:8="complaint or not"}    8, initialised from the text, repeated or cut
    {soft:4#a} ... {soft#a}        a named block, and the same four virtual tokens again
    {text}  {text:.128}            a column of the row; at most 128 tokens of it
    {mask}  {mask*3}               the tokenizer's mask token, once or three times
    {label}                        where the label stands
    {sep}                          where the second of two texts begins
    {bos}                          where [CLS] or <s> stands, if not in front of everything
    {{  }}                         literal braces; inside "...", write \" and \\ for " and \

Everything else is an anchor: text, kept as it is, the same in every row.

White space before a field or the label belongs to that field's first token, as tokenizers want it.
Spaces before virtual tokens, around {sep} and at the end belong to nothing and are dropped;
a new line is never dropped.

The papers' pattern (3,3,3) is `{soft:3}{mask}{soft:3}{subject}{soft:3}`.

Reads strings; knows no tensor and no model. Next: `ptune.layout` binds a template to a tokenizer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ptune.errors import TemplateError, did_you_mean
from ptune.layout import Layout
from ptune.parts import Anchor, Begin, Field, Label, Mask, Part, Separator, Soft, fault
from ptune.spelling import Tokenizer

_NUMBER = "[1-9][0-9]{0,8}"
_QUOTED = r'"(?:[^"\\]|\\.)+"'
_PIECE = re.compile(
    r'(?P<text>(?:[^{}]|{{|}})+)|{(?P<slot>(?:[^{}"]|"(?:[^"\\]|\\.)*")*)}', re.DOTALL
)
_NAME = re.compile(r"[^\W\d]\w*(?:[ .-]\w+)*")  # text, Tweet text, sentence-1
_FIELD = re.compile(rf"(?P<name>{_NAME.pattern})(?::\.(?P<limit>{_NUMBER}))?")
_SLOTS = {  # word -> what may stand between the braces, and how to say so
    "soft": (
        re.compile(
            rf"soft(?=[:#])(?::(?P<length>{_NUMBER})(?:=(?P<start>{_QUOTED}))?"
            rf"|:(?P<text>{_QUOTED}))?(?:#(?P<name>\w+))?",
            re.DOTALL,
        ),
        'Write {soft:20}, {soft:"text"} or {soft:8="text"}, #name last; numbers start at 1.',
    ),
    "mask": (re.compile(rf"mask(?:\*(?P<count>{_NUMBER}))?"), "Write {mask} or {mask*3}."),
    "label": (re.compile("label"), "Write {label}."),
    "sep": (re.compile("sep"), "Write {sep}."),
    "bos": (re.compile("bos"), "Write {bos}."),
}
_KNOWN = "Known: {soft:N}, {mask}, {label}, {sep}, {bos} or a field"


@dataclass(frozen=True, slots=True)
class Template:
    """A template that has been read.

    >>> template = Template.parse("{soft:20}Tweet text : {text:.128} Label : {label}")
    >>> template.fields
    ('text',)
    >>> template.parts[0], template.parts[2]
    (Soft(length=20, text=None, name=None), Field(name='text', limit=128))
    """

    source: str
    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, source: str) -> "Template":
        """Read a template.

        Raises:
            TemplateError: it cannot be read; the message shows the template and the column.
        """
        if not source.strip():
            raise TemplateError(
                f"the template {source!r} is empty. "
                "Write for example {soft:20}Text : {text} Label : {label}"
            )
        parts = tuple(_read(source))
        _check_single(source, parts, Label, "A template has one place for the label.")
        _check_single(source, parts, Separator, "Tokenizers join two texts, not three.")
        _check_begin(source, parts)
        _check_blocks(source, parts)
        return cls(source, parts)

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that a row must have, each once, in order."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, Field)))

    @property
    def has_label(self) -> bool:
        """Whether `{label}` stands in the template."""
        return any(isinstance(part, Label) for part in self.parts)

    @property
    def masks(self) -> tuple[Mask, ...]:
        """The `{mask}` and `{mask*n}` of the template, in order."""
        return tuple(part for part in self.parts if isinstance(part, Mask))

    @property
    def without_virtual(self) -> str:
        """The text of the template without its virtual tokens.

        >>> Template.parse("{soft:20}Tweet : {text} {soft:2}Label : {label}").without_virtual
        'Tweet : {text} Label : {label}'
        """
        stops = [*(part.at for part in self.parts[1:]), len(self.source)]
        return "".join(
            self.source[part.at : stop]
            for part, stop in zip(self.parts, stops, strict=True)
            if not isinstance(part, Soft)
        )

    def check(self, columns: Sequence[str]) -> None:
        """Refuse a template that has a field which the rows do not have.

        Raises:
            TemplateError: names the field, its column and what is known.
        """
        for part in self.parts:
            if isinstance(part, Field) and part.name not in columns:
                near = did_you_mean(part.name, [*columns, *_SLOTS])
                names = ", ".join(columns) or "none"
                reason = f"unknown slot {part}. {_KNOWN} of the rows: {names}.{near}"
                raise fault(self.source, part.at, reason)

    def bind(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        label_words: Sequence[str] = (),
        words: str | None = None,
    ) -> Layout:
        """Return the layout that renders rows with this tokenizer.

        Args:
            tokenizer: one of transformers, or one that is called alike.
            max_tokens: longest sequence, label included.
            label_words: the answers for which room is kept at `{label}`.
            words: the field whose values are lists of words; None: there is none.

        Raises:
            TemplateError: the template does not fit, or the tokenizer lacks what it asks for.
        """
        return Layout(
            self.source,
            self.parts,
            tokenizer,
            max_tokens=max_tokens,
            label_words=label_words if self.has_label else (),
            words=words,
        )

    def __str__(self) -> str:
        return self.source


def _read(source: str) -> Iterator[Part]:
    at = 0
    while at < len(source):
        piece = _PIECE.match(source, at)
        if piece is None:
            raise _unclosed(source, at)
        if piece["text"] is None:
            yield _slot(source, at, piece["slot"])
        else:
            yield Anchor(piece["text"].replace("{{", "{").replace("}}", "}"), at)
        at = piece.end()


def _slot(source: str, at: int, body: str) -> Part:
    """Read what stands between two braces."""
    word = re.split("[:*#=]", body, maxsplit=1)[0]
    form = _SLOTS[word][0] if word in _SLOTS else _FIELD
    found = form.fullmatch(body)
    if found is None:
        raise _unreadable(source, at, word, body)
    match word:
        case "soft":
            text = found["start"] or found["text"]
            return Soft(_number(found["length"]), _unquote(text), found["name"], at)
        case "mask":
            return Mask(_number(found["count"]) or 1, at)
        case "label":
            return Label(at)
        case "sep":
            return Separator(at)
        case "bos":
            return Begin(at)
        case _:
            return Field(found["name"], _number(found["limit"]), at)


def _number(digits: str | None) -> int | None:
    return int(digits) if digits else None


def _unquote(quoted: str | None) -> str | None:
    return re.sub(r"\\(.)", r"\1", quoted[1:-1], flags=re.DOTALL) if quoted else None


def _unclosed(source: str, at: int) -> TemplateError:
    if source[at] == "}":
        return fault(source, at, 'this "}" closes nothing. Write }} for a literal brace.')
    quote = re.compile(r'{[^{}"]*"(?:[^"\\]|\\.)*$', re.DOTALL).match(source, at)
    if quote:
        at = source.index('"', at)
        return fault(
            source, at, 'this quote is never closed. End the text with " and the slot with }.'
        )
    reason = 'this "{" is never closed. End the slot with }, or write {{ for a literal brace.'
    return fault(source, at, reason)


def _unreadable(source: str, at: int, word: str, body: str) -> TemplateError:
    if word in _SLOTS:
        return fault(source, at, f"cannot read {{{body}}}. {_SLOTS[word][1]}")
    near = did_you_mean(word, list(_SLOTS))
    if _NAME.fullmatch(word) and not near:
        usage = f"Write {{{word}}}, or {{{word}:.128}} for at most 128 of its tokens."
        return fault(source, at, f"cannot read {{{body}}}. {usage}")
    return fault(source, at, f"unknown slot {{{body}}}. {_KNOWN}, as {{text}}.{near}")


def _check_single(source: str, parts: Sequence[Part], kind: type[Part], reason: str) -> None:
    found = [part for part in parts if isinstance(part, kind)]
    if len(found) > 1:
        raise fault(source, found[1].at, f"a second {found[1]}. {reason}")


def _check_begin(source: str, parts: Sequence[Part]) -> None:
    """Check that nothing but virtual tokens stands before the opening special tokens."""
    for at, part in enumerate(parts):
        if isinstance(part, Begin) and not all(isinstance(one, Soft) for one in parts[:at]):
            reason = "{bos} opens the text: only virtual tokens may stand before it."
            raise fault(source, part.at, reason)


def _check_blocks(source: str, parts: Sequence[Part]) -> None:
    """Check that the blocks of one name are one block."""
    first: dict[str, Soft] = {}
    for part in parts:
        if not isinstance(part, Soft) or part.name is None:
            continue
        if part.name not in first and part == Soft(name=part.name):
            reason = f"no block of this name stands before. Write {{soft:4#{part.name}}} here."
            raise fault(source, part.at, f"{part}: {reason}")
        known = first.setdefault(part.name, part)
        if part not in (known, Soft(name=part.name)):
            reason = f"{part} differs from {known}. Write {{soft#{part.name}}} to repeat the block."
            raise fault(source, part.at, reason)
