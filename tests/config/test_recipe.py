import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ptune.config import BY_METHOD, ENCODERS_OF, METRICS_OF, Recipe, settings_table
from ptune.errors import ConfigError


def refusal(**settings: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Recipe.make(**settings)
    return str(caught.value)


def test_a_recipe_has_the_defaults_that_the_listing_shows():
    recipe = Recipe.make()
    shown = {row.key: row.default for row in settings_table()}
    assert shown["lr"] == "null"
    assert recipe.lr is None
    assert shown["warmup_share"] == "0.06"
    assert recipe.warmup_share == 0.06
    assert shown["gradient_checkpointing"] == "false"
    assert recipe.gradient_checkpointing is False
    assert list(shown) == list(recipe.to_dict())


def test_the_listing_names_the_range_of_every_kind_of_setting():
    rows = {row.key: row for row in settings_table()}
    assert rows["method"] == (
        "prompt",
        "method",
        "p-tuning",
        "one of p-tuning, prompt-tuning, p-tuning-v2",
        "Vectors from an encoder, vectors alone, or keys and values at attention sites.",
    )
    assert {key: rows[key].allowed for key in ("epochs", "few_shot", "lr", "clip", "seed")} == {
        "epochs": "a whole number, 1 or more, or null",
        "few_shot": "a whole number, 1 or more, or null",
        "lr": "a number from 1e-08 to 100.0, or null",
        "clip": "a number, 0.0 or more",
        "seed": "a whole number from 0 to 4294967295",
    }
    assert {key: rows[key].allowed for key in ("output", "offline", "labels", "columns")} == {
        "output": "text",
        "offline": "true or false",
        "labels": "a list of texts, or null",
        "columns": "a mapping from text to text",
    }


def test_every_setting_has_a_group_and_a_meaning_of_its_own():
    rows = settings_table()
    assert {row.group for row in rows} == {"backbone", "data", "task", "prompt", "training"}
    assert len({row.meaning for row in rows}) == len(rows)
    assert all(row.meaning.endswith(".") for row in rows)


def test_groups_stand_together_in_the_listing():
    groups = [row.group for row in settings_table()]
    assert list(dict.fromkeys(groups)) == sorted(set(groups), key=groups.index)
    assert sum(a != b for a, b in itertools.pairwise(groups)) == 4


def test_an_unknown_key_is_told_with_the_nearest_one():
    assert refusal(tempalte="x") == (
        "unknown key tempalte. Did you mean template? `ptune settings` lists all keys."
    )
    assert refusal(zzz=1) == "unknown key zzz. `ptune settings` lists all keys."


def test_a_word_outside_the_choices_is_told_with_the_nearest_one():
    assert refusal(method="ptuning") == (
        "method = ptuning is not allowed. Allowed: one of p-tuning, prompt-tuning, p-tuning-v2. "
        "Did you mean p-tuning? "
        "Meaning: Vectors from an encoder, vectors alone, or keys and values at attention sites."
    )
    assert refusal(init="vocabluary") == (
        "init = vocabluary is not allowed. Allowed: one of auto, random, vocabulary, text, "
        "labels, paper, or the path of a saved prompt, with a / in it. Did you mean vocabulary? "
        "Meaning: What the prompt starts from."
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (100.5, "100.5"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ("fast", "fast"),
        ([1], "[1]"),
    ],
)
def test_a_number_outside_its_range_says_what_is_allowed(value: object, shown: str):
    assert refusal(lr=value) == (
        f"lr = {shown} is not allowed. Allowed: a number from 1e-08 to 100.0, or null. "
        "Meaning: Largest AdamW step size of the prompt, in units of the backbone's own; "
        "null: 0.3, of p-tuning-v2 0.06."
    )


@pytest.mark.parametrize(("low", "high"), [(1e-8, 100.0)])
def test_both_ends_of_a_range_are_allowed(low: float, high: float):
    assert (Recipe.make(lr=low).lr, Recipe.make(lr=high).lr) == (low, high)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "epochs",
            2.5,
            (
                "epochs = 2.5 is not allowed. Allowed: a whole number, 1 or more, or null. "
                "Meaning: Passes over the training rows; null: 5, and up to 20 where rows are few."
            ),
        ),
        (
            "batch_size",
            None,
            (
                "batch_size = null is not allowed. Allowed: a whole number, 1 or more. "
                "Meaning: Rows that are run at once."
            ),
        ),
        (
            "offline",
            "maybe",
            (
                "offline = maybe is not allowed. Allowed: true or false. "
                "Meaning: Use what is on this machine only; never ask the hub."
            ),
        ),
        (
            "output",
            "",
            (
                'output = "" is not allowed. Allowed: text. '
                "Meaning: Folder for the prompt, the checkpoints and the log."
            ),
        ),
        (
            "template",
            {"text": None},
            (
                "template = {text: null} is not allowed. Allowed: text, or null. Meaning: Layout "
                "of a row, e.g. {soft:20}{text} Label : {label}; null: made from the columns."
            ),
        ),
        (
            "labels",
            "yes",
            (
                "labels = yes is not allowed. Allowed: a list of texts, or null. "
                "Meaning: Labels in their order; null: found in train, sorted."
            ),
        ),
        (
            "labels",
            [True, "b"],
            (
                "labels = [true, b] is not allowed. Allowed: a list of texts, or null. "
                "Meaning: Labels in their order; null: found in train, sorted."
            ),
        ),
        (
            "columns",
            {"text": ["a"]},
            (
                "columns = {text: [a]} is not allowed. Allowed: a mapping from text to text. "
                "Meaning: Template field to column, where the names differ."
            ),
        ),
        (
            "verbalizer",
            "yes",
            (
                "verbalizer = yes is not allowed. Allowed: a mapping from label to a word or a "
                "list of words. Meaning: Label to answer word, where the word is not the label."
            ),
        ),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key: str, value: object, message: str):
    assert refusal(**{key: value}) == message


