"""What a layout makes of a row, and what it refuses."""

import logging
import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CORPUS, KINDS, bind, render, tokenizer_of, tokens

from ptune.errors import DataError, TemplateError
from ptune.layout import shorten
from ptune.template import Template
from ptune.values import text_of, words_of

words = st.lists(st.sampled_from([*" ".join(CORPUS).split(), "猫", "x" * 30]), max_size=6).map(
    " ".join
)


def refuses(message, kind=TemplateError):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


# --- what is in a rendered row --------------------------------------------------------------------


def test_a_row_of_the_design_token_by_token():
    layout = bind("{soft:2}Label: {text} was {label} .")
    rendered = render(layout, text="so dull text")
    assert tokens("byte_level", rendered.ids) == (
        ["[0]", "[1]", "Label", ":", "Ġso", "Ġdull", "Ġtext", "Ġwas", "Ġ."]
    )
    assert rendered.label_at == 8
    assert tokens("byte_level", layout.label_ids("terrible")) == ["Ġterrible"]
    assert rendered.shared == layout.shared == 4
    assert rendered.types == (0,) * 9
    assert rendered.masks == ()
    assert rendered.cut == 0


def test_the_label_stands_before_the_special_tokens_at_the_end():
    rendered = render(bind("{text} Label : {label}", "wordpiece"), text="no")
    assert tokens("wordpiece", rendered.ids) == ["[CLS]", "no", "label", ":", "[SEP]"]
    assert rendered.label_at == 4


def test_a_label_in_front_ends_what_is_shared():
    rendered = render(bind("{soft:2}{label} : {text}", "wordpiece"), text="no")
    assert tokens("wordpiece", rendered.ids) == ["[CLS]", "[0]", "[1]", ":", "no", "[SEP]"]
    assert rendered.label_at == rendered.shared == 3


def test_without_fields_all_is_shared_and_every_row_is_the_same():
    layout = bind("{soft:2}It was {mask}", "wordpiece")
    first, second = layout.render([{"text": "yes"}, {}])
    assert first == second
    assert first.shared == len(first.ids) == 7
    assert first.masks == (5,)


def test_no_rows_give_nothing():
    assert bind("{text}").render([]) == []


def test_two_fields_side_by_side_are_written_apart():
    rendered = render(bind("{a}{b}{a}"), a="no", b="was")
    assert tokens("byte_level", rendered.ids) == ["no", "was", "no"]


def test_white_space_between_two_fields_belongs_to_the_second():
    layout = bind("{a} {b}")
    assert tokens("byte_level", render(layout, a="no", b="reply").ids) == ["no", "Ġreply"]
    assert tokens("byte_level", render(layout, a="", b="reply").ids) == ["Ġreply"]


def test_numbers_are_written_as_text():
    layout = bind("{a} {b} {c} {d}")
    written = render(layout, a=3, b=2.5, c=np.int64(7), d=True).ids
    assert tokenizer_of("byte_level").decode(written) == "3 2.5 7 True"


def test_a_masked_word_in_a_row_is_text_and_no_mask():
    rendered = render(bind("It was {mask} : {text}", "wordpiece"), text="[MASK] [SEP]")
    mask, separator = tokenizer_of("wordpiece").convert_tokens_to_ids(["[MASK]", "[SEP]"])
    assert rendered.masks == (3,)
    assert rendered.ids.count(mask) == 1
    assert rendered.ids.count(separator) == 1


def test_a_special_token_in_an_anchor_is_that_token():
    rendered = render(bind("It<|endoftext|>{text}"), text="<|endoftext|>")
    assert tokens("byte_level", rendered.ids[:2]) == ["It", "<|endoftext|>"]
    assert tokenizer_of("byte_level").eos_token_id not in rendered.ids[2:]


def test_a_mask_written_by_hand_is_a_mask():
    written = render(bind("{text} [MASK]", "wordpiece"), text="no")
    assert written == render(bind("{text} {mask}", "wordpiece"), text="no")
    assert written.masks == (2,)


# --- virtual tokens and their initial texts -------------------------------------------------------


def test_slots_are_numbered_in_order_and_a_named_block_keeps_its_slots():
    layout = bind("{soft:2}{text}{soft:1#a}{soft:2#b}{soft#a} so {soft:1}{soft:2#b}")
    virtual = [token for token in render(layout, text="no").ids if token < 0]
    assert virtual == [-1, -2, -3, -4, -5, -3, -6, -4, -5]
    assert layout.slots == 6


def test_a_template_may_have_no_virtual_tokens():
    assert bind("{text}").slots == 0


