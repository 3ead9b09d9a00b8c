"""Writing that leaves the old or the new on disk, never a part of either, and one writer per output.

Everything is written under a temporary name beside its place, flushed to the disk, and renamed. A process
that is killed leaves at most the temporary name, which the next writer removes, and no lock.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from graftwork.advice import again, option
from graftwork.errors import DataError, GraftworkError, StorageError
from graftwork.messages import shown

__all__ = [
    "check_target",
    "output_lock",
    "read_whole",
    "staged_file",
    "staged_folder",
    "storage_errors",
    "sync_folder",
    "write_text",
]

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Error numbers that mean that nothing more can be written here."""
TORCH_WRITER = ("inline_container", "PytorchStreamWriter", "open file failed", "iostream error")
"""Parts of torch's messages about a file that it cannot write; they do not give the reason."""
READS = 5
"""Number of attempts to read a folder that is replaced at the same time."""


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse an output folder that exists, unless it may be replaced.

    Raises:
        DataError: it exists and `overwrite` is False; it is a file; or the home or current folder is in it.
    """
    try:
        place = target.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"the output {shown(str(target))} is no path ({error}).") from error
    if overwrite and any(place == here or place in here.parents for here in (Path.cwd(), Path.home())):
        raise DataError(f"the output {target} holds the current or the home folder; it is not replaced.")
    if target.is_file():
        raise DataError(f"the output {target} is a file; name a folder.")
    if target.exists() and not overwrite:
        raise DataError(
            f"the output folder {target} exists; choose another, or pass {option('overwrite')} to replace it."
        )


@contextmanager
def storage_errors(what: str, folder: Path, *, resume: bool = True) -> Iterator[None]:
    """Turn what the system, safetensors and torch say about a write that failed into one line.

    Args:
        what: what is being written, to begin the message with.
        folder: where; its nearest existing parent tells how much space is left.
        resume: what is begun by now can be resumed, if it is of that kind.

    Raises:
        StorageError: the disk is full, read-only or damaged.
    """
    from safetensors import SafetensorError

    try:
        yield
    except GraftworkError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        raise StorageError(
            f"{what} cannot be written: {reason} ({free / 2**20:,.1f} MB are free on the disk of {place}); "
            f"make room, and go on with: {again(resume=resume)}"
        ) from error


def _reason(error: Exception) -> str | None:
    """Why a write failed; None if the error has another cause."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in FULL else None
    text = " ".join(str(error).split())
    if "os error" in text:  # safetensors
        return text.rpartition("I/O error: ")[2].rstrip(".")
    return "torch could not write all of a file" if any(word in text for word in TORCH_WRITER) else None


@contextmanager
def output_lock(target: Path) -> Iterator[None]:
    """Keep every other process from writing an output, as long as the context lasts.

    The lock is on the file `.<name>.lock` beside the output. It belongs to the process, not to the file: one
    that is killed leaves the file but no lock. The same thread may lock an output again inside the context.

    Raises:
        StorageError: another process writes it, or nothing can be written there.
    """
    from filelock import FileLock, Timeout

    target = Path(os.path.realpath(target))
    made = [folder for folder in target.parents if not folder.exists()]
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, blocking=False, is_singleton=True)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        with suppress(OSError):
            holder = path.read_text(encoding="ascii", errors="replace").strip()
        raise StorageError(
            f"another process{f' ({holder})' if holder else ''} is writing {target}; wait until it ends, or "
            "choose another output."
        ) from None
    except OSError as error:
        raise StorageError(f"cannot write beside {target}: {error.strerror}.") from error
    try:
        with suppress(OSError):  # on a full disk the lock holds all the same
            path.write_text(f"process {os.getpid()}\n", encoding="ascii")
        yield
    finally:
        if lock.lock_counter == 1:
            # A process that has opened the file before sees that it has no name, and tries again.
            path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # those that are filled by now stay
            for folder in made:
                folder.rmdir()


@contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the context ends without an error.

    At every moment `target` is the old folder or the new one, and complete. Where the system cannot swap two
    folders, it is absent for the moment between two renames.

    Raises:
        DataError: `target` exists and `overwrite` is False.
        StorageError: another process writes it, or the disk is full.
    """
    check_target(target, overwrite=overwrite)
    place = Path(os.path.realpath(target))
    staged, old = (place.with_name(f".{place.name}.{end}") for end in ("new", "old"))
    with output_lock(place), storage_errors(str(target), place):
        if old.exists() and not place.exists():
            old.rename(place)  # a process was killed between two renames
        check_target(target, overwrite=overwrite)
        for left in (staged, old):
            shutil.rmtree(left, ignore_errors=True)
        staged.mkdir()
        try:
            yield staged
            sync_folder(staged)
            if not place.exists():
                staged.rename(place)
            elif not _swap(staged, place):
                place.rename(old)
                staged.rename(place)
            _sync(place.parent)
        finally:
            for left in (staged, old):
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside, moved with its companions if nothing fails.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise StorageError(f"cannot write beside {path}: {error.strerror}.") from error
    with folder as staged, storage_errors(str(path), path.parent):
        yield Path(staged) / path.name
        # The file itself last: it names the others.
        for part in sorted(Path(staged).iterdir(), key=lambda part: part.name == path.name):
            os.replace(part, path.with_name(part.name))


def _swap(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of Linux, the only system with this function
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def sync_folder(folder: Path) -> None:
    """Flush every file of a folder, so that no crash of the machine can leave one empty after a rename."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (
            path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF)
        ):  # some systems flush files only
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file that readers see whole: the old one or the new one."""
    staged = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        staged.write_text(text, encoding="utf-8")
        _sync(staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def read_whole(folder: Path, read: Callable[[], T]) -> T:
    """What `read` returns, read again if the folder is replaced at the same time: never half of each.

    Raises:
        StorageError: the folder is replaced faster than it can be read.
    """
    for _ in range(READS):
        before = _identity(folder)
        try:
            found = read()
        except GraftworkError:
            if _identity(folder) == before:
                raise
        else:
            if _identity(folder) == before:
                return found
    raise StorageError(f"{folder} was replaced {READS} times while it was being read; try again later.")


def _identity(folder: Path) -> tuple[int, int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
