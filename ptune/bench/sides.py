"""A recipe as a measured side: the rows of each step, the prompt at its start, and one step.

    workload = make_workload(recipe, backbone, steps=11)
    timed = Timed(workload, own_side(workload))
    timed.step()               {"seconds": 0.41, "loss": 2.3, "tokens": 311, ...}

`own_side` is the pass of the training loop; `ptune.bench.peer` makes one of PEFT. Both get the
same rows in the same order and take the same optimizer, at the recipe's step sizes without
warm-up. Left out of a step: evaluation, checkpoints, the log, and the memory of a frozen trunk
(`trunk_cache`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ptune.backbone import Backbone
from ptune.bench.floor import body_parameters, clock, count, step_flops
from ptune.bench.process import Line
from ptune.config import Recipe
from ptune.errors import ConfigError
from ptune.evaluation import PromptedRows, read_together
from ptune.tasks import Example, Task
from ptune.trainable import TrainablePrompt
from ptune.training.build import build_prompt, plan_of
from ptune.training.dropout import check_dropout
from ptune.training.job import task_of
from ptune.training.options import Options, autocasts
from ptune.training.rows import Sources, answers_in, read_rows
from ptune.training.settle import with_template

# Of one step: several where gradients are added up.
Batches = Sequence[Sequence[Example]]


@dataclass(frozen=True, slots=True)
class Workload:
    """What all sides of a measurement have in common.

    Args:
        recipe: resolved.
        prompt: at its start.
        steps: the batches of each step, encoded.
    """

    recipe: Recipe
    backbone: Backbone
    task: Task
    prompt: TrainablePrompt
    steps: Sequence[Batches]

    @property
    def autocast(self) -> bool:
        """Whether products are in bfloat16 though the weights are not."""
        return autocasts(self.recipe, self.backbone.dtype)


@dataclass(frozen=True, slots=True)
class Side:
    """One way to compute a step.

    Args:
        losses: the loss of each example, with gradients.
        groups: of the optimizer, as torch takes them.
        pads: it computes rows padded to the longest of a batch.
        another: why its losses are not those of the recipe; None where they must be equal.
    """

    losses: Callable[[Sequence[Example]], Float[Tensor, " examples"]]
    groups: list[dict[str, Any]]
    pads: bool
    another: str | None = None


def make_workload(
    recipe: Recipe, backbone: Backbone, *, steps: int, said: Recipe | None = None
) -> Workload:
    """Read a recipe's rows, draw the batches of the first steps, and make the prompt.

    Args:
        said: what the drawn rows are encoded for, where it is another loss than the recipe's. (Rows
            are then of other lengths, and would make other batches of so many tokens.)
    Raises:
        ConfigError, DataError, TemplateError: as training would.
    """
    recipe = recipe.resolved()
    if recipe.backbone_dropout:
        check_dropout(backbone)
    if backbone.geometry.two_sided:
        raise ConfigError(
            f'"{backbone.name}" is an encoder-decoder, which ptune bench cannot measure yet. Name '
            "a decoder or an encoder."
        )
    if recipe.train is None:
        raise ConfigError("train is missing. Give the file of the rows to train on.")
    data = read_rows(recipe, Sources(recipe.train, recipe.validation, None))
    data = with_template(recipe, data, backbone)
    answers = answers_in(recipe, data.train)
    task = task_of(recipe, data.template, backbone, data.labels)
    prompt = build_prompt(recipe, backbone, task, data.template, task.layout)
    if prompt.offset:  # its keys stand at positions that rows then cannot have
        task = task_of(recipe, data.template, backbone, data.labels, offset=prompt.offset)
    prompt.to(backbone.device)
    training = task.training_examples(data.train, answers)
    drawn = _drawn(recipe, backbone, task, training, steps)
    if said is not None:
        recipe = said.resolved()
        task = task_of(recipe, data.template, backbone, data.labels, offset=prompt.offset)
        training = task.training_examples(data.train, answers)
    batches = [[[training[row] for row in part] for part in step] for step in drawn]
    return Workload(recipe, backbone, task, prompt, batches)


def _drawn(
    recipe: Recipe, backbone: Backbone, task: Task, training: Sequence[Example], steps: int
) -> list[list[list[int]]]:
    """The rows of each batch of the first steps, as training would draw them."""
    plan = plan_of(recipe.changed(epochs=steps, max_steps=steps), backbone, task, training)
    return [plan.parts(plan.rows_of(step)) for step in range(plan.steps)]


def own_side(workload: Workload) -> Side:
    """As ptune trains."""
    options = Options.of(workload.recipe, workload.backbone.dtype)
    workload.prompt.train()

    def losses(examples: Sequence[Example]) -> Float[Tensor, " examples"]:
        part = PromptedRows(workload.prompt.tensors(), workload.task, examples)
        dropout = workload.recipe.backbone_dropout
        (read,) = read_together(workload.backbone, [part], dropout=dropout)
        return workload.task.loss(read, examples, workload.prompt.head)

    return Side(losses, options.groups(workload.prompt), workload.backbone.geometry.padded)


class Timed:
    """Takes a step when asked, and says what it took."""

    def __init__(self, workload: Workload, side: Side) -> None:
        self._workload, self._side = workload, side
        self._optimizer = torch.optim.AdamW(side.groups, weight_decay=workload.recipe.weight_decay)
        self._parameters = [p for group in side.groups for p in group["params"]]
        self._done = 0
        self._body = body_parameters(workload.backbone.body)

    @property
    def facts(self) -> Line:
        """What is to be known before the first step."""
        backbone = self._workload.backbone
        return {
            "body_parameters": self._body,
            "trained": sum(p.numel() for p in self._parameters),
            "another": self._side.another,
            "width": backbone.geometry.hidden,
            "dtype": "bfloat16" if self._workload.autocast else str(backbone.dtype).split(".")[-1],
            "device": str(backbone.device),
        }

    def step(self) -> Line:
        """One optimizer step, timed; its loss is the mean over its rows."""
        device = self._workload.backbone.device
        batches = self._workload.steps[self._done % len(self._workload.steps)]
        rows = sum(map(len, batches))
        self._done += 1
        start = clock(device)
        total = torch.zeros((), device=device)
        for part in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=self._workload.autocast):
                loss = self._side.losses(part).sum() / rows
            torch.autograd.backward(loss)
            total += loss.detach()
        nn.utils.clip_grad_norm_(self._parameters, self._workload.recipe.clip or float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        seconds = clock(device) - start
        return {"seconds": seconds, "loss": float(total), **self._counts(batches)}

    def _counts(self, batches: Batches) -> Line:
        """Tokens and FLOPs that the step needs at least, whatever its side did."""
        backbone, task = self._workload.backbone, self._workload.task
        speaks = task.read == "words"
        found = [
            count(
                [one for e in part for one in e.sequences],
                share=backbone.geometry.causal,
                over_labels=speaks and not isinstance(part[0].target, tuple),
            )
            for part in batches
        ]
        real, padded, words = (
            sum(getattr(c, name) for c in found) for name in ("real", "padded", "words")
        )
        head = backbone.model.get_output_embeddings().weight.numel() if speaks else 0
        flops = step_flops(
            body=self._body,
            tokens=real,
            head=head,
            reads=words,
            backward_share=backward_share(self._workload.prompt, len(backbone.geometry.sites)),
        )
        computed = padded if self._side.pads else real
        return {
            "tokens": real,
            "padded": padded,
            "computed": computed,
            "words": words,
            "flops": flops,
        }


def backward_share(prompt: TrainablePrompt, sites: int) -> float:
    """Share of the layers above the lowest one that the prompt enters."""
    return 1.0 if prompt.shallow is not None or not prompt.sites else 1 - prompt.sites[0] / sites
