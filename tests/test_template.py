import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptune.errors import TemplateError
from ptune.parts import Anchor, Field, Label, Mask, Separator, Soft
from ptune.template import Template


def refuses(message):
    return pytest.raises(TemplateError, match=f"^{re.escape(message)}$")


def parts(source):
    return Template.parse(source).parts


# --- what the language says -----------------------------------------------------------------------

FORMS = {
    "{soft:20}": Soft(20),
    '{soft:"Classify the tweet"}': Soft(text="Classify the tweet"),
    '{soft:8="complaint or not"}': Soft(8, "complaint or not"),
    "{soft:4#a}": Soft(4, name="a"),
    '{soft:"be kind"#tone}': Soft(text="be kind", name="tone"),
    '{soft:8="be kind"#tone}': Soft(8, "be kind", "tone"),
    "{text}": Field("text"),
    "{text:.128}": Field("text", 128),
    "{Tweet text}": Field("Tweet text"),
    "{sentence-1.a}": Field("sentence-1.a"),
    "{masks}": Field("masks"),
    "{mañana_2}": Field("mañana_2"),
    "{mask}": Mask(),
    "{mask*3}": Mask(3),
    "{label}": Label(),
    "{sep}": Separator(),
    "{{": Anchor("{"),
    "}}": Anchor("}"),
    "It was\n\tso": Anchor("It was\n\tso"),
}


@pytest.mark.parametrize(("source", "part"), FORMS.items())
def test_every_form_is_read_and_written_as_it_was(source, part):
    assert parts(source) == (part,)
    assert str(part) == source


def test_the_job_of_the_design():
    assert parts("{soft:20}Tweet text : {text} Label : {label}") == (
        Soft(20),
        Anchor("Tweet text : "),
        Field("text"),
        Anchor(" Label : "),
        Label(),
    )


def test_the_pattern_of_the_papers():
    assert parts("{soft:3}{mask}{soft:3}{subject}{soft:3}") == (
        Soft(3),
        Mask(),
        Soft(3),
        Field("subject"),
        Soft(3),
    )


def test_a_named_block_may_stand_again_in_either_spelling():
    expected = (Soft(4, name="a"), Field("text"), Soft(4, name="a"), Soft(name="a"))
    assert parts("{soft:4#a}{text}{soft:4#a}{soft#a}") == expected


def test_braces_quotes_and_backslashes_inside_a_text_are_text():
    source = r'{soft:"say \"{x}\" \\ }"}'
    assert parts(source) == (Soft(text='say "{x}" \\ }'),)
    assert str(parts(source)[0]) == source


def test_braces_around_a_field_are_braces():
    assert parts("{{{text}}}") == (Anchor("{"), Field("text"), Anchor("}"))
    assert parts("{{text}}") == (Anchor("{text}"),)


def test_fields_are_named_once_in_order():
    template = Template.parse("{b}{a} and {b:.3}{label}")
    assert template.fields == ("b", "a")
    assert Template.parse("no field").fields == ()


def test_a_template_knows_whether_it_has_a_label():
    assert Template.parse("{text}{label}").has_label
    assert not Template.parse("{text}{labels}").has_label


def test_a_template_is_shown_as_it_was_written():
    assert str(Template.parse("{soft:4#a} {{x}} {soft:4#a}")) == "{soft:4#a} {{x}} {soft:4#a}"


def test_parts_know_where_they_stand():
    assert [part.at for part in parts("a{{{text}\n{mask}{label}")] == [0, 3, 9, 10, 16]


def test_places_do_not_count_when_parts_are_compared():
    assert Anchor("a", at=3) == Anchor("a", at=5)


def test_fields_that_the_rows_have_are_accepted():
    Template.parse("{soft:3}{text}{other}{label}").check(["other", "text", "unused"])


# --- whatever is written is read back -------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
names = st.from_regex(r"[a-zé_][\w]{0,5}([ .-]\w{1,3})?", fullmatch=True)
lengths = st.integers(1, 999_999_999)
softs = st.builds(Soft, lengths, st.none() | texts) | st.builds(Soft, st.none(), texts)
fields = st.builds(
    Field,
    names.filter(lambda name: name not in {"soft", "mask", "label", "sep"}),
    st.none() | lengths,
)


@st.composite
def templates(draw):
    """Parts in an order in which they can stand: anchors apart, one label and one separator."""
    free = draw(st.lists(softs | fields | st.builds(Mask, lengths), max_size=5))
    single = draw(st.lists(st.sampled_from([Label(), Separator()]), unique=True))
    slots = draw(st.permutations(free + single))
    anchors = draw(st.lists(st.none() | st.builds(Anchor, texts), min_size=6, max_size=8))
    mixed = []
    for at in range(max(len(slots), len(anchors))):
        mixed += [part for part in (*anchors[at : at + 1], *slots[at : at + 1]) if part]
    # Two anchors in a row would be read as one.
    apart = [
        part
        for before, part in zip([None, *mixed], mixed, strict=False)
        if not (isinstance(before, Anchor) and isinstance(part, Anchor))
    ]
    return tuple(apart)


@settings(deadline=None)
@given(templates())
def test_parts_written_and_read_again_are_the_same(written):
    source = "".join(map(str, written))
    if source.strip():
        assert parts(source) == written


@settings(deadline=None)
@given(st.text(alphabet='{}{}soft:#"=4mask*labelp.\\ \n'))
def test_any_string_is_refused_in_a_sentence_or_read_and_written_without_loss(source):
    try:
        read = parts(source)
    except TemplateError:
        return
    assert parts("".join(map(str, read))) == read


