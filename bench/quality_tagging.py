"""How good deep prompts are at tagging words, next to a linear head, fine-tuning and PEFT.

Data: WNUT-17 (entities of six types in noisy text). Model: MiniLM, as in quality_encoder.py. All
methods have a trained head on the first token of each word, the same training rows, epochs,
batches, data order, schedule and clipping; the best epoch is chosen by entity F1 on the development
file, and the test file is scored once.

    linear head         ptune's head on the frozen states, at its default rate
    p-tuning-v2         ptune's defaults; judged and kept as the mean of the last steps (`average`),
                        as nothing else is
    full fine-tuning    all weights and ptune's head (headed.py)
    PEFT PREFIX_TUNING  PEFT's defaults and BertForTokenClassification's own head, with dropout; 20
                        virtual tokens and one rate, those of quality_encoder.py

The rates of the baselines are not searched for here: 1e-4 for full fine-tuning, 1e-2 for PEFT.

    python bench/quality_tagging.py --json bench/results/quality_tagging.jsonl
    python bench/quality_tagging.py --json FILE --rows 1000 --epochs 4 --seeds 1
    python bench/quality_tagging.py --table FILE
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from common import find_data, model_path
from headed import MODEL, PREFIX_TOKENS, PeftPrefix, labels_in, methods_of
from quality import Benchmark, Data, Task, main
from torch import Tensor
from torch.nn import functional

from ptune import tags
from ptune.config import Recipe
from ptune.data import Rows, draw_rows, load_rows, tags_of

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


class Prefix(PeftPrefix):
    """PEFT's PREFIX_TUNING on dynamically padded batches, and the loss that its users have."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        from transformers import AutoModelForTokenClassification as Tagger
        from transformers import AutoTokenizer

        self.labels = labels_in(recipe, data.train)
        super().__init__(recipe, lr, kind="TOKEN_CLS", model=Tagger, labels=len(self.labels))
        self.tokenizer = AutoTokenizer.from_pretrained(model_path())
        self.train = data.train

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


METHODS = methods_of("token-classification", Prefix, weights=(FULL_LR,))

BENCHMARK = Benchmark(
    "quality_tagging",
    TASKS,
    METHODS,
    base={"task": "token-classification"},
    seeds=3,
    model=MODEL,
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
