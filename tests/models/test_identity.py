"""The checksum of a backbone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from graftwork.models import identity
from graftwork.models.identity import (
    Identity,
    file_stamp,
    identify_,
    identity_of,
    same_weights,
    weights_digest,
)
from toys import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(identity, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_every_name_type_shape_and_value_counts() -> None:
    tensors = {"a": torch.zeros(2, 3), "b": torch.tensor(1.0)}
    found = weights_digest(tensors)
    assert found == weights_digest(dict(reversed(tensors.items())))
    assert found == weights_digest({**tensors, "a": torch.zeros(3, 2).T})
    for changed in (
        {"a": torch.zeros(2, 3), "c": torch.tensor(1.0)},
        {**tensors, "a": torch.zeros(3, 2)},
        {**tensors, "a": torch.zeros(2, 3, dtype=torch.bfloat16)},
        {**tensors, "b": torch.tensor(1.0000001)},
        {**tensors, "c": torch.zeros(0)},
    ):
        assert weights_digest(changed) != found
    assert weights_digest({**tensors, "c": torch.ones(1)}, ["c"]) == found


def test_the_identity_survives_adapters_and_copies() -> None:
    model = tiny()
    identify_(model, [], None)
    found = identity_of(model)
    assert found is not None
    assert found.sha256 == weights_digest(model.state_dict())
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["dense"]))
    assert identity_of(adapted) == found


def test_tensors_that_were_missing_do_not_count() -> None:
    first, second = tiny(seed=0), tiny(seed=0)
    second.pooler.dense.weight.data += 1
    names = ["pooler.dense.weight"]
    identify_(first, names, None)
    identify_(second, [], None)
    saved = identity_of(first)
    assert saved is not None
    assert saved.as_dict()["missing"] == names
    assert same_weights(second, saved)
    assert not same_weights(second, Identity(saved.sha256))


def test_equal_files_are_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    stamp = file_stamp(tmp_path)
    identify_(model, [], stamp)
    found = identity_of(model)
    monkeypatch.setattr(identity, "weights_digest", lambda *_: "other")
    identify_(model, [], stamp)
    assert identity_of(model) == found
    (file,) = cache.iterdir()
    file.write_text("damaged")
    identify_(model, [], stamp)
    assert identity_of(model) == Identity("other")
    assert json.loads(stamp or "")[0][1] > 0
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes())
    assert file_stamp(tmp_path) != stamp


def test_a_cache_that_cannot_be_written_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", Path("~nobody-of-this-name/cache")):
        monkeypatch.setattr(identity, "CACHE", place)
        model = tiny()
        identify_(model, [], "stamp")
        assert identity_of(model) == Identity(weights_digest(model.state_dict()))
