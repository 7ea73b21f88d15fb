import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import TEMPLATE, TEXTS, log_of

from ptune.config import Recipe
from ptune.training.learner import Learner

PLACE = Path(__file__).parents[2]


def on(place):
    return ("--backbone", place / "backbone")


def test_help_starts_in_less_than_a_second_and_imports_no_torch():
    code = (
        "import sys, resource\n"
        "sys.argv = ['ptune', 'train', '--help']\n"
        "from ptune.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'datasets', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PLACE, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ptune train [OPTIONS] {RECIPE} [KEY=VALUE]...")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 1  # half of that on a fast core


TRAIN_HELP = """\
Usage: ptune train [OPTIONS] {RECIPE} [KEY=VALUE]...

  Train one prompt and write it, its checkpoints and its log to the recipe's
  output folder.

  The backbone stays frozen, unless train_backbone says otherwise. The result
  is a folder of some kilobytes (virtual tokens) to megabytes (deep prompts of
  large models). With --seeds, each seed has a folder in the output folder,
  and the mean and spread of the scores are shown.

  Example: ptune train recipes/twitter_complaints.yaml lr=0.1
  output=runs/complaints

Arguments:
  RECIPE <path>          YAML file of the run; see `ptune settings`.
                         [required]
  KEY=VALUE <list[str]>  Settings to change.

Options:
  --resume         Go on from the checkpoint in the output folder.
  --seeds <str>    Train these seeds side by side, e.g. 0-7 or 0,3,5.
  --skip-bad-rows  Leave out, count and list rows that cannot be used.
  --json           Print JSON for a script.
  --help           Show this message and exit.
"""


def test_the_help_of_train_says_it_all(ptune, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert ptune("train", "--help") == (0, TRAIN_HELP, "")


def test_every_verb_is_listed_with_a_sentence(ptune):
    code, out, _ = ptune("--help")
    assert code == 0
    for verb in ("demo", "train", "evaluate", "predict", "inspect", "settings", "push"):
        assert any(
            line.split()[:1] == [verb] and len(line.split()) > 3 for line in out.splitlines()
        )


def test_the_version_is_told(ptune):
    assert ptune("--version") == (0, "ptune 0.1.0\n", "")


def test_settings_lists_every_key_of_a_recipe(ptune):
    code, out, err = ptune("settings", "--json")
    rows = json.loads(out)
    assert (code, err) == (0, "")
    assert [row["key"] for row in rows] == list(Recipe.model_fields)
    assert all(row["meaning"] for row in rows)
    code, out, _ = ptune("settings")
    assert code == 0
    assert all(key in out for key in Recipe.model_fields)


# ------------------------------------------------------------------------------- the main job


def test_train_writes_prompt_checkpoint_and_log_and_shows_the_scores(place, ptune, tmp_path):
    code, out, err = ptune("train", place / "recipe.yaml", f"output={tmp_path}/run", "epochs=1")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoint", "log.jsonl", "prompt", "scores.json"
    ]  # fmt: skip
    assert "validation" in out
    assert "test" in out
    assert "accuracy" in out
    assert "2 steps in " in out
    assert f"The prompt is in {tmp_path}/run/prompt (" in out
    assert "2/2 loss " in err  # the bar at its end
    assert (
        "8 rows to train on, 2 to validate, 64 trained numbers (0.218 % of the backbone's)" in err
    )


