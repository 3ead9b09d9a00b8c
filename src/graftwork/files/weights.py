"""The safetensors files of a model folder: what they hold is compared with what the model wants, then read.

A shape costs nothing to write down, so headers come first. Nothing here unpickles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from graftwork.errors import CheckpointError, GraftworkError, SiteError
from graftwork.messages import listed

__all__ = ["as_checkpoint_error", "check_values", "read_shapes", "read_weights"]

Shapes = Mapping[str, tuple[int, ...]]


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a file, from its header alone.

    Raises:
        CheckpointError: the file is missing, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the folder is not a complete saved model.")
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged or truncated safetensors file: {error}.") from error


def read_weights(path: Path, wanted: Shapes, what: str) -> dict[str, Tensor]:
    """The tensors of a file, if they are those that are wanted, and finite.

    Args:
        path: a safetensors file.
        wanted: names and shapes.
        what: that wants them, for messages: "adapter" or "heads".

    Raises:
        CheckpointError: a tensor is missing, one too many, of another shape, or holds NaN or infinity.
    """
    from safetensors.torch import load_file

    found = read_shapes(path)
    for verb, names in (("lacks", wanted.keys() - found.keys()), ("has", found.keys() - wanted.keys())):
        if names:
            raise CheckpointError(
                f"{path.name} does not fit the {what}: it {verb} {len(names)} "
                f"tensor{'s' * (len(names) > 1)}, such as {listed([min(names)])}."
            )
    for name, shape in found.items():
        _check_shape(name, shape, tuple(wanted[name]), f"{path.name} does not fit the {what}")
    tensors: dict[str, Tensor] = load_file(path)
    check_values(tensors, str(path))
    return tensors


def _check_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...], where: str) -> None:
    if given != wanted:
        raise CheckpointError(f"{where}: {name} has shape {given}; {wanted} is needed.")


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are no floating-point numbers, or not finite.

    Raises:
        CheckpointError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{where}: {name} holds {tensor.dtype}; floating-point numbers are needed.")
        if tensor.device.type == "meta" or torch.isfinite(tensor.float()).all():
            continue
        kind = "NaN" if torch.isnan(tensor.float()).any() else "infinity"
        raise CheckpointError(f"{where}: {name} holds {kind}; the weights are damaged, or training diverged.")


@contextmanager
def as_checkpoint_error(folder: Path) -> Iterator[None]:
    """Turn whatever PEFT, safetensors and torch say about a bad file into one line that names the folder.

    They raise anything at all at files they did not write.
    """
    try:
        yield
    except CheckpointError as error:
        if str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder}: {error}") from error
    except SiteError as error:
        raise CheckpointError(f"{folder} does not fit the backbone: {error}") from error
    except GraftworkError as error:
        raise CheckpointError(f"{folder} cannot be used: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} cannot be read: {type(error).__name__}: {reason[:300]}") from error
