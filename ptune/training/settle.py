"""What a recipe leaves to the backbone: its pooling, and words between two texts.

    pooling: auto                                  ->  mean            (a sentence encoder)
    template: null, question-answering, a decoder  ->  Question : {question} Text : {context}
                                                       Answer :

Artifacts say what was trained, so these stand in them in place of what was left open.
"""

from dataclasses import replace

from ptune.backbone import Backbone
from ptune.config import Recipe, trains_head
from ptune.spelling import frame
from ptune.template import Template
from ptune.training.rows import RunRows, soft_part


def with_pooling(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with the backbone's pooling in place of "auto"."""
    pools = recipe.task in ("sequence-classification", "multiple-choice")
    if not (pools and trains_head(recipe.task, recipe.choose_by)) or recipe.pooling != "auto":
        return recipe
    return recipe.changed(pooling=backbone.pooling)


def with_template(recipe: Recipe, data: RunRows, backbone: Backbone) -> RunRows:
    """The rows with words in place of `{sep}` where nobody gave a template and there is no `{sep}`.

    The tokenizers of most decoders join no two texts.
    """
    if recipe.template is not None or recipe.task != "question-answering":
        return data
    found = frame(backbone.tokenizer, pair=True)
    if found is None or found.between.ids:
        return data
    # Behind the context a decoder says whether there is an answer.
    words = f"{soft_part(recipe)}Question : {{question}} Text : {{context}} Answer :"
    return replace(data, template=Template.parse(words))
