"""The demo's recipe with several seeds: how much of its accuracy is luck.

    python bench/demo_seeds.py               method, then accuracy on test of the seeds 0 to 4
    python bench/demo_seeds.py --seeds 0-9

The files of ptune/demo are all it needs.
"""

from argparse import ArgumentParser
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

import torch
from common import numbers

from ptune.config import Recipe
from ptune.showcase import demo_recipe
from ptune.training import train_recipe

# The demo's own method, and vectors in front of the message.
METHODS = {
    "p-tuning-v2": [],
    "prompt-tuning": [
        "method=prompt-tuning",
        "template={soft:20}Message : {text} Subject : {label}",
    ],
}


def accuracy(recipe: Recipe) -> float:
    """On the test messages, in percent."""
    return 100 * train_recipe(recipe).scores["test"]["accuracy"]


def main() -> None:
    """Print a line for each method."""
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", default="0-4", help='a count, or which: "3", "0,2", "1-2"')
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with TemporaryDirectory() as folder:
        for name, changes in METHODS.items():
            found = [
                accuracy(demo_recipe(Path(folder) / f"{name}-{seed}", [*changes, f"seed={seed}"]))
                for seed in numbers(args.seeds)
            ]
            each = ", ".join(f"{one:.1f}" for one in found)
            spread = f" +- {stdev(found):.1f}" if len(found) > 1 else ""
            print(f"{name}: {each}; mean {mean(found):.1f}{spread} %")


if __name__ == "__main__":
    main()
