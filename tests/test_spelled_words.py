"""Lists of words in a template: each is spelled as a word, and it is known where it begins."""

import copy
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CORPUS, KINDS, bind, render, tokenizer_of, tokens
from tokenizers import pre_tokenizers as pre

from ptune.errors import DataError

every_kind = pytest.mark.parametrize("kind", KINDS)
WORDS = ["dull", "tweet", ",", "film!", "Zürich", "猫", "yes", "n't"]
lists = st.lists(st.sampled_from([*WORDS, *" ".join(CORPUS).split()]), min_size=1, max_size=7)


def word_by_word(kind):
    """Oracle: the tokenizer as its users set it for words that they give one by one."""
    tokenizer = copy.deepcopy(tokenizer_of(kind))
    if kind in ("byte_level", "roberta"):
        tokenizer.backend_tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=True)
    return tokenizer


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "newline_bytes"])
@settings(max_examples=25, deadline=None)
@given(words=lists)
def test_words_are_written_as_the_tokenizer_writes_words_one_by_one(kind, words):
    expected = word_by_word(kind)(words, is_split_into_words=True, verbose=False)
    rendered = render(bind("{tokens}", kind, words="tokens"), tokens=words)
    assert list(rendered.ids) == expected["input_ids"]
    first = [expected.word_ids().index(word) for word in range(len(words))]
    assert list(rendered.words) == first


@every_kind
@settings(max_examples=25, deadline=None)
@given(words=lists)
def test_words_behind_a_text_are_those_of_the_sentence(kind, words):
    """Where words hold no punctuation, they are the text that is made by joining them."""
    words = [word for word in words if word.isascii() and word.isalpha()] or ["so"]
    listed = render(bind("Tweet : {tokens} .", kind, words="tokens"), tokens=words)
    joined = render(bind("Tweet : {tokens} .", kind), tokens=" ".join(words))
    assert listed.ids == joined.ids
    assert listed.cut == joined.cut == 0


def test_offsets_are_those_of_the_row_wherever_virtual_tokens_stand():
    words = ["so", "dull", "terrible"]
    for source, first in [
        ("{tokens}", 1),
        ("{soft:3}{tokens}", 4),
        ("Label : {soft:2}{tokens}{soft:2}", 5),
        ("{text} {soft:2} {tokens} {sep} {text}", 4),
    ]:
        rendered = render(bind(source, "wordpiece", words="tokens"), tokens=words, text="no")
        shown = tokens("wordpiece", rendered.ids)
        assert [shown[at] for at in rendered.words] == ["so", "dull", "terrible"]
        assert rendered.words[0] == first


def test_the_first_of_several_tokens_is_the_words_place():
    rendered = render(bind("{tokens}", "wordpiece", words="tokens"), tokens=["xdull", "so"])
    shown = tokens("wordpiece", rendered.ids)
    assert len(shown) > 4
    assert shown[rendered.words[0]] == "x"
    assert shown[rendered.words[1]] == "so"


def test_a_row_that_is_too_long_loses_whole_words_at_its_end():
    layout = bind("{soft:2}{tokens}", "wordpiece", max_tokens=9, words="tokens")
    long = ["so", "dull", "xdull", "so"]
    whole = render(bind("{tokens}", "wordpiece", words="tokens"), tokens=long)
    cost = whole.words[3] - whole.words[2]
    assert cost > 3  # the third word alone would need more than the three that are left
    rendered = render(layout, tokens=long)
    assert tokens("wordpiece", rendered.ids) == ["[CLS]", "[0]", "[1]", "so", "dull", "[SEP]"]
    assert rendered.words == (3, 4, -1, -1)
    assert rendered.cut == cost + 1
    assert layout.rows_cut == 1


def test_words_are_cut_to_the_limit_of_their_field():
    layout = bind("{tokens:.2} {text}", "wordpiece", words="tokens")
    rendered = render(layout, tokens=["so", "dull", "so"], text="so so so")
    assert rendered.words == (1, 2, -1)
    assert rendered.cut == 1


def test_a_word_without_a_token_has_no_place():
    rendered = render(bind("{tokens}", "wordpiece", words="tokens"), tokens=["so", "\u200d", "so"])
    assert rendered.words == (1, -1, 2)
    assert rendered.cut == 0


def test_a_text_is_split_at_white_space_and_numbers_are_words():
    layout = bind("{tokens}", "wordpiece", words="tokens")
    assert render(layout, tokens=" so  dull ") == render(layout, tokens=["so", "dull"])
    assert render(layout, tokens=[3, "so"]) == render(layout, tokens=["3", "so"])


def test_a_name_of_a_special_token_is_no_special_token():
    rendered = render(bind("{tokens}", "wordpiece", words="tokens"), tokens=["[SEP]", "so"])
    assert tokens("wordpiece", rendered.ids).count("[SEP]") == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], 'row 1, column "tokens": there are no words. Give one or more, or leave the row out.'),
        ("  ", 'row 1, column "tokens": there are no words.'),
        ({"a": 1}, 'row 1, column "tokens": found a dict, not words.'),
        (["a", ["b"]], 'row 1, column "tokens", word 2: found a list. A word is a text or a'),
        (None, 'row 1, column "tokens": the value is missing.'),
        (["a", "\ud800"], 'row 1, column "tokens": character 3 is half of a surrogate pair'),
    ],
)
def test_values_that_are_no_words_are_refused(value, message):
    with pytest.raises(DataError, match=re.escape(message)):
        render(bind("{tokens}", words="tokens"), tokens=value)


def test_a_list_is_refused_where_no_words_are_asked_for():
    with pytest.raises(DataError, match="found a list"):
        render(bind("{tokens}"), tokens=["so"])


def test_a_layout_with_words_has_a_key_of_its_own():
    assert bind("{tokens}", words="tokens").key != bind("{tokens}").key
