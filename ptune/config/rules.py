"""Which settings go together: one rule, one sentence.

    method: p-tuning-v2
    encoder: lstm          -> encoder = lstm does not go with method = p-tuning-v2. ...

A setting that would be ignored is refused: a sweep over it would compare equal runs.
Rules read plain values and know no type; ranges and kinds were checked before (recipe.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

from ptune.config.wording import show

# Tasks whose answers a new head gives, which is trained with the prompt; see `trains_head`.
TRAINED_HEAD = (
    "sequence-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
)
# Tasks whose answers are words of the backbone's own head.
ANSWERS_IN_WORDS = ("causal-lm", "masked-lm", "seq2seq-lm")
# The first one is the default of its kind (`kind_of`).
METRICS_OF: dict[str, tuple[str, ...]] = {
    "single-label": ("accuracy", "macro_f1", "loss", "perplexity"),
    "multi-label": ("micro_f1", "macro_f1", "loss"),
    "token-classification": ("f1", "precision", "recall", "accuracy", "loss"),
    "regression": ("pearson", "spearman", "mse", "loss"),
    "question-answering": ("f1", "exact_match", "loss"),
    "multiple-choice": ("accuracy", "loss"),
    "text": ("loss", "perplexity", "exact_match", "rouge1", "rouge2", "rougeL", "bleu"),
}
# Settings that a task has a default of its own for.
OF_TASK: dict[str, dict[str, str]] = {"question-answering": {"label_column": "answers"}}
# The first one is the default of its method; a deep prompt has a table or a projection instead.
ENCODERS_OF: dict[str, tuple[str, ...]] = {
    "p-tuning": ("lstm", "mlp", "residual"),
    "prompt-tuning": ("embedding", "residual"),
    "p-tuning-v2": (),
}
# Defaults of settings that another one may take the place of.
BATCH_SIZE = 16
STRIDE = 128
MAX_ANSWER_TOKENS = 30
N_BEST = 20
VALIDATION_SHARE = 0.2

Values = Mapping[str, Any]


def kind_of(task: str, problem: str, answer: str = "label") -> str:
    """Return what kind of answers a run has: its problem, or its task where that says it all.

    Free text is a kind of its own.

    >>> kind_of("sequence-classification", "regression"), kind_of("causal-lm", "single-label")
    ('regression', 'single-label')
    """
    if task in METRICS_OF:
        return task
    return answer if answer == "text" else problem


def trains_head(task: str, choose_by: str) -> bool:
    """Tell whether a new head gives the answers.

    >>> trains_head("multiple-choice", "head"), trains_head("multiple-choice", "words")
    (True, False)
    """
    return task in TRAINED_HEAD and (task != "multiple-choice" or choose_by == "head")


def clashes(values: Values) -> list[str]:
    """Return a sentence for every pair of settings that do not go together."""
    by_table = (_encoder(values), _metric(values))
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


def _metric(v: Values) -> str:
    kind = kind_of(v["task"], v["problem"], v["answer"])
    known = METRICS_OF[kind]
    if v["metric"] is None or v["metric"] in known:
        return ""
    key = {v["task"]: "task", "text": "answer"}.get(kind, "problem")
    return (
        f"metric = {v['metric']} does not go with {key} = {kind}. Its metrics: {', '.join(known)}."
    )


def _not_deep(v: Values) -> bool:
    return bool(v["method"] != "p-tuning-v2")


def _head(v: Values) -> bool:
    return trains_head(v["task"], v["choose_by"])


def _chooses(v: Values) -> bool:
    return bool(v["task"] == "multiple-choice")


def _speaks(v: Values) -> bool:
    """Whether labels are told by words."""
    return v["task"] in ANSWERS_IN_WORDS and v["answer"] == "label"


def _free_text(v: Values) -> bool:
    return bool(v["answer"] == "text")


def _one_word_each(v: Values) -> bool:
    several = any(len(words) > 1 for words in v["verbalizer"].values())
    return not several and v["found_words"] in (None, 1)


_ONLY_WORDS = (
    "goes with labels that are told by words; task is {task} and answer is {answer}. Leave it out, "
    f"or set task: {' or '.join(ANSWERS_IN_WORDS)}."
)


def _tagged(v: Values) -> bool:
    return bool(v["task"] == "token-classification")


def _spans(v: Values) -> bool:
    return bool(v["task"] == "question-answering")


def _pools(v: Values) -> bool:
    return _head(v) and v["task"] in ("sequence-classification", "multiple-choice")


_ONLY_SPANS = "goes with task = question-answering only; task is {task}."
_ONLY_DEEP = "goes with method = p-tuning-v2 only; method is {method}."

_FROZEN = "has nothing to train: the backbone is frozen. Set train_backbone: true, or leave it out."

_RULES: tuple[tuple[Callable[[Values], bool], str], ...] = (
    # prompt
    (
        lambda v: _not_deep(v) and v["projection"] is not None,
        f"projection = {{projection}} {_ONLY_DEEP}",
    ),
    (lambda v: _not_deep(v) and v["layers"] is not None, f"layers = {{layers}} {_ONLY_DEEP}"),
    (
        lambda v: _not_deep(v) and v["prefix_dropout"] > 0,
        f"prefix_dropout = {{prefix_dropout}} {_ONLY_DEEP}",
    ),
    (
        lambda v: (
            v["encoder_hidden"] is not None
            and (v["method"] == "p-tuning-v2" or _encoder_of(v) == "embedding")
        ),
        (
            "encoder_hidden = {encoder_hidden} has nothing to set: the prompt of this recipe is a "
            "table. Choose encoder: lstm, mlp or residual, or leave encoder_hidden out."
        ),
    ),
    (
        lambda v: v["encoder_dropout"] > 0 and _encoder_of(v) != "lstm",
        (
            "encoder_dropout = {encoder_dropout} goes with encoder = lstm only. "
            "Choose method: p-tuning with encoder: lstm, or leave encoder_dropout out."
        ),
    ),
    (
        lambda v: v["init"] == "text" and v["init_text"] is None,
        "init = text needs init_text, the text to start from.",
    ),
    (
        lambda v: v["init_text"] is not None and v["init"] not in ("auto", "text"),
        "init_text goes with init = text only; init is {init}.",
    ),
    (
        lambda v: _not_deep(v) and v["sites"] is not None,
        f"sites = {{sites}} {_ONLY_DEEP}",
    ),
    (
        lambda v: v["sites"] is not None and v["layers"] is not None,
        "sites = {sites} and layers = {layers} both choose attention sites. Keep one.",
    ),
    # task and data
    (
        lambda v: v["task"] != "seq2seq-lm" and v["decoder_template"] != "{label}",
        "decoder_template goes with task = seq2seq-lm only; task is {task}.",
    ),
    *(
        (
            lambda v, key=key, default=default: v["answer"] != "text" and v[key] != default,
            f"{key} = {{{key}}} goes with answer = text only, where words are generated.",
        )
        for key, default in (("max_new_tokens", None), ("beams", 1), ("length_penalty", 1.0))
    ),
    (
        lambda v: v["length_penalty"] != 1.0 and v["beams"] == 1,
        "length_penalty = {length_penalty} weighs beams, and beams is 1. Set beams: 4, say.",
    ),
    (
        lambda v: _free_text(v) and v["task"] in ("sequence-classification", "multiple-choice"),
        (
            "answer = text does not go with task = {task}, which generates no words. Leave answer "
            f"out, or set task: {' or '.join(ANSWERS_IN_WORDS)}."
        ),
    ),
    *(
        (
            lambda v, key=key: _free_text(v) and bool(v[key]),
            f"{key} does not go with answer = text, whose answers are of no set. Leave {key} out.",
        )
        for key in ("labels", "verbalizer")
    ),
    (
        lambda v: _free_text(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and answer = text has none. Set max_rows "
            "instead."
        ),
    ),
    (
        lambda v: v["task"] not in ANSWERS_IN_WORDS and v["loss"] != "labels",
        (
            "loss = {loss} is over words, and task = {task} compares labels, choices or parts of "
            "a context alone. Leave loss out."
        ),
    ),
    (
        lambda v: (
            v["task"] != "sequence-classification"
            and not (_tagged(v) or _spans(v))
            and v["problem"] != "single-label"
        ),
        "problem = {problem} needs a trained head. Set task: sequence-classification.",
    ),
    (
        lambda v: _tagged(v) and v["problem"] != "single-label",
        (
            "problem = {problem} does not go with task = token-classification, which gives each "
            "word one tag. Leave problem out."
        ),
    ),
    (
        lambda v: _tagged(v) and v["answer"] == "text",
        "answer = text does not go with task = token-classification. Leave answer out.",
    ),
    (
        lambda v: _tagged(v) and v["pooling"] != "auto",
        (
            "pooling = {pooling} does not go with task = token-classification, whose head sees the "
            "first token of each word. Leave pooling out."
        ),
    ),
    (
        lambda v: _tagged(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and rows of task = token-classification "
            "have many. Set max_rows instead."
        ),
    ),
    (
        lambda v: not _tagged(v) and v["scheme"] != "auto",
        (
            "scheme = {scheme} goes with task = token-classification only; task is {task}. "
            "Leave scheme out."
        ),
    ),
    (
        lambda v: _spans(v) and v["problem"] != "single-label",
        (
            "problem = {problem} does not go with task = question-answering, whose answers are "
            "parts of the context. Leave problem out."
        ),
    ),
    (
        lambda v: _spans(v) and v["answer"] != "label",
        (
            "answer = {answer} does not go with task = question-answering, whose answers are "
            "parts of the context. Leave answer out."
        ),
    ),
    (
        lambda v: _spans(v) and v["labels"] is not None,
        (
            "labels does not go with task = question-answering, whose answers are parts of the "
            "context. Leave labels out."
        ),
    ),
    (
        lambda v: _spans(v) and v["few_shot"] is not None,
        (
            "few_shot = {few_shot} draws rows per label, and question-answering has none. Set "
            "max_rows instead."
        ),
    ),
    (
        lambda v: not _spans(v) and v["stride"] != STRIDE,
        f"stride = {{stride}} {_ONLY_SPANS}",
    ),
    (
        lambda v: not _spans(v) and v["max_answer_tokens"] != MAX_ANSWER_TOKENS,
        f"max_answer_tokens = {{max_answer_tokens}} {_ONLY_SPANS}",
    ),
    (
        lambda v: not _spans(v) and v["n_best"] != N_BEST,
        f"n_best = {{n_best}} {_ONLY_SPANS}",
    ),
    (
        lambda v: not _spans(v) and v["no_answer"] is not None,
        f"no_answer = {{no_answer}} {_ONLY_SPANS}",
    ),
    (
        lambda v: _head(v) and bool(v["verbalizer"]),
        (
            "verbalizer goes with tasks that answer in words; task = {task} has a trained head. "
            "Leave verbalizer out, or set task: causal-lm."
        ),
    ),
    (
        lambda v: not _speaks(v) and v["found_words"] is not None,
        f"found_words = {{found_words}} {_ONLY_WORDS}",
    ),
    (
        lambda v: v["found_words"] is not None and bool(v["verbalizer"]),
        (
            "found_words = {found_words} finds the answer words that verbalizer gives. Leave one "
            "of the two out."
        ),
    ),
    (
        lambda v: v["word_score"] != "sum" and (not _speaks(v) or _one_word_each(v)),
        (
            "word_score = {word_score} goes with labels of several answer words. Give them by "
            "verbalizer or found_words, or leave word_score out."
        ),
    ),
    (
        lambda v: not _speaks(v) and v["calibration"] != "none",
        f"calibration = {{calibration}} {_ONLY_WORDS}",
    ),
    (
        lambda v: v["calibration"] == "batch" and _no_validation(v),
        (
            "calibration = batch measures on the validation rows. Give validation or "
            "validation_share, or set calibration: contextual."
        ),
    ),
    (
        lambda v: v["task"] != "masked-lm" and v["fill"] != "together",
        "fill = {fill} goes with task = masked-lm only; task is {task}.",
    ),
    (
        lambda v: not _pools(v) and not _tagged(v) and v["pooling"] != "auto",
        (
            "pooling = {pooling} goes with the head of task = sequence-classification; task is "
            "{task}. Leave pooling out."
        ),
    ),
    (
        lambda v: not _head(v) and v["head_dropout"] > 0,
        (
            "head_dropout = {head_dropout} goes with a trained head; task = {task} has none. "
            "Leave head_dropout out."
        ),
    ),
    (
        lambda v: not _head(v) and v["head_form"] != "normalized",
        (
            "head_form = {head_form} goes with a trained head; task = {task} has none. "
            "Leave head_form out, or set task: sequence-classification."
        ),
    ),
    (
        lambda v: not _chooses(v) and v["choices"] is not None,
        "choices = {choices} goes with task = multiple-choice only; task is {task}.",
    ),
    (
        lambda v: not _chooses(v) and v["choose_by"] != "head",
        "choose_by = {choose_by} goes with task = multiple-choice only; task is {task}.",
    ),
    (
        lambda v: _chooses(v) and (v["labels"] is not None or bool(v["verbalizer"])),
        (
            "labels and verbalizer do not go with task = multiple-choice, whose rows have choices "
            "of their own. Leave them out."
        ),
    ),
    (
        lambda v: _chooses(v) and v["few_shot"] is not None,
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
        "labels = {labels} names a label twice.",
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
    # backbone
    (
        lambda v: v["device_map"] is not None and v["device"] != "auto",
        (
            "device = {device} does not go with device_map, which says where every weight goes. "
            "Leave device out."
        ),
    ),
    (
        lambda v: v["device_map"] is not None and v["quantization"] is not None,
        (
            "quantization = {quantization} does not go with device_map: the layers are made int8 "
            "in memory. Leave one of the two out."
        ),
    ),
    (
        lambda v: v["device_map"] is None and v["offload_folder"] is not None,
        (
            "offload_folder = {offload_folder} goes with device_map only. Set device_map, or leave "
            "offload_folder out."
        ),
    ),
    (
        lambda v: v["device_map"] is not None and v["compile"],
        (
            "compile does not go with device_map, whose weights come and go while a layer runs. "
            "Leave one of the two out."
        ),
    ),
    # training
    (
        lambda v: v["tokens_per_batch"] is not None and v["batch_size"] != BATCH_SIZE,
        (
            "batch_size = {batch_size} and tokens_per_batch = {tokens_per_batch} both say how "
            "large a batch is. Keep one."
        ),
    ),
    (
        lambda v: _no_validation(v) and v["patience"] is not None,
        "patience = {patience} needs validation rows. Give validation or validation_share.",
    ),
    (
        lambda v: _no_validation(v) and v["protocol"] == "paper",
        (
            "protocol = paper reports the best score on validation rows, and there are none. Give "
            "validation or validation_share."
        ),
    ),
    (
        lambda v: v["test"] is not None and v["protocol"] == "paper",
        (
            "protocol = paper reports the best score on the validation rows; test = {test} would "
            "be a second report. Leave test out, or set protocol: strict."
        ),
    ),
    (
        lambda v: _head(v) and v["metric"] == "perplexity",
        "metric = perplexity goes with task = causal-lm only; task is {task}.",
    ),
    (
        lambda v: v["trunk_cache"] not in ("auto", "off") and not _above_the_first(v),
        (
            "trunk_cache = {trunk_cache} has nothing to keep: no layer lies beneath the prompt. "
            "Choose method: p-tuning-v2 with layers above the first (layers: upper:4), or leave "
            "trunk_cache out."
        ),
    ),
    (
        lambda v: not _head(v) and v["head_lr"] is not None,
        "head_lr = {head_lr} has nothing to train: task = {task} has no head. Leave head_lr out.",
    ),
    (
        lambda v: not v["train_backbone"] and v["backbone_lr"] is not None,
        f"backbone_lr = {{backbone_lr}} {_FROZEN}",
    ),
    (
        lambda v: not v["train_backbone"] and v["backbone_weight_decay"] > 0,
        f"backbone_weight_decay = {{backbone_weight_decay}} {_FROZEN}",
    ),
    (
        lambda v: v["train_backbone"] and v["quantization"] is not None,
        (
            "quantization = {quantization} does not go with train_backbone: int8 weights cannot "
            "be trained. Leave one of the two out."
        ),
    ),
    (
        lambda v: v["train_backbone"] and v["device_map"] is not None,
        (
            "device_map does not go with train_backbone, which needs all weights on one device. "
            "Leave one of the two out."
        ),
    ),
    (
        lambda v: v["train_backbone"] and v["compile"],
        "compile does not go with train_backbone. Leave one of the two out.",
    ),
    (
        lambda v: v["train_backbone"] and v["trunk_cache"] not in ("auto", "off"),
        (
            "trunk_cache = {trunk_cache} does not go with train_backbone: what its layers compute "
            "changes with every step. Leave trunk_cache out."
        ),
    ),
    (
        lambda v: _no_validation(v) and v["keep"] != "better",
        "keep = {keep} needs validation rows. Give validation or validation_share.",
    ),
)


def _encoder_of(v: Values) -> str | None:
    """Return the encoder that will be used, the default of the method included."""
    return v["encoder"] or next(iter(ENCODERS_OF[v["method"]]), None)


def _above_the_first(v: Values) -> bool:
    """Tell whether a deep prompt may leave layers beneath it; `upper:N` is known later."""
    return isinstance(v["layers"], str) or (v["layers"] is not None and min(v["layers"]) > 0)


def _no_validation(v: Values) -> bool:
    return v["validation"] is None and v["validation_share"] == 0
