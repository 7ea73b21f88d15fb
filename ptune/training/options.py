"""How a prompt is trained: the settings that the loop reads, as plain values."""

from dataclasses import dataclass
from typing import Any, Literal

from ptune.config import Recipe
from ptune.trainable import TrainablePrompt


@dataclass(frozen=True, slots=True)
class Options:
    """See `ptune settings` for meanings and ranges; `lr` and `metric` are resolved here."""

    lr: float
    head_lr: float
    weight_decay: float
    clip: float
    schedule: Literal["linear", "cosine", "constant"]
    warmup_share: float
    batch_size: int
    evaluation_batch_size: int
    evaluate_every: int | None
    save_every: int | None
    patience: int | None
    metric: str
    seed: int
    autocast: bool
    gradient_checkpointing: bool

    @classmethod
    def of(cls, recipe: Recipe, *, autocast: bool) -> "Options":
        """Unpack a resolved recipe."""
        assert recipe.lr is not None
        return cls(
            lr=recipe.lr,
            head_lr=recipe.head_lr or recipe.lr,
            weight_decay=recipe.weight_decay,
            clip=recipe.clip,
            schedule=recipe.schedule,
            warmup_share=recipe.warmup_share,
            batch_size=recipe.batch_size,
            evaluation_batch_size=recipe.evaluation_batch_size,
            evaluate_every=recipe.evaluate_every,
            save_every=recipe.save_every,
            patience=recipe.patience,
            metric=recipe.metric or "loss",
            seed=recipe.seed,
            autocast=autocast,
            gradient_checkpointing=recipe.gradient_checkpointing,
        )

    def groups(self, prompt: TrainablePrompt) -> list[dict[str, Any]]:
        """Parameters with their largest learning rates: the prompt's, and the head's."""
        head = list(prompt.head.parameters()) if prompt.head is not None else []
        own = {id(p) for p in head}
        rest = [p for p in prompt.parameters() if id(p) not in own]
        groups = [{"params": rest, "lr": self.lr, "largest_lr": self.lr}]
        if head:
            groups.append({"params": head, "lr": self.head_lr, "largest_lr": self.head_lr})
        return groups
