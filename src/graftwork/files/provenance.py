"""Which code made a result: the git commits of graftwork and of the working directory."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graftwork.version import __version__

__all__ = ["git_commits", "git_state", "versions"]

SECONDS = 10
"""Seconds that we wait for git."""


def git_commits() -> dict[str, dict[str, Any] | None]:
    """`graftwork`: state of the checkout it is imported from; `working_directory`: of the current folder."""
    here = Path(__file__).resolve()
    ours = (
        _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    )  # not merely below a checkout
    return {
        "graftwork": git_state(here.parent) if ours else None,
        "working_directory": git_state(Path.cwd()),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """`{"commit", "dirty"}` of the git checkout that a folder is in.

    Args:
        folder: in it, at any depth.

    Returns:
        `dirty` says if a file under version control differs from the commit. None if there is no checkout, no
        commit, or no git.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "scikit-learn", "numpy")
"""Packages whose versions reports name."""


def versions() -> dict[str, str]:
    """Versions of Python, graftwork and the libraries a result depends on."""
    return {
        "python": platform.python_version(),
        "graftwork": __version__,
        **{package: version(package) for package in PACKAGES},
    }
