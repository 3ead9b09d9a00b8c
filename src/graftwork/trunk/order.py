"""The order in which a backbone runs its layers and sites, as a few small passes show it.

Between two layers the hidden states and what accompanies them, such as attention masks, are the arguments of
the next layer, so that this is where a batch can grow whatever model it is. Which arguments have one part per
row is seen by passes of two batch sizes: a first axis that grows with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.routing.rows import ROWS_KEYWORD
from graftwork.tuner.layer import GraftLayer

__all__ = ["NoTrunkError", "Order", "Place", "map_tensors", "observe", "probe_inputs"]

Place = tuple[int | str, ...]
"""Where a tensor stands in the arguments of a call."""
Call = tuple[tuple[Any, ...], dict[str, Any]]

ROWS = (2, 3)
"""Rows of the passes."""
POSITIONS = 4
"""Tokens of a row in them; the first row is padded by half in some."""


class NoTrunkError(Exception):
    """A backbone does not run as a row of layers; the message says why."""


@dataclass(frozen=True)
class Order:
    """What the passes have shown.

    Attributes:
        layers: names of the layers, as they run.
        sections: site -> 0 if it runs before the first layer, i if in the i-th or between it and the next.
        rows: per layer, place of a tensor among its arguments -> parts of its first axis that belong to one
            row of the batch; 0: it has no axis of rows.
    """

    layers: tuple[str, ...]
    sections: Mapping[str, int]
    rows: tuple[Mapping[Place, int], ...]


def observe(backbone: nn.Module) -> Order:
    """Run a backbone on a few made-up rows, with and without padding, and note what runs when.

    Raises:
        NoTrunkError: it has no list of layers, does not run it once and in order, or tensors have their rows
            on another axis than the first.
    """
    layers = _layers(backbone)
    seen = []
    for padded in (True, False):
        calls = [_calls(backbone, layers, probe_inputs(backbone, rows, padded)) for rows in ROWS]
        if calls[0][0] != calls[1][0]:
            raise NoTrunkError("its modules run in an order that depends on the rows")
        seen.append((calls[0][0], [_row_axes(*pair) for pair in zip(calls[0][1], calls[1][1], strict=True)]))
    (events, padded_axes), (others, full_axes) = seen
    if events != others:
        raise NoTrunkError("its modules run in another order if rows are padded")
    ran = [name for kind, name in events if kind == "layer"]
    if sorted(ran) != sorted(layers):
        raise NoTrunkError(f"it does not run each of its {len(layers)} layers once")
    sections: dict[str, int] = {}
    section = 0
    for kind, name in events:
        section += kind == "layer"
        if kind == "site":
            sections.setdefault(name, section)
    rows = tuple(
        {place: max(one.get(place, 0), two.get(place, 0)) for place in {**one, **two}}
        for one, two in zip(padded_axes, full_axes, strict=True)
    )
    return Order(tuple(ran), sections, rows)


def probe_inputs(backbone: nn.Module, rows: int, padded: bool) -> dict[str, Tensor]:
    """Made-up rows: token ids with an attention mask, or images, as the backbone takes them."""
    config: Any = backbone.config
    device = next(backbone.parameters()).device
    if getattr(backbone, "main_input_name", "input_ids") == "pixel_values":
        size = config.image_size
        shape = (size, size) if isinstance(size, int) else tuple(size)
        pixels = torch.linspace(-1, 1, rows * config.num_channels * shape[0] * shape[1], device=device)
        dtype = next((p.dtype for p in backbone.parameters() if p.is_floating_point()), torch.float32)
        return {"pixel_values": pixels.view(rows, config.num_channels, *shape).to(dtype)}
    size = config.get_text_config().vocab_size
    ids = 3 + torch.arange(rows * POSITIONS, device=device).view(rows, POSITIONS)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, POSITIONS // 2 :] = 0
    return {"input_ids": ids % size, "attention_mask": mask}


def map_tensors(value: Any, change: Callable[[Place, Tensor], Tensor], place: Place = ()) -> Any:
    """`value` with other tensors, in tuples, lists and dictionaries at any depth; the rest as it is."""
    if isinstance(value, Tensor):
        return change(place, value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(part, change, (*place, i)) for i, part in enumerate(value))
    if type(value) is dict:
        return {key: map_tensors(part, change, (*place, key)) for key, part in value.items()}
    return value


def _layers(backbone: nn.Module) -> list[str]:
    """The layers: the members of the outermost `ModuleList` with most sites."""
    lists: dict[str, int] = {}
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = sum(isinstance(part, GraftLayer) for part in module.modules())
    found = max(lists, key=lambda name: lists[name], default=None)
    if found is None or not lists[found]:
        raise NoTrunkError("it has no list of layers (ModuleList) with sites")
    return [f"{found}.{name}" for name, _ in backbone.get_submodule(found).named_children()]


def _calls(
    backbone: nn.Module, layers: list[str], inputs: dict[str, Tensor]
) -> tuple[list[tuple[str, str]], list[dict[Place, tuple[int, ...]]]]:
    """What runs in one pass, in order, and the shapes of all tensors that every layer is called with."""
    events: list[tuple[str, str]] = []
    shapes: list[dict[Place, tuple[int, ...]]] = []

    def at_layer(name: str, call: Call) -> None:
        found: dict[Place, tuple[int, ...]] = {}

        def note(place: Place, tensor: Tensor) -> Tensor:
            found[place] = tuple(tensor.shape)
            return tensor

        map_tensors(call, note)
        events.append(("layer", name))
        shapes.append(found)

    handles = [
        backbone.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: at_layer(name, (args, kwargs)), with_kwargs=True
        )
        for name in layers
    ]
    handles += [
        module.register_forward_pre_hook(lambda _, args, name=name: events.append(("site", name)))
        for name, module in backbone.named_modules()
        if isinstance(module, GraftLayer)
    ]
    try:
        run_probe(backbone, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return events, shapes


def run_probe(backbone: nn.Module, inputs: Mapping[str, Tensor], rows: Tensor | None = None) -> Tensor:
    """Last hidden state of made-up rows, of the first task unless given; in evaluation mode."""
    first = next(iter(inputs.values()))
    rows = torch.zeros(first.shape[0], dtype=torch.long, device=first.device) if rows is None else rows
    with _evaluating(backbone), torch.no_grad():
        hidden: Tensor = backbone(**inputs, **{ROWS_KEYWORD: rows}).last_hidden_state
    return hidden


@contextmanager
def _evaluating(backbone: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in backbone.modules()] if backbone.training else []
    try:
        if modes:
            backbone.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _row_axes(one: Mapping[Place, tuple[int, ...]], two: Mapping[Place, tuple[int, ...]]) -> dict[Place, int]:
    """Parts per row of every tensor, from its shapes in batches of `ROWS` rows."""
    if one.keys() != two.keys():
        raise NoTrunkError("its layers are called with other arguments for another number of rows")
    found: dict[Place, int] = {}
    for place, shape in one.items():
        other = two[place]
        if shape == other:
            found[place] = 0
            continue
        parts, rest = divmod(shape[0], ROWS[0])
        if rest or len(shape) != len(other) or shape[1:] != other[1:] or other[0] != parts * ROWS[1]:
            raise NoTrunkError("a layer is called with a tensor whose rows are not on its first axis")
        found[place] = parts
    return found
