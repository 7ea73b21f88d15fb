"""How good deep prompts are at tagging words, next to a linear head, fine-tuning and PEFT.

Data: WNUT-17 (entities of six types in noisy text). Model: MiniLM, as in quality_encoder.py. All
methods have a trained head on the first token of each word, the same training rows, epochs,
batches, data order, schedule and clipping; the best epoch is chosen by entity F1 on the development
file, and the test file is scored once.

    linear head         ptune's head on the frozen states, at its default rate
    p-tuning-v2         ptune's defaults
    full fine-tuning    all weights and ptune's head (at the head's default rate), with dropout as
                        the model's configuration has it (but on attention weights)
    PEFT PREFIX_TUNING  PEFT's defaults and BertForTokenClassification's own head; 20 virtual tokens
                        and one rate, those of quality_encoder.py

The rates of the baselines are not searched for here: 1e-4 for full fine-tuning, 1e-2 for PEFT.

    python bench/quality_tagging.py --json bench/results/quality_tagging.jsonl
    python bench/quality_tagging.py --json FILE --rows 1000 --epochs 4 --seeds 1
    python bench/quality_tagging.py --table FILE
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from common import find_data
from quality import Benchmark, Data, Method, Outcome, Task, fit, main, run_ptune
from quality_encoder import PREFIX_LR, PREFIX_TOKENS, model_path
from torch import Tensor
from torch.nn import functional

from ptune import tags
from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import Rows, check_labels, draw_rows, load_rows, tags_of
from ptune.evaluation import by_length, evaluate_examples
from ptune.run import run
from ptune.tasks import Example, TaskOptions, make_task
from ptune.template import Template

FULL_LR = 1e-4
# Of cross-entropy: tokens that are no word's first.
NO_WORD = -100


class TaggedTask(Task):
    """A data set with a development file, by which the best epoch is chosen."""

    def data(self, args: Namespace, recipe: Recipe, *, tested: bool = True) -> Data:
        """The rows of the recipe's seed."""
        folder = find_data(self.folder, args.data)
        rows = load_rows(folder / "train.conll")
        count = self.rows if args.rows is None else args.rows
        if count is not None and count < len(rows):
            rows = draw_rows(rows, count, recipe.seed)
        held_out = load_rows(folder / "dev.conll")
        test = load_rows(folder / self.test) if tested else None
        if test is not None and args.test_rows is not None:
            test, held_out = (draw_rows(some, args.test_rows, 0) for some in (test, held_out))
        return Data(rows, held_out, test)


TASKS = {
    "wnut17": TaggedTask(
        "wnut17",
        folder="wnut17",
        test="test.conll",
        template="{tokens}",
        chosen_on="the development file",
    )
}


def labels_in(data: Data) -> tuple[str, ...]:
    """The tags of the training rows."""
    return check_labels(data.train, [], "label", tagged=True).names


class Headed:
    """The backbone without a prompt, with ptune's head."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        self.backbone = Backbone.load(model_path())
        self.recipe, self.lr = recipe, lr
        options = TaskOptions(labels=labels_in(data))
        template = Template.parse(task.template)
        self.task = make_task("token-classification", template, self.backbone, options)
        torch.manual_seed(recipe.seed)
        head = self.task.head(self.backbone.geometry.hidden)
        assert head is not None
        self.head = head.to(self.backbone.device)
        self.examples = self.task.training_examples(data.train, tags_of(data.train, "label"))

    def states(self, examples: Sequence[Example]) -> Tensor:
        """The state of each word that is read."""
        batch = self.backbone.pack([example.sequence for example in examples])
        return run(self.backbone, [PromptTensors()], batch, read="states")

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Of the weights as they are now."""
        examples = self.task.examples(rows, tags_of(rows, "label"))
        self.backbone.model.eval()
        size = self.recipe.evaluation_batch_size
        return evaluate_examples(
            self.backbone, PromptTensors(), self.task, self.head, examples, batch_size=size
        ).scores


