"""What a pool of adapters looks like, and how wide its site is."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.tuners_utils import _get_in_out_features
from torch import Tensor, nn

from graftwork.errors import CheckpointError, ConfigError, SiteError
from graftwork.files.weights import _check_shape, check_values
from graftwork.gates.family import GateFamily

__all__ = [
    "ACTIVATIONS",
    "CONVOLUTIONS",
    "GateChange",
    "Mask",
    "Pool",
    "check_pools",
    "check_size",
    "site_widths",
]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules whose features are the second axis, not the last."""

TIMES = 4
"""Largest size of a pool, or of all heads, as a multiple of the backbone's parameters."""
ALWAYS = 2**24
"""Size in numbers that is allowed for any backbone."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "identity": lambda x: x,
}
"""Nonlinearities of an adapter, by name."""


GateChange = Callable[[Tensor, bool], Tensor]
"""Other gates, [tasks, adapters], from those of a forward pass; the second argument: whether in training."""


class Mask(NamedTuple):
    """What is known of a mask without reading its values again, which on a GPU would wait for them."""

    values: Tensor
    decided: bool
    """No gate is being learned."""
    all_open: bool
    """Every gate is 1, and nothing changes it on the way."""

    @classmethod
    def of(cls, values: Tensor, *, changed: bool) -> Mask:
        """Read a mask, unless it has no values yet.

        Args:
            values: [tasks, adapters].
            changed: forward passes use other gates than the mask (`GatedPools.changing_gates`).
        """
        if values.device.type == "meta":
            return cls(values, False, False)
        return cls(values, bool((values >= 0).all()), not changed and bool((values == 1).all()))


@dataclass(frozen=True)
class Pool:
    """What a pool of adapters looks like, for one adapter name of PEFT at one site.

    Attributes:
        tasks: names of the tasks, the rows of the gate table.
        size: K, the number of adapters of the pool.
        rank: r, the bottleneck width of one adapter.
        activation: name of the nonlinearity f.
        parallel: adapters read the site's input instead of its output.
        family: the gate family.
        width_in: features the adapters read.
        width_out: features the adapters write.
        added: numbers of adapters that came later with tasks of their own, at the end of the pool, one number
            per addition. They are computed apart from the rest (`blocks`).
        scale: the sum over the open adapters is multiplied by it. It is a constant of the pool: closing an
            adapter changes nothing that the others write.
        groups: while gates are learned, the group of every task, from 0 on: those of a group have the same
            gates. None: every task has its own.
    """

    tasks: tuple[str, ...]
    size: int
    rank: int
    activation: str
    parallel: bool
    family: GateFamily
    width_in: int
    width_out: int
    added: tuple[int, ...] = ()
    scale: float = 1.0
    groups: tuple[int, ...] | None = None

    def tied(self, table: Float[Tensor, "tasks adapters"]) -> Float[Tensor, "tasks adapters"]:
        """Every row of a table as the mean over the rows of its task's group, equal to the bit."""
        if self.groups is None:
            return table
        index = torch.tensor(self.groups, device=table.device)
        means = [table[index == group].mean(dim=0) for group in range(max(self.groups) + 1)]
        return torch.stack(means)[index]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """First and last (exclusive) adapter of the shared part, which may be empty, and of each addition."""
        edges = [0, self.size - sum(self.added)]
        for count in self.added:
            edges.append(edges[-1] + count)
        return list(itertools.pairwise(edges))

    @property
    def linear(self) -> bool:
        """True without a nonlinearity. Such adapters have no bias, so that they merge into any linear map."""
        return self.activation == "identity"

    @property
    def cost(self) -> int:
        """Parameters of one adapter: `r (d_in + d_out + 1)`, without the bias `r (d_in + d_out)`."""
        return self.rank * (self.width_in + self.width_out + (not self.linear))


def check_size(numbers: int, backbone: nn.Module, what: str) -> None:
    """Refuse to make tensors far beyond the size of the backbone that they belong to.

    Args:
        numbers: numbers in all of them.
        backbone: the model.
        what: what asks for them, for the message.

    Raises:
        ConfigError: they are more than `TIMES` the parameters of the backbone, and more than `ALWAYS`.
    """
    whole = sum(parameter.numel() for parameter in backbone.parameters())
    if numbers > max(ALWAYS, TIMES * whole):
        raise ConfigError(
            f"{what} ask for {numbers:,} numbers, more than {TIMES} times the {whole:,} parameters of the "
            "backbone; lower them."
        )


def site_widths(module: nn.Module, name: str = "") -> tuple[int, int]:
    """Input and output features of a site.

    A linear map knows its widths; those of a convolution are channels, and an embedding and
    `nn.MultiheadAttention` have one width for both. A larger module (a whole block) is measured by its widest
    normalisation layer, which spans the residual stream; normalisations inside attention heads are narrower.

    Raises:
        SiteError: the widths cannot be told.
    """
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim, module.embed_dim
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, module.embedding_dim
    if not any(True for _ in module.children()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            width_in, width_out = _get_in_out_features(module)
        if isinstance(width_in, int) and isinstance(width_out, int):
            return width_in, width_out
    else:
        norms = [part for part in module.modules() if "norm" in type(part).__name__.lower()]
        weights = [norm.weight for norm in norms if hasattr(norm, "weight")]
        width = max((weight.numel() for weight in weights if isinstance(weight, Tensor)), default=0)
        if width:
            return width, width
    raise SiteError(
        f"site {name!r} is a {type(module).__name__}, whose width cannot be told; choose linear layers, or "
        "blocks that hold a normalisation layer."
    )


def check_pools(layer: nn.Module, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
    """Before a site's tensors are loaded: their shapes and values. A hook for `load_state_dict`.

    Raises:
        CheckpointError: a tensor has another shape than its pool, or is not finite, or gates are neither
            learned nor decided.
    """
    base = prefix.removesuffix(".")
    own: dict[str, Tensor] = {**dict(layer.named_parameters(base)), **dict(layer.named_buffers(base))}
    given = {name: state_dict[name] for name in own if name in state_dict and ".base_layer." not in name}
    for name, tensor in given.items():
        _check_shape(name, tuple(tensor.shape), tuple(own[name].shape), "the weights do not fit the adapter")
    check_values(given, "the weights of the adapter")
    for name, tensor in given.items():
        before, _, adapter = name.rpartition("graft_mask.")
        if not before or tensor.device.type == "meta":
            continue
        decided = bool(((tensor == 0) | (tensor == 1)).all())
        learned = adapter in layer.graft_gate_bias and bool((tensor == -1).all())  # type: ignore[operator]
        if not decided and not learned:
            raise CheckpointError(
                f"the weights of the adapter: {name} is neither all learned (-1) nor all decided (0 or 1); "
                "the file is damaged."
            )
