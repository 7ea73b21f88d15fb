r"""Probing: for every relation, one prompt a method; what is done is kept.

    for each relation               its facts, split
        for each method             manual | prompt-tuning | p-tuning | p-tuning-v2
            template -> prompts.py -> scores, or the sentence that says why not -> record

Knows no training. Next: `prompts.py` does one relation.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from ptune.backbone import Backbone
from ptune.config import Recipe
from ptune.errors import BackboneError, DataError, TemplateError, TrainingError
from ptune.probing.facts import Facts
from ptune.probing.plan import Plan, check_methods
from ptune.probing.prompts import Stopped, score_manual, train_relation
from ptune.probing.record import Entry, Record
from ptune.probing.templates import MANUAL
from ptune.training.dropout import check_dropout

# What one relation may lack without harm to the others.
OF_ONE_RELATION = (DataError, TemplateError, TrainingError)
# Settings that say where to run and what to write, not what is computed.
_NOT_COMPUTED = frozenset(
    {"backbone", "revision", "device", "device_map", "offload_folder", "offline", "compile"}
    | {"trust_remote_code", "output", "cache", "tracker", "trunk_cache", "save_every"}
)

Tell = Callable[[str], None]


def probe(backbone: Backbone, plan: Plan, tell: Tell | None = None) -> dict[str, dict[str, Entry]]:
    """Probe every relation with every method. What the record in `plan.output` has is not redone.

    Args:
        tell: hears of each relation when it is done.
    Returns:
        Method -> relation -> what was found: "scores", or "error" with the sentence that says why
        there are none; and the counts of its facts.
    Raises:
        ConfigError, TemplateError: the plan can be done for no relation.
        TrainingError: the user stopped the run.
    """
    tell = tell or (lambda line: None)
    check_methods(plan.methods)
    names = plan.facts.chosen(plan.relations)
    causal = _is_causal(backbone)
    plan.wish.check(causal=causal)
    ways = [_way_of(method, plan, backbone) for method in plan.methods]
    record = Record(plan.output)
    for way in ways:
        record.begin(way.method, way.identity)
    for at, name in enumerate(names, start=1):
        for way, found in _missing(record, ways, name, plan):
            entry = found if isinstance(found, dict) else _probed(backbone, plan, way, name, found)
            record.add(way.method, name, entry)
            tell(f"{at} of {len(names)}  {name}, {way.method}: {_said(entry)}")
    return record.results(plan.methods, names)


class _Way(NamedTuple):
    """A method with its recipe (None trains nothing), and all that decides its results."""

    method: str
    recipe: Recipe | None
    identity: Mapping[str, Any]


def _is_causal(backbone: Backbone) -> bool:
    if not backbone.has_lm_head:
        raise BackboneError(
            f'"{backbone.name}" has no language-model head, so it can say no object. Use a model '
            "saved with one."
        )
    return backbone.geometry.causal


def _way_of(method: str, plan: Plan, backbone: Backbone) -> _Way:
    words = None if plan.words is None else sha256("\n".join(plan.words).encode()).hexdigest()[:16]
    common = {
        "weights": backbone.fingerprint["weights"],
        "words": words,
        "template": plan.wish.text,
        "order": plan.wish.order,
        "test_share": plan.test_share,
    }
    if method == MANUAL:
        shares = {"validation_share": plan.recipe.validation_share, "seed": plan.recipe.seed}
        return _Way(method, None, common | shares)
    recipe = plan.recipe.changed(method=method).resolved()
    if recipe.backbone_dropout:
        check_dropout(backbone)
    settings = {k: v for k, v in recipe.to_dict().items() if k not in _NOT_COMPUTED}
    return _Way(method, recipe, settings | common)


def _missing(
    record: Record, ways: Sequence[_Way], name: str, plan: Plan
) -> list[tuple[_Way, "Facts | dict[str, Any]"]]:
    """What is still to be done for a relation: each way with the facts, or with what they lack."""
    try:
        facts = plan.facts.read(name, plan.shares)
    except DataError as error:
        return [(way, {"error": str(error)}) for way in ways]
    key = _key(facts, plan, name)
    return [(way, facts) for way in ways if not record.done(way.method, name, key)]


def _key(facts: Facts, plan: Plan, name: str) -> str:
    """All that decides the result of a relation beside the settings."""
    text = f"{facts.fingerprint()} {plan.facts.templates.get(name)}"
    return sha256(text.encode()).hexdigest()[:32]


def _probed(backbone: Backbone, plan: Plan, way: _Way, name: str, facts: Facts) -> Entry:
    """Train and score one relation; an error of its own is its result."""
    entry: dict[str, Any] = {"key": _key(facts, plan, name)}
    manual = plan.facts.templates.get(name)
    try:
        template = plan.wish.template_for(way.method, manual, causal=backbone.geometry.causal)
        entry["template"] = template.source
        template.check(facts.train.columns)
        found = (
            score_manual(backbone, plan, template, facts)
            if way.recipe is None
            else train_relation(backbone, plan, way.recipe, template, name, facts)
        )
    except OF_ONE_RELATION as error:
        if isinstance(error, Stopped):
            raise
        return entry | {"error": f"{name}: {error}"}
    return entry | found


def _said(entry: Entry) -> str:
    if "error" in entry:
        return f"failed: {entry['error']}"
    scores, counts = entry["scores"], entry["counts"]
    return (
        f"P@1 {100 * scores['p_at_1']:.1f}, P@10 {100 * scores['p_at_10']:.1f}, "
        f"MRR {scores['mrr']:.3f} on {counts['test']} facts"
    )
