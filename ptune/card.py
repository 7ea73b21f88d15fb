r"""Model cards: the README.md of a prompt folder, made from its document.

    ---
    library_name: ptune
    base_model: "bigscience/bloomz-560m"        the hub links the two
    ---
    # complaints
    what it does | template | labels | scores | how to use | trained parameters

Strings to strings; knows no tensor and no file.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ptune.demo import MODEL
from ptune.template import Template

_HUB_NAME = re.compile(r"(?!\.)[\w.-]+(/[\w.-]+)?")


def model_card(
    document: Mapping[str, Any], *, sites: Mapping[int, int], title: str, source: str
) -> str:
    """Write the card.

    Args:
        document: of a prompt (`SoftPrompt.document`).
        sites: for how many positions each attention site has keys and values.
        title: its heading.
        source: what `SoftPrompt.load` takes in the example.
    Raises:
        TemplateError: the document's template cannot be read.
    """
    parts = [
        _front_matter(document),
        f"# {title}",
        _purpose(document, sites),
        "## Template\n\n" + _indented(document["template"]),
        _labels(document),
        _scores(document["scores"]),
        "## Use\n\n```python\n" + _example(document, source) + "\n```",
        f"## Training\n\n{_training(document)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(document: Mapping[str, Any]) -> str:
    """YAML; a string in JSON's quotes is a string in YAML."""
    lines = ["library_name: ptune"]
    name = document["backbone"]
    if name != MODEL and _HUB_NAME.fullmatch(name):  # neither folders nor ours are on the hub
        lines.append(f"base_model: {json.dumps(name)}")
    if document.get("license"):
        lines.append(f"license: {json.dumps(document['license'])}")
    tags = ["ptune", "soft-prompt", document["task"]]
    return "\n".join(["---", *lines, f"tags: {json.dumps(tags)}", "---"])


def _purpose(document: Mapping[str, Any], sites: Mapping[int, int]) -> str:
    what = [_count(document["slots"], "virtual token")] if document["slots"] else []
    if sites:
        length, places = _count(max(sites.values()), "position"), len(sites)
        what.append(f"keys and values for {length} at {_count(places, 'attention site')}")
    if document.get("backbone_trained") and document["settings"]["train_backbone"] == "adapters":
        truth = (
            "**The model's adapters were trained too (`train_backbone: adapters`).** The files "
            "bring their weights, and the prompt works with these alone. Put adapters of the same "
            "settings on the model before `Backbone.load`; `ptune` runs the prompt on a copy of "
            "them and leaves the model itself as it is."
        )
        kind = "frozen model with adapters on"
    elif document.get("backbone_trained"):
        truth = (
            "**The backbone was trained too (`train_backbone`).** The files bring all of its "
            "weights, and the prompt works with these alone. `ptune` runs it on a copy of the "
            "model and leaves the model itself as it is."
        )
        kind = "model"
    else:
        truth = (
            "It changes none of that model's weights and works with no other model; `ptune` checks "
            "that when it is used."
        )
        kind = "frozen model"
    return (
        f"A soft prompt for the task `{document['task']}`: "
        f"{' and '.join(what) or 'a template alone'}, made for the {kind} "
        f"`{document['backbone']}`.\n{truth}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _indented(text: str) -> str:
    """A code block that no text can end."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _labels(document: Mapping[str, Any]) -> str:
    words = document["verbalizer"]
    if not document["labels"]:
        return ""
    rows = [(label, ", ".join(words.get(label, [label]))) for label in document["labels"]]
    return "## Labels\n\n" + _table(("label", "answer words"), rows)


def _scores(scores: Mapping[str, Any]) -> str:
    rows = [(name, _number(score)) for name, score in _flat(scores)]
    return "## Scores\n\n" + _table(("score", "value"), rows) if rows else ""


def _flat(scores: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, score in scores.items():
        if isinstance(score, Mapping):
            yield from _flat(score, f"{before}{name} ")
        else:
            yield before + name, score


def _number(score: Any) -> str:
    if score is None:
        return "undefined"
    return f"{score:.4g}" if isinstance(score, float) else str(score)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *((_cell(a), _cell(b)) for a, b in rows)]
    return "\n".join(f"| {a} | {b} |" for a, b in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def _example(document: Mapping[str, Any], source: str) -> str:
    names = document["settings"].get("columns") or {}
    fields = Template.parse(document["template"]).fields
    row: dict[str, object] = {names.get(field, field): "..." for field in fields}
    if document["task"] == "multiple-choice":
        row.pop("choice", None)
        row |= _choices(document["settings"].get("choices"))
    # A reader makes rows of files of its own form.
    read = document["settings"].get("reader")
    rows = '"FILE"' if read else f"[{json.dumps(row, ensure_ascii=False)}]"
    return "\n".join(
        [
            "import ptune",
            "",
            f"backbone = ptune.Backbone.load({json.dumps(document['backbone'])})",
            f"prompt = ptune.SoftPrompt.load({json.dumps(source)})",
            f"rows = {rows}",
            "print(backbone.predict(rows, prompt))",
        ]
    )


def _choices(columns: object) -> dict[str, object]:
    """Two choices, where the rows of the prompt have them."""
    texts = ("one", "another")
    if isinstance(columns, list | tuple):
        return dict(zip(columns, texts, strict=False))
    return {str(columns or "choices"): texts}


def _training(document: Mapping[str, Any]) -> str:
    known = {key: document["settings"].get(key) for key in ("method", "encoder")}
    how = ", ".join(f"{key} {value}" for key, value in known.items() if value)
    return f"Trained parameters: {document['trained_parameters']:,}" + (
        f" ({how})." if how else "."
    )
