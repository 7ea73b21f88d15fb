"""Runs that train the backbone too (`train_backbone`): where they are refused, and what they say.

Everything else in ptune leaves the backbone's bits alone; such a run says so first of all.
"""

import torch

from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.trainable import TrainablePrompt


def refuse_trained_backbone(backbone: Backbone, *, prompts: int = 1, processes: int = 1) -> None:
    """Refuse to train a backbone where it cannot be trained.

    Args:
        prompts: trained in one pass.
        processes: of the run.
    Raises:
        ConfigError: says why.
    """
    if prompts > 1:
        raise ConfigError(
            f"train_backbone does not go with replicas: {prompts} prompts share one backbone, and "
            "each would need its own. Train them in several runs."
        )
    if processes > 1 or backbone.in_parts:
        raise ConfigError(
            "train_backbone needs all weights in one process, on one device. Start without "
            "accelerate launch and device_map."
        )
    if backbone.dtype != torch.float32:
        held = str(backbone.dtype).removeprefix("torch.")
        raise ConfigError(
            f"train_backbone: the weights are held in {held}, where steps as small as backbone_lr "
            "are lost in rounding. Load them with dtype: float32, and leave precision out."
        )


def said_of(recipe: Recipe, prompt: TrainablePrompt) -> list[str]:
    """The sentence that stands first in the log of such a run."""
    if prompt.backbone is None:
        return []
    count = sum(weight.numel() for weight in prompt.backbone.parameters())
    said = (
        f"train_backbone: the backbone is NOT frozen. Its {count:,} weights are trained too, with "
        f"steps up to {recipe.backbone_lr:g}; the prompt carries them and works with no others."
    )
    return [said]
