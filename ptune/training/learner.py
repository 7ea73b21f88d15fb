"""One prompt while it is trained: what it has of its own, whoever trains beside it.

    prompt, optimizer, order of the rows, step sizes, best so far, random numbers, checkpoint, log

    learner.tensors()              the encoders, once a step
    learner.losses(read, rows)     what its own rows cost
    learner.advance(loss, norm)    its own step, after its own clipping

It never runs the backbone: `loop.py` does, for one learner or for many in the same pass.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from ptune.batch import PromptTensors
from ptune.errors import ConfigError, TrainingError
from ptune.evaluation import Evaluation, Measured, PromptedRows, summarize
from ptune.run import Read
from ptune.tasks import Example, Task
from ptune.trainable import TrainablePrompt
from ptune.training import checkpoint
from ptune.training.averaging import Average
from ptune.training.checkpoint import Progress
from ptune.training.drawing import drawing_from, seeded
from ptune.training.options import Options
from ptune.training.report import Report
from ptune.training.schedule import Plan, lr_share

# Scores of which less is better.
LESS_IS_BETTER = frozenset({"loss", "perplexity", "mse"})
# Folder of the checkpoint in the output folder.
CHECKPOINT = "checkpoint"


class Learner:
    """A prompt, how it is trained, and how far it is.

    Args:
        device: of the backbone.
        output: folder of the checkpoints and the log; None keeps nothing.
        identity: what must be equal for a checkpoint to be gone on with.
        accelerator: from `make_accelerator`.
    """

    def __init__(
        self,
        task: Task,
        prompt: TrainablePrompt,
        *,
        training: Sequence[Example],
        validation: Sequence[Example],
        options: Options,
        plan: Plan,
        device: torch.device,
        output: Path | None,
        identity: Mapping[str, Any],
        report: Report,
        accelerator: Accelerator,
    ) -> None:
        self.task, self.prompt = task, prompt
        self.training, self.validation = training, validation
        self.options, self.plan, self.report = options, plan, report
        self.folder = None if output is None else output / CHECKPOINT
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self.error: TrainingError | None = None
        self.optimizer = torch.optim.AdamW(
            options.groups(prompt), weight_decay=options.weight_decay
        )
        self._identity, self._accelerator, self._device = identity, accelerator, device
        self._random = seeded(options.seed, device)
        self._resumed = False
        prompt.to(device)
        self.average = Average(prompt, options.average) if options.average else None

    # ------------------------------------------------------------------------------- a step

    @property
    def done(self) -> bool:
        """Whether it takes no further step: the last one, no patience left, or an error."""
        patience = self.options.patience
        tired = patience is not None and self.progress.without_gain >= patience
        return self._last or tired or self.error is not None

    @property
    def rows(self) -> list[int]:
        """The rows of the next step."""
        return self.plan.rows_of(self.progress.step)

    def tensors(self) -> PromptTensors:
        """Run the encoders, with random numbers of this learner's own."""
        with self.drawing():
            return self.prompt.tensors()

    def prompted(self, examples: Sequence[Example]) -> PromptedRows:
        """Rows of its own with the prompt as it is trained: what it adds to a pass."""
        return PromptedRows(self.tensors(), self.task, examples)

    def folded(self, examples: Sequence[Example]) -> list[PromptedRows]:
        """Rows, in their order, with the folded prompt: what it adds to an evaluation."""
        return [PromptedRows(self.prompt.fold(), self.task, examples, self.prompt.head)]

    def losses(self, read: Read, examples: Sequence[Example]) -> Float[Tensor, " examples"]:
        """The loss of each example from what the backbone said at its reads."""
        with self.drawing():
            return self.task.loss(read, examples, self.prompt.head)

    def clip(self) -> Float[Tensor, ""]:
        """Scale this learner's gradient down where it is too long; return how long it was."""
        largest = self.options.clip or math.inf
        parameters = [p for p in self.prompt.parameters() if p.grad is not None]
        return torch.nn.utils.clip_grad_norm_(parameters, largest)

    def advance(self, loss: float, norm: float) -> None:
        """Take the step that the gradient says.

        Args:
            loss: mean over the rows of the step.
            norm: of the gradient before it was clipped.
        Raises:
            TrainingError: one of them is no number any more; no step is taken.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise TrainingError(self._diverged(self.progress.step + 1, f"loss {loss:g}"))
        share = self._set_lr()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        if self.average is not None:
            self.average.take(self.progress.step)
        self.report.step(self.progress.step, self.plan, loss, share * self.options.lr)

    def _set_lr(self) -> float:
        share = lr_share(
            self.progress.step,
            self.plan,
            warmup=math.ceil(self.options.warmup_share * self.plan.steps),
            kind=self.options.schedule,
            epoch_decay=self.options.epoch_decay,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = group["largest_lr"] * share
        return share

    # ------------------------------------------------------------------------------- what falls due

    @property
    def _last(self) -> bool:
        return self.progress.step >= self.plan.steps

    def _due(self, every: int | None) -> bool:
        """Whether so many steps are done again, or an epoch (None)."""
        done = self.progress.step
        return self.plan.ends_epoch(done) if every is None else done % every == 0

    @property
    def wants_evaluation(self) -> bool:
        """Whether the validation rows are to be scored after the step just taken."""
        due = self._last or self._due(self.options.evaluate_every)
        return due and bool(self.validation) and self.error is None

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint is to be written after the step just taken."""
        due = self.done or self._due(self.options.save_every or self.options.evaluate_every)
        return due and self.error is None

    def evaluation(self, measured: Sequence[Measured], examples: Sequence[Example]) -> Evaluation:
        """Scores of the prompt as it is now, from what was measured of each example.

        Raises:
            TrainingError: a loss is no number any more.
        """
        self.check(measured)
        return summarize(self.task, measured, examples)

    def check(self, measured: Sequence[Measured]) -> None:
        """Refuse losses that are no numbers any more.

        Raises:
            TrainingError: says at which step.
        """
        for one in measured:
            if not math.isfinite(one.loss):
                raise TrainingError(self._diverged(self.progress.step, f"loss {one.loss:g}"))

    def judge(self, evaluation: Evaluation) -> None:
        """Keep the prompt where its validation score is the best so far.

        With `keep: equal` a later prompt takes the place of an equal one; patience still runs out.
        Of two scores both must be better, or with `keep: equal` none worse (P-tuning's few-shot
        code, PT-Fewshot/pet/wrapper.py, for CB and MultiRC).
        """
        now, progress = self._chosen_by(evaluation.scores), self.progress
        best = None if progress.best is None else self._chosen_by(progress.best_scores)
        better = best is None or all(n > b for n, b in zip(now, best, strict=True))
        no_worse = best is not None and all(n >= b for n, b in zip(now, best, strict=True))
        if better or (no_worse and self.options.keep == "equal"):
            self.progress.best, self.progress.best_step = now[0], self.progress.step
            self.progress.best_scores = evaluation.scores
            with self._averaged():
                self.best = {k: v.detach().clone() for k, v in self.prompt.state_dict().items()}
        self.progress.without_gain = 0 if better else self.progress.without_gain + 1
        self.report.evaluation(self.progress.step, self.plan, evaluation.scores)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """The prompt as it is judged: in eval mode, and the mean of its last steps."""
        training = self.prompt.training
        self.prompt.eval()
        try:
            with self._averaged():
                yield
        finally:
            self.prompt.train(training)

    def _averaged(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.instead()

    def _chosen_by(self, scores: Mapping[str, float]) -> list[float]:
        """The scores that choose the step, so that more is better."""
        names = (self.options.metric, self.options.second_metric)
        found = [(name, scores.get(name, -scores["loss"])) for name in names if name is not None]
        return [-score if name in LESS_IS_BETTER else score for name, score in found]

    def keep_best(self) -> None:
        """Put the best prompt of the run back; the last one where nothing was evaluated."""
        if self.average is not None:
            self.average.settle()
            self.average = None
        if self.best is not None:
            self.prompt.load_state_dict(self.best)
        self.prompt.eval()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """A `TrainingError` inside ends this learner, and no other one."""
        try:
            yield
        except TrainingError as error:
            self.error = error

    # ------------------------------------------------------------------------------- checkpoints

    def begin(self) -> None:
        """Get ready for the first step, and write it down, so that it can be gone on from."""
        self.prompt.train()
        if not self._resumed:
            self.save()

    def save(self) -> None:
        """Write a checkpoint, where there is a folder.

        Raises:
            TrainingError: the prompt holds a number that is none; the checkpoint before stands.
        """
        if self.folder is None:
            return
        if not all(bool(p.isfinite().all()) for p in self.prompt.parameters()):
            raise TrainingError(self._diverged(self.progress.step, "in the prompt itself"))
        self.report.flush()  # before the checkpoint: what is logged behind it can be dropped
        states = gather_object([self._random])
        if self._accelerator.is_main_process:
            checkpoint.save(
                self.folder,
                self.progress,
                prompt=self.prompt,
                best=self.best,
                average=None if self.average is None else self.average.mean,
                optimizer=self.optimizer,
                random={f"{rank}.{k}": v for rank, s in enumerate(states) for k, v in s.items()},
                identity=self._identity,
            )
        self._accelerator.wait_for_everyone()

    def load(self) -> tuple[str, ...]:
        """Go on from the last checkpoint.

        Returns:
            Sentences on settings that are others than they were.
        Raises:
            ArtifactError, ConfigError: there is none, or it is damaged or of another run.
        """
        assert self.folder is not None
        loaded = checkpoint.load(
            self.folder, prompt=self.prompt, optimizer=self.optimizer, identity=self._identity
        )
        if loaded.notes and loaded.progress.step >= self.plan.steps:
            raise ConfigError(
                f"{self.folder}: the run is at its end, step {loaded.progress.step}, so a change "
                f"would have no effect. ({loaded.notes[0]}) Resume with the settings it had, or "
                "start a run of its own with another output."
            )
        self.progress, self.best = loaded.progress, loaded.best
        if self.average is not None:
            self.average.load(loaded.average)
        # Where there are more processes than there were, the new ones go on as the first one does.
        for prefix in ("0.", f"{self._accelerator.process_index}."):
            self._random |= {
                k.removeprefix(prefix): v for k, v in loaded.random.items() if k.startswith(prefix)
            }
        self._resumed = True
        return loaded.notes

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What is drawn inside follows from this learner's seed and its own steps alone."""
        with drawing_from(self._random, self._device):
            yield

    def stopped(self) -> str:
        """What to say when the user stops the run."""
        kept = "Nothing was kept: the run has no output folder."
        if self.folder is not None:
            kept = (
                f"The state is in {self.folder}; run the same command with --resume to go on "
                "(in Python: resume=True)."
            )
        return f"Stopped at step {self.progress.step} of {self.plan.steps}. {kept}"

    def _diverged(self, step: int, found: str) -> str:
        kept = ""
        if self.folder is not None:
            kept = f" The last good state is in {self.folder}; --resume goes on from it."
        return (
            f"Training diverged: the loss or its gradient is no longer a number ({found}) at "
            f"step {step} of {self.plan.steps}.{kept} Try a smaller lr "
            f"(now {self.options.lr:g}), a longer warmup_share, or precision=fp32."
        )
