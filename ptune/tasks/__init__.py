"""Tasks: one file each; see `task.py` for what they have in common.

A task's file has a function `bind(template, backbone, options)`, which is listed here.
"""

from collections.abc import Callable, Mapping

from ptune.backbone import Backbone
from ptune.errors import ConfigError
from ptune.tasks import (
    causal_lm,
    masked_lm,
    multiple_choice,
    question_answering,
    seq2seq_lm,
    sequence_classification,
    token_classification,
)
from ptune.tasks.options import TaskOptions as TaskOptions
from ptune.tasks.scoring import Marks as Marks
from ptune.tasks.task import Answer as Answer
from ptune.tasks.task import Example as Example
from ptune.tasks.task import Prediction as Prediction
from ptune.tasks.task import Task as Task
from ptune.template import Template

Bind = Callable[[Template, Backbone, TaskOptions], Task]

TASKS: Mapping[str, Bind] = {
    "causal-lm": causal_lm.bind,
    "masked-lm": masked_lm.bind,
    "question-answering": question_answering.bind,
    "multiple-choice": multiple_choice.bind,
    "sequence-classification": sequence_classification.bind,
    "token-classification": token_classification.bind,
    "seq2seq-lm": seq2seq_lm.bind,
}


def make_task(
    name: str, template: Template, backbone: Backbone, options: TaskOptions | None = None
) -> Task:
    """Bind a template to a backbone, as a task.

    Args:
        name: one of `TASKS`.
        options: None takes the defaults.
    Raises:
        ConfigError: the task is unknown or does not go with the backbone.
        TemplateError: the template does not fit the task.
    """
    if name not in TASKS:
        raise ConfigError(f"task = {name!r} is unknown. Known: {', '.join(TASKS)}.")
    if backbone.geometry.two_sided and name != seq2seq_lm.Seq2SeqLM.name:
        raise ConfigError(
            f'task = {name} needs an encoder or a decoder; "{backbone.name}" '
            f"({type(backbone.model).__name__}) is both. Use task: seq2seq-lm: with labels it is a "
            "classifier, too."
        )
    return TASKS[name](template, backbone, options or TaskOptions())
