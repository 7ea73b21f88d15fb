"""Every setting of a run, declared once: default, range, meaning.

    recipes/complaints.yaml                      ptune train recipes/complaints.yaml lr=1e-2
    -----------------------                      -------------------------------------------
    backbone: bigscience/bloomz-560m             -> Recipe(backbone="bigscience/bloomz-560m",
    train: train.csv                                       train="train.csv", lr=0.01, ...)
    template: "{soft:20}{text} Label : {label}"

A recipe stops at the door: commands unpack it; encoders, tasks and data take plain arguments.
Knows no file but its own: whether `train` exists or `template` parses is found out by their owners.
Next: `rules.py` says which settings go together.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ptune.config import room
from ptune.config.reading import override, read_yaml
from ptune.config.rules import BATCH_SIZE, ENCODERS_OF, METRICS_OF, VALIDATION_SHARE, clashes
from ptune.config.wording import SettingRow, absent, refusal, row, setting, takes_yaml, together
from ptune.errors import ConfigError


class MethodDefaults(NamedTuple):
    """What a method takes where the recipe says null."""

    encoder: str | None
    lr: float


# Prompts are stored in units of the backbone's own embeddings, or keys and values (see encoders):
# one step size per method fits every backbone. bench/defaults.py measures them.
BY_METHOD = {
    "p-tuning": MethodDefaults(ENCODERS_OF["p-tuning"][0], 0.3),
    "prompt-tuning": MethodDefaults(ENCODERS_OF["prompt-tuning"][0], 0.3),
    "p-tuning-v2": MethodDefaults(None, 0.06),
}
ENCODER_LR = 1e-3
HEAD_LR = 5e-3
CACHES = ("auto", "off")
INITS = ("auto", "random", "vocabulary", "text", "labels", "paper")

_model = partial(setting, group="backbone")
_data = partial(setting, group="data")
_task = partial(setting, group="task")
_prompt = partial(setting, group="prompt")
_train = partial(setting, group="training")

Metric = Literal[
    "accuracy", "macro_f1", "micro_f1", "pearson", "spearman", "mse", "loss", "perplexity"
]


class Recipe(BaseModel):
    """All settings of one run, checked. Made by `Recipe.make` or `Recipe.load`, never changed.

    >>> Recipe.make(backbone="gpt2", train="train.csv").prompt_length
    20
    >>> Recipe.make(lr="1e-3", method="prompt-tuning").resolved().encoder
    'embedding'
    """

    # Labels such as 0 and 1 are words to us; nan would pass every range.
    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    backbone: str | None = _model(None, "Frozen model: hub name or folder.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _model(
        "auto", "Of the backbone's weights; auto: float32 on a CPU, elsewhere as they are stored."
    )
    device: str = _model("auto", "Where to run: auto, cpu, cuda, cuda:1, mps.")
    device_map: dict[str, str] | str | None = _model(
        None,
        "For a model larger than one device: what goes where; null: all on device.",
        allowed="auto, balanced, sequential, disk, or a mapping from module to device",
    )
    offload_folder: str | None = _model(
        None, "For weights that device_map puts on the disk and that are no safetensors files."
    )
    quantization: Literal["int8"] | None = _model(
        None, "int8 holds the weights of the layers in one byte a number."
    )
    compile: bool = _model(False, "Compile the layers by torch.compile while training.")
    trust_remote_code: bool = _model(False, "Run Python code that comes with the model.")
    revision: str | None = _model(None, "Branch, tag or commit of the model on the hub.")
    offline: bool = _model(False, "Use what is on this machine only; never ask the hub.")

    train: str | None = _data(None, "Rows to train on: a file or hub:NAME[:CONFIG][:SPLIT].")
    validation: str | None = _data(
        None, "Rows to choose the best step by; null: held out of train."
    )
    test: str | None = _data(None, "Rows to score once, at the end.")
    label_column: str = _data("label", "Column that holds the label.")
    columns: dict[str, str] = _data({}, "Template field to column, where the names differ.")
    labels: tuple[str, ...] | None = _data(
        None, "Labels in their order; null: found in train, sorted."
    )
    verbalizer: dict[str, tuple[str, ...]] = _data(
        {},
        "Label to answer word, where the word is not the label.",
        allowed="a mapping from label to a word or a list of words",
    )
    validation_share: float = _data(
        VALIDATION_SHARE,
        "Share of train held out where validation is null; 0: none.",
        low=0.0,
        high=0.9,
    )
    few_shot: int | None = _data(
        None, "Train on so many rows per label, drawn by seed; hold out as many others.", low=1
    )
    max_rows: int | None = _data(None, "Train on at most so many rows, drawn by seed.", low=1)
    max_tokens: int = _data(
        512, "Longest row in tokens; fields are cut to fit, and never beyond the backbone.", low=8
    )

    cache: str = _data(
        "auto",
        "Where tokenised rows are kept between runs; auto: $PTUNE_CACHE or ~/.cache/ptune.",
        allowed=f"one of {', '.join(CACHES)}, or a folder, with a / in it",
        choices=CACHES,
    )

    task: Literal["causal-lm", "sequence-classification"] = _task(
        "causal-lm", "Answer in words, or by a trained head."
    )
    problem: Literal["single-label", "multi-label", "regression"] = _task(
        "single-label", "What a label is: one of a set, several of a set, or a number."
    )
    answer: Literal["label", "text"] = _task(
        "label", "What the label column holds: one of a set, or free text to be generated."
    )
    loss: Literal["labels", "vocabulary"] = _task(
        "labels", "Over the label words, or over all words of the vocabulary (causal-lm)."
    )
    pooling: Literal["auto", "first", "last", "mean"] = _task(
        "auto",
        "States that a trained head sees; auto: as the backbone was trained, else the first token "
        "of an encoder and the last one of a decoder.",
    )
    template: str | None = _task(
        None, "Layout of a row, e.g. {soft:20}{text} Label : {label}; null: made from the columns."
    )

    method: Literal["p-tuning", "prompt-tuning", "p-tuning-v2"] = _prompt(
        "p-tuning", "Vectors from an encoder, vectors alone, or keys and values at attention sites."
    )
    encoder: Literal["embedding", "lstm", "mlp", "residual"] | None = _prompt(
        None, "What makes the vectors while training; null: lstm or embedding, by method."
    )
    prompt_length: int = _prompt(
        20, "Virtual tokens of a deep prompt and of the default template.", low=1, high=4096
    )
    init: str = _prompt(
        "auto",
        "What the prompt starts from.",
        allowed=f"one of {', '.join(INITS)}, or the path of a saved prompt, with a / in it",
        choices=INITS,
    )
    init_text: str | None = _prompt(None, "The text that init: text starts from.")
    encoder_hidden: int | None = _prompt(
        None, "Width inside the encoder; null: as its paper has it.", low=1
    )
    encoder_dropout: float = _prompt(0.0, "Dropout inside the lstm encoder.", low=0.0, high=0.9)
    projection: int | None = _prompt(
        None, "Width of the Tanh network that makes a deep prompt; null: a plain table.", low=1
    )
    layers: tuple[int, ...] | str | None = _prompt(
        None,
        "Attention sites of a deep prompt; null: all.",
        allowed="a list of different site numbers from 0, or upper:N",
    )
    prefix_dropout: float = _prompt(
        0.0, "Dropout on the keys and values of a deep prompt.", low=0.0, high=0.9
    )

    epochs: int | None = _train(
        None, "Passes over the training rows; null: 5, and up to 20 where rows are few.", low=1
    )
    max_steps: int | None = _train(None, "Stop after so many steps, whatever epochs says.", low=1)
    batch_size: int = _train(BATCH_SIZE, "Rows that are run at once.", low=1)
    tokens_per_batch: int | None = _train(
        None, "Tokens that are run at once, in rows of like length, in place of batch_size.", low=1
    )
    accumulation: int = _train(1, "Batches whose gradients are added up for one step.", low=1)
    lr: float | None = _train(
        None,
        "Largest AdamW step size of the prompt, in units of the backbone's own; null: by method.",
        low=1e-8,
        high=100.0,
    )
    encoder_lr: float | None = _train(
        None,
        f"Largest AdamW step size of the networks inside an encoder; null: {ENCODER_LR}.",
        low=1e-8,
        high=100.0,
    )
    head_lr: float | None = _train(
        None, f"Largest AdamW step size of the head; null: {HEAD_LR}.", low=1e-8, high=100.0
    )
    schedule: Literal["linear", "cosine", "constant"] = _train(
        "linear", "How the step size falls after the warm-up."
    )
    warmup_share: float = _train(
        0.06, "Share of all steps in which the step size rises.", low=0.0, high=1.0
    )
    weight_decay: float = _train(0.0, "AdamW weight decay.", low=0.0, high=1.0)
    clip: float = _train(1.0, "Largest norm of the gradient; 0: no clipping.", low=0.0)
    precision: Literal["auto", "fp32", "bf16"] = _train(
        "auto", "Of the computation; bf16 holds the weights in it, too; auto: that of the weights."
    )
    gradient_checkpointing: bool = _train(False, "Compute states twice to need less memory.")
    trunk_cache: str = _train(
        "auto",
        "Room for what the layers beneath a deep prompt compute, kept from epoch to epoch; auto: "
        f"{room.AUTO_BYTES // 10**9} GB of main memory.",
        allowed=room.ALLOWED,
    )
    evaluate_every: int | None = _train(
        None, "Steps between two evaluations; null: once an epoch.", low=1
    )
    patience: int | None = _train(
        None, "Stop after so many evaluations without a better score; null: never.", low=1
    )
    metric: Metric | None = _train(
        None, "Score that chooses the best step; null: accuracy, micro_f1 or pearson, by problem."
    )
    seed: int = _train(0, "Everything random follows from it.", low=0, high=2**32 - 1)
    evaluation_batch_size: int = _train(32, "Rows that are evaluated at once.", low=1)
    save_every: int | None = _train(
        None, "Steps between two checkpoints; null: at every evaluation.", low=1
    )
    output: str = _train("runs/prompt", "Folder for the prompt, the checkpoints and the log.")
    tracker: Literal["tensorboard"] | None = _train(None, "Also write the log for this program.")

    @field_validator("labels", "layers", mode="before")
    @classmethod
    def _order_is_known(cls, value: object) -> object:
        if isinstance(value, set | frozenset):  # its order changes from run to run
            raise ValueError
        return value

    @field_validator("init", mode="after")
    @classmethod
    def _init_is_known(cls, value: str) -> str:
        return _word_or_path(value, INITS)

    @field_validator("cache", mode="after")
    @classmethod
    def _cache_is_known(cls, value: str) -> str:
        return _word_or_path(value, CACHES)

    @field_validator("layers", mode="after")
    @classmethod
    def _layers_are_sites(cls, value: tuple[int, ...] | str | None) -> tuple[int, ...] | str | None:
        if isinstance(value, str):
            word, _, count = value.partition(":")
            fits = word == "upper" and count.isascii() and count.isdigit() and int(count) > 0
        else:
            fits = value is None or (0 < len(value) == len(set(value)) and min(value) >= 0)
        if not fits:
            raise ValueError
        return value

    @field_validator("trunk_cache", mode="after")
    @classmethod
    def _room_is_a_size(cls, value: str) -> str:
        room.Room.parse(value)
        return value

    @field_validator("verbalizer", mode="before")
    @classmethod
    def _one_word_is_a_list_of_one(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {k: (v,) if isinstance(v, str | int | float) else v for k, v in value.items()}

    @classmethod
    def make(cls, **settings: Any) -> "Recipe":
        """Check settings given in Python; all mistakes are named at once.

        Raises:
            ConfigError: a key is unknown, a value is outside its range, or two do not go together.
        """
        settings = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in settings.items()}
        fields = cls.model_fields
        try:
            recipe = cls(**settings)
        except ValidationError as error:
            keys = dict.fromkeys(str(part["loc"][0]) for part in error.errors())
            mistakes = [refusal(key, settings[key], fields) for key in keys]
            raise ConfigError(together(mistakes)) from None
        if mistakes := clashes(recipe.to_dict()):
            raise ConfigError(together(mistakes))
        return recipe

    @classmethod
    def load(
        cls,
        path: Path | str,
        overrides: Sequence[str] = (),
        *,
        required: Sequence[str] = ("backbone", "train"),
    ) -> "Recipe":
        """Read a YAML file, change it by `key=value` texts, and check the result.

        In YAML only null is special: `labels: [no, yes, 1.0]` are three texts, as they stand there.
        Paths are taken as they stand: relative to where the program runs, not to the recipe.

        Args:
            overrides: the last one of a key counts; `key=` and `key=null` mean null. Lists and
                mappings are written as in YAML: `labels=[a, b]`. All else is taken as it stands.
            required: keys that may not be null.

        Raises:
            ConfigError: as `make`, or the file cannot be read.
        """
        structured = {key: takes_yaml(field) for key, field in cls.model_fields.items()}
        settings = read_yaml(Path(path))
        settings |= dict(override(text, structured) for text in overrides)
        try:
            recipe = cls.make(**settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        missing = [key for key in required if getattr(recipe, key) is None]
        if missing:
            mistakes = [absent(key, cls.model_fields) for key in missing]
            raise ConfigError(f"{path}: {together(mistakes)}")
        return recipe

    def changed(self, **settings: Any) -> "Recipe":
        """Return a checked copy with other settings."""
        return Recipe.make(**(self.to_dict() | settings))

    def resolved(self) -> "Recipe":
        """Return a copy in which encoder, lr, head_lr and metric hold their defaults, not null."""
        method = BY_METHOD[self.method]
        head_lr = HEAD_LR if self.task == "sequence-classification" else None
        return self.changed(
            encoder=self.encoder or method.encoder,
            lr=self.lr or method.lr,
            encoder_lr=self.encoder_lr or ENCODER_LR,
            head_lr=self.head_lr or head_lr,
            metric=self.metric or METRICS_OF[self.problem][0],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON knows them; `Recipe.make(**it)` gives the recipe back."""
        return self.model_dump(mode="json")


def _word_or_path(value: str, words: Sequence[str]) -> str:
    """Refuse a word that is not known, so that a slip does not become the name of a folder."""
    if value not in words and not {"/", "\\"} & set(value):
        raise ValueError
    return value


def settings_table() -> list[SettingRow]:
    """Return every setting in the order of the recipe, for `ptune settings` and the docs."""
    return [row(key, field) for key, field in Recipe.model_fields.items()]
