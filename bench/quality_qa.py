"""Extractive question answering with a small sentence encoder (MiniLM), on a slice of SQuAD 1.1.

    squad   1,500 training questions of 38 articles, and 300 of 6 others to choose the epoch by,
            drawn by seed; 400 questions of the development file, the same for every seed, scored
            once; all have a context of at most 500 characters

    linear head         ptune's two-output head on the frozen states, at its default rate
    p-tuning-v2         ptune's defaults, nothing set by task
    full fine-tuning    all weights and ptune's head (at its default rate), dropout as in
                        quality_encoder.py; a rate of the weights of 1e-4
    PEFT PREFIX_TUNING  PEFT's defaults on BertForQuestionAnswering with its own linear head; 20
                        virtual tokens, the rate 1e-2; ptune's windows, loss and span search

The same questions, batches of 8, order, schedule, clipping and choice of the epoch for all, by F1.
The slice fits two processor cores; its
scores are not comparable with published ones.

    python bench/quality_qa.py --json bench/results/quality_qa.jsonl
    python bench/quality_qa.py --table FILE
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from common import find_data
from quality import Benchmark, Data, Method, Outcome, Task, fit, main, run_ptune
from quality_encoder import PREFIX_LR, PREFIX_TOKENS, model_path
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import Rows, draw_rows, load_rows, spans_of
from ptune.evaluation import by_length, evaluate_examples
from ptune.run import run
from ptune.tasks import Example, TaskOptions, make_task
from ptune.template import Template

LONGEST_CONTEXT = 500  # characters
# Of the training file's 44: none of their contexts is seen in training.
HELD_OUT_ARTICLES, HELD_OUT_ROWS = 6, 300
NAME = "question-answering"


@dataclass(frozen=True)
class Squad(Task):
    """Questions on short contexts."""

    def data(self, args: Namespace, recipe: Recipe, *, tested: bool = True) -> Data:
        """The rows of the recipe's seed."""
        rows = self._short(self.train, args)
        titles = list(dict.fromkeys(row["title"] for row in rows))
        others = set(titles[-HELD_OUT_ARTICLES:])
        train, held_out = (
            rows.take(i for i, row in enumerate(rows) if (row["title"] in others) is out)
            for out in (False, True)
        )
        test = self._short(self.test, args) if tested else None
        if test is not None:
            test = draw_rows(test, args.test_rows or self.test_rows or len(test), 0)
        count = args.rows or self.rows or len(train)
        held = min(args.test_rows or HELD_OUT_ROWS, len(held_out))
        return Data(
            draw_rows(train, count, recipe.seed), draw_rows(held_out, held, recipe.seed), test
        )

    def _short(self, name: str, args: Namespace) -> Rows:
        rows = load_rows(find_data(self.folder, args.data) / name)
        short = (i for i, row in enumerate(rows) if len(str(row["context"])) <= LONGEST_CONTEXT)
        return rows.take(short)


class Headed:
    """The backbone without a prompt, with ptune's head."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        self.backbone = Backbone.load(model_path())
        self.recipe, self.lr = recipe, lr
        self.task = make_task(NAME, Template.parse(task.template), self.backbone, TaskOptions())
        head = self.task.head(self.backbone.geometry.hidden)
        assert head is not None
        self.head = head
        self.examples = self.task.training_examples(data.train, spans_of(data.train, "answers"))

    def states(self, examples: Sequence[Example]) -> Tensor:
        """Of every token that is read."""
        batch = self.backbone.pack([one for example in examples for one in example.sequences])
        return run(self.backbone, [PromptTensors()], batch, read="states")

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Of the weights as they are now."""
        examples = self.task.examples(rows, spans_of(rows, "answers"))
        self.backbone.model.eval()
        size = self.recipe.evaluation_batch_size
        return evaluate_examples(
            self.backbone, PromptTensors(), self.task, self.head, examples, batch_size=size
        ).scores


