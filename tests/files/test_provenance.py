from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from graftwork.files.provenance import git_commits, git_state


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_and_changes_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    git(tmp_path, "init", "-q")
    assert git_state(inner) is None  # no commit yet
    (inner / "a").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    clean = {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    assert git_state(inner) == clean
    (inner / "untracked").touch()
    assert git_state(inner) == clean
    (inner / "a").write_text("2")
    assert git_state(inner) == {**clean, "dirty": True}
    monkeypatch.chdir(inner)
    assert git_commits()["working_directory"] == {**clean, "dirty": True}


def test_no_checkout_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path) is None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commits() == {"graftwork": None, "working_directory": None}
