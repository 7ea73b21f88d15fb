"""The training loop: one frozen backbone, one small prompt or several, every step the same lines.

    each one's rows and prompt -> one pack -> run -> each one's loss -> each one's AdamW

Several learners share the pass and nothing else: every row sees its own prompt, so the gradient of
the sum of their losses is each one's own gradient. One learner is the case of one. A learner that
is done, stopped early or diverged leaves the pass, which is then cheaper.

With several processes (`accelerate launch`) each takes its share of every step's rows, and the
gradient is that of one process up to rounding. Everything random follows from the seed and the
step, so a run that was stopped anywhere goes on as if it never was.
"""

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn

from ptune import sharding
from ptune.backbone import Backbone
from ptune.errors import ConfigError, TrainingError
from ptune.evaluation import Measured, measure_together, read_together
from ptune.tasks import Example
from ptune.training.learner import Learner
from ptune.training.schedule import Plan
from ptune.trunk import Trunk

# A learner and rows of its own.
Share = tuple[Learner, Sequence[Example]]


class Step(nn.Module):
    """The losses of a pass as one module: DDP sees the prompts' parameters and no others."""

    def __init__(
        self, backbone: Backbone, learners: Sequence[Learner], trunk: Trunk | None
    ) -> None:
        super().__init__()
        self.prompts = nn.ModuleList(learner.prompt for learner in learners)
        self._frozen = (backbone, trunk)

    def forward(self, shares: Sequence[Share]) -> list[Float[Tensor, " examples"]]:
        """Of each learner, each example's loss; its encoders run once."""
        backbone, trunk = self._frozen
        parts = [learner.prompted(rows) for learner, rows in shares]
        first, _ = shares[0]  # the only one, where the backbone draws (`check_dropout`)
        dropout = first.options.backbone_dropout
        with first.drawing() if dropout else nullcontext():
            reads = read_together(backbone, parts, trunk, dropout=dropout)
        return [
            learner.losses(read, rows) for (learner, rows), read in zip(shares, reads, strict=True)
        ]