class LinearHead(Headed):
    """The head alone, on frozen states, which are computed once."""

    @cached_property
    def kept(self) -> list[Tensor]:
        """The states of each training row."""
        found: dict[int, Tensor] = {}
        with torch.no_grad(), self.backbone.injected():
            for indices in by_length(self.examples, self.recipe.evaluation_batch_size):
                chosen = [self.examples[i] for i in indices]
                counts = [sum(len(one.reads) for one in e.sequences) for e in chosen]
                parts = torch.split(self.states(chosen), counts)
                found |= dict(zip(indices, parts, strict=True))
        return [found[i] for i in range(len(self.examples))]

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
        self.backbone.model.train()
        return self.task.loss(self.states(chosen), chosen, self.head).mean()


class PeftPrefix(Headed):
    """PEFT's PREFIX_TUNING on dynamically padded batches of the same windows."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        from peft import PrefixTuningConfig, get_peft_model
        from transformers import AutoModelForQuestionAnswering

        super().__init__(task, data, recipe, lr)
        torch.manual_seed(recipe.seed)
        model = AutoModelForQuestionAnswering.from_pretrained(model_path(), dtype=torch.float32)
        config = PrefixTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=PREFIX_TOKENS)
        self.model = get_peft_model(model, config)
        self.head = nn.Identity()  # the model's own gives start and end

    def groups(self) -> list[dict[str, Any]]:
        """Prefix and head at one rate."""
        weights = [w for w in self.model.parameters() if w.requires_grad]
        return [{"params": weights, "lr": self.lr}]

    def states(self, examples: Sequence[Example]) -> Tensor:
        """Start and end scores of every token that is read."""
        windows = [one for example in examples for one in example.sequences]
        ids, types = (
            pad_sequence([torch.tensor(getattr(one, part)) for one in windows], batch_first=True)
            for part in ("ids", "types")
        )
        lengths = torch.tensor([len(one.ids) for one in windows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
        scores = torch.stack([found.start_logits, found.end_logits], dim=-1)
        return torch.cat([line[list(one.reads)] for line, one in zip(scores, windows, strict=True)])

    def loss(self, rows: Sequence[int]) -> Tensor:
        """As the others'."""
        chosen = [self.examples[row] for row in rows]
        self.model.train()
        return self.task.loss(self.states(chosen), chosen, self.head).mean()

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Rows of like length together."""
        self.model.eval()
        examples = self.task.examples(rows, spans_of(rows, "answers"))
        said: dict[int, Any] = {}
        total = 0.0
        with torch.no_grad():
            for indices in by_length(examples, self.recipe.evaluation_batch_size):
                chosen = [examples[i] for i in indices]
                states = self.states(chosen)
                total += float(self.task.loss(states, chosen, self.head).sum())
                said |= zip(indices, self.task.predict(states, chosen, self.head), strict=True)
        found = self.task.scores([said[i] for i in range(len(examples))], examples)
        return {"loss": total / len(examples), **found}


def baseline(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, learner: Any, name: str
) -> Outcome:
    """A method that is none of ptune's."""
    assert lr is not None
    outcome = fit(learner(task, data, recipe, lr), data, recipe)
    return replace(outcome, settings={"lr": lr, "method": name})


def prompted(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, settings: Mapping[str, Any]
) -> Outcome:
    """A deep prompt, with ptune's defaults."""
    backbone = Backbone.load(model_path())
    return run_ptune(task, data, recipe, backbone, soft=False, settings=settings)


V2 = {"task": NAME, "method": "p-tuning-v2"}

METHODS = {
    "p-tuning-v2": Method(partial(prompted, settings=V2), settings=V2),
    "full fine-tuning": Method(partial(baseline, learner=FineTuned, name="full"), grid=(1e-4,)),
    "linear head": Method(partial(baseline, learner=LinearHead, name="head"), grid=(5e-3,)),
    "PEFT PREFIX_TUNING": Method(
        partial(baseline, learner=PeftPrefix, name="peft-prefix"), grid=(PREFIX_LR,)
    ),
}

TASKS = {
    "squad": Squad(
        "squad",
        folder="squad",
        train="train-v1.1.44-articles.json",
        test="dev-v1.1.part1.json",
        template="{question}{sep}{context}",
        rows=1500,
        test_rows=400,
        chosen_on="300 questions on other articles",
    )
}

BENCHMARK = Benchmark(
    "quality_qa",
    TASKS,
    METHODS,
    base={"task": NAME, "batch_size": 8},
    seeds=1,
    model="all-MiniLM-L6-v2",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
