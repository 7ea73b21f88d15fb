"""Windows cover a long text, and its tokens know the characters that they stand for."""

import itertools
import random

import pytest
from tiny_tokenizers import KINDS, bind, tokenizer_of

from ptune.errors import ConfigError, DataError
from ptune.spelling import Speller
from ptune.windows import cut_windows, window_starts

TEMPLATE = dict.fromkeys(("wordpiece", "roberta", "unigram"), "{soft:2}{question}{sep}{context}")
every_kind = pytest.mark.parametrize("kind", KINDS)
QUESTION = "How dull was it ?"
# Accents written as one character and as two, letters of several bytes, a zero-width joiner, signs
# that a tokenizer has never seen, and white space of all kinds.
PIECES = [
    *("It was so dull", "Zürich", "Zu\u0308rich", "naïve", "猫が好き", "🙂", "👩‍👩‍👧", "déjà-vu"),
    *("U.S.", "3,5 %", "no reply", "x" * 30, "İstanbul", "ﬁne", "Straße", "«oui»", "\u00e9"),
]
GAPS = [" ", "  ", "\n", ", ", "\t", "\u00a0"]


def text_of(seed):
    """A context, and where each of its pieces begins."""
    draw = random.Random(seed)
    text, places = "", []
    for piece in draw.sample(PIECES, k=9):
        places.append((piece, len(text)))
        text += piece + draw.choice(GAPS)
    return text.rstrip(), places


def layout_of(kind, max_tokens=2000):
    return bind(
        TEMPLATE.get(kind, "{soft:2}Question : {question} Context : {context}"), kind, max_tokens
    )


def cut(kind, text, stride=4, max_tokens=2000, question=QUESTION):
    layout = layout_of(kind, max_tokens)
    return cut_windows(layout, [{"question": question, "context": text}], "context", stride)[0]


# --- characters -----------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("seed", range(8))
def test_a_piece_of_the_text_is_found_again_from_its_tokens(kind, seed):
    text, places = text_of(seed)
    one = cut(kind, text)
    assert one.text == text
    for piece, at in places:
        inside = [(a, b) for a, b in one.characters if a < at + len(piece) and b > at]
        found = text[inside[0][0] : inside[-1][1]]
        # A unigram tokenizer writes neighbours that it does not know as one.
        assert piece in found if kind == "unigram" else piece == found


@every_kind
def test_characters_go_forward_and_hold_no_white_space_at_their_ends(kind):
    text, _ = text_of(1)
    pairs = cut(kind, text).characters
    assert all(a <= b <= len(text) for a, b in pairs)
    assert [a for a, _ in pairs] == sorted(a for a, _ in pairs)
    assert all(text[a:b] == text[a:b].strip() for a, b in pairs)
    seen = "".join(text[a:b] for a, b in dict.fromkeys(pairs))
    assert set(text.split()[0]) <= set(seen)


@every_kind
@pytest.mark.parametrize("opens", [True, False])
def test_located_ids_are_those_that_are_spelled(kind, opens):
    speller = Speller(tokenizer_of(kind))
    texts = [text_of(seed)[0] for seed in range(4)]
    located = speller.locate(texts, opens=opens, plain=True)
    assert [ids for ids, _ in located] == speller.spell(texts, opens=opens, plain=True)
    assert all(len(ids) == len(pairs) for ids, pairs in located)


def test_a_tokenizer_that_knows_no_characters_is_refused():
    class Slow:
        mask_token = None

        def __call__(self, texts, **_):
            return {"input_ids": [[ord(letter) for letter in text] for text in texts]}

    with pytest.raises(ConfigError, match="Slow does not say which characters"):
        Speller(Slow()).locate(["a"], opens=True)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", range(1, 40))
@pytest.mark.parametrize(("room", "stride"), [(5, 2), (5, 4), (6, 0), (40, 7), (3, 1)])
def test_windows_cover_every_token_and_share_the_stride(tokens, room, stride):
    windows = [range(at, min(at + room, tokens)) for at in window_starts(tokens, room, stride)]
    assert {token for window in windows for token in window} == set(range(tokens))
    assert all(len(window) == room for window in windows[:-1])
    for one, following in itertools.pairwise(windows):
        assert one.stop - following.start == stride
        assert following.stop > one.stop  # no window within another


@every_kind
def test_every_window_is_the_row_with_a_piece_of_its_context(kind):
    text, _ = text_of(3)
    whole = cut(kind, text)
    (all_of_it,) = whole.windows
    ids = all_of_it.rendered.ids[all_of_it.at : all_of_it.at + all_of_it.count]
    before = all_of_it.rendered.ids[: all_of_it.at]
    after = all_of_it.rendered.ids[all_of_it.at + all_of_it.count :]
    limit = len(before) + len(after) + 11
    cut_up = cut(kind, text, stride=4, max_tokens=limit)
    assert len(cut_up.windows) >= 3
    assert cut_up.characters == whole.characters
    for window in cut_up.windows:
        piece = ids[window.first : window.first + window.count]
        assert window.rendered.ids == before + piece + after
        assert len(window.rendered.ids) <= limit
        assert window.rendered.cut == 0
        types = all_of_it.rendered.types
        assert window.rendered.types == (
            *types[: window.at + window.count],
            *types[len(types) - len(after) :],
        )


def test_another_field_is_cut_to_its_limit_and_that_is_counted():
    template = "{question:.3}{sep}{context}"
    rows = [{"question": "dull " * 9, "context": "It was so dull"}]
    (limited,) = cut_windows(bind(template, "wordpiece", 2000), rows, "context", 4)
    rows = [{"question": "dull " * 3, "context": "It was so dull"}]
    (short,) = cut_windows(bind(template, "wordpiece", 2000), rows, "context", 4)
    assert limited.windows == short.windows
    assert short.cut == 0
    spelled = bind(template, "wordpiece", 2000).values([{"question": "dull " * 9, "context": "a"}])
    assert limited.cut == len(spelled[0][0].ids) - 3 > 0


def test_the_second_text_has_its_own_segment():
    (window,) = cut("wordpiece", "It was so dull").windows
    types = window.rendered.types
    assert set(types[: window.at]) == {0}
    assert set(types[window.at :]) == {1}


# --- rows that cannot be laid out ---------------------------------------------------------------


def refusal(**more):
    with pytest.raises(DataError) as caught:
        cut("wordpiece", **({"text": "It was so dull ." * 20} | more))
    return str(caught.value)


def test_a_question_that_leaves_no_room_is_refused():
    assert refusal(question="dull " * 30, max_tokens=30) == (
        "row 1: question has 30 tokens and leaves no room for context: max_tokens has 25 for all "
        "fields. Shorten it, or raise max_tokens if it is not the model's own limit."
    )


def test_a_stride_that_leaves_no_step_is_refused():
    said = refusal(max_tokens=30, stride=18)
    assert said.startswith("row 1: a window has room for ")
    assert "stride = 18 of them are to be shared" in said


def test_a_stride_is_no_mistake_where_one_window_is_enough():
    assert len(cut("wordpiece", "so dull", max_tokens=30, stride=500).windows) == 1


@pytest.mark.parametrize("field", ["question", "context"])
def test_an_empty_field_is_refused(field):
    row = {"question": "so ?", "context": "dull"} | {field: " \n"}
    with pytest.raises(DataError, match=f'row 1, column "{field}": there is no text'):
        cut_windows(layout_of("wordpiece"), [row], "context", 1)
