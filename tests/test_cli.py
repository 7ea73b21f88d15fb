import csv
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from tiny_runs import LABELS, TEXTS, log_of

from ptune import cli
from ptune.config import Recipe

TEMPLATE = "{soft:2}{text} label : {label}"
PLACE = Path(__file__).parents[1]


def save_backbone(folder, seed=0):
    tiny.model("llama", seed).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A backbone, another one, rows and a recipe, as a user has them."""
    folder = tmp_path_factory.mktemp("place")
    save_backbone(folder / "backbone")
    save_backbone(folder / "other", seed=1)
    rows = list(zip(TEXTS, LABELS, strict=True))
    write_rows(folder / "train.csv", [("text", "label"), *rows])
    write_rows(folder / "test.csv", [("text", "label"), *rows[:4]])
    (folder / "recipe.yaml").write_text(
        f"backbone: {folder}/backbone\n"
        f"train: {folder}/train.csv\n"
        f"test: {folder}/test.csv\n"
        f'template: "{TEMPLATE}"\n'
        "method: prompt-tuning\nbatch_size: 4\nepochs: 2\n"
        f"output: {folder}/run\n"
    )
    return folder


@pytest.fixture
def ptune(capsys, monkeypatch):
    """`ptune ARGUMENTS` in this process: exit status, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ptune", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def trained(place):
    """The folder of a prompt; made once."""
    sys_argv, sys.argv = sys.argv, ["ptune", "train", f"{place}/recipe.yaml", "--json"]
    try:
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    finally:
        sys.argv = sys_argv
    return place / "run" / "prompt"


def on(place):
    return ("--backbone", place / "backbone")


# ------------------------------------------------------------------------------- starting


def test_help_starts_in_less_than_half_a_second_and_imports_no_torch():
    code = (
        "import sys, resource\n"
        "sys.argv = ['ptune', 'train', '--help']\n"
        "from ptune.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'datasets', 'sklearn', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PLACE, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ptune train [OPTIONS] RECIPE [KEY=VALUE]...")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 0.5


TRAIN_HELP = """\
Usage: ptune train [OPTIONS] RECIPE [KEY=VALUE]...

  Train one prompt and write it, its checkpoints and its log to the recipe's
  output folder.

  The backbone stays frozen; the result is a file of a few kilobytes.

  Example: ptune train recipes/twitter_complaints.yaml lr=0.1
  output=runs/complaints

Arguments:
  RECIPE            YAML file of the run; see `ptune settings`.  [required]
  [KEY=VALUE]...    Settings to change.

Options:
  --resume  Go on from the checkpoint in the output folder.
  --json    Print JSON for a script.
  --help    Show this message and exit.
"""


def test_the_help_of_train_says_it_all(ptune, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert ptune("train", "--help") == (0, TRAIN_HELP, "")


def test_every_verb_is_listed_with_a_sentence(ptune):
    code, out, _ = ptune("--help")
    assert code == 0
    for verb in ("demo", "train", "evaluate", "predict", "inspect", "settings", "push"):
        assert any(line.split()[:1] == [verb] and len(line.split()) > 3 for line in out.splitlines())


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
        "checkpoint", "log.jsonl", "prompt"
    ]  # fmt: skip
    assert "validation" in out
    assert "test" in out
    assert "accuracy" in out
    assert f"2 steps in " in out
    assert f"The prompt is in {tmp_path}/run/prompt (" in out
    assert (
        "8 rows to train on, 2 to validate, 64 trained numbers (0.218 % of the backbone's)" in err
    )


def test_train_says_it_in_json_for_a_script(place, ptune, tmp_path):
    code, out, err = ptune("train", place / "recipe.yaml", f"output={tmp_path}/run", "--json")
    said = json.loads(out)
    assert (code, err) == (0, "")
    assert (said["output"], said["steps"]) == (f"{tmp_path}/run", 4)
    assert set(said["scores"]) == {"validation", "test"}


