"""Prompts on the Hugging Face hub: `push` a folder, `pull` one.

    push("complaints", "bob/complaints")        three small files, and no backbone
    folder = pull("bob/complaints")             in the cache of huggingface_hub, verified
    folder = fetch("bob/other", ["*.json"])     files of another library, not verified

The only place that imports `huggingface_hub`. Both take another client as `api`, as one with a
token or an address of its own; tests pass one without a network.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from ptune.artifact.contents import FILES, first_line
from ptune.artifact.folder import located, read_folder
from ptune.errors import ArtifactError


def push(
    path: str | Path, repo_id: str, *, private: bool | None = None, api: HfApi | None = None
) -> str:
    """Upload a prompt folder, verified first, and return the address of its repository.

    Args:
        repo_id: "owner/name"; without the owner, that of the login. Made where it is missing.
        private: of a new repository; None is the owner's default.
        api: another client, as one with a token or an address of its own.
    Raises:
        ArtifactError: the folder is not whole, or the hub refuses.
    """
    read_folder(path)
    api = api or HfApi()
    try:
        repository = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=located(path),
            allow_patterns=list(FILES),
            commit_message="Upload a soft prompt made with ptune",
        )
    except Exception as error:  # of its HTTP library, which changes between versions
        raise ArtifactError(
            f'hub repository "{repo_id}": cannot be written: {first_line(error)}. '
            "Check the name, and log in with a token that may write: hf auth login."
        ) from error
    return str(repository)


def pull(repo_id: str, *, revision: str | None = None, api: HfApi | None = None) -> Path:
    """Download a prompt's three files and nothing else; return the folder, verified.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit.
        api: another client, as one with a token or an address of its own.
    Raises:
        ArtifactError: not found, not reachable, or no whole prompt.
    """
    found = fetch(repo_id, FILES, revision=revision, api=api)
    read_folder(str(found), name=f'hub repository "{repo_id}"')
    return found


def fetch(
    repo_id: str, names: Sequence[str], *, revision: str | None = None, api: HfApi | None = None
) -> Path:
    """Download the files of these names and nothing else; return the folder they are in.

    Raises:
        ArtifactError: not found or not reachable.
    """
    try:
        # One snapshot, not one download a file: all files are of one commit.
        found = (api or HfApi()).snapshot_download(
            repo_id, revision=revision, allow_patterns=list(names)
        )
    except Exception as error:  # as above
        raise ArtifactError(
            f'hub repository "{repo_id}": cannot be read: {first_line(error)}. '
            "Check the name and the network; a private one needs a login: hf auth login."
        ) from error
    return Path(str(found))
