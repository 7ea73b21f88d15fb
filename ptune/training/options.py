"""How a prompt is trained: the settings that the loop reads, as plain values."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ptune.config import Recipe
from ptune.config.settings.training import Schedule
from ptune.trainable import TrainablePrompt


def autocasts(recipe: Recipe, held: torch.dtype) -> bool:
    """Whether products are in bfloat16 though the weights are not."""
    return recipe.precision == "bf16" and held == torch.float32


@dataclass(frozen=True, slots=True)
class Options:
    """See `ptune settings` for meanings and ranges; what is null there is resolved here."""

    lr: float
    encoder_lr: float
    head_lr: float
    backbone_lr: float
    backbone_weight_decay: float
    weight_decay: float
    clip: float
    average: float
    schedule: Schedule
    epoch_decay: float
    warmup_share: float
    evaluation_batch_size: int
    evaluate_every: int | None
    save_every: int | None
    patience: int | None
    keep: Literal["better", "equal"]
    metric: str
    second_metric: str | None
    seed: int
    autocast: bool
    backbone_dropout: bool
    gradient_checkpointing: bool
    compile: bool

    @classmethod
    def of(cls, recipe: Recipe, held: torch.dtype) -> "Options":
        """Unpack a resolved recipe.

        Args:
            held: what the backbone's weights are held in.
        """
        assert recipe.lr is not None
        assert recipe.encoder_lr is not None
        return cls(
            lr=recipe.lr,
            encoder_lr=recipe.encoder_lr,
            head_lr=recipe.head_lr or recipe.lr,
            backbone_lr=recipe.backbone_lr or 0.0,
            backbone_weight_decay=recipe.backbone_weight_decay,
            weight_decay=recipe.weight_decay,
            clip=recipe.clip,
            average=recipe.average or 0.0,
            schedule=recipe.schedule,
            epoch_decay=recipe.epoch_decay or 1.0,
            warmup_share=recipe.warmup_share,
            evaluation_batch_size=recipe.evaluation_batch_size,
            evaluate_every=recipe.evaluate_every,
            save_every=recipe.save_every,
            patience=recipe.patience,
            keep=recipe.keep,
            metric=recipe.metric or "loss",
            second_metric=recipe.second_metric,
            seed=recipe.seed,
            autocast=autocasts(recipe, held),
            backbone_dropout=recipe.backbone_dropout,
            gradient_checkpointing=recipe.gradient_checkpointing,
            compile=recipe.compile,
        )

    def groups(self, prompt: TrainablePrompt) -> list[dict[str, Any]]:
        """Parameters by step size: the prompt's own, networks, the head's, the backbone's."""
        encoders = [e for e in (prompt.shallow, prompt.deep) if e is not None]
        direct = [p for e in encoders for p in e.direct_parameters()]
        known = {id(p) for p in direct}
        networks = [p for e in encoders for p in e.parameters() if id(p) not in known]
        head = [] if prompt.head is None else list(prompt.head.parameters())
        groups = [
            {"params": parameters, "lr": lr, "largest_lr": lr}
            for parameters, lr in (
                (direct, self.lr),
                (networks, self.encoder_lr),
                (head, self.head_lr),
            )
        ]
        if prompt.backbone is not None:
            rate = {"lr": self.backbone_lr, "largest_lr": self.backbone_lr}
            matrices, others = prompt.backbone.by_decay()
            groups += [
                {"params": matrices, "weight_decay": self.backbone_weight_decay, **rate},
                {"params": others, "weight_decay": 0.0, **rate},
            ]
        return [group for group in groups if group["params"]]
