r"""One relation: facts that can be ranked, a prompt trained on them, its scores and its artifact.

    train       the prompt, the loss over the whole vocabulary
    dev         the epoch with the best P@1 is kept (as Liu et al. 2021 do)
    test        scored once

The prompt is saved as one for the backbone's own task, with the objects of its training facts as
labels, so that `ptune predict` and `ptune inspect` take it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from accelerate import Accelerator

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import Rows, draw_rows
from ptune.errors import ConfigError, DataError, TrainingError
from ptune.evaluation import evaluate_examples
from ptune.probing.facts import Facts
from ptune.probing.plan import Plan
from ptune.probing.ranking import FactTask, fact_task
from ptune.prompt import SoftPrompt
from ptune.tasks import Example
from ptune.tasks.flat import rows_cut
from ptune.tasks.task import Row
from ptune.template import Template
from ptune.trainable import TrainablePrompt
from ptune.training.build import build_prompt, plan_of
from ptune.training.learner import Learner
from ptune.training.loop import Loop, make_accelerator
from ptune.training.options import Options
from ptune.training.report import Report


class _Kept(NamedTuple):
    """The facts that can be ranked, as examples.

    Args:
        counts: facts used of each split; facts dropped of all; of those to test, the ones that are
            trained on too (`repeated`), and the ones that were too long and were cut.
        majority: P@1 of always saying the most frequent object of the training facts: what a
            prompt can learn without any knowledge of the subject.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    counts: dict[str, int]
    majority: float


def score_manual(
    backbone: Backbone, plan: Plan, template: Template, facts: Facts
) -> dict[str, Any]:
    """Score a template as it stands.

    Raises:
        DataError: no fact is left to test.
    """
    recipe = plan.recipe
    limit = min(recipe.max_tokens, backbone.max_tokens)
    task = fact_task(template, backbone, plan.words, max_tokens=limit)
    kept = _kept(task, facts, recipe, trains=False)
    size = recipe.evaluation_batch_size
    scores = evaluate_examples(
        backbone, PromptTensors(), task, None, kept.test, batch_size=size
    ).scores
    return {"scores": scores, "counts": kept.counts, "majority": kept.majority}


class Stopped(TrainingError):
    """The user stopped the run: that ends all relations, and not this one alone."""


def train_relation(
    backbone: Backbone, plan: Plan, recipe: Recipe, template: Template, name: str, facts: Facts
) -> dict[str, Any]:
    """Train a prompt, keep its best epoch, score it on the test facts, and save it.

    Args:
        recipe: resolved, with the method.
        name: of the relation.
    Raises:
        DataError: no fact is left to train on or to test.
        TrainingError: the loss is no number any more.
        Stopped: the user stopped the run.
    """
    task, prompt = _task_and_prompt(backbone, recipe, template, plan.words)
    kept = _kept(task, facts, recipe, trains=True)
    accelerator = _alone(backbone)
    learner = Learner(
        task,
        prompt,
        training=kept.train,
        validation=kept.validation,
        options=_options(recipe, backbone),
        plan=plan_of(recipe, backbone, task, kept.train),
        device=backbone.device,
        output=None,  # a relation takes seconds to minutes: one that was stopped begins again
        identity={},
        report=Report(None),
        accelerator=accelerator,
    )
    try:
        Loop(backbone, [learner], accelerator=accelerator).run()
    except TrainingError as error:
        raise Stopped(
            f"Stopped in relation {name}. What was done before is in {plan.output}; the same "
            "command goes on from there."
        ) from error
    if learner.error is not None:
        raise learner.error
    learner.keep_best()
    size = recipe.evaluation_batch_size
    tensors = prompt.fold()
    scores = evaluate_examples(backbone, tensors, task, None, kept.test, batch_size=size).scores
    soft = _soft_prompt(plan, recipe, backbone, template, kept, scores, prompt)
    soft.save(plan.output / recipe.method / name / "prompt")
    return {
        "scores": scores,
        "counts": kept.counts,
        "majority": kept.majority,
        "steps": learner.progress.step,
        "best_step": learner.progress.best_step,
        "validation": learner.progress.best_scores,
    }


def _alone(backbone: Backbone) -> Accelerator:
    accelerator = make_accelerator(backbone.device)
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"ptune probe runs in one process, and {accelerator.num_processes} were launched. "
            "Start it without accelerate launch; give each process relations of its own."
        )
    return accelerator


