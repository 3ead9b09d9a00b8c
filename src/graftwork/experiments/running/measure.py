"""What is measured of a run: peak memory, bytes on disk, the machine."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graftwork.experiments.grid.places import without_places
from graftwork.experiments.results.store import FORMAT
from graftwork.files.provenance import versions

if TYPE_CHECKING:
    from graftwork.experiments.grid.grid import Trial
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["bytes_on_disk", "cores", "failure", "host", "peak_memory", "reset_peak_memory"]


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host() -> dict[str, Any]:
    """Cores and threads of a run."""
    return {"cores": cores(), "threads": torch.get_num_threads()}


def reset_peak_memory() -> None:
    """Start measuring anew, where the system can: Linux forgets the peak of a process on request."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        try:
            clear.write_text("5")
        except OSError:
            return


def peak_memory() -> int:
    """Largest memory since `reset_peak_memory`, in bytes: on the accelerator, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def bytes_on_disk(model: MultiTaskModel, stored: Mapping[str, Tensor], folder: Path) -> int:
    """Size of what must be stored beside the backbone, as one safetensors file."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {name: parameter.detach().contiguous() for name, parameter in stored.items()}
    path = folder / "stored.safetensors"
    save_file({**tensors, **{f"heads.{k}": v.contiguous() for k, v in model.heads.export().items()}}, path)
    return path.stat().st_size


def failure(error: str, run: Trial, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The file of a run that failed.

    Args:
        error: why, in any number of lines.
        run: what failed.
        identity: what `run_settings` says of the run.
    """
    return {
        **identity,
        "format": FORMAT,
        "status": "failed",
        "error": " ".join(without_places(error, run.places).split())[:500],
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": host(),
    }
