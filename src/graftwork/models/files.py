"""The files of a saved model, where they are, and what can be read of them without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from graftwork.cards.model import ModelFacts, model_card
from graftwork.errors import CheckpointError
from graftwork.files.reading import exists, read_json, read_regular
from graftwork.hub.names import PREFIX, is_model_id
from graftwork.structure.structure import Structure

__all__ = [
    "FILES",
    "NEEDED",
    "TOKENIZER",
    "Loading",
    "Parts",
    "card_of",
    "facts_of",
    "local_parts",
    "model_folder",
    "read_report",
    "read_structure",
]


class Parts(TypedDict, total=False):
    """Where the parts of a saved model are now."""

    backbone: str | None
    """The backbone's weights, if they have moved."""
    tokenizer: str | None
    """A hub id, folder or `package:NAME/folder`, in place of the tokenizer saved with the model."""
    backbone_unchecked: bool
    """Take a backbone of the same shape though its weights are not those of the training."""


class Loading(Parts, total=False):
    """Where a saved model and its parts are now, for `load_model`."""

    revision: str | None
    """Of a model of the hub: a branch, a tag or a commit."""


@dataclass(frozen=True)
class _Files:
    heads: str = "heads.safetensors"
    tasks: str = "tasks.json"
    adapter_config: str = "adapter_config.json"
    adapter_weights: str = "adapter_model.safetensors"
    report: str = "report.json"
    structure: str = "structure.json"
    picture: str = "structure.png"
    recipe: str = "recipe.yaml"
    card: str = "README.md"
    page: str = "index.html"


FILES = _Files()
"""Names of the files in a model folder."""

TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.spm",
    "spiece.model",
    "*.bpe.model",
    "tekken.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Patterns of the files that a tokenizer or an image processor is saved as."""

SHIPPED = {"quickstart": Path(__file__).parents[1] / "shipped" / "quickstart"}
"""Models that come with graftwork, by name."""

NEEDED = (
    FILES.tasks,
    FILES.adapter_config,
    FILES.adapter_weights,
    FILES.heads,
    FILES.structure,
    FILES.report,
    FILES.recipe,
    *TOKENIZER,
)
"""Patterns of the files that are read of a model; card and picture are for people."""


def model_folder(name: str | Path, revision: str | None = None, *, needed: Sequence[str] = NEEDED) -> Path:
    """The folder of a saved model on this machine; a model of the hub is downloaded into the hub's cache.

    A folder of that name wins. `hub:user/model` is looked for on the hub alone, and `quickstart` is the model
    that comes with graftwork: that of `recipes/quickstart.yaml`.

    Args:
        name: a folder, or `user/model`.
        revision: of a model of the hub: a branch, a tag or a commit.
        needed: patterns of the files that are needed.

    Raises:
        CheckpointError: the model can neither be found here nor read from the hub, or a folder is asked for
            a revision.
    """
    text = str(name)
    chosen = text.removeprefix(PREFIX)
    on_hub = text.startswith(PREFIX)
    if on_hub and not is_model_id(chosen):
        raise CheckpointError(f"{text} names no model of the hub; give {PREFIX}USER/MODEL.")
    if not on_hub and (exists(Path(text)) or not is_model_id(text)):
        if revision is not None:
            raise CheckpointError(
                f"{text} is no model of the hub but a path of this machine, and has no revisions; leave "
                "--revision out."
            )
        return Path(name) if exists(Path(text)) else SHIPPED.get(text, Path(name))
    if not on_hub and exists(Path(text).parent):
        raise CheckpointError(
            f"{text} is not a model saved by `graftwork fit`: there is no such folder in "
            f"{Path(text).parent}. For a model of the hub write {PREFIX}{text}."
        )
    from graftwork.hub.download import download

    return download(chosen, revision, needed)


def local_parts(name: str | Path, loading: Loading) -> tuple[Path, Parts]:
    """The folder of a saved model on this machine, and where its parts are, without the revision."""
    parts: dict[str, Any] = {key: value for key, value in loading.items() if key != "revision"}
    return model_folder(name, loading.get("revision")), Parts(**parts)  # type: ignore[typeddict-item]


def read_structure(folder: Path) -> Structure:
    """The structure of a saved model, with the sites and adapters that were closed.

    Raises:
        CheckpointError: the folder holds none, or a damaged one.
    """
    path = folder / FILES.structure
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a model saved by `graftwork fit`: it has no {FILES.structure}."
        )
    try:
        return Structure.from_json(read_regular(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def card_of(folder: Path, name: str, repo: str | None = None) -> str:
    """The card of a finished model, made anew from the other files of its folder.

    Args:
        folder: the model.
        name: of the model.
        repo: `user/model`, if it is or will be on the hub.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return model_card(facts_of(folder, name, repo))


def facts_of(folder: Path, name: str, repo: str | None = None) -> ModelFacts:
    """What is said of a finished model, on its card and its page, from the files of its folder.

    Args:
        folder: the model.
        name: of the model.
        repo: `user/model`, if it is or will be on the hub.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    try:
        described = read_json(folder / FILES.tasks)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / FILES.tasks} is damaged: {type(error).__name__}: {error}."
        ) from error
    return ModelFacts(
        name=name,
        described=described,
        structure=read_structure(folder),
        report=read_report(folder),
        picture=FILES.picture if (folder / FILES.picture).is_file() else None,
        repo=repo,
    )


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a saved model; empty if it has none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / FILES.report
    if not path.is_file():
        return {}
    try:
        report = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    if not isinstance(report, dict):
        raise CheckpointError(f"{path} is damaged: it holds a {type(report).__name__}, not a mapping.")
    return report