class LinearHead(Headed):
    """The head alone, on frozen states, which are computed once."""

    @cached_property
    def kept(self) -> dict[int, Tensor]:
        """The states of all training rows."""
        kept: dict[int, Tensor] = {}
        with torch.no_grad(), self.backbone.injected():
            for indices in by_length(self.examples, self.recipe.evaluation_batch_size):
                chosen = [self.examples[i] for i in indices]
                lengths = [len(example.sequence.reads) for example in chosen]
                states = self.states(chosen).float().split(lengths)
                kept |= dict(zip(indices, states, strict=True))
        return kept

    def groups(self) -> list[dict[str, Any]]:
        """The head."""
        return [{"params": list(self.head.parameters()), "lr": self.lr}]

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Of kept states."""
        chosen = [self.examples[row] for row in rows]
        return self.task.loss(torch.cat([self.kept[row] for row in rows]), chosen, self.head).mean()


class FineTuned(Headed):
    """All weights and the head."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        super().__init__(task, data, recipe, lr)
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
    """PEFT's PREFIX_TUNING on dynamically padded batches, and the loss that its users have."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        from peft import PrefixTuningConfig, get_peft_model
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self.recipe, self.lr = recipe, lr
        self.tokenizer = AutoTokenizer.from_pretrained(model_path())
        self.labels = labels_in(data)
        torch.manual_seed(recipe.seed)
        model = AutoModelForTokenClassification.from_pretrained(
            model_path(), num_labels=len(self.labels), dtype=torch.float32
        )
        config = PrefixTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=PREFIX_TOKENS)
        self.model = get_peft_model(model, config)
        self.train = data.train

    def groups(self) -> list[dict[str, Any]]:
        """Prefix and classifier at one rate."""
        weights = [w for w in self.model.parameters() if w.requires_grad]
        return [{"params": weights, "lr": self.lr}]

    def _read(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, list[list[int | None]]]:
        """Logits of every token, and which word begins at each token."""
        inputs = self.tokenizer(
            [list(row["tokens"]) for row in rows],
            is_split_into_words=True,
            padding=True,
            truncation=True,
            max_length=self.recipe.max_tokens - PREFIX_TOKENS,
            return_tensors="pt",
        )
        first = []
        for row in range(len(rows)):
            words = inputs.word_ids(row)
            first.append([w if w != b else None for b, w in pairwise([None, *words])])
        return self.model(**inputs).logits, first

    def loss(self, rows: Sequence[int]) -> Tensor:
        """Cross-entropy, the mean over all words of the batch."""
        chosen = [self.train[row] for row in rows]
        self.model.train()
        logits, first = self._read(chosen)
        targets = [
            [NO_WORD if word is None else self.labels.index(row["label"][word]) for word in words]
            for row, words in zip(chosen, first, strict=True)
        ]
        return functional.cross_entropy(
            logits.flatten(0, 1), torch.tensor(targets).flatten(), ignore_index=NO_WORD
        )

    def scores(self, rows: Rows) -> Mapping[str, float]:
        """Of entities, rows of like length together."""
        self.model.eval()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["tokens"]))
        said = [[tags.OUTSIDE] * len(row["tokens"]) for row in rows]
        size = self.recipe.evaluation_batch_size
        with torch.no_grad():
            for start in range(0, len(order), size):
                indices = order[start : start + size]
                logits, first = self._read([rows[i] for i in indices])
                for index, best, words in zip(
                    indices, logits.argmax(-1).tolist(), first, strict=True
                ):
                    for label, word in zip(best, words, strict=True):
                        if word is not None:
                            said[index][word] = self.labels[label]
        return tags.scores(tags_of(rows, "label"), said, "bio")


def baseline(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, kind: type, rate: float | None
) -> Outcome:
    """A method that is no prompt of ptune."""
    rate = rate or recipe.head_lr
    outcome = fit(kind(task, data, recipe, rate), data, recipe)
    settings = {"lr": rate, "method": kind.__name__}
    return replace(outcome, settings=settings)


def prompted(
    task: Task, data: Data, recipe: Recipe, lr: float | None, *, settings: Mapping[str, Any]
) -> Outcome:
    """A deep prompt, with ptune's defaults."""
    backbone = Backbone.load(model_path())
    return run_ptune(task, data, recipe, backbone, soft=False, settings=settings)


V2 = {"task": "token-classification", "method": "p-tuning-v2"}

METHODS = {
    "linear head": Method(partial(baseline, kind=LinearHead, rate=None)),
    "p-tuning-v2": Method(partial(prompted, settings=V2), settings=V2),
    "full fine-tuning": Method(partial(baseline, kind=FineTuned, rate=FULL_LR)),
    "PEFT PREFIX_TUNING": Method(partial(baseline, kind=PeftPrefix, rate=PREFIX_LR)),
}

BENCHMARK = Benchmark(
    "quality_tagging",
    TASKS,
    METHODS,
    base={"task": "token-classification"},
    seeds=3,
    model="all-MiniLM-L6-v2",
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
