"""The training loop: one frozen backbone, one small prompt, every step the same few lines.

    rows of the step -> pack -> encoders (once) -> run -> loss -> AdamW on the prompt alone

With several processes (`accelerate launch`) each takes its share of every step's rows, and the
gradient is that of one process up to rounding. Everything random follows from the seed and the
step, so a run that was stopped anywhere goes on as if it never was.
"""

import math
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn

from ptune.backbone import Backbone
from ptune.errors import ConfigError, TrainingError
from ptune.evaluation import Evaluation, measure_examples, summarize
from ptune.run import run
from ptune.tasks import Example, Task
from ptune.trainable import TrainablePrompt
from ptune.training import checkpoint
from ptune.training.checkpoint import Progress
from ptune.training.options import Options
from ptune.training.report import Report
from ptune.training.schedule import Plan, lr_share
from ptune.trunk import Trunk

# Scores of which less is better.
LESS_IS_BETTER = frozenset({"loss", "perplexity", "mse"})
# Folder of the checkpoint in the output folder.
CHECKPOINT = "checkpoint"


class Step(nn.Module):
    """The loss of a batch as one module, so that DDP sees the prompt's parameters and no others."""

    def __init__(
        self, backbone: Backbone, task: Task, prompt: TrainablePrompt, trunk: Trunk | None
    ) -> None:
        super().__init__()
        self.prompt = prompt
        self._frozen = (backbone, task, trunk)

    def forward(self, examples: Sequence[Example]) -> Float[Tensor, " examples"]:
        """Each example's loss; the encoders run once."""
        backbone, task, trunk = self._frozen
        sequences = [example.sequence for example in examples]
        batch, prompts = backbone.pack(sequences), [self.prompt.tensors()]
        entering = None if trunk is None else trunk.entering(sequences, prompts, batch)
        read = run(backbone, prompts, batch, read=task.read, entering=entering)
        return task.loss(read, examples, self.prompt.head)


