"""How good prompts are with a causal model, next to full fine-tuning and LoRA.

Model: ptune-tiny (8 M parameters). Every method answers by scoring label words, and every method
that trains has the same loss over the set of labels, rows, epochs, batches, data order, schedule
and clipping; the best epoch is chosen on the same held-out training rows. Prompts are judged and
kept as the mean of their last steps (`average`); full fine-tuning and LoRA are not.

    twitter_complaints   50 training rows, 3,399 test rows
    trec                 1,500 training rows drawn by seed, 500 test rows

Prompts are trained with ptune's defaults (those of `Recipe`), nothing set by task. The learning
rates of full fine-tuning and LoRA are chosen from a small grid by accuracy on held-out training
rows, on splits by other seeds than those reported; the table says which.

    python bench/quality_causal.py --json bench/results/quality_causal.jsonl
    python bench/quality_causal.py --json FILE --task trec --method LoRA --seeds 3-4
    python bench/quality_causal.py --table FILE
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from common import no_peft
from quality import Benchmark, Data, Method, Outcome, Task, fit, main, run_ptune
from torch import Tensor

from ptune import metrics
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import Rows, labels_of
from ptune.evaluation import evaluate_examples
from ptune.run import run
from ptune.tasks import TaskOptions, make_task
from ptune.template import Template

MODEL = "ptune-tiny"

TASKS = {
    "twitter_complaints": Task(
        "twitter_complaints",
        folder="twitter_complaints",
        test="test.csv",
        template="Tweet text : {text} Label : {label}",
        grid_seeds=2,
    ),
    "trec": Task(
        "trec",
        folder="trec",
        test="test.csv",
        template="Question : {text} Type : {label}",
        rows=1500,
        words={
            "ABBR": "abbreviation",
            "ENTY": "entity",
            "DESC": "description",
            "HUM": "human",
            "LOC": "location",
            "NUM": "number",
        },
    ),
}


class Tuned:
    """The backbone without a prompt, all or some of its own weights trained.

    Args:
        lora: train low-rank additions to the query and value projections (peft), not the weights.
    """

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float, *, lora: bool) -> None:
        self.backbone = Backbone.load(MODEL)
        self.task = task_of(task, data, self.backbone)
        self.lr, self.recipe = lr, recipe
        answers = labels_of(data.train, "label")
        self.examples = self.task.training_examples(data.train, answers)
        torch.manual_seed(recipe.seed)
        if lora:
            _add_lora(self.backbone.model)
        else:
            self.backbone.model.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        """All trained weights at one rate."""
        weights = [w for w in self.backbone.model.parameters() if w.requires_grad]
        return [{"params": weights, "lr": self.lr}]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Over the set of labels, as a prompt is trained."""
        chosen = [self.examples[row] for row in rows]
        batch = self.backbone.pack([example.sequence for example in chosen])
        read = run(self.backbone, [PromptTensors()], batch, read="words")
        return self.task.loss(read, chosen, None).mean()

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """By scoring the label words."""
        examples = self.task.examples(rows, labels_of(rows, "label"))
        size = self.recipe.evaluation_batch_size
        return evaluate_examples(
            self.backbone, PromptTensors(), self.task, None, examples, batch_size=size
        ).scores


def task_of(task: Task, data: Data, backbone: Backbone) -> Any:
    """The task without virtual tokens."""
    labels = sorted(set(labels_of(data.train, "label")))
    return make_task(
        "causal-lm", Template.parse(task.template), backbone, TaskOptions(labels=labels)
    )


def _add_lora(model: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    inject_adapter_in_model(config, model)


def tuned(task: Task, data: Data, recipe: Recipe, lr: float | None, *, lora: bool) -> Outcome:
    """Full fine-tuning or LoRA."""
    assert lr is not None
    outcome = fit(Tuned(task, data, recipe, lr, lora=lora), data, recipe)
    own = {"lr": lr, "method": "lora" if lora else "full"}
    return replace(outcome, settings={**outcome.settings, **own})


def majority(task: Task, data: Data, recipe: Recipe, lr: float | None) -> Outcome:
    """Always the most frequent training label."""
    assert data.test is not None
    truth, labels = labels_of(data.test, "label"), labels_of(data.train, "label")
    answer, _ = metrics.majority(labels)
    return Outcome(metrics.classification(truth, [answer] * len(truth), sorted(set(labels))))


def zero_shot(task: Task, data: Data, recipe: Recipe, lr: float | None) -> Outcome:
    """The backbone as it is, with the template's words alone."""
    assert data.test is not None
    backbone = Backbone.load(MODEL)
    bound = task_of(task, data, backbone)
    examples = bound.examples(data.test, labels_of(data.test, "label"))
    size = recipe.evaluation_batch_size
    found = evaluate_examples(backbone, PromptTensors(), bound, None, examples, batch_size=size)
    return Outcome(found.scores)


def prompted(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, settings: Mapping[str, Any]
) -> Outcome:
    """A prompt, with ptune's defaults."""
    soft = settings["method"] != "p-tuning-v2"
    return run_ptune(task, data, recipe, Backbone.load(MODEL), soft=soft, settings=settings)


def _prompt(**settings: Any) -> Method:
    return Method(partial(prompted, settings=settings), settings=settings)


METHODS = {
    "majority class": Method(majority, seeded=False),
    "zero-shot": Method(zero_shot, seeded=False),
    "prompt-tuning": _prompt(method="prompt-tuning"),
    "p-tuning LSTM": _prompt(method="p-tuning", encoder="lstm"),
    "p-tuning MLP": _prompt(method="p-tuning", encoder="mlp"),
    "p-tuning-v2": _prompt(method="p-tuning-v2"),
    "LoRA": Method(partial(tuned, lora=True), grid=(1e-3, 3e-3, 1e-2), refusal=no_peft),
    "full fine-tuning": Method(partial(tuned, lora=False), grid=(1e-4, 3e-4, 1e-3)),
}

BENCHMARK = Benchmark(
    "quality_causal", TASKS, METHODS, base={"task": "causal-lm"}, seeds=5, model=MODEL
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
