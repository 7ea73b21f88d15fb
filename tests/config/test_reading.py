from collections.abc import Sequence
from pathlib import Path

import pytest

from ptune.config import Recipe, seeds_of
from ptune.errors import ConfigError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def refusal(path: Path, overrides: Sequence[str] = ()) -> str:
    """Return the error text, with the folder of the test left out."""
    with pytest.raises(ConfigError) as caught:
        Recipe.load(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").replace(str(path.parent), "FOLDER")


BASE = "backbone: b\ntrain: t.csv\n"


def test_plain_words_stay_text_and_numbers_follow_their_setting(recipe: Path):
    recipe.write_text(
        BASE + "labels: [no, yes, 1.0, 007, 2024-01-01, true, 0x1F]\nlr: 1e-3\nepochs: 3\n"
        "offline: yes\nrevision: 1234\nvalidation: null\ntest: ~\npatience:\nseed: 8  # note\n"
        'template: "{soft:20}{text}"\nverbalizer: {no: off, yes: [on, "null"]}\n'
    )
    made = Recipe.load(recipe)
    assert made.labels == ("no", "yes", "1.0", "007", "2024-01-01", "true", "0x1F")
    assert (made.lr, made.epochs, made.offline, made.revision) == (1e-3, 3, True, "1234")
    assert (made.validation, made.test, made.patience, made.seed) == (None, None, None, 8)
    assert made.template == "{soft:20}{text}"
    assert made.verbalizer == {"no": ("off",), "yes": ("on", "null")}


def test_a_byte_order_mark_is_accepted(recipe: Path):
    recipe.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert Recipe.load(recipe).backbone == "b"


def test_overrides_win_and_the_last_one_counts(recipe: Path):
    recipe.write_text(BASE + "lr: 0.1\nvalidation: dev.csv\ntest: test.csv\n")
    made = Recipe.load(
        recipe,
        [
            "lr=1",
            "lr = 1e-2",
            "labels=[a, no]",
            "columns={text: tweet}",
            "template={soft:20}Tweet text : {text} Label : {label}",
            "init_text=Is it so: yes?",
            "method=prompt-tuning",
            "validation=",
            "test=null",
        ],
    )
    assert (made.lr, made.labels, made.columns) == (0.01, ("a", "no"), {"text": "tweet"})
    assert made.template == "{soft:20}Tweet text : {text} Label : {label}"
    assert made.init_text == "Is it so: yes?"
    assert (made.validation, made.test) == (None, None)


def test_layers_are_read_in_both_forms(recipe: Path):
    recipe.write_text(BASE + "method: p-tuning-v2\nlayers: upper:3\n")
    assert Recipe.load(recipe).layers == "upper:3"
    assert Recipe.load(recipe, ["layers=[0, 5]"]).layers == (0, 5)


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_an_override_without_key_or_value_is_refused(recipe: Path, text: str):
    recipe.write_text(BASE)
    assert refusal(recipe, [text]) == f"{text!r} is not of the form key=value, e.g. epochs=5."


def test_an_override_that_is_not_yaml_is_refused(recipe: Path):
    recipe.write_text(BASE)
    assert refusal(recipe, ["labels=[a, b"]) == (
        "labels=[a, b, line 1, column 6: not YAML: expected ',' or ']', but got '<stream end>'. "
        'A text with braces or a colon needs quotes, as in template: "{soft:20}{text}".'
    )


def test_an_error_names_the_file_and_the_key(recipe: Path):
    recipe.write_text(BASE + "epochs: many\n")
    assert refusal(recipe) == (
        "recipe.yaml: epochs = many is not allowed. Allowed: a whole number, 1 or more, or null. "
        "Meaning: Passes over the training rows; null: 5, and up to 20 where rows are few."
    )


def test_an_unknown_override_is_told_with_the_nearest_key(recipe: Path):
    recipe.write_text(BASE)
    assert refusal(recipe, ["epoch=3"]) == (
        "recipe.yaml: unknown key epoch. Did you mean epochs? `ptune settings` lists all keys."
    )


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "backbone:\n"])
def test_an_empty_recipe_says_what_is_missing(recipe: Path, text: str):
    recipe.write_text(text)
    assert refusal(recipe) == (
        "recipe.yaml: 2 mistakes:\n"
        "  - backbone is missing. Write backbone: in the recipe, or backbone=... behind it. "
        "Meaning: Frozen model: hub name or folder.\n"
        "  - train is missing. Write train: in the recipe, or train=... behind it. "
        "Meaning: Rows to train on: a file or hub:NAME[:CONFIG][:SPLIT]."
    )


def test_a_command_may_need_other_keys(recipe: Path):
    recipe.write_text("backbone: b\n")
    assert Recipe.load(recipe, required=["backbone"]).train is None


