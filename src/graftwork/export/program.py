"""A model as one program of `torch.export`, with any batch and sequence length.

Adapters, gates and heads become part of the graph. If there are several tasks, `graft_rows` (int64, [batch])
is an input like any other; with one task there is no such input.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graftwork.errors import DataError, ExportError, GraftworkError
from graftwork.export.all_tasks import AllTasks
from graftwork.files.writing import staged_file
from graftwork.models.multitask import MultiTaskModel
from graftwork.routing.rows import ROWS_KEYWORD
from graftwork.tuner.view import graft_view

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Axes", "Tracing", "describe", "export_program", "one_line", "quiet", "save_program"]

FORMAT = 1
"""Version of the description that is written with an exported model."""
ALL = "all tasks"
"""In place of the name of an output: there is one for every task."""
Axes = Mapping[str, Mapping[int, str]]


def export_program(
    model: nn.Module, inputs: Mapping[str, Tensor], *, dynamic: Axes | None = None
) -> ExportedProgram:
    """Trace a model, with its adapters and heads, by `torch.export`.

    The program takes the inputs by their names and returns one tensor: logits if the model has any, else the
    last hidden state. It is checked against the model on another number of rows and positions.
    `torch.export.save` and `load` need no graftwork.

    Args:
        model: a `MultiTaskModel`, or a model with a graft adapter, at any depth. `compact_` it first, with
            `tasks=[...]` for the program of one task. While gates are learned, those of evaluation are taken.
        inputs: an example of every input, at least two positions long. `graft_rows` may be left out.
        dynamic: input -> axis -> name, for the axes whose length may change; default the first axis of all
            inputs (batch), and the second of those with two or three (sequence).

    Raises:
        ExportError: the model cannot be traced, is quantised, or the program gives other outputs than it.
        DataError: an example is missing or too short.

    Returns:
        The program; its inputs are named tensors, `input_ids` [batch, sequence] (int64) for instance.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> config = gw.GraftConfig(tasks=["a", "b"], gates="fixed", pool_size=4)
        >>> model = get_peft_model(backbone, config).eval()
        >>> inputs = {**tokens, "graft_rows": torch.tensor([0, 1])}
        >>> program = gw.export_program(model, inputs)
        >>> program.module()(**inputs).shape
        torch.Size([2, 5, 32])
    """
    return Tracing(model, inputs, dynamic).program()


def save_program(
    model: nn.Module, path: Path, inputs: Mapping[str, Tensor], *, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the program of a model as a file that `torch.export.load` reads.

    Returns:
        The description that is in the file as `graftwork.json`, and the largest difference from the model.
    """
    with staged_file(path) as staged:
        tracing = Tracing(model, inputs, None)
        program = tracing.program()
        described = {**describe(model, tracing.inputs, tracing.dynamic, tracing.output), **metadata}
        torch.export.save(program, staged, extra_files={"graftwork.json": json.dumps(described)})
    return {**described, "largest_difference": tracing.difference}


def describe(
    model: nn.Module, inputs: Mapping[str, Tensor], dynamic: Axes | None = None, output: str = "logits"
) -> dict[str, Any]:
    """What a user of an exported model has to know, as JSON values.

    Returns:
        `{"format", "inputs": {name: {"axes", "type"}}, "output", "tasks"}`: an axis is a name or a length,
        and the place of a task is its index in `graft_rows`. Heads have different sizes: the logits of a row
        beyond those of its task are minus infinity.
    """
    dynamic = _default_axes(inputs) if dynamic is None else dynamic
    return {
        "format": FORMAT,
        "inputs": {
            name: {
                "axes": [dynamic.get(name, {}).get(axis, size) for axis, size in enumerate(value.shape)],
                "type": str(value.dtype).removeprefix("torch."),
            }
            for name, value in inputs.items()
        },
        **({"outputs": model.outputs} if isinstance(model, AllTasks) else {"output": output}),
        "tasks": _tasks(model),
    }


def _tasks(model: nn.Module) -> list[dict[str, Any]]:
    if isinstance(model, AllTasks):
        return model.described()
    return (
        [head.as_dict() for head in model.heads.heads]
        if isinstance(model, MultiTaskModel)
        else [{"name": name} for name in graft_view(model).config.tasks]
    )


class _Served(nn.Module):
    """A model as a function of named tensors that returns one tensor, or one a task."""

    def __init__(self, model: nn.Module, names: list[str], output: str) -> None:
        super().__init__()
        self.model = model

        def forward(**inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            found = _tensors(model(**inputs), output)
            return found if len(found) > 1 else found[0]

        # `torch.export` names the inputs after the signature.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in names]
        )
        self.forward = forward


