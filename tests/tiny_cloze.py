"""Tiny masked language models: random ones, and one that is trained in a few seconds.

The trained one has read two kinds of sentences. The first word says what they are about:

    question the film is good : yes .     yes or no by the last word of the text
    where the film is good : no .         yes or no by the thing that the text is about

Without that word it cannot know which is asked, so it is right by chance; a prompt can tell it.
"""

import itertools
import random
from functools import cache

import tiny
import torch
import transformers as hf
from tokenizers import processors

from ptune.backbone import Backbone

ADJECTIVES = {"good": "yes", "very": "yes", "late": "no", "bad": "no"}
THINGS = {"film": "yes", "label": "yes", "parcel": "no", "text": "no"}
TEXTS = [
    f"the {thing} is {adjective}" for thing, adjective in itertools.product(THINGS, ADJECTIVES)
]
STEPS = 150


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


def answer(control, text):
    _, thing, _, adjective = text.split()
    return ADJECTIVES[adjective] if control == "question" else THINGS[thing]


@cache
def trained():
    """The model that has read both kinds of sentences, and its tokenizer."""
    torch.manual_seed(0)
    config = hf.BertConfig(**tiny.SMALL | {"initializer_range": 0.1, "num_hidden_layers": 2})
    model, tokens = hf.BertForMaskedLM(config).train(), tokenizer()
    pairs = list(itertools.product(("question", "where"), TEXTS))
    ids = tokens([f"{control} {text} : [MASK] ." for control, text in pairs])["input_ids"]
    ids = torch.tensor(ids)
    words = torch.tensor(tokens.convert_tokens_to_ids([answer(*pair) for pair in pairs]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        logits = model(ids).logits[ids == tokens.mask_token_id]
        loss = torch.nn.functional.cross_entropy(logits, words)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokens


def trained_backbone():
    model, tokens = trained()
    return Backbone.load(model, tokenizer=tokens)


def rows(count=64, seed=1):
    """Texts with the label that is asked for: by the thing, whatever is said of it."""
    draw = random.Random(seed)
    texts = [draw.choice(TEXTS) for _ in range(count)]
    labels = {"yes": "fine", "no": "poor"}
    return [{"text": text, "label": labels[answer("where", text)]} for text in texts]