def test_a_stopped_run_goes_on_with_resume(place, trained, tmp_path):
    """A real process, a real Ctrl-C, the command that it names."""
    output = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "ptune", "train", f"{place}/recipe.yaml"),
        *(f"output={output}", "epochs=25", "save_every=1", "evaluate_every=50"),
    ]
    run = subprocess.Popen(
        command, cwd=PLACE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = output / "log.jsonl"
    while run.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate()
    assert run.returncode == 1, err
    last = err.strip().splitlines()[-1]
    step = int(last.split("Stopped at step ")[1].split()[0])
    assert last == (
        f"ptune: Stopped at step {step} of 50. The state is in {output}/checkpoint; run the same "
        "command with --resume to go on (in Python: resume=True)."
    )
    assert "Traceback" not in err
    assert not (output / "prompt").exists()
    done = subprocess.run([*command, "--resume", "--json"], cwd=PLACE, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["steps"] == 50
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


# ------------------------------------------------------------------------------- bad input


def refused(said, sentence, status=1):
    """One sentence on standard error, nothing else, and the exit status."""
    assert said == (status, "", f"ptune: {sentence}\n")


def changed(place, *settings):
    return ("train", place / "recipe.yaml", *settings)


def test_a_recipe_that_is_not_there(place, ptune):
    refused(
        ptune("train", place / "recip.yaml"),
        f"{place}/recip.yaml: no such recipe in {place}. Did you mean recipe.yaml?",
    )


def test_an_unknown_key(place, ptune):
    code, out, err = ptune(*changed(place, "epoch=3"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"ptune: {place}/recipe.yaml: ")
    assert "epoch" in err
    assert "Did you mean epochs?" in err


def test_a_file_that_is_not_there(place, ptune):
    refused(
        ptune(*changed(place, f"train={place}/trian.csv")),
        f"{place}/trian.csv: no such file in {place}. Did you mean train.csv? "
        "A data set of the hub is written hub:NAME.",
    )


def test_a_missing_column(place, ptune, tmp_path):
    file = write_rows(tmp_path / "rows.csv", [("text", "lable"), ("late", "a"), ("good", "b")])
    refused(
        ptune(*changed(place, f"train={file}")),
        f"{file}: there is no column label. Columns: text, lable. Did you mean lable?",
    )
    file = write_rows(tmp_path / "rows.csv", [("txt", "label"), ("a", "x"), ("b", "y")] * 3)
    code, _, err = ptune(*changed(place, f"train={file}"))
    assert code == 1
    assert "no column" in err or "unknown slot {text}" in err


def test_an_empty_file(place, ptune, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("")
    refused(
        ptune(*changed(place, f"train={file}")),
        f"{file}: the file is empty. It needs a header line and rows.",
    )


def test_one_class(place, ptune, tmp_path):
    file = write_rows(tmp_path / "rows.csv", [("text", "label"), *([("late", "bad")] * 10)])
    refused(
        ptune(*changed(place, f"train={file}")),
        f"{file}: column label holds one label only, 'bad', in all 8 rows. Two or more are needed; "
        "add rows with another label, or name another label_column.",
    )


def test_a_label_of_the_test_file_that_was_never_seen(place, ptune, tmp_path):
    file = write_rows(tmp_path / "rows.csv", [("text", "label"), ("late", "praise")])
    refused(
        ptune(*changed(place, f"test={file}", f"output={tmp_path}/run")),
        f"{file}, line 2: label 'praise' never occurs in {place}/train.csv. Known: complaint, "
        "no complaint. Mend the row, or add the label.",
    )
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_utf_8(place, ptune, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes("text,label\ncafé,a\n".encode("latin-1"))
    refused(
        ptune(*changed(place, f"train={file}")),
        f"{file}, line 2 (byte 14 of the file): byte 0xe9 is not UTF-8. Save the file as UTF-8.",
    )


def test_a_mistake_in_the_template(place, ptune):
    refused(
        ptune(*changed(place, "template={soft:2}{text} {maks} {label}")),
        f'{place}/train.csv: template "{{soft:2}}{{text}} {{maks}} {{label}}", column 16: unknown '
        "slot {maks}. Known: {soft:N}, {mask}, {label}, {sep} or a field of the rows: text, label. "
        "Did you mean mask?",
    )


def test_a_backbone_that_is_not_there(place, ptune, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = ptune(*changed(place, f"backbone={place}/nowhere"))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f'ptune: Backbone "{place}/nowhere" cannot be loaded: ')
    assert "Give a local folder with config.json" in err


def test_an_output_folder_that_cannot_be_written(place, ptune, tmp_path):
    (tmp_path / "file").write_text("no folder")
    refused(
        ptune(*changed(place, f"output={tmp_path}/file/run")),
        f"{tmp_path}/file/run/log.jsonl: cannot be written (Not a directory). "
        "Choose another output folder.",
    )


def test_nothing_to_go_on_from(place, ptune, tmp_path):
    refused(
        ptune(*changed(place, f"output={tmp_path}/run"), "--resume"),
        f"{tmp_path}/run/checkpoint: there is no checkpoint to go on from. Name the output folder "
        "of the run, or start without --resume (resume=True).",
    )


def test_a_label_that_the_prompt_never_saw(place, trained, ptune, tmp_path):
    file = write_rows(tmp_path / "rows.csv", [("text", "label"), ("late", "praise")])
    refused(
        ptune("evaluate", trained, "--data", file, *on(place)),
        f"{file}, line 2: label 'praise' is unknown to the prompt. Its labels: 'complaint', "
        "'no complaint'. Mend the row, or train a prompt with this label.",
    )


def test_predictions_that_cannot_be_written_are_told_before_the_work(
    place, trained, ptune, tmp_path, monkeypatch
):
    monkeypatch.setattr("ptune.api.predict", None)
    for target, reason in (
        (tmp_path / "no" / "file.jsonl", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        refused(
            ptune("predict", trained, "late", "--output", target, *on(place)),
            f"{target}: cannot be written ({reason}). Choose another place for --output.",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_answers_survives_a_failure(place, trained, ptune, tmp_path):
    output = tmp_path / "answers.jsonl"
    output.write_text("mine\n")
    bad = write_rows(tmp_path / "rows.csv", [("txt", "label"), ("late", "x")])
    code, _, _ = ptune("predict", trained, "--input", bad, "--output", output, *on(place))
    assert code == 1
    assert output.read_text() == "mine\n"


def test_a_damaged_prompt(place, trained, ptune, tmp_path):
    shutil.copytree(trained, tmp_path / "prompt")
    file = tmp_path / "prompt" / "prompt.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refused(
        ptune("predict", tmp_path / "prompt", "late", *on(place)),
        f"{tmp_path}/prompt: prompt.safetensors is damaged, or belongs to another prompt: its hash "
        "is not the one in prompt.json. Copy the whole folder again from where it was made.",
    )


def test_a_prompt_that_is_not_there(place, ptune, tmp_path):
    code, out, err = ptune("inspect", tmp_path / "prompt")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"ptune: {tmp_path}/prompt: there is no such folder.")


@pytest.mark.parametrize("verb", ["evaluate", "predict", "inspect"])
def test_the_wrong_backbone_is_refused_and_force_overrides(place, trained, ptune, verb):
    more = {"evaluate": ("--data", place / "test.csv"), "predict": ("late",), "inspect": ()}[verb]
    code, out, err = ptune(verb, trained, *more, "--backbone", place / "other")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(
        f'ptune: The prompt was made for backbone "./backbone" and not for "{place}/other": '
        "another weights ("
    )
    code, out, err = ptune(verb, trained, *more, "--backbone", place / "other", "--force")
    assert (code, err) == (0, "")
    assert out


def test_a_backbone_that_lies_elsewhere(trained, ptune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ptune("predict", trained, "late")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.endswith("If it lies elsewhere, say where with --backbone.\n")


def test_texts_for_a_template_of_two_fields(place, ptune, tmp_path):
    rows = [("a", "b", "label"), *((t, t, label) for t, label in zip(TEXTS, LABELS, strict=True))]
    file = write_rows(tmp_path / "rows.csv", rows)
    settings = (f"train={file}", "test=", "template={soft:1}{a} {b} {label}", "epochs=1")
    code, _, err = ptune(*changed(place, *settings, f"output={tmp_path}/run"))
    assert code == 0, err
    refused(
        ptune("predict", tmp_path / "run" / "prompt", "late", *on(place)),
        'The prompt\'s template "{soft:1}{a} {b} {label}" has these fields: a, b. '
        "Plain texts fit a template of one field; give rows with a value for each.",
    )


@pytest.mark.parametrize("arguments", [(), ("late", "--input", "rows.csv")])
def test_texts_or_a_file_are_wanted_and_not_both(trained, ptune, arguments):
    code, out, err = ptune("predict", trained, *arguments)
    assert (code, out) == (2, "")
    assert "give texts, or --input and a file; one of the two." in err
    assert "Traceback" not in err


def test_an_unknown_verb_is_wrong_usage(ptune):
    code, out, err = ptune("trian")
    assert (code, out) == (2, "")
    assert "trian" in err


def test_ctrl_c_while_loading_is_no_traceback(ptune, trained, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupted)
    assert ptune("predict", trained, "late") == (130, "", "ptune: stopped.\n")


def test_of_several_processes_the_first_alone_tells(place, ptune, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = ptune("train", place / "recipe.yaml", f"output={tmp_path}/run", "--json", "epochs=1")
    assert done == (0, "", "")
    assert os.environ["RANK"] == "1"
