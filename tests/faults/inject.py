"""Faults for a child process: kill it, or fill its disk, at a point that is named in advance.

A fault is `KIND:ARGUMENT`. `record:FILE` injects nothing and writes every change of the file system below the
watched folder to a file, one line each, so that a later run can be killed at the n-th.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = """
step:N        SIGKILL at the end of optimizer step N, before it is logged, evaluated or saved
backward:N    SIGKILL in the middle of step N, after its first backward pass
event:N       SIGKILL before the N-th change of the file system (counted from 0)
half:NAME@N   SIGKILL when half of the file NAME of the checkpoint of step N is on the disk
compact:      SIGKILL when training has ended, before the model is made compact
compacted:    SIGKILL when the model is compact, before it is scored and written
fill:FILE     fill the disk of FILE when training has ended
slow:S        nothing, but every step takes S seconds longer
record:FILE   nothing, but every change of the file system is written down
"""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def die() -> None:
    """End this process as the kernel ends one: no handler, no finally, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(fault: str, watched: Path, report: Path) -> None:
    """Arm a fault in this process.

    Args:
        fault: `KIND:ARGUMENT`.
        watched: folder whose changes count.
        report: file that gets the change before which the process was killed.
    """
    kind, _, argument = fault.partition(":")
    {
        "step": _step,
        "backward": _backward,
        "half": _half,
        "compact": lambda _: _train_end(before=die),
        "compacted": lambda _: _train_end(after=die),
        "fill": lambda file: _train_end(after=lambda: fill(Path(file))),
        "slow": _slow,
        "record": lambda file: _events(watched, None, Path(file)),
        "event": lambda number: _events(watched, int(number), report),
    }[kind](argument)


def fill(file: Path, leave: int = 0) -> None:
    """Write zeros until the disk is full, or only `leave` bytes are free."""
    with file.open("wb", buffering=0) as sink:
        try:
            if leave:
                space = os.statvfs(file.parent)
                os.posix_fallocate(sink.fileno(), 0, max(1, space.f_bavail * space.f_frsize - leave))
                return
            while True:
                sink.write(bytes(4096))
        except OSError:
            return


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))


def _step(argument: str) -> None:
    from transformers.trainer_callback import CallbackHandler

    def make(original: Any) -> Any:
        def on_step_end(self: Any, args: Any, state: Any, control: Any) -> Any:
            control = original(self, args, state, control)
            if state.global_step == int(argument):
                die()
            return control

        return on_step_end

    _wrap(CallbackHandler, "on_step_end", make)


def _backward(argument: str) -> None:
    from graftwork.training.trainer import MultiTaskTrainer

    def make(original: Any) -> Any:
        def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
            loss = original(self, *args, **kwargs)
            if self.state.global_step == int(argument) - 1:
                die()
            return loss

        return training_step

    _wrap(MultiTaskTrainer, "training_step", make)


def _slow(argument: str) -> None:
    import time

    from transformers.trainer_callback import CallbackHandler

    def make(original: Any) -> Any:
        def on_step_begin(self: Any, *args: Any) -> Any:
            time.sleep(float(argument))
            return original(self, *args)

        return on_step_begin

    _wrap(CallbackHandler, "on_step_begin", make)


def _train_end(before: Callable[[], Any] | None = None, after: Callable[[], Any] | None = None) -> None:
    from graftwork.search.callback import StructureCallback

    def make(original: Any) -> Any:
        def on_train_end(*args: Any, **kwargs: Any) -> None:
            if before:
                before()
            original(*args, **kwargs)
            if after:
                after()

        return on_train_end

    _wrap(StructureCallback, "on_train_end", make)


def _half(argument: str) -> None:
    """Whatever library writes the file, let it write half of what it would."""
    import peft.peft_model
    import safetensors.torch
    import torch
    from transformers.trainer_callback import TrainerState

    name, _, step = argument.partition("@")

    def write_half(path: Any, content: bytes) -> None:
        with open(path, "wb", buffering=0) as sink:
            sink.write(content[: len(content) // 2])
        die()

    def chosen(path: Any) -> bool:
        path = Path(str(path))
        return path.name == name and path.parent.name == f"checkpoint-{step}"

    def torch_save(original: Any) -> Any:
        def save(content: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | Path) and chosen(path):
                buffer = io.BytesIO()
                original(content, buffer, *args, **kwargs)
                write_half(path, buffer.getvalue())
            return original(content, path, *args, **kwargs)

        return save

    def save_file(original: Any) -> Any:
        def save(tensors: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
            if chosen(path):
                write_half(path, safetensors.torch.save(tensors))
            return original(tensors, path, *args, **kwargs)

        return save

    def save_to_json(original: Any) -> Any:
        def save(self: Any, path: str) -> Any:
            original(self, path)
            if chosen(path):
                write_half(path, Path(path).read_bytes())

        return save

    _wrap(torch, "save", torch_save)
    _wrap(safetensors.torch, "save_file", save_file)
    _wrap(peft.peft_model, "safe_save_file", save_file)
    _wrap(TrainerState, "save_to_json", save_to_json)


def _events(watched: Path, number: int | None, report: Path) -> None:
    """Count changes below a folder with Python's audit events; torch and safetensors open files unseen."""
    count = 0
    sink = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    root = os.path.realpath(watched) + os.sep

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, flags, folder = args[0], args[2], -1
            if not isinstance(path, str | Path) or not (flags or 0) & WRITING:
                return
        elif event in CHANGES:
            path, folder = args[0], -1 if event in ("os.mkdir", "os.rename") else args[1]
            folder = args[2] if event == "os.rename" else folder
        else:
            return
        if isinstance(folder, int) and folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.abspath(path)
        if not path.startswith(root):
            return
        if number is None or count == number:
            os.write(sink, f"{event.removeprefix('os.')} {path.removeprefix(root)}\n".encode())
        if count == number:
            die()
        count += 1

    sys.addaudithook(hook)
