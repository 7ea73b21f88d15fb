"""The version is one: of the package, of its metadata, and of the newest entry of the changelog."""

import re
import tomllib
from pathlib import Path

import ptune

ROOT = Path(__file__).resolve().parents[1]
HEADINGS = re.findall(
    r"^## \[(.+?)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
)


def test_the_newest_entry_is_the_version_of_the_package():
    assert HEADINGS[0][0] == ptune.__version__


def test_the_version_of_the_package_is_that_of_its_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == ptune.__version__


def test_every_entry_has_a_version_and_a_date_and_only_the_newest_may_be_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert len(HEADINGS) == len(re.findall("^## ", text, re.M))
    for at, (version, date) in enumerate(HEADINGS):
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date) or (at == 0 and date == "unreleased")


def test_entries_use_the_headings_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall("^### (.+)$", text, re.M)) <= known
