"""A deep prompt in the upper third of the layers, with the frozen trunk remembered.

The model has the configuration of BERT-base (12 layers, width 768, 12 heads) with random weights;
its vocabulary is that of ptune-tiny's tokenizer, whose ids the rows have (no step's cost depends on
the vocabulary here: nothing but the embedding reads it). P-tuning v2 with 20 positions a layer and
a head over two labels; batches of 32 rows of SST-2, in an order drawn by seed.

    all layers                a prompt in each of the 12 layers
    upper third               a prompt in layers 8 .. 11; the others run forward only, every step
    upper third, remembered   the same prompt; what the others compute is kept from the first epoch

All sides live in one process and take a step each in turn, over the same batches, twice: the first
epoch fills what is remembered (and warms up the others), the second is timed. The two sides of the
upper third are the same computation, so their losses must agree to 1e-5 at every step of both
epochs; the script fails where they do not.

The most that can be won follows from the products with the weights of a layer, which take as long
backward as forward (the lowest layer with a prompt passes no gradient on to its queries, keys and
values: a quarter of its products): (12 + 11.75) / (4 + 3.75) = 3.06 for the upper third of 12.

    python bench/upper_layers.py --json bench/results/upper_layers.jsonl
    python bench/upper_layers.py --layers 3 --steps 2          a quick try
"""

import os
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common import (
    Line,
    find_data,
    machine,
    markdown,
    options,
    read_lines,
    settings_line,
    write_line,
)

from ptune.bench.process import ALLOCATION

SLOTS, BATCH, LR, SEED = 20, 32, 1e-2, 0
AGREEMENT = 1e-5
ALL, UPPER, REMEMBERED = "all layers", "upper third", "upper third, remembered"


@dataclass
class Side:
    """A prompt that learns: where it stands, what one step costs, and what its losses were."""

    name: str
    first_layer: int
    step: Any
    seconds: list[list[float]] = field(default_factory=lambda: [[], []])
    losses: list[float] = field(default_factory=list)


def measure(args: Namespace) -> list[Line]:
    """Two epochs of all sides in turn; one line of results a side."""
    import torch

    torch.set_num_threads(args.threads)
    task, batches, backbone = job(args)
    third = args.layers - args.layers // 3
    sides = [
        Side(ALL, 0, learner(task, backbone, 0, ())),
        Side(UPPER, third, learner(task, backbone, third, ())),
        Side(REMEMBERED, third, learner(task, backbone, third, batches)),
    ]
    with backbone.injected():
        for epoch in (0, 1):
            for number, batch in enumerate(batches):
                for side in sides:
                    start = time.perf_counter()
                    side.losses.append(side.step(batch))
                    side.seconds[epoch].append(time.perf_counter() - start)
                said = ", ".join(f"{s.name} {s.seconds[epoch][-1]:.2f} s" for s in sides)
                print(f"  epoch {epoch + 1}, step {number + 1}: {said}", file=sys.stderr)
    tokens = [backbone.pack([e.sequence for e in batch]).real_tokens for batch in batches]
    common = {"bench": "upper_layers", "layers": args.layers, "hidden": args.hidden}
    common |= {"batch": BATCH, "slots": SLOTS, "steps": len(batches), "seed": SEED}
    common |= {"tokens": statistics.median(tokens), "vocabulary": backbone.geometry.num_embeddings}
    common |= {"longest": max(len(e.sequence.ids) for batch in batches for e in batch)}
    return [common | _line(side) | machine(args.threads) for side in sides]


def _line(side: Side) -> Line:
    first, second = side.seconds
    return {
        "side": side.name,
        "first_layer": side.first_layer,
        "first_epoch": statistics.median(first),
        "seconds": statistics.median(second),
        "fastest": min(second),
        "slowest": max(second),
        "losses": side.losses,
    }


def job(args: Namespace) -> tuple[Any, list[list[Any]], Any]:
    """The task, its batches and the backbone."""
    import torch
    import transformers

    from ptune.backbone import Backbone
    from ptune.data import labels_of, load_rows
    from ptune.tasks import TaskOptions, make_task
    from ptune.template import Template
    from ptune.training.schedule import Plan

    rows = load_rows(find_data("sst2", args.data) / "train.csv")
    tokenizer = Backbone.load("ptune-tiny").tokenizer
    torch.manual_seed(SEED)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        intermediate_size=4 * args.hidden,
    )
    backbone = Backbone(transformers.BertModel(config), tokenizer, "BERT-base's shape")
    labels = sorted(set(labels_of(rows, "label")))
    template = Template.parse("{text}")
    task = make_task("sequence-classification", template, backbone, TaskOptions(labels=labels))
    plan = Plan.make(len(rows), rows_per_step=BATCH, epochs=1, max_steps=args.steps, seed=SEED)
    batches = []
    for step in range(plan.steps):
        chosen = [rows[at] for at in plan.rows_of(step)]
        batches.append(task.training_examples(chosen, [row["label"] for row in chosen]))
    return task, batches, backbone


