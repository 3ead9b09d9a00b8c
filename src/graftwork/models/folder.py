"""A multi-task model on disk: a PEFT adapter folder plus heads and tasks, safetensors and JSON only.

A checkpoint has what `save_model` writes; a finished model, written by `write_model`, also its tokenizer,
structure, recipe and report.

`adapter_config.json` and `adapter_model.safetensors` are written and read by PEFT, and usable without the
rest. `heads.safetensors` holds `<task>.weight` and `<task>.bias`; `tasks.json` (`graftwork.models.manifest`)
names, fields, labels and metrics, the pooling, the tokens of a row, and which backbone it was; the
tokenizer's files are as Transformers saves them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from graftwork.cards.writing import keep_own_card, model_name, write_card
from graftwork.distributed.notes import note
from graftwork.edges import quiet_peft
from graftwork.errors import CheckpointError, DivergenceError, RecipeError
from graftwork.files.places import moved
from graftwork.files.weights import as_checkpoint_error, check_values, read_shapes, read_weights
from graftwork.files.writing import read_whole
from graftwork.messages import listed, shown
from graftwork.models.backbone import load_backbone, load_encoder, saved_reader
from graftwork.models.files import FILES, Loading, card_of, local_parts, read_structure
from graftwork.models.first_pass import measure_width_
from graftwork.models.identity import same_weights
from graftwork.models.manifest import (
    fingerprint,
    name_backbone,
    read_tasks_file,
    row_length,
    saved_backbone,
    saved_identity,
    write_tasks_file,
)
from graftwork.search.divergence import not_finite
from graftwork.structure.structure import Structure

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

    from graftwork.data.images.reader import InputReader
    from graftwork.kinds.heads import TaskHead
    from graftwork.kinds.kind import Reads
    from graftwork.models.identity import Identity
    from graftwork.models.multitask import MultiTaskModel

    Encoder = Callable[[str, Identity | None, Reads, bool], PreTrainedModel]

__all__ = [
    "FILES",
    "Loading",
    "load_backbone",
    "load_model",
    "load_weights",
    "read_structure",
    "save_model",
    "write_model",
]


def save_model(model: MultiTaskModel, folder: Path, *, backbone_name: str, place: Path | None = None) -> None:
    """Write adapter, heads and tasks into an existing folder.

    Args:
        model: the model.
        folder: to write into.
        backbone_name: hub id, path or `package:NAME/folder`; a relative path is stored relative to the
            folder, so that both can be moved together.
        place: where the folder will lie, if it is written elsewhere.

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
    name = moved(backbone_name, place or folder)
    model.backbone.save_pretrained(str(folder))  # type: ignore[operator]
    name_backbone(folder, name)
    save_file(heads, folder / FILES.heads, metadata={"format": "pt"})
    write_tasks_file(model, folder, name)


def write_model(
    model: MultiTaskModel,
    tokenizer: InputReader,
    staged: Path,
    *,
    backbone_name: str,
    place: Path,
    structure: Structure,
    recipe: str | None,
    report: Mapping[str, Any],
    picture: bool = False,
) -> dict[str, Any]:
    """Write a whole model folder: what `save_model` writes, tokenizer, structure, recipe, report and card.

    Args:
        model: the finished model.
        tokenizer: the one it was trained with, or the reader of images.
        staged: an existing folder to write into (`graftwork.files.writing.staged_folder`).
        backbone_name: as for `save_model`.
        place: where that folder will lie.
        structure: that of the model, perhaps with adapters that were closed.
        recipe: the text of its recipe; None if it has none.
        report: what there is to say of it, as JSON types; none is written if this is empty.
        picture: draw the structure.

    Returns:
        The report as it was written, with the sizes of the weight files as `bytes_on_disk`.

    Raises:
        DivergenceError: a weight is not finite; nothing is written.
    """
    save_model(model, staged, backbone_name=backbone_name, place=place)
    tokenizer.save_pretrained(str(staged))
    (staged / FILES.structure).write_text(structure.to_json() + "\n", encoding="utf-8")
    if recipe is not None:
        (staged / FILES.recipe).write_text(recipe, encoding="utf-8")
    if picture:
        from graftwork.structure.drawing import structure_png

        structure_png(structure, staged / FILES.picture)
    written: dict[str, Any] = {}
    if report:
        sizes = {path.name: path.stat().st_size for path in sorted(staged.glob("*.safetensors"))}
        written = {**report, "bytes_on_disk": sizes}
        (staged / FILES.report).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    write_card(staged, card_of(staged, model_name(place)))
    keep_own_card(place, staged)
    return written


