"""The rows of a run: where they are, which of them are used, and what their labels are."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

from pydantic import BaseModel, field_validator

from ptune.config.rules import VALIDATION_SHARE
from ptune.config.wording import as_written, at_home, setting, word_or_path

_setting = partial(setting, group="data")

CACHES = ("auto", "off")


class DataSettings(BaseModel):
    """Rows and labels."""

    train: str | None = _setting(None, "Rows to train on: a file or hub:NAME[:CONFIG][:SPLIT].")
    validation: str | None = _setting(
        None, "Rows to choose the best step by; null: held out of train."
    )
    test: str | None = _setting(None, "Rows to score once, at the end.")
    label_column: str = _setting(
        "label", "Column that holds the label; of question-answering, answers."
    )
    columns: dict[str, str] = _setting({}, "Template field to column, where the names differ.")
    group_column: str | None = _setting(
        None,
        "Rows with one value there are a group, e.g. the answers to a question: exact_match is the "
        "share of groups in which all rows are right.",
    )
    truth_column: str | None = _setting(
        None,
        "Column that says whether the text of a row is a true answer (answer: text). Others are "
        "not trained on; accuracy: rows whose own text is said if and only if it is true.",
    )
    positive_label: str | None = _setting(None, "Label whose F1 is scored, as f1.")
    choices: tuple[str, ...] | str | None = _setting(
        None,
        "Columns that hold the choices of a row, or the one that holds a list of them; null: "
        "choices, or choice1, choice2 and so on.",
        allowed="a column, or a list of columns",
    )
    reader: (
        Literal["superglue/copa", "superglue/multirc", "superglue/rte", "superglue/wsc"] | None
    ) = _setting(None, "For files of a shape of their own: what makes plain rows of them.")
    labels: tuple[str, ...] | None = _setting(
        None, "Labels in their order; null: found in train, sorted."
    )
    bad_rows: Literal["refuse", "skip"] = _setting(
        "refuse", "A row that cannot be used stops the run, or is left out, counted and listed."
    )
    verbalizer: dict[str, tuple[str, ...]] = _setting(
        {},
        "Label to answer word, where the word is not the label.",
        allowed="a mapping from label to a word or a list of words",
    )
    found_words: int | None = _setting(
        None,
        "Find so many answer words per label in the training rows, in place of verbalizer; null: "
        "none.",
        low=1,
        high=100,
    )
    validation_share: float = _setting(
        VALIDATION_SHARE,
        "Share of train held out where validation is null; 0: none.",
        low=0.0,
        high=0.9,
    )
    few_shot: int | None = _setting(
        None, "Train on so many rows per label, drawn by seed; hold out as many others.", low=1
    )
    max_rows: int | None = _setting(None, "Train on at most so many rows, drawn by seed.", low=1)
    max_tokens: int = _setting(
        512,
        "Longest row in tokens, its virtual tokens and label included, and never more than the "
        "backbone takes; of a longer one the fields are cut.",
        low=8,
    )
    cache: str = _setting(
        "auto",
        "Where tokenised rows are kept between runs; auto: $PTUNE_CACHE or ~/.cache/ptune.",
        allowed=f"one of {', '.join(CACHES)}, or a folder, with a / in it",
        choices=CACHES,
    )

    @field_validator("labels", "choices", mode="before")
    @classmethod
    def _labels_have_an_order(cls, value: object) -> object:
        return as_written(value)

    @field_validator("cache", mode="after")
    @classmethod
    def _cache_is_known(cls, value: str) -> str:
        return word_or_path(value, CACHES)

    @field_validator("train", "validation", "test", "cache", mode="before")
    @classmethod
    def _home_of_rows_is_written_out(cls, value: object) -> object:
        return at_home(value)

    @field_validator("verbalizer", mode="before")
    @classmethod
    def _one_word_is_a_list_of_one(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {k: (v,) if isinstance(v, str | int | float) else v for k, v in value.items()}
