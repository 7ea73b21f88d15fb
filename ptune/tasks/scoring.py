"""What a row is scored with beside its answer: its group, and whether its answer is true.

    question_id   label  said       group_column: question_id, positive_label: "1"
    6-56          1      1
    6-56          0      1          f1           of label 1, over all rows           0.80
    7-86          1      1          exact_match  groups in which all rows are right  1 of 2

    label  span        filled in    truth_column: label
    true   the trophy  trophy       right: the same words
    false  the bag     the trophy   right: others         accuracy 2 of 2

The first is how SuperGLUE scores MultiRC (arXiv:1905.00537, 3.1), the second how text to text
models are scored on its WSC (T5, arXiv:1910.10683, 2.4): what is said is compared with the row's
own answer, and the row is right where they are the same if and only if that answer is true.

Knows rows, examples and predictions; no template and no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ptune import metrics, texts
from ptune.errors import DataError
from ptune.tasks.task import Example, Prediction, Row
from ptune.values import place_of

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Marks:
    """The columns that rows are scored by, beside that of their answers.

    Args:
        group: rows with one value there are right together or not at all.
        truth: whether the answer of a row is true.
    """

    group: str | None = None
    truth: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Marks":
        """Those of a recipe, as a mapping."""
        return cls(settings.get("group_column"), settings.get("truth_column"))

    @property
    def columns(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name in (self.group, self.truth) if name is not None)

    def check(self, rows: Sequence[Row]) -> None:
        """Refuse rows that cannot be scored.

        Raises:
            DataError: a group is missing, or a truth is neither true nor false; names the place.
        """
        for index in range(len(rows)):
            self._group(rows, index)
            self._truth(rows, index)

    def on(self, examples: Sequence[Example], rows: Sequence[Row]) -> list[Example]:
        """The examples of these rows with their marks.

        Raises:
            DataError: as `check`.
        """
        return [
            replace(example, group=self._group(rows, index), holds=self._truth(rows, index))
            for index, example in enumerate(examples)
        ]

    def true_rows(self, rows: Sequence[Row]) -> list[int]:
        """The rows whose answer is true, or not said to be false: those to learn from.

        Raises:
            DataError: as `check`.
        """
        return [index for index in range(len(rows)) if self._truth(rows, index) is not False]

    def _group(self, rows: Sequence[Row], index: int) -> str | None:
        if self.group is None:
            return None
        value = rows[index].get(self.group)
        if value is None or isinstance(value, dict | list | tuple) or not str(value).strip():
            raise DataError(
                f"{place_of(rows, index)}: group_column = {self.group} holds {value!r}. Give every "
                "row the name or the number of its group, or leave group_column out."
            )
        return str(value)

    def _truth(self, rows: Sequence[Row], index: int) -> bool | None:
        if self.truth is None:
            return None
        value = rows[index].get(self.truth)
        told = _TRUTHS.get(str(value).strip().lower())
        if told is None:
            raise DataError(
                f"{place_of(rows, index)}: truth_column = {self.truth} holds {value!r}. Allowed: "
                "true or false, 1 or 0."
            )
        return told


def label_scores(
    predictions: Sequence[Prediction],
    examples: Sequence[Example],
    labels: Sequence[str],
    positive: str | None = None,
) -> dict[str, float]:
    """Accuracy and macro F1; where it is asked for, F1 of one label and exact match of groups.

    Args:
        labels: all that there are.
        positive: the label whose F1 is counted.
    """
    truth = [str(example.answer) for example in examples]
    said = [str(prediction.answer) for prediction in predictions]
    found = metrics.classification(truth, said, labels)
    if positive is not None:
        found["f1"] = metrics.label_f1(truth, said, positive)
    groups = [example.group for example in examples if example.group is not None]
    if len(groups) == len(examples):
        right = [t == s for t, s in zip(truth, said, strict=True)]
        found["exact_match"] = metrics.grouped(groups, right)
    return found


def text_scores(
    truth: Sequence[str], predictions: Sequence[Prediction], examples: Sequence[Example]
) -> dict[str, float]:
    """Scores of free text (`ptune.texts`), and accuracy where rows say whether their text is true.

    Exact match, ROUGE and BLEU are those of the rows whose text is true: of the others it is no
    answer.
    """
    said = [str(prediction.answer) for prediction in predictions]
    holds = [example.holds for example in examples]
    if any(one is None for one in holds):
        return texts.scores(truth, said)
    right = [texts.same_words(t, s) == one for t, s, one in zip(truth, said, holds, strict=True)]
    found = {"accuracy": sum(right) / len(right)}
    if not any(holds):
        return found
    kept = [at for at, one in enumerate(holds) if one]
    return found | texts.scores([truth[at] for at in kept], [said[at] for at in kept])
