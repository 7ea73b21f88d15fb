"""Extractive question answering with a small sentence encoder (MiniLM), on a slice of SQuAD 1.1.

    squad   1,500 training questions of 38 articles, and 300 of 6 others to choose the epoch by,
            drawn by seed; 400 questions of the development file, the same for every seed, scored
            once; all have a context of at most 500 characters

    linear head         ptune's two-output head on the frozen states, at its default rate
    p-tuning-v2         ptune's defaults, nothing set by task; judged and kept as the mean of the
                        last steps (`average`), as nothing else is
    full fine-tuning    all weights and ptune's head (headed.py); a rate of the weights of 1e-4
    PEFT PREFIX_TUNING  PEFT's defaults on BertForQuestionAnswering with its own linear head, with
                        dropout; 20 virtual tokens, the rate 1e-2; ptune's windows, loss and span
                        search. PEFT takes token_type_ids and does not pass them on

The same questions, batches of 8, order, schedule, clipping and choice of the epoch for all, by F1.
No rate is searched for. The slice fits two processor cores; its scores are not comparable with
published ones.

    python bench/quality_qa.py --json bench/results/quality_qa.jsonl
    python bench/quality_qa.py --table FILE
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from common import find_data
from headed import MODEL, Headed, PeftPrefix, methods_of
from quality import Benchmark, Data, Task, main
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ptune.config import Recipe
from ptune.data import Rows, draw_rows, load_rows, spans_of
from ptune.evaluation import by_length
from ptune.tasks import Example

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


class Prefix(PeftPrefix):
    """PEFT's PREFIX_TUNING on dynamically padded batches of the same windows."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        from transformers import AutoModelForQuestionAnswering as Answerer

        super().__init__(recipe, lr, kind="QUESTION_ANS", model=Answerer, labels=None)
        own = Headed(task, data, recipe, lr)
        self.task, self.examples = own.task, own.examples
        self.head = nn.Identity()  # the model's own gives start and end

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


METHODS = methods_of(NAME, Prefix, weights=(1e-4,))

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
    model=MODEL,
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
