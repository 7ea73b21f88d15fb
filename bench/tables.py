"""Write the benchmarks' tables into the README and the docs, from the results that are committed.

    <!-- bench:quality_causal/trec -->
    ... everything between the two markers is replaced ...
    <!-- /bench -->

A name is that of a benchmark, which is also the name of its file in bench/results; behind a slash
may stand a part of it (a task, a method or a shape). No number in the docs is typed by hand.

    python bench/tables.py            write
    python bench/tables.py --check    write nothing; fail where a file would change
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from common import PROJECT, RESULTS, Line, read_lines

BLOCK = re.compile(
    r"(?P<open><!-- bench:(?P<name>\w+)(?:/(?P<part>[\w-]+))? -->\n).*?(?P<close><!-- /bench -->)",
    re.DOTALL,
)

Maker = Callable[[Sequence[Line], str | None], str]


def _chosen(module: str, key: str, lines: Sequence[Line], part: str | None) -> str:
    return import_module(module).table([line for line in lines if part in (None, line[key])])


def _whole(module: str, lines: Sequence[Line], part: str | None) -> str:
    return import_module(module).table(lines)


def _by_part(module: str, lines: Sequence[Line], part: str | None) -> str:
    return import_module(module).table(lines, part)


# Name of a benchmark -> what makes its table.
MAKERS: Mapping[str, Maker] = {
    "architectures": partial(_whole, "architectures"),
    "attention_kernels": partial(_whole, "attention_kernels"),
    "classic_job": partial(_chosen, "classic_job", "method"),
    "defaults": partial(_chosen, "defaults", "method"),
    "first_step": partial(_whole, "first_step"),
    "gap": partial(_by_part, "gap"),
    "gpu": partial(_whole, "gpu"),
    "growth": partial(_by_part, "growth"),
    "label_scoring": partial(_whole, "label_scoring"),
    "lama": partial(_by_part, "lama"),
    "peft_faults": partial(_whole, "peft_faults"),
    "ppt": partial(_whole, "ppt"),
    "quality_causal": partial(_by_part, "quality_tables"),
    "quality_encoder": partial(_by_part, "quality_tables"),
    "quality_tagging": partial(_by_part, "quality_tables"),
    "quality_qa": partial(_by_part, "quality_tables"),
    "replicas": partial(_chosen, "replicas", "shape"),
    "seq2seq": partial(_whole, "seq2seq"),
    "step_profile": partial(_whole, "step_profile"),
    "upper_layers": partial(_whole, "upper_layers"),
    "v2_encoder": partial(_whole, "v2_encoder"),
}


def rewrite(text: str, results: Path) -> str:
    """The text with every block made anew.

    Raises:
        ValueError: a block names a benchmark that is not there.
    """

    def fill(block: re.Match[str]) -> str:
        name = block["name"]
        if name not in MAKERS:
            raise ValueError(f'"bench:{name}" is unknown. Known: {", ".join(MAKERS)}.')
        table = MAKERS[name](read_lines(results / f"{name}.jsonl"), block["part"])
        return f"{block['open']}{table}\n{block['close']}"

    return BLOCK.sub(fill, text)


def pages(project: Path) -> list[Path]:
    """The files that may hold tables."""
    found = [project / "README.md", *sorted((project / "docs").rglob("*.md"))]
    return [page for page in found if page.exists()]


def main() -> None:
    """Write all tables, or say which are out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--project", type=Path, default=PROJECT)
    args = parser.parse_args()
    stale = []
    for page in pages(args.project):
        before = page.read_text(encoding="utf-8")
        after = rewrite(before, args.results)
        if after == before:
            continue
        stale.append(str(page.relative_to(args.project)))
        if not args.check:
            page.write_text(after, encoding="utf-8")
    if args.check and stale:
        sys.exit(f"Out of date: {', '.join(stale)}. Run: python bench/tables.py")
    print(
        f"{'Changed' if stale else 'Nothing to change'}{': ' if stale else '.'}{', '.join(stale)}"
    )


if __name__ == "__main__":
    main()