class Loop:
    """Learners on a backbone.

    Args:
        learners: their options agree in what the pass has once: autocast, gradient checkpointing.
            Where the backbone's dropout is on, there is one.
        accelerator: from `make_accelerator`.
        trunk: what the layers beneath all prompts compute, if it is remembered.
    """

    def __init__(
        self,
        backbone: Backbone,
        learners: Sequence[Learner],
        *,
        accelerator: Accelerator,
        trunk: Trunk | None = None,
    ) -> None:
        self.backbone, self.learners, self.accelerator = backbone, learners, accelerator
        self.options = learners[0].options
        self.step_module = self.accelerator.prepare(Step(backbone, learners, trunk))
        self.trunk = trunk
        self._stop = False

    def run(self) -> None:
        """Train to the end, to the early stop, or to the user's Ctrl-C.

        A learner whose loss is no number any more ends with its `error`; the others go on.

        Raises:
            TrainingError: the user stopped the run. The last checkpoints stand, and the message
                says how to go on.
        """
        for learner in self.learners:
            with learner.guarded():
                learner.begin()
        backbone, options = self.backbone, self.options
        before = backbone.gradient_checkpointing, backbone.compiled
        backbone.gradient_checkpointing = options.gradient_checkpointing
        backbone.compiled = options.compile
        try:
            with self.backbone.injected(), self._interruptible():
                while active := [learner for learner in self.learners if not learner.done]:
                    self._advance(active)
        finally:
            backbone.gradient_checkpointing, backbone.compiled = before

    def _advance(self, active: Sequence[Learner]) -> None:
        """One step of each, and what falls due after it."""
        stop = self._update(active)
        if due := [learner for learner in active if learner.wants_evaluation]:
            self._evaluate(due)
        for learner in active:
            if learner.wants_checkpoint or (stop and learner.error is None):
                with learner.guarded():
                    learner.save()
        if stop and not all(learner.done for learner in self.learners):
            raise TrainingError(stopped(self.learners))

    def _update(self, active: Sequence[Learner]) -> bool:
        """One optimizer step of each learner on the mean loss of its rows.

        Returns:
            Whether the run is to stop: what one process was asked, all do.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = [learner.rows for learner in active]
        batches = [
            _batches(learner.plan, all_rows, rank, world)
            for learner, all_rows in zip(active, rows, strict=True)
        ]
        # DDP averages over processes: times `world`, over all rows, is the mean over all rows.
        factors = [world / len(all_rows) for all_rows in rows]
        totals = [torch.zeros((), device=self.backbone.device) for _ in active]
        passes = max(map(len, batches))
        for number in range(passes):
            final = number == passes - 1
            taking = [at for at, own in enumerate(batches) if number < len(own)]
            with nullcontext() if final else self.accelerator.no_sync(self.step_module):
                sums = self._backward(
                    [(active[at], batches[at][number], factors[at]) for at in taking]
                )
            for at, total in zip(taking, sums, strict=True):
                totals[at] = totals[at] + total
        asked = torch.full((), float(self._stop), device=self.backbone.device)
        whole = self.accelerator.reduce(torch.stack([asked, *totals]), "sum")
        norms = torch.stack([learner.clip() for learner in active])
        stop, *told = torch.cat([whole, norms]).tolist()  # the one moment that waits for a GPU
        for at, learner in enumerate(active):
            with learner.guarded():
                learner.advance(told[at] / len(rows[at]), told[len(active) + at])
        return bool(stop > 0)

    def _backward(self, takes: Sequence[tuple[Learner, Sequence[int], float]]) -> list[Tensor]:
        """Add the gradients of some rows of each learner; return the sums of their losses.

        Args:
            takes: learner, rows, and the weight of each row's loss. A process without rows takes
                part with weight zero.
        """
        shares = [
            (learner, [learner.training[row] for row in rows or [0]]) for learner, rows, _ in takes
        ]
        device = self.backbone.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.options.autocast):
            losses = self.step_module(shares)
        sums = [
            each.sum() * float(bool(rows)) for each, (_, rows, _) in zip(losses, takes, strict=True)
        ]
        weighted = [one * weight for one, (_, _, weight) in zip(sums, takes, strict=True)]
        self.accelerator.backward(torch.stack(weighted).sum())
        return [one.detach() for one in sums]

    def _evaluate(self, due: Sequence[Learner]) -> None:
        found = self.measure([(learner, learner.validation) for learner in due])
        for learner, measured in zip(due, found, strict=True):
            with learner.guarded():
                learner.judge(learner.evaluation(measured, learner.validation))

    def measure(self, asked: Sequence[Share]) -> list[list[Measured]]:
        """Loss and prediction of each example with its learner's prompt as it is judged, folded.

        Rows are shared out among processes.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        with ExitStack() as judging:
            for learner, _ in asked:
                judging.enter_context(learner.judging())
            parts = [
                learner.folded(_filled(rows, rank, world))  # as many passes in every process
                for learner, rows in asked
            ]
            sizes = [
                learner.options.evaluation_batch_size
                for (learner, _), own in zip(asked, parts, strict=True)
                for _ in own
            ]
            found = measure_together(
                self.backbone, list(chain(*parts)), batch_sizes=sizes, trunk=self.trunk
            )
        each = iter(found)
        mine = [list(chain(*(next(each) for _ in own))) for own in parts]
        return [
            _in_order(gather_object(own[: len(rows[rank::world])]), len(rows), world)
            for own, (_, rows) in zip(mine, asked, strict=True)
        ]

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C and a polite kill finish the step, save, and then stop."""

        before: dict[int, Any] = {}

        def ask(number: int, frame: object) -> None:
            self._stop = True
            signal.signal(number, before[number])  # asked twice, it stops at once

        if threading.current_thread() is threading.main_thread():  # else they are somebody else's
            for name in (signal.SIGINT, signal.SIGTERM):
                before[name] = signal.signal(name, ask) or signal.SIG_DFL
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _batches(plan: Plan, rows: Sequence[int], rank: int, world: int) -> list[list[int]]:
    """The process' own rows in batches; where others have more, empty ones, so that it takes part.

    There are as many in every process: a sharded backbone's layers are fetched by all together.
    """
    shares = [plan.parts(rows[first::world]) for first in range(world)]
    most = max(map(len, shares))
    return shares[rank] + [[]] * (most - len(shares[rank]))


def _filled(rows: Sequence[Example], rank: int, world: int) -> Sequence[Example]:
    """The process' own rows, and one that is not its own where others have one more."""
    own = rows[rank::world]
    return own if len(own) == math.ceil(len(rows) / world) else [*own, *rows[:1]]


def _in_order(gathered: Sequence[Measured], count: int, world: int) -> list[Measured]:
    """The examples' order from that of the processes: first those of process 0, then of 1, ..."""
    places = [at for first in range(world) for at in range(first, count, world)]
    measured = dict(zip(places, gathered, strict=True))
    return [measured[at] for at in range(count)]


def stopped(learners: Sequence[Learner]) -> str:
    """What to say when the user stops a run."""
    if len(learners) == 1:
        return learners[0].stopped()
    done = sum(learner.done for learner in learners)
    kept = "Nothing was kept: the run has no output folder."
    folders = [learner.folder for learner in learners if learner.folder is not None]
    if folders:
        kept = (
            f"Their states are in {folders[0].parent.parent}; run the same command with --resume "
            "to go on (in Python: resume=True)."
        )
    return f"Stopped with {done} of {len(learners)} replicas done. {kept}"


def make_accelerator(device: torch.device) -> Accelerator:
    """What knows the other processes of the run. It moves nothing: the backbone has its device.

    Raises:
        ConfigError: this process was launched for float16, whose gradients would have to be scaled.
    """
    cpu = device.type == "cpu" and not is_initialized()
    with sharding.hidden(sharding.SWITCH):  # accelerate would shard the prompt; we, the backbone
        accelerator = Accelerator(cpu=cpu, device_placement=False)
    if accelerator.mixed_precision == "fp16":
        raise ConfigError(
            "accelerate launch: mixed_precision fp16 is not supported. "
            "Launch with --mixed_precision no, and set precision: bf16 in the recipe."
        )
    return accelerator