def learner(task: Any, backbone: Any, first: int, remembered: Sequence[Sequence[Any]]) -> Any:
    """A function that takes one step with a prompt from layer `first` on.

    Args:
        remembered: the batches whose trunk is kept; none for the ordinary way.
    """
    import torch

    from ptune.encoders import PrefixEncoder
    from ptune.run import run
    from ptune.trainable import TrainablePrompt
    from ptune.trunk import Memory, Trunk, find_cut

    torch.manual_seed(SEED)
    sites = range(first, len(backbone.geometry.sites))
    deep = PrefixEncoder(SLOTS, [backbone.geometry.sites[site].shape for site in sites])
    head = task.head(backbone.geometry.hidden)
    prompt = TrainablePrompt(deep=deep, sites=sites, head=head)
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=LR, weight_decay=0.0)
    trunk = None
    if remembered:
        chunks = [[example.sequence for example in batch] for batch in remembered]
        cut = find_cut(backbone, first)
        trunk = Trunk(backbone, cut, chunks, store=Memory(), room=2_000_000_000)

    def step(examples: Sequence[Any]) -> float:
        sequences = [example.sequence for example in examples]
        batch, prompts = backbone.pack(sequences), [prompt.tensors()]
        entering = None if trunk is None else trunk.entering(sequences, prompts, batch)
        read = run(backbone, prompts, batch, read=task.read, entering=entering)
        loss = task.loss(read, examples, prompt.head).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def check_losses(lines: Sequence[Line]) -> str:
    """Compare the losses of the two sides of the upper third.

    Raises:
        SystemExit: they differ by more than `AGREEMENT`.
    """
    losses = {line["side"]: line["losses"] for line in lines}
    pairs = list(zip(losses[UPPER], losses[REMEMBERED], strict=True))
    apart = [abs(a - b) for a, b in pairs]
    if not all(one <= AGREEMENT for one in apart):  # nan is apart, too
        sys.exit(f"The losses with and without the memory differ: {pairs}")
    return (
        f"All {len(pairs)} losses of the upper third are the same with the trunk remembered, to "
        f"{max(apart):.1e} (asserted: {AGREEMENT:.0e})."
    )


def table(lines: Sequence[Line]) -> str:
    """Seconds a step of the second epoch, next to a prompt in all layers."""
    kept = list({line["side"]: line for line in lines}.values())  # the last one of each side
    if not kept:
        return "Not measured yet."
    whole = next(line for line in kept if line["side"] == ALL)
    head = ["deep prompt in", "s / step", "fastest .. slowest", "all layers / this",
            "s / step, first epoch", "loss"]  # fmt: skip
    rows = [
        [
            line["side"],
            f"{line['seconds']:.3f}",
            f"{line['fastest']:.3f} .. {line['slowest']:.3f}",
            f"{whole['seconds'] / line['seconds']:.2f}",
            f"{line['first_epoch']:.3f}",
            f"{line['losses'][0]:.4f} .. {line['losses'][-1]:.4f}",
        ]
        for line in kept
    ]
    said = settings_line(
        kept,
        f"BERT-base's configuration with {whole['layers']} layers of width {whole['hidden']}, "
        f"random weights, vocabulary {whole['vocabulary']:,}",
        f"{whole['slots']} positions a layer, batches of {whole['batch']} rows of SST-2, "
        f"{whole['tokens']:.0f} tokens (median), longest row {whole['longest']}",
        f"median of {whole['steps']} steps of the second epoch, seed {whole['seed']}, float32",
    )
    return "\n".join([markdown(head, rows), "", check_losses(kept), said])


def main() -> None:
    """Measure, print the table, and fail where the losses differ."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each side")
    parser.add_argument("--layers", type=int, default=12, help="fewer for a quick try")
    parser.add_argument("--hidden", type=int, default=768, help="width, a multiple of 64")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    # They are read when a process begins, so the script starts itself again.
    if any(os.environ.get(name) != value for name, value in ALLOCATION.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATION)
    lines = measure(args)
    check_losses(lines)
    for line in lines:
        write_line(args.json, line)
    print(table(lines))


if __name__ == "__main__":
    main()
