"""A folder made by `graftwork fit` in a form that needs no graftwork, such as ONNX or a LoRA of PEFT.

Beside the model the output folder has the tokenizer and `export.json`: inputs, tasks with their labels,
tokens of a row, and the largest difference from the model that was found in checking.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

import torch

from graftwork.data.images.reader import ImageReader, blank_image, text_tokenizer
from graftwork.data.tokens import encode, pad
from graftwork.distributed.notes import note_once
from graftwork.errors import ExportError
from graftwork.export.all_tasks import AllTasks
from graftwork.export.gguf import check_gguf_package, export_gguf
from graftwork.export.lora import export_lora
from graftwork.export.merged import export_merged
from graftwork.export.onnx import check_onnx_packages, export_onnx
from graftwork.export.program import describe, save_program
from graftwork.files.places import moved
from graftwork.files.writing import check_target, staged_folder
from graftwork.kinds.registry import KINDS
from graftwork.messages import did_you_mean
from graftwork.models.files import FILES, local_parts
from graftwork.models.folder import Loading, load_model
from graftwork.models.manifest import name_backbone, read_tasks_file, saved_backbone
from graftwork.models.multitask import select_tasks_

if TYPE_CHECKING:
    from torch import Tensor

    from graftwork.data.images.reader import InputReader
    from graftwork.models.multitask import MultiTaskModel

__all__ = ["FORMATS", "export_folder"]

Format = Literal["onnx", "pt2", "lora", "merged", "gguf"]
FORMATS: tuple[str, ...] = get_args(Format)
"""Names of the formats."""
DESCRIPTION = "export.json"
"""Name of the file that describes an exported model."""

_TAKEN = {
    "mean": "the mean of their logits",
    "max": "the largest of their logits, class by class",
    "tokens": "of each word the window in which it stands furthest from a cut",
}
"""What becomes of the outputs of windows."""

_EXAMPLES = ("graftwork exports a model of some tasks", "a shorter row of text")
"""Texts with which a model is traced: two rows of different length."""


def export_folder(
    folder: str | Path,
    output: str | Path,
    *,
    format: str = "onnx",
    task: str | None = None,
    all_tasks: bool = False,
    overwrite: bool = False,
    **loading: Unpack[Loading],
) -> dict[str, Any]:
    """Write a saved model in another format.

    Args:
        folder: written by `graftwork fit`, or `user/model` on the hub.
        output: folder to write: `model.onnx` or `model.pt2` with the heads inside, or a LoRA with
            `heads.safetensors` beside it.
        format: `onnx`, `pt2` (`torch.export.load`), `lora`, or for a task that a language model writes
            `merged`: a folder of Transformers, or `gguf`: one file for llama.cpp (Llama models, 16 bits).
        task: only this task, without the adapters that only others use; the last three hold no more.
        all_tasks: one output a task, all of them for every row, in a graph that branches where their paths
            part; as ONNX or for `torch.export`.
        overwrite: replace the output folder if it exists.
        **loading: where the parts of the saved model are now (`graftwork.models.folder.Loading`).

    Returns:
        The contents of `export.json`.

    Raises:
        ExportError: no such format, packages for it are missing, the model cannot be written in it, or both
            one task and all are asked for.
        CheckpointError: the folder is no complete model.
        StructureError: the task is unknown, or as a LoRA has no adapter.
        MergeError: as a LoRA, adapters are nonlinear.
        DataError: the output exists.
    """
    output = Path(output)
    if format not in FORMATS:
        hint = did_you_mean(format, FORMATS)
        raise ExportError(f"unknown format {format!r}{hint} Allowed: {', '.join(FORMATS)}.")
    if all_tasks and task is not None:
        raise ExportError(f"--task {task} is one task and --all-tasks all of them; leave one out.")
    if all_tasks and format == "lora":
        raise ExportError("a LoRA holds one task; --all-tasks goes with --format onnx or pt2.")
    if format == "onnx":
        check_onnx_packages()
    if format == "gguf":
        check_gguf_package()
    check_target(output, overwrite=overwrite)
    folder, parts = local_parts(folder, loading)
    names = [head.name for head in read_tasks_file(folder)["tasks"]]
    if format in ("lora", "merged", "gguf") and task is None and len(names) > 1:
        what = {"lora": "LoRA", "merged": "merged model"}.get(format, "GGUF file")
        raise ExportError(f"a {what} holds one task; pass --task with one of {', '.join(names)}.")
    name = moved(saved_backbone(folder, parts.get("backbone")), output)
    model, tokenizer = load_model(folder, **parts)
    if task is not None:
        model, _ = select_tasks_(model, [task])
    _check_written(model, format)
    for head in model.heads.heads:
        if head.stride is not None:
            note_once(
                f"task {head.name!r} reads texts of more than {model.max_length} tokens in windows, but what "
                "is exported reads one window: pass the windows as rows, and take "
                f"{_TAKEN['tokens' if KINDS[head.kind].per == 'token' else head.windows]} (docs/export.md)."
            )
    facts = {"model": name, "pooling": model.pooling, "max_length": model.max_length}
    with staged_folder(output, overwrite=overwrite) as staged:
        written = _write(model, tokenizer, staged, format, facts, all_tasks)
        tokenizer.save_pretrained(str(staged))
        (staged / DESCRIPTION).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return written


def _write(
    model: MultiTaskModel,
    tokenizer: InputReader,
    folder: Path,
    format: str,
    facts: dict[str, Any],
    all_tasks: bool,
) -> dict[str, Any]:
    inputs = _example(tokenizer, separate=model.heads.reads_separately)
    if format in ("merged", "gguf"):
        export = export_merged if format == "merged" else export_gguf
        difference = export(model, text_tokenizer(tokenizer), model.heads.heads[0], folder)
        return {**describe(model, inputs), **facts, "largest_difference": difference}
    if format == "onnx":
        return export_onnx(model, folder / "model.onnx", inputs, metadata=facts, all_tasks=all_tasks)
    if format == "pt2":
        return save_program(
            AllTasks(model) if all_tasks else model, folder / "model.pt2", inputs, metadata=facts
        )
    from safetensors.torch import save_file

    export_lora(model.backbone, folder)
    name_backbone(folder, facts["model"])
    if model.heads.count():
        save_file(model.heads.export(), folder / FILES.heads, metadata={"format": "pt"})
    return {**describe(model, inputs), **facts}


def _check_written(model: MultiTaskModel, format: str) -> None:
    """Refuse a form that cannot hold what the tasks are.

    Raises:
        ExportError: says which can.
    """
    written = [head.name for head in model.heads.heads if head.written]
    headed = [head.name for head in model.heads.heads if not head.written]
    if format in ("merged", "gguf") and headed:
        raise ExportError(
            f"task {headed[0]!r} has a head, which a merged language model has no place for; choose among "
            f"{', '.join(FORMATS[:3])}."
        )
    if format in ("onnx", "pt2") and written:
        texts = next(head.kind for head in model.heads.heads if head.written) == "generation"
        raise ExportError(
            f"task {written[0]!r} {'writes' if texts else 'chooses among'} texts, which --format {format} "
            "cannot; choose lora or merged, or another task."
        )


def _example(tokenizer: InputReader, *, separate: bool) -> dict[str, Tensor]:
    if isinstance(tokenizer, ImageReader):
        pixels = tokenizer.pixels([blank_image()] * 2)
        return {"pixel_values": torch.linspace(-1, 1, pixels.numel()).reshape(pixels.shape)}
    texts = [_EXAMPLES, _EXAMPLES[::-1]] if separate else [_EXAMPLES]
    columns = encode(tokenizer, texts, 64, separate=separate)
    rows = [{name: values[row] for name, values in columns.items()} for row in range(len(_EXAMPLES))]
    return {name: value.to(torch.int64) for name, value in pad(tokenizer, rows).items()}
