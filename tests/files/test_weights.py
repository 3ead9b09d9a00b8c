"""Weights that do not fit, whichever way they come in: the tensor is named, and nothing is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import graftwork as gw
from graftwork.errors import CheckpointError, ConfigError
from graftwork.files.weights import read_shapes, read_weights
from toys import grafted, tiny

FILE = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = grafted(activation="gelu")  # with biases
    gw.compact_(model)
    model.save_pretrained(str(tmp_path))
    return tmp_path


def change(folder: Path, part: str, new: object) -> str:
    """Put another tensor in the place of the first whose name has `part`; returns its name."""
    tensors = load_file(folder / FILE)
    name = next(name for name in tensors if part in name)
    tensors[name] = new(tensors[name].clone()) if callable(new) else new
    save_file(tensors, folder / FILE)
    return name


def set_first(value: float):
    def put(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[0] = value
        return tensor

    return put


@pytest.mark.parametrize(
    ("part", "new", "message"),
    [
        ("graft_up", set_first(float("nan")), "holds NaN"),
        ("graft_bias", set_first(float("-inf")), "holds infinity"),
        ("graft_down", lambda tensor: tensor.T.contiguous(), r"has shape \(16, \d+\); \(\d+, 16\) is needed"),
        ("graft_down", lambda tensor: tensor[:0], r"has shape \(0, 16\)"),
        ("graft_up", lambda tensor: tensor.to(torch.int64), "holds torch.int64; floating-point"),
        ("graft_up", lambda tensor: tensor.to(torch.complex64), "holds torch.complex64; floating-point"),
        ("graft_mask", set_first(1e30), "neither all learned"),
        ("graft_mask", set_first(-1.0), "neither all learned"),
    ],
)
def test_peft_itself_refuses_damaged_weights_in_our_words(
    part: str, new: object, message: str, folder: Path
) -> None:
    name = change(folder, part, new)
    with pytest.raises(CheckpointError, match=message) as caught:
        PeftModel.from_pretrained(tiny(), str(folder))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_compares_the_header_first(folder: Path) -> None:
    shapes = read_shapes(folder / FILE)
    assert read_weights(folder / FILE, shapes, "adapter").keys() == shapes.keys()
    name = min(shapes)
    with pytest.raises(
        CheckpointError, match=rf"{FILE} does not fit the adapter: {name} has shape .*\(9, 9\)"
    ):
        read_weights(folder / FILE, {**shapes, name: (9, 9)}, "adapter")
    with pytest.raises(CheckpointError, match="it lacks 1 tensor, such as x"):
        read_weights(folder / FILE, {**shapes, "x": (1,)}, "adapter")
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode()
    (folder / FILE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_shapes(folder / FILE)


@pytest.mark.parametrize("sizes", [{"pool_size": 10**9}, {"r": 2**31 - 1}, {"pool_size": 10**6, "r": 10**6}])
def test_absurd_pools_are_refused_before_they_are_made(sizes: dict[str, int], folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"more than 4 times the .* parameters of the backbone"):
        grafted(**sizes)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **sizes, "structure": None}))
    with pytest.raises(ConfigError, match=r"more than 4 times the .* parameters of the backbone"):
        PeftModel.from_pretrained(tiny(), str(folder))


def test_a_million_tasks_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="1,000,000 tasks"):
        grafted(tasks=[f"t{i}" for i in range(10**6)])


def test_a_saved_model_reads_no_other_file(folder: Path) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cost": "file:/dev/zero"}))
    with pytest.raises(CheckpointError, match="a saved model holds its table itself"):
        PeftModel.from_pretrained(tiny(), str(folder))
