"""The classic job's shape: seconds a step and peak memory of ptune, next to PEFT.

The model has the configuration of BLOOM-560m (24 layers, hidden 1024, 16 heads, vocabulary 250,880)
with random weights, the same in every process. 20 virtual tokens, batches of 8 real tweets
(twitter_complaints). BLOOM's tokenizer is not at hand offline: the ids are those of ptune-tiny's
tokenizer, which are valid ids here.

    peft              every row padded (left) to 64, labels -100 outside the label, all logits
    ptune vocabulary  packed; the same loss, computed at the label's positions alone
    ptune labels      packed; ptune's default loss, over the label words (another loss!)

Every side is a process of its own (peak memory: its ru_maxrss, weights included); the sides take
one step each in turn. All see the same rows in the same order and start from the same prompt
vectors, PEFT's random start. In float32, prompt-tuning of PEFT and ptune vocabulary is the same
computation, so their losses must agree to 1e-4 at every step; with an encoder (p-tuning) the
networks of the two differ, so the first losses must agree. The script fails where they do not.
The first step warms up and is not timed.

Floor: 4 x body parameters x real tokens (the prompt once) + 4 x vocabulary x hidden x positions
that ask for the whole vocabulary, in FLOPs, at the matrix peak measured in the same run: the best
rate among the products that the body makes and a large square.

    python bench/classic_job.py --json bench/results/classic_job.jsonl
    python bench/classic_job.py --layers 2 --steps 2          a quick try
"""

import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    Line,
    find_data,
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

from ptune.bench.measure import AGREEMENT, Worker, largest_difference, start_peak
from ptune.bench.process import in_turn, peak_memory, serve, spread

SLOTS, BATCH, PADDED, LR, SEED = 20, 8, 64, 3e-2, 0
TEMPLATE = f"{{soft:{SLOTS}}}Tweet text : {{text}} Label : {{label}}"
METHODS = ("prompt-tuning", "p-tuning")


@dataclass(frozen=True)
class Side:
    """One process: a library, a loss and a number format."""

    library: str
    loss: str
    dtype: str
    autocast: bool = False

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.library} {self.loss}" if self.library == "ptune" else self.library

    @property
    def format(self) -> str:
        """Number format, as the table has it."""
        return "bf16 autocast" if self.autocast else self.dtype


SIDES = {
    "float32": (
        Side("peft", "vocabulary", "float32"),
        Side("ptune", "vocabulary", "float32"),
        Side("ptune", "labels", "float32"),
    ),
    "bfloat16": (
        Side("peft", "vocabulary", "float32", autocast=True),
        Side("peft", "vocabulary", "bfloat16"),
        Side("ptune", "vocabulary", "bfloat16"),
        Side("ptune", "labels", "bfloat16"),
    ),
}


# ---- the process that asks ----


def measure(args: Namespace, method: str, dtype: str) -> list[Line]:
    """Run all sides of a method and a number format in turn; one line of results a side."""
    shape = {"layers": args.layers, "hidden": args.hidden, "vocabulary": args.vocabulary}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        job = {
            "method": method,
            "encoder": args.encoder,
            "data": str(find_data("twitter_complaints", args.data)),
            "start": str(Path(folder) / "start.pt"),
            **shape,
        }
        processes = []
        for side in SIDES[dtype]:  # PEFT first: it writes the start that the others read
            process = measured(__file__, job | asdict(side), args.threads)
            stack.callback(process.close)
            processes.append((side, process))
        peak = start_peak(Worker(threads=args.threads), dtype=dtype, width=args.hidden)
        stack.callback(peak.close)
        rates = [peak.ask("step")]
        steps = in_turn(
            [process for _, process in processes],
            args.steps + 1,
            tell=partial(told, [f"{method} {side.format} {side.name}" for side in SIDES[dtype]]),
        )
        rates.append(peak.ask("step"))
        memory = [process.ask("memory") for _, process in processes]
    best = {name: max(rate[name] for rate in rates) for name in rates[0]}
    common = {"bench": "classic_job", "method": method, "encoder": args.encoder, **shape}
    common |= {"steps": args.steps, "batch": BATCH, "slots": SLOTS, "padded_to": PADDED}
    common |= {"seed": SEED, "lr": LR, "gflops": best, **machine(args.threads)}
    return [
        common | _line(side, process.facts, steps[index], memory[index], max(best.values()))
        for index, (side, process) in enumerate(processes)
    ]


