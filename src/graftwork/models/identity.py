"""Who a backbone is: a checksum over the values of its weights, whatever file they came from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.attached import attach, find_attached

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CACHE", "Identity", "file_stamp", "identify_", "identity_of", "same_weights", "weights_digest"]

CACHE = Path("~/.cache/graftwork")
"""Folder of tokenised data and of checksums."""
_NAME = "identity"
"""Name under which the identity of a backbone is attached to it."""
_FILES = ("*.safetensors", "*.bin", "*.gguf", "*.json")
"""Names of the files on which a backbone depends."""
_FORMAT = 1  # of the checksum; part of the names in the cache
_HEX = 64
"""Length of a SHA-256 in hexadecimal digits."""


@dataclass(frozen=True)
class Identity:
    """The checksum of a backbone's weights."""

    sha256: str
    missing: tuple[str, ...] = ()
    """Tensors that its files lack, such as poolers: they are random, so the checksum leaves them out."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"sha256": self.sha256, **({"missing": list(self.missing)} if self.missing else {})}


def weights_digest(tensors: Mapping[str, Tensor], leave_out: Collection[str] = ()) -> str:
    """SHA-256 over name, type, shape and all values of every tensor, in the order of the names.

    Args:
        tensors: a state dict.
        leave_out: names that do not count.
    """
    names = sorted(tensors.keys() - set(leave_out))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(lambda name: _digest(tensors[name]), names))
    parts = [
        [name, str(tensors[name].dtype), list(tensors[name].shape), digest]
        for name, digest in zip(names, digests, strict=True)
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _digest(tensor: Tensor) -> str:
    import torch

    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()


def file_stamp(folder: Path | None) -> str | None:
    """Path, size and time of the files that a model is loaded from; None if they cannot be seen."""
    if folder is None:
        return None
    try:
        files = sorted({path for pattern in _FILES for path in folder.glob(pattern)})
        found = [(os.path.realpath(path), path.stat()) for path in files]
    except OSError:
        return None
    return json.dumps([(path, status.st_size, status.st_mtime_ns) for path, status in found])


def identify_(model: nn.Module, missing: Collection[str], stamp: str | None) -> None:
    """Store the identity of a model on it right after loading, for `identity_of`.

    Args:
        model: as it was loaded, before anything wraps or trains it.
        missing: names of the tensors that its files did not hold.
        stamp: `file_stamp` from before loading: equal stamps have equal checksums, which the cache knows.
    """
    absent = tuple(sorted(missing))
    key = None
    if stamp is not None:
        content = json.dumps(
            [_FORMAT, type(model).__name__, str(getattr(model, "dtype", None)), absent, stamp]
        )
        key = hashlib.sha256(content.encode()).hexdigest()[:32]
    digest = _cached(key) if key is not None else None
    if digest is None:
        digest = weights_digest(model.state_dict(), absent)
        if key is not None:
            _keep(key, digest)
    attach(model, _NAME, Identity(digest, absent))


def identity_of(backbone: nn.Module) -> Identity | None:
    """The identity of a backbone, also under adapters; None if `load_backbone` did not load it."""
    found = find_attached(backbone, _NAME)
    if found is None:
        return None
    identity: Identity = found.value
    return identity


def same_weights(backbone: nn.Module, saved: Identity) -> bool:
    """Whether a backbone that was just loaded has the weights of a saved identity."""
    found = identity_of(backbone)
    if found is not None and found.missing == saved.missing:
        return found.sha256 == saved.sha256
    return weights_digest(backbone.state_dict(), saved.missing) == saved.sha256


def _file(key: str) -> Path:
    return Path(os.path.expanduser(CACHE)) / f"weights-{key}.sha256"


def _cached(key: str) -> str | None:
    try:
        digest = _file(key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return digest if len(digest) == _HEX and set(digest) <= set("0123456789abcdef") else None


def _keep(key: str, digest: str) -> None:
    """Write a checksum into the cache, if there is a home to write in."""
    path = _file(key)
    if not path.is_absolute():
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(digest)
            os.replace(staged, path)
        finally:
            Path(staged).unlink(missing_ok=True)
