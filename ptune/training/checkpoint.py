"""Checkpoints: everything that a run needs to go on, bit for bit, and nothing unpickled.

    <output>/checkpoint/
        prompt.safetensors   prompt and encoder, their mean over the last steps, the best ones so
                             far, optimizer, random state; the backbone's weights among them where
                             they are trained
        prompt.json          step, best score, settings, fingerprints of the data and the backbone

Written as every prompt is (`ptune.artifact`): aside and renamed, so that a run that is killed
while it writes leaves the checkpoint before; and checked by hash when it is read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptune.artifact import read_folder, write_folder
from ptune.errors import ArtifactError, ConfigError

# What a run may go on with otherwise: a cure for one that diverged. The rest makes another run.
MAY_CHANGE = ("lr", "encoder_lr", "head_lr", "backbone_lr", "warmup_share", "clip", "precision")
CARD = "A checkpoint of a ptune run, not a prompt. Go on with the run's own command and --resume.\n"


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Args:
        step: steps done.
        best: best validation score so far, in the direction of the metric; None before the first.
        best_step: when it was reached.
        without_gain: evaluations since one was better than all before.
        best_scores: all scores of that evaluation.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    without_gain: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)


def save(
    folder: Path,
    progress: Progress,
    *,
    prompt: nn.Module,
    best: Mapping[str, Tensor] | None,
    average: Mapping[str, Tensor] | None,
    optimizer: torch.optim.Optimizer,
    random: Mapping[str, Tensor],
    identity: Mapping[str, Any],
) -> None:
    """Write a checkpoint in place of the one before."""
    tensors = {f"prompt.{name}": value for name, value in prompt.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    tensors |= {f"average.{name}": value for name, value in (average or {}).items()}
    tensors |= {f"random.{name}": value for name, value in random.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    document = {"progress": asdict(progress), "identity": dict(identity)}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_folder(folder, plain, document, CARD)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that was read: progress, prompts so far (the best, the mean), random state.

    `notes` say which settings are others now than when it was written.
    """

    progress: Progress
    best: dict[str, Tensor] | None
    average: dict[str, Tensor]
    random: dict[str, Tensor]
    notes: tuple[str, ...]


def load(
    folder: Path,
    *,
    prompt: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> Loaded:
    """Read a checkpoint into a prompt and an optimizer.

    Raises:
        ArtifactError: there is none, it is damaged, or a prompt lies in its place.
        ConfigError: it belongs to a run with other settings, data or backbone.
    """
    document, tensors = read_folder(folder)
    if not {"progress", "identity"} <= document.keys():
        raise ArtifactError(
            f"{folder}: is no checkpoint of a run, but another folder of ptune's, as a saved "
            "prompt. Put the run's checkpoint there, or start anew without resume."
        )
    progress = Progress(**document["progress"])
    _compare(folder, document["identity"], identity)
    prompt.load_state_dict(_part(tensors, "prompt"))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(tensors, "optimizer").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Loaded(
        progress,
        _part(tensors, "best") or None,
        _part(tensors, "average"),
        _part(tensors, "random"),
        tuple(_changed(progress.step, document["identity"], identity)),
    )


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


# Where the identity of a run on several sets holds that of each.
SETS = "sets"
# What a run is known by through a hash, and what to call it.
_HASHED = {"data": "the rows", "fingerprint": "the backbone"}


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))


def _changed(step: int, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for every setting that is another one from here on."""
    for name, own in list(_sets_of_both(found, wanted).items())[:1]:  # all sets have the same
        yield from _changed(step, found[SETS][name], own)
    for key in MAY_CHANGE:
        if found.get(key) != wanted.get(key):
            yield f"From step {step} on, {key} is {wanted.get(key)}; it was {found.get(key)}."


def _sets_of_both(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a prompt for several sets: what is wanted of each, where the sets are the same."""
    there, now = found.get(SETS, {}), wanted.get(SETS, {})
    return now if there.keys() == now.keys() else {}


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that is another one."""
    different = [key for key in _differing(found, wanted) if key not in MAY_CHANGE]
    for name, own in _sets_of_both(found, wanted).items():
        _compare(folder, found[SETS][name], own)
        different = [key for key in different if key != SETS]
    if not different:
        return
    settings = [key for key in different if key not in _HASHED]
    names = [*settings, *(_HASHED[key] for key in different if key in _HASHED)]
    shown = ""
    if settings:
        first = settings[0]
        shown = f" ({first}: {found.get(first)!r} there, {wanted.get(first)!r} now)"
    raise ConfigError(
        f"{folder}: this checkpoint belongs to another run, which differs in {', '.join(names)}"
        f"{shown}. Give what that run was given, or start anew without resume."
    )
