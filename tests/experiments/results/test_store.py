"""Keys that do not depend on how settings are written, and files that are complete or absent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.errors import DataError
from graftwork.experiments.results.store import FORMAT, Store, hash_settings

KEY = "0123456789abcdef"
NUMBERS = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_key_is_the_same_after_json_and_in_any_order(settings: dict[str, Any]) -> None:
    again = json.loads(json.dumps(dict(reversed(settings.items()))))
    assert hash_settings(again) == hash_settings(settings)
    assert len(hash_settings(settings)) == 16


def test_key_is_stable_between_versions_of_this_code() -> None:
    settings = {
        "method": {"name": "lora", "r": 8},
        "training": {"epochs": 2.0, "rate": 1e-3},
        "tasks": ("a",),
    }
    assert hash_settings(settings) == "e0221caf2e6204e9"
    assert hash_settings({**settings, "training": {"rate": 0.001, "epochs": 2}}) == hash_settings(settings)
    assert hash_settings({**settings, "vary": {"x": 1}}) == hash_settings(settings)
    assert hash_settings({**settings, "seed": 1}, leave_out=("seed",)) == hash_settings(settings)
    assert hash_settings({**settings, "seed": 1}) != hash_settings(settings)


def result(**changes: Any) -> dict[str, Any]:
    return {"format": FORMAT, "key": KEY, "status": "done", "settings": {"vary": {}}, **changes}


def test_round_trip_and_no_leftovers(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "results")
    assert store.read(KEY) is None
    store.write(result(curves=[{"loss": math.nan}, {"loss": 0.5}]))
    assert [path.name for path in store.folder.iterdir()] == [f"{KEY}.json"]
    found = store.read(KEY)
    assert found is not None
    assert found["curves"] == [{"loss": None}, {"loss": 0.5}]
    assert list(store.results()) == [found]


def test_a_second_grid_adds_what_it_sweeps(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(result(settings={"vary": {"a": 1}}))
    store.note(KEY, {"b": 2}, None)
    found = store.read(KEY)
    assert found is not None
    assert found["settings"]["vary"] == {"a": 1, "b": 2}
    store.note(KEY, {}, {"grid": [0.1, 0.2], "chosen": 0.1})
    store.note(KEY, {"b": 2}, None)
    found = store.read(KEY)
    assert found is not None
    assert found["tuning"] == {"grid": [0.1, 0.2], "chosen": 0.1}


def test_a_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(KEY).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as a result"):
        store.read(KEY)
    store.path(KEY).write_text('{"format": 99}', encoding="utf-8")
    with pytest.raises(DataError, match="no result of format 1"):
        store.read(KEY)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(result())
    with pytest.raises(TypeError):
        store.write(result(curves=object()))
    assert store.read(KEY) == result()
    assert len(list(tmp_path.iterdir())) == 1
