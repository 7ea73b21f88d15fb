"""What is reported: by a protocol that every score file names."""

import json
import math
import statistics
from dataclasses import replace

import pytest
import tiny
from tiny_runs import HEAD, ROWS, TABLE, train

from ptune.config import Recipe
from ptune.config.presets import presets
from ptune.errors import ConfigError, TrainingError
from ptune.training.scores import FILE, replicas_scores, run_scores, spread, write_scores

TEST = ROWS[:4]


@pytest.fixture(scope="module")
def backbone():
    return tiny.backbone("llama")


@pytest.fixture(scope="module")
def result(backbone):
    return train(backbone, TABLE | {"epochs": 1}, test=TEST)


def recipe(**settings):
    return Recipe.make(**(TABLE | settings)).resolved()


def scored(result, *numbers):
    return [replace(result, scores={"test": {"accuracy": n}}) for n in numbers]


def test_strict_reports_the_test_rows(backbone, result, tmp_path):
    train(backbone, TABLE | {"epochs": 1}, test=TEST, output=tmp_path)
    said = json.loads((tmp_path / FILE).read_text())
    assert said["protocol"] == "strict"
    assert said["how"] == (
        "strict: the step was chosen on the validation rows, the test rows scored once."
    )
    assert said["scores"] == result.scores
    score = result.scores["test"]["accuracy"]
    assert said["reported"] == {"rows": "test", "metric": "accuracy", "score": score}


def test_without_validation_rows_no_step_is_said_to_be_chosen(backbone, tmp_path):
    train(backbone, TABLE | {"epochs": 1, "validation_share": 0}, test=TEST, output=tmp_path)
    said = json.loads((tmp_path / FILE).read_text())
    assert said["how"] == "strict: the last step was kept, the test rows scored once."


def test_test_rows_that_were_trained_on_are_named_in_the_file(backbone, tmp_path):
    settings = TABLE | {"epochs": 1, "validation_share": 0}
    new = {"text": "a new text", "label": "complaint"}
    train(backbone, settings, test=[*ROWS[1:3], new], output=tmp_path)
    said = json.loads((tmp_path / FILE).read_text())
    (note,) = said["notes"]
    assert note == (
        "the given rows: 2 of 3 rows say what a row to train on says, the first is row 1 (as row 2 "
        "of the given rows). Their score tells little about new rows."
    )


def test_paper_reports_the_best_evaluation_on_the_validation_rows(backbone, tmp_path):
    done = train(backbone, TABLE | {"protocol": "paper"}, output=tmp_path)
    said = json.loads((tmp_path / FILE).read_text())
    assert said["how"] == "paper: the best of all evaluations on the validation rows."
    assert said["reported"]["rows"] == "validation"
    assert said["reported"]["score"] == done.scores["validation"]["accuracy"]
    assert done.prompt.settings["protocol"] == "paper"


def test_strict_without_test_rows_says_that_the_score_is_too_good(result):
    chosen = replace(result, scores={"validation": {"accuracy": 0.5}})
    assert "so it is too good" in run_scores(recipe(), chosen)["how"]
    nothing = run_scores(recipe(), replace(result, scores={}))
    assert nothing["how"] == "strict: nothing was scored."
    assert "reported" not in nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"validation_share": 0, "protocol": "paper"},
            (
                "protocol = paper reports the best score on validation rows, and there are none. "
                "Give validation or validation_share."
            ),
        ),
        (
            {"test": "test.csv", "protocol": "paper"},
            (
                "protocol = paper reports the best score on the validation rows; test = test.csv "
                "would be a second report. Leave test out, or set protocol: strict."
            ),
        ),
    ],
)
def test_paper_needs_validation_rows_and_no_others(settings, message):
    with pytest.raises(ConfigError) as error:
        recipe(**settings)
    assert str(error.value) == message


def test_several_seeds_report_the_mean_and_its_interval(result):
    numbers = (0.80, 0.82, 0.78, 0.85, 0.75)
    said = replicas_scores(recipe(), [f"seed-{n}" for n in range(5)], scored(result, *numbers))
    reported = said["reported"]
    assert reported["mean"] == pytest.approx(statistics.mean(numbers))
    assert reported["deviation"] == pytest.approx(statistics.stdev(numbers))
    # 2.776: from a printed table of Student's t, 4 degrees of freedom, 97.5 %.
    half = 2.776 * statistics.stdev(numbers) / math.sqrt(5)
    assert reported["interval"] == pytest.approx([0.80 - half, 0.80 + half], abs=1e-4)
    assert (reported["rows"], reported["runs"]) == ("test", 5)
    assert said["replicas"]["seed-3"]["scores"] == {"test": {"accuracy": 0.85}}


