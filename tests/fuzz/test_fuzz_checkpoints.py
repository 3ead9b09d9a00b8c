"""Model folders: every file broken, exchanged or made to hurt, under every command that reads one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guard import case, share
from hypothesis import assume, given
from hypothesis import strategies as st
from peft import PeftModel
from strategies import (
    PICKLES,
    SPECIAL,
    absurd_header,
    broken_bytes,
    broken_tensors,
    broken_trees,
    pickle_bomb,
    special_files,
)
from transformers import AutoModel

from graftwork.models.files import FILES
from graftwork.models.folder import load_model
from graftwork.models.predictor import Predictor
from models import copy_model, run

WEIGHTS = (FILES.adapter_weights, FILES.heads)
TREES = (FILES.adapter_config, FILES.tasks, FILES.structure, FILES.report)
EVERY = (*WEIGHTS, *TREES, FILES.recipe)
COLOUR = {"text": "red stone", "task": "colour"}


def serve(folder: Path) -> None:
    predictor = Predictor.load(folder)
    for name, head in predictor.heads.items():
        predictor.predict([dict.fromkeys(head.text, "red stone")], name)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "load": serve,
    "peft": lambda folder: PeftModel.from_pretrained(backbone(folder), str(folder)),
    "evaluate": lambda folder: run("evaluate", folder),
    "show": lambda folder: run("show", folder),
    "diagnose": lambda folder: run("show", folder, "--diagnose"),
    "extract": lambda folder: run("extract", folder, "colour", folder.with_name("cut"), "--overwrite"),
    "remove": lambda folder: run("remove-task", folder, "same", "-o", folder.with_name("cut"), "--overwrite"),
}
BACKBONE: list[Path] = []


@pytest.fixture(autouse=True)
def _backbone(trained: Path) -> None:
    BACKBONE[:] = [trained / "backbone"]


def backbone(_: Path) -> Any:
    return AutoModel.from_pretrained(BACKBONE[0])


def use(folder: Path, command: str) -> None:
    with case("checkpoints", foreign=command == "peft"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        COMMANDS[command](folder)


commands = st.sampled_from(["load", "load", "load", *COMMANDS])


@share(0.25)
@given(data=st.data(), name=st.sampled_from(EVERY), command=commands)
def test_a_model_with_broken_bytes(
    data: st.DataObject, name: str, command: str, trained: Path, tmp_path: Path
) -> None:
    folder = copy_model(trained, tmp_path / "model")
    (folder / name).write_bytes(data.draw(broken_bytes((folder / name).read_bytes())))
    use(folder, command)


@share(0.3)
@given(data=st.data(), name=st.sampled_from(TREES), command=commands)
def test_a_model_with_broken_values(
    data: st.DataObject, name: str, command: str, trained: Path, tmp_path: Path
) -> None:
    folder = copy_model(trained, tmp_path / "model")
    tree = data.draw(broken_trees(json.loads((folder / name).read_text())))
    (folder / name).write_text(json.dumps(tree))
    use(folder, command)


@share(0.25)
@given(data=st.data(), name=st.sampled_from(WEIGHTS), command=commands)
def test_a_model_with_other_tensors(
    data: st.DataObject, name: str, command: str, trained: Path, tmp_path: Path
) -> None:
    folder = copy_model(trained, tmp_path / "model")
    data.draw(broken_tensors(folder / name))(folder / name)
    use(folder, command)


@share(0.15)
@given(name=st.sampled_from(EVERY), how=st.sampled_from(SPECIAL), command=commands)
def test_a_model_with_what_is_no_file(
    name: str, how: str, command: str, trained: Path, tmp_path: Path
) -> None:
    assume(command != "peft" or how not in ("endless", "pipe"))  # PEFT opens whatever it finds
    folder = copy_model(trained, tmp_path / "model")
    special_files(folder / name, how)
    use(folder, command)


@share(0.02)
@given(
    name=st.sampled_from(WEIGHTS),
    shape=st.sampled_from([[10**12], [2**31, 2**31], [2**40, 2**40], [1] * 5000, [0, 10**12], [-1]]),
    command=st.sampled_from(["load", "peft"]),
)
def test_a_header_that_promises_too_much(
    name: str, shape: list[int], command: str, trained: Path, tmp_path: Path
) -> None:
    folder = copy_model(trained, tmp_path / "model")
    absurd_header(folder / name, shape)
    use(folder, command)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("zipped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nothing_is_unpickled(alone: bool, zipped: bool, trained: Path, tmp_path: Path) -> None:
    folder = copy_model(trained, tmp_path / "model")
    for name in PICKLES:
        pickle_bomb(folder / name, zipped=zipped)
    if alone:
        (folder / FILES.adapter_weights).unlink()
    for command in COMMANDS:
        use(folder, command)
    if not alone:
        load_model(folder)
