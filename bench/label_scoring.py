"""Scoring 1,000 rows with 6 labels: ptune next to PEFT with one forward pass a label.

TREC questions, labels as words (ABBR -> abbreviation, ...), 20 virtual tokens in front. Both sides
have the same prompt, the same rows, sorted by length, in batches of 32.

    ptune    a batch is run once: each row once, its labels as continuations of it, logits where a
             word of a label is predicted
    peft     a batch is run once a label: row and label padded to the longest, all logits

Both give p(label | row): softmax over the labels of the sum of the words' log-probabilities. The
chosen labels must be the same and log p must agree to 1e-4, or the script fails. Rounds of some
batches are taken in turn; the time is that of all rounds.

    python bench/label_scoring.py --json bench/results/label_scoring.jsonl
    python bench/label_scoring.py --quick                                    96 rows
    python bench/label_scoring.py --shape bloom --layers 24 --hidden 1024 --vocabulary 250880
"""

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

from common import (
    Line,
    find_data,
    latest,
    machine,
    markdown,
    measured,
    options,
    read_lines,
    require_peft,
    settings_line,
    told,
    write_line,
)
from quality_causal import TASKS
from shapes import KINDS, random_model

from ptune.bench.measure import AGREEMENT
from ptune.bench.process import in_turn, peak_memory, serve

SLOTS, BATCH, BATCHES_A_ROUND, SEED = 20, 32, 4, 0
TASK = TASKS["trec"]
SIDES = ("ptune", "peft")


def measure(args: Namespace) -> list[Line]:
    """Both sides in turn; a line of results each."""
    job = {"data": str(find_data("trec", args.data)), "rows": args.rows, "shape": None}
    if args.shape:
        job["shape"] = {"kind": args.shape, "layers": args.layers, "hidden": args.hidden,
                        "vocabulary": args.vocabulary}  # fmt: skip
    with ExitStack() as stack:
        processes = []
        for side in SIDES:
            processes.append(measured(__file__, job | {"side": side}, args.threads))
            stack.callback(processes[-1].close)
        rounds = math.ceil(args.rows / (BATCH * BATCHES_A_ROUND))
        in_turn(processes, 1)  # warms up, with the first rows
        answers = in_turn(processes, rounds, tell=lambda number, said: told(SIDES, number, said))
        memory = [process.ask("memory") for process in processes]
    worst = compare(*answers)
    common = {"bench": "label_scoring", "rows": args.rows, "shape": job["shape"], "batch": BATCH}
    common |= {"labels": len(answers[0][0]["scores"][0]), "slots": SLOTS, "worst": worst}
    return [
        {
            **common,
            "side": side,
            "seconds": sum(answer["seconds"] for answer in own),
            "tokens": sum(answer["tokens"] for answer in own),
            **memory[index],
            **machine(args.threads),
        }
        for index, (side, own) in enumerate(zip(SIDES, answers, strict=True))
    ]


def compare(own: Sequence[Line], other: Sequence[Line]) -> float:
    """The largest difference of two log p.

    Raises:
        SystemExit: it is larger than `AGREEMENT`, or another label was chosen.
    """
    worst = 0.0
    for first, second in zip(own, other, strict=True):
        for a, b in zip(first["scores"], second["scores"], strict=True):
            difference = max(abs(x - y) for x, y in zip(a, b, strict=True))
            near = sorted(a)[-1] - sorted(a)[-2] <= 2 * AGREEMENT  # a tie may fall either way
            if not difference <= AGREEMENT or (a.index(max(a)) != b.index(max(b)) and not near):
                sys.exit(f"The two sides score a row differently: {a} and {b}")
            worst = max(worst, difference)
    return worst


def table(lines: Sequence[Line]) -> str:
    """A row for each model and side."""
    kept = latest(lines, "shape", "rows", "side")
    if not kept:
        return "Nothing was measured yet."
    peft = {json.dumps(line["shape"]): line for line in kept if line["side"] == "peft"}
    head = ["model", "side", "seconds", "rows / s", "tokens computed", "PEFT /", "peak GB"]
    rows = [
        [
            model_name(line["shape"]),
            line["side"],
            f"{line['seconds']:.2f}",
            f"{line['rows'] / line['seconds']:.0f}",
            f"{line['tokens']:,}",
            f"{peft[json.dumps(line['shape'])]['seconds'] / line['seconds']:.1f}",
            f"{line['peak_bytes'] / 1e9:.2f}",
        ]
        for line in kept
    ]
    first = kept[0]
    worst = max(line["worst"] for line in kept)
    said = (
        f"The same labels are chosen, and log p(label | row) is equal to {worst:.1e} (asserted: "
        f"{AGREEMENT:.0e})."
    )
    more = (
        f"{first['rows']:,} questions of TREC, {first['labels']} labels as words, {first['slots']} "
        f"virtual tokens in front, batches of {first['batch']} rows of like length, float32"
    )
    return "\n".join([markdown(head, rows), "", said, settings_line(kept, more)])


