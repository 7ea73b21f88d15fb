import pytest

from ptune.config import ENCODERS_OF, METRICS_OF, TRAINED_HEAD, Recipe
from ptune.config.rules.known import COUNTED_BY
from ptune.errors import ConfigError

HEAD = "sequence-classification"
SPANS = "question-answering"
DEEP = "p-tuning-v2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": DEEP, "encoder": "lstm"},
            (
                "encoder = lstm does not go with method = p-tuning-v2, which trains keys and "
                "values. Leave encoder out, or set projection."
            ),
        ),
        (
            {"method": "p-tuning", "encoder": "embedding"},
            (
                "encoder = embedding does not go with method = p-tuning. "
                "Its encoders: lstm, mlp, residual."
            ),
        ),
        (
            {"stride": 64},
            ("stride = 64 goes with task = question-answering only; task is causal-lm."),
        ),
        (
            {"max_answer_tokens": 9, "task": HEAD},
            (
                "max_answer_tokens = 9 goes with task = question-answering only; task is "
                "sequence-classification."
            ),
        ),
        (
            {"n_best": 9},
            "n_best = 9 goes with task = question-answering only; task is causal-lm.",
        ),
        (
            {"no_answer": 0},
            "no_answer = 0.0 goes with task = question-answering only; task is causal-lm.",
        ),
        (
            {"task": SPANS, "problem": "multi-label"},
            (
                "problem = multi-label does not go with task = question-answering, whose answers "
                "are parts of the context. Leave problem out."
            ),
        ),
        (
            {"task": SPANS, "answer": "text"},
            (
                "answer = text does not go with task = question-answering, whose answers are parts "
                "of the context. Leave answer out."
            ),
        ),
        (
            {"task": SPANS, "labels": ["a", "b"]},
            (
                "labels does not go with task = question-answering, whose answers are parts of the "
                "context. Leave labels out."
            ),
        ),
        (
            {"task": SPANS, "few_shot": 4},
            (
                "few_shot = 4 draws rows per label, and question-answering has none. Set max_rows "
                "instead."
            ),
        ),
        (
            {"task": SPANS, "pooling": "mean"},
            (
                "pooling = mean goes with the head of task = sequence-classification; task is "
                "question-answering. Leave pooling out."
            ),
        ),
        (
            {"task": SPANS, "metric": "accuracy"},
            (
                "metric = accuracy does not go with task = question-answering. Its metrics: f1, "
                "exact_match, loss."
            ),
        ),
        (
            {"choices": ["a", "b"]},
            (
                "choices = [a, b] goes with task = multiple-choice only; task is causal-lm. "
                "Leave choices out, or set task: multiple-choice."
            ),
        ),
        (
            {"choose_by": "words", "task": HEAD},
            (
                "choose_by = words goes with task = multiple-choice only; task is "
                "sequence-classification. Leave choose_by out."
            ),
        ),
        (
            {"task": "multiple-choice", "labels": ["0", "1"]},
            (
                "labels and verbalizer do not go with task = multiple-choice, whose rows have "
                "choices of their own. Leave them out."
            ),
        ),
        (
            {"task": "multiple-choice", "few_shot": 4},
            (
                "few_shot = 4 draws rows per label, and task = multiple-choice has none. Set "
                "max_rows instead."
            ),
        ),
        (
            {"task": "multiple-choice", "problem": "regression"},
            "problem = regression needs a trained head. Set task: sequence-classification.",
        ),
        (
            {"task": "multiple-choice", "choose_by": "words", "head_lr": 0.1},
            (
                "head_lr = 0.1 has nothing to train: task = multiple-choice has no head. Leave "
                "head_lr out."
            ),
        ),
        (
            {"backbone_lr": 1e-4},
            (
                "backbone_lr = 0.0001 has nothing to train: the backbone is frozen. Set "
                "train_backbone: true, or leave it out."
            ),
        ),
        (
            {"backbone_weight_decay": 0.1},
            (
                "backbone_weight_decay = 0.1 has nothing to train: the backbone is frozen. Set "
                "train_backbone: true, or leave it out."
            ),
        ),
        (
            {"train_backbone": True, "quantization": "int8"},
            (
                "quantization = int8 does not go with train_backbone: int8 weights cannot be "
                "trained. Leave one of the two out."
            ),
        ),
        (
            {"train_backbone": True, "device_map": "auto"},
            (
                "device_map does not go with train_backbone, which needs all weights on one "
                "device. Leave one of the two out."
            ),
        ),
        (
            {"train_backbone": True, "compile": True},
            "compile does not go with train_backbone. Leave one of the two out.",
        ),
        (
            {"train_backbone": True, "method": DEEP, "layers": "upper:1", "trunk_cache": "1GB"},
            (
                "trunk_cache = 1GB does not go with train_backbone: what its layers compute "
                "changes with every step. Leave trunk_cache out."
            ),
        ),
        (
            {"backbone_dropout": True, "method": DEEP, "layers": "upper:1", "trunk_cache": "1GB"},
            (
                "trunk_cache = 1GB does not go with backbone_dropout: what its layers compute is "
                "drawn anew at every step. Leave one of the two out."
            ),
        ),
        (
            {"keep": "equal", "validation_share": 0},
            "keep = equal needs validation rows. Give validation or validation_share.",
        ),
        (
            {"epoch_decay": 0.9},
            (
                "epoch_decay = 0.9 goes with schedule = exponential only; schedule is linear. Set "
                "schedule: exponential, or epoch_decay: null."
            ),
        ),
        (
            {"projection": 8},
            "projection = 8 goes with method = p-tuning-v2 only; method is p-tuning.",
        ),
        (
            {"layers": [0, 2]},
            "layers = [0, 2] goes with method = p-tuning-v2 only; method is p-tuning.",
        ),
        (
            {"prefix_dropout": 0.1},
            "prefix_dropout = 0.1 goes with method = p-tuning-v2 only; method is p-tuning.",
        ),
        (
            {"method": DEEP, "encoder_hidden": 8},
            (
                "encoder_hidden = 8 has nothing to set: the prompt of this recipe is a table. "
                "Choose encoder: lstm, mlp or residual, or leave encoder_hidden out."
            ),
        ),
        (
            {"method": "prompt-tuning", "encoder_hidden": 8},
            (
                "encoder_hidden = 8 has nothing to set: the prompt of this recipe is a table. "
                "Choose encoder: lstm, mlp or residual, or leave encoder_hidden out."
            ),
        ),
        (
            {"encoder": "mlp", "encoder_dropout": 0.1},
            (
                "encoder_dropout = 0.1 goes with encoder = lstm only. "
                "Choose method: p-tuning with encoder: lstm, or leave encoder_dropout out."
            ),
        ),
        (
            {"trunk_cache": "2GB"},
            (
                "trunk_cache = 2GB has nothing to keep: no layer lies beneath the prompt. Choose "
                "method: p-tuning-v2 with layers above the first (layers: upper:4), or leave "
                "trunk_cache out."
            ),
        ),
        (
            {"trunk_cache": "2GB", "method": DEEP},
            (
                "trunk_cache = 2GB has nothing to keep: no layer lies beneath the prompt. Choose "
                "method: p-tuning-v2 with layers above the first (layers: upper:4), or leave "
                "trunk_cache out."
            ),
        ),
        (
            {"trunk_cache": "2GB", "method": DEEP, "layers": [0, 2]},
            (
                "trunk_cache = 2GB has nothing to keep: no layer lies beneath the prompt. Choose "
                "method: p-tuning-v2 with layers above the first (layers: upper:4), or leave "
                "trunk_cache out."
            ),
        ),
        (
            {"device_map": "auto", "device": "cuda:1"},
            (
                "device = cuda:1 does not go with device_map, which says where every weight goes. "
                "Leave device out."
            ),
        ),
        (
            {"device_map": {"": "disk"}, "quantization": "int8"},
            (
                "quantization = int8 does not go with device_map: the layers are made int8 in "
                "memory. Leave one of the two out."
            ),
        ),
        (
            {"offload_folder": "here"},
            (
                "offload_folder = here goes with device_map only. Set device_map, or leave "
                "offload_folder out."
            ),
        ),
        (
            {"device_map": "auto", "compile": "true"},
            (
                "compile does not go with device_map, whose weights come and go while a layer "
                "runs. Leave one of the two out."
            ),
        ),
        (
            {"task": HEAD, "found_words": 3},
            (
                "found_words = 3 goes with labels that are told by words; task is "
                "sequence-classification and answer is label. Leave it out, or set task: causal-lm "
                "or masked-lm or seq2seq-lm."
            ),
        ),
        (
            {"answer": "text", "calibration": "contextual"},
            (
                "calibration = contextual goes with labels that are told by words; task is "
                "causal-lm and answer is text. Leave it out, or set task: causal-lm or masked-lm "
                "or seq2seq-lm."
            ),
        ),
        (
            {"found_words": 3, "verbalizer": {"a": "b"}},
            (
                "found_words = 3 finds the answer words that verbalizer gives. Leave one of the "
                "two out."
            ),
        ),
        (
            {"word_score": "mean", "verbalizer": {"a": "b"}},
            (
                "word_score = mean goes with labels of several answer words. Give them by "
                "verbalizer or found_words, or leave word_score out."
            ),
        ),
        (
            {"calibration": "batch", "validation_share": 0},
            (
                "calibration = batch measures on the validation rows. Give validation or "
                "validation_share, or set calibration: contextual."
            ),
        ),
        (
            {"fill": "confident"},
            "fill = confident goes with task = masked-lm only; task is causal-lm. Leave fill out.",
        ),
        ({"init": "text"}, "init = text needs init_text, the text to start from."),
        (
            {"sites": ["decoder"]},
            "sites = [decoder] goes with method = p-tuning-v2 only; method is p-tuning.",
        ),
        (
            {"method": DEEP, "sites": ["decoder", "cross"], "layers": [1]},
            ("sites = [decoder, cross] and layers = [1] both choose attention sites. Keep one."),
        ),
        (
            {"decoder_template": "{soft:2}{label}"},
            "decoder_template goes with task = seq2seq-lm only; task is causal-lm. Leave it out.",
        ),
        (
            {"beams": 4},
            "beams = 4 goes with answer = text only. Set answer: text, or leave beams out.",
        ),
        (
            {"max_new_tokens": 9},
            (
                "max_new_tokens = 9 goes with answer = text only. Set answer: text, or leave "
                "max_new_tokens out."
            ),
        ),
        (
            {"answer": "text", "length_penalty": 0.6},
            "length_penalty = 0.6 weighs beams, and beams is 1. Set beams: 4, say.",
        ),
        (
            {"length_penalty": 0.6},
            (
                "length_penalty = 0.6 goes with answer = text only. Set answer: text, or leave "
                "length_penalty out."
            ),
        ),
        (
            {"answer": "text", "metric": "f1"},
            (
                "metric = f1 does not go with answer = text. Its metrics: loss, perplexity, "
                "exact_match, rouge1, rouge2, rougeL, bleu, accuracy."
            ),
        ),
        (
            {"answer": "text", "metric": "accuracy"},
            "metric = accuracy needs truth_column. Set it, or choose another score.",
        ),
        (
            {"metric": "f1"},
            "metric = f1 needs positive_label. Set it, or choose another score.",
        ),
        (
            {"second_metric": "exact_match"},
            "second_metric = exact_match needs group_column. Set it, or choose another score.",
        ),
        (
            {"metric": "loss", "second_metric": "loss"},
            "second_metric = loss is metric itself. Leave it out, or choose another score.",
        ),
        (
            {"second_metric": "loss", "validation_share": 0},
            "second_metric = loss needs validation rows. Give validation or validation_share.",
        ),
        (
            {"truth_column": "label"},
            (
                "truth_column = label goes with answer = text, whose texts are true or false. "
                "Leave it out, or set answer: text."
            ),
        ),
        (
            {"task": "multiple-choice", "group_column": "id"},
            "group_column = id goes with rows of one label each. Leave group_column out.",
        ),
        (
            {"answer": "text", "positive_label": "a"},
            "positive_label = a goes with rows of one label each. Leave positive_label out.",
        ),
        (
            {"loss": "margin"},
            "loss = margin goes with task = multiple-choice only; task is causal-lm.",
        ),
        (
            {"init": "random", "init_text": "a"},
            (
                "init_text goes with init = text only; init is random. Set init: text, or "
                "leave init_text out."
            ),
        ),
        (
            {"problem": "regression"},
            "problem = regression needs a trained head. Set task: sequence-classification.",
        ),
        (
            {"task": HEAD, "verbalizer": {"a": "b"}},
            (
                "verbalizer goes with tasks that answer in words; task = sequence-classification "
                "has a trained head. Leave verbalizer out, or set task: causal-lm."
            ),
        ),
        (
            {"task": HEAD, "problem": "regression", "labels": ["a"]},
            (
                "labels does not go with problem = regression, whose labels are numbers. "
                "Leave labels out."
            ),
        ),
        (
            {"labels": ["a", "b", "a"]},
            "labels = [a, b, a] names a label twice. Keep one of the two.",
        ),
        (
            {"task": HEAD, "problem": "multi-label", "few_shot": 4},
            (
                "few_shot = 4 draws rows per label and needs problem = single-label; "
                "problem is multi-label. Set max_rows instead."
            ),
        ),
        (
            {"few_shot": 4, "max_rows": 9},
            "few_shot = 4 and max_rows = 9 both draw training rows. Keep one.",
        ),
        (
            {"few_shot": 4, "validation_share": 0.5},
            (
                "validation_share = 0.5 does not go with few_shot = 4, which holds out as many "
                "rows as it trains on. Leave it out, or set it to 0 for none."
            ),
        ),
        (
            {"batch_size": 8, "tokens_per_batch": 512},
            ("batch_size = 8 and tokens_per_batch = 512 both say how large a batch is. Keep one."),
        ),
        (
            {"validation": "v.csv", "validation_share": 0.5},
            (
                "validation_share = 0.5 holds rows of train out, and validation = v.csv gives "
                "others. Keep one."
            ),
        ),
        (
            {"patience": 3, "validation_share": 0.0},
            "patience = 3 needs validation rows. Give validation or validation_share.",
        ),
        (
            {"task": HEAD, "answer": "text"},
            (
                "answer = text does not go with task = sequence-classification, which generates no "
                "words. Leave answer out, or set task: causal-lm or masked-lm or seq2seq-lm."
            ),
        ),
        (
            {"task": "multiple-choice", "answer": "text"},
            (
                "answer = text does not go with task = multiple-choice, which generates no words. "
                "Leave answer out, or set task: causal-lm or masked-lm or seq2seq-lm."
            ),
        ),
        (
            {"answer": "text", "labels": ["a", "b"]},
            "labels does not go with answer = text, whose answers are of no set. Leave labels out.",
        ),
        (
            {"task": "masked-lm", "answer": "text", "verbalizer": {"a": "b"}},
            (
                "verbalizer does not go with answer = text, whose answers are of no set. Leave "
                "verbalizer out."
            ),
        ),
        (
            {"task": "seq2seq-lm", "answer": "text", "few_shot": 2},
            (
                "few_shot = 2 draws rows per label, and answer = text has none. Set max_rows "
                "instead."
            ),
        ),
        (
            {"task": "multiple-choice", "choose_by": "words", "loss": "vocabulary"},
            (
                "loss = vocabulary is over words, and task = multiple-choice compares labels, "
                "choices or parts of a context alone. Leave loss out."
            ),
        ),
        (
            {"task": HEAD, "metric": "perplexity"},
            (
                "metric = perplexity goes with tasks that answer in words; task is "
                "sequence-classification."
            ),
        ),
        (
            {"metric": "mse"},
            (
                "metric = mse does not go with problem = single-label. "
                "Its metrics: accuracy, macro_f1, loss, perplexity, f1, exact_match."
            ),
        ),
        (
            {"head_lr": 0.1},
            "head_lr = 0.1 has nothing to train: task = causal-lm has no head. Leave head_lr out.",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], message: str):
    with pytest.raises(ConfigError) as caught:
        Recipe.make(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "settings",
    [
        {"method": DEEP, "projection": 8, "layers": "upper:2", "prefix_dropout": 0.1},
        {"encoder": "mlp", "encoder_hidden": 8},
        {"method": "prompt-tuning", "encoder": "residual", "encoder_hidden": 8},
        {"encoder_dropout": 0.1},
        {"init": "text", "init_text": "a"},
        {"init_text": "a"},
        {"task": HEAD, "problem": "multi-label", "labels": ["a", "b"], "head_lr": 0.1},
        {"patience": 3, "validation_share": 0.0, "validation": "dev.csv"},
        {"patience": 3},
        {"task": "masked-lm", "fill": "confident", "word_score": "mean", "found_words": 2},
        {"word_score": "mean", "verbalizer": {"a": ("b", "c")}, "calibration": "batch"},
        {"task": "seq2seq-lm", "word_score": "mean", "found_words": 2, "calibration": "batch"},
        {"task": "seq2seq-lm", "answer": "text", "loss": "vocabulary"},
        {"metric": "perplexity", "verbalizer": {"a": "b"}, "few_shot": 4},
        {
            "metric": "f1",
            "positive_label": "1",
            "second_metric": "exact_match",
            "group_column": "q",
        },
        {"task": "masked-lm", "answer": "text", "truth_column": "label", "metric": "accuracy"},
        {"task": "multiple-choice", "loss": "margin"},
    ],
)
def test_settings_that_go_together_are_accepted(settings: dict[str, object]):
    given = Recipe.make(**settings).to_dict()
    assert {key: given[key] for key in settings if key != "verbalizer"} == {
        key: value for key, value in settings.items() if key != "verbalizer"
    }


def test_every_encoder_and_metric_of_the_tables_is_accepted():
    for method, encoders in ENCODERS_OF.items():
        for encoder in encoders:
            assert Recipe.make(method=method, encoder=encoder).encoder == encoder
    for kind, metrics in METRICS_OF.items():
        made_of = METRICS_OF.keys() & {*TRAINED_HEAD, "masked-lm"}
        asked = {"task": kind} if kind in made_of else {"task": HEAD, "problem": kind}
        asked = {"answer": "text"} if kind == "text" else asked
        asked |= dict.fromkeys(COUNTED_BY.get(kind, {}).values(), "given")
        for metric in set(metrics) - {"perplexity"}:
            assert Recipe.make(**asked, metric=metric).metric == metric


def test_several_clashes_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        Recipe.make(init="text", projection=8)
    assert str(caught.value) == (
        "2 mistakes:\n"
        "  - projection = 8 goes with method = p-tuning-v2 only; method is p-tuning.\n"
        "  - init = text needs init_text, the text to start from."
    )


@pytest.mark.parametrize("share", [0, 0.2])
def test_beside_validation_rows_none_held_out_may_be_said_and_the_default(share):
    assert Recipe.make(validation="v.csv", validation_share=share).validation == "v.csv"
