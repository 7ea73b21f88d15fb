"""Tiny masked language models: random ones, and one that is trained in a few seconds."""

import tiny
from tokenizers import processors

from ptune.backbone import Backbone


def tokenizer():
    """As `tiny.tokenizer`, with a mask, and specials around a text as BERT has them."""
    made = tiny.tokenizer()
    made.add_special_tokens({"mask_token": "[MASK]"})
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return made


def backbone(name="bert", seed=0):
    return Backbone.load(tiny.model(name, seed), tokenizer=tokenizer())
