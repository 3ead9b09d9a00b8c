from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from graftwork.training.checkpoints import STAGING, fault_of, last_checkpoint, publish, remove_faulty, step_of

FILES = {"adapter_model.safetensors": "weights", "optimizer.pt": "state", "rng_state.pth": "draws"}


def write(folder: Path, step: int, best: int | None = None) -> Path:
    staged = folder / STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    for name, content in FILES.items():
        (staged / name).write_text(content * step)
    found = None if best is None else str(folder / f"checkpoint-{best}")
    (staged / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": found}))
    publish(staged, folder / staged.name)
    os.rmdir(folder / STAGING)
    return folder / staged.name


def test_the_newest_whole_checkpoint_is_chosen(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) == (None, {})
    write(tmp_path, 9)
    write(tmp_path, 10, best=10)
    found, faults = last_checkpoint(tmp_path)
    assert (found, faults) == (tmp_path / "checkpoint-10", {})
    assert step_of(found) == 10
    assert step_of(None) == 0


@pytest.mark.parametrize("name", [*FILES, "trainer_state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["gone", "empty", "half", "one bit"])
def test_damage_is_noticed(tmp_path: Path, name: str, how: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2) / name
    content = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: 0 if how == "empty" else len(content) // 2])
    found, faults = last_checkpoint(tmp_path)
    assert found == tmp_path / "checkpoint-1"
    assert list(faults) == ["checkpoint-2"]
    if name != "manifest.json":
        assert name in faults["checkpoint-2"]


def test_the_best_checkpoint_has_to_be_there_too(tmp_path: Path) -> None:
    best = write(tmp_path, 1)
    write(tmp_path, 2, best=1)
    assert last_checkpoint(tmp_path)[0] == tmp_path / "checkpoint-2"
    (best / "optimizer.pt").write_text("x")
    found, faults = last_checkpoint(tmp_path)
    assert found is None
    assert "best checkpoint" in faults["checkpoint-2"]


def test_what_is_left_half_written_or_half_removed_goes(tmp_path: Path) -> None:
    kept, broken = write(tmp_path, 1), write(tmp_path, 2)
    (broken / "rng_state.pth").unlink()
    (tmp_path / STAGING / "checkpoint-3").mkdir(parents=True)
    remove_faulty(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    (write(tmp_path, 1) / "optimizer.pt").unlink()
    assert fault_of(write(tmp_path, 1)) is None


def test_a_link_to_itself_is_named(tmp_path):
    checkpoint = tmp_path / "checkpoint-5"
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "optimizer.pt").write_bytes(b"numbers")
    publish(staged, checkpoint)
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer.pt").symlink_to(checkpoint / "optimizer.pt")
    assert "optimizer.pt" in str(fault_of(checkpoint))
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer.pt").symlink_to("/dev/zero")
    assert fault_of(checkpoint) == "its optimizer.pt is not as it was written"
