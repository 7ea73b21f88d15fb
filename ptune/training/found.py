r"""Answer words that are found in the training rows: those that tell the labels apart.

    rows        It was [MASK] .       the backbone as it is, without a prompt
    positive    great  0.08   bad 0.01
    negative    great  0.02   bad 0.06        ->  positive: great    negative: bad

A word's score for a label is how much more likely it is in the label's rows than in the others,

    score(word, label) = mean over rows of it of logit p(word | row)  -  the same over all others

(PETAL's likelihood ratio: Schick, Schmid and Schütze 2020, arXiv:2010.13641; `log_likelihood_ratio`
in petal.py of timoschick/pet, normalized, divided by the number of other rows), among the words
that the backbone finds likely at all. A word goes to the label for which its score is largest, so
no two labels share one; PETAL lets them share. No random number is drawn beside the choice of the
rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ptune.backbone import Backbone
from ptune.batch import PromptTensors
from ptune.config import Recipe
from ptune.data import draw_rows, labels_of
from ptune.errors import ConfigError
from ptune.parts import Soft
from ptune.run import run
from ptune.tasks import Task, TaskOptions, make_task
from ptune.tasks.task import Row
from ptune.template import Template
from ptune.training.rows import RunRows

# Rows that are looked at, drawn by the seed.
MOST_ROWS = 512
# Words that are compared: the likeliest ones over all labels, each label counting the same. PETAL
# compares as many, but chooses them for each label by itself.
CANDIDATES = 1000
# Largest probability that a logit is made of: float32 has no number nearer to one.
MOST = 1 - 1e-6
# Smallest score of a word that stands for a label, in log-odds: what is below it is rounding.
LEAST = 1e-3

Scores = Float[Tensor, "labels vocabulary"]


def with_found_words(recipe: Recipe, data: RunRows, backbone: Backbone) -> tuple[Recipe, RunRows]:
    """The recipe with the verbalizer that it asks to be found, and the rows with a note of it.

    Raises:
        ConfigError: there is a label that no word stands for.
    """
    if recipe.found_words is None:
        return recipe, data
    words = find_words(recipe, data, backbone)
    said = "; ".join(f"{label}: {', '.join(own)}" for label, own in words.items())
    notes = (f"Answer words found in the training rows: {said}.", *_fewer(words, recipe))
    changed = recipe.changed(found_words=None, verbalizer=words)
    return changed, replace(data, notes=(*data.notes, *notes))


def _fewer(words: Mapping[str, Sequence[str]], recipe: Recipe) -> Iterator[str]:
    """A sentence for each label that has fewer words than were asked for."""
    for label, own in words.items():
        if len(own) < (recipe.found_words or 1):
            yield (
                f'found_words = {recipe.found_words}: label "{label}" has {len(own)}, since no '
                "other word is likelier in its rows than in those of the other labels."
            )


@torch.no_grad()
def find_words(recipe: Recipe, data: RunRows, backbone: Backbone) -> dict[str, tuple[str, ...]]:
    """The words that tell the labels apart best, at most `found_words` for each.

    Raises:
        ConfigError: there is a label that no word stands for.
    """
    count = recipe.found_words or 1
    rows = data.train
    if len(rows) > MOST_ROWS:
        rows = draw_rows(rows, MOST_ROWS, recipe.seed)
    where = [data.labels.index(label) for label in labels_of(rows, recipe.label_column)]
    _require_all(data.labels, set(where), recipe)
    task = _plain_task(recipe, data.template, backbone)
    likely, logits = _means(backbone, task, rows, where, recipe.evaluation_batch_size)
    candidates = _candidates(likely, task, backbone)
    ids = torch.tensor(list(candidates))
    total = torch.tensor([where.count(label) for label in range(len(data.labels))])[:, None]
    own = logits[:, ids]
    others = ((own * total).sum(0) - own * total) / (total.sum() - total)
    scores = own - others
    found: dict[str, tuple[str, ...]] = {}
    for at, label in enumerate(data.labels):
        mine = (scores.argmax(0) == at) & (scores[at] > LEAST)
        order = torch.where(mine, scores[at], -torch.inf).argsort(descending=True, stable=True)
        best = order[: min(count, int(mine.sum()))].tolist()
        found[label] = tuple(candidates[int(ids[one])] for one in best)
    _require_all(data.labels, {at for at, own in enumerate(found.values()) if own}, recipe)
    return found


def _require_all(labels: Sequence[str], known: set[int], recipe: Recipe) -> None:
    missed = [label for at, label in enumerate(labels) if at not in known]
    if missed:
        raise ConfigError(
            f'found_words = {recipe.found_words}: no word stands for label "{missed[0]}" in the '
            "training rows. Give more rows of it, or give the words by verbalizer."
        )


def _plain_task(recipe: Recipe, template: Template, backbone: Backbone) -> Task:
    """The task without its prompt: free text in the place of the answer."""
    parts = tuple(part for part in template.parts if not isinstance(part, Soft))
    decoder = Template.parse(recipe.decoder_template).without_virtual
    options = TaskOptions(max_tokens=recipe.max_tokens, decoder_template=decoder)
    return make_task(recipe.task, Template(template.source, parts), backbone, options)


def _means(
    backbone: Backbone, task: Task, rows: Sequence[Row], where: Sequence[int], size: int
) -> tuple[Scores, Scores]:
    """Of every token the mean probability and the mean logit in the rows of each label."""
    count = max(where) + 1
    sums: list[Tensor] = []
    for start, shares in _shares(backbone, task, rows, size):
        if not sums:
            sums = [torch.zeros(count, shares.shape[1], dtype=torch.float64) for _ in range(2)]
        label = torch.tensor(where[start : start + len(shares)])
        sums[0].index_add_(0, label, shares.double())
        sums[1].index_add_(0, label, shares.clamp(max=MOST).logit(eps=None).double())
    total = torch.tensor([where.count(at) for at in range(count)])[:, None]
    return sums[0] / total, sums[1] / total


def _shares(
    backbone: Backbone, task: Task, rows: Sequence[Row], size: int
) -> Iterator[tuple[int, Float[Tensor, "rows vocabulary"]]]:
    """Probabilities of all tokens at the place of the answer, some rows at a time."""
    sequences = [example.sequence for example in task.examples(rows)]
    for start in range(0, len(sequences), size):
        batch = backbone.pack(sequences[start : start + size])
        read = run(backbone, [PromptTensors()], batch, read="words")
        yield start, read.logits().float().softmax(-1).clamp(min=1e-30).cpu()


def _candidates(likely: Scores, task: Task, backbone: Backbone) -> dict[int, str]:
    """Id and text of the likeliest tokens that are a whole word of two letters or more."""
    size = min(likely.shape[1], len(backbone.tokenizer))
    order = likely[:, :size].mean(0).topk(min(CANDIDATES, size)).indices.tolist()
    texts = {token: backbone.tokenizer.decode([token]).strip() for token in order}
    texts = {token: text for token, text in texts.items() if text.isalpha() and len(text) > 1}
    spelled = task.layout.answer_ids(list(texts.values())) if texts else []
    return {
        token: text
        for (token, text), ids in zip(texts.items(), spelled, strict=True)
        if ids == (token,)
    }
