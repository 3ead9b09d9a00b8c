"""Structures: those of other runs, those of saved models, and those inside adapter_config.json."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from guard import case, share
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftConfig, PeftModel
from rich.console import Console
from strategies import SPECIAL, broken_bytes, broken_trees, special_files, values

import graftwork as gw
from graftwork.models.files import read_structure
from graftwork.search.discretise import structure_of
from graftwork.structure.drawing import structure_table
from graftwork.structure.file import read_structure_file
from graftwork.structure.fixed import fixed_structure
from graftwork.structure.stability import stability
from graftwork.structure.structure import Structure
from models import copy_model, run
from toys import grafted, tiny

WHOLE = structure_of(grafted(gates="fixed"))
TREE = WHOLE.to_dict()
CONSOLE = Console(file=StringIO())


def use(structure: Structure) -> None:
    """Everything that is done with a structure without a model."""
    CONSOLE.print(structure_table(structure))
    for task in structure.tasks:
        structure.only(task)
        structure.parameters(task)
    structure.counts(), structure.parameters(), structure.diff(WHOLE)
    assert Structure.from_json(structure.to_json()) == structure
    stability({"a": structure, "b": WHOLE})
    structure.compacted()


@share(0.3)
@given(tree=broken_trees(TREE))
def test_a_structure_with_broken_values(tree: Any, tmp_path: Path) -> None:
    path = tmp_path / "structure.json"
    path.write_text(json.dumps(tree))
    with case("structures", str(path)):
        found = read_structure_file(path)
        with case("structures"):
            use(found)
        with case("structures"):
            fixed_structure(f"file:{path}", WHOLE, 10**6)
        with case("structures"):
            fixed_structure(f"task:cats:{path}", WHOLE, None)
    with case("structures", str(path)):
        read_structure(tmp_path)


@share(0.1)
@given(content=broken_bytes(json.dumps(TREE).encode()))
def test_a_structure_with_broken_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "structure.json"
    path.write_bytes(content)
    with case("structures", str(path)):
        use(read_structure(tmp_path))
    with case("structures", str(path)):
        read_structure_file(path)


@pytest.mark.parametrize("how", SPECIAL)
def test_a_structure_that_is_no_file(how: str, tmp_path: Path) -> None:
    path = tmp_path / "structure.json"
    special_files(path, how)
    with case("structures", str(tmp_path)):
        read_structure_file(path)
    with case("structures", str(tmp_path)):
        read_structure(tmp_path)


SITE = {"pool_size": 10**12, "r": 10**4000, "cost": 10**4000, "open": []}
HURTING = ["[" * 100_000, '{"structure":' * 100_000, '{"format": ' + "9" * 5000 + "}", "NaN", "\ufeff{}"]
HURTING += [json.dumps({"format": 1, "tasks": [], "sites": {"x": SITE}})]


@pytest.mark.parametrize("text", HURTING, ids=range(6))
def test_json_that_is_meant_to_hurt(text: str, tmp_path: Path) -> None:
    path = tmp_path / "structure.json"
    path.write_text(text)
    with case("structures", str(path)):
        use(read_structure(tmp_path))
    with case("structures", str(path)):
        use(read_structure_file(path))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact adapter as PEFT saves it."""
    model = grafted()
    gw.compact_(model)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return folder


OURS = (
    "tasks",
    "pool_size",
    "r",
    "activation",
    "position",
    "gates",
    "gate_start",
    "budget",
    "penalty",
    "cost",
)
OURS += (
    "penalty_reduction",
    "rank_by",
    "task_budget",
    "placement",
    "target_modules",
    "exclude_modules",
    "structure",
)
OURS += (
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "init_weights",
)


@share(0.3)
@given(data=st.data())
def test_the_configuration_of_an_adapter(data: st.DataObject, saved: Path, tmp_path: Path) -> None:
    given = json.loads((saved / "adapter_config.json").read_text())
    own = data.draw(broken_trees({key: given[key] for key in OURS}))
    own = {str(key): value for key, value in own.items()} if isinstance(own, dict) else {"structure": own}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**given, **own}))
    weights = tmp_path / "adapter_model.safetensors"
    weights.unlink(missing_ok=True)
    weights.symlink_to(saved / weights.name)
    with case("structures", foreign=True):
        PeftConfig.from_pretrained(str(tmp_path))
    with case("structures", foreign=True):
        PeftModel.from_pretrained(tiny(), str(tmp_path))


@share(0.1)
@given(key=st.sampled_from(OURS), value=values)
def test_every_field_of_a_configuration(key: str, value: Any) -> None:
    with case("structures", key):
        gw.GraftConfig(**{key: value})


@share(0.05)
@given(data=st.data(), diagnose=st.booleans())
def test_showing_a_model(data: st.DataObject, diagnose: bool, trained: Path, tmp_path: Path) -> None:
    folder = copy_model(trained, tmp_path / "model")
    path = folder / ("report.json" if diagnose else "structure.json")
    path.write_text(json.dumps(data.draw(broken_trees(json.loads(path.read_text())))))
    with case("structures"):
        run("show", folder, *(["--diagnose"] if diagnose else []))
