"""Which settings go together: one rule, one sentence.

    method: p-tuning-v2
    encoder: lstm          -> encoder = lstm does not go with method = p-tuning-v2. ...

A setting that would be ignored is refused: a sweep over it would compare equal runs.
Rules read plain values and know no type; ranges and kinds were checked before (recipe.py).
"""

from ptune.config.rules import of_run, of_task
from ptune.config.rules.asked import Values
from ptune.config.rules.known import (
    BATCH_SIZE as BATCH_SIZE,
)
from ptune.config.rules.known import (
    COUNTED_BY,
)
from ptune.config.rules.known import (
    ENCODERS_OF as ENCODERS_OF,
)
from ptune.config.rules.known import (
    MAX_ANSWER_TOKENS as MAX_ANSWER_TOKENS,
)
from ptune.config.rules.known import (
    METRICS_OF as METRICS_OF,
)
from ptune.config.rules.known import (
    N_BEST as N_BEST,
)
from ptune.config.rules.known import (
    OF_TASK as OF_TASK,
)
from ptune.config.rules.known import (
    STRIDE as STRIDE,
)
from ptune.config.rules.known import (
    TRAINED_HEAD as TRAINED_HEAD,
)
from ptune.config.rules.known import (
    VALIDATION_SHARE as VALIDATION_SHARE,
)
from ptune.config.rules.known import (
    kind_of as kind_of,
)
from ptune.config.rules.known import (
    trains_head as trains_head,
)
from ptune.config.wording import show

_RULES = (*of_run.RULES, *of_task.RULES)


def clashes(values: Values) -> list[str]:
    """Return a sentence for every pair of settings that do not go together."""
    by_table = (_encoder(values), _metric(values, "metric"), _metric(values, "second_metric"))
    words = {key: show(value) for key, value in values.items()}
    by_rule = (sentence.format(**words) for broken, sentence in _RULES if broken(values))
    return [sentence for sentence in (*by_table, *by_rule) if sentence]


def _encoder(v: Values) -> str:
    known = ENCODERS_OF[v["method"]]
    if v["encoder"] is None or v["encoder"] in known:
        return ""
    said = f"encoder = {v['encoder']} does not go with method = {v['method']}"
    if not known:
        return f"{said}, which trains keys and values. Leave encoder out, or set projection."
    return f"{said}. Its encoders: {', '.join(known)}."


def _metric(v: Values, name: str) -> str:
    kind = kind_of(v["task"], v["problem"], v["answer"])
    known = METRICS_OF[kind]
    if v[name] is None:
        return ""
    if v[name] not in known:
        key = {v["task"]: "task", "text": "answer"}.get(kind, "problem")
        return (
            f"{name} = {v[name]} does not go with {key} = {kind}. Its metrics: {', '.join(known)}."
        )
    needed = COUNTED_BY.get(kind, {}).get(v[name])
    if needed is not None and v[needed] is None:
        return f"{name} = {v[name]} needs {needed}. Set it, or choose another score."
    return ""