def test_train_says_it_in_json_for_a_script(place, ptune, tmp_path):
    code, out, err = ptune("train", place / "recipe.yaml", f"output={tmp_path}/run", "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert (said["output"], said["steps"]) == (f"{tmp_path}/run", 4)
    assert set(said["scores"]) == {"validation", "test"}


def test_settings_that_an_option_takes_the_place_of_are_refused(place, ptune, tmp_path):
    recipe = place / "recipe.yaml"
    code, out, err = ptune("train", recipe, "seed=4", "--seeds", "0-1")
    assert (code, out) == (1, "")
    assert err == "ptune: seed=4 would be ignored: --seeds 0-1 says which. Leave it out.\n"
    code, out, err = ptune("share", recipe, recipe, f"output={tmp_path}")
    assert (code, out) == (1, "")
    assert err == f"ptune: output={tmp_path}: ptune share takes it as --output.\n"


def test_seeds_are_trained_side_by_side_and_their_spread_is_shown(place, ptune, tmp_path):
    command = ("train", place / "recipe.yaml", f"output={tmp_path}/runs", "epochs=1")
    code, out, err = ptune(*command, "--seeds", "0,2")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == [
        "scores.json", "seed-0", "seed-2"
    ]  # fmt: skip
    for word in ("validation", "test", "seed-0", "seed-2", "mean", "deviation"):
        assert word in out
    assert out.count("accuracy") == 2
    assert "Trained side by side in " in out
    assert f"The prompts are in {tmp_path}/runs/*/prompt." in out
    assert err.count("8 rows to train on") == 1
    assert err.count("2/2 loss ") == 2

    code, out, err = ptune(*command, "--seeds", "0-2", "--resume", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["output"] == f"{tmp_path}/runs"
    assert list(said["replicas"]) == ["seed-0", "seed-1", "seed-2"]
    losses = [one["scores"]["test"]["loss"] for one in said["replicas"].values()]
    spread = said["scores"]["test"]["loss"]
    assert spread["mean"] == pytest.approx(statistics.fmean(losses))
    assert spread["deviation"] == pytest.approx(statistics.stdev(losses))

    _, out, _ = ptune("train", place / "recipe.yaml", f"output={tmp_path}/one", "epochs=1",
                      "seed=2", "--json")  # fmt: skip
    alone = json.loads(out)["scores"]["test"]
    assert said["replicas"]["seed-2"]["scores"]["test"] == pytest.approx(alone, rel=1e-4)


def test_a_seed_that_diverges_is_told_and_where_all_do_the_command_fails(
    place, ptune, tmp_path, monkeypatch
):
    losses, broken = Learner.losses, {1}

    def spoilt(self, read, examples):
        found = losses(self, read, examples)
        return found * float("nan") if self.options.seed in broken else found

    monkeypatch.setattr(Learner, "losses", spoilt)
    command = ("train", place / "recipe.yaml", f"output={tmp_path}", "epochs=1", "--seeds", "0-1")
    code, out, _ = ptune(*command)
    assert code == 0
    assert "seed-1: Training diverged: " in out
    assert "Trained side by side" in out
    code, out, err = ptune(*command, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["replicas"]["seed-1"]["error"].startswith("Training diverged: ")
    broken.add(0)
    code, out, err = ptune(*command, "--json")
    assert code == 1
    assert err.startswith("ptune: Training diverged: ")
    assert json.loads(out)["scores"] == {}


def test_a_stopped_run_goes_on_with_resume(place, ptune, tmp_path):
    """A real process, a real Ctrl-C, and the command that its last word names."""
    output = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "ptune", "train", f"{place}/recipe.yaml"),
        *(f"output={output}", "epochs=25", "save_every=1", "evaluate_every=50"),
    ]
    run = subprocess.Popen(
        command, cwd=PLACE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = output / "log.jsonl"
    while run.poll() is None and not (log.exists() and '"loss"' in log.read_text()):
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 1, err
    last = err.strip().splitlines()[-1]
    step = int(last.split("Stopped at step ")[1].split()[0])
    assert last == (
        f"ptune: Stopped at step {step} of 50. The state is in {output}/checkpoint; run the same "
        "command with --resume to go on (in Python: resume=True)."
    )
    assert "Traceback" not in err
    assert not (output / "prompt").exists()
    code, out, _ = ptune(*command[3:], "--resume", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 50)
    assert [line["step"] for line in log_of(output) if "loss" in line] == list(range(1, 51))


def test_evaluate_gives_the_scores_that_the_training_ended_with(place, trained, ptune):
    code, out, err = ptune("evaluate", trained, "--data", place / "test.csv", *on(place), "--json")
    assert (code, err) == (0, "")
    document = json.loads((trained / "prompt.json").read_text())["document"]
    assert json.loads(out) == pytest.approx(document["scores"]["test"], rel=1e-5)
    code, out, _ = ptune("evaluate", trained, "--data", place / "test.csv", *on(place))
    assert code == 0
    assert "accuracy" in out
    assert "%" in out


def test_predict_answers_texts_and_files_alike(place, trained, ptune, tmp_path):
    code, out, err = ptune("predict", trained, *TEXTS[:4], *on(place), "--json")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 4
    assert set(answers[0]) == {"answer", "probabilities"}
    assert set(answers[0]["probabilities"]) == {"complaint", "no complaint"}

    code, shown, _ = ptune("predict", trained, *TEXTS[:4], *on(place))
    assert [line.split("  (")[0] for line in shown.splitlines()] == [a["answer"] for a in answers]

    output = tmp_path / "answers.jsonl"
    rows = ("--input", place / "test.csv", "--output", output)
    code, told, err = ptune("predict", trained, *rows, *on(place))
    assert (code, told, err) == (0, f"4 predictions written to {output}\n", "")
    assert output.read_text() == out
    assert list(tmp_path.iterdir()) == [output]


def test_rows_are_labelled_by_a_prompt_where_it_is_sure_of_them(place, trained, ptune, tmp_path):
    target = tmp_path / "labelled.jsonl"
    asked = ("predict", trained, "--input", place / "train.csv", *on(place))
    code, out, err = ptune(*asked, "--output", target, "--keep-rows")
    assert (code, out, err) == (0, f"{len(TEXTS)} predictions written to {target}\n", "")
    _, said, _ = ptune(*asked, "--json")
    found = [json.loads(line) for line in said.splitlines()]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["text"] for row in rows] == list(TEXTS)
    assert [row["label"] for row in rows] == [one["answer"] for one in found]
    assert rows[0].keys() == {"text", "label"}
    shares = sorted(max(one["probabilities"].values()) for one in found)
    asked = (*asked, "--output", target, "--at-least", shares[3])
    assert ptune(*asked)[1] == f"{len(TEXTS) - 3} predictions written to {target}\n"
    code, _, err = ptune("predict", trained, "late", "--keep-rows", *on(place))
    assert (code, "--keep-rows and --at-least go with --output" in err) == (2, True)


def test_predict_finds_the_backbone_where_the_prompt_says_it_is(place, trained, ptune, monkeypatch):
    monkeypatch.chdir(place)  # a folder is kept as ./backbone: the rest is nobody's business
    code, out, err = ptune("predict", trained, "thank you")
    assert (code, err) == (0, "")
    assert out.startswith(("complaint", "no complaint"))


def test_inspect_shows_the_prompt_and_the_words_near_it(place, trained, ptune):
    code, out, err = ptune("inspect", trained, *on(place))
    assert (code, err) == (0, "")
    assert TEMPLATE in out
    assert "virtual token 1" in out
    code, out, _ = ptune("inspect", trained, *on(place), "--json")
    said = json.loads(out)
    assert said["template"] == TEMPLATE
    assert len(said["nearest tokens"]) == 2
    assert said["nearest tokens"][0].count("'") == 6  # three words


def test_inspect_needs_no_backbone_for_the_rest(trained, ptune):
    code, out, err = ptune("inspect", trained, "--nearest", "0", "--json")
    assert (code, err) == (0, "")
    assert "nearest tokens" not in json.loads(out)


def test_presets_are_listed_with_their_source(ptune):
    code, said, _ = ptune("presets", "--json")
    listed = json.loads(said)
    assert code == 0
    assert {one["name"] for one in listed} >= {"p-tuning-v2/rte-roberta-large"}
    assert all(one["source"] and one["differs"] and one["settings"] for one in listed)
    assert "arXiv:2110.07602" in ptune("presets")[1]


@pytest.mark.parametrize(("option", "private"), [((), None), (("--private",), True)])
def test_a_new_repository_is_as_its_owner_has_them_unless_it_is_to_be_private(
    trained, ptune, monkeypatch, option, private
):
    asked = []
    monkeypatch.setattr(
        "ptune.prompt.SoftPrompt.push_to_hub", lambda self, *to, **how: asked.append((to, how))
    )
    assert ptune("push", trained, "bob/late", *option)[0] == 0
    assert asked == [(("bob/late",), {"private": private})]


def test_a_script_gets_json_also_where_answers_go_to_a_file(place, trained, ptune, tmp_path):
    asked = ("--input", place / "test.csv", "--output", tmp_path / "said.jsonl", "--json")
    code, out, err = ptune("predict", trained, *asked, *on(place))
    assert (code, err) == (0, "")
    assert json.loads(out) == {"written": 4, "output": str(tmp_path / "said.jsonl")}
