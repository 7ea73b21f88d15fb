"""A backbone, rows and a recipe as a user has them, and `ptune` called on them."""

import sys

import pytest
import tiny
from tiny_runs import LABELS, TEMPLATE, TEXTS, write_rows

from ptune import cli


def save_backbone(folder, seed=0):
    tiny.model("llama", seed).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


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
