r"""Windows: a row whose text is too long becomes several sequences, none of which loses a token.

    room for 5 tokens of the context, stride 2 (tokens that neighbours share)

    context   Paris is the capital and largest city of France
    window 0  [CLS] what ? [SEP] Paris is the capital and [SEP]
    window 1  [CLS] what ? [SEP] capital and largest city of [SEP]
    window 2  [CLS] what ? [SEP] city of France [SEP]

One field is cut into windows; all others stand whole in each of them. Of every token of the field
its characters are kept, so that a span of tokens is a part of the text again.

Knows a layout and rows; no task. Next: `ptune.tasks.question_answering`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptune.errors import DataError
from ptune.layout import Layout, Rendered
from ptune.spelling import Characters, Ids, Spelled
from ptune.values import place_of


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of the field, with the rest of the row around it.

    Args:
        rendered: as ids.
        at: offset in `rendered.ids` of the piece's first token.
        first: which token of the field that is, from 0.
        count: tokens of the field that are in the window.
    """

    rendered: Rendered
    at: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Windowed:
    """One row in windows.

    Args:
        windows: in the order of the text; neighbours overlap.
        characters: of each token of the field, where it stands in `text`.
        text: of the field, as the row has it.
        cut: tokens of other fields that are beyond the limits of the template.
    """

    windows: tuple[Window, ...]
    characters: tuple[Characters, ...]
    text: str
    cut: int = 0


def cut_windows(
    layout: Layout, rows: Sequence[Mapping[str, object]], name: str, stride: int
) -> list[Windowed]:
    """Lay rows out, each in as many windows as its longest field needs.

    Args:
        name: of the field that is cut into windows; it stands once in the template, and has no
            limit there.
        stride: tokens of it that a window shares with the next one.
    Raises:
        ConfigError: the tokenizer does not know the characters of its tokens.
        DataError: a field is empty, or the others leave too little room; names the row.
    """
    field = layout.fields.index(name)
    located = layout.locate(rows, field)
    made = []
    for index, (spelled, (characters, text)) in enumerate(
        zip(layout.values(rows), located, strict=True)
    ):
        values = tuple(one.ids[:most] for one, most in zip(spelled, layout.limits, strict=True))
        cut = sum(len(one.ids) for one in spelled) - sum(map(len, values))
        _refuse_empty(layout, rows, index, values)
        room = _room(layout, rows, index, values, field, stride)
        windows = tuple(
            _window(layout, values, field, first, room)
            for first in window_starts(len(values[field]), room, stride)
        )
        made.append(Windowed(windows, characters, text, cut))
    return made


def window_starts(tokens: int, room: int, stride: int) -> range:
    """Where windows of `room` tokens begin, so that neighbours share `stride` and all is covered.

    >>> list(window_starts(9, 5, 2)), list(window_starts(5, 5, 2))
    ([0, 3, 6], [0])
    """
    return range(0, max(1, tokens - stride), room - stride) if tokens > room else range(1)


def _window(layout: Layout, values: Sequence[Ids], field: int, first: int, room: int) -> Window:
    piece = values[field][first : first + room]
    shown = [*values[:field], piece, *values[field + 1 :]]
    rendered = layout.assemble([Spelled(ids) for ids in shown])
    return Window(rendered, rendered.fields[field], first, len(piece))


def _room(
    layout: Layout,
    rows: Sequence[Mapping[str, object]],
    index: int,
    values: Sequence[Ids],
    field: int,
    stride: int,
) -> int:
    """Tokens of the field that a window holds beside the others."""
    name, tokens = layout.fields[field], len(values[field])
    others = sum(map(len, values)) - tokens
    room = layout.field_tokens - others
    if room >= tokens or room > stride:
        return room
    place = place_of(rows, index)
    beside = ", ".join(other for other in layout.fields if other != name)
    if room < 1:
        raise DataError(
            f"{place}: {beside} has {others} tokens and leaves no room for {name}: max_tokens has "
            f"{layout.field_tokens} for all fields. Shorten it, or raise max_tokens if it is not "
            "the model's own limit."
        )
    raise DataError(
        f"{place}: a window has room for {room} tokens of {name} ({beside} has {others} of "
        f"{layout.field_tokens}), and stride = {stride} of them are to be shared with the next "
        f"one, so no window would reach further. Set stride below {room}, or raise "
        "max_tokens if it is not the model's own limit."
    )


def _refuse_empty(
    layout: Layout, rows: Sequence[Mapping[str, object]], index: int, values: Sequence[Ids]
) -> None:
    for name, ids in zip(layout.fields, values, strict=True):
        if not ids or not str(rows[index][name]).strip():
            raise DataError(
                f'{place_of(rows, index)}, column "{name}": there is no text. Fill it in, or leave '
                "the row out."
            )
