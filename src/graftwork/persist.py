"""A multi-task model on disk: a PEFT adapter folder plus heads and tasks, safetensors and JSON only.

`adapter_config.json` and `adapter_model.safetensors` are written and read by PEFT, and usable without the
rest. `heads.safetensors` holds `<task>.weight` and `<task>.bias`; `tasks.json` names, fields, labels and
metrics, the pooling, and which backbone it was; the tokenizer's files are as Transformers saves them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from graftwork.divergence import not_finite
from graftwork.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergenceError,
    GraftworkError,
    RecipeError,
    SiteError,
    StructureError,
)
from graftwork.evaluate import Pooling
from graftwork.sources import locate
from graftwork.storage import read_whole
from graftwork.structure import Structure
from graftwork.tasks import TaskHead

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from graftwork.multitask import MultiTaskModel

__all__ = [
    "FILES",
    "load_backbone",
    "load_model",
    "load_weights",
    "read_structure",
    "read_tasks",
    "save_model",
]

FORMAT = 1


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


FILES = _Files()
"""Names of the files in a model folder."""


def load_backbone(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pretrained transformer and tokenizer of a hub id, a folder, or `package:NAME/sub/folder`.

    Of an encoder-decoder only the encoder is loaded.

    Raises:
        RecipeError: there is no such model, or it cannot be read.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    local = name.startswith(("package:", ".", "/", "~")) or Path(name).exists()
    try:
        path = str(locate(name)) if local else name
    except DataError as error:
        raise RecipeError(f"model: {error}") from error
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path)
        auto = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
        model = auto.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(
            f"model {name!r} cannot be loaded; give a hub id, a folder with config.json, or "
            f"package:NAME/folder. ({reason[:300]})"
        ) from error
    finally:
        transformers_logging.enable_progress_bar()
    return model, tokenizer


def save_model(model: MultiTaskModel, folder: Path, *, backbone_name: str) -> None:
    """Write adapter, heads and tasks into an existing folder.

    Raises:
        DivergenceError: a weight is not finite; nothing is written.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import save_file

    heads = model.heads.export()
    weights = dict(heads)
    if isinstance(model.backbone, PeftModel):
        weights |= get_peft_model_state_dict(model.backbone, save_embedding_layers=False)
    found = not_finite(weights)
    if found:
        raise DivergenceError(
            f"{len(found)} of {len(weights)} weights are not finite, such as {found[0]}; they are not saved."
        )
    model.backbone.save_pretrained(str(folder))  # type: ignore[operator]
    save_file(heads, folder / FILES.heads, metadata={"format": "pt"})
    description = {
        "format": FORMAT,
        "model": backbone_name,
        "backbone": _fingerprint(model.backbone),
        "pooling": model.pooling,
        "tasks": [head.as_dict() for head in model.heads.heads],
    }
    (folder / FILES.tasks).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _fingerprint(backbone: nn.Module) -> dict[str, Any]:
    """What two backbones must have in common for an adapter to fit both."""
    config = backbone.config
    return {"model_type": config.model_type, "hidden_size": getattr(config, "hidden_size", None)}  # type: ignore[union-attr]


def read_tasks(folder: Path) -> dict[str, Any]:
    """The contents of `tasks.json`, with `tasks` as heads.

    Raises:
        CheckpointError: the folder is not a saved model.
    """
    path = folder / FILES.tasks
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model saved by `graftwork fit`: it has no {FILES.tasks}.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {found['format']!r}; this version reads {FORMAT}.")
        heads = [TaskHead.from_dict(head) for head in found["tasks"]]
        described = {**{key: found[key] for key in ("model", "backbone", "pooling")}, "tasks": heads}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {error}.") from error
    if not heads or described["pooling"] not in get_args(Pooling):
        raise CheckpointError(
            f"{path} is damaged: it has {len(heads)} tasks and the pooling {described['pooling']!r}; at "
            f"least one task and one of {', '.join(get_args(Pooling))} are needed."
        )
    return described


