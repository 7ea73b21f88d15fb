"""Runs that train the backbone too (`train_backbone`): where they are refused, and what they say.

Everything else in ptune leaves the backbone's bits alone; such a run says so first of all. Where
its adapters alone are trained (PEFT's LoRA), the weights beneath them stay as they are.
"""

import torch

from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.trainable import BackboneWeights, TrainablePrompt


def own_backbone(recipe: Recipe, given: Backbone) -> Backbone:
    """The backbone of a run: the one that was given, or a copy where its weights may move.

    Of adapters the copy shares the frozen weights, and its fingerprint passes over what stands in
    them. So a run can be gone on with, and its prompt used, on adapters that begin elsewhere: the
    checkpoint and the prompt bring their own.
    """
    if recipe.train_backbone == "adapters":
        made = given.copied(own=given.adapters)
        made.fingerprint = given.fingerprint_without(given.adapters)
        return made
    return given.copied() if recipe.train_backbone else given


def trained_weights(recipe: Recipe, backbone: Backbone) -> BackboneWeights | None:
    """The weights of the backbone that a recipe trains, thawed."""
    if not recipe.train_backbone:
        return None
    return BackboneWeights(backbone, adapters=recipe.train_backbone == "adapters")


def refuse_trained_backbone(
    backbone: Backbone, *, adapters: bool = False, prompts: int = 1, processes: int = 1
) -> None:
    """Refuse to train a backbone where it cannot be trained.

    Args:
        adapters: they alone are trained.
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
    trained = dict(backbone.model.named_parameters())
    kinds = {trained[name].dtype for name in (backbone.adapters if adapters else trained)}
    if others := sorted(map(str, kinds - {torch.float32})):
        held = others[0].removeprefix("torch.")
        what = "adapters" if adapters else "weights"
        raise ConfigError(
            f"train_backbone: the {what} are held in {held}, where steps as small as backbone_lr "
            "are lost in rounding. Load them with dtype: float32, and leave precision out."
        )


def said_of(recipe: Recipe, prompt: TrainablePrompt, backbone: Backbone) -> list[str]:
    """The sentence that stands first in the log of such a run."""
    if prompt.backbone is None:
        return []
    count = sum(weight.numel() for weight in prompt.backbone.parameters())
    steps = f"are trained too, with steps up to {recipe.backbone_lr:g}"
    said = (
        f"train_backbone: the backbone is NOT frozen. Its {count:,} weights {steps}; the prompt "
        "carries them and works with no others."
    )
    if recipe.train_backbone == "adapters":
        said = (
            f"train_backbone = adapters: {count:,} of the backbone's {backbone.parameters:,} "
            f"weights {steps}; the others are frozen. The prompt carries them and works with no "
            "others."
        )
    return [said]
