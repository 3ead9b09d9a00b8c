"""A model as one ONNX file, by way of `torch.export`, checked with onnxruntime."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.errors import ExportError
from graftwork.export.all_tasks import AllTasks
from graftwork.export.program import Axes, Tracing, describe, one_line, quiet
from graftwork.files.writing import staged_file

__all__ = ["METADATA", "check_onnx_packages", "export_onnx"]

METADATA = "graftwork"
"""Key of the model's description in the metadata of an ONNX file."""

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""Packages that ONNX export needs, by the names they are imported by."""


def export_onnx(
    model: nn.Module,
    path: str | Path,
    inputs: Mapping[str, Tensor],
    *,
    dynamic: Axes | None = None,
    opset: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    all_tasks: bool = False,
) -> dict[str, Any]:
    """Write a model, with its adapters and heads, as one ONNX file.

    It is checked with onnxruntime against the model before it takes the name `path`. Weights of more than
    2 GB go into a second file beside it, as the format demands.

    Args:
        model: as for `export_program`.
        path: file to write; an older one is replaced.
        inputs: as for `export_program`.
        dynamic: as for `export_program`.
        opset: version of ONNX's operators; default that of torch.
        metadata: JSON values to add to the description.
        all_tasks: one output a task, `logits.NAME` [batch, classes], for every row, in a graph that branches
            where the paths of the tasks part; there is no input `graft_rows`.

    Returns:
        The description of inputs, output and tasks that is in the file's metadata, as JSON under
        `graftwork`, and the largest difference from the model.

    Raises:
        ExportError: packages are missing, or the model cannot be exported.
        DataError: an example is missing or too short, or the file cannot be written.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> config = gw.GraftConfig(tasks=["a", "b"], gates="fixed", pool_size=4)
        >>> model = get_peft_model(backbone, config).eval()
        >>> inputs = {**tokens, "graft_rows": torch.tensor([0, 1])}
        >>> described = gw.export_onnx(model, "runs/model.onnx", inputs)
        >>> described["inputs"]["input_ids"]["axes"], described["output"]
        (['batch', 'sequence'], 'last_hidden_state')
    """
    check_onnx_packages()
    model = AllTasks(model) if all_tasks else model
    with staged_file(Path(path)) as staged:
        tracing = Tracing(model, inputs, dynamic)
        program = tracing.program()
        described = {**describe(model, tracing.inputs, tracing.dynamic, tracing.output), **(metadata or {})}
        with _quiet_registry(), quiet(), one_line("ONNX"):
            made = torch.onnx.export(
                program, (), dynamo=True, verbose=False, opset_version=opset, output_names=tracing.outputs
            )
            assert made is not None
            found: dict[str, Any] = {str(value.name): value.shape for value in made.model.graph.inputs}
            made.rename_axes(
                {
                    str(found[name][axis]): label
                    for name, axes in tracing.dynamic.items()
                    for axis, label in axes.items()
                }
            )
            made.model.metadata_props[METADATA] = json.dumps(described)
            made.save(staged, external_data=False)
        difference = tracing.check(_runner(staged), "the ONNX file")
    return {**described, "largest_difference": difference}


def check_onnx_packages() -> None:
    """Refuse to start without the packages that ONNX needs.

    Raises:
        ExportError: some are not installed.
    """
    absent = [name for name in _PACKAGES if find_spec(name) is None]
    if absent:
        raise ExportError(f"ONNX needs {', '.join(absent)}; run `pip install 'graftwork[onnx]'`.")


def _runner(path: Path) -> Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        found = session.run(None, {name: value.cpu().numpy() for name, value in inputs.items()})
        return tuple(map(torch.from_numpy, found))

    return run


@contextmanager
def _quiet_registry() -> Iterator[None]:
    """Without the log of operators that torch has no package for."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
