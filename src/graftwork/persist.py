"""A multi-task model on disk: a PEFT adapter folder plus heads and tasks, safetensors and JSON only.

`adapter_config.json` and `adapter_model.safetensors` are written and read by PEFT, and usable without the
rest. `heads.safetensors` holds `<task>.weight` and `<task>.bias`; `tasks.json` names, fields, labels and
metrics, the pooling, and which backbone it was; the tokenizer's files are as Transformers saves them.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from graftwork.divergence import not_finite
from graftwork.errors import (
    CheckpointError,
    DataError,
    DivergenceError,
    RecipeError,
)
from graftwork.evaluate import Pooling
from graftwork.files import exists, listed, read_json, shown
from graftwork.model_files import FILES, read_structure
from graftwork.sources import locate
from graftwork.storage import read_whole
from graftwork.structure import Structure
from graftwork.tasks import TaskHead
from graftwork.weights import as_checkpoint_error, check_values, read_shapes, read_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
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


def load_backbone(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pretrained transformer and tokenizer of a hub id, a folder, or `package:NAME/sub/folder`.

    Of an encoder-decoder only the encoder is loaded.

    Raises:
        RecipeError: there is no such model, or it cannot be read.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    local = name.startswith(("package:", ".", "/", "~")) or exists(Path(name))
    try:
        path = str(locate(name)) if local else name
    except DataError as error:
        raise RecipeError(f"model: {error}") from error
    transformers_logging.disable_progress_bar()
    try:
        # False instead of the default, which asks whoever sits at the terminal whether to run a model's code.
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        auto = AutoModelForTextEncoding if getattr(config, "is_encoder_decoder", False) else AutoModel
        model = auto.from_pretrained(path, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # Transformers raises anything at all at files that it did not write
        reason = " ".join(str(error).split())
        raise RecipeError(
            f"model {shown(name)} cannot be loaded; give a hub id, a folder with config.json, or "
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
        found = read_json(path)
        if found["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {shown(found['format'])}; this version reads {FORMAT}.")
        heads = [TaskHead.from_dict(head) for head in found["tasks"]]
        described = {**{key: found[key] for key in ("model", "backbone", "pooling")}, "tasks": heads}
    except CheckpointError as error:
        raise CheckpointError(
            str(error) if str(path) in str(error) else f"{path} is damaged: {error}."
        ) from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}: {shown(str(error))}.") from error
    if not heads or described["pooling"] not in get_args(Pooling):
        raise CheckpointError(
            f"{path} is damaged: it has {len(heads)} tasks and the pooling {shown(described['pooling'])}; at "
            f"least one task and one of {', '.join(get_args(Pooling))} are needed."
        )
    names = [head.name for head in heads]
    if len(set(names)) < len(names):
        raise CheckpointError(f"{path} is damaged: it has a task twice ({listed(names)}).")
    if not isinstance(described["model"], str) or not isinstance(described["backbone"], dict):
        raise CheckpointError(f"{path} is damaged: model must be a string, and backbone a mapping.")
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

    from graftwork.compact import structure_of
    from graftwork.config import GraftConfig
    from graftwork.multitask import MultiTaskModel

    described = read_tasks(folder)
    base, tokenizer = load_backbone(backbone or described["model"])
    if _fingerprint(base) != described["backbone"]:
        raise CheckpointError(
            f"{folder} was trained on a backbone with {shown(described['backbone'])}, but "
            f"{backbone or described['model']} has {_fingerprint(base)}; give the backbone it was trained on."
        )
    floating = {name: value for name, value in base.named_parameters() if value.is_floating_point()}
    check_values(floating, f"the backbone {backbone or described['model']}")
    with as_checkpoint_error(folder):
        read_shapes(folder / FILES.adapter_weights)
        config_file = folder / FILES.adapter_config
        # Else PEFT would look for a model of this name on the hub.
        if not config_file.is_file():
            raise CheckpointError(f"{config_file} is missing; the folder is not complete.")
        with as_checkpoint_error(config_file):
            config = PeftConfig.from_pretrained(str(folder))
        with warnings.catch_warnings():
            # PEFT warns of tensors it does not find, and leaves them random.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            peft_model: PeftModel = PeftModel.from_pretrained(base, str(folder), config=config)
        read_weights(folder / FILES.adapter_weights, _adapter_shapes(peft_model), "adapter")
        model = MultiTaskModel(peft_model, described["tasks"], pooling=described["pooling"])
        if isinstance(config, GraftConfig) and config.structure is not None:
            _check_paths(Structure.from_dict(config.structure), structure_of(peft_model))
        load_heads(model, folder)
    return model.eval(), tokenizer


def _check_paths(described: Structure, loaded: Structure) -> None:
    """Refuse weights whose gates are not those of the configuration."""
    changes = described.diff(loaded)
    if changes:
        raise CheckpointError(
            f"the gates in {FILES.adapter_weights} are not those that {FILES.adapter_config} says: task "
            f"{next(iter(changes))!r} takes another path; the files do not belong together."
        )


def load_heads(model: MultiTaskModel, folder: Path) -> None:
    """Read the heads of a saved model."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.heads.export().items()}
    model.heads.load(read_weights(folder / FILES.heads, wanted, "heads"))


def load_weights(model: MultiTaskModel, folder: Path) -> None:
    """Load a checkpoint into a model of the same shape, during training.

    Raises:
        CheckpointError: files are missing, damaged, or have other shapes or values that are not finite.
    """
    from peft import set_peft_model_state_dict

    with as_checkpoint_error(folder):
        tensors = read_weights(folder / FILES.adapter_weights, _adapter_shapes(model.backbone), "adapter")
        set_peft_model_state_dict(model.backbone, tensors)
        load_heads(model, folder)


def _adapter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what an adapter is saved as."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in found.items()}
