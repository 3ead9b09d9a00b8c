"""Noise in a model, as contexts that leave nothing behind: embeddings, adapter paths, adapter weights.

Each context yields a `Realised`: how much noise there was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from graftwork.errors import ConfigError, StructureError
from graftwork.files.hashing import stable_key
from graftwork.tuner.layer import GraftLayer
from graftwork.tuner.view import graft_view

__all__ = ["Realised", "embedding_noise", "path_noise", "weight_noise"]


@dataclass
class Realised:
    """How much noise a context has made so far.

    Attributes:
        changed: paths damaged, or the sum of squares of the noise.
        total: open paths, or the sum of squares of what the noise was added to.
        items: paths, vectors or weights that were looked at.
        root: the ratio is that of the roots (of squares).
        generators: what the noise is drawn from, per device, if it is drawn anew in every pass.
    """

    changed: float | Tensor = 0.0
    total: float | Tensor = 0.0
    items: int = 0
    root: bool = False
    generators: dict[str, torch.Generator] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The realised ratio; 0 if there was nothing to damage."""
        total = float(self.total)
        ratio = float(self.changed) / total if total else 0.0
        return float(ratio**0.5) if self.root else ratio

    def add_squares(self, noise: Tensor, signal: Tensor) -> None:
        """Count noise that was added to a tensor."""
        # Sums stay on their device: reading them would make every step wait for it.
        self.changed = self.changed + noise.detach().float().square().sum()
        self.total = self.total + signal.detach().float().square().sum()


def _input_embeddings(model: nn.Module) -> list[nn.Module]:
    """The module that turns tokens (or patches) into vectors, and those that share its weight, as in T5."""
    for module in model.modules():
        getter = getattr(module, "get_input_embeddings", None)
        try:
            found = getter() if callable(getter) else None
        except NotImplementedError:
            # What Transformers raises for a model whose embeddings it cannot tell.
            continue
        if isinstance(found, nn.Module):
            weight = getattr(found, "weight", None)
            shared: list[nn.Module] = [
                other
                for other in model.modules()
                if weight is not None and isinstance(other, nn.Embedding) and other.weight is weight
            ]
            return shared or [found]
    raise ConfigError(
        f"{type(model).__name__} names no input embeddings; embedding noise needs a Transformers model."
    )


@contextmanager
def embedding_noise(
    model: nn.Module, ratio: float, seed: int = 0, *, training_only: bool = False
) -> Iterator[Realised]:
    r"""Add Gaussian noise to the input embeddings of every forward pass inside the context.

    .. math::
        e_i \leftarrow e_i + \rho \, \mathrm{rms}(e_i) \, \epsilon, \quad \epsilon \sim N(0, I)

    with e_i the vector of one position. The noise is drawn from a generator of its own, pass by pass: the
    same batches in the same order see the same noise, and the global random state is not touched.

    Args:
        model: a Transformers model, at any depth.
        ratio: rho, deviation of the noise relative to each vector's root mean square.
        seed: of the noise.
        training_only: leave passes in evaluation mode alone.

    Raises:
        ConfigError: no module of the model names its input embeddings.
    """
    realised = Realised(root=True)
    generators = realised.generators

    def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        if ratio == 0 or (training_only and not module.training):
            return None
        device = output.device
        generator = generators.get(str(device))
        if generator is None:
            generator = generators[str(device)] = torch.Generator(device).manual_seed(seed)
        normal = torch.randn(output.shape, generator=generator, device=device)
        signal = output.detach().float()
        noise = (ratio * signal.square().mean(dim=-1, keepdim=True).sqrt() * normal).to(output.dtype)
        realised.add_squares(noise, signal)
        realised.items += output.shape[:-1].numel()
        return output + noise

    with ExitStack() as stack:
        for module in _input_embeddings(model):
            stack.callback(module.register_forward_hook(hook).remove)
        yield realised


