"""What a task is bound with, beside its template and the backbone.

    TaskOptions(labels=("complaint", "no complaint"))
    TaskOptions.of(recipe.to_dict(), labels=data.labels)      the keys that a recipe has in common

A field has the name and the default of its key in a recipe, so that a saved prompt, whose settings
are a recipe, binds its task again as it was trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ptune.backbone import Backbone
from ptune.heads import HeadForm

Problem = Literal["single-label", "multi-label", "regression"]
Pooling = Literal["first", "last", "mean", "virtual"]
Loss = Literal["labels", "vocabulary", "margin"]
ChooseBy = Literal["head", "words", "words-mean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a task needs to know; a task reads the fields that concern it.

    Args:
        labels: in their order; empty for free text and for regression.
        verbalizer: label -> its word or words, where that is not the label itself.
        problem: what a row's label is.
        loss: over the labels or the vocabulary (tasks that answer in words), or the margin between
            choices.
        word_score: of a label with several words: `ptune.tasks.answers`.
        fill: how several masks are filled: `ptune.tasks.masked_lm`.
        prior: of each label, a log-probability that is taken out of predictions; kept in a prompt.
        choose_by: what a choice of a row is scored by.
        pooling: which states the trained head sees; "auto" is `Backbone.pooling`.
        head_dropout: on the states that a trained head sees, while it is trained; 0 .. 0.9.
        scheme: how the tags of words write entities; "auto" is `ptune.tags.scheme_of`.
        stride: tokens of a long context that a window shares with the next one.
        max_answer_tokens: longest part of a context that is an answer.
        n_best: answers that are weighed.
        no_answer: by how much an empty answer must score better; None never gives one.
        head_form: of the trained head (`ptune.heads`).
        decoder_template: what an encoder-decoder's decoder reads.
        max_new_tokens: longest free text, in tokens; None leaves it to the task.
        beams, length_penalty: as in `Search`.
        positive_label: the label whose F1 is scored; None of none.
        metric: that a run is judged by; None has no wish.
        max_tokens: longest row, in tokens; cut to what the backbone takes.
        offset: of the prompt: positions that its keys take from the rows.
    """

    labels: Sequence[str] = ()
    verbalizer: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    problem: Problem = "single-label"
    loss: Loss = "labels"
    word_score: Literal["sum", "mean"] = "sum"
    fill: Literal["together", "confident"] = "together"
    prior: Sequence[float] = ()
    choose_by: ChooseBy = "head"
    pooling: Literal["auto"] | Pooling = "auto"
    head_dropout: float = 0.0
    scheme: Literal["auto", "bio", "iob1", "bioes", "plain"] = "auto"
    stride: int = 128
    max_answer_tokens: int = 30
    n_best: int = 20
    no_answer: float | None = None
    head_form: HeadForm = "normalized"
    decoder_template: str = "{label}"
    max_new_tokens: int | None = None
    beams: int = 1
    length_penalty: float = 1.0
    positive_label: str | None = None
    metric: str | None = None
    max_tokens: int = 512
    offset: int = 0

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], *, labels: Sequence[str] = (), offset: int = 0
    ) -> "TaskOptions":
        """Those of a recipe, as a mapping; keys that are no business of a task are passed over.

        Args:
            labels: found in the rows, or kept in the prompt.
            offset: of the prompt.
        """
        known = {one.name for one in fields(cls)} & settings.keys()
        own = {key: settings[key] for key in known}
        return cls(**{**own, "labels": tuple(labels), "offset": offset})

    def limit(self, backbone: Backbone) -> int:
        """The longest row, in tokens, that the backbone takes with this prompt."""
        # Of an encoder-decoder the decoder is moved, and rows are read by the encoder.
        offset = 0 if backbone.geometry.two_sided else self.offset
        return min(self.max_tokens, backbone.max_tokens - offset)
