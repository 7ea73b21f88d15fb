r"""Answers in words: from scores of words to labels, for every task whose labels are spoken.

    label       words          log p      sum: log sum_w p_w      mean: mean_w log p_w
    positive    great, good    -1, -2     -0.69                   -1.5
    negative    bad            -1.5       -1.5                    -1.5

`sum` is the probability that the model says any word of the label; a label with more words may
have more of it. `mean` counts each label as one word would count (`ManualVerbalizer` of OpenPrompt,
arXiv:2111.01998). Labels are compared with each other: their probabilities add up to one.

Knows words as ids and as columns of scores; no template, no model.
Next: `ptune.tasks.calibration` takes out what a prompt says of any row.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptune.errors import ConfigError
from ptune.inject import Words
from ptune.tasks.calibration import calibrated
from ptune.tasks.options import TaskOptions
from ptune.tasks.scoring import label_scores
from ptune.tasks.task import Example, Prediction, best_label
from ptune.verbalizer import Verbalizer

# Reads of which all logits stand in memory at once: 32 MB for a vocabulary of 128,000.
READS_AT_ONCE = 64

WordScore = Literal["sum", "mean"]


def spoken(options: TaskOptions) -> dict[str, tuple[str, ...]]:
    """The words of every label, in the order of the labels.

    Raises:
        ConfigError: the verbalizer does not fit the labels.
    """
    given = {
        label: several if isinstance(several, str) else list(several)
        for label, several in options.verbalizer.items()
    }
    return dict(Verbalizer.from_labels(options.labels, given).answers)


class LabelWords:
    """The labels of a task and the words that answer for them.

    Args:
        words: label -> its words.
        score: what the score of a label is, of those of its words.
        prior: log-probability of each label for no row in particular; empty where nothing is
            calibrated.
        positive: the label whose F1 is scored; None of none.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[str]],
        *,
        score: WordScore = "sum",
        prior: Sequence[float] = (),
        positive: str | None = None,
    ) -> None:
        self.labels = tuple(words)
        self.spelled = [word for several in words.values() for word in several]
        # For every word the index of its label, in the order of the labels.
        self.label_of = [at for at, several in enumerate(words.values()) for _ in several]
        self.score = score
        self.prior = tuple(prior)
        self.positive = positive

    @classmethod
    def of(cls, options: TaskOptions) -> "LabelWords":
        """Those of a task.

        Raises:
            ConfigError: the verbalizer does not fit the labels.
        """
        return cls(
            spoken(options),
            score=options.word_score,
            prior=options.prior,
            positive=options.positive_label,
        )

    def by_label(self, by_word: Float[Tensor, "rows words"]) -> Float[Tensor, "rows labels"]:
        """Scores of labels from log-probabilities of words, both up to a number a row."""
        if len(self.spelled) == len(self.labels):
            return by_word
        label_of = torch.tensor(self.label_of, device=by_word.device)
        parts = [by_word[:, label_of == label] for label in range(len(self.labels))]
        if self.score == "mean":
            return torch.stack([part.mean(dim=1) for part in parts], dim=1)
        return torch.stack([part.logsumexp(dim=1) for part in parts], dim=1)

    def predictions(self, by_word: Float[Tensor, "rows words"]) -> list[Prediction]:
        """The best label of each row, with the probabilities of all."""
        shares = self.by_label(by_word).softmax(dim=-1).tolist()
        return [best_label(calibrated(row, self.prior), self.labels) for row in shares]

    def scores(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """See `label_scores`."""
        return label_scores(predictions, examples, self.labels, self.positive)


@runtime_checkable
class TellsLabels(Protocol):
    """A task whose labels are told by words."""

    answers: LabelWords


def token_scores(
    read: Words, tokens: Sequence[int], *, exact: bool
) -> Float[Tensor, "reads tokens"]:
    """Log-probabilities of a few tokens at every read; of the head, their rows alone are used.

    Args:
        exact: also between reads. Else up to a number a read, which spares the whole vocabulary:
            enough where tokens are compared at one read, or words of one length with each other.
    """
    logits = read.logits_of(range(len(read)), tokens)
    if not exact:
        return logits
    first = read.log_probabilities([tokens[0]] * len(read))
    return logits + (first - logits[:, 0])[:, None]


def best_tokens(read: Words) -> tuple[Float[Tensor, " reads"], Int[Tensor, " reads"]]:
    """The most likely token at every read: its log-probability, in nats, and its id."""
    parts = [
        read[start : start + READS_AT_ONCE].logits().float().log_softmax(-1).max(-1)
        for start in range(0, len(read), READS_AT_ONCE)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def refuse_equal(words: Sequence[str], ids: Sequence[tuple[int, ...]]) -> None:
    """Refuse words that the tokenizer writes alike.

    Raises:
        ConfigError: names the two.
    """
    for at, word in enumerate(words):
        first = ids.index(ids[at])
        if first != at:
            raise ConfigError(
                f'The label words "{words[first]}" and "{word}" have the same tokens (as words '
                "that the tokenizer does not know may have), so the backbone cannot tell them "
                "apart. Choose other words with verbalizer."
            )