def _line(side: Side, facts: Line, steps: Sequence[Line], memory: Line, gflops: float) -> Line:
    floors = [step["flops"] / gflops / 1e9 for step in steps[1:]]
    return {
        "side": side.name,
        "format": side.format,
        **spread([step["seconds"] for step in steps[1:]]),
        "floor": statistics.median(floors),
        "tokens": statistics.median(step["tokens"] for step in steps[1:]),
        "reads": statistics.median(step["reads"] for step in steps[1:]),
        "losses": [step["loss"] for step in steps],
        **facts,
        **memory,
    }


def check_losses(lines: Sequence[Line]) -> str:
    """Compare PEFT's losses with those of ptune vocabulary in float32.

    Raises:
        SystemExit: they differ by more than `AGREEMENT` where they must not.
    """
    by_side = {line["side"]: line["losses"] for line in lines if line["format"] == "float32"}
    if not by_side:
        return ""
    method = lines[0]["method"]
    count = 1 if method == "p-tuning" else len(by_side["peft"])
    peft, own = by_side["peft"][:count], by_side["ptune vocabulary"][:count]
    worst = largest_difference(peft, own)
    if not worst <= AGREEMENT:
        sys.exit(f"{method}: the losses of PEFT and ptune differ by {worst:.2e}: {peft}, {own}")
    said = "the first loss is" if count == 1 else f"all {count} losses are"
    return f"{method}, float32: {said} equal to PEFT's to {worst:.1e} (asserted: {AGREEMENT:.0e})."


def table(lines: Sequence[Line]) -> str:
    """The table of some results, the last ones of each side."""
    keys = ("method", "format", "side", "layers")
    last = {tuple(line[key] for key in keys): line for line in lines}
    kept = list(last.values())
    if not kept:
        return "Nothing was measured yet."
    plain = {line["method"]: line for line in kept if line["side"] == "peft" and _plain(line)}
    head = ["method", "format", "side", "s / step", "fastest .. slowest", "times the floor",
            "times as fast as PEFT fp32", "as PEFT here", "peak GB",
            "loss, first .. last"]  # fmt: skip
    rows = []
    for line in kept:
        peers = [
            other
            for other in kept
            if other["side"] == "peft"
            and other["method"] == line["method"]
            and other["layers"] == line["layers"]
            and _plain(other) == _plain(line)
        ]
        here = min(peers, key=lambda other: other["seconds"])
        rows.append(_row(line, plain.get(line["method"]), here))
    return "\n".join([markdown(head, rows), "", *_notes(kept)])


def _plain(line: Line) -> bool:
    return bool(line["format"] == "float32")


def _row(line: Line, plain: Line | None, here: Line) -> list[str]:
    return [
        line["method"],
        line["format"],
        line["side"],
        f"{line['seconds']:.2f}",
        f"{line['fastest']:.2f} .. {line['slowest']:.2f}",
        f"{line['seconds'] / line['floor']:.2f} ({line['floor']:.2f} s)",
        "" if plain is None else f"{plain['seconds'] / line['seconds']:.1f}",
        f"{here['seconds'] / line['seconds']:.1f}",
        f"{line['peak_bytes'] / 1e9:.2f}",
        f"{line['losses'][0]:.4f} .. {line['losses'][-1]:.4f}",
    ]


