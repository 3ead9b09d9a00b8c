"""`save_compact`: a compact adapter folder of a model that stays as it is, even if FSDP 2 has sharded it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor, nn

from graftwork.distributed.processes import on_main
from graftwork.distributed.shards import whole
from graftwork.errors import ConfigError
from graftwork.files.writing import staged_folder
from graftwork.search.compact import compact_config
from graftwork.search.discretise import discretise_, structure_of
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.view import graft_view

if TYPE_CHECKING:
    from graftwork.structure.structure import Structure
    from graftwork.tuner.config import GraftConfig

__all__ = ["save_compact"]


def save_compact(
    model: nn.Module, folder: str | Path, *, adapter_name: str | None = None, overwrite: bool = False
) -> Structure:
    """Write the compact adapter of a model into a folder that `PeftModel.from_pretrained` loads.

    What `compact_` and then `save_pretrained` would write, but the model keeps its closed adapters: for
    models whose parameters cannot be replaced, such as those that FSDP 2 has sharded. Gates still being
    learned are discretised first. Every process has to call it; the main one writes.

    Args:
        model: a `PeftModel`, or a model that holds one.
        folder: to be written.
        adapter_name: PEFT's name for the adapter; default the active one.
        overwrite: replace the folder if it exists.

    Returns:
        The compact structure.

    Raises:
        ConfigError: the model holds no `PeftModel` with a graft adapter.
        DataError: the folder exists and `overwrite` is False, or it cannot be written.

    Example:
        >>> from peft import PeftModel, get_peft_model
        >>> model = get_peft_model(backbone, gw.GraftConfig(tasks=["a", "b"], budget=0.03, pool_size=4))
        >>> structure = gw.save_compact(model, "runs/small")
        >>> loaded = PeftModel.from_pretrained(type(backbone)(backbone.config), "runs/small")
        >>> gw.structure_of(loaded) == structure
        True
    """
    view = graft_view(model, adapter_name)
    name = view.adapter_name
    peft_model = next((module for module in model.modules() if isinstance(module, PeftModel)), None)
    if peft_model is None:
        raise ConfigError(
            "the graft adapter was not added by get_peft_model, so there is no PeftModel to save."
        )
    if not view.decided:
        discretise_(model, name)
    config = compact_config(model, name)
    tensors = _gather(peft_model, _compact_state(peft_model, name), name)

    def write() -> None:
        with (
            staged_folder(Path(folder), overwrite=overwrite) as staged,
            _described_by(peft_model, name, config),
        ):
            peft_model.save_pretrained(str(staged), selected_adapters=[name], state_dict=tensors)

    on_main(write)
    return structure_of(model, name).compacted()


def _compact_state(model: PeftModel, name: str) -> dict[str, Tensor]:
    """The state dict of a model with the weights of one graft adapter made compact."""
    state: dict[str, Tensor] = model.state_dict()
    for path, layer in model.named_modules():
        if not isinstance(layer, GraftLayer) or name not in layer.pools:
            continue
        for part in (*layer.adapter_layer_names, "graft_mask", "graft_ratio", "graft_state"):
            state.pop(f"{path}.{part}.{name}", None)
        if layer.used(name).any():
            left = layer.used_tensors(name)
            state |= {f"{path}.{part}.{name}": values for part, values in left.items()}
    return state


def _gather(model: PeftModel, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The state dict with those tensors whole that PEFT saves."""
    saved = get_peft_model_state_dict(model, state_dict=state, adapter_name=name)
    needed = {id(tensor) for tensor in saved.values()}
    return {key: whole(tensor) if id(tensor) in needed else tensor for key, tensor in state.items()}


@contextmanager
def _described_by(model: PeftModel, name: str, config: GraftConfig) -> Iterator[None]:
    """Inside the context the adapter has another configuration."""
    own = model.peft_config[name]
    model.peft_config[name] = config
    try:
        yield
    finally:
        model.peft_config[name] = own
