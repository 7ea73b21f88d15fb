"""Knowledge probing: facts that a small model can rank, by LAMA's templates and by trained prompts.

T-REx facts of LPAQA, relation by relation (up to 1,000 facts each; no split is given):

    split      by seed: 20 % to test, 20 % of the rest to choose the epoch by, the rest to train on
    facts      those whose object is one token of the model; at most 320 of them to train on
    manual     LAMA's template up to its object, untrained
    p-tuning   {soft:3} {subject}{soft:3} {label}, that is (3,3,0), through the LSTM
    v2         {subject} {label} with a deep prompt at all layers
    ranks      among the words of the model's own vocabulary that stand alone (`ptune vocabulary`)
    majority   always the most frequent object of the training facts: no knowledge of the subject

Scores on this split are no LAMA figures. Relations go in an order that is drawn by seed, so that a
part of them is a random part; what --output has is not measured again.

    python bench/lama.py --output runs/lama --json bench/results/lama.jsonl
    python bench/lama.py --relations 5                                       the first five
"""

import random
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from common import (
    Line,
    averaged,
    find_data,
    latest,
    machine,
    markdown,
    options,
    read_lines,
    settings_line,
    show,
    write_line,
)

from ptune.api import Backbone
from ptune.config import Recipe
from ptune.probing import Plan, find_facts, probe, shared_words

SEED, TEST_SHARE = 0, 0.2
METHODS = ("manual", "p-tuning", "p-tuning-v2")
NAMES = {"manual": "LAMA's template, untrained", "p-tuning": "P-tuning (3,3,0), LSTM"}
# 20 epochs are ptune's default on so few rows.
TRAINING = {"epochs": 20, "max_rows": 320, "batch_size": 16, "validation_share": 0.2, "seed": SEED}


def measure(args: Namespace) -> Iterator[Line]:
    """Probe one relation after another: a line of results for each method."""
    torch.set_num_threads(args.threads)
    facts = find_facts(find_data("lpaqa_trex_train", args.data))
    backbone = Backbone.load(args.model)
    words = shared_words([backbone.tokenizer])
    recipe = Recipe.make(backbone=args.model, **TRAINING)
    order = list(facts.names)
    random.Random(SEED).shuffle(order)
    for name in order[: args.relations]:
        plan = Plan(facts, recipe, METHODS, args.output, words=words, test_share=TEST_SHARE,
                    relations=[name])  # fmt: skip
        for method, found in probe(backbone, plan, show).items():
            line = {"bench": "lama", "model": args.model, "relation": name, "method": method}
            line |= {"words": len(words), "test_share": TEST_SHARE, "settings": TRAINING}
            line |= {"of": len(order), "result": found[name], **machine(args.threads)}
            line |= {"average": recipe.resolved().average}
            yield line


def table(lines: Sequence[Line], part: str | None = None) -> str:
    """The mean over relations, or the relations themselves (part: relations)."""
    lines = latest(lines, "relation", "method")
    names = [{line["relation"] for line in lines if line["method"] == method
              and "scores" in line["result"]} for method in METHODS]  # fmt: skip
    common = set.intersection(*names)  # the means of the same relations are compared
    scored = [line for line in lines if line["relation"] in common]
    if not scored:
        return "Nothing was measured yet."
    return _by_relation(scored) if part == "relations" else _means(lines, scored)


def _means(lines: Sequence[Line], scored: Sequence[Line]) -> str:
    rows = [["most frequent object", _percent([line["result"]["majority"] for line in
             _of(scored, METHODS[0])]), "-", "-"]]  # fmt: skip
    for method in METHODS:
        own = [line["result"]["scores"] for line in _of(scored, method)]
        if own:
            cells = [_percent([one[name] for one in own]) for name in ("p_at_1", "p_at_10")]
            mrr = f"{fmean(one['mrr'] for one in own):.3f}"
            rows.append([NAMES.get(method, method), *cells, mrr])
    counts = [line["result"]["counts"] for line in _of(scored, METHODS[0])]
    names = {line["relation"] for line in lines}
    without = sorted(names - {line["relation"] for line in scored})
    ours = lines[0]
    said = (
        f"{ours['model']}, {len(counts)} relations with "
        f"{sum(one['test'] for one in counts):,} test facts (mean over relations, each counted "
        f"alike); {len(names)} of {ours['of']} relations were tried, in an order drawn by seed "
        f"{SEED}, and {len(without)} had no usable fact to train on or to test{_listed(without)}; "
        f"{sum(one['dropped_tokens'] for one in counts):,} facts of the others were dropped, "
        "because their object is not one token; ranks among "
        f"{ours['words']:,} words; split by seed {SEED}: {ours['test_share']} to test, "
        f"{ours['settings']['validation_share']} of the rest to choose the epoch by; at most "
        f"{ours['settings']['max_rows']} facts to train on, {ours['settings']['epochs']} epochs, "
        f"batch {ours['settings']['batch_size']}; one run each"
    )
    head = ["", "P@1", "P@10", "MRR"]
    prompts = [line for line in lines if line["method"] != METHODS[0]]
    return f"{markdown(head, rows)}\n\n{settings_line(lines, said, *averaged(prompts))}"


def _by_relation(scored: Sequence[Line]) -> str:
    rows = []
    for name in sorted({line["relation"] for line in scored}, key=lambda name: int(name[1:])):
        own = {line["method"]: line["result"] for line in scored if line["relation"] == name}
        first = next(iter(own.values()))
        p_at_1 = [
            _percent([own[method]["scores"]["p_at_1"]]) if method in own else ""
            for method in METHODS
        ]
        counts = [f"{first['counts'][key]:,}" for key in ("train", "test")]
        rows.append([name, *counts, _percent([first["majority"]]), *p_at_1])
    head = ["relation", "train", "test", "most frequent", *METHODS]
    return markdown(head, rows) + "\n\nP@1 in percent; train and test: facts that were used."


def _of(lines: Sequence[Line], method: str) -> list[Line]:
    return [line for line in lines if line["method"] == method]


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * fmean(shares):.1f}"


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def main() -> None:
    """Measure, or show what was measured."""
    parser = options(__doc__, threads=1)
    parser.add_argument("--model", default="ptune-tiny")
    parser.add_argument("--output", type=Path, default=Path("runs/lama"), help="record and prompts")
    parser.add_argument("--relations", type=int, help="only so many")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    lines = read_lines(args.json)
    for line in measure(args):
        write_line(args.json, line)
        lines.append(line)
    print(table(lines))


if __name__ == "__main__":
    main()
