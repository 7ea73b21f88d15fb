"""What is asked of a row, and how a row is laid out."""

from functools import partial
from typing import Literal

from pydantic import BaseModel

from ptune.config.rules import MAX_ANSWER_TOKENS, N_BEST, STRIDE
from ptune.config.wording import setting

_setting = partial(setting, group="task")


class TaskSettings(BaseModel):
    """Task, template, and what a task leaves open."""

    task: Literal[
        "causal-lm",
        "masked-lm",
        "sequence-classification",
        "token-classification",
        "question-answering",
        "multiple-choice",
        "seq2seq-lm",
    ] = _setting(
        "causal-lm",
        "Answer in the next words; in words that fill a gap; by a trained head, of a row or of "
        "each of its words; by a part of its context; with one of its own choices; or in words of "
        "an encoder-decoder.",
    )
    problem: Literal["single-label", "multi-label", "regression"] = _setting(
        "single-label", "What a label is: one of a set, several of a set, or a number."
    )
    answer: Literal["label", "text"] = _setting(
        "label", "What the label column holds: one of a set, or free text to be generated."
    )
    loss: Literal["labels", "vocabulary", "margin"] = _setting(
        "labels",
        "Over the label words or choices; over all words of the vocabulary; or the margin by which "
        "the right choice is before the others (multiple-choice).",
    )
    word_score: Literal["sum", "mean"] = _setting(
        "sum",
        "Of a label with several answer words: the sum of their probabilities, or the mean of "
        "their logarithms.",
    )
    fill: Literal["together", "confident"] = _setting(
        "together",
        "How a gap of several masks is filled for predictions: all at once, or one by one, the "
        "most certain first.",
    )
    calibration: Literal["none", "contextual", "batch"] = _setting(
        "none",
        "Take out of predictions what the prompt says of any row, measured on rows without "
        "content, or on the validation rows.",
    )
    choose_by: Literal["head", "words", "words-mean"] = _setting(
        "head",
        "What a choice is scored by: a trained head, the log-probability of its words, or their "
        "mean (multiple-choice).",
    )
    pooling: Literal["auto", "first", "last", "mean", "virtual"] = _setting(
        "auto",
        "States that a trained head sees; auto: as the backbone was trained, else the first token "
        "of an encoder and the last one of a decoder; virtual: the first virtual token.",
    )
    head_form: Literal["normalized", "plain", "tanh", "gelu"] = _setting(
        "normalized",
        "Of a trained head: ptune's own, or one that transformers' classes have, to be exported.",
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
    stride: int = _setting(
        STRIDE,
        "Tokens of a long context that a window shares with the next one (question-answering).",
        low=0,
    )
    max_answer_tokens: int = _setting(
        MAX_ANSWER_TOKENS, "Longest answer, in tokens (question-answering).", low=1
    )
    n_best: int = _setting(
        N_BEST, "Answers that are weighed and shown with their probabilities.", low=1, high=1000
    )
    no_answer: float | None = _setting(
        None,
        "An answer is left empty where that scores so much better than the best part of the "
        "context; null: never (question-answering).",
    )
    decoder_template: str = _setting(
        "{label}",
        "What the decoder of an encoder-decoder reads, e.g. {soft:5}{label} (seq2seq-lm).",
    )
    max_new_tokens: int | None = _setting(
        None,
        "Longest free text, learned or generated, in tokens; null: 64, and in causal-lm at most a "
        "quarter of max_tokens.",
        low=1,
    )
    beams: int = _setting(1, "Beams that free text is looked for with; 1: greedily.", low=1)
    length_penalty: float = _setting(
        1.0,
        "A finished beam counts as its log-probability over its length to this power.",
        low=-10.0,
        high=10.0,
    )
