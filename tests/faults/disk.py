"""A disk that is full while a checkpoint, a model or a task is written."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import child
import inject
import toy

if TYPE_CHECKING:
    from run import Table

SIZE = 32 << 20
FIRST = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Fractions of a checkpoint that fit: it fails at one file or another."""
LATER = (2.3, 2.6)
PAGE = 4096


@contextmanager
def small_disk(folder: Path) -> Iterator[str]:
    """A file system of 32 MB; yields why there is none, if this machine does not let us mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
        reason = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        reason = str(error)
    if reason:
        yield reason
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill_disk(folder: Path, draw: random.Random, table: Table) -> None:
    """Let it fail at every file, make room, and go on."""
    toy.write_toy(folder / "whole")
    # Its last checkpoint is left by a process that is killed before the work folder is removed.
    toy.fit(folder / "whole", fault="compacted:")
    one = sum(
        -(-path.stat().st_size // PAGE) * PAGE
        for path in (folder / "whole/out.partial/checkpoint-54").iterdir()
    )
    toy.fit(folder / "whole", "--resume")
    wanted = toy.outcome(folder / "whole/out")
    disk = folder / "disk"
    table.title("disk full (a tmpfs), room made, then --resume")
    with small_disk(disk) as reason:
        if reason:
            table.skip(f"a full disk needs a file system of its own, and mount says: {reason}")
            return
        for fraction in (*FIRST, *LATER):
            left = int(fraction * one)
            name = f"{left:,} bytes free, {fraction:g} of a checkpoint"
            starve(folder / "whole", disk, table, name, wanted, leave=left)
        starve(
            folder / "whole", disk, table, "full when training has ended", wanted, fault=f"fill:{disk}/filler"
        )
        starve_others(folder / "whole", disk, table)


def complaint(ended: child.Ended, disk: Path, kept: set[str]) -> str:
    """What is wrong with how a command took a full disk."""
    lines = ended.error.replace("\r", "\n").strip().splitlines()
    if ended.code != 2:
        return f"exit code {ended.code}: {ended.error[-600:]}"
    if (
        "Traceback" in ended.error
        or not lines[-1].startswith("graftwork: ")
        or "cannot be written" not in lines[-1]
    ):
        return f"it said: {ended.error[-600:]}"
    parts = [path for path in disk.rglob("*") if path.name.startswith(".")]
    if parts or {path.name for path in disk.iterdir()} - kept:
        return f"left behind: {[str(path) for path in (*parts, *disk.iterdir())]}"
    return ""


def starve(
    whole: Path,
    disk: Path,
    table: Table,
    name: str,
    wanted: dict[str, object],
    leave: int = 0,
    fault: str = "",
) -> None:
    """One run on a disk that gets full."""
    if not fault:
        inject.fill(disk / "filler", leave)
    options = ("--output", str(disk / "out"))
    ended = toy.fit(whole, *options, fault=fault)
    wrong = complaint(ended, disk, {"filler", "out.partial"})
    (disk / "filler").unlink()
    went_on = "-"
    if not wrong:
        ended = toy.fit(whole, *options, "--resume")
        if ended.code:
            wrong = f"exit code {ended.code}: {ended.error[-300:]}"
        else:
            wrong = toy.difference(disk / "out", wanted)
            went_on = toy.resumed_at(disk / "out/report.json")
    table.row(name, went_on, wrong)
    for path in disk.iterdir():
        shutil.rmtree(path)


def starve_others(whole: Path, disk: Path, table: Table) -> None:
    """The other commands that write a model: nothing is left, and they work when there is room."""
    (whole / "task.yaml").write_text("tasks: [{name: hue, train: data/colour}]\ntraining: {epochs: 1}\n")
    commands = {
        "extract": ["extract", "out", "colour", f"{disk}/new"],
        "remove-task": ["remove-task", "out", "colour", "-o", f"{disk}/new"],
        "add-task": ["add-task", "out", "task.yaml", "-o", f"{disk}/new"],
    }
    for name, command in commands.items():
        inject.fill(disk / "filler", 5 * PAGE)
        wrong = complaint(child.run(whole, *command), disk, {"filler"})
        (disk / "filler").unlink()
        if not wrong:
            ended = child.run(whole, *command)
            wrong = f"exit code {ended.code}: {ended.error[-300:]}" if ended.code else ""
        table.row(f"{name}, 20 kB free", "-", wrong)
        shutil.rmtree(disk / "new", ignore_errors=True)
