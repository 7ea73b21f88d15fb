"""What a trained prompt says of no row in particular, measured once, when the prompt is made.

    calibrate(loop, learner, kind="contextual", fields=("text",))
    learner.task.answers.prior      # taken out of every prediction from here on

Which prompt is kept was decided without it. See `ptune.tasks.calibration` for the two ways.
"""

from collections.abc import Sequence
from typing import assert_never

from ptune.errors import ConfigError, DataError
from ptune.tasks import Example, Task
from ptune.tasks.answers import TellsLabels
from ptune.tasks.calibration import CONTENT_FREE, Calibration, batch, contextual
from ptune.training.learner import Learner
from ptune.training.loop import Loop


def calibrate(loop: Loop, learner: Learner, *, kind: Calibration, fields: Sequence[str]) -> bool:
    """Measure the prior of a learner's labels and give it to its task; tell whether it did.

    Args:
        fields: of the template; content-free rows have a value for each.
    """
    if kind == "none" or learner.error is not None or not isinstance(learner.task, TellsLabels):
        return False
    answers = learner.task.answers
    match kind:
        case "contextual":
            answers.prior = contextual(_shares(loop, learner, _content_free(learner.task, fields)))
        case "batch":
            answers.prior = batch(_shares(loop, learner, learner.validation))
        case _:
            assert_never(kind)
    return True


def check_calibration(task: Task, *, kind: Calibration, fields: Sequence[str]) -> None:
    """Refuse before a run what `calibrate` could not measure after it.

    Raises:
        ConfigError: a row without content leaves the model nothing to read.
    """
    if kind != "contextual" or not isinstance(task, TellsLabels):
        return
    try:
        _content_free(task, fields)
    except DataError:
        raise ConfigError(
            "calibration = contextual asks the model about rows without content, and of an empty "
            f'one nothing stands before the answer in the template "{task.layout.source}". Put '
            "some words before the answer, or set calibration: batch."
        ) from None


def _content_free(task: Task, fields: Sequence[str]) -> list[Example]:
    rows = [dict.fromkeys(fields, text) for text in CONTENT_FREE]
    # They have no label; one is named because rows are measured with one.
    return task.examples(rows, [task.labels[0]] * len(rows))


def _shares(loop: Loop, learner: Learner, examples: Sequence[Example]) -> list[list[float]]:
    (measured,) = loop.measure([(learner, examples)])
    return [list(one.prediction.probabilities.values()) for one in measured]


def prior_of(task: Task) -> dict[str, float]:
    """The prior of a task's labels, as a prompt keeps it; empty where nothing is calibrated."""
    prior = task.answers.prior if isinstance(task, TellsLabels) else ()
    return dict(zip(task.labels, prior, strict=False))
