from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from graftwork.errors import DataError, GraftworkError, StorageError
from graftwork.files import writing as storage
from graftwork.files.writing import output_lock, read_whole, staged_folder, storage_errors, write_text


@pytest.mark.parametrize("swap", [True, False])
def test_a_staged_folder_takes_its_place_only_if_all_went_well(
    tmp_path: Path, swap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swap:  # as on a system that cannot exchange two folders
        monkeypatch.setattr(storage, "_swap", lambda one, other: False)
    target = tmp_path / "sub" / "out"
    with pytest.raises(IsADirectoryError), staged_folder(target) as staged:
        staged.write_text("fails")
    assert list(tmp_path.iterdir()) == []
    with staged_folder(target) as staged:
        (staged / "a").write_text("1")
    with (
        pytest.raises(DataError, match="exists; choose another, or pass overwrite=True"),
        staged_folder(target),
    ):
        pass
    with pytest.raises(ZeroDivisionError), staged_folder(target, overwrite=True):
        raise ZeroDivisionError
    assert (target / "a").read_text() == "1"
    with staged_folder(target, overwrite=True) as staged:
        (staged / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    with pytest.raises(GraftworkError, match="is a file; name a folder"), staged_folder(target / "b"):
        pass


def test_what_a_killed_process_left_is_tidied_up(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for left in (".out.new", ".out.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "old").touch()
    with pytest.raises(FileNotFoundError), staged_folder(target, overwrite=True) as staged:
        (staged / "old").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # it was between its two renames
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with staged_folder(tmp_path / "link", overwrite=True) as staged:
        (staged / "a").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there/a").read_text() == "1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]


def test_a_lock_keeps_others_out_and_leaves_nothing(tmp_path: Path) -> None:
    target, refused = tmp_path / "runs" / "out", []

    def other() -> None:
        with pytest.raises(
            StorageError, match=rf"another process \(process {os.getpid()}\) is writing .*/out; "
        ):
            with staged_folder(target):
                pass
        refused.append(True)

    with output_lock(target), output_lock(target):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with staged_folder(target):
            pass
    assert refused
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    with pytest.raises(ZeroDivisionError), output_lock(tmp_path / "a/b/c"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()


def test_the_file_of_a_killed_process_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / ".out.lock"
    path.write_text("process 1\n")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"\(process 1\)"), output_lock(tmp_path / "out"):
            pass
    with output_lock(tmp_path / "out"):  # the file is there, its lock went with the process
        assert path.read_text() == f"process {os.getpid()}\n"
    assert not path.exists()


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write beside"), output_lock(tmp_path / "file/out"):
        pass


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "torch could not write"),
        (RuntimeError("basic_ios::clear: iostream error"), "torch could not write"),
    ],
)
def test_what_libraries_say_of_a_full_disk(tmp_path: Path, error: Exception, reason: str) -> None:
    with pytest.raises(
        StorageError, match=rf"the model cannot be written: {reason}.*MB are free on the disk of "
    ):
        with storage_errors("the model", tmp_path / "no/such/folder"):
            raise error


def test_torch_says_what_we_listen_for(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="torch could not write"):
        with storage_errors("the state", tmp_path), open("/dev/full", "wb") as full:
            torch.save({"a": torch.zeros(10**6)}, f"/proc/self/fd/{full.fileno()}")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "no"), RuntimeError("shapes"), ValueError("x")]
)
def test_other_errors_pass(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, storage_errors("the model", tmp_path):
        raise error
    assert caught.value is error


def test_texts_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_replaced_is_read_again(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def write(content: str) -> None:
        with staged_folder(target, overwrite=True) as staged:
            for name in "ab":
                (staged / name).write_text(content)

    write("0")
    versions = iter("123456789")

    def read(replacements: list[int]) -> tuple[str, str]:
        first = (target / "a").read_text()
        if replacements:
            replacements.pop()
            write(next(versions))
        return first, (target / "b").read_text()

    assert read([0]) == ("0", "1")  # half of each
    assert read_whole(target, lambda: read([])) == ("1", "1")
    once = [0]
    assert read_whole(target, lambda: read(once)) == ("2", "2")
    with pytest.raises(StorageError, match="was replaced 5 times while it was being read"):
        read_whole(target, lambda: read([0]))


def test_a_reader_never_sees_a_folder_missing_or_half(tmp_path: Path) -> None:
    target, stop, faults = tmp_path / "out", threading.Event(), []

    def write_loop() -> None:
        count = 0
        while not stop.is_set():
            with staged_folder(target, overwrite=True) as staged:
                for name in "ab":
                    (staged / name).write_text(f"{count}" * 5000)
            count += 1

    with staged_folder(target) as staged:
        for name in "ab":
            (staged / name).write_text("")
    writer = threading.Thread(target=write_loop)
    writer.start()
    seen = set()
    try:
        for _ in range(2000):
            text = (target / "a").read_text()
            count = text[: len(text) // 5000]
            if text != count * 5000:
                faults.append(text[:20])
            seen.add(count)
    finally:
        stop.set()
        writer.join()
    assert not faults
    assert len(seen) > 1
