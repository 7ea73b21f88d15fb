"""What a run gives back."""

from dataclasses import dataclass

from ptune.prompt import SoftPrompt


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave.

    Args:
        prompt: folded; the best of the run on the validation rows, or the last one without them.
        scores: "validation" and "test", where there were such rows.
        steps: optimizer steps taken.
        seconds: of training, evaluation included, loading left out.
        facts: what is worth knowing of the data: counts, imbalance, rows that were cut.
    """

    prompt: SoftPrompt
    scores: dict[str, dict[str, float]]
    steps: int
    seconds: float
    facts: dict[str, object]
