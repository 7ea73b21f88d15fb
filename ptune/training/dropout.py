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
from ptune.training.drawing import drawing_from, seeded

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
            "others in the pass, and each is to be trained as if alone. Train them in several "
            "runs, or set backbone_dropout: false."
        )
    if backbone.in_parts and not backbone.sharded:
        raise ConfigError(
            "backbone_dropout does not go with a device map, whose devices draw from streams of "
            "their own. Leave device_map out, or set backbone_dropout: false."
        )
    if backbone.device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"backbone_dropout: what {backbone.device.type} draws does not follow from a seed. Set "
            "device: cpu, or backbone_dropout: false."
        )
    if not draws(backbone):
        raise ConfigError(
            f'backbone_dropout: "{backbone.name}" draws nothing in training; its configuration has '
            "no dropout above 0. Set backbone_dropout: false."
        )


@torch.no_grad()
def draws(backbone: Backbone) -> bool:
    """Whether a pass of the backbone in train mode draws random numbers.

    (Its result says less: what falls out in front of zeros, as in a LoRA that is new, changes
    nothing yet, and train mode has other effects.)
    """
    ids = tuple(range(min(_TRIED_TOKENS, backbone.geometry.num_embeddings)))
    row = TokenSequence(ids, reads=tuple(range(len(ids))))
    if backbone.geometry.two_sided:
        row = TokenSequence(ids, decoder=row)
    state = seeded(0, backbone.device)
    before = dict(state)
    with drawing_from(state, backbone.device):
        run(backbone, [PromptTensors()], backbone.pack([row]), dropout=True)
    return any(not torch.equal(state[kind], before[kind]) for kind in state)
