"""How a prompt is trained: steps, step sizes, evaluations, files."""

from functools import partial
from typing import Literal

from pydantic import BaseModel, field_validator

from ptune.config import room
from ptune.config.rules import BATCH_SIZE
from ptune.config.wording import at_home, setting

_setting = partial(setting, group="training")

ENCODER_LR = 1e-3
HEAD_LR = 5e-3
AVERAGE = 0.99
# As P-tuning v1's few-shot runs train it.
BACKBONE_LR = 1e-5
# As the LoRA paper trains GPT-2 and GPT-3 (arXiv:2106.09685, appendix D).
ADAPTERS_LR = 2e-4

# As P-tuning v2's code has it for tags and questions (training/trainer_exp.py: gamma).
EPOCH_DECAY = 0.95

Schedule = Literal["linear", "cosine", "constant", "exponential"]
Metric = Literal[
    "accuracy",
    "macro_f1",
    "micro_f1",
    "f1",
    "precision",
    "recall",
    "exact_match",
    "pearson",
    "spearman",
    "mse",
    "loss",
    "perplexity",
    "rouge1",
    "rouge2",
    "rougeL",
    "bleu",
]


class TrainingSettings(BaseModel):
    """The run."""

    epochs: int | None = _setting(
        None, "Passes over the training rows; null: 5, and up to 20 where rows are few.", low=1
    )
    max_steps: int | None = _setting(None, "Stop after so many steps at most.", low=1)
    batch_size: int = _setting(BATCH_SIZE, "Rows that are run at once.", low=1)
    tokens_per_batch: int | None = _setting(
        None, "Tokens that are run at once, in rows of like length, in place of batch_size.", low=1
    )
    accumulation: int = _setting(1, "Batches whose gradients are added up for one step.", low=1)
    lr: float | None = _setting(
        None,
        "Largest AdamW step size of the prompt, in units of the backbone's own; null: 0.3, of "
        "p-tuning-v2 0.06.",
        low=1e-8,
        high=100.0,
    )
    encoder_lr: float | None = _setting(
        None,
        f"Largest AdamW step size of the networks inside an encoder; null: {ENCODER_LR}.",
        low=1e-8,
        high=100.0,
    )
    head_lr: float | None = _setting(
        None, f"Largest AdamW step size of the head; null: {HEAD_LR}.", low=1e-8, high=100.0
    )
    train_backbone: bool | Literal["adapters"] = _setting(
        False,
        "Train the backbone's own weights too, or those of its adapters alone (PEFT's LoRA); they "
        "are kept with the prompt.",
        allowed="true, false or adapters",
    )
    backbone_lr: float | None = _setting(
        None,
        f"Largest AdamW step size of the backbone's weights; null: {BACKBONE_LR}, of its adapters "
        f"{ADAPTERS_LR}.",
        low=1e-8,
        high=1.0,
    )
    backbone_weight_decay: float = _setting(
        0.0,
        "AdamW weight decay of the backbone's matrices; not of its biases and norms.",
        low=0.0,
        high=1.0,
    )
    backbone_dropout: bool = _setting(
        False,
        "Let the backbone's own dropout be on in training, at its own rates, as the papers' code "
        "does.",
    )
    schedule: Schedule = _setting(
        "linear", "How the step size falls after the warm-up; exponential: from epoch to epoch."
    )
    epoch_decay: float | None = _setting(
        None,
        "Of an exponential schedule: what is left of the step size from one epoch to the next; "
        f"null: {EPOCH_DECAY}.",
        low=1e-8,
        high=1.0,
    )
    warmup_share: float = _setting(
        0.06, "Share of all steps in which the step size rises.", low=0.0, high=1.0
    )
    weight_decay: float = _setting(0.0, "AdamW weight decay.", low=0.0, high=1.0)
    clip: float = _setting(1.0, "Largest norm of the gradient; 0: no clipping.", low=0.0)
    average: float | None = _setting(
        None,
        "Judge and keep the mean of about the last 1 / (1 - average) steps (fewer in a short run); "
        f"0: the last one alone; null: {AVERAGE}, and 0 where all of the backbone is trained.",
        low=0.0,
        high=0.9999,
    )
    precision: Literal["auto", "fp32", "bf16"] = _setting(
        "auto", "Of the computation; bf16 holds the weights in it, too; auto: that of the weights."
    )
    gradient_checkpointing: bool = _setting(False, "Compute states twice to need less memory.")
    trunk_cache: str = _setting(
        "auto",
        "Room for what the layers beneath a deep prompt compute, kept from epoch to epoch; auto: "
        f"{room.AUTO_BYTES // 10**9} GB of main memory.",
        allowed=room.ALLOWED,
    )
    evaluate_every: int | None = _setting(
        None, "Steps between two evaluations; null: once an epoch.", low=1
    )
    patience: int | None = _setting(
        None, "Stop after so many evaluations without a better score; null: never.", low=1
    )
    keep: Literal["better", "equal"] = _setting(
        "better", "Keep a prompt whose score is better, or also a later one whose score is equal."
    )
    metric: Metric | None = _setting(
        None,
        "Score that chooses the best step; null: accuracy, micro_f1 or pearson, by problem; f1 of "
        "entities or answers; loss for free text.",
    )
    second_metric: Metric | None = _setting(
        None,
        "A second score that chooses: a step is better where both are, and worse where one is.",
    )
    protocol: Literal["strict", "paper"] = _setting(
        "strict",
        "What is reported: the score of the test rows, looked at once; or, as papers do, the best "
        "one of all evaluations on the validation rows.",
    )
    preset: str | None = _setting(
        None,
        "Settings of a paper's run, by name; keys of the recipe itself come first.",
        allowed="a name that `ptune presets` lists",
    )
    seed: int = _setting(0, "Everything random follows from it.", low=0, high=2**32 - 1)
    evaluation_batch_size: int = _setting(32, "Rows that are evaluated at once.", low=1)
    save_every: int | None = _setting(
        None, "Steps between two checkpoints; null: at every evaluation.", low=1
    )
    output: str = _setting("runs/prompt", "Folder for the prompt, the checkpoints and the log.")
    tracker: Literal["tensorboard"] | None = _setting(None, "Also write the log for this program.")

    @field_validator("output", mode="before")
    @classmethod
    def _home_of_output_is_written_out(cls, value: object) -> object:
        return at_home(value)

    @field_validator("trunk_cache", mode="after")
    @classmethod
    def _room_is_a_size(cls, value: str) -> str:
        room.Room.parse(value)
        return value
