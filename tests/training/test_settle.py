"""What a recipe leaves open is found out from the backbone and the rows."""

import pytest
import tiny

import ptune
from ptune.config import Recipe
from ptune.errors import TemplateError
from ptune.training.rows import Sources, read_rows
from ptune.training.settle import with_template

ASKED = [
    {"question": f"where is {thing}", "context": f"the {thing} is late", "answers": "late"}
    for thing in ("film", "parcel", "text", "label")
]
SPANS = {"task": "question-answering", "prompt_length": 3}


def settled(backbone, **settings):
    recipe = Recipe.make(**SPANS | settings).resolved()
    data = read_rows(recipe, Sources(ASKED, None, None))
    return with_template(recipe, data, backbone).template.source


@pytest.mark.parametrize(("method", "soft"), [("prompt-tuning", "{soft:3}"), ("p-tuning-v2", "")])
def test_questions_are_asked_in_words_where_the_tokenizer_joins_no_two_texts(method, soft):
    decoder = tiny.backbone("llama")
    words = f"{soft}Question : {{question}} Text : {{context}} Answer :"
    assert settled(decoder, method=method) == words
    own = "{question} {context}"
    assert settled(decoder, method=method, template=own) == own
    result = ptune.train(decoder, ASKED, method=method, max_steps=1, **SPANS)
    assert result.prompt.template == words
    assert ptune.predict(decoder, result.prompt, ASKED)


def test_a_tokenizer_that_joins_two_texts_does_so():
    tokenizer = tiny.pair_tokenizer()
    backbone = ptune.Backbone.load(tiny.model("bert"), tokenizer=tokenizer)
    assert settled(backbone, method="p-tuning-v2") == "{question}{sep}{context}"


def test_a_template_that_leaves_the_question_out_is_refused():
    recipe = Recipe.make(**SPANS, template="{soft:2}{context}").resolved()
    with pytest.raises(TemplateError) as error:
        read_rows(recipe, Sources(ASKED, None, None))
    assert str(error.value) == (
        'template "{soft:2}{context}": {question} is missing, though there is a column question '
        "in the given rows: all of a context would get one answer. For example: "
        '"{question}{sep}{context}".'
    )
    other = [{"context": row["context"], "answers": "late"} for row in ASKED]
    assert read_rows(recipe, Sources(other, None, None)).template.fields == ("context",)
