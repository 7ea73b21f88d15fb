"""Runs of a few steps on a tiny backbone: rows, settings, and somebody who watches."""

import csv
import json
from pathlib import Path

import torch

import ptune
from ptune.artifact import read_folder

TEXTS = (
    "my parcel is late", "thank you", "where is my parcel ?", "very good film", "not good",
    "the parcel is very late", "good , thank you", "bad bad film", "thank you , very good",
    "where is the film ? very late",
)  # fmt: skip
LABELS = ("complaint", "no complaint") * 5
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]

TEMPLATE = "{soft:2}{text} label : {label}"

# 8 rows to train on, 2 to validate: 2 steps an epoch, 6 in all.
SHORT = {"batch_size": 4, "epochs": 3, "evaluation_batch_size": 2}
SHALLOW = SHORT | {
    "method": "p-tuning",
    "encoder": "lstm",
    "template": "{soft:2}{text} label : {label}",
}
TABLE = SHALLOW | {"method": "prompt-tuning", "encoder": "embedding"}
DEEP = SHORT | {"method": "p-tuning-v2", "prompt_length": 3, "template": "{text} label : {label}"}
HEAD = SHORT | {
    "method": "p-tuning",
    "encoder": "mlp",
    "task": "sequence-classification",
    "template": "{soft:2}{text}",
}
KINDS = {"shallow": SHALLOW, "table": TABLE, "deep": DEEP, "head": HEAD}
# Something random in every step.
WITH_DROPOUT = {
    "shallow": SHALLOW | {"encoder_dropout": 0.3},
    "deep": DEEP | {"prefix_dropout": 0.3},
    "head": HEAD | {"encoder": "lstm", "encoder_dropout": 0.3},
}


class Killed(BaseException):
    """As if the process were gone: nothing in ptune expects it."""


class Watcher:
    """Remembers what it is told; dies where it is told to."""

    def __init__(self, die_after=None, die_at_scores=None, at_step=None):
        self.die_after, self.die_at_scores, self.at_step = die_after, die_at_scores, at_step
        self.facts, self.steps, self.scores = {}, [], []

    def on_start(self, plan, facts):
        self.facts = dict(facts)
        if self.die_after == 0:
            raise Killed

    def on_step(self, step, plan, loss):
        self.steps.append((step, loss))
        if self.at_step is not None:
            self.at_step(step)
        if step == self.die_after:
            raise Killed

    def on_scores(self, step, plan, scores):
        self.scores.append((step, dict(scores)))
        if step == self.die_at_scores:
            raise Killed


def train(backbone, settings, rows=ROWS, **more):
    return ptune.train(backbone, rows, **(settings | more))


def tensors_of(folder):
    return read_folder(Path(folder))[1]


def document_of(folder):
    return read_folder(Path(folder))[0]


def log_of(output):
    lines = [json.loads(line) for line in (Path(output) / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
    return lines


def same(first, second):
    """Whether two sets of tensors are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) and value.dtype == second[name].dtype
        for name, value in first.items()
    )


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