def test_a_seed_that_diverged_is_named_and_left_out_of_the_mean(result):
    both = [*scored(result, 0.5), TrainingError("Training diverged.")]
    said = replicas_scores(recipe(), ["seed-0", "seed-1"], both)
    assert said["replicas"]["seed-1"] == {"error": "Training diverged."}
    assert said["reported"]["runs"] == 1
    assert said["reported"]["interval"] is None
    assert spread([TrainingError("Training diverged.")]) == {}


def test_scores_that_are_undefined_or_overflow_have_a_spread_too(result):
    unlike = [replace(result, scores={"test": {"mse": n, "r": math.nan}}) for n in (1.0, 2.0, 6.0)]
    found = spread(unlike)["test"]
    assert (found["mse"]["mean"], found["mse"]["deviation"]) == (3.0, pytest.approx(7**0.5))
    assert math.isnan(found["r"]["deviation"])
    large = [replace(result, scores={"test": {"perplexity": n}}) for n in (1.0, 1e300)]
    assert spread(large)["test"]["perplexity"]["deviation"] == math.inf


def test_a_score_that_only_some_runs_have_is_of_those(result):
    """As F1 of an entity that the rows of one seed hold, and those of another do not."""
    scores = [{"f1": 0.5}, {"f1": 0.7, "LOC/f1": 0.2}, {"LOC/f1": 0.4, "f1": 0.9}]
    for order in (scores, scores[::-1]):
        found = spread([replace(result, scores={"validation": one}) for one in order])
        found = found["validation"]
        assert set(found) == {"f1", "LOC/f1"}
        assert (found["f1"]["mean"], found["f1"]["runs"]) == (pytest.approx(0.7), 3)
        assert (found["LOC/f1"]["mean"], found["LOC/f1"]["runs"]) == (pytest.approx(0.3), 2)


def test_what_is_undefined_is_null_in_the_file(tmp_path):
    write_scores(tmp_path, {"scores": {"test": {"r": math.nan, "pair": [math.inf, 1.0]}}})
    found = json.loads((tmp_path / FILE).read_text())
    assert found == {"scores": {"test": {"r": None, "pair": [None, 1.0]}}}


def test_a_preset_is_named_with_its_source_and_its_published_score(result):
    name = "p-tuning-v2/rte-roberta-large"
    said = run_scores(Recipe.make(preset=name).resolved(), replace(result, scores={}))
    assert said["preset"]["name"] == name
    assert said["preset"]["published"] == {"accuracy": 0.866}
    assert "arXiv:2110.07602" in said["preset"]["source"]


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_makes_a_recipe(name):
    made = Recipe.make(preset=name)
    given = presets()[name].settings
    assert made.preset == name
    assert made.protocol == given["protocol"]
    assert made.prompt_length == int(given.get("prompt_length", 20))
    assert made.lr == float(given["lr"])
    assert Recipe.make(**made.to_dict()) == made


def test_what_a_recipe_says_itself_goes_before_its_preset():
    made = Recipe.make(preset="p-tuning-v2/rte-roberta-large", lr=0.02, backbone="gpt2")
    assert (made.lr, made.backbone, made.epochs) == (0.02, "gpt2", 100)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError) as error:
        Recipe.make(preset="p-tuning-v2/rte-roberta-larg")
    assert str(error.value) == (
        "preset = p-tuning-v2/rte-roberta-larg is unknown. Did you mean "
        "p-tuning-v2/rte-roberta-large? `ptune presets` lists all of them."
    )


def test_the_head_is_trained_with_dropout_where_that_is_asked(backbone):
    plain = train(backbone, HEAD | {"epochs": 1})
    dropped = train(backbone, HEAD | {"epochs": 1, "head_dropout": 0.5})
    assert plain.prompt.settings["head_dropout"] == 0
    assert dropped.prompt.settings["head_dropout"] == 0.5
    assert not (plain.prompt.head["linear.weight"] == dropped.prompt.head["linear.weight"]).all()


@pytest.mark.parametrize(
    ("name", "numbers", "ends"),
    [
        ("accuracy", (0.4, 0.9), (0.0, 1.0)),
        ("thing/f1", (0.4, 0.9), (0.0, 1.0)),
        ("loss", (0.1, 2.1), (0.0, 1.1 + 12.706)),  # 12.706: Student's t, 1 degree, 97.5 %
        ("pearson", (-0.9, 0.9), (-1.0, 1.0)),
        ("perplexity", (1.1, 3.1), (1.0, 2.1 + 12.706)),
    ],
)
def test_an_interval_holds_no_number_that_the_score_cannot_be(result, name, numbers, ends):
    runs = [replace(result, scores={"test": {name: n}}) for n in numbers]
    assert spread(runs)["test"][name]["interval"] == pytest.approx(ends, abs=1e-3)


def test_the_interval_of_an_undefined_score_is_undefined(result):
    runs = [replace(result, scores={"test": {"pearson": n}}) for n in (0.5, math.nan)]
    assert all(map(math.isnan, spread(runs)["test"]["pearson"]["interval"]))