def test_a_missing_file_is_told_with_its_folder_and_a_neighbour(recipe: Path):
    recipe.write_text(BASE)
    missing = recipe.with_name("recpie.yaml")
    assert refusal(missing) == ("recpie.yaml: no such recipe in FOLDER. Did you mean recipe.yaml?")
    nowhere = recipe.parent / "none" / "x.yaml"
    assert refusal(nowhere) == "x.yaml: no such recipe in FOLDER."
    assert refusal(recipe.with_name("task=masked-lm")).startswith(
        "task=masked-lm: is a setting, and the recipe that it changes comes first: ptune train "
        "recipe.yaml task=masked-lm. A recipe is a YAML file,"
    )


def test_a_folder_is_not_a_recipe(tmp_path: Path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    assert refusal(folder) == "recipes: is a folder. Name the YAML file in it."


def test_a_path_that_cannot_be_opened_is_refused(recipe: Path):
    recipe.write_text(BASE)
    assert refusal(recipe / "x.yaml") == "x.yaml: cannot be read (Not a directory)."


def test_a_file_that_is_not_utf8_is_refused(recipe: Path):
    recipe.write_bytes(b"backbone: caf\xe9\n")
    assert refusal(recipe) == "recipe.yaml: byte 13 is not UTF-8. Save the recipe as UTF-8."


def test_a_template_without_quotes_is_told_with_its_line(recipe: Path):
    recipe.write_text(BASE + "template: {soft:20}Tweet text : {text}\n")
    assert refusal(recipe) == (
        "recipe.yaml, line 3, column 20: not YAML: expected <block end>, but found '<scalar>'. "
        'A text with braces or a colon needs quotes, as in template: "{soft:20}{text}".'
    )


def test_a_key_that_stands_twice_is_refused(recipe: Path):
    recipe.write_text(BASE + "train: other.csv\n")
    assert refusal(recipe) == (
        "recipe.yaml, line 3, column 1: not YAML: key train stands twice. "
        'A text with braces or a colon needs quotes, as in template: "{soft:20}{text}".'
    )


def test_a_control_character_is_refused(recipe: Path):
    recipe.write_text("backbone: \x07\n")
    assert refusal(recipe) == (
        "recipe.yaml: not YAML: unacceptable character #x0007: special characters are not allowed "
        'in "<unicode string>", position 10.'
    )


def test_a_bottomless_recipe_is_refused(recipe: Path):
    recipe.write_text("[" * 100_000)
    assert refusal(recipe).startswith("recipe.yaml: not YAML: maximum recursion depth exceeded")


@pytest.mark.parametrize(("text", "found"), [("- backbone\n", "list"), ("backbone\n", "text")])
def test_a_recipe_is_a_mapping(recipe: Path, text: str, found: str):
    recipe.write_text(text)
    assert refusal(recipe) == (
        f"recipe.yaml: a recipe is lines of the form key: value; this is a {found}."
    )


def test_python_objects_in_yaml_are_refused(recipe: Path):
    recipe.write_text("backbone: !!python/object/apply:os.getcwd []\n")
    assert refusal(recipe).startswith(
        "recipe.yaml, line 1, column 11: not YAML: could not determine a constructor for the tag"
    )


def test_a_key_that_is_no_text_is_refused(recipe: Path):
    recipe.write_text(BASE + "[a, b]: 3\n")
    assert refusal(recipe).startswith(
        "recipe.yaml, line 3, column 1: not YAML: found unhashable key. A text with braces"
    )
    recipe.write_text(BASE + "~: 3\n")
    assert refusal(recipe) == "recipe.yaml: unknown key None. `ptune settings` lists all keys."


def test_seeds_are_numbers_and_ranges():
    assert seeds_of("0-2, 7,9-9") == [0, 1, 2, 7, 9]


@pytest.mark.parametrize("text", ["", "a", "3-1", "0-2,1", "1,,2", "-1", "0-"])
def test_other_seeds_are_refused(text: str):
    with pytest.raises(ConfigError) as caught:
        seeds_of(text)
    assert str(caught.value) == (
        f"--seeds {text}: give different seeds, as numbers and ranges, e.g. 0-7 or 0,3,5."
    )


@pytest.mark.parametrize("text", ["0-100000000", "0-999,2000", "0-9999999999"])
def test_more_seeds_than_a_run_can_have_are_refused_before_they_are_counted_out(text: str):
    with pytest.raises(ConfigError) as caught:
        seeds_of(text)
    assert str(caught.value) == (
        f"--seeds {text[:40]}: these are more than 1,000 seeds. Give fewer, in several runs."
    )


@pytest.mark.parametrize("text", ["9" * 5000, "0-" + "9" * 5000])
def test_a_seed_of_more_digits_than_python_reads_is_refused(text: str):
    with pytest.raises(ConfigError, match=r"9: give different seeds, as numbers and ranges"):
        seeds_of(text)


def test_as_many_seeds_as_are_allowed_are_read():
    assert len(seeds_of("0-998,2000")) == 1000