def test_initial_texts_are_repeated_or_cut_to_the_block():
    layout = bind('{soft:1}{soft:"It was dull"}{soft:5=" yes no"}{soft:2="It was dull"#a}{soft#a}')
    named = [(slots, tokens("byte_level", ids)) for slots, ids in layout.texts]
    assert named == [
        (range(1, 4), ["It", "Ġwas", "Ġdull"]),
        (range(4, 9), ["Ġyes", "Ġno", "Ġyes", "Ġno", "Ġyes"]),
        (range(9, 11), ["It", "Ġwas"]),
    ]


def test_an_initial_text_is_written_for_the_place_where_it_stands():
    tokenizer = tokenizer_of("unigram")
    plain = tuple(tokenizer("film", add_special_tokens=False)["input_ids"])
    opening, inside = (ids for _, ids in bind('{soft:"film"}It{soft:"film"}', "unigram").texts)
    assert opening == plain
    assert tokenizer.decode(inside) == "film"
    assert inside != plain


# --- rows that are too long -----------------------------------------------------------------------

anchors = st.sampled_from(["", "It was ", " : ", "{{so}} ", "é\n", "{soft:2}", " {soft:1#a} "])


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    kind=st.sampled_from(list(KINDS)),
    before=anchors,
    after=anchors,
    label=words.map("{} no".format),
    room=st.integers(1, 12),
)
def test_only_fields_are_cut_and_never_more_than_must_be(data, kind, before, after, label, room):
    source = f"{before}{{text}}{after}{{label}} ."
    template = Template.parse(source)
    tight = template.bind(tokenizer_of(kind), max_tokens=1000)
    answer = len(tight.label_ids(label))
    skeleton = tight.render([{"text": "x"}])[0].ids[: tight.shared]
    ends = template.bind(tokenizer_of(kind), max_tokens=1000 - tight.field_tokens + 1)
    one = render(ends, text="so dull")
    assert one.ids[: ends.shared] == skeleton  # room for one token beside what is fixed
    bare = replace(
        one,
        ids=one.ids[: ends.shared] + one.ids[ends.shared + 1 :],
        label_at=one.label_at - 1,
    )

    most = len(bare.ids) + answer + room
    layout = template.bind(tokenizer_of(kind), max_tokens=most, label_words=["no", label])
    text = data.draw(words)
    whole, rendered = render(tight, text=text), render(layout, text=text)
    tail = len(bare.ids) - bare.shared
    assert rendered.ids[: layout.shared] == bare.ids[: bare.shared]
    assert rendered.ids[len(rendered.ids) - tail :] == bare.ids[bare.shared :]
    assert len(rendered.ids) == min(len(whole.ids), most - answer)
    assert rendered.cut == len(whole.ids) - len(rendered.ids)
    assert rendered.ids[: len(rendered.ids) - tail] == whole.ids[: len(rendered.ids) - tail]
    assert rendered.label_at == len(rendered.ids) - (len(bare.ids) - bare.label_at)
    assert len(rendered.types) == len(rendered.ids)


def test_the_longest_field_is_cut_first():
    layout = bind("{a}{soft:1}{b}{soft:1}{c}", max_tokens=2 + 8)
    rendered = render(layout, a="so" + " so" * 8, b="no no", c="was" + " was" * 4)
    assert tokens("byte_level", rendered.ids) == [
        "so",
        "Ġso",
        "Ġso",
        "[0]",
        "no",
        "Ġno",
        "[1]",
        "was",
        "Ġwas",
        "Ġwas",
    ]
    assert rendered.cut == 6 + 0 + 2


def test_a_limit_caps_its_field_alone():
    layout = bind("{a:.2}{soft:1}{b}")
    rendered = render(layout, a="so so so", b="no no no")
    assert tokens("byte_level", rendered.ids) == ["so", "Ġso", "[0]", "no", "Ġno", "Ġno"]
    assert rendered.cut == 1


def test_rows_that_were_cut_are_counted():
    layout = bind("{a:.2}")
    layout.render([{"a": "so so so"}, {"a": "so"}])
    layout.render([{"a": "so so so so"}])
    assert layout.rows_cut == 2


def test_room_is_kept_for_the_longest_label():
    layout = bind("{text}{label}", max_tokens=10, label_words=[" no", " no no no"])
    assert layout.field_tokens == 7
    assert len(render(layout, text="so " * 20).ids) == 7


