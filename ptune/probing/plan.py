"""What is probed, and how: the plan of a run, which touches no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from ptune.config import Recipe
from ptune.config.rules.of_probing import NOT_IN_PROBING, not_in_probing
from ptune.config.wording import show
from ptune.errors import ConfigError, did_you_mean
from ptune.probing.facts import FactSet, Shares
from ptune.probing.templates import MANUAL, Wish

TRAINED: tuple[str, ...] = get_args(Recipe.model_fields["method"].annotation)
# `manual` trains nothing: LAMA's template as it stands.
METHODS = (MANUAL, *TRAINED)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is probed, and how.

    Args:
        recipe: settings of the training; its method, template and rows are set here.
        methods: some of `METHODS`.
        wish: the template that is asked for.
        words: the list that objects are ranked among; None ranks the whole vocabulary.
        test_share: share of the facts that is held out where there is no test file, 0 .. 1.
        relations: names; empty takes all.
        output: folder of the record and the prompts.
    Raises:
        ConfigError: the recipe has a setting that probing cannot take, as train_backbone.
    """

    facts: FactSet
    recipe: Recipe
    methods: Sequence[str]
    output: Path
    wish: Wish = field(default_factory=Wish)
    words: Sequence[str] | None = None
    test_share: float = 0.2
    relations: Sequence[str] = ()

    def __post_init__(self) -> None:
        for key in NOT_IN_PROBING:
            value = getattr(self.recipe, key)
            if value != Recipe.model_fields[key].default:
                raise ConfigError(not_in_probing(key, show(value)))

    @property
    def shares(self) -> Shares:
        """How facts are split where there is one file."""
        return Shares(self.recipe.validation_share, self.test_share, self.recipe.seed)


def check_methods(methods: Sequence[str]) -> None:
    """Refuse a method that is not known.

    Raises:
        ConfigError: names it and what is known.
    """
    for method in methods:
        if method not in METHODS:
            near = did_you_mean(method, list(METHODS))
            raise ConfigError(f"--method {method} is unknown. Known: {', '.join(METHODS)}.{near}")
