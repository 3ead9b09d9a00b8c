"""Five tasks on small images from PyPI, for `recipes/images.yaml`.

- `shape`, `colour`: the one shape in an image of `easy-vqa` 1.0 (https://pypi.org/project/easy-vqa, Victor
  Zhou, MIT), 64 x 64 pixels, from the answers to its questions. The package need not be installed.
- `digit`, `parity`, `number` (a number): handwritten digits of scikit-learn's `load_digits` (8 x 8 pixels, of
  the UCI repository, CC BY 4.0), enlarged to 64 x 64.

    pip download --no-deps -d wheels easy-vqa && python -m zipfile -e wheels/easy_vqa-*.whl wheels
    python benchmarks/images_data.py wheels/easy_vqa/data runs/images-data

The test rows of easy-vqa are those of the package; its validation rows are every tenth of its train images.
Digits are dealt out in turn: of ten, seven for train, one for validation, two for test.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.datasets import load_digits

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SIDE = 64


def write(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def shapes(source: Path, folder: Path) -> None:
    """The shape and the colour in every image of which both are asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        shutil.copytree(source / split / "images", folder / split, dirs_exist_ok=True)
        known: dict[int, dict[str, str]] = {}
        for question, answer, image in json.loads((source / split / "questions.json").read_text("utf-8")):
            if question.startswith("what"):
                key = "shape" if answer in SHAPES else "colour" if answer in COLOURS else None
                if key is not None:
                    known.setdefault(image, {})[key] = answer
        rows = [
            {"image": f"{split}/{image}.png", **facts}
            for image, facts in sorted(known.items())
            if len(facts) == 2
        ]
        if split == "train":
            write(folder, "validation", rows[::10])
            rows = [row for place, row in enumerate(rows) if place % 10]
        write(folder, split, rows)


def digits(folder: Path) -> None:
    """The digits as images, and what they are."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    found = load_digits()
    for place, (pixels, digit) in enumerate(zip(found.images, found.target.tolist(), strict=True)):
        image = Image.fromarray((255 - pixels * 255 / 16).round().astype("uint8"))
        name = f"images/{place:04}.png"
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB").save(folder / name)
        split = {7: "validation", 8: "test", 9: "test"}.get(place % 10, "train")
        parity = ("even", "odd")[digit % 2]
        rows[split].append({"image": name, "digit": str(digit), "parity": parity, "number": digit})
    for split, own in rows.items():
        write(folder, split, own)


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("easy_vqa", type=Path, help="the folder `data` of the package")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    shapes(given.easy_vqa, given.folder / "shapes")
    digits(given.folder / "digits")
    print(f"{given.folder}: shapes and digits")


if __name__ == "__main__":
    main()
