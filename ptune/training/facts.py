"""What a user wants to be told of a run before it starts: counts, imbalance, rows that were cut."""

from collections.abc import Sequence

from ptune import metrics
from ptune.backbone import Backbone
from ptune.config import Recipe, kind_of
from ptune.config.settings.training import ENCODER_LR
from ptune.data import labels_of
from ptune.tasks import Example
from ptune.tasks.flat import rows_cut
from ptune.training.rows import RunRows


def facts_of(
    recipe: Recipe,
    backbone: Backbone,
    data: RunRows,
    training: Sequence[Example],
    trained: int,
    notes: list[str],
) -> dict[str, object]:
    """The facts of a run, by name.

    Args:
        trained: numbers that are trained.
        notes: sentences from whoever prepared the run.
    """
    facts: dict[str, object] = {
        "backbone": backbone.name,
        "training rows": len(data.train),
        "validation rows": len(data.validation or ()),
        "labels": list(data.labels),
        "trained parameters": trained,
        "trained share": trained / backbone.parameters,
        "metric": recipe.metric,
    }
    cut = rows_cut(training)
    if cut:
        facts["rows cut"] = f"{cut} of {len(training)} training rows were too long and were cut."
    if kind_of(recipe.task, recipe.problem) == "single-label" and data.labels:
        said = metrics.imbalance(labels_of(data.train, recipe.label_column))
        facts |= {"imbalance": said} if said else {}
    if notes:
        facts["notes"] = notes
    return facts


def unused(recipe: Recipe) -> list[str]:
    """Sentences on settings that say nothing of this run.

    They are no mistake: several prompts may share a recipe (replicas, probing).
    """
    told = []
    deep = recipe.method == "p-tuning-v2"
    defaults = Recipe.model_fields
    if not deep and recipe.template and recipe.prompt_length != defaults["prompt_length"].default:
        told.append(
            f"prompt_length = {recipe.prompt_length} has no effect: the template says how many "
            "virtual tokens there are."
        )
    table = recipe.projection is None if deep else recipe.encoder == "embedding"
    if table and recipe.encoder_lr not in (None, ENCODER_LR):
        told.append(
            f"encoder_lr = {recipe.encoder_lr:g} has no effect: the prompt is a table, whose step "
            f"size is lr = {recipe.lr:g}."
        )
    return told


def layout(recipe: Recipe, backbone: Backbone) -> list[str]:
    """What is to be said of how rows and deep prompts lie in this backbone."""
    return [*_padding(backbone), *_reach(recipe, backbone)]


def _reach(recipe: Recipe, backbone: Backbone) -> list[str]:
    """Said aloud where a deep prompt enters some layers only: the others have no attention."""
    sites, layers = len(backbone.geometry.sites), backbone.layers
    if recipe.method != "p-tuning-v2" or layers is None or sites >= layers:
        return []
    return [f"The deep prompt can enter {sites} of {layers} layers: the others have no attention."]


def _padding(backbone: Backbone) -> list[str]:
    """Said aloud where a pack would let rows see each other."""
    if not backbone.geometry.padded:
        return []
    said = (
        f"{type(backbone.model).__name__} mixes tokens outside attention, so the rows of a batch "
        "are padded to the longest instead of packed, and nothing is shared between them: pads "
        "and repeated heads are computed too."
    )
    return [said]