def _notes(lines: Sequence[Line]) -> Iterator[str]:
    first = lines[0]
    for method in dict.fromkeys(line["method"] for line in lines):
        yield check_losses([line for line in lines if line["method"] == method])
    yield (
        "`as PEFT here`: as PEFT in float32 for float32, and as the faster of PEFT's two sides in "
        "bfloat16 (autocast or weights) for the others. `times the floor`: seconds over 4 x body "
        "parameters x real tokens (prompt once) + 4 x vocabulary x hidden x read positions, at the "
        "matrix peak of the same run. ptune labels has another loss: ptune's default, over the "
        "label words."
    )
    rates = {("float32" if _plain(line) else "bfloat16"): line["gflops"] for line in lines}
    said = "; ".join(
        f"GFLOP/s in {name}: {', '.join(f'{k} {v:.0f}' for k, v in found.items())}"
        for name, found in rates.items()
    )
    counts = {("float32" if _plain(line) else "bfloat16"): line["steps"] for line in lines}
    encoders = dict.fromkeys(li["encoder"] for li in lines if li["method"] == "p-tuning")
    steps = " and ".join(f"{count} ({name})" for name, count in counts.items())
    yield settings_line(
        lines,
        f"BLOOM-560m configuration with {first['layers']} layers, random weights, "
        f"{first['slots']} virtual tokens, batch {first['batch']}, rows of at most "
        f"{first['padded_to']} tokens of ptune-tiny's tokenizer",
        f"median of {steps} steps after one to warm up, seed {first['seed']}, "
        f"AdamW at {first['lr']}",
        *(f"p-tuning encoder {name}" for name in encoders),
        said,
    )


def main() -> None:
    """Measure, print the table, and fail where the losses differ."""
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--layers", type=int, default=24, help="fewer for a quick try")
    parser.add_argument("--hidden", type=int, default=1024, help="width of the model")
    parser.add_argument("--vocabulary", type=int, default=250_880, help="of the model")
    parser.add_argument("--dtype", choices=[*SIDES, "both"], default="both")
    parser.add_argument("--method", choices=[*METHODS, "both"], default="both")
    parser.add_argument("--encoder", choices=["mlp", "lstm"], default="mlp", help="of p-tuning")
    parser.add_argument("--work", help="used by the script itself: be a measured process")
    args = parser.parse_args()
    if args.work:
        work(json.loads(args.work))
        return
    if args.table:
        print(table(read_lines(args.table)))
        return
    require_peft()
    lines: list[Line] = []
    for method in METHODS if args.method == "both" else [args.method]:
        for dtype in SIDES if args.dtype == "both" else [args.dtype]:
            found = measure(args, method, dtype)
            check_losses(found)
            for line in found:
                write_line(args.json, line)
            lines += found
    print(table(lines))


# ---- a measured process ----


def work(job: Line) -> None:
    """Prepare, say so, and do what is asked until nobody asks any more."""
    with learner(job) as (facts, step):
        serve(facts, {"step": step, "memory": peak_memory})


@dataclass(frozen=True)
class Tweets:
    """The rows of every step, as a task encodes them, and the tokenizer that spelled them."""

    task: Any
    batches: list[list[Any]]
    tokenizer: Any


def tweets(folder: str, loss: str) -> Tweets:
    """The training rows in batches, in an order drawn by seed; a short last batch is left out."""
    from ptune.backbone import Backbone
    from ptune.data import labels_of, load_rows
    from ptune.tasks import TaskOptions, make_task
    from ptune.template import Template
    from ptune.training.schedule import Plan

    rows = load_rows(Path(folder) / "train.csv")
    answers = labels_of(rows, "label")
    small = Backbone.load("ptune-tiny")  # for its tokenizer; it is let go at once
    task = make_task(
        "causal-lm",
        Template.parse(TEMPLATE),
        small,
        TaskOptions(labels=sorted(set(answers)), loss=loss, max_tokens=SLOTS + PADDED),
    )
    examples = task.training_examples(rows, answers)
    whole = len(rows) // BATCH * BATCH
    plan = Plan.make(whole, rows_per_step=BATCH, epochs=1, max_steps=None, seed=SEED)
    batches = [[examples[i] for i in plan.rows_of(step)] for step in range(plan.steps)]
    return Tweets(task, batches, small.tokenizer)


