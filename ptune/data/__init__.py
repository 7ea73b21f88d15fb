"""Labelled rows: read them, check their labels, hold some out, draw a few.

    train.csv  ->  Rows  ->  check_labels  ->  split_rows / few_shot  ->  Rows
    hub:name       rows.py   labels.py         draw.py
    files.py, conll.py, hub.py   tags.py, choices.py     bad rows: sift.py
    superglue.py: rows of a shape of their own

Every mistake in the data is one sentence that names the file, the line and what to do.
Knows no template, no tokenizer and no tensor. `datasets` is imported for the hub and Parquet alone.
"""

from ptune.data.choices import with_choices
from ptune.data.draw import (
    Split,
    draw_groups,
    draw_rows,
    few_shot,
    few_shot_split,
    split_groups,
    split_rows,
)
from ptune.data.labels import (
    Labels,
    answers_of,
    check_known,
    check_labels,
    label_lists_of,
    labels_of,
    numbers_of,
)
from ptune.data.rows import Rows
from ptune.data.sift import Check, Kept, sift, told_again, told_blank
from ptune.data.source import kept_rows_for, load_rows, rows_for
from ptune.data.squad import Spans, ids_of, spans_of
from ptune.data.tags import check_tags, scheme_in, tags_of

__all__ = [
    "Check",
    "Kept",
    "Labels",
    "Rows",
    "Spans",
    "Split",
    "answers_of",
    "check_known",
    "check_labels",
    "check_tags",
    "draw_groups",
    "draw_rows",
    "few_shot",
    "few_shot_split",
    "ids_of",
    "kept_rows_for",
    "label_lists_of",
    "labels_of",
    "load_rows",
    "numbers_of",
    "rows_for",
    "scheme_in",
    "sift",
    "spans_of",
    "split_groups",
    "split_rows",
    "tags_of",
    "told_again",
    "told_blank",
    "with_choices",
]
