"""Facts of made-up relations, in the words of the tiny tokenizer, as files of every layout."""

import json

SUBJECTS = ["film", "parcel", "question", "answer", "label", "text", "film film", "my parcel",
            "the film", "the text", "a label", "late film", "bad text", "good film",
            "very good", "not bad", "my text", "the answer", "a question", "thank you"]  # fmt: skip
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven"]


def facts(objects, subjects=SUBJECTS):
    return [
        {"sub_label": subject, "obj_label": objects[at % len(objects)]}
        for at, subject in enumerate(subjects)
    ]


RELATIONS = {
    "P1": facts(["good"]),
    "P2": facts(NUMBERS),
    "P3": facts(["yes", "no"]),
}
TEMPLATES = {
    "P1": "[X] is very [Y] .",
    "P2": "where is [X] ? [Y] .",
    "P3": "is [X] late ? [Y]",
}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_folder(folder, relations=RELATIONS, templates=TEMPLATES):
    """A file a relation, and the templates."""
    for name, rows in relations.items():
        write_lines(folder / f"{name}.jsonl", rows)
    rows = [{"relation": name, "template": text} for name, text in templates.items()]
    write_lines(folder / "relations.jsonl", rows)
    return folder
