"""A template is spelled as the tokenizer itself would have spelled it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CORPUS, KINDS, bind, render, tokenizer_of, tokens
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ptune.spelling import Speller
from ptune.template import Template

MODELS = Path(__file__).parents[2] / "shared" / "models"
every_kind = pytest.mark.parametrize("kind", KINDS)

# --- a template without virtual tokens is what the tokenizer would have written -------------------

WHOLE = [
    "Tweet text : {text} Label : {label}",
    "{text} It was {label} .",
    "{text}\nAnswer : {label}",
    "Question :\n\n{text}\n\nAnswer :\n{label}",
    "{a} and {text} or {a} ?",
    "{label} : {text}",
    "Review: {text}",
    "Review:\n\n{text}",
    "Review:\n {text}",
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


@every_kind
@pytest.mark.parametrize("source", WHOLE)
@settings(max_examples=15, deadline=None)
# Behind punctuation, Llama 3's would melt a new line with it; an anchor cannot, being the same in
# every row. So the texts end in a word.
@given(text=words.map("{} so".format), a=words, label=words)
def test_without_virtual_tokens_the_ids_are_those_of_the_whole_text(kind, source, text, a, label):
    assert_whole(tokenizer_of(kind), source, {"text": text, "a": a}, label)


@pytest.mark.parametrize("folder", ["ptune-tiny", "stories260K"])
@pytest.mark.parametrize("source", WHOLE)
def test_trained_tokenizers_give_the_ids_of_the_whole_text_too(folder, source):
    if not (MODELS / folder).exists():
        pytest.skip(f"the model {folder} is not beside this repository")
    row = {"text": "so dull, it's 3 o'clock", "a": "Lily"}
    assert_whole(AutoTokenizer.from_pretrained(MODELS / folder), source, row, "complaint")


@pytest.mark.parametrize("kind", ["wordpiece", "roberta", "unigram"])
@settings(max_examples=15, deadline=None)
@given(text=words)
def test_a_mask_is_written_as_in_the_whole_text(kind, text):
    tokenizer = tokenizer_of(kind)
    rendered = render(bind("{text} It was {mask} . {mask*2}!", kind, 10_000), text=text)
    mask = tokenizer.mask_token
    whole = tokenizer(f"{text} It was {mask} . {mask}{mask}!", verbose=False)["input_ids"]
    assert list(rendered.ids) == whole
    assert rendered.masks == tuple(
        at for at, token in enumerate(whole) if token == tokenizer.mask_token_id
    )
    assert len(rendered.masks) == 3


@pytest.mark.parametrize("kind", ["wordpiece", "roberta", "unigram", "prefixing_bpe"])
@settings(max_examples=15, deadline=None)
@given(a=words, b=words)
def test_two_texts_are_joined_as_the_tokenizer_joins_them(kind, a, b):
    rendered = render(bind("{a} {sep} {b}", kind, 10_000), a=a, b=b)
    whole = tokenizer_of(kind)(a, b, verbose=False)
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


@pytest.mark.parametrize("kind", ["unigram", "prefixing_bpe"])
@pytest.mark.parametrize("source", ["It{text}", "It{label}{text}", "{a}{text}"])
def test_no_space_is_put_in_front_of_a_piece_inside_the_text(kind, source):
    layout = bind(source, kind)
    without = render(layout, text="", a="no")
    whole = render(layout, text="film", a="no")
    decode = tokenizer_of(kind).decode
    opening = decode(without.ids, skip_special_tokens=True)
    assert opening in ("It", "no")
    assert decode(whole.ids, skip_special_tokens=True) == opening + "film"


@every_kind
@pytest.mark.parametrize("text", [", yes", "0.5", "a", ")(", ",,,0a)", "é猫", "▁", " dull"])
def test_a_piece_inside_a_text_is_whole_whatever_it_begins_with(kind, text):
    decode = tokenizer_of(kind).decode
    written = decode(render(bind("It:{text}", kind), text=text).ids)
    assert written == decode(tokenizer_of(kind)("It:" + text, verbose=False)["input_ids"])


@pytest.mark.parametrize("kind", ["unigram", "prefixing_bpe"])
@pytest.mark.parametrize("source", ["{soft:2}{text} so", "{soft:2} {text} so", "{soft:2} dull so"])
def test_the_text_opens_behind_virtual_tokens_with_one_space_of_the_tokenizer(kind, source):
    special, *plain = tokenizer_of(kind)("dull so")["input_ids"]
    assert list(render(bind(source, kind), text="dull").ids) == [special, -1, -2, *plain]


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


# --- markers of the speller -----------------------------------------------------------------------


def test_a_marker_that_the_tokenizer_does_not_know_is_not_used():
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁b": 4}
    model = models.BPE(vocabulary, [("▁", "b")], unk_token="<unk>", fuse_unk=True)
    raw = Tokenizer(model)
    raw.normalizer = normalizers.Prepend("▁")
    speller = Speller(PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>"))
    assert speller.spell(["é", "b"], opens=False) == [(0,), (3,)]  # "," would melt with "é"
    assert speller.spell(["é", "b"], opens=True) == [(1, 0), (4,)]


class Lumping:
    """A tokenizer that puts a space in front and makes one token of the whole text."""

    unk_token_id = None

    def __call__(self, texts, **_):
        return {"input_ids": [[hash(" " + text)] for text in texts]}


def test_where_no_marker_can_be_taken_away_a_piece_is_written_as_it_is():
    assert Speller(Lumping()).spell(["no"], opens=False) == [(hash(" no"),)]


@pytest.mark.parametrize("kind", ["wordpiece", "roberta", "unigram"])
@pytest.mark.parametrize("text", ["It was {} .", "Answer :{} .", "{} , really", "no reply {}"])
def test_a_word_at_a_mask_is_written_as_in_the_whole_text(kind, text):
    tokenizer, layout = tokenizer_of(kind), bind(text.format("{mask}"), kind)
    for word in ("great", "terrible", "days"):
        row = render(layout)
        (at,) = row.masks
        filled = [*row.ids[:at], *layout.label_ids(word), *row.ids[at + 1 :]]
        whole = tokenizer(text.format(word), verbose=False)["input_ids"]
        # This one writes the space before a mask as a token of its own.
        assert filled == whole or (kind == "unigram" and " {}" in text)
        assert tokenizer.decode(filled) == tokenizer.decode(whole)
