"""Prompts for an encoder-decoder: a tiny T5 that copies or reverses, steered by a prompt alone.

    the model's own training     one ant bee cat -> ant bee cat      two ant bee cat -> cat bee ant
    a prompt's training              ant bee cat -> cat bee ant      (no word says which)

The T5 (one layer a side) is trained here in a moment, the same every time. Then it is frozen, and a
prompt has to make it reverse: with ptune's methods, and with PEFT's on the same rows, in the same
order, with as many steps (of which ptune keeps the mean of the last ones). Each side takes the step
size from a grid that is best on 64 rows held out (or the default, where its name says so), and is
scored once on 256 others, by the share of rows generated right to the letter.

    python bench/seq2seq.py --json bench/results/seq2seq.jsonl
    python bench/seq2seq.py --seeds 1 --steps 20                     a quick try
"""

import random
import statistics
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common import (
    Line,
    averaged,
    edge_said,
    latest,
    machine,
    markdown,
    mean_spread,
    no_peft,
    no_prefixes,
    numbers,
    options,
    rate_told,
    read_lines,
    seeds_told,
    settings_line,
    spread_said,
    write_line,
)

WORDS = ["ant", "bee", "cat", "cow", "dog", "elk", "emu", "fox", "hen", "owl", "pig", "rat"]
SPECIAL = ["<pad>", "<unk>", "</s>", "one", "two"]
PAD, UNK, END, ONE, TWO = range(5)
LENGTH, SLOTS, BATCH = 3, 4, 16
TRAIN, HELD_OUT, TEST = 256, 64, 256
GRID = (0.03, 0.1, 0.3, 1.0)  # for both
OWN: Mapping[str, Mapping[str, Any]] = {
    "ptune prompt-tuning": {"method": "prompt-tuning", "template": f"{{soft:{SLOTS}}}{{text}}"},
    "ptune p-tuning": {"method": "p-tuning", "template": f"{{soft:{SLOTS}}}{{text}}"},
    "ptune p-tuning-v2": {"method": "p-tuning-v2", "template": "{text}"},
    "ptune p-tuning-v2, from a text": {
        "method": "p-tuning-v2",
        "template": "{text}",
        "init": "vocabulary",
    },
    "ptune p-tuning-v2, default step size": {
        "method": "p-tuning-v2",
        "template": "{text}",
        "lr": 0.06,
    },
    "ptune p-tuning-v2, from a text, default step size": {
        "method": "p-tuning-v2",
        "template": "{text}",
        "init": "vocabulary",
        "lr": 0.06,
    },
    "ptune p-tuning-v2, encoder": {
        "method": "p-tuning-v2",
        "template": "{text}",
        "sites": ["encoder"],
    },
    "ptune p-tuning-v2, decoder": {
        "method": "p-tuning-v2",
        "template": "{text}",
        "sites": ["decoder"],
    },
    "ptune p-tuning-v2, cross": {"method": "p-tuning-v2", "template": "{text}", "sites": ["cross"]},
}
PREFIX = "PEFT prefix tuning"
PEERS = {"PEFT prompt tuning": "PromptTuningConfig", PREFIX: "PrefixTuningConfig"}

Row = dict[str, str]


def main() -> None:
    """Measure every side and print the table."""
    parser = options(__doc__, threads=1)
    parser.add_argument("--seeds", default="3", help="a count, a list or ranges")
    parser.add_argument("--sides", nargs="+", default=[*OWN, *PEERS], help="all where left out")
    parser.add_argument("--steps", type=int, default=100, help="of each prompt")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    lines = read_lines(args.json)
    for line in measure(args):
        write_line(args.json, line)
        lines.append(line)
        print(line["side"], line["scores"], file=sys.stderr)
    print(table(lines))


