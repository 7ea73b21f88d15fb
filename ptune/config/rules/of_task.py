"""Rules about the task, its rows and its labels."""

from ptune.config.rules.asked import (
    ONLY_SPANS,
    ONLY_WORDS,
    Rule,
    chooses,
    free_text,
    head,
    no_validation,
    one_word_each,
    pools,
    spans,
    speaks,
    tagged,
)
from ptune.config.rules.known import (
    ANSWERS_IN_WORDS,
    MAX_ANSWER_TOKENS,
    N_BEST,
    STRIDE,
    VALIDATION_SHARE,
    kind_of,
)

RULES: tuple[Rule, ...] = (
    # task and data
    (
        lambda v: v["task"] != "seq2seq-lm" and v["decoder_template"] != "{label}",
        "decoder_template goes with task = seq2seq-lm only; task is {task}. Leave it out.",
    ),
    *(
        (
            lambda v, key=key, default=default: v["answer"] != "text" and v[key] != default,
            (
                f"{key} = {{{key}}} goes with answer = text only. Set answer: text, or leave "
                f"{key} out."
            ),
        )
        for key, default in (("max_new_tokens", None), ("beams", 1), ("length_penalty", 1.0))
    ),
    (
        lambda v: free_text(v) and v["length_penalty"] != 1.0 and v["beams"] == 1,
        "length_penalty = {length_penalty} weighs beams, and beams is 1. Set beams: 4, say.",
    ),
    (
        lambda v: free_text(v) and v["task"] in ("sequence-classification", "multiple-choice"),
        (
            "answer = text does not go with task = {task}, which generates no words. Leave answer "
            f"out, or set task: {' or '.join(ANSWERS_IN_WORDS)}."
        ),
    ),
    *(
        (
            lambda v, key=key: free_text(v) and bool(v[key]),
            f"{key} does not go with answer = text, whose answers are of no set. Leave {key} out.",
        )
        for key in ("labels", "verbalizer")
    ),
    (
        lambda v: free_text(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and answer = text has none. Set max_rows "
            "instead."
        ),
    ),
    (
        lambda v: not free_text(v) and v["truth_column"] is not None,
        (
            "truth_column = {truth_column} goes with answer = text, whose texts are true or false. "
            "Leave it out, or set answer: text."
        ),
    ),
    *(
        (
            lambda v, key=key: (
                kind_of(v["task"], v["problem"], v["answer"]) != "single-label"
                and v[key] is not None
            ),
            f"{key} = {{{key}}} goes with rows of one label each. Leave {key} out.",
        )
        for key in ("group_column", "positive_label")
    ),
    (
        lambda v: v["loss"] == "margin" and not chooses(v),
        "loss = margin goes with task = multiple-choice only; task is {task}.",
    ),
    (
        lambda v: v["task"] not in ANSWERS_IN_WORDS and v["loss"] == "vocabulary",
        (
            "loss = {loss} is over words, and task = {task} compares labels, choices or parts of "
            "a context alone. Leave loss out."
        ),
    ),
    (
        lambda v: (
            v["task"] != "sequence-classification"
            and not (tagged(v) or spans(v))
            and v["problem"] != "single-label"
        ),
        "problem = {problem} needs a trained head. Set task: sequence-classification.",
    ),
    (
        lambda v: tagged(v) and v["problem"] != "single-label",
        (
            "problem = {problem} does not go with task = token-classification, which gives each "
            "word one tag. Leave problem out."
        ),
    ),
    (
        lambda v: tagged(v) and v["answer"] == "text",
        "answer = text does not go with task = token-classification. Leave answer out.",
    ),
    (
        lambda v: tagged(v) and v["pooling"] != "auto",
        (
            "pooling = {pooling} does not go with task = token-classification, whose head sees the "
            "first token of each word. Leave pooling out."
        ),
    ),
    (
        lambda v: tagged(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and rows of task = token-classification "
            "have many. Set max_rows instead."
        ),
    ),
    (
        lambda v: not tagged(v) and v["scheme"] != "auto",
        (
            "scheme = {scheme} goes with task = token-classification only; task is {task}. "
            "Leave scheme out."
        ),
    ),
    (
        lambda v: spans(v) and v["problem"] != "single-label",
        (
            "problem = {problem} does not go with task = question-answering, whose answers are "
            "parts of the context. Leave problem out."
        ),
    ),
    (
        lambda v: spans(v) and v["answer"] != "label",
        (
            "answer = {answer} does not go with task = question-answering, whose answers are "
            "parts of the context. Leave answer out."
        ),
    ),
    (
        lambda v: spans(v) and v["labels"] is not None,
        (
            "labels does not go with task = question-answering, whose answers are parts of the "
            "context. Leave labels out."
        ),
    ),
    (
        lambda v: spans(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and question-answering has none. Set "
            "max_rows instead."
        ),
    ),
    (
        lambda v: not spans(v) and v["stride"] != STRIDE,
        f"stride = {{stride}} {ONLY_SPANS}",
    ),
    (
        lambda v: not spans(v) and v["max_answer_tokens"] != MAX_ANSWER_TOKENS,
        f"max_answer_tokens = {{max_answer_tokens}} {ONLY_SPANS}",
    ),
    (
        lambda v: not spans(v) and v["n_best"] != N_BEST,
        f"n_best = {{n_best}} {ONLY_SPANS}",
    ),
    (
        lambda v: not spans(v) and v["no_answer"] is not None,
        f"no_answer = {{no_answer}} {ONLY_SPANS}",
    ),
    (
        lambda v: head(v) and bool(v["verbalizer"]),
        (
            "verbalizer goes with tasks that answer in words; task = {task} has a trained head. "
            "Leave verbalizer out, or set task: causal-lm."
        ),
    ),
    (
        lambda v: not speaks(v) and v["found_words"] is not None,
        f"found_words = {{found_words}} {ONLY_WORDS}",
    ),
    (
        lambda v: v["found_words"] is not None and bool(v["verbalizer"]),
        (
            "found_words = {found_words} finds the answer words that verbalizer gives. Leave one "
            "of the two out."
        ),
    ),
    (
        lambda v: v["word_score"] != "sum" and (not speaks(v) or one_word_each(v)),
        (
            "word_score = {word_score} goes with labels of several answer words. Give them by "
            "verbalizer or found_words, or leave word_score out."
        ),
    ),
    (
        lambda v: not speaks(v) and v["calibration"] != "none",
        f"calibration = {{calibration}} {ONLY_WORDS}",
    ),
    (
        lambda v: v["calibration"] == "batch" and no_validation(v),
        (
            "calibration = batch measures on the validation rows. Give validation or "
            "validation_share, or set calibration: contextual."
        ),
    ),
    (
        lambda v: v["task"] != "masked-lm" and v["fill"] != "together",
        "fill = {fill} goes with task = masked-lm only; task is {task}. Leave fill out.",
    ),
    (
        lambda v: not pools(v) and not tagged(v) and v["pooling"] != "auto",
        (
            "pooling = {pooling} goes with the head of task = sequence-classification; task is "
            "{task}. Leave pooling out."
        ),
    ),
    (
        lambda v: not head(v) and v["head_dropout"] > 0,
        (
            "head_dropout = {head_dropout} goes with a trained head; task = {task} has none. "
            "Leave head_dropout out."
        ),
    ),
    (
        lambda v: not head(v) and v["head_form"] != "normalized",
        (
            "head_form = {head_form} goes with a trained head; task = {task} has none. "
            "Leave head_form out, or set task: sequence-classification."
        ),
    ),
    (
        lambda v: not chooses(v) and v["choices"] is not None,
        (
            "choices = {choices} goes with task = multiple-choice only; task is {task}. Leave "
            "choices out, or set task: multiple-choice."
        ),
    ),
    (
        lambda v: not chooses(v) and v["choose_by"] != "head",
        (
            "choose_by = {choose_by} goes with task = multiple-choice only; task is {task}. "
            "Leave choose_by out."
        ),
    ),
    (
        lambda v: chooses(v) and (v["labels"] is not None or bool(v["verbalizer"])),
        (
            "labels and verbalizer do not go with task = multiple-choice, whose rows have choices "
            "of their own. Leave them out."
        ),
    ),
    (
        lambda v: chooses(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and task = multiple-choice has none. Set "
            "max_rows instead."
        ),
    ),
    (
        lambda v: v["labels"] is not None and v["problem"] == "regression",
        "labels does not go with problem = regression, whose labels are numbers. Leave labels out.",
    ),
    (
        lambda v: v["labels"] is not None and len(set(v["labels"])) != len(v["labels"]),
        "labels = {labels} names a label twice. Keep one of the two.",
    ),
    (
        lambda v: v["few_shot"] is not None and v["problem"] != "single-label",
        (
            "few_shot = {few_shot} draws rows per label and needs problem = single-label; "
            "problem is {problem}. Set max_rows instead."
        ),
    ),
    (
        lambda v: v["few_shot"] is not None and v["max_rows"] is not None,
        "few_shot = {few_shot} and max_rows = {max_rows} both draw training rows. Keep one.",
    ),
    (
        lambda v: v["few_shot"] is not None and v["validation_share"] not in (0, VALIDATION_SHARE),
        (
            "validation_share = {validation_share} does not go with few_shot = {few_shot}, which "
            "holds out as many rows as it trains on. Leave it out, or set it to 0 for none."
        ),
    ),
)
