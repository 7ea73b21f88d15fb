"""Settings that `ptune probe` cannot take: what would harm other results, or be ignored.

    train_backbone: true    one relation's training would change the model for all that come after

Knows keys and why they are left out; no value.
"""

_FROZEN = "asks what the backbone knows as it is, and never trains it"
_IGNORED = "has no use for it, and would ignore it"

# Key -> why, as what follows "ptune probe".
_REASONS = {
    "train_backbone": _FROZEN,
    "backbone_lr": _FROZEN,
    "backbone_weight_decay": _FROZEN,
    "second_metric": "chooses the step by P@1 of the dev facts alone",
    "bad_rows": "refuses a relation with a bad row, and goes on with the others",
    "reader": _IGNORED,
    "calibration": _IGNORED,
    "found_words": _IGNORED,
    "group_column": _IGNORED,
}
NOT_IN_PROBING = tuple(_REASONS)


def not_in_probing(key: str, value: object) -> str:
    """The sentence that refuses a setting of `NOT_IN_PROBING`.

    >>> not_in_probing("reader", "superglue/copa")
    'reader=superglue/copa: ptune probe has no use for it, and would ignore it. Leave it out.'
    """
    return f"{key}={value}: ptune probe {_REASONS[key]}. Leave it out."
