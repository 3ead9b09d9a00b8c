"""The command that sends a model to the Hugging Face hub: `push`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["push"]


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> None:
    """Send a finished model to the Hugging Face hub; the token is that of HF_TOKEN or of `hf auth login`.

    Args:
        folder: Written by `graftwork fit`; or `quickstart`, the model that comes with graftwork.
        repo: USER/MODEL on the hub; made if there is none.
        private: Only its owner may see it.
        revision: Branch; made if there is none. Default the main one.
        message: Of the commit.
        dry_run: List the files and their sizes, and send nothing.
    """
    from graftwork.finished.push import push as run

    done = run(folder, repo, private=private, revision=revision, message=message, dry_run=dry_run)
    files = done["files"]
    width = max(map(len, files))
    for name, size in files.items():
        print(f"{name:{width}} {size:12,} bytes")
    if done["left_out"]:
        print(f"not part of the model: {', '.join(done['left_out'])}")
    total = f"{len(files)} files, {sum(files.values()):,} bytes"
    print(f"{total}; nothing was sent" if done["url"] is None else f"{total}, sent to {done['url']}")
