"""Recipes: each loads, has a template that can be read, says its command, and trains.

Their data are not in the repository, so the runs are on made-up rows and the model that travels
with ptune.
"""

import csv
import re
from functools import partial
from pathlib import Path

import pytest

from ptune.config import Recipe
from ptune.template import Template

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# The columns of their rows, beside the label, where that is not one text.
COLUMNS = {
    "ppt_pairs": ("sentence1", "sentence2"),
    "rte_pairs": ("sentence1", "sentence2"),
    "squad_encoder": ("question", "context"),
    "your_choices": ("text", "choice1", "choice2"),
}
each = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def test_the_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {
        "rte_pairs",
        "squad_encoder",
        "sst2_cloze",
        "sst2_encoder",
        "trec_words",
        "twitter_complaints",
        "your_choices",
        "wnut17_entities",
        "your_csv",
    }


def tagged(recipe: Recipe) -> bool:
    return recipe.task == "token-classification"


@each
def test_a_recipe_loads_and_its_template_fits_its_task(path):
    recipe = Recipe.load(path)
    template = Template.parse(recipe.template)
    columns = ("tokens",) if tagged(recipe) else COLUMNS.get(path.stem, ("text",))
    assert set(template.fields) <= {*columns, "choice"}
    assert ("choice" in template.fields) == (recipe.task == "multiple-choice")
    assert template.has_label == (recipe.task == "causal-lm")
    shallow = recipe.method != "p-tuning-v2"
    assert ("{soft" in recipe.template) == shallow


@each
def test_a_recipe_begins_with_what_it_is_and_its_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"# [A-Z].+", lines[0])
    assert lines[2] == f"#     ptune train recipes/{path.name}"


@each
def test_a_recipe_states_no_score_and_names_only_scripts_in_bench(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\d %|\d\.\d+ accuracy|accuracy (of )?\d", text)
    assert all(
        re.fullmatch(r"bench/\w+\.py", name) for name in re.findall(r"bench/[\w./]*\w", text)
    )


@each
def test_a_recipe_writes_to_a_folder_of_its_own(path):
    outputs = [Recipe.load(other).output for other in RECIPES]
    assert outputs.count(Recipe.load(path).output) == 1
    assert Recipe.load(path).output.startswith("runs/")


def labels_of(recipe: Recipe) -> list[str]:
    if recipe.task == "multiple-choice":
        return ["0", "1"]
    if tagged(recipe):
        return ["B-person", "I-person", "O"]
    if recipe.task == "question-answering":
        return []
    return list(recipe.labels or recipe.verbalizer or ("science", "history"))


def write_rows(path: Path, labels: list[str], count: int, columns: tuple[str, ...]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*columns, "label"] if labels else [*columns, "answers"])
        for number in range(count):
            cells = [f"{name} number {number}" for name in columns]
            # Without labels the answer is a part of a text.
            answer = labels[number % len(labels)] if labels else str(number)
            table.writerow([*cells, answer])


def write_sentences(path: Path, tags: list[str], count: int) -> None:
    sentence = "".join(f"word{at} {tag}\n" for at, tag in enumerate(tags))
    path.write_text(f"{sentence}\n" * count, encoding="utf-8")


def backbone_for(recipe: Recipe, folder: Path) -> str:
    """The model that travels with ptune; a T5 for what needs an encoder-decoder."""
    if recipe.task != "seq2seq-lm":
        return "ptune-tiny"
    import tiny

    tiny.model("t5").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@each
def test_a_recipe_trains_on_rows_of_its_form(path, tmp_path):
    from ptune.training import train_recipe

    recipe = Recipe.load(path)
    labels = labels_of(recipe)
    columns = COLUMNS.get(path.stem, ("text",))
    write_own = partial(write_rows, columns=columns)
    write, suffix = (write_sentences, "conll") if tagged(recipe) else (write_own, "csv")
    names = ["train", "test", *(["validation"] if recipe.validation else [])]
    for name in names:
        write(tmp_path / f"{name}.{suffix}", labels, 5 * max(2, len(labels)))
    changes = [f"{name}={tmp_path / name}.{suffix}" for name in names]
    if path.stem in (
        "rte_pairs",
        "ppt_pairs",
    ):  # the small model is a decoder, which joins no two texts
        changes.append("template={sentence1} {sentence2}")
    changes += [f"output={tmp_path / 'out'}", "max_steps=1"]
    changes += [f"backbone={backbone_for(recipe, tmp_path / 'model')}"]
    if recipe.task == "question-answering":  # the model here knows no pairs of texts
        changes.append("template=Question : {question} Text : {context} Answer :")
    result = train_recipe(Recipe.load(path, changes))
    assert result.steps == 1
    assert set(result.scores) == {"validation", "test"}
    free = recipe.answer == "text" or recipe.task == "multiple-choice"
    assert set(result.prompt.labels) == (set() if free else set(labels))
    assert (tmp_path / "out" / "prompt" / "prompt.json").exists()