@pytest.mark.parametrize(
    "value", ["upper", "upper:0", "upper:x", "upper:²", "upper:٣", "lower:2", [], [1, 1], [-1], 3]
)
def test_layers_are_different_sites_or_upper_n(value: object):
    assert refusal(method="p-tuning-v2", layers=value).endswith(
        "Allowed: a list of different site numbers from 0, or upper:N, or null. "
        "Meaning: Attention sites of a deep prompt; null: all."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_range_without_an_end_still_ends_before_infinity(value: float):
    assert refusal(clip=value) == (
        f"clip = {value} is not allowed. Allowed: a number, 0.0 or more. "
        "Meaning: Largest norm of the gradient; 0: no clipping."
    )


def test_a_recipe_is_never_changed():
    recipe = Recipe.make()
    with pytest.raises(ValidationError, match="Instance is frozen"):
        recipe.seed = 1


def test_layers_that_fit_are_kept():
    assert Recipe.make(method="p-tuning-v2", layers="upper:4").layers == "upper:4"
    assert Recipe.make(method="p-tuning-v2", layers=["2", 0]).layers == (2, 0)


def test_a_set_has_no_order_and_is_refused():
    assert refusal(labels={"a"}) == (
        "labels = {'a'} is not allowed. Allowed: a list of texts, or null. "
        "Meaning: Labels in their order; null: found in train, sorted."
    )


def test_a_long_value_is_cut_in_the_message():
    assert refusal(method="x" * 100).startswith(f"method = {'x' * 57}... is not allowed.")


def test_all_mistakes_are_named_at_once():
    assert refusal(epochs=0, tempalte="x", columns={"a": [], "b": []}) == (
        "3 mistakes:\n"
        "  - columns = {a: [], b: []} is not allowed. Allowed: a mapping from text to text. "
        "Meaning: Template field to column, where the names differ.\n"
        "  - epochs = 0 is not allowed. Allowed: a whole number, 1 or more, or null. "
        "Meaning: Passes over the training rows; null: 5, and up to 20 where rows are few.\n"
        "  - unknown key tempalte. Did you mean template? `ptune settings` lists all keys."
    )


def test_numbers_are_words_where_labels_stand():
    recipe = Recipe.make(labels=[0, 1], verbalizer={0: 1, "b": ["x", 2]})
    assert recipe.labels == ("0", "1")
    assert recipe.verbalizer == {"0": ("1",), "b": ("x", "2")}


def test_paths_may_be_path_objects():
    assert Recipe.make(train=Path("a") / "b.csv").train == str(Path("a") / "b.csv")


def test_an_init_with_a_slash_is_a_saved_prompt():
    assert Recipe.make(init="./complaints").init == "./complaints"
    assert Recipe.make(init="runs\\complaints").init == "runs\\complaints"


def test_a_recipe_comes_back_from_its_own_settings():
    recipe = Recipe.make(
        backbone="b",
        labels=["b", "a"],
        verbalizer={"a": "yes"},
        method="p-tuning-v2",
        layers=[3, 1],
    )
    assert Recipe.make(**recipe.to_dict()) == recipe
    assert recipe.to_dict()["layers"] == [3, 1]
    assert recipe.to_dict()["verbalizer"] == {"a": ["yes"]}


def test_a_changed_copy_is_checked_and_leaves_the_first_alone():
    recipe = Recipe.make(lr=0.1)
    assert recipe.changed(lr=0.2).lr == 0.2
    assert recipe.lr == 0.1
    with pytest.raises(ConfigError, match=r"^seed = -1 is not allowed\."):
        recipe.changed(seed=-1)


@pytest.mark.parametrize("method", list(BY_METHOD))
def test_resolved_fills_in_what_the_method_says(method: str):
    recipe = Recipe.make(method=method).resolved()
    assert recipe.encoder == BY_METHOD[method].encoder == next(iter(ENCODERS_OF[method]), None)
    assert recipe.lr == BY_METHOD[method].lr
    assert (recipe.head_lr, recipe.metric) == (None, "accuracy")


def test_resolved_keeps_what_the_recipe_says():
    given = {"encoder": "mlp", "lr": 0.5, "head_lr": 0.25, "metric": "loss"}
    recipe = Recipe.make(task="sequence-classification", **given).resolved()
    assert {key: getattr(recipe, key) for key in given} == given


@pytest.mark.parametrize(
    ("problem", "metric"), [("multi-label", "micro_f1"), ("regression", "pearson")]
)
def test_resolved_takes_head_lr_and_metric_by_task_and_problem(problem: str, metric: str):
    recipe = Recipe.make(task="sequence-classification", problem=problem).resolved()
    assert (recipe.head_lr, recipe.metric) == (5e-3, metric)


def test_the_metrics_of_the_recipe_are_those_of_the_problems():
    allowed = next(row.allowed for row in settings_table() if row.key == "metric")
    named = set(allowed.removeprefix("one of ").removesuffix(", or null").split(", "))
    assert named == {metric for metrics in METRICS_OF.values() for metric in metrics}


def test_the_config_needs_no_heavy_package():
    code = (
        "import sys, ptune.config; heavy = {'torch', 'transformers', 'datasets', 'sklearn'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
