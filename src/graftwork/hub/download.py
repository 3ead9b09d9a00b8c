"""A model of the hub as a folder on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftwork.distributed.notes import note_once
from graftwork.errors import CheckpointError
from graftwork.hub.faults import hub_errors, quiet_in_files
from graftwork.messages import listed

__all__ = ["download"]


def download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder in the hub's cache that holds a model; what is not there yet is downloaded.

    Which revision it is, is said on standard error, since a name alone can come to mean another model.

    Args:
        name: `user/model`.
        revision: a branch, a tag or a commit; default the main branch.
        patterns: names of the files that are needed, as for `fnmatch`.

    Raises:
        CheckpointError: there is no such model, or it can neither be downloaded nor is in the cache.
    """
    from huggingface_hub import snapshot_download

    from graftwork.version import __version__

    at = f" at {revision}" if revision else ""
    what = f"{name}{at} is no folder here and cannot be read from the hub"
    with quiet_in_files(), hub_errors(what, CheckpointError):
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            library_name="graftwork",
            library_version=__version__,
        )
    folder = Path(found)
    if not any(True for pattern in patterns for _ in folder.glob(pattern)):
        raise CheckpointError(
            f"{name}{at} on the hub is not a model saved by `graftwork fit`: it has none of "
            f"{listed(patterns)}."
        )
    note_once(f"{name} is a model of the hub, at revision {folder.name}.")
    return folder
