"""Tags of words: how entities are written, what is badly written, and how many are found.

    words     John   Smith  lives  in  Sao    Paulo
    bio       B-PER  I-PER  O      O   B-LOC  I-LOC
    iob1      I-PER  I-PER  O      O   I-LOC  I-LOC      B- only where one entity meets another
    bioes     B-PER  E-PER  O      O   B-LOC  E-LOC      S- where an entity is one word
    plain     PROPN  PROPN  VERB   ADP PROPN  PROPN      every word by itself: parts of speech

Scores are those of seqeval (its default mode, which reads tags as the conlleval script does): an
entity is right where its first word, its last word and its type are. Knows strings and numbers.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
SCHEMES = ("bio", "iob1", "bioes", "plain")

_PREFIXED = re.compile(r"([BIES])-(.+)", re.DOTALL)
_PREFIXES = {"bio": "BI", "iob1": "BI", "bioes": "BIES"}


class Entity(NamedTuple):
    """Words `start` to `stop` (from 0, `stop` excluded) that are one entity."""

    type: str
    start: int
    stop: int


def scheme_of(tags: Iterable[str]) -> str:
    """How these tags write entities: "bio", "bioes" or "plain".

    BIO and IOB1 have the same tags; "bio" is said of both.

    >>> scheme_of(["O", "B-LOC", "I-LOC"]), scheme_of(["S-LOC", "O"]), scheme_of(["NOUN", "I"])
    ('bio', 'bioes', 'plain')
    """
    found = {match[1] for tag in tags if (match := _PREFIXED.fullmatch(tag))}
    if not found:
        return "plain"
    return "bioes" if found & {"E", "S"} else "bio"


def types_of(tags: Iterable[str], scheme: str) -> list[str]:
    """The types of entities that there are tags for, sorted.

    >>> types_of(["O", "B-person", "I-person", "B-creative-work"], "bio")
    ['creative-work', 'person']
    """
    if scheme == "plain":
        return sorted(set(tags))
    return sorted({match[2] for tag in tags if (match := _PREFIXED.fullmatch(tag))})


def fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """The first tag of a sentence that its scheme does not allow: where, and why.

    >>> fault(["O", "I-LOC"], "bio")
    (1, 'tag I-LOC stands behind O, and in bio an entity begins with B-LOC')
    >>> fault(["O", "I-LOC"], "iob1") is None
    True
    """
    if scheme == "plain":
        return None
    before = ""
    for at, tag in enumerate(tags):
        reason = _unknown(tag, scheme) or _misplaced(before, tag, scheme)
        if reason:
            return at, reason
        before = tag
    if scheme == "bioes" and before[:2] in ("B-", "I-"):
        return len(tags) - 1, f"tag {before} is the last, and in bioes an entity ends with E- or S-"
    return None


def _unknown(tag: str, scheme: str) -> str:
    match = _PREFIXED.fullmatch(tag)
    if tag == OUTSIDE or (match and match[1] in _PREFIXES[scheme]):
        return ""
    known = ", ".join(f"{prefix}-TYPE" for prefix in _PREFIXES[scheme])
    return f"tag {tag!r} is none of {scheme}, which has O, {known}"


def _misplaced(before: str, tag: str, scheme: str) -> str:
    """Why a tag cannot stand behind another one."""
    opened = before[:2] in ("B-", "I-")
    stands = f"stands behind {before}" if before else "is the first of its sentence"
    if scheme == "iob1":
        return ""
    if tag[:2] in ("I-", "E-") and not (opened and before[2:] == tag[2:]):
        return f"tag {tag} {stands}, and in {scheme} an entity begins with B-{tag[2:]}"
    if scheme == "bioes" and opened and tag[:2] not in ("I-", "E-"):
        return f"tag {tag} stands behind {before}, and in bioes an entity ends with E- or S-"
    return ""


def entities_of(tags: Sequence[str], scheme: str) -> list[Entity]:
    """The entities of a sentence. Badly written tags are read as conlleval reads them.

    >>> entities_of(["B-PER", "I-PER", "O", "I-LOC"], "bio")
    [Entity(type='PER', start=0, stop=2), Entity(type='LOC', start=3, stop=4)]
    """
    if scheme == "plain":
        return [Entity(tag, at, at + 1) for at, tag in enumerate(tags)]
    from seqeval.metrics.sequence_labeling import get_entities

    return [Entity(type_, first, last + 1) for type_, first, last in get_entities(list(tags))]


def scores(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str
) -> dict[str, float]:
    """Precision, recall and F1 of entities, over all and of each type; the share of right words.

    Over all, every entity counts alike (micro average). Those of a type are named `TYPE/f1`; types
    that never occur in `truth` have none. With plain tags every word is an entity, so that all
    three are the share of right words.

    >>> found = scores([["B-PER", "O", "B-LOC"]], [["B-PER", "O", "O"]], "bio")
    >>> found["precision"], found["recall"], found["PER/f1"], found["LOC/f1"]
    (1.0, 0.5, 1.0, 0.0)
    """
    pairs = [pair for t, p in zip(truth, predicted, strict=True) for pair in zip(t, p, strict=True)]
    right = sum(one == other for one, other in pairs) / len(pairs)
    if scheme == "plain":  # as entities of one word each; the prefix is what seqeval asks for
        truth = [[f"S-{tag}" for tag in tags] for tags in truth]
        predicted = [[f"S-{tag}" for tag in tags] for tags in predicted]
    types = {entity.type for tags in truth for entity in entities_of(tags, "bio")}
    if not types:
        return {**_three(None), "accuracy": right}
    from seqeval.metrics import classification_report

    report = classification_report(
        [list(tags) for tags in truth],
        [list(tags) for tags in predicted],
        output_dict=True,
        zero_division=0,
    )
    found = {**_three(report["micro avg"]), "accuracy": right}
    for type_ in sorted(types):
        found |= {f"{type_}/{name}": score for name, score in _three(report[type_]).items()}
    return found


def _three(found: dict[str, float] | None) -> dict[str, float]:
    """F1, precision and recall under ptune's names; nothing to find gives zeros."""
    names = {"f1": "f1-score", "precision": "precision", "recall": "recall"}
    return {name: float(found[key]) if found else 0.0 for name, key in names.items()}
