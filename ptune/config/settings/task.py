"""What is asked of a row, and how a row is laid out."""

from functools import partial
from typing import Literal

from pydantic import BaseModel

from ptune.config.wording import setting

_setting = partial(setting, group="task")


class TaskSettings(BaseModel):
    """Task, template, and what a task leaves open."""

    task: Literal[
        "causal-lm", "sequence-classification", "token-classification", "multiple-choice"
    ] = _setting(
        "causal-lm",
        "Answer in words, by a trained head of a row or of each of its words, or with one of the "
        "row's own choices.",
    )
    problem: Literal["single-label", "multi-label", "regression"] = _setting(
        "single-label", "What a label is: one of a set, several of a set, or a number."
    )
    answer: Literal["label", "text"] = _setting(
        "label", "What the label column holds: one of a set, or free text to be generated."
    )
    loss: Literal["labels", "vocabulary"] = _setting(
        "labels", "Over the label words, or over all words of the vocabulary (causal-lm)."
    )
    choose_by: Literal["head", "words", "words-mean"] = _setting(
        "head",
        "What a choice is scored by: a trained head, the log-probability of its words, or their "
        "mean (multiple-choice).",
    )
    pooling: Literal["auto", "first", "last", "mean"] = _setting(
        "auto",
        "States that a trained head sees; auto: as the backbone was trained, else the first token "
        "of an encoder and the last one of a decoder.",
    )
    head_dropout: float = _setting(
        0.0, "Dropout on the states that a trained head sees.", low=0.0, high=0.9
    )
    scheme: Literal["auto", "bio", "iob1", "bioes", "plain"] = _setting(
        "auto", "How tags of words write entities; auto: bio, bioes or plain, by their prefixes."
    )
    template: str | None = _setting(
        None, "Layout of a row, e.g. {soft:20}{text} Label : {label}; null: made from the columns."
    )
