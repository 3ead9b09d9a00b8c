"""Sending the files of a folder to a model of the hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from graftwork.errors import StorageError
from graftwork.hub.faults import hub_errors, quiet_in_files

__all__ = ["upload"]


def upload(
    files: Mapping[str, Path | str],
    repo: str,
    *,
    private: bool,
    revision: str | None,
    message: str,
    replaced: Sequence[str],
) -> str:
    """Send files to a model of the hub, in one commit; the model and its branch are made if need be.

    Args:
        files: name -> the file, or its text.
        repo: `user/model`.
        private: only its owner may see it.
        revision: the branch; default the main one.
        message: of the commit.
        replaced: patterns of files that go if they are there and not in `files`: parts of an earlier model.

    Returns:
        The address of the commit.

    Raises:
        StorageError: there is no token, the hub refuses, or it cannot be reached. Files are seen on the hub
            only once all are there.
    """
    from huggingface_hub import HfApi, get_token

    from graftwork.version import __version__

    token = get_token()
    if token is None:
        raise StorageError(
            "there is no token for the hub; set HF_TOKEN to one that may write (it is made at "
            "https://huggingface.co/settings/tokens), or log in with `hf auth login`."
        )
    api = HfApi(token=token, library_name="graftwork", library_version=__version__)
    with hub_errors(f"{repo} cannot be made or written on the hub", StorageError, token):
        # None leaves what the user or the organisation has chosen for new models.
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise StorageError(
                f"{repo} is there already, and everybody can see it; nothing was sent. Make it private on "
                "the hub, or leave --private out."
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
    with (
        quiet_in_files(),
        tempfile.TemporaryDirectory(prefix="graftwork-push-") as staged,
        hub_errors(f"the files could not be sent to {repo}, which is as it was", StorageError, token),
    ):
        for name, content in files.items():
            if isinstance(content, Path):
                (Path(staged) / name).symlink_to(content.resolve())
            else:
                (Path(staged) / name).write_text(content, encoding="utf-8")
        done = api.upload_folder(
            repo_id=repo,
            folder_path=staged,
            commit_message=message,
            revision=revision,
            delete_patterns=list(replaced),
        )
    return str(done.commit_url)
