import os
import shutil

import pytest
from tiny_runs import LABELS, TEMPLATE, TEXTS, write_rows


def on(place):
    return ("--backbone", place / "backbone")


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
    rows = [("a", "complaint"), ("b", "no complaint")] * 3
    file = write_rows(tmp_path / "rows.csv", [("txt", "label"), *rows])
    refused(
        ptune(*changed(place, f"train={file}")),
        f'{file}: template "{TEMPLATE}", column 9: unknown slot {{text}}. Known: {{soft:N}}, '
        "{mask}, {label}, {sep}, {bos} or a field of the rows: txt, label. Did you mean txt?",
    )


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
        f"{file}: column label holds one label only, 'bad', in all 8 of 10 rows, those left for "
        "training. Two or more are needed; add rows with another label, "
        "or name another label_column.",
    )


def test_a_label_of_the_test_file_that_was_never_seen(place, ptune, tmp_path):
    file = write_rows(tmp_path / "rows.csv", [("text", "label"), ("late", "praise")])
    refused(
        ptune(*changed(place, f"test={file}", f"output={tmp_path}/run")),
        f"{file}, line 2: label 'praise' never occurs in the rows left for training, 8 of the 10 "
        f"of {place}/train.csv. Known: complaint, no complaint. Mend the row, or add the label.",
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
        "slot {maks}. Known: {soft:N}, {mask}, {label}, {sep}, {bos} or a field of the rows: text, "
        "label. Did you mean mask?",
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
    monkeypatch.setattr("ptune.api.predict_kept", None)
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
    assert err == (
        f"ptune: {trained}: was trained on a model in a folder named backbone; a prompt keeps no "
        "more of a path than that. Say where the folder is with --backbone.\n"
    )


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

    monkeypatch.setattr("ptune.cli.using.load_prompt", interrupted)
    assert ptune("predict", trained, "late") == (130, "", "ptune: stopped.\n")


def test_of_several_processes_the_first_alone_tells(place, ptune, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = ptune("train", place / "recipe.yaml", f"output={tmp_path}/run", "--json", "epochs=1")
    assert done == (0, "", "")
    assert os.environ["RANK"] == "1"


def test_a_row_of_ten_thousand_words_is_cut_and_told_once(place, ptune, tmp_path):
    rows = [*zip(TEXTS, LABELS, strict=True), ("late " * 10_000, "complaint")]
    file = write_rows(tmp_path / "rows.csv", [("text", "label"), *rows])
    settings = (f"train={file}", "validation_share=0", f"output={tmp_path}/run", "epochs=1")
    code, out, err = ptune(*changed(place, *settings))
    assert code == 0
    assert (out + err).count("1 of 11 training rows were too long and were cut.") == 1


def test_bad_rows_are_left_out_and_listed_where_the_user_says_so(ptune, place, trained, tmp_path):
    good = (place / "train.csv").read_text()
    bad = tmp_path / "bad.csv"
    bad.write_text(f'{good}"no label",\n')
    on = ("train", place / "recipe.yaml", f"train={bad}", "epochs=1", f"output={tmp_path}/run")
    code, _, said = ptune(*on)
    assert code == 1
    assert f"{bad}, line {good.count(chr(10)) + 1}: column label holds no label" in said
    code, _, said = ptune(*on, "--skip-bad-rows")
    assert code == 0, said
    told = "".join(said.split())  # the lines are as wide as the terminal
    assert f"{bad}:1of11rowsisleftout:" in told
    code, out, _ = ptune("evaluate", trained, "--data", bad, "--skip-bad-rows", "--json")
    expected = ptune("evaluate", trained, "--data", place / "train.csv", "--json")
    assert (code, out) == expected[:2]