def measure(args: Namespace) -> Iterator[Line]:
    """One line of results a side, as soon as it is there."""
    import torch

    from ptune.config import Recipe

    torch.set_num_threads(args.threads)
    average = Recipe.make().resolved().average
    backbone = trained()
    rows = reversing(TRAIN + HELD_OUT + TEST)
    parts = rows[:TRAIN], rows[TRAIN : TRAIN + HELD_OUT], rows[TRAIN + HELD_OUT :]
    common = {"bench": "seq2seq", "steps": args.steps, "slots": SLOTS, "batch": BATCH}
    common |= {"parameters": backbone.parameters}
    common |= machine(args.threads)
    for name, rows_of in (("no prompt", "{text}"), ("the word for it", "two {text}")):
        score = plain(backbone, parts[2], rows_of)
        yield common | {"side": name, "scores": [score], "trained": 0}
    common |= {"seeds": numbers(args.seeds)}
    for name, settings in OWN.items():
        if name not in args.sides:
            continue
        best = _best(own_side(backbone, parts, settings, args))
        yield common | {"side": name, "average": average} | best
    for name, config in PEERS.items():
        if name not in args.sides or _left_out(name):
            continue
        yield common | {"side": name} | _best(peft_side(backbone, parts, config, args))


def _left_out(name: str) -> bool:
    """Say why a side of PEFT's cannot be measured here, if it cannot."""
    why = no_prefixes() if name == PREFIX else no_peft()
    if why:
        print(f"{name}: left out. {why}", file=sys.stderr)
    return why is not None


def _best(runs: Mapping[float, Sequence[tuple[float, float, int]]]) -> Line:
    """The step size whose runs are best on the rows held out, and their scores on the others."""
    lr = max(runs, key=lambda one: statistics.mean(held_out for held_out, _, _ in runs[one]))
    return {
        "lr": lr,
        "tried": sorted(runs),
        "scores": [test for _, test, _ in runs[lr]],
        "trained": runs[lr][0][2],
    }


# ------------------------------------------------------------------------------- the backbone


def tokenizer() -> Any:
    """One token a word; the end token behind every text, as T5's does it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


def trained(steps: int = 300) -> Any:
    """A backbone that copies behind "one" and reverses behind "two"."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from ptune import Backbone

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=len(SPECIAL) + len(WORDS),
                d_model=48,
                d_kv=12,
                d_ff=96,
                num_layers=1,
                num_heads=4,
                relative_attention_num_buckets=8,
                relative_attention_max_distance=10,
                dropout_rate=0.0,
                pad_token_id=PAD,
                eos_token_id=END,
                decoder_start_token_id=PAD,
            )
        )
        _teach(model, steps)
    return Backbone.load(model, tokenizer=tokenizer())


def _teach(model: Any, steps: int) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for step in range(steps):
        words = torch.randint(len(SPECIAL), len(SPECIAL) + len(WORDS), (64, LENGTH))
        backwards = torch.randint(2, (64, 1))
        end = torch.full((64, 1), END)
        asked = torch.cat([ONE + backwards, words, end], 1)
        said = torch.cat([torch.where(backwards == 1, words.flip(1), words), end], 1)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 50, (steps - step) / 150)
        model(input_ids=asked, labels=said).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def reversing(count: int, seed: int = 1) -> list[Row]:
    """Rows without the word that says what to do; the answer is the row backwards."""
    draw = random.Random(seed)
    every = {tuple(draw.sample(WORDS, LENGTH)): None for _ in range(4 * count)}
    return [{"text": " ".join(one), "label": " ".join(one[::-1])} for one in list(every)[:count]]


# ------------------------------------------------------------------------------- the sides


def plain(backbone: Any, rows: Sequence[Row], template: str) -> float:
    """What the model does without a prompt."""
    from ptune.batch import PromptTensors
    from ptune.evaluation import evaluate_examples
    from ptune.tasks import TaskOptions, make_task
    from ptune.template import Template

    options = TaskOptions(max_new_tokens=LENGTH + 1)
    task = make_task("seq2seq-lm", Template.parse(template), backbone, options)
    examples = task.examples(rows, [row["label"] for row in rows])
    found = evaluate_examples(backbone, PromptTensors(), task, None, examples, batch_size=TEST)
    return found.scores["exact_match"]


def own_side(
    backbone: Any, parts: Sequence[Sequence[Row]], settings: Mapping[str, Any], args: Namespace
) -> dict[float, list[tuple[float, float, int]]]:
    """Every step size and seed: scores on the rows held out and on the others, numbers trained."""
    runs: dict[float, list[tuple[float, float, int]]] = {}
    for lr in [settings["lr"]] if "lr" in settings else GRID:
        for seed in numbers(args.seeds):
            more = {"lr": lr, "seed": seed, "max_steps": args.steps}
            result = train(backbone, parts, settings, **more)
            scores = [result.scores[part]["exact_match"] for part in ("validation", "test")]
            runs.setdefault(lr, []).append((*scores, result.prompt.trained_parameters))
    return runs


