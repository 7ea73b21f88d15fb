"""What an earlier run left in the folder that a new one writes to.

    runs/tweets/checkpoint    resume goes on from it; else it is replaced at the first save
    runs/tweets/prompt        stays until the new run ends, and is then replaced

Nothing here is deleted. Knows names of folders only.
"""

from collections.abc import Sequence
from pathlib import Path

from ptune.artifact import FILES, check_place, exists
from ptune.errors import ConfigError
from ptune.training.learner import CHECKPOINT

PROMPT = "prompt"


def begun(output: Path | None) -> bool:
    """Whether a run in this folder left a checkpoint."""
    return output is not None and exists(output / CHECKPOINT)


def check_resume(
    resume: bool, output: Path | None, replicas: Sequence[Path | None] | None = None
) -> None:
    """Refuse to go on where nothing was begun.

    Args:
        replicas: the folders in `output` that have checkpoints of their own; None: it has one.
    """
    if resume and output is None:
        raise ConfigError("resume needs the output folder of the run to go on with.")
    if not resume or any(map(begun, [output] if replicas is None else replicas)):
        return
    missed = (
        f"{output}: no replica has a checkpoint there to go on from."
        if output is None or replicas is not None
        else f"{output / CHECKPOINT}: there is no checkpoint to go on from."
    )
    raise ConfigError(
        f"{missed} Name the output folder of the run, or start without --resume (resume=True)."
    )


def check_places(output: Path | None, folders: Sequence[str] = ()) -> None:
    """Refuse an output folder whose prompt or checkpoint could not be written at the end.

    Args:
        folders: those in `output` that get the prompts; none: `output` itself gets one.

    Raises:
        ArtifactError: another thing stands in the place of one.
    """
    if output is not None:
        for place in (output / CHECKPOINT, *(part / PROMPT for part in _parts(output, folders))):
            check_place(place, FILES)


def _parts(output: Path, folders: Sequence[str]) -> list[Path]:
    return [output / name for name in folders] or [output]


def told_earlier(output: Path | None, sets: Sequence[str] = ()) -> list[str]:
    """Sentences on what a new run finds in its folder.

    Args:
        sets: the folders in `output` that get the prompts; none: `output` itself gets one.
    """
    if output is None:
        return []
    told = []
    if begun(output):
        told.append(f"{output}: an earlier run is replaced; resume would have gone on with it.")
    parts = _parts(output, sets)
    old = [str(part / PROMPT) for part in parts if exists(part / PROMPT)]
    if old:
        told.append(f"{_are(old)} of an earlier run, until this one ends.")
    stale = sorted(str(p.parent) for p in output.glob(f"*/{PROMPT}") if p.parent not in parts)
    if sets and stale:
        told.append(f"{_are(stale)} of an earlier run with other sets, and not written to.")
    return told


def _are(places: Sequence[str]) -> str:
    return f"{', '.join(places)} {'is' if len(places) == 1 else 'are'}"
