import pytest

from ptune.errors import ConfigError, TemplateError
from ptune.probing.templates import Wish, fitted


@pytest.mark.parametrize(
    ("text", "order", "expected"),
    [
        (None, "subject-first", "{soft:3} {subject}{soft:3} {mask}{soft:3}"),
        (None, "mask-first", "{soft:3} {mask}{soft:3} {subject}{soft:3}"),
        ("2, 0,4", "mask-first", "{soft:2} {mask} {subject}{soft:4}"),
        ("(0,1,0)", "subject-first", "{subject}{soft:1} {mask} ."),
        ("{soft:4} {subject:.9} in {label}", "subject-first", "{soft:4} {subject:.9} in {mask}"),
        ("manual", "subject-first", "{subject} was {{born}} in {mask} ."),
    ],
)
def test_a_masked_model_gets_the_template_that_is_asked_for(text, order, expected):
    manual = "[X] was {born} in [Y] ."
    made = Wish(text, order).template_for("p-tuning", manual, causal=False)
    assert made.source == expected


@pytest.mark.parametrize(
    ("text", "method", "expected"),
    [
        (None, "p-tuning", "{soft:3} {subject}{soft:3} {label}"),
        (None, "p-tuning-v2", "{subject} {label}"),
        (None, "manual", "The capital of {subject} is {label}"),
        ("3,3,0", "manual", "The capital of {subject} is {label}"),
        ("{subject} : {mask} !", "manual", "{subject} : {label}"),
        ("manual", "p-tuning-v2", "The capital of {subject} is {label}"),
    ],
)
def test_a_causal_model_gets_a_template_that_ends_in_its_answer(text, method, expected):
    made = Wish(text).template_for(method, "The capital of [X] is [Y] .", causal=True)
    assert made.source == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{soft:3} {mask}", "there is no {subject}, so nothing is asked about any fact"),
        ("{soft:3} {subject}", "there is no place for the object. Write {mask}"),
        ("{subject} {mask} {mask}", "there is more than one place for the object"),
        ("{subject} {mask*2}", "there is more than one place for the object"),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_a_template_without_its_subject_or_its_mask_is_refused(source, said, causal):
    with pytest.raises(TemplateError) as error:
        fitted(source, causal=causal)
    assert str(error.value).startswith(f'template "{source}": {said}')


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "{subject}{soft:2} {mask}{soft:1}",
            (
                "a causal model never sees {soft:1}, which stands behind the answer. End the shape "
                "in 0, as 3,3,0, or take a masked language model."
            ),
        ),
        (
            "{mask} participated in the {subject} .",
            (
                "a causal model never sees {subject}, which stands behind the answer. Put it "
                "before the answer, or take a masked language model."
            ),
        ),
    ],
)
def test_what_a_causal_model_would_not_see_is_refused(source, said):
    with pytest.raises(TemplateError) as error:
        fitted(source, causal=True)
    assert str(error.value) == f'template "{source}": {said}'
    assert fitted(source, causal=False).source == source


def test_a_mask_first_shape_is_refused_for_a_causal_model():
    with pytest.raises(ConfigError, match="a causal model says its answer behind the subject"):
        Wish(None, "mask-first").check(causal=True)
    Wish(None, "mask-first").check(causal=False)


def test_a_relation_without_a_manual_template_says_so():
    with pytest.raises(TemplateError, match="the relation has no manual template"):
        Wish("manual").template_for("manual", None, causal=True)
