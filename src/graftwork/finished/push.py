"""Sending a finished model to the Hugging Face hub: the files that it needs, and no others."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graftwork.cards.writing import is_replaceable, signed
from graftwork.distributed.notes import note
from graftwork.errors import CheckpointError, DataError
from graftwork.files.reading import exists
from graftwork.files.weights import read_shapes
from graftwork.files.yaml_file import read_yaml
from graftwork.hub.names import is_model_id
from graftwork.messages import listed, shown
from graftwork.models.files import FILES, NEEDED, SHIPPED, card_of, read_structure
from graftwork.models.manifest import read_tasks_file

__all__ = ["push"]

MODEL = (*NEEDED, FILES.picture)
"""Patterns of the files of a model that go to the hub, beside its card and licence."""
FURTHER = (FILES.card, "LICENSE*", "LICENCE*", "NOTICE*")
"""Patterns of the files that people write; on the hub they stay if the folder has none."""
REQUIRED = (FILES.tasks, FILES.adapter_config, FILES.adapter_weights, FILES.heads, FILES.structure)
"""Files without which a folder is no finished model."""
TRAINING = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
"""Files of a checkpoint."""
_PLACE = re.compile(r"(?:/|~|[A-Za-z]:\\)")
"""How a place on one machine begins."""


def push(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Send a finished model to the Hugging Face hub, in one commit.

    Only files of the model go there: weights, tasks, structure, report, recipe, tokenizer, card, picture and
    licence. A card that nobody has changed names the model as it is on the hub. The token is that of
    HF_TOKEN or of `hf auth login`; it is never printed.

    Args:
        folder: written by `graftwork fit`, `add-task`, `remove-task` or `extract`; or `quickstart`, the model
            that comes with graftwork.
        repo: `user/model` on the hub; it is made if there is none.
        private: only its owner may see it; one that everybody can see is refused.
        revision: the branch; default the main one. It is made if there is none.
        message: of the commit.
        dry_run: send nothing, and need no token.

    Returns:
        `{"repo", "url", "files", "left_out"}`: the address of the commit (None if nothing was sent), the size
        of every file in bytes by its name, and the names of what is in the folder and was not sent.

    Raises:
        CheckpointError: the folder is no finished model.
        DataError: `repo` is no name of a model on the hub.
        StorageError: there is no token, the hub refuses, or it cannot be reached.

    Example:
        >>> plan = gw.push("runs/colours", "user/colours", dry_run=True)
        >>> plan["url"] is None, "adapter_model.safetensors" in plan["files"]
        (True, True)
    """
    folder = Path(folder) if exists(Path(folder)) else SHIPPED.get(str(folder), Path(folder))
    if not is_model_id(repo):
        raise DataError(
            f"{shown(repo)} is no name of a model on the hub; give USER/MODEL, of letters, digits, `-`, `_` "
            "and `.`, such as alice/two-tasks."
        )
    _check(folder)
    files: dict[str, Path | str] = {path.name: path for path in _matching(folder, (*MODEL, *FURTHER))}
    card = folder / FILES.card
    if not card.is_file() or is_replaceable(card.read_text(encoding="utf-8", errors="replace")):
        files[FILES.card] = signed(card_of(folder, repo.partition("/")[2], repo))
    sizes = {name: _size(files[name]) for name in sorted(files)}
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in {*files, FILES.page})
    for text in _notes(folder):
        note(text)
    url = None
    if not dry_run:
        from graftwork.hub.upload import upload

        url = upload(
            files,
            repo,
            private=private,
            revision=revision,
            message=message or f"Push {repo.partition('/')[2]} with graftwork",
            replaced=MODEL,
        )
    return {"repo": repo, "url": url, "files": sizes, "left_out": left_out}


def _check(folder: Path) -> None:
    """Refuse what is no finished model.

    Raises:
        CheckpointError: files are missing or damaged, or it is a checkpoint.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a model saved by `graftwork fit`: there is no such folder.")
    found = [name for name in TRAINING if (folder / name).exists()]
    if found or folder.name.endswith(".partial"):
        raise CheckpointError(
            f"{folder} is a part of a run that is not finished; give the folder that it writes at its end."
        )
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is not a model saved by `graftwork fit`: it has no {listed(missing)}. What PEFT's "
            "`save_pretrained` has written is pushed with its `push_to_hub`."
        )
    read_tasks_file(folder)
    read_structure(folder)
    for name in (FILES.adapter_weights, FILES.heads):
        read_shapes(folder / name)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    ]


def _size(content: Path | str) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content.encode("utf-8"))


def _notes(folder: Path) -> Iterator[str]:
    """What somebody who loads the model from the hub will miss, and what its files tell of this machine."""
    backbone = read_tasks_file(folder)["model"]
    if not backbone.startswith("package:") and _is_place(backbone):
        yield (
            f"the backbone is {backbone}, a place on this machine: whoever loads the model has to say where "
            "it is (--backbone)."
        )
    places: set[str] = set()
    for name in (FILES.recipe, FILES.report):
        path = folder / name
        if path.is_file():
            values = read_yaml(path) if name == FILES.recipe else json.loads(path.read_text(encoding="utf-8"))
            places |= {text for text in _texts(values) if _PLACE.match(text)}
    if places:
        yield f"recipe and report name places on this machine, and are sent: {listed(sorted(places), 3)}."


def _is_place(name: str) -> bool:
    return name.startswith((".", "$")) or _PLACE.match(name) is not None


def _texts(values: object) -> Iterator[str]:
    """Every string of nested values, keys left out."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _texts(value)