def load_model(
    folder: str | Path, *, encoder: Encoder | None = None, **loading: Unpack[Loading]
) -> tuple[MultiTaskModel, InputReader]:
    """A saved multi-task model in evaluation mode, with its tokenizer, or the reader of its images.

    A folder that another process replaces meanwhile is read again: the model is the old one or the new one.

    Args:
        folder: written by `graftwork fit` or `save_model`; or `user/model` on the hub.
        encoder: gives the backbone of a name, not wrapped; it is told the identity that the folder asks for,
            if it says one, and whether it wants a causal model. Default: `load_encoder`. What it gives is
            checked.
        **loading: where its parts are now (`Loading`): `backbone`, `tokenizer`, `backbone_unchecked`,
            `revision`.

    Raises:
        CheckpointError: files are missing, damaged, or belong to another backbone.
        RecipeError: the backbone or the tokenizer cannot be found or read.
    """
    place, parts = local_parts(folder, loading)
    return read_whole(place, lambda: _load_model(place, encoder, **parts))


def _load_model(
    folder: Path,
    encoder: Encoder | None = None,
    backbone: str | None = None,
    tokenizer: str | None = None,
    backbone_unchecked: bool = False,
) -> tuple[MultiTaskModel, InputReader]:
    from peft import PeftConfig, PeftModel

    from graftwork.models.causal.model import make_model
    from graftwork.search.discretise import structure_of
    from graftwork.tuner.config import GraftConfig

    described, name = read_tasks_file(folder), saved_backbone(folder, backbone)
    reads = described["tasks"][0].reads
    try:
        causal = described["causal"]
        saved = saved_identity(described)
        base = (
            load_encoder(name, reads, causal=causal)
            if encoder is None
            else encoder(name, saved, reads, causal)
        )
    except RecipeError as error:
        hint = "" if backbone else " If the backbone has moved, say where it is with --backbone."
        raise RecipeError(f"{error}{hint}") from error
    _check_backbone(base, described, name, folder, unchecked=backbone_unchecked)
    found = saved_reader(folder, base, name, tokenizer, reads)
    measure_width_(base, found, name)
    with as_checkpoint_error(folder):
        read_shapes(folder / FILES.adapter_weights)
        config_file = folder / FILES.adapter_config
        # Else PEFT would look for a model of this name on the hub.
        if not config_file.is_file():
            raise CheckpointError(f"{config_file} is missing; the folder is not complete.")
        with as_checkpoint_error(config_file):
            config = PeftConfig.from_pretrained(str(folder))
        # Else PEFT would look on the hub for the stored name when the model is saved again.
        config.base_model_name_or_path = base.name_or_path
        with quiet_peft():
            # PEFT warns of tensors it does not find, and leaves them random.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            peft_model: PeftModel = PeftModel.from_pretrained(base, str(folder), config=config)
        read_weights(folder / FILES.adapter_weights, _adapter_shapes(peft_model), "adapter")
        model = make_model(
            peft_model,
            described["tasks"],
            pooling=described["pooling"],
            max_length=row_length(folder, described),
            causal=described["causal"],
        )
        if isinstance(config, GraftConfig) and config.structure is not None:
            _check_paths(Structure.from_dict(config.structure), structure_of(peft_model))
        load_heads(model, folder)
    return model.eval(), found


def _check_backbone(
    base: PreTrainedModel, described: Mapping[str, Any], name: str, folder: Path, *, unchecked: bool
) -> None:
    """Refuse a backbone that is not the one of the training.

    Raises:
        CheckpointError: type or width differ, weights are not finite, or they have other values.
    """
    own = fingerprint(base)
    wanted = {key: described["backbone"].get(key) for key in own}
    if own != wanted:
        raise CheckpointError(
            f"{folder} was trained on a backbone with {shown(wanted)}, but {name} has {own}; give the "
            "backbone it was trained on."
        )
    floating = {name: value for name, value in base.named_parameters() if value.is_floating_point()}
    check_values(floating, f"the backbone {name}")
    if unchecked:
        return
    saved = saved_identity(described)
    if saved is None:
        note(f"{folder} holds no checksum of its backbone, so that the weights of {name} are not checked.")
    elif not same_weights(base, saved):
        raise CheckpointError(
            f"{name} has other weights than the backbone that {folder} was trained on; give that one with "
            "--backbone, or take these with --backbone-unchecked."
        )


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
        CheckpointError: files are missing, damaged, or have other shapes or values that are not finite, or
            the heads have other classes, or the same in another order.
    """
    from peft import set_peft_model_state_dict

    with as_checkpoint_error(folder):
        _check_classes(read_tasks_file(folder)["tasks"], model.heads.heads, folder)
        tensors = read_weights(folder / FILES.adapter_weights, _adapter_shapes(model.backbone), "adapter")
        set_peft_model_state_dict(model.backbone, tensors)
        load_heads(model, folder)


def _check_classes(saved: Sequence[TaskHead], heads: Sequence[TaskHead], folder: Path) -> None:
    """Refuse weights whose rows stand for other classes: the shapes alone would not tell."""
    classes = {head.name: head.labels for head in saved}
    for head in heads:
        found = classes.get(head.name, head.labels)  # a head that is missing is found with the weights
        if found != head.labels:
            raise CheckpointError(
                f"{folder} has the classes {listed(found)} for task {head.name!r}, but its data give "
                f"{listed(head.labels)}; the classes of a run and their order cannot change."
            )


def _adapter_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what an adapter is saved as."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in found.items()}
