"""Layouts, against what four kinds of tokenizers write by themselves."""

import logging
import math
import re
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ptune.errors import DataError, TemplateError
from ptune.layout import shorten
from ptune.spelling import Speller
from ptune.template import Template

MODELS = Path(__file__).parents[2] / "shared" / "models"
CORPUS = [
    "It was so dull that the tweet had no reply for three days .",
    "Question : is the answer yes or no ? Answer : great , really .",
    "Label complaint text no complaint terrible Review: film!",
] * 3


# --- four kinds of tokenizers ---------------------------------------------------------------------


def wordpiece():
    """Like BERT's: spaces are not written, pairs are told apart by segments."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials)
    )
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=8,  # a longer text would make transformers warn
    )


def byte_level(**extra):
    """Like GPT-2's: a space belongs to the word behind it; no special tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        model_max_length=8,
        **extra,
    )


def unigram():
    """Like XLM-R's and T5's: a space is put in front of everything that the tokenizer is given."""
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    specials = ["<s>", "</s>", "<unk>", "<mask>"]
    raw.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=120,
            special_tokens=specials,
            unk_token="<unk>",
            initial_alphabet=["\n"],  # known, or it would melt with an unknown character beside it
        ),
    )
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=8,
    )


def prefixing_bpe():
    """Like Llama 2's: a space in front, bytes for what is unknown, begin token."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=specials))
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=8,
    )


MADE = {make.__name__: make for make in (wordpiece, byte_level, unigram, prefixing_bpe)}


@cache
def tokenizer_named(name):
    return MADE[name]()


every_tokenizer = pytest.mark.parametrize("name", MADE)


def bind(source, name="byte_level", max_tokens=512, **more):
    return Template.parse(source).bind(tokenizer_named(name), max_tokens=max_tokens, **more)


def render(layout, **row):
    return layout.render([row])[0]


def refuses(message, kind=TemplateError):
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def tokens(name, ids):
    """Tokens as strings; virtual token s as `[s]`."""
    shown = tokenizer_named(name).convert_ids_to_tokens
    return [f"[{-1 - token}]" if token < 0 else shown(token) for token in ids]


# --- a template without virtual tokens is what the tokenizer would have written -------------------

WHOLE = [
    "Tweet text : {text} Label : {label}",
    "{text} It was {label} .",
    "{text}\nAnswer : {label}",
    "Question :\n\n{text}\n\nAnswer :\n{label}",
    "{a} and {text} or {a} ?",
    "{label} : {text}",
    "Review: {text}",
    "no field",
]
words = st.lists(
    st.sampled_from([*" ".join(CORPUS).split(), "é", "Zürich", "猫", "🙂", "x" * 30, "3.5", "#no"]),
    min_size=1,
    max_size=6,
).map(" ".join)


def assert_whole(tokenizer, source, row, label):
    layout = Template.parse(source).bind(tokenizer, max_tokens=10_000)
    rendered = layout.render([row])[0]
    ids = list(rendered.ids)
    if rendered.label_at is not None:
        ids[rendered.label_at : rendered.label_at] = layout.label_ids(label)
    text = source.replace("{label}", label).format(**row)
    assert ids == tokenizer(text, verbose=False)["input_ids"]


@every_tokenizer
@pytest.mark.parametrize("source", WHOLE)
@settings(max_examples=15, deadline=None)
@given(text=words, a=words, label=words)
def test_without_virtual_tokens_the_ids_are_those_of_the_whole_text(name, source, text, a, label):
    assert_whole(tokenizer_named(name), source, {"text": text, "a": a}, label)


@pytest.mark.parametrize("folder", ["ptune-tiny", "stories260K"])
@pytest.mark.parametrize("source", WHOLE)
def test_trained_tokenizers_give_the_ids_of_the_whole_text_too(folder, source):
    if not (MODELS / folder).exists():
        pytest.skip(f"the model {folder} is not beside this repository")
    row = {"text": "so dull, it's 3 o'clock", "a": "Lily"}
    assert_whole(AutoTokenizer.from_pretrained(MODELS / folder), source, row, "complaint")


@pytest.mark.parametrize("name", ["wordpiece", "unigram"])
@settings(max_examples=15, deadline=None)
@given(text=words)
def test_a_mask_is_written_as_in_the_whole_text(name, text):
    tokenizer = tokenizer_named(name)
    rendered = render(bind("{text} It was {mask} . {mask*2}!", name, 10_000), text=text)
    mask = tokenizer.mask_token
    whole = tokenizer(f"{text} It was {mask} . {mask}{mask}!", verbose=False)["input_ids"]
    assert list(rendered.ids) == whole
    assert rendered.masks == tuple(
        at for at, token in enumerate(whole) if token == tokenizer.mask_token_id
    )
    assert len(rendered.masks) == 3


@pytest.mark.parametrize("name", ["wordpiece", "unigram", "prefixing_bpe"])
@settings(max_examples=15, deadline=None)
@given(a=words, b=words)
def test_two_texts_are_joined_as_the_tokenizer_joins_them(name, a, b):
    rendered = render(bind("{a} {sep} {b}", name, 10_000), a=a, b=b)
    whole = tokenizer_named(name)(a, b, verbose=False)
    assert list(rendered.ids) == whole["input_ids"]
    assert list(rendered.types) == whole.get("token_type_ids", [0] * len(rendered.ids))


def test_both_texts_may_have_anchors_and_virtual_tokens():
    rendered = render(
        bind("{soft:1}Review: {a} {sep} {soft:2}It was {b}", "wordpiece"), a="no", b="yes"
    )
    assert tokens("wordpiece", rendered.ids) == (
        ["[CLS]", "[0]", "review", ":", "no", "[SEP]", "[1]", "[2]", "it", "was", "yes", "[SEP]"]
    )
    assert rendered.types == (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1)


# --- pieces inside a text are written as inside a text --------------------------------------------


@pytest.mark.parametrize("name", ["unigram", "prefixing_bpe"])
@pytest.mark.parametrize("source", ["It{text}", "It{label}{text}", "{a}{text}"])
def test_no_space_is_put_in_front_of_a_piece_inside_the_text(name, source):
    layout = bind(source, name)
    without = render(layout, text="", a="no")
    whole = render(layout, text="film", a="no")
    decode = tokenizer_named(name).decode
    opening = decode(without.ids, skip_special_tokens=True)
    assert opening in ("It", "no")
    assert decode(whole.ids, skip_special_tokens=True) == opening + "film"


@every_tokenizer
@pytest.mark.parametrize("text", [", yes", "0.5", "a", ")(", ",,,0a)", "é猫", "▁", " dull"])
def test_a_piece_inside_a_text_is_whole_whatever_it_begins_with(name, text):
    decode = tokenizer_named(name).decode
    written = decode(render(bind("It:{text}", name), text=text).ids)
    assert written == decode(tokenizer_named(name)("It:" + text, verbose=False)["input_ids"])


def test_the_text_opens_behind_virtual_tokens():
    opening = render(bind("{soft:2}{text}", "unigram"), text="film").ids
    spaced = render(bind("{soft:2} {text}", "unigram"), text="film").ids
    plain = tuple(tokenizer_named("unigram")("film")["input_ids"])
    assert opening == (plain[0], -1, -2, *plain[1:])
    assert spaced == opening


def test_spaces_around_virtual_tokens_and_at_the_end_are_layout():
    layout = bind("It was {soft:2} \t{soft:1} so {text} ")
    assert tokens("byte_level", render(layout, text="dull").ids) == [
        "It", "Ġwas", "[0]", "[1]", "[2]", "Ġso", "Ġdull",
    ]  # fmt: skip


def test_a_new_line_before_virtual_tokens_is_kept():
    rendered = render(bind("{text}\n{soft:1}\n{label}"), text="dull")
    assert tokens("byte_level", rendered.ids) == ["d", "ull", "Ċ", "[0]"]
    assert tokens("byte_level", bind("{text}\n{soft:1}\n{label}").label_ids("yes")) == ["Ċ", "yes"]


def test_the_label_takes_the_space_before_it():
    layout = bind("Label : {label}")
    assert tokens("byte_level", layout.label_ids("yes")) == ["Ġyes"]
    assert tokens("byte_level", bind("Label :{label}").label_ids("yes")) == ["yes"]
    assert tokens("byte_level", bind("{label}{text}").label_ids("yes")) == ["yes"]


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
    assert tokenizer_named("byte_level").decode(written) == "3 2.5 7 True"


def test_a_masked_word_in_a_row_is_text_and_no_mask():
    rendered = render(bind("It was {mask} : {text}", "wordpiece"), text="[MASK] [SEP]")
    mask, separator = tokenizer_named("wordpiece").convert_tokens_to_ids(["[MASK]", "[SEP]"])
    assert rendered.masks == (3,)
    assert rendered.ids.count(mask) == 1
    assert rendered.ids.count(separator) == 1


def test_a_special_token_in_an_anchor_is_that_token():
    rendered = render(bind("It<|endoftext|>{text}"), text="<|endoftext|>")
    assert tokens("byte_level", rendered.ids[:2]) == ["It", "<|endoftext|>"]
    assert tokenizer_named("byte_level").eos_token_id not in rendered.ids[2:]


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
    tokenizer = tokenizer_named("unigram")
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
    name=st.sampled_from(list(MADE)),
    before=anchors,
    after=anchors,
    label=words,
    room=st.integers(0, 12),
)
def test_only_fields_are_cut_and_never_more_than_must_be(data, name, before, after, label, room):
    source = f"{before}{{text}}{after}{{label}} ."
    template = Template.parse(source)
    tight = template.bind(tokenizer_named(name), max_tokens=1000)
    answer = len(tight.label_ids(label))
    skeleton = tight.render([{"text": "x"}])[0].ids[: tight.shared]
    ends = template.bind(tokenizer_named(name), max_tokens=1000 - tight.field_tokens)
    bare = render(ends, text="so dull")
    assert bare.ids[: ends.shared] == skeleton  # room for nothing but what is fixed

    most = len(bare.ids) + answer + room
    layout = template.bind(tokenizer_named(name), max_tokens=most, label_words=["", label][1:])
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


@every_tokenizer
def test_a_row_of_ten_thousand_words_is_cut_at_once_and_without_a_warning(name, caplog):
    layout = bind("{soft:3}{text} Label : {label}", name, max_tokens=64, label_words=["no"])
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING):
        rendered = render(layout, text="terrible " * 10_000)
    assert time.perf_counter() - start < 2.0  # it takes some 0.03 s
    assert len(rendered.ids) == 64 - len(layout.label_ids("no"))
    assert rendered.cut > 9_000
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


def test_a_template_that_does_not_fit_is_refused():
    with refuses(
        'template "{soft:6}It was {text} {label}": 6 virtual tokens, 2 of text and specials and '
        "3 of the longest label are 11, more than max_tokens = 10. "
        "Shorten the template or raise max_tokens."
    ):
        bind("{soft:6}It was {text} {label}", max_tokens=10, label_words=["no", "no no no"])


def test_a_template_that_just_fits_is_accepted():
    layout = bind("{soft:6}It was {text} {label}", max_tokens=11, label_words=["no", "no no no"])
    assert len(render(layout, text="dull").ids) == 8


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
        'template "{text}": this tokenizer writes a text otherwise when it adds special tokens, '
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
        'row 12, column "text": the value is missing. Fill it in, or leave the row out.', DataError
    ):
        bind("{text}").render([{"text": "no"}, {"text": value}], first=11)


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


# --- markers of the speller -----------------------------------------------------------------------


class Lumping:
    """A tokenizer that puts a space in front and makes one token of the whole text."""

    unk_token_id = None

    def __call__(self, texts, **_):
        return {"input_ids": [[hash(" " + text)] for text in texts]}


def test_where_no_marker_can_be_taken_away_a_piece_is_written_as_it_is():
    assert Speller(Lumping()).spell(["no"], opens=False) == [(hash(" no"),)]
