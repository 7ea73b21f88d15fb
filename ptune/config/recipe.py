"""A recipe: every setting of one run, checked.

    recipes/complaints.yaml                      ptune train recipes/complaints.yaml lr=1e-2
    -----------------------                      -------------------------------------------
    backbone: bigscience/bloomz-560m             -> Recipe(backbone="bigscience/bloomz-560m",
    train: train.csv                                       train="train.csv", lr=0.01, ...)
    template: "{soft:20}{text} Label : {label}"

A recipe stops at the door: commands unpack it; encoders, tasks and data take plain arguments.
Knows no file but its own: whether `train` exists or `template` parses is found out by their owners.
Next: `settings/` declares the keys, `rules/` says which go together.
"""

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, ValidationError

from ptune.config.presets import preset_settings
from ptune.config.reading import override, read_yaml
from ptune.config.rules import (
    ENCODERS_OF,
    METRICS_OF,
    OF_TASK,
    clashes,
    kind_of,
    trains_head,
)
from ptune.config.settings import (
    BackboneSettings,
    DataSettings,
    PromptSettings,
    TaskSettings,
    TrainingSettings,
)
from ptune.config.settings.training import (
    ADAPTERS_LR,
    AVERAGE,
    BACKBONE_LR,
    ENCODER_LR,
    EPOCH_DECAY,
    HEAD_LR,
)
from ptune.config.wording import SettingRow, absent, refusal, row, takes_yaml, together
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


# Fields stand in the order of the bases from last to first (pydantic): backbone, data, task, ...
class Recipe(TrainingSettings, PromptSettings, TaskSettings, DataSettings, BackboneSettings):
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

    @classmethod
    def make(cls, **settings: Any) -> "Recipe":
        """Check settings given in Python; all mistakes are named at once.

        Raises:
            ConfigError: a key is unknown, a value is outside its range, or two do not go together.
        """
        settings = {k: fspath(v) if isinstance(v, PathLike) else v for k, v in settings.items()}
        if isinstance(settings.get("preset"), str):
            settings = {**preset_settings(settings["preset"]), **settings}
        settings = {**OF_TASK.get(str(settings.get("task")), {}), **settings}
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
        """Return a copy in which what is null holds its default: encoder, metric, step sizes."""
        method = BY_METHOD[self.method]
        head_lr = HEAD_LR if trains_head(self.task, self.choose_by) else None
        whole = BACKBONE_LR if self.train_backbone else None
        backbone_lr = ADAPTERS_LR if self.train_backbone == "adapters" else whole
        epoch_decay = EPOCH_DECAY if self.schedule == "exponential" else None
        # The mean of a whole backbone would be another copy of it in memory.
        average = 0.0 if self.train_backbone is True else AVERAGE
        return self.changed(
            average=average if self.average is None else self.average,
            encoder=self.encoder or method.encoder,
            lr=self.lr or method.lr,
            encoder_lr=self.encoder_lr or ENCODER_LR,
            head_lr=self.head_lr or head_lr,
            backbone_lr=self.backbone_lr or backbone_lr,
            epoch_decay=self.epoch_decay or epoch_decay,
            metric=self.metric or METRICS_OF[kind_of(self.task, self.problem, self.answer)][0],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON knows them; `Recipe.make(**it)` gives the recipe back."""
        return self.model_dump(mode="json")


def settings_table() -> list[SettingRow]:
    """Return every setting in the order of the recipe, for `ptune settings` and the docs."""
    return [row(key, field) for key, field in Recipe.model_fields.items()]