def _options(recipe: Recipe, backbone: Backbone) -> Options:
    # The best epoch is that of the best P@1 on dev, as the paper chooses it.
    return replace(Options.of(recipe, backbone.dtype), metric="p_at_1")


def _task_and_prompt(
    backbone: Backbone, recipe: Recipe, template: Template, words: Sequence[str] | None
) -> tuple[FactTask, TrainablePrompt]:
    limit = min(recipe.max_tokens, backbone.max_tokens)
    task = fact_task(template, backbone, words, max_tokens=limit)
    prompt = build_prompt(recipe, backbone, task, template, task.layout)
    if prompt.offset:  # its keys stand at positions that rows then cannot have
        limit = min(recipe.max_tokens, backbone.max_tokens - prompt.offset)
        task = fact_task(template, backbone, words, max_tokens=limit)
    return task, prompt


def _kept(task: FactTask, facts: Facts, recipe: Recipe, *, trains: bool) -> _Kept:
    """The facts whose object can be ranked; what was dropped is counted.

    Raises:
        DataError: none is left to train on or to test on.
    """
    counts = {"dropped_tokens": 0, "dropped_list": 0}
    splits = {"train": facts.train, "validation": facts.validation, "test": facts.test}
    kept = {split: _usable(task, rows, counts) for split, rows in splits.items()}
    if recipe.max_rows is not None and isinstance(kept["train"], Rows):
        kept["train"] = draw_rows(kept["train"], recipe.max_rows, recipe.seed)
    counts |= {split: len(rows) for split, rows in kept.items()}
    lacking = "test" if not kept["test"] else "train on" if trains and not kept["train"] else None
    if lacking is not None:
        raise DataError(
            f"no fact is left to {lacking}: of all its objects, "
            f"{counts['dropped_tokens']} are not one token of the backbone and "
            f"{counts['dropped_list']} are not on the list of words. Add facts, or take another "
            "list with --vocabulary."
        )
    encoded = {
        split: task.examples(rows, [str(row["object"]) for row in rows]) if rows else []
        for split, rows in kept.items()
    }
    counts["cut"] = rows_cut(encoded["test"])
    counts["repeated"] = _repeated(kept["train"], kept["test"]) if trains else 0
    majority = _majority(encoded["train"], encoded["test"])
    return _Kept(encoded["train"], encoded["validation"], encoded["test"], counts, majority)


def _majority(train: Sequence[Example], test: Sequence[Example]) -> float:
    counts = Counter(example.target for example in train)
    most = min(counts, key=lambda token: (-counts[token], token), default=None)
    return sum(example.target == most for example in test) / len(test)


def _repeated(train: Sequence[Row], test: Sequence[Row]) -> int:
    """How many facts to test are facts to train on."""
    known = {(str(row["subject"]), str(row["object"])) for row in train}
    return sum((str(row["subject"]), str(row["object"])) in known for row in test)


def _usable(task: FactTask, rows: Rows | None, counts: dict[str, int]) -> Rows | Sequence[Any]:
    if rows is None:
        return ()
    tokens, off_the_list = task.known([str(row["object"]) for row in rows])
    missing = sum(token is None for token in tokens)
    counts["dropped_list"] += off_the_list
    counts["dropped_tokens"] += missing - off_the_list
    return rows.take([at for at, token in enumerate(tokens) if token is not None])


def _soft_prompt(
    plan: Plan,
    recipe: Recipe,
    backbone: Backbone,
    template: Template,
    kept: _Kept,
    scores: Mapping[str, float],
    prompt: TrainablePrompt,
) -> SoftPrompt:
    """The prompt as an artifact of the backbone's own task."""
    task: Literal["causal-lm", "masked-lm"] = "causal-lm" if template.has_label else "masked-lm"
    folded = prompt.fold()
    # Labels of one token each: the first spelling of each token.
    labels = {example.target: str(example.answer) for example in reversed(kept.train)}
    columns = plan.facts.columns
    settings = recipe.changed(
        task=task,
        template=template.source,
        loss="vocabulary",
        label_column=columns.object,
        columns={"subject": columns.subject},
    )
    return SoftPrompt(
        template=template.source,
        task=task,
        slots=0 if folded.vectors is None else len(folded.vectors),
        vectors=None if folded.vectors is None else folded.vectors.cpu(),
        deep={s: type(kv)(kv.keys.cpu(), kv.values.cpu()) for s, kv in folded.deep.items()},
        offset=folded.offset,
        labels=tuple(sorted(labels.values())),
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        settings=settings.to_dict(),
        scores={"test": dict(scores)},
        trained_parameters=prompt.numbers,
    )
