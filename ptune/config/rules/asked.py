"""Questions about a recipe that several rules ask, and ends of sentences that they share."""

from collections.abc import Callable, Mapping
from typing import Any

from ptune.config.rules.known import ANSWERS_IN_WORDS, ENCODERS_OF, trains_head

Values = Mapping[str, Any]
# Whether two settings do not go together, and the sentence that says so.
Rule = tuple[Callable[[Values], bool], str]


def not_deep(v: Values) -> bool:
    return bool(v["method"] != "p-tuning-v2")


def head(v: Values) -> bool:
    return trains_head(v["task"], v["choose_by"])


def chooses(v: Values) -> bool:
    return bool(v["task"] == "multiple-choice")


def speaks(v: Values) -> bool:
    """Whether labels are told by words."""
    return v["task"] in ANSWERS_IN_WORDS and v["answer"] == "label"


def free_text(v: Values) -> bool:
    return bool(v["answer"] == "text")


def one_word_each(v: Values) -> bool:
    several = any(len(words) > 1 for words in v["verbalizer"].values())
    return not several and v["found_words"] in (None, 1)


ONLY_WORDS = (
    "goes with labels that are told by words; task is {task} and answer is {answer}. Leave it out, "
    f"or set task: {' or '.join(ANSWERS_IN_WORDS)}."
)


def tagged(v: Values) -> bool:
    return bool(v["task"] == "token-classification")


def spans(v: Values) -> bool:
    return bool(v["task"] == "question-answering")


def pools(v: Values) -> bool:
    return head(v) and v["task"] in ("sequence-classification", "multiple-choice")


ONLY_SPANS = "goes with task = question-answering only; task is {task}."
ONLY_DEEP = "goes with method = p-tuning-v2 only; method is {method}."

FROZEN = "has nothing to train: the backbone is frozen. Set train_backbone: true, or leave it out."


def encoder_of(v: Values) -> str | None:
    """Return the encoder that will be used, the default of the method included."""
    return v["encoder"] or next(iter(ENCODERS_OF[v["method"]]), None)


def above_the_first(v: Values) -> bool:
    """Tell whether a deep prompt may leave layers beneath it; `upper:N` is known later."""
    return isinstance(v["layers"], str) or (v["layers"] is not None and min(v["layers"]) > 0)


def no_validation(v: Values) -> bool:
    return v["validation"] is None and v["validation_share"] == 0
