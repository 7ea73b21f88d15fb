"""Runs in which the backbone's own dropout is on (`backbone_dropout`): where they are refused.

The papers' code trains prompts in train mode, so with the backbone's dropout: P-tuning
(LAMA/cli.py, PT-Fewshot/pet/wrapper.py: model.train()) and P-tuning v2 (transformers' Trainer).
Here it is off unless a recipe asks for it. What is drawn follows from the run's seed and step.
"""

import torch

from ptune.backbone import Backbone
from ptune.batch import PromptTensors, TokenSequence
from ptune.errors import ConfigError
from ptune.run import run

# Of the row that is tried: with any usual rate and width, that nothing falls out never happens.
_TRIED_TOKENS = 8


def check_dropout(backbone: Backbone, *, prompts: int = 1) -> None:
    """Refuse dropout where the backbone has none, or where a seed would not say what is drawn.

    Args:
        prompts: trained in one pass.
    Raises:
        ConfigError: says why.
    """
    if prompts > 1:
        raise ConfigError(
            "backbone_dropout does not go with replicas: what is drawn for one would depend on the "
            "others in the pass, and each is to be trained as if alone. Train them in several runs."
        )
    if backbone.in_parts and not backbone.sharded:
        raise ConfigError(
            "backbone_dropout does not go with a device map, whose devices draw from streams of "
            "their own. Leave one of the two out."
        )
    if not draws(backbone):
        raise ConfigError(
            f'backbone_dropout: "{backbone.name}" draws nothing in training; its configuration has '
            "no dropout above 0. Leave backbone_dropout out."
        )


@torch.no_grad()
def draws(backbone: Backbone) -> bool:
    """Whether a pass of the backbone in train mode is another one than in eval mode."""
    ids = tuple(range(min(_TRIED_TOKENS, backbone.geometry.num_embeddings)))
    row = TokenSequence(ids, reads=tuple(range(len(ids))))
    if backbone.geometry.two_sided:
        row = TokenSequence(ids, decoder=row)
    batch = backbone.pack([row])
    with torch.random.fork_rng(devices=[backbone.device] if backbone.device.type == "cuda" else []):
        usual, drawn = (run(backbone, [PromptTensors()], batch, dropout=on) for on in (False, True))
    return not torch.equal(usual, drawn)