def model_name(shape: Line | None) -> str:
    """As the table has it."""
    if shape is None:
        return "ptune-tiny"
    return (
        f"{shape['kind']}, {shape['layers']} layers of {shape['hidden']}, vocabulary "
        f"{shape['vocabulary']:,}"
    )


# ---- a measured process ----


def work(job: Line) -> None:
    """Score the next rows whenever asked."""
    import torch

    torch.manual_seed(SEED)
    rows = Rows(job)
    own = job["side"] == "ptune"
    with torch.no_grad(), rows.backbone.injected() if own else nullcontext():
        score = own_scorer(rows) if own else peft_scorer(rows)
        rounds = rows.rounds()
        serve({}, {"step": lambda: scored(score, next(rounds)), "memory": peak_memory})


def scored(score: Callable[[Any], tuple[Any, int]], batches: Sequence[Any]) -> Line:
    """Time some batches; log p of every label of each of their rows."""
    start = time.perf_counter()
    found = [score(batch) for batch in batches]
    seconds = time.perf_counter() - start
    scores = [row for table, _ in found for row in table.log_softmax(dim=-1).tolist()]
    return {"seconds": seconds, "scores": scores, "tokens": sum(tokens for _, tokens in found)}


class Rows:
    """The rows of TREC on the job's model: examples, in batches of like length."""

    def __init__(self, job: Line) -> None:
        import torch

        from ptune.backbone import Backbone
        from ptune.data import answers_of, draw_rows, load_rows
        from ptune.evaluation import by_length
        from ptune.tasks import TaskOptions, make_task
        from ptune.template import Template

        small = Backbone.load("ptune-tiny")
        self.backbone = small
        if job["shape"] is not None:
            model = random_model(KINDS[job["shape"]["kind"]](job["shape"]), "float32")
            self.backbone = Backbone(model, small.tokenizer, "random")
        drawn = draw_rows(load_rows(f"{job['data']}/train.csv"), job["rows"], SEED)
        answers = answers_of(drawn, "label", "single-label")
        self.task = make_task(
            "causal-lm",
            Template.parse(f"{{soft:{SLOTS}}}{TASK.template}"),
            self.backbone,
            TaskOptions(labels=sorted(TASK.words), verbalizer=TASK.words),
        )
        self.words = [self.task.layout.label_ids(TASK.words[name]) for name in self.task.labels]
        self.vectors = self.backbone.embed(range(100, 100 + SLOTS))
        self.vectors += 0.1 * self.vectors.std() * torch.randn(self.vectors.shape)
        examples = self.task.examples(drawn, answers)
        self.batches = [[examples[i] for i in group] for group in by_length(examples, BATCH)]

    def rounds(self) -> Iterator[list[Any]]:
        """Some batches at a time: the first ones to warm up, then all."""
        yield self.batches[:1]
        for at in range(0, len(self.batches), BATCHES_A_ROUND):
            yield self.batches[at : at + BATCHES_A_ROUND]


def own_scorer(rows: Rows) -> Callable[[Any], tuple[Any, int]]:
    """As `ptune evaluate` and `ptune predict` score."""
    import torch

    from ptune.batch import PromptTensors
    from ptune.run import run

    prompt = PromptTensors(vectors=rows.vectors)

    def score(examples: Any) -> tuple[Any, int]:
        batch = rows.backbone.pack([example.sequence for example in examples])
        read = run(rows.backbone, [prompt], batch, read=rows.task.read)
        said = rows.task.predict(read, examples, None)
        shares = [[one.probabilities[label] for label in rows.task.labels] for one in said]
        return torch.tensor(shares).log(), batch.real_tokens

    return score


def peft_scorer(rows: Rows) -> Callable[[Any], tuple[Any, int]]:
    """One forward pass a label, as a script with PEFT does it."""
    import peft
    import torch

    from ptune.bench.peer import padded_inputs
    from ptune.trainable import IGNORED

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=SLOTS)
    wrapped = peft.get_peft_model(rows.backbone.model, config).eval()
    wrapped.prompt_encoder["default"].embedding.weight.copy_(rows.vectors)

    def score(examples: Any) -> tuple[Any, int]:
        scores, tokens = [], 0
        for word in rows.words:
            texts = [[id for id in e.sequence.ids if id >= 0] for e in examples]
            inputs = padded_inputs(rows.backbone, [(tuple(t), word) for t in texts], None)
            labels = inputs.pop("labels")[:, 1:]
            logits = wrapped(**inputs).logits[:, SLOTS:-1]
            each = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
            )
            scores.append(-each.view(labels.shape).sum(dim=1))
            tokens += inputs["input_ids"].numel() + SLOTS * len(examples)
        return torch.stack(scores, dim=1), tokens

    return score


def main() -> None:
    """Measure, print the table, and fail where the scores differ."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--shape", choices=["bloom", "llama"], help="random weights instead")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--quick", action="store_true", help="96 rows")
    parser.add_argument("--work", help="used by the script itself: be a measured process")
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    if args.quick:
        args.rows = 96
    lines = measure(args)
    for line in lines:
        write_line(args.json, line)
    print(table(lines))


if __name__ == "__main__":
    main()