def load_model(
    folder: str | Path, *, backbone: str | None = None
) -> tuple[MultiTaskModel, PreTrainedTokenizerBase]:
    """A saved multi-task model in evaluation mode, with its tokenizer.

    A folder that another process replaces meanwhile is read again: the model is the old one or the new one.

    Args:
        folder: written by `graftwork fit` or `save_model`.
        backbone: load this backbone instead of the one the model was trained on, if it has moved.

    Raises:
        CheckpointError: files are missing, damaged, or belong to another backbone.
    """
    return read_whole(Path(folder), lambda: _load_model(Path(folder), backbone))


def _load_model(folder: Path, backbone: str | None) -> tuple[MultiTaskModel, PreTrainedTokenizerBase]:
    from peft import PeftConfig, PeftModel
    from safetensors.torch import load_file

    from graftwork.multitask import MultiTaskModel

    described = read_tasks(folder)
    base, tokenizer = load_backbone(backbone or described["model"])
    if _fingerprint(base) != described["backbone"]:
        raise CheckpointError(
            f"{folder} was trained on a backbone with {described['backbone']}, but "
            f"{backbone or described['model']} has {_fingerprint(base)}; give the backbone it was trained on."
        )
    with _as_checkpoint_error(folder):
        _read_header(folder / FILES.adapter_weights)
        config = PeftConfig.from_pretrained(str(folder))
        with warnings.catch_warnings():
            # PEFT warns of tensors it does not find, and leaves them random.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            peft_model: PeftModel = PeftModel.from_pretrained(base, str(folder), config=config)
        _check_complete(peft_model, load_file(folder / FILES.adapter_weights))
        model = MultiTaskModel(peft_model, described["tasks"], pooling=described["pooling"])
        load_heads(model, folder)
    return model.eval(), tokenizer


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
        return Structure.from_json(path.read_text(encoding="utf-8"))
    except (StructureError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def load_heads(model: MultiTaskModel, folder: Path) -> None:
    """Read the heads of a saved model."""
    from safetensors.torch import load_file

    model.heads.load(load_file(folder / FILES.heads))


def load_weights(model: MultiTaskModel, folder: Path) -> None:
    """Load a checkpoint into a model of the same shape, during training.

    Raises:
        CheckpointError: files are missing, damaged, or have other shapes.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    with _as_checkpoint_error(folder):
        _read_header(folder / FILES.adapter_weights)
        tensors = load_file(folder / FILES.adapter_weights)
        _check_complete(model.backbone, tensors)
        set_peft_model_state_dict(model.backbone, tensors)
        load_heads(model, folder)


def _check_complete(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a file with other tensors than the adapter has; PEFT would skip them.

    Raises:
        CheckpointError: a tensor is missing, or one too many.
    """
    from peft import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    for what, names in (("lacks", wanted - tensors.keys()), ("has", tensors.keys() - wanted)):
        if names:
            raise CheckpointError(
                f"{FILES.adapter_weights} does not fit the adapter: it {what} {len(names)} "
                f"tensor{'s' * (len(names) > 1)}, such as {min(names)}."
            )


def _read_header(path: Path) -> None:
    """Open a safetensors file, so that a missing or truncated one is noticed before anything is built."""
    from safetensors import safe_open

    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the folder is not a complete saved model.")
    with safe_open(path, framework="pt") as tensors:
        tensors.keys()


@contextmanager
def _as_checkpoint_error(folder: Path) -> Iterator[None]:
    """Turn what PEFT, safetensors and torch say about a bad file into one line that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(f"{folder} holds a damaged or truncated safetensors file: {error}.") from error
    except SiteError as error:
        raise CheckpointError(f"{folder} does not fit the backbone: {error}") from error
    except ConfigError as error:
        raise CheckpointError(f"{folder} cannot be used: {error}") from error
    except (CheckpointError, GraftworkError):
        raise
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} does not fit the backbone: {reason[:300]}") from error
    except (OSError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {reason[:300]}") from error