@settings(deadline=None)
@given(texts.filter(str.strip))
def test_any_text_can_be_an_anchor_when_braces_are_doubled(text):
    assert parts(text.replace("{", "{{").replace("}", "}}")) == (Anchor(text),)


# --- what cannot be read --------------------------------------------------------------------------

SOFT = 'Write {soft:20}, {soft:"text"} or {soft:8="text"}, #name last; numbers start at 1.'
KNOWN = "Known: {soft:N}, {mask}, {label}, {sep}, {bos} or a field"


@pytest.mark.parametrize(
    ("source", "column", "reason"),
    [
        ("{text} {soft:0}", 8, f"cannot read {{soft:0}}. {SOFT}"),
        ("{soft}", 1, f"cannot read {{soft}}. {SOFT}"),
        ("{soft:}", 1, f"cannot read {{soft:}}. {SOFT}"),
        ("{soft:-3}", 1, f"cannot read {{soft:-3}}. {SOFT}"),
        ("{soft:04}", 1, f"cannot read {{soft:04}}. {SOFT}"),
        ("{soft:٤}", 1, f"cannot read {{soft:٤}}. {SOFT}"),
        ("{soft:1000000000}", 1, f"cannot read {{soft:1000000000}}. {SOFT}"),
        ("{soft:4#}", 1, f"cannot read {{soft:4#}}. {SOFT}"),
        ('{soft:""}', 1, f'cannot read {{soft:""}}. {SOFT}'),
        ('{soft:4#a="x"}', 1, f'cannot read {{soft:4#a="x"}}. {SOFT}'),
        ('{soft="x"}', 1, f'cannot read {{soft="x"}}. {SOFT}'),
        ("{mask:3}", 1, "cannot read {mask:3}. Write {mask} or {mask*3}."),
        ("{mask*0}", 1, "cannot read {mask*0}. Write {mask} or {mask*3}."),
        ("{label:3}", 1, "cannot read {label:3}. Write {label}."),
        ("{sep*2}", 1, "cannot read {sep*2}. Write {sep}."),
        (
            "{text:.0}",
            1,
            "cannot read {text:.0}. Write {text}, or {text:.128} for at most 128 of its tokens.",
        ),
        (
            "{text:128}",
            1,
            "cannot read {text:128}. Write {text}, or {text:.128} for at most 128 of its tokens.",
        ),
        (
            "It was {maks*2}",
            8,
            f"unknown slot {{maks*2}}. {KNOWN}, as {{text}}. Did you mean mask?",
        ),
        ("{sotf:20}", 1, f"unknown slot {{sotf:20}}. {KNOWN}, as {{text}}. Did you mean soft?"),
        ("{}", 1, f"unknown slot {{}}. {KNOWN}, as {{text}}."),
        ("{ text }", 1, f"unknown slot {{ text }}. {KNOWN}, as {{text}}."),
        ("{3}", 1, f"unknown slot {{3}}. {KNOWN}, as {{text}}."),
        (
            "a {text",
            3,
            'this "{" is never closed. End the slot with }, or write {{ for a literal brace.',
        ),
        (
            "{text {label}",
            1,
            'this "{" is never closed. End the slot with }, or write {{ for a literal brace.',
        ),
        (
            '{soft:"say it} {text}',
            7,
            'this quote is never closed. End the text with " and the slot with }.',
        ),
        ("a } b", 3, 'this "}" closes nothing. Write }} for a literal brace.'),
        ("{text}}", 7, 'this "}" closes nothing. Write }} for a literal brace.'),
        ("{label}{label}", 8, "a second {label}. A template has one place for the label."),
        ("{sep}{a}{sep}", 9, "a second {sep}. Tokenizers join two texts, not three."),
        (
            "{soft#a}{soft:4#a}",
            1,
            "{soft#a}: no block of this name stands before. Write {soft:4#a} here.",
        ),
        (
            "{soft:4#a}{soft:3#a}",
            11,
            "{soft:3#a} differs from {soft:4#a}. Write {soft#a} to repeat the block.",
        ),
        (
            '{soft:"be kind"#a} {soft:4#a}',
            20,
            '{soft:4#a} differs from {soft:"be kind"#a}. Write {soft#a} to repeat the block.',
        ),
    ],
)
def test_what_cannot_be_read_is_shown_with_its_column(source, column, reason):
    with refuses(f'template "{source}", column {column}: {reason}'):
        Template.parse(source)


def test_of_several_lines_the_one_in_question_is_shown():
    with refuses(
        'template line 2 "It: {mask:2}", column 5: cannot read {mask:2}. Write {mask} or {mask*3}.'
    ):
        Template.parse("{text}\nIt: {mask:2}\n{label}")


@pytest.mark.parametrize("source", ["", "  \n"])
def test_an_empty_template_is_refused(source):
    with refuses(
        f"the template {source!r} is empty. "
        "Write for example {soft:20}Text : {text} Label : {label}"
    ):
        Template.parse(source)


def test_a_field_that_the_rows_lack_may_be_a_misspelt_slot():
    with refuses(
        'template "{text} It was {maks}", column 15: unknown slot {maks}. Known: {soft:N}, {mask}, '
        "{label}, {sep}, {bos} or a field of the rows: id, text. Did you mean mask?"
    ):
        Template.parse("{text} It was {maks}").check(["id", "text"])


def test_a_field_of_rows_without_columns_is_refused():
    with refuses(
        'template "{text:.5}", column 1: unknown slot {text:.5}. Known: {soft:N}, {mask}, '
        "{label}, {sep}, {bos} or a field of the rows: none."
    ):
        Template.parse("{text:.5}").check([])
