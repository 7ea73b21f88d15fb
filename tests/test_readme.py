"""What README and docs say is true: their commands run, and print what stands below them.

Every block of sh or python runs, in order, in an empty folder without network; a block of text is
the standard output of all blocks since the one before. A comment above a block says otherwise:

    <!-- not run: reason -->      it installs, or needs the network
    <!-- interrupted -->          Ctrl-C is pressed when it has written its first checkpoint

Figures and quoted tokens are not compared: they differ in the last digits between machines. To
write the blocks of text anew:  python tests/test_readme.py
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefork import prefork

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# Those that train or load models several times.
SLOW = {"first-prompt.md", "large-models.md", "migration.md"}

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)
STEP_LIMIT_S = 900


@dataclass(frozen=True)
class Block:
    """A fenced block: what comment stands above it, its language, its text, and where that is."""

    mark: str
    kind: str
    body: str
    span: tuple[int, int]

    @property
    def runs(self) -> bool:
        return self.kind in ("sh", "python") and not self.mark.startswith("not run: ")


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["mark"] or "", found["kind"], found["body"], found.span("body"))
        for found in FENCE.finditer(text)
    ]


@contextmanager
def programs() -> Iterator[Path]:
    """A folder with `ptune` and `python`, which are those of this test, and quick to start."""
    with tempfile.TemporaryDirectory() as name, prefork(Path(name), settings()) as python:
        ptune = Path(name) / "ptune"
        ptune.write_text(f'#!/bin/sh\nexec "{python}" -m ptune "$@"\n', encoding="utf-8")
        ptune.chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module", name="programs")
def programs_of_this_module() -> Iterator[Path]:
    with programs() as folder:
        yield folder


def settings() -> dict[str, str]:
    """What the environment says: nothing asks the network."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "100",
        # Small models gain nothing from threads, and lose much where the machine is busy.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def run_block(block: Block, folder: Path, env: dict[str, str]) -> str:
    """Run a block and return what it printed."""
    if block.kind == "python":
        command = ["python", "-c", block.body]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.body]
    if block.mark == "interrupted":
        return interrupt(command, folder, env)
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=STEP_LIMIT_S
    )
    assert done.returncode == 0, f"{block.body}\n{done.stderr[-2000:]}"
    return done.stdout


def interrupt(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """Press Ctrl-C when a log has its first step; return the last line of standard error."""
    before = set(folder.glob("runs/*/log.jsonl"))
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + STEP_LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            logs = set(folder.glob("runs/*/log.jsonl")) - before
            if any('"loss"' in log.read_text() for log in logs):
                os.killpg(process.pid, signal.SIGINT)
                break
            time.sleep(0.05)
        _, errors = process.communicate(timeout=STEP_LIMIT_S)
    assert process.returncode not in (0, None)
    return errors.strip().splitlines()[-1] + "\n"


def walk(page: Path, folder: Path, bin: Path, told: Callable[[Block, str], None]) -> None:
    """Run a page by the programs in `bin`; `told` hears of each text, and of what was printed."""
    env = settings()
    env["PATH"] = f"{bin}{os.pathsep}{env['PATH']}"
    printed = None
    for block in blocks_of(page):
        if block.runs:
            printed = (printed or "") + run_block(block, folder, env)
        elif block.kind == "text" and printed is not None:
            told(block, printed)
            printed = None
        elif block.kind in ("sh", "python"):
            printed = None


def bare(text: str) -> list[str]:
    """The lines of an output without figures, quoted tokens, and what is as wide as they are."""
    text = re.sub(r"'[^'\n]*'", "''", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "0", text)
    text = re.sub(r"\d+(?:[.,]\d+)*(?:e-?\d+)?", "0", text)
    text = re.sub(r"([─━])\1+", r"\1", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.name in SLOW else [], id=page.name)
        for page in PAGES
    ],
)
def test_every_block_runs_and_prints_what_stands_below_it(page, tmp_path, programs):
    compared = []

    def told(block: Block, printed: str) -> None:
        assert bare(printed) == bare(block.body)
        compared.append(block)

    walk(page, tmp_path, programs, told)
    assert compared


def test_an_output_that_differs_in_more_than_figures_is_noticed():
    assert bare("accuracy 0.91\n") == bare("accuracy 0.8\n")
    assert bare("science (91 %)\n") != bare("history (91 %)\n")
    assert bare("a\nb\n") != bare("a\n")


