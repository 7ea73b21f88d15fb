"""Whether a run remembers its frozen trunk, and which rows are computed together.

    Frozen trunk: 8 of 12 layers remembered, 410 MB in memory.
    Frozen trunk: not remembered, because its batches are padded.

Remembered is what pays: the run has a second epoch, and a deep prompt that begins above the first
layer, with no virtual token in the text. The rows of a batch of the first epoch are computed
together, so that the first epoch computes nothing before its time, and each row once. With several
processes rows change their process from epoch to epoch, and a row is computed once in each process
that meets it: that pays where there are more epochs than processes.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ptune.backbone import Backbone
from ptune.batch import TokenSequence
from ptune.config import Recipe, Room
from ptune.errors import BackboneError, ConfigError
from ptune.evaluation import by_length
from ptune.tasks import Example
from ptune.trainable import TrainablePrompt
from ptune.training.schedule import Plan
from ptune.trunk import Disk, Memory, Trunk, find_cut, row_key

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Remembered(NamedTuple):
    """The trunk, if it is remembered, and a sentence about it, if there is something to say."""

    trunk: Trunk | None = None
    said: str | None = None

    @property
    def facts(self) -> dict[str, object]:
        """The sentence, among the facts of a run."""
        return {} if self.said is None else {"frozen trunk": self.said}

    def close(self) -> None:
        """Let go of what was kept."""
        if self.trunk is not None:
            self.trunk.close()


class Batches(NamedTuple):
    """The rows of one learner, and how they are batched."""

    training: Sequence[Example]
    validation: Sequence[Example]
    plan: Plan
    evaluation_batch_size: int


def remember(
    recipe: Recipe,
    backbone: Backbone,
    prompts: Sequence[TrainablePrompt],
    batches: Sequence[Batches],
    *,
    rank: int,
    world: int,
    output: Path | None,
) -> Remembered:
    """Prepare the trunk of a run.

    Args:
        prompts: all that are trained in one pass.
        batches: of each of them.
        rank, world: number of this process, and of all.
        output: folder of the run; a trunk on disk is kept there.
    Raises:
        ConfigError: the disk is to be used, and cannot be.
    """
    room = Room.parse(recipe.trunk_cache)
    first = min((site for prompt in prompts for site in prompt.sites), default=0)
    if room is None or not first:
        return Remembered()
    if reason := _hindrance(recipe, backbone, prompts):
        return _not(reason)
    if not any(plan.steps > world * plan.steps_per_epoch for _, _, plan, _ in batches):
        processes = f"with {world} processes it pays from {world + 1} epochs on"
        return _not("the run has one epoch" if world == 1 else processes)
    try:
        cut = find_cut(backbone, first)
    except BackboneError as error:
        return _not(str(error))
    chunks = _each_row_once(
        chain.from_iterable(_chunks(one, rank=rank, world=world) for one in batches)
    )
    store = _disk(output) if room.disk else Memory()
    # Prompts that shift positions, each by so much, see states of their own.
    kinds = len({prompt.offset for prompt in prompts})
    trunk = Trunk(backbone, cut, chunks, store=store, room=room.bytes // kinds)
    if not trunk.rows_kept:
        trunk.close()
        return _not(f"{recipe.trunk_cache} has no room for a batch")
    part = "" if trunk.rows_kept == trunk.rows else f" for {trunk.rows_kept} of {trunk.rows} rows"
    said = f"{cut.layers} of {cut.total} layers remembered{part}, {_size(kinds * trunk.bytes_kept)}"
    return Remembered(trunk, f"Frozen trunk: {said} {store.where}.")


def _hindrance(
    recipe: Recipe, backbone: Backbone, prompts: Sequence[TrainablePrompt]
) -> str | None:
    """Why the lower layers do not compute the same in every epoch, or not here."""
    if any(prompt.backbone is not None for prompt in prompts):
        return "the backbone is trained"
    if recipe.backbone_dropout:
        return "the backbone's dropout is on"
    if any(prompt.shallow is not None for prompt in prompts):
        return "the template has virtual tokens"
    if backbone.in_parts:  # processes that remember other rows would run it less often
        return "the backbone is sharded, or spread by a device map"
    return None


def _not(reason: str) -> Remembered:
    return Remembered(said=f"Frozen trunk: not remembered, because {reason}.")


def _size(count: int) -> str:
    unit, name = next(((u, n) for u, n in _UNITS if count >= u), _UNITS[-1])
    return f"{count / unit:.3g} {name}"


def _disk(output: Path | None) -> Disk:
    try:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        return Disk(output)
    except OSError as error:
        where = "the temporary folder" if output is None else output
        raise ConfigError(
            f"{where}: cannot be written ({error.strerror}), and trunk_cache is to be kept there. "
            "Choose another output folder, or keep it in main memory (trunk_cache: 2GB)."
        ) from None


def _chunks(batches: Batches, *, rank: int, world: int) -> Iterator[list[TokenSequence]]:
    """The batches of the first epoch, those of all processes, and of an evaluation, its own."""
    training, validation, plan, size = batches
    for step in range(plan.steps_per_epoch):
        rows = plan.rows_of(step)
        for process in range(world):
            for part in plan.parts(rows[process::world]):
                yield [one for row in part for one in training[row].sequences]
    mine = validation[rank::world]  # the same ones in every evaluation
    for indices in by_length(mine, size):
        yield [one for index in indices for one in mine[index].sequences]


def _each_row_once(chunks: Iterable[list[TokenSequence]]) -> Iterator[list[TokenSequence]]:
    """The chunks without rows that stood in an earlier one: learners have most rows in common."""
    seen: set[int] = set()  # hashes, which are small: two rows of one are a row less remembered
    for chunk in chunks:
        fresh = {key: one for one in chunk if (key := hash(row_key(one))) not in seen}
        seen |= fresh.keys()
        if fresh:
            yield list(fresh.values())
