"""What an examination says: a finding for every truth, and what the model is.

    Finding("deep prompts", "holds", "as keys and values of a naive attention", 1.2e-7)

Strings and numbers alone: nothing here knows torch.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["holds", "broken", "refused", "not examined"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One truth, tried.

    Args:
        truth: its name.
        outcome: a refusal is no broken truth: ptune says no instead of computing something else.
        note: against what it was tried, or why not.
        difference: norm of the difference by norm of the expected numbers; None without numbers.
    """

    truth: str
    outcome: Outcome
    note: str
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class SiteKind:
    """Attention sites that are alike.

    Args:
        sites: their numbers, in call order.
        kind: an encoder's, a decoder's, or that of a decoder to an encoder's states ("cross").
        window: how many tokens back a query sees; None without a limit.
    """

    sites: tuple[int, ...]
    kind: str
    causal: bool
    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """A whole examination.

    Args:
        model: its name and class.
        versions: of what it ran on.
        layers: layers of the model; those without a site carry no deep prompt.
        batches: how rows are laid out: packed or padded.
    """

    model: str
    family: str
    versions: dict[str, str]
    parameters: int
    layers: int | None
    batches: str
    sites: tuple[SiteKind, ...]
    findings: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of the truths that do not hold."""
        return tuple(f.truth for f in self.findings if f.outcome == "broken")

    def document(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return asdict(self) | {"broken": list(self.broken)}