def test_a_block_that_is_not_run_says_why():
    marks = [block.mark for page in PAGES for block in blocks_of(page) if block.mark]
    assert all(re.fullmatch(r"not run: \w.+|interrupted", mark) for mark in marks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_python(page):
    for block in blocks_of(page):
        if block.kind == "python":
            compile(block.body, page.name, "exec")


def commands() -> dict[str, set[str]]:
    """Every command of the CLI with its options."""
    import typer

    from ptune.cli import app

    group = typer.main.get_command(app)
    return {
        name: {opt for parameter in command.params for opt in parameter.opts} | {"--help"}
        for name, command in group.commands.items()
    }


def lines_that_call_ptune() -> list[str]:
    found = []
    for page in DOCUMENTS:
        for block in blocks_of(page):
            if block.kind == "sh":
                found += block.body.replace("\\\n", " ").splitlines()
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        comments = re.findall(r"^#(.*)$", recipe.read_text(encoding="utf-8"), re.M)
        found += "\n".join(comments).replace("\\\n", " ").splitlines()
    pattern = re.compile(r"^ *(?:accelerate launch .* -m )?ptune (?=[a-z-])")
    return [line.strip() for line in found if pattern.match(line)]


def test_every_command_and_option_in_the_docs_exists():
    known = commands()
    lines = lines_that_call_ptune()
    assert len(lines) > 10
    for line in lines:
        words = line.split(" #")[0].split("ptune ", 1)[1].split()
        assert words[0] in known, line
        assert {word for word in words if word.startswith("--")} <= known[words[0]], line


def test_every_key_that_a_command_sets_is_a_setting():
    from ptune.config import Recipe

    for line in lines_that_call_ptune():
        if "2>&1" in line:  # shows an error
            continue
        keys = set(re.findall(r"\s([a-z_]+)=", line.split(" #")[0]))
        assert keys <= set(Recipe.model_fields), line


def test_every_command_is_in_the_readme_but_the_demo_that_make_runs():
    text = README.read_text(encoding="utf-8")
    assert [name for name in commands() if f"ptune {name} " not in text] == ["demo"]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def section(title: str) -> str:
    text = README.read_text(encoding="utf-8")
    return re.split(r"^## ", text.split(f"## {title}\n")[1], maxsplit=1, flags=re.M)[0]


def test_the_two_commands_stand_in_the_first_screen():
    first = README.read_text(encoding="utf-8").splitlines()[:20]
    assert any(line.startswith("make demo ") for line in first)
    assert any(line.startswith("make test ") for line in first)


def test_the_tree_names_every_file_of_the_package():
    tree = next(b.body for b in blocks_of(README) if b.body.startswith("ptune/\n"))
    listed, folders = set(), ["ptune"]
    for line in tree.split("\nrecipes/")[0].splitlines()[1:]:
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            listed.add("/".join([*folders, name]))
    # A folder's __init__.py gathers what is beside it.
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ptune").rglob("*.py")
        if path.name != "__init__.py" or path.parent.name == "ptune"
    }
    assert listed == found


def test_the_reading_order_is_about_900_lines():
    files = re.findall(r"^\d\. \[([^]]+)\]", section("The tree"), re.M)
    lines = sum((ROOT / file).read_text(encoding="utf-8").count("\n") for file in files)
    assert 750 < lines < 1050


def test_the_tables_list_every_method_encoder_and_task():
    from ptune.config.rules import ENCODERS_OF
    from ptune.tasks import TASKS

    rows = re.findall(r"^\|(.*?)\| ?(.*?) \|", section("Methods and encoders"), re.M)
    listed: dict[str, list[str]] = {}
    method = ""
    for first, second in rows:
        method = first.strip("` ") or method
        listed.setdefault(method, []).extend(re.findall(r"^`(\w+)`", second))
    assert {m: tuple(listed[m]) for m in ENCODERS_OF} == ENCODERS_OF
    assert set(TASKS) <= set(listed)


def test_the_results_hold_no_figure_that_a_script_did_not_write():
    results = section("Results")
    names = re.findall(r"<!-- bench:(\w+)(?:/[\w-]+)? -->", results)
    assert set(names) == {"classic_job", "quality_causal", "quality_encoder", "defaults"}
    typed = re.sub(r"<!-- bench:[\w/-]+ -->.*?<!-- /bench -->", "", results, flags=re.S)
    assert not re.search(r"\d", typed)


def test_contributing_is_one_page():
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 60


def write_outputs(page: Path) -> None:
    """Put what the blocks print below them."""
    text = page.read_text(encoding="utf-8")
    outputs: list[tuple[tuple[int, int], str]] = []
    with tempfile.TemporaryDirectory() as folder, programs() as bin:
        walk(page, Path(folder), bin, lambda block, printed: outputs.append((block.span, printed)))
    assert page.read_text(encoding="utf-8") == text, f"{page} was changed while it ran"
    for (start, end), printed in reversed(outputs):
        lines = [line.rstrip() for line in printed.rstrip().splitlines()]
        text = text[:start] + "".join(f"{line}\n" for line in lines) + text[end:]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or [str(page) for page in PAGES]:
        write_outputs(Path(name).resolve())