@contextmanager
def learner(job: Line) -> Iterator[tuple[Line, Any]]:
    """A side that is ready: what is to be known of it, and a function that takes one step."""
    import torch
    from shapes import bloom, random_model

    from ptune.bench.floor import body_parameters, step_flops

    data = tweets(job["data"], job["loss"])
    torch.manual_seed(SEED)
    model = random_model(bloom(job), job["dtype"])
    body = body_parameters(model.transformer)
    head = job["vocabulary"] * job["hidden"]
    make = _peft_side if job["library"] == "peft" else _ptune_side
    with make(job, model, data) as (trained, loss_of):
        optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
        count = 0

        def step() -> Line:
            nonlocal count
            examples = data.batches[count % len(data.batches)]
            count += 1
            start = time.perf_counter()
            loss = loss_of(examples)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds = time.perf_counter() - start
            tokens, reads = floor_counts(examples, over_labels=job["loss"] == "labels")
            flops = step_flops(body=body, tokens=tokens, head=head, reads=reads)
            return {"seconds": seconds, "loss": float(loss.detach()), "tokens": tokens,
                    "reads": reads, "flops": flops}  # fmt: skip

        facts = {"body_parameters": body, "trained": sum(p.numel() for p in trained)}
        yield facts, step


@contextmanager
def _ptune_side(job: Line, model: Any, data: Tweets) -> Iterator[Any]:
    import torch

    from ptune.backbone import Backbone
    from ptune.encoders import EmbeddingEncoder, LSTMEncoder, MLPEncoder
    from ptune.run import run
    from ptune.trainable import TrainablePrompt

    backbone = Backbone(model, data.tokenizer, "bloom-560m's shape")
    initial = torch.load(job["start"])
    encoders = {"mlp": MLPEncoder, "lstm": LSTMEncoder}
    kind = encoders[job["encoder"]] if job["method"] == "p-tuning" else EmbeddingEncoder
    prompt = TrainablePrompt(shallow=kind(SLOTS, backbone.geometry.width, initial=initial))

    def loss_of(examples: Any) -> Any:
        batch = backbone.pack([example.sequence for example in examples])
        read = run(backbone, [prompt.tensors()], batch, read="words")
        losses = data.task.loss(read, examples, None)
        if job["loss"] == "vocabulary":  # PEFT's mean is over label tokens, ptune's over rows
            lengths = torch.tensor([float(len(e.target)) for e in examples])
            losses = losses * lengths * len(lengths) / lengths.sum()
        return losses.mean()

    with backbone.injected():
        yield list(prompt.parameters()), loss_of


@contextmanager
def _peft_side(job: Line, model: Any, data: Tweets) -> Iterator[Any]:
    import peft
    import torch

    if job["method"] == "p-tuning":
        config = peft.PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=SLOTS,
            encoder_reparameterization_type=job["encoder"].upper(),
            encoder_hidden_size=job["hidden"],
        )
    else:
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=SLOTS)
    wrapped = peft.get_peft_model(model, config).train()
    start = wrapped.get_prompt(batch_size=1)[0].detach().float().clone()
    if not Path(job["start"]).exists():
        torch.save(start, job["start"])
    elif job["method"] == "prompt-tuning":
        with torch.no_grad():
            wrapped.prompt_encoder["default"].embedding.weight.copy_(torch.load(job["start"]))

    def loss_of(examples: Any) -> Any:
        inputs = padded(examples, data.tokenizer.pad_token_id)
        automatic: AbstractContextManager[Any] = nullcontext()
        if job["autocast"]:
            automatic = torch.autocast("cpu", torch.bfloat16)
        with automatic:
            loss = wrapped(**inputs).loss
        return loss

    yield [p for p in wrapped.parameters() if p.requires_grad], loss_of


def padded(examples: Sequence[Any], padding: int) -> Line:
    """Rows as the well-known script makes them: padded left to one length, labels at the end."""
    import torch

    ids, mask, labels = [], [], []
    for example in examples:
        label = example.target
        row = [i for i in example.sequence.ids if i >= 0][: -(len(label) - 1) or None]
        pads = PADDED - len(row) - len(label)
        ids.append([padding] * pads + row + list(label))
        mask.append([0] * pads + [1] * (PADDED - pads))
        labels.append([-100] * (pads + len(row)) + list(label))
    names = ("input_ids", "attention_mask", "labels")
    return {n: torch.tensor(v) for n, v in zip(names, (ids, mask, labels), strict=True)}


def floor_counts(examples: Sequence[Any], *, over_labels: bool) -> tuple[int, int]:
    """Tokens and reads that this batch needs at least: the prompt and equal text in front once."""
    from ptune.bench.floor import count

    counts = count([e.sequence for e in examples], share=True, over_labels=over_labels)
    return counts.real, counts.words


if __name__ == "__main__":
    main()