class Tracing:
    """One model and its example inputs on the way to a program.

    Args:
        model: as for `export_program`.
        inputs: as for `export_program`.
        dynamic: as for `export_program`.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor], dynamic: Axes | None) -> None:
        self.model = model
        if any(getattr(module, "is_quantized", False) is True for module in model.modules()):
            raise ExportError(
                "the backbone is quantised, which torch.export cannot trace; load it in full precision with "
                "the same adapter and export that."
            )
        self.inputs = _complete(model, inputs)
        self.dynamic = _default_axes(self.inputs) if dynamic is None else dynamic
        self._check_axes()
        with self._as_served():
            result = model(**self.inputs)
        self.output = (
            ALL
            if isinstance(model, AllTasks)
            else next(
                (name for name in ("logits", "last_hidden_state") if getattr(result, name, None) is not None),
                "output",
            )
        )

    def program(self) -> ExportedProgram:
        """The checked program."""
        served = _Served(self.model, list(self.inputs), self.output)
        with self._as_served(), quiet(), one_line("torch.export"):
            shapes = {
                name: dict.fromkeys(self.dynamic.get(name, {}), torch.export.Dim.DYNAMIC)
                for name in self.inputs
            }
            program = torch.export.export(served.eval(), (), self.inputs, dynamic_shapes=shapes, strict=False)
        module = program.module()
        self.difference = self.check(lambda inputs: module(**inputs), "the exported program")
        return program

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return self.model.outputs if isinstance(self.model, AllTasks) else [self.output]

    @torch.no_grad()
    def check(self, run: Any, what: str) -> float:
        """Compare with the model for other numbers of rows and positions; return the largest difference.

        What answers all tasks at once is compared with one routed pass a task.
        """
        sizes = [(1, -1), (-1, 0), (3, -2)] if isinstance(self.model, AllTasks) else [(1, -1)]
        return max(self._difference(run, what, *size) for size in sizes)

    def _difference(self, run: Any, what: str, rows: int, positions: int) -> float:
        inputs = {name: self._resized(name, value, rows, positions) for name, value in self.inputs.items()}
        reference = self.model.one_by_one if isinstance(self.model, AllTasks) else self.model
        with self._as_served():
            expected = _tensors(reference(**inputs), self.output)
        with one_line(what):
            result = run(inputs)
            found = (result,) if isinstance(result, Tensor) else tuple(result)
        largest = 0.0
        for mine, right in zip(found, expected, strict=True):
            close = 1e-4 if right.dtype == torch.float32 else 1e-2
            mine = mine.to(right)
            if mine.shape != right.shape or not torch.allclose(mine, right, rtol=close, atol=close):
                raise ExportError(
                    f"{what} gives other outputs than the model for {self._sizes(inputs)}; the model "
                    "branches on lengths or values, which a graph cannot."
                )
            finite = right.isfinite()
            if finite.any():
                largest = max(largest, float((mine[finite] - right[finite]).abs().max()))
        return largest

    def _resized(self, name: str, value: Tensor, rows: int, positions: int) -> Tensor:
        """The example with so many rows and positions more or less, but at least one."""
        for axis, label in self.dynamic.get(name, {}).items():
            size = value.shape[axis]
            wanted = max(size + (rows if label == "batch" else positions), 1)
            more = [value.narrow(axis, 0, 1)] * (wanted - size)
            value = torch.cat([value, *more], axis) if more else value.narrow(axis, 0, wanted)
        return value

    def _sizes(self, inputs: Mapping[str, Tensor]) -> str:
        return ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())

    def _check_axes(self) -> None:
        for name, axes in self.dynamic.items():
            value = self.inputs.get(name)
            if value is None or not all(0 <= axis < value.dim() for axis in axes):
                raise DataError(
                    f"dynamic names axes {', '.join(map(str, axes))} of {name!r}; the inputs are "
                    f"{self._sizes(self.inputs)}."
                )
            short = [axis for axis in axes if value.shape[axis] < 2]
            if short:
                raise DataError(
                    f"the example {name} has shape {tuple(value.shape)}; give one of length 2 or more along "
                    f"axis {short[0]}, which is to change."
                )

    @contextmanager
    def _as_served(self) -> Iterator[None]:
        """In evaluation mode, without gradients or a cache of keys and values."""
        training = self.model.training
        found: list[Any] = [getattr(module, "config", None) for module in self.model.modules()]
        configs = {id(config): config for config in found if getattr(config, "use_cache", False)}
        with ExitStack() as stack:
            stack.callback(self.model.train, training)
            for config in configs.values():
                stack.callback(setattr, config, "use_cache", True)
                config.use_cache = False
            self.model.eval()
            stack.enter_context(torch.no_grad())
            yield


def _complete(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The example inputs on the model's device, at least two rows, with `graft_rows` if it is needed."""
    wrong = [name for name, value in inputs.items() if not isinstance(value, Tensor) or value.dim() == 0]
    if wrong or not inputs:
        raise DataError(
            f"{f'the example {wrong[0]} is no tensor of rows' if wrong else 'there are no example inputs'}; "
            "give tensors by name, such as input_ids and attention_mask."
        )
    device = next(model.parameters()).device
    ready = {name: value.to(device) for name, value in inputs.items()}
    tasks = 1 if isinstance(model, AllTasks) else len(_tasks(model))
    if tasks == 1:
        ready.pop(ROWS_KEYWORD, None)
    rows = next(iter(ready.values())).shape[0]
    if tasks > 1 and ROWS_KEYWORD not in ready:
        ready[ROWS_KEYWORD] = torch.arange(rows, device=device) % tasks
    # Torch takes a length of one for a constant.
    return {name: torch.cat([value, value]) for name, value in ready.items()} if rows == 1 else ready


def _default_axes(inputs: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    return {
        name: {0: "batch", 1: "sequence"} if value.dim() in (2, 3) else {0: "batch"}
        for name, value in inputs.items()
    }


def _tensors(result: Any, output: str) -> tuple[Tensor, ...]:
    if isinstance(result, Tensor):
        return (result,)
    if type(result) is tuple and output == ALL:
        return result
    return (result[0] if output == "output" else getattr(result, output),)


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Turn what an exporter says about a model into one line.

    Raises:
        ExportError: something was raised inside the context.
    """
    try:
        yield
    except GraftworkError:
        raise
    except Exception as error:
        # Torch's and onnxruntime's exporters raise whatever the code they trace does.
        reason = " ".join(str(error).split())
        raise ExportError(f"{what} failed on this model: {type(error).__name__}: {reason[:300]}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