def train(
    backbone: Any, parts: Sequence[Sequence[Row]], settings: Mapping[str, Any], **more: Any
) -> Any:
    """One prompt of ptune's."""
    import ptune

    common = {
        "task": "seq2seq-lm",
        "answer": "text",
        "max_new_tokens": LENGTH + 1,
        "prompt_length": SLOTS,
        "batch_size": BATCH,
        "epochs": 1000,  # max_steps counts
        "evaluate_every": 10**9,
        "evaluation_batch_size": TEST,
    }
    rows, held_out, test = parts
    settings = {**common, **settings, **more}
    return ptune.train(backbone, rows, validation=held_out, test=test, **settings)


def peft_side(
    backbone: Any, parts: Sequence[Sequence[Row]], config: str, args: Namespace
) -> dict[float, list[tuple[float, float, int]]]:
    """The same of a method of PEFT's."""
    return {
        lr: [_peft_run(backbone, parts, config, lr, seed, args) for seed in numbers(args.seeds)]
        for lr in GRID
    }


def _peft_run(
    backbone: Any,
    parts: Sequence[Sequence[Row]],
    config: str,
    lr: float,
    seed: int,
    args: Namespace,
) -> tuple[float, float, int]:
    import copy

    import peft
    import torch

    from ptune.training.schedule import Plan, lr_share

    torch.manual_seed(seed)
    made = getattr(peft, config)(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=SLOTS)
    model = peft.get_peft_model(copy.deepcopy(backbone.model), made).eval()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    rows = parts[0]
    asked, said = (_ids(backbone, [row[key] for row in rows]) for key in ("text", "label"))
    plan = Plan.make(len(rows), rows_per_step=BATCH, epochs=1000, max_steps=args.steps, seed=seed)
    for step in range(plan.steps):
        for group in optimizer.param_groups:
            share = lr_share(step, plan, warmup=round(0.06 * plan.steps), kind="linear")
            group["lr"] = lr * share
        chosen = plan.rows_of(step)
        mask = torch.ones_like(asked[chosen])
        model(input_ids=asked[chosen], attention_mask=mask, labels=said[chosen]).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    scores = [_peft_score(backbone, model, part) for part in parts[1:]]
    return scores[0], scores[1], sum(p.numel() for p in learned)


def _ids(backbone: Any, texts: Sequence[str]) -> Any:
    import torch

    return torch.tensor(backbone.tokenizer(texts)["input_ids"])


def _peft_score(backbone: Any, model: Any, rows: Sequence[Row]) -> float:
    import torch

    asked = _ids(backbone, [row["text"] for row in rows])
    with torch.no_grad():
        answer = model.generate(
            input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=LENGTH + 1
        )
    texts = backbone.tokenizer.batch_decode(answer, skip_special_tokens=True)
    right = [text.strip() == row["label"] for text, row in zip(texts, rows, strict=True)]
    return sum(right) / len(right)


# ------------------------------------------------------------------------------- the table


def table(lines: Sequence[Line]) -> str:
    """Exact match of every side, mean and spread over the seeds."""
    lines = latest(lines, "side")
    if not lines:
        return "Nothing was measured yet."
    rows = [
        (
            line["side"],
            f"{line['trained']:,}",
            rate_told(line["lr"], line.get("tried", ())) if "lr" in line else "",
            mean_spread(line["scores"]),
            seeds_told(line.get("seeds", range(len(line["scores"])))) if line["trained"] else "",
        )
        for line in lines
    ]
    shown = markdown(["side", "trained numbers", "step size", "exact match, %", "seeds"], rows)
    said = [
        f"{lines[0]['steps']} steps of {BATCH} rows, {SLOTS} virtual tokens",
        f"a T5 of {lines[0]['parameters']:,} parameters",
    ]
    prompts = [line for line in lines if line["side"] in OWN]
    said += [*spread_said(shown), *edge_said(shown), *averaged(prompts)]
    return f"{shown}\n\n{settings_line(lines, *said)}"


if __name__ == "__main__":
    main()