class Loop:
    """A run: the parts, and how far it is.

    Args:
        identity: what must be equal for a checkpoint to be gone on with.
        output: folder of the checkpoints and the log; None keeps nothing.
        accelerator: from `make_accelerator`.
        trunk: what the layers beneath the prompt compute, if it is remembered.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        prompt: TrainablePrompt,
        *,
        training: Sequence[Example],
        validation: Sequence[Example],
        options: Options,
        plan: Plan,
        output: Path | None,
        identity: Mapping[str, Any],
        report: Report,
        accelerator: Accelerator,
        trunk: Trunk | None = None,
    ) -> None:
        self.backbone, self.task, self.prompt = backbone, task, prompt
        self.training, self.validation = training, validation
        self.options, self.plan, self.report = options, plan, report
        self.folder = None if output is None else output / CHECKPOINT
        self.identity = identity
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.accelerator, self.trunk = accelerator, trunk
        self.optimizer = torch.optim.AdamW(
            options.groups(prompt), weight_decay=options.weight_decay
        )
        prompt.to(backbone.device)
        self.step_module = self.accelerator.prepare(Step(backbone, task, prompt, trunk))
        self._stop = False
        self._random: Mapping[str, Tensor] | None = None

    def run(self) -> None:
        """Train to the end, to the early stop, or to the user's Ctrl-C.

        Raises:
            TrainingError: the loss is no number any more, or the user stopped the run. The last
                checkpoint stands, and the message says how to go on.
        """
        torch.manual_seed(self.options.seed)
        if self._random is None:
            self._save()  # so that a run can be gone on with from its first step
        else:
            _set_random_state(self._random)
        self.backbone.gradient_checkpointing = self.options.gradient_checkpointing
        self.prompt.train()
        try:
            with self.backbone.injected(), self._interruptible():
                while self.progress.step < self.plan.steps and not self._out_of_patience():
                    self._advance()
        finally:
            self.backbone.gradient_checkpointing = False

    def keep_best(self) -> None:
        """Put the best prompt of the run back; the last one where nothing was evaluated."""
        if self.best is not None:
            self.prompt.load_state_dict(self.best)
        self.prompt.eval()

    def _advance(self) -> None:
        """One step, and what falls due after it."""
        step = self.progress.step
        share = self._set_lr(step)
        loss, stop = self._update(self.plan.rows_of(step))
        self.progress.step = step + 1
        self.report.step(step + 1, self.plan, loss, share * self.options.lr)
        last = self.progress.step == self.plan.steps
        every = self.options.evaluate_every or self.plan.steps_per_epoch
        due = last or self.progress.step % every == 0
        if due and self.validation:
            self._evaluate()
        if stop or (self.progress.step % (self.options.save_every or every) == 0) or last:
            self._save()
        if stop and not last:
            raise TrainingError(self._stopped())

    def _set_lr(self, step: int) -> float:
        warmup = math.ceil(self.options.warmup_share * self.plan.steps)
        share = lr_share(step, self.plan.steps, warmup=warmup, kind=self.options.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["largest_lr"] * share
        return share

    def _update(self, rows: Sequence[int]) -> tuple[float, bool]:
        """One optimizer step on the mean loss of these rows.

        Returns:
            That mean, and whether the run is to stop: what one process was asked, all do.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        mine = list(rows[rank::world])
        # DDP averages over processes: times `world`, over all rows, is the mean over all rows.
        factor = world / len(rows)
        parts = [
            mine[i : i + self.options.batch_size]
            for i in range(0, len(mine), self.options.batch_size)
        ]
        total = torch.zeros((), device=self.backbone.device)
        for index, part in enumerate(parts or [[]]):
            final = index >= len(parts) - 1
            with nullcontext() if final else self.accelerator.no_sync(self.step_module):
                total += self._backward(part, factor)
        norm = self._clip()
        told = torch.stack([total, total.new_tensor(float(self._stop))])
        whole, stop = self.accelerator.reduce(told, "sum").tolist()
        mean = whole / len(rows)
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise TrainingError(self._diverged(self.progress.step + 1, f"loss {mean:g}"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return mean, stop > 0

    def _backward(self, rows: Sequence[int], factor: float) -> Tensor:
        """Add the gradient of some rows; a process without rows takes part with weight zero."""
        weight = factor if rows else 0.0
        examples = [self.training[row] for row in rows or [0]]
        device = self.backbone.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.options.autocast):
            losses = self.step_module(examples)
        self.accelerator.backward(losses.sum() * weight)
        return losses.detach().sum() if rows else losses.detach().sum() * 0

    def _clip(self) -> float:
        largest = self.options.clip or math.inf
        parameters = [p for p in self.prompt.parameters() if p.grad is not None]
        return float(torch.nn.utils.clip_grad_norm_(parameters, largest))

    def _evaluate(self) -> None:
        evaluation = self.evaluate(self.validation)
        score = evaluation.scores.get(self.options.metric, -evaluation.scores["loss"])
        signed = -score if self.options.metric in LESS_IS_BETTER else score
        if self.progress.best is None or signed > self.progress.best:
            self.progress.best, self.progress.best_step = signed, self.progress.step
            self.progress.best_scores, self.progress.without_gain = evaluation.scores, 0
            self.best = {k: v.detach().clone() for k, v in self.prompt.state_dict().items()}
        else:
            self.progress.without_gain += 1
        self.report.evaluation(self.progress.step, self.plan, evaluation.scores)

    def evaluate(self, examples: Sequence[Example]) -> Evaluation:
        """Scores of the prompt as it is now, folded; rows are shared out among processes.

        Raises:
            TrainingError: a loss is no number any more.
        """
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        training = self.prompt.training
        self.prompt.eval()
        mine = measure_examples(
            self.backbone,
            self.prompt.fold(),
            self.task,
            self.prompt.head,
            examples[rank::world],
            batch_size=self.options.evaluation_batch_size,
            trunk=self.trunk,
        )
        self.prompt.train(training)
        gathered = iter(gather_object(mine))  # the rows of process 0, then those of process 1, ...
        measured = {
            at: next(gathered)
            for first in range(world)
            for at in range(first, len(examples), world)
        }
        for one in measured.values():
            if not math.isfinite(one.loss):
                raise TrainingError(self._diverged(self.progress.step, f"loss {one.loss:g}"))
        return summarize(self.task, [measured[at] for at in range(len(examples))], examples)

    def _out_of_patience(self) -> bool:
        patience = self.options.patience
        return patience is not None and self.progress.without_gain >= patience

    def _save(self) -> None:
        if self.folder is None:
            return
        if not all(bool(p.isfinite().all()) for p in self.prompt.parameters()):
            raise TrainingError(self._diverged(self.progress.step, "in the prompt itself"))
        self.report.flush()  # before the checkpoint: what is logged behind it can be dropped
        states = gather_object([_random_state()])
        if self.accelerator.is_main_process:
            checkpoint.save(
                self.folder,
                self.progress,
                prompt=self.prompt,
                best=self.best,
                optimizer=self.optimizer,
                random={f"{rank}.{k}": v for rank, s in enumerate(states) for k, v in s.items()},
                identity=self.identity,
            )
        self.accelerator.wait_for_everyone()

    def load(self) -> None:
        """Go on from the last checkpoint when `run` is called.

        Raises:
            ArtifactError, ConfigError: there is none, or it is damaged or of another run.
        """
        assert self.folder is not None
        loaded = checkpoint.load(
            self.folder, prompt=self.prompt, optimizer=self.optimizer, identity=self.identity
        )
        self.progress, self.best = loaded.progress, loaded.best
        mine = f"{self.accelerator.process_index}."
        self._random = {
            k.removeprefix(mine): v for k, v in loaded.random.items() if k.startswith(mine)
        }

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

    def _stopped(self) -> str:
        kept = "Nothing was kept: the run has no output folder."
        if self.folder is not None:
            kept = (
                f"The state is in {self.folder}; run the same command with --resume to go on "
                "(in Python: resume=True)."
            )
        return f"Stopped at step {self.progress.step} of {self.plan.steps}. {kept}"

    def _diverged(self, step: int, found: str) -> str:
        kept = "" if self.folder is None else f" The last good state is in {self.folder}."
        return (
            f"Training diverged: the loss or its gradient is no longer a number ({found}) at "
            f"step {step} of {self.plan.steps}.{kept} Try a smaller lr "
            f"(now {self.options.lr:g}), a longer warmup_share, or precision=fp32."
        )


def make_accelerator(device: torch.device) -> Accelerator:
    """What knows the other processes of the run. It moves nothing: the backbone has its device.

    Raises:
        ConfigError: this process was launched for float16, whose gradients would have to be scaled.
    """
    cpu = device.type == "cpu" and not is_initialized()
    accelerator = Accelerator(cpu=cpu, device_placement=False)
    if accelerator.mixed_precision == "fp16":
        raise ConfigError(
            "accelerate launch: mixed_precision fp16 is not supported. "
            "Launch with --mixed_precision no, and set precision: bf16 in the recipe."
        )
    return accelerator


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    if "cpu" not in state:  # more processes than there were: this one is new
        return
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
