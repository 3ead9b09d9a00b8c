"""Places as they are written into files of other folders."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest

from graftwork.files.places import Given, moved
from graftwork.recipe.moving import moved_recipe


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`conf/data`, and `local` in the current folder."""
    (tmp_path / "conf/data").mkdir(parents=True)
    (tmp_path / "local").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data", "../../conf/data"),
        ("./data/", "../../conf/data"),
        ("local", "../../local"),
        ("../local", "../../local"),
        ("absent", "absent"),
        ("org/model", "org/model"),
        ("package:name/data", "package:name/data"),
        ("hub:org/data", "hub:org/data"),
        ("~/data", "~/data"),
        ("/abs/data", "/abs/data"),
        ("$PLACE/data", "$PLACE/data"),
        ("${PLACE}/data", "${PLACE}/data"),
        ("${PLACE:-data}/x", "${PLACE:-data}/x"),
        ("${PLACE:-../conf}/data", "${PLACE:-../../conf}/data"),
        ("${PLACE:-/abs}/data", "${PLACE:-/abs}/data"),
        ("${PLACE:-../conf}/$NAME", "${PLACE:-../conf}/$NAME"),
        ("", ""),
    ],
)
def test_only_relative_paths_to_what_is_there_are_rewritten(home: Path, text: str, expected: str) -> None:
    assert moved(text, home / "runs/out", home / "conf") == expected
    assert moved(Given("used", text, home / "conf"), home / "runs/out") == expected
    assert moved(text, Path("runs/out"), Path("conf")) == expected


def test_what_is_inside_begins_with_a_dot(home: Path) -> None:
    """Or a folder could be taken for the name of a model on the hub."""
    assert moved("data", home / "conf", home / "conf") == "./data"


def test_links_are_followed_as_the_system_does(home: Path) -> None:
    (home / "elsewhere/runs").mkdir(parents=True)
    (home / "link").symlink_to(home / "elsewhere/runs")
    (home / "far").symlink_to(home / "conf/data")
    out = home / "link/out"
    path = moved("data", out, home / "conf")
    out.mkdir()
    assert os.path.samefile(out / path, home / "conf/data")
    assert moved("../far", home / "runs", home / "conf") == "../far"


def test_a_place_remembers_how_it_was_given() -> None:
    place = Given("/used", "$GIVEN", Path("conf"))
    for other in (copy.deepcopy(place), pickle.loads(pickle.dumps(place))):
        assert other == place == "/used"
        assert (other.given, other.folder) == ("$GIVEN", Path("conf"))


def test_all_places_of_a_recipe_are_rewritten(home: Path) -> None:
    recipe = {
        "model": "data",
        "output": "runs/out",
        "graft": {"structure": "task:a:data", "cost": "flops"},
        "tasks": [{"name": "data", "train": "data", "test": "hub:x/y", "text": "data"}, "odd"],
    }
    found = moved_recipe(recipe, home / "runs/out", home / "conf")
    assert found == {
        "model": "../../conf/data",
        "output": "runs/out",
        "graft": {"structure": "task:a:../../conf/data", "cost": "flops"},
        "tasks": [
            {"name": "data", "train": "../../conf/data", "test": "hub:x/y", "text": "data"},
            "odd",
        ],
    }
    assert moved_recipe({"tasks": None}, home) == {"tasks": None}
