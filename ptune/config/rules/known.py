"""What goes with what: tasks, metrics, methods and encoders, and defaults that others look at."""

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
    "single-label": ("accuracy", "macro_f1", "loss", "perplexity", "f1", "exact_match"),
    "multi-label": ("micro_f1", "macro_f1", "loss"),
    "token-classification": ("f1", "precision", "recall", "accuracy", "loss"),
    "regression": ("pearson", "spearman", "mse", "loss"),
    "question-answering": ("f1", "exact_match", "loss"),
    "multiple-choice": ("accuracy", "loss"),
    "text": ("loss", "perplexity", "exact_match", "rouge1", "rouge2", "rougeL", "bleu", "accuracy"),
}
# Metrics of a kind that are there with a setting only.
COUNTED_BY: dict[str, dict[str, str]] = {
    "single-label": {"f1": "positive_label", "exact_match": "group_column"},
    "text": {"accuracy": "truth_column"},
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
