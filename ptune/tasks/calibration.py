r"""Calibration: take out of a prediction what the prompt says of any row.

    p(label | row) / p(label | no row in particular),    made to add up to one

A prompt may lean to a label whatever the row says. How it leans is measured once, when the prompt
is made, and stored with it (`SoftPrompt.prior`): what is said of a row depends on no other row.

    contextual   log of the mean of p(label | r) over content-free rows r: "N/A", "[MASK]" and ""
                 in every field (Zhao et al. 2021, arXiv:2102.09690; run_classification.py of
                 tonyzhaozh/few-shot-learning, which takes the mean before the probabilities of
                 labels are made to add up to one, here after)
    batch        mean of log p(label | r) over the validation rows r, without their labels (after
                 Zhou et al. 2023, arXiv:2309.17249, who take the rows that are predicted)

Both divide, as the first paper's W = diag(p)^-1 does. Knows probabilities only.
"""

import math
from collections.abc import Sequence
from typing import Literal

Calibration = Literal["none", "contextual", "batch"]

# Zhao et al. 2021: an ensemble of three content-free inputs.
CONTENT_FREE = ("N/A", "[MASK]", "")
# Smaller probabilities count as this one, near the smallest normal number of float32.
LEAST = 1e-37


def contextual(shares: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The log-prior of each label from its probabilities on content-free rows.

    >>> [round(x, 3) for x in contextual([[0.5, 0.5], [0.7, 0.3]])]
    [-0.511, -0.916]
    """
    return tuple(math.log(max(LEAST, math.fsum(own) / len(own))) for own in _columns(shares))


def batch(shares: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The log-prior of each label from its probabilities on many rows.

    >>> [round(x, 3) for x in batch([[0.5, 0.5], [0.7, 0.3]])]
    [-0.525, -0.949]
    """
    return tuple(
        math.fsum(math.log(max(LEAST, p)) for p in own) / len(own) for own in _columns(shares)
    )


def _columns(shares: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*shares, strict=True))


def calibrated(shares: Sequence[float], prior: Sequence[float]) -> list[float]:
    """Probabilities of labels, each divided by its prior, adding up to one again.

    Args:
        prior: log-probabilities; empty leaves all as it is.

    >>> [round(x, 3) for x in calibrated([0.6, 0.4], [math.log(0.75), math.log(0.25)])]
    [0.333, 0.667]
    """
    if not prior:
        return list(shares)
    scores = [math.log(max(LEAST, p)) - own for p, own in zip(shares, prior, strict=True)]
    highest = max(scores)
    parts = [math.exp(score - highest) for score in scores]
    return [part / math.fsum(parts) for part in parts]
