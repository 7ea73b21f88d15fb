import json
import shutil
from fnmatch import fnmatch
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi

from ptune.artifact import pull, push, read_folder, write_folder
from ptune.errors import ArtifactError


class FakeHub(HfApi):
    """The hub as one folder; keeps the rules that ptune relies on, and no network."""

    def __init__(self, place: Path, login: str = "bob") -> None:
        super().__init__()
        self.place, self.login, self.calls = place, login, []

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        self.calls.append({"private": private, "exist_ok": exist_ok})
        full = repo_id if "/" in repo_id else f"{self.login}/{repo_id}"
        if not full.startswith(f"{self.login}/"):
            raise PermissionError(f"403 Forbidden: {full} is not yours.\nRequest ID: 1")
        (self.place / full).mkdir(parents=True, exist_ok=exist_ok)
        return Address(f"https://huggingface.co/{full}", full)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        self.calls.append({"message": commit_message})
        _copy(Path(folder_path), self.place / repo_id, allow_patterns)

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
        self.calls.append({"revision": revision})
        if not (self.place / repo_id).is_dir():
            raise FileNotFoundError(f"404 Client Error: {repo_id}.\nRequest ID: 2")
        cache = self.place / "cache" / (revision or "main")
        _copy(self.place / repo_id, cache, allow_patterns)
        return str(cache)


class Address(str):
    def __new__(cls, address, repo_id):
        made = super().__new__(cls, address)
        made.repo_id = repo_id
        return made


def _copy(source, target, patterns):
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if any(fnmatch(file.name, pattern) for pattern in patterns):
            shutil.copy(file, target)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder("complaints", {"vectors": torch.ones(2, 3)}, {"n": 1}, "# A prompt")
    return FakeHub(tmp_path / "hub")


@pytest.mark.parametrize("method", ["create_repo", "upload_folder", "snapshot_download"])
def test_the_fake_takes_only_what_the_real_one_takes(method):
    fake = signature(getattr(FakeHub, method)).parameters
    assert fake.keys() <= signature(getattr(HfApi, method)).parameters.keys()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_pushed_prompt_comes_back_whole(hub):
    assert push("complaints", "bob/x", api=hub) == "https://huggingface.co/bob/x"
    folder = pull("bob/x", revision="v1", api=hub)
    document, tensors = read_folder(folder)
    assert document == {"n": 1}
    assert torch.equal(tensors["vectors"], torch.ones(2, 3))
    assert (folder / "README.md").read_text() == "# A prompt"
    assert hub.calls == [
        {"private": None, "exist_ok": True},
        {"message": "Upload a soft prompt made with ptune"},
        {"revision": "v1"},
    ]


def test_the_login_owns_a_name_without_owner_and_privacy_is_passed_on(hub):
    assert push("complaints", "x", private=True, api=hub) == "https://huggingface.co/bob/x"
    assert hub.calls[0] == {"private": True, "exist_ok": True}
    assert names(hub.place / "bob/x") == ["README.md", "prompt.json", "prompt.safetensors"]


def test_only_the_three_files_travel(hub):
    Path("complaints/train.csv").write_text("secret")
    push("complaints", "bob/x", api=hub)
    (hub.place / "bob/x/pytorch_model.bin").write_bytes(b"pickle")
    folder = pull("bob/x", api=hub)
    for place in (hub.place / "bob/x", folder):
        assert "train.csv" not in names(place)
    assert names(folder) == ["README.md", "prompt.json", "prompt.safetensors"]


def test_what_an_interrupted_write_set_aside_can_be_pushed(hub):
    Path("complaints").rename(".complaints.old-00000000")
    push("complaints", "bob/x", api=hub)
    assert json.loads((hub.place / "bob/x/prompt.json").read_text())["document"] == {"n": 1}


def test_a_damaged_folder_is_not_pushed(hub):
    Path("complaints/prompt.safetensors").unlink()
    with pytest.raises(ArtifactError) as error:
        push("complaints", "bob/x", api=hub)
    assert str(error.value) == (
        "complaints: prompt.safetensors is missing. "
        "Copy the whole folder again from where it was made."
    )
    assert hub.calls == []


def test_what_the_hub_forbids_is_said(hub):
    with pytest.raises(ArtifactError) as error:
        push("complaints", "eve/x", api=hub)
    assert str(error.value) == (
        'hub repository "eve/x": cannot be written: 403 Forbidden: eve/x is not yours. '
        "Check the name, and log in with a token that may write: hf auth login."
    )


def test_a_missing_repository_is_said(hub):
    with pytest.raises(ArtifactError) as error:
        pull("bob/y", api=hub)
    assert str(error.value) == (
        'hub repository "bob/y": cannot be read: 404 Client Error: bob/y. '
        "Check the name and the network; a private one needs a login: hf auth login."
    )


def test_a_repository_of_something_else_is_no_prompt(hub):
    push("complaints", "bob/x", api=hub)
    (hub.place / "bob/x/prompt.json").unlink()
    with pytest.raises(ArtifactError) as error:
        pull("bob/x", api=hub)
    assert str(error.value) == (
        'hub repository "bob/x": is no prompt folder: it holds README.md, prompt.safetensors, '
        "and no prompt.json. Give another folder."
    )


def test_without_a_client_the_real_one_is_used(hub, monkeypatch):
    made = SimpleNamespace(
        create_repo=lambda *a, **kw: Address("https://hub/x", "bob/x"),
        upload_folder=lambda **kw: None,
        snapshot_download=lambda *a, **kw: "complaints",
    )
    monkeypatch.setattr("ptune.artifact.hub.HfApi", lambda: made)
    assert push("complaints", "bob/x") == "https://hub/x"
    assert pull("bob/x") == Path("complaints")