def test_label_words_need_no_room_where_no_label_stands():
    assert bind("{text} {soft:1}", max_tokens=10, label_words=["no"]).field_tokens == 9


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=5), st.integers(0, 120))
def test_shortening_fills_the_room_and_spares_the_shorter(lengths, room):
    kept = shorten(lengths, room)
    assert sum(kept) == min(sum(lengths), room)
    assert all(keep <= length for keep, length in zip(kept, lengths, strict=True))
    cut = [keep for keep, length in zip(kept, lengths, strict=True) if keep < length]
    if cut:
        assert max(kept) <= min(cut) + 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_ten_thousand_words_is_cut_at_once_and_without_a_warning(kind, caplog):
    template = Template.parse("{soft:3}{text} Label : {label}")
    # A new one: a tokenizer warns only once.
    layout = template.bind(KINDS[kind](), max_tokens=64, label_words=["no"])
    logging.getLogger("transformers").addHandler(caplog.handler)
    start = time.perf_counter()
    rendered = render(layout, text="terrible " * 10_000)
    assert time.perf_counter() - start < 2.0  # it takes some 0.03 s
    assert len(rendered.ids) == 64 - len(layout.label_ids("no"))
    assert rendered.cut > 9_000
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert caplog.records == []


# --- what cannot be done --------------------------------------------------------------------------


def test_a_mask_without_a_mask_token_is_refused():
    with refuses(
        'template "{text} {mask}", column 8: {mask}: this tokenizer has no mask token. '
        "Use {label} instead."
    ):
        bind("{text} {mask}")


def test_two_texts_without_a_separator_are_refused():
    with refuses(
        'template "{a}{sep}{b}", column 4: {sep}: this tokenizer puts nothing between two texts. '
        "Write text instead."
    ):
        bind("{a}{sep}{b}")


def test_an_initial_text_without_tokens_is_refused():
    with refuses(
        'template "{soft:" "}{text}", column 1: {soft:" "}: the text has no token. '
        "Write some words."
    ):
        bind('{soft:" "}{text}', "wordpiece")


def test_a_template_that_leaves_no_token_for_the_row_is_refused():
    with refuses(
        'template "{soft:7}It was {text} {label}": 7 virtual tokens, 2 of text and specials and '
        "1 of the longest label are 10, and max_tokens = 10 leaves none for text. "
        "Shorten the template, or raise max_tokens if it is not the model's own limit."
    ):
        bind("{soft:7}It was {text} {label}", max_tokens=10, label_words=["no"])
    assert bind("{soft:7}It was {text} {label}", max_tokens=11, label_words=["no"])


def test_a_template_that_does_not_fit_is_refused():
    with refuses(
        'template "{soft:6}It was {text} {label}": 6 virtual tokens, 2 of text and specials and '
        "3 of the longest label are 11, more than max_tokens = 10. "
        "Shorten the template, or raise max_tokens if it is not the model's own limit."
    ):
        bind("{soft:6}It was {text} {label}", max_tokens=10, label_words=["no", "no no no"])


def test_a_template_that_just_fits_is_accepted():
    layout = bind("{soft:6}It was {text} {label}", max_tokens=12, label_words=["no", "no no no"])
    assert len(render(layout, text="dull").ids) == 9


def test_a_block_may_fill_the_sequence():
    assert bind("{soft:5}", max_tokens=5).slots == 5


def test_an_enormous_block_is_refused_before_it_is_built():
    with refuses(
        'template "{text}{soft:999999999}", column 7: {soft:999999999} alone is longer than '
        "max_tokens = 512. Ask for fewer."
    ):
        bind("{text}{soft:999999999}")


def test_a_label_word_without_a_place_is_refused():
    with refuses(
        'template "{text}": there is no place for the label word "no". '
        "Write {label} where it stands."
    ):
        bind("{text}").label_ids("no")


@pytest.mark.parametrize("word", ["", " "])
def test_a_label_word_without_a_token_is_refused(word):
    with refuses(
        f'template "{{text}} {{label}}": the label word "{word}" has no token. '
        "Choose a word that the tokenizer can write."
    ):
        bind("{text} {label}").label_ids(word)


class Reversing:
    """A tokenizer that writes a text otherwise when it adds its special tokens."""

    mask_token = mask_token_id = unk_token_id = None

    def __call__(self, text, add_special_tokens=True, **_):
        texts = [text] if isinstance(text, str) else text
        shift = 100 if add_special_tokens else 0
        ids = [[ord(character) + shift for character in one] for one in texts]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}


def test_a_tokenizer_that_cannot_be_watched_is_refused():
    with refuses(
        'template "{text}": this tokenizer writes text differently when it adds special tokens, '
        "so they cannot be told apart. Use another tokenizer."
    ):
        Template.parse("{text}").bind(Reversing(), max_tokens=9)