@contextmanager
def path_noise(
    model: nn.Module,
    ratio: float,
    seed: int = 0,
    *,
    redraw: bool = False,
    training_only: bool = False,
    adapter_name: str | None = None,
) -> Iterator[Realised]:
    """Damage paths: `ratio` of every task's open (site, adapter) gates are closed inside the context.

    Which paths are open is looked up on entry: by the mask, or, while gates are learned, by their value in
    evaluation. The paths are ranked by a hash of task, site and adapter, so a larger ratio damages what a
    smaller one does, and more. `structure_of`, budgets and penalties see the structure as it is.

    Args:
        model: a model with a graft adapter, at any depth.
        ratio: fraction of the open paths of every task.
        seed: of the choice and of the redrawn gates.
        redraw: damaged gates are not closed but replaced by a draw from U(0, 1), fixed inside the context.
        training_only: leave passes in evaluation mode alone.
        adapter_name: PEFT's name for the adapter; default the active one.

    Raises:
        ConfigError: the model has no graft adapter.
        StructureError: in a forward pass, if the model was compacted inside the context.
    """
    view = graft_view(model, adapter_name)
    name = view.adapter_name
    realised = Realised()
    values = {site: torch.zeros_like(layer.graft_mask[name]) for site, layer in view.sites.items()}
    damaged = {site: table.bool() for site, table in values.items()}
    open_gates = {site: (layer.evaluation_gates(name) > 0).tolist() for site, layer in view.sites.items()}
    for t, task in enumerate(view.config.tasks):
        keys = sorted(
            (stable_key(seed, "paths", task, site, k), site, k)
            for site, table in open_gates.items()
            for k, is_open in enumerate(table[t])
            if is_open
        )
        count = int(ratio * len(keys) + random.Random(stable_key(seed, "paths", task)).random())
        for key, site, k in keys[:count]:
            damaged[site][t, k] = True
            values[site][t, k] = random.Random(key).random() if redraw else 0.0
        realised.changed += min(count, len(keys))
        realised.items += len(keys)
    realised.total = realised.items
    with ExitStack() as stack:
        for site, layer in view.sites.items():
            if damaged[site].any():
                stack.enter_context(_damaged_gates(layer, name, damaged[site], values[site], training_only))
        yield realised


@contextmanager
def _damaged_gates(
    layer: GraftLayer,
    name: str,
    damaged: Bool[Tensor, "tasks adapters"],
    values: Float[Tensor, "tasks adapters"],
    training_only: bool,
) -> Iterator[None]:
    """Change the gates of one layer; its parameters and buffers stay as they are."""

    def damage(found: Tensor, training: bool) -> Tensor:
        if training_only and not training:
            return found
        if found.shape != damaged.shape:
            raise StructureError(
                "the model was compacted inside a context of path noise; compact it before the context."
            )
        return torch.where(damaged.to(found.device), values.to(found), found)

    with layer.changing_gates(name, damage):
        yield


@contextmanager
def weight_noise(
    model: nn.Module, ratio: float, seed: int = 0, *, adapter_name: str | None = None
) -> Iterator[Realised]:
    r"""Add Gaussian noise to the adapters' weights, `W_down` and `W_up` of every site, inside the context.

    .. math::
        W \leftarrow W + \rho \, \mathrm{rms}(W) \, \epsilon, \quad \epsilon \sim N(0, I)

    The weights are restored to the bit on exit, so do not train or compact the model inside.

    Args:
        model: a model with a graft adapter, at any depth.
        ratio: rho, deviation of the noise relative to each matrix's root mean square.
        seed: of the noise; every site has its own stream.
        adapter_name: PEFT's name for the adapter; default the active one.

    Raises:
        ConfigError: the model has no graft adapter.
        StructureError: on exit, if the model was compacted inside the context.
    """
    view = graft_view(model, adapter_name)
    realised = Realised(root=True)
    kept: list[tuple[nn.ParameterDict, nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for site, layer in view.sites.items():
                for kind in ("graft_down", "graft_up") if ratio else ():
                    holder: nn.ParameterDict = getattr(layer, kind)
                    weight = holder[view.adapter_name]
                    before = weight.detach().clone()
                    kept.append((holder, weight, before))
                    # Drawn on the CPU: the same noise on every device.
                    generator = torch.Generator().manual_seed(stable_key(seed, "weights", site, kind))
                    normal = torch.randn(weight.shape, generator=generator).to(weight.device)
                    weight.add_((ratio * before.float().square().mean().sqrt() * normal).to(weight.dtype))
                    realised.add_squares(weight - before, before)
                    realised.items += weight.numel()
        yield realised
    finally:
        with torch.no_grad():
            for _, weight, before in kept:
                weight.copy_(before)
    if any(holder[view.adapter_name] is not weight for holder, weight, _ in kept):
        raise StructureError(
            "the model was compacted inside a context of weight noise, so its new weights hold the noise; "
            "compact it before the context."
        )
