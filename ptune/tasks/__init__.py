"""Tasks: one file each; see `task.py` for what they have in common."""

from collections.abc import Mapping, Sequence
from typing import Literal

from ptune.backbone import Backbone
from ptune.errors import ConfigError, TemplateError
from ptune.parts import Label
from ptune.tasks.causal_lm import MOST_NEW_TOKENS, CausalLM
from ptune.tasks.sequence_classification import Pooling, Problem, SequenceClassification
from ptune.tasks.task import Answer as Answer
from ptune.tasks.task import Example as Example
from ptune.tasks.task import Prediction as Prediction
from ptune.tasks.task import Task as Task
from ptune.template import Template
from ptune.verbalizer import Verbalizer

NAMES = ("causal-lm", "sequence-classification")


def make_task(
    name: str,
    template: Template,
    backbone: Backbone,
    *,
    labels: Sequence[str] = (),
    words: Mapping[str, str | Sequence[str]] | None = None,
    problem: Problem = "single-label",
    loss: Literal["labels", "vocabulary"] = "labels",
    pooling: Literal["auto"] | Pooling = "auto",
    max_tokens: int = 512,
    offset: int = 0,
) -> CausalLM | SequenceClassification:
    """Bind a template to a backbone, as a task.

    Args:
        labels: in their order; empty for free text and for regression.
        words: label -> its word or words, where that is not the label itself (`causal-lm`).
        pooling: which states the trained head sees; "auto" is `Backbone.pooling`.
        max_tokens: longest row, in tokens; cut to what the backbone takes.
        offset: of the prompt: positions that its keys take from the rows.
    Raises:
        ConfigError: the task is unknown or does not go with the backbone.
        TemplateError: the template does not fit the task.
    """
    limit = min(max_tokens, backbone.max_tokens - offset)
    if name == "sequence-classification":
        _refuse_label(template)
        layout = template.bind(backbone.tokenizer, max_tokens=limit)
        return SequenceClassification(
            layout,
            labels,
            problem=problem,
            pooling=backbone.pooling if pooling == "auto" else pooling,
        )
    if name != "causal-lm":
        raise ConfigError(f"task = {name!r} is unknown. Known: {', '.join(NAMES)}.")
    if not (backbone.has_lm_head and backbone.geometry.causal):
        raise ConfigError(
            f'task = causal-lm needs a decoder with a language-model head; "{backbone.name}" '
            f"({type(backbone.model).__name__}) is none. Use task: sequence-classification."
        )
    _require_last_label(template)
    end = backbone.tokenizer.eos_token_id
    if not labels:
        room = min(MOST_NEW_TOKENS, limit // 4)
        layout = template.bind(backbone.tokenizer, max_tokens=limit - room)
        return CausalLM(layout, {}, end=end, room=room)
    given = {
        label: several if isinstance(several, str) else list(several)
        for label, several in (words or {}).items()
    }
    spoken = dict(Verbalizer.from_labels(labels, given).answers)
    every = [word for several in spoken.values() for word in several]
    layout = template.bind(backbone.tokenizer, max_tokens=limit, label_words=every)
    return CausalLM(layout, spoken, end=end, loss=loss)


def _refuse_label(template: Template) -> None:
    if template.has_label:
        raise TemplateError(
            f'template "{template.source}": {{label}} has no place in task '
            "sequence-classification, where a trained head gives the label. Leave it out, or use "
            "task: causal-lm."
        )


def _require_last_label(template: Template) -> None:
    at = [i for i, part in enumerate(template.parts) if isinstance(part, Label)]
    if at != [len(template.parts) - 1]:
        found = "has none" if not at else "has it elsewhere"
        raise TemplateError(
            f'template "{template.source}": task causal-lm needs one {{label}}, at the end; this '
            f'one {found}. For example: "{{soft:20}}{{text}} Label : {{label}}".'
        )