def test_a_missing_column_names_the_row_and_what_it_has():
    with refuses(
        'row 2 has no column "text", which the template asks for. It has: id, texts. '
        "Did you mean texts?",
        DataError,
    ):
        bind("{text}").render([{"text": "no"}, {"id": 1, "texts": "no"}])


def test_a_row_without_columns_is_refused():
    message = 'row 1 has no column "text", which the template asks for. It has: none.'
    with refuses(message, DataError):
        bind("{text}").render([{}])


@pytest.mark.parametrize("value", [None, math.nan, np.float32("nan")])
def test_a_missing_value_names_the_row_and_the_column(value):
    with refuses(
        'row 2, column "text": the value is missing. Fill it in, or leave the row out.', DataError
    ):
        bind("{text}").render([{"text": "no"}, {"text": value}])


class Lines(list):
    def where(self, index):
        return f"a.csv, line {index + 11}"


def test_rows_that_know_where_they_stand_are_named_by_it():
    message = (
        'a.csv, line 12, column "text": the value is missing. Fill it in, or leave the row out.'
    )
    with refuses(message, DataError):
        bind("{text}").render(Lines([{"text": "no"}, {"text": None}]))
    message = 'a.csv, line 11 has no column "text", which the template asks for. It has: other.'
    with refuses(message, DataError):
        bind("{text}").render(Lines([{"other": "no"}]))


def test_several_answers_are_spelled_as_each_alone():
    layout = bind("{text} : {label}")
    words = ["no", "was", "no reply"]
    assert layout.answer_ids(words) == [layout.label_ids(word) for word in words]


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        ("{text}{soft:2}", True),
        ("{soft:2}{text}", False),
        ("{text}{soft:2} :", False),
        ("{soft:2}", True),
    ],
)
def test_virtual_tokens_at_the_end_are_told(template, ends):
    assert bind(template).ends_virtual == ends
    assert not bind(template, "wordpiece").ends_virtual  # [SEP] stands behind them


def test_all_that_decides_how_rows_are_laid_out_is_in_the_key():
    templates = ("{text} : {label}", "{text}: {label}", "{text:.5} : {label}", "{soft:1}{text}")
    keys = {bind(template).key for template in templates}
    keys |= {bind("{text} : {label}", max_tokens=20).key}
    assert len(keys) == 5
    assert bind("{text} : {label}").key in keys


def test_a_value_that_is_no_text_is_refused():
    with refuses(
        'row 1, column "text": found a list. Only text and numbers can be rendered.', DataError
    ):
        bind("{text}").render([{"text": ["no"]}])


def test_half_a_character_is_refused():
    with refuses(
        'row 1, column "text": character 4 is half of a surrogate pair, which stands for nothing. '
        "Mend the file's encoding.",
        DataError,
    ):
        bind("{text}").render([{"text": "no \ud83d"}])


# --- where the opening special tokens stand -------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wordpiece", ["[0]", "[1]", "[CLS]", "no", "[SEP]"]),
        ("prefixing_bpe", ["[0]", "[1]", "<s>", "▁no"]),
        ("byte_level", ["[0]", "[1]", "no"]),
    ],
)
def test_bos_puts_virtual_tokens_before_the_opening_tokens(kind, expected):
    rendered = render(bind("{soft:2}{bos}{text}", kind), text="no")
    assert tokens(kind, rendered.ids) == expected
    assert len(rendered.types) == len(rendered.ids)


def test_text_behind_bos_is_spelled_as_if_nothing_stood_before():
    plain = render(bind("{text}", "prefixing_bpe"), text="yes or no")
    behind = render(bind("{soft:2}{bos}{text}", "prefixing_bpe"), text="yes or no")
    assert behind.ids == (-1, -2, *plain.ids)


@pytest.mark.parametrize("source", ["a {bos}{text}", "{text}{bos}", "{bos}{bos}{text}"])
def test_only_virtual_tokens_stand_before_bos(source):
    with pytest.raises(TemplateError, match="only virtual tokens may stand before it"):
        Template.parse(source)


def test_a_number_that_python_cannot_write_is_refused_where_rows_know_no_place():
    with pytest.raises(DataError, match=r'^row 1, column "text": a number has more than 4,000 dig'):
        text_of([{"text": 10**5000}], 0, "text")
    with pytest.raises(DataError, match=r'^row 1, column "tokens": a number has more than 4,000'):
        words_of([{"tokens": ["a", 10**5000]}], 0, "tokens")
