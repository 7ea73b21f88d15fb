"""Why a deep prompt stays behind full fine-tuning on a small encoder: one thing changed at a time.

Model: MiniLM. Every run has the same training rows, epochs, batches, data order, schedule and
clipping, and a trained head; prompts are judged and kept as the mean of their last steps
(`average`), weights are not; the best epoch is chosen on rows that are held out (of WNUT-17 its
development file, of SQuAD questions on other articles), and those are what is reported. The test
file is not touched. What fits the training rows but not the others overfits; what does not even fit
the training rows lacks power or steps.

    prompts    ptune's defaults, then one setting changed: length, rate, start, depth, projection,
               dropout (of the prompt, of the backbone), averaging, virtual tokens in the text too,
               twice the epochs
    weights    all of them (full fine-tuning); all but the embeddings; LoRA of rank 8 on queries and
               values, which has about as many numbers as the prompt, but changes where the words of
               a row look, as no prefix can

    python bench/gap.py --json bench/results/gap.jsonl
    python bench/gap.py --json FILE --task sst2 --only "p-tuning-v2" --seeds 0-2
    python bench/gap.py --table FILE
"""

import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import quality_encoder
import quality_qa
import quality_tagging
import torch
from common import (
    Line,
    averaged,
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
from headed import MODEL, FineTuned, LinearHead
from quality import Data, Task, fit, quiet, settings_of

import ptune
from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.data import Rows, draw_rows

# Rows of the training set that are scored again after training.
SEEN = 400
LORA_LR, FULL_LR = 1e-3, 1e-4
LORA_RANK = 8


@dataclass(frozen=True)
class Set:
    """A data set and what its runs share."""

    task: Task
    name: str  # of ptune's task
    metric: str
    rows: int
    epochs: int
    batch_size: int

    def recipe(self, seed: int, epochs: int) -> Recipe:
        """ptune's defaults and the budget."""
        return Recipe.make(
            task=self.name,
            method="p-tuning-v2",
            epochs=epochs,
            batch_size=self.batch_size,
            seed=seed,
        ).resolved()


SETS = {
    "wnut17": Set(quality_tagging.TASKS["wnut17"], "token-classification", "f1", 1000, 5, 8),
    "sst2": Set(quality_encoder.TASKS["sst2"], "sequence-classification", "accuracy", 5000, 5, 16),
    "squad": Set(quality_qa.TASKS["squad"], "question-answering", "f1", 600, 8, 8),
}


@dataclass(frozen=True)
class Variant:
    """A way to train; `weights` is None for a prompt, `settings` are changes of its recipe."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    times: int = 1  # as many epochs


def variants(lr: float, sites: int) -> Iterator[Variant]:
    """What is changed, and how."""
    half = sites // 2
    yield Variant("p-tuning-v2, ptune's defaults")
    yield Variant("5 virtual tokens", {"prompt_length": 5})
    yield Variant("60 virtual tokens", {"prompt_length": 60})
    yield Variant("lr / 3", {"lr": lr / 3})
    yield Variant("lr x 3", {"lr": lr * 3})
    yield Variant("head_lr / 5", {"head_lr": 1e-3})
    yield Variant("head_lr x 4", {"head_lr": 2e-2})
    yield Variant("init: random", {"init": "random"})
    yield Variant("init: vocabulary", {"init": "vocabulary"})
    yield Variant("lower half of the layers", {"layers": list(range(half))})
    yield Variant("upper half of the layers", {"layers": list(range(half, sites))})
    yield Variant("projection: 128, lr 1e-3", {"projection": 128, "lr": 1e-3})
    yield Variant("prefix_dropout: 0.1", {"prefix_dropout": 0.1})
    yield Variant("backbone_dropout", {"backbone_dropout": True})
    drawn = {"backbone_dropout": True, "init": "random"}
    yield Variant("backbone_dropout, init: random", drawn)
    yield Variant("average: 0", {"average": 0.0})
    as_papers = {"backbone_dropout": True, "init": "paper", "lr": 1e-2, "head_lr": 1e-2}
    yield Variant("as the papers' code: init: paper, lr 1e-2, dropout", as_papers)
    yield Variant("20 virtual tokens before the text, too", {"soft": 20})
    yield Variant("twice the epochs", times=2)
    yield Variant("linear head", weights="none")
    yield Variant("LoRA, rank 8", weights="lora")
    yield Variant("all weights but the embeddings", weights="layers")
    yield Variant("full fine-tuning", weights="all")


def prompted(one: Set, data: Data, recipe: Recipe, variant: Variant) -> Line:
    """A deep prompt."""
    settings = dict(variant.settings)
    soft = settings.pop("soft", 0)
    template = (f"{{soft:{soft}}}" if soft else "") + one.task.template
    budget = {key: getattr(recipe, key) for key in ("epochs", "batch_size", "seed")}
    backbone = Backbone.load(model_path())
    result = ptune.train(
        backbone,
        data.train,
        validation=data.held_out,
        task=one.name,
        method="p-tuning-v2",
        template=template,
        **{**budget, **settings},
    )
    seen = ptune.evaluate(
        backbone, result.prompt, draw_rows(data.train, min(SEEN, len(data.train)), 0)
    )
    return {
        "held_out": dict(result.scores["validation"]),
        "seen": dict(seen.scores),
        "trained": result.prompt.trained_parameters,
        "steps": result.steps,
        "settings": settings_of(Recipe.make(**result.prompt.settings)),
    }


def some_seen(data: Data) -> Rows:
    """Training rows to be scored again."""
    return draw_rows(data.train, min(SEEN, len(data.train)), 0)


def weighed(one: Set, data: Data, recipe: Recipe, variant: Variant) -> Line:
    """A head, and weights of the backbone."""
    kind = LinearHead if variant.weights == "none" else FineTuned
    lr = recipe.head_lr if variant.weights == "none" else FULL_LR
    learner = kind(one.task, data, recipe, lr)
    if variant.weights == "lora":
        _lora(learner)
    elif variant.weights == "layers":
        _without_embeddings(learner)
    outcome = fit(learner, data, recipe)
    return {
        "held_out": dict(outcome.held_out),
        "seen": dict(learner.scores(some_seen(data))),
        "trained": outcome.trained,
        "steps": outcome.steps,
        "settings": {
            **outcome.settings,
            "lr": LORA_LR if variant.weights == "lora" else lr,
            "head_lr": recipe.head_lr,
            "method": f"weights: {variant.weights}",
        },
    }


def _lora(learner: Any) -> None:
    """Train low-rank additions to queries and values in place of the weights."""
    from peft import LoraConfig, inject_adapter_in_model

    model = learner.backbone.model.requires_grad_(False)
    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=["query", "value"])
    inject_adapter_in_model(config, model)
    _train_only(learner, [w for w in model.parameters() if w.requires_grad], LORA_LR)


def _without_embeddings(learner: Any) -> None:
    """Train what stands above the embeddings."""
    named = list(learner.backbone.model.named_parameters())
    _train_only(learner, [w for n, w in named if n.startswith("encoder.")], FULL_LR)


def _train_only(learner: Any, weights: Sequence[torch.Tensor], lr: float) -> None:
    for weight in weights:
        weight.requires_grad_(True)
    head = {"params": list(learner.head.parameters()), "lr": learner.recipe.head_lr}
    learner.groups = lambda: [{"params": list(weights), "lr": lr}, head]


def measure(args: Namespace, one: Set, variant: Variant, seed: int) -> Line:
    """One run."""
    recipe = one.recipe(seed, (args.epochs or one.epochs) * variant.times)
    drawn = Namespace(rows=args.rows or one.rows, test_rows=None, data=args.data)
    data = one.task.data(drawn, recipe, tested=False)
    start = time.perf_counter()
    run = prompted if variant.weights is None else weighed
    return {
        "bench": "gap",
        "task": one.task.name,
        "variant": variant.name,
        "seed": seed,
        "rows": drawn.rows,
        "times": variant.times,
        **run(one, data, recipe, variant),
        "metric": one.metric,
        "model": MODEL,
        "seconds": round(time.perf_counter() - start, 1),
        **machine(args.threads),
    }


def table(lines: Sequence[Line], part: str | None = None) -> str:
    """The score of held-out rows and of training rows; `part` names a data set."""
    runs = latest(
        (line for line in lines if part in (None, line["task"])), "task", "variant", "seed"
    )
    tasks = dict.fromkeys(run["task"] for run in runs)
    return "\n\n".join(_table([run for run in runs if run["task"] == task]) for task in tasks) or (
        "Nothing was measured yet."
    )


def _table(runs: Sequence[Line]) -> str:
    metric = runs[0]["metric"]
    weighed = [variant.name for variant in variants(1.0, 2) if variant.weights]
    rows = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        found = [run for run in runs if run["variant"] == name]
        rows.append(
            [
                name,
                f"{found[0]['trained']:,}",
                mean_spread([run["held_out"][metric] for run in found]),
                mean_spread([run["held_out"]["loss"] for run in found], scale=1.0, digits=3),
                mean_spread([run["seen"][metric] for run in found]),
                str(found[0]["steps"]),
                seeds_told(run["seed"] for run in found),
            ]
        )
    said = metric.replace("f1", "entity F1" if runs[0]["task"] == "wnut17" else "F1")
    head = ["what is trained", "trained", f"{said}, held out", "loss, held out"]
    head += [f"{said}, training rows", "steps", "seeds"]
    one = runs[0]
    usual = next(run for run in runs if run["times"] == 1)["settings"]
    shown = markdown(head, rows)
    note = settings_line(
        runs,
        f"{one['task']} with {one['model']}, {one['rows']:,} rows by seed, {usual['epochs']} epochs"
        f" but where said, batch {usual['batch_size']}, best epoch by the held-out rows, no test "
        f"file; training rows: {min(SEEN, one['rows'])} of them, scored after training; rates of "
        f"LoRA {LORA_LR:g} and of weights {FULL_LR:g}, not searched; scores in percent",
        *spread_said(shown),
        *averaged(run["settings"] for run in runs if run["variant"] not in weighed),
    )
    return "\n".join([shown, "", note])


def main() -> None:
    """Measure what is asked for, and print the table of all results in the file."""
    parser = options(__doc__)
    parser.add_argument("--task", choices=SETS, default="wnut17")
    parser.add_argument("--only", action="append", help="variants whose name contains this")
    parser.add_argument("--seeds", default="1", help='a count, or which: "3", "0,2", "1-2"')
    parser.add_argument("--epochs", type=int, help="default: 5, of squad 8")
    parser.add_argument("--rows", type=int, help="rows by seed; fewer for a quick try")
    args = parser.parse_args()
    if args.table:
        print(table(read_lines(args.table)))
        return
    torch.set_num_threads(args.threads)
    quiet()
    one = SETS[args.task]
    lr = one.recipe(0, 1).lr
    assert lr is not None
    sites = len(Backbone.load(model_path()).geometry.sites)
    lines = read_lines(args.json)
    for variant in variants(lr, sites):
        if args.only and not any(part in variant.name for part in args.only):
            continue
        for seed in numbers(args.seeds):
            lines.append(measure(args, one, variant, seed))
            _say(args, lines[-1])
    print(table(lines))


def _say(args: Namespace, line: Line) -> None:
    write_line(args.json, line)
    metric = line["metric"]
    print(
        f"{line['task']}, {line['variant']}, seed {line['seed']}: {metric} "
        f"{line['held_out'][metric]:.3f}, of training rows {line['seen'][metric]:.3f}; "
        f"{line['steps']} steps in {line['seconds']:.0f} s",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
