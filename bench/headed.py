"""What deep prompts on MiniLM are measured beside: a head alone, all weights, and PEFT's prefix.

    LinearHead    ptune's head on the frozen states, which are computed once
    FineTuned     all weights and ptune's head (at the head's default rate); with the model's own
                  dropout (but not on attention weights in the results that stand: ptune's attention
                  had none when they were measured)
    PeftPrefix    PEFT's PREFIX_TUNING on a class of transformers, whose own head is trained, too;
                  in training mode, so with dropout in the frozen model as well

`quality_encoder.py`, `quality_tagging.py`, `quality_qa.py` and `gap.py` share them; a PeftPrefix of
each says how rows go in and scores come out. `quality.fit` trains them, and says how.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from common import model_path, no_prefixes
from quality import Data, Method, Outcome, Task, fit, run_ptune
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import Rows, check_labels
from ptune.evaluation import by_length, evaluate_examples
from ptune.run import run
from ptune.tasks import Example, TaskOptions, make_task
from ptune.template import Template
from ptune.training.rows import answers_in

MODEL = "all-MiniLM-L6-v2"
# Of PEFT's example (examples/sequence_classification/prefix_tuning.ipynb); not searched.
PREFIX_LR, PREFIX_TOKENS = 1e-2, 20
HEAD_LR = 5e-3  # ptune's default


def labels_in(recipe: Recipe, rows: Rows) -> tuple[str, ...]:
    """The labels of rows; none where answers are spans."""
    if recipe.task == "question-answering":
        return ()
    tagged = recipe.task == "token-classification"
    return check_labels(rows, [], recipe.label_column, tagged=tagged).names


class Headed:
    """The backbone without a prompt, with ptune's head."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        self.backbone = Backbone.load(model_path())
        self.recipe, self.lr = recipe, lr
        options = TaskOptions(labels=labels_in(recipe, data.train))
        template = Template.parse(task.template)
        self.task = make_task(recipe.task, template, self.backbone, options)
        head = self.task.head(self.backbone.geometry.hidden)
        assert head is not None
        self.head = head.to(self.backbone.device)
        self.examples = self.task.training_examples(data.train, answers_in(recipe, data.train))

    def states(self, examples: Sequence[Example], *, dropout: bool = False) -> Tensor:
        """Of every token that is read."""
        batch = self.backbone.pack([one for example in examples for one in example.sequences])
        return run(self.backbone, [PromptTensors()], batch, read="states", dropout=dropout)

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Of the weights as they are now."""
        examples = self.task.examples(rows, answers_in(self.recipe, rows))
        size = self.recipe.evaluation_batch_size
        return evaluate_examples(
            self.backbone, PromptTensors(), self.task, self.head, examples, batch_size=size
        ).scores


class LinearHead(Headed):
    """The head alone, on frozen states, which are computed once."""

    @cached_property
    def kept(self) -> dict[int, Tensor]:
        """The states of each training row."""
        kept: dict[int, Tensor] = {}
        with torch.no_grad(), self.backbone.injected():
            for indices in by_length(self.examples, self.recipe.evaluation_batch_size):
                chosen = [self.examples[i] for i in indices]
                counts = [sum(len(one.reads) for one in e.sequences) for e in chosen]
                parts = self.states(chosen).float().split(counts)
                kept |= dict(zip(indices, parts, strict=True))
        return kept

    def groups(self) -> list[dict[str, Any]]:
        """The head."""
        return [{"params": list(self.head.parameters()), "lr": self.lr}]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of kept states."""
        states = torch.cat([self.kept[row] for row in rows])
        return self.task.loss(states, [self.examples[row] for row in rows], self.head).mean()


class FineTuned(Headed):
    """All weights and the head."""

    def groups(self) -> list[dict[str, Any]]:
        """The weights that the states depend on, and the head at its own rate."""
        self.backbone.model.requires_grad_(True)
        named = self.backbone.model.named_parameters()
        body = [weight for name, weight in named if not name.startswith("pooler.")]
        head = {"params": list(self.head.parameters()), "lr": self.recipe.head_lr}
        return [{"params": body, "lr": self.lr}, head]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """With dropout."""
        chosen = [self.examples[row] for row in rows]
        return self.task.loss(self.states(chosen, dropout=True), chosen, self.head).mean()


class PeftPrefix:
    """PEFT's PREFIX_TUNING, its defaults.

    Args:
        kind: PEFT's name of the task.
        model: transformers' class for it, with its own head.
        labels: of that head; None where the class has a number of its own.
    """

    def __init__(
        self, recipe: Recipe, lr: float, *, kind: str, model: Any, labels: int | None
    ) -> None:
        from peft import PrefixTuningConfig, get_peft_model

        self.recipe, self.lr = recipe, lr
        more = {} if labels is None else {"num_labels": labels}
        torch.manual_seed(recipe.seed)
        made = model.from_pretrained(model_path(), dtype=torch.float32, **more)
        config = PrefixTuningConfig(task_type=kind, num_virtual_tokens=PREFIX_TOKENS)
        self.model = get_peft_model(made, config)

    def groups(self) -> list[dict[str, Any]]:
        """Prefix and head at one rate."""
        weights = [w for w in self.model.parameters() if w.requires_grad]
        return [{"params": weights, "lr": self.lr}]


def baseline(task: Task, data: Data, recipe: Recipe, lr: float | None, *, learner: Any) -> Outcome:
    """A method that is no prompt of ptune's."""
    assert lr is not None
    outcome = fit(learner(task, data, recipe, lr), data, recipe)
    own = {"lr": lr, "method": learner.__name__}
    if learner is FineTuned:
        own["head_lr"] = recipe.head_lr
    return replace(outcome, settings={**outcome.settings, **own})


def prompted(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, settings: Mapping[str, Any]
) -> Outcome:
    """A deep prompt, with ptune's defaults."""
    backbone = Backbone.load(model_path())
    return run_ptune(task, data, recipe, backbone, soft=False, settings=settings)


def methods_of(
    name: str, prefix: type, *, weights: tuple[float, ...], head: tuple[float, ...] = (HEAD_LR,)
) -> dict[str, Method]:
    """The four methods of a task of ptune's.

    Args:
        prefix: a PeftPrefix.
        weights, head: rates to choose from for full fine-tuning and for the head alone.
    """
    settings = {"task": name, "method": "p-tuning-v2"}
    return {
        "linear head": Method(partial(baseline, learner=LinearHead), grid=head),
        "PEFT PREFIX_TUNING": Method(
            partial(baseline, learner=prefix), grid=(PREFIX_LR,), refusal=no_prefixes
        ),
        "p-tuning-v2": Method(partial(prompted, settings=settings), settings=settings),
        "full fine-tuning": Method(partial(baseline, learner=FineTuned), grid=weights),
    }
