"""A toy run with pairs that are read separately, beside pairs and texts that are one sequence."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from toyrun import WORDS, recipe_dict, write_lines, write_recipe, write_run


def write_pairs_run(folder: Path, **changes: Any) -> Path:
    """`colour`; `same` and the number `near`, separately; `apart`, the pairs of `same` as one sequence."""
    write_run(folder)
    draw = random.Random(1)
    for split, size in (("train", 96), ("validation", 48), ("test", 48)):
        rows = []
        for _ in range(size):
            words = draw.sample(WORDS[3:], k=4)
            shared = draw.randint(0, 4)
            other = words[:shared] + draw.choices(WORDS[:3], k=4 - shared)
            rows.append({"first": " ".join(words), "second": " ".join(other), "score": shared / 4})
        write_lines(folder / "data/near" / f"{split}.jsonl", rows)
    recipe = recipe_dict(folder)
    colour, same, _ = recipe["tasks"]
    near = {
        "name": "near",
        "train": str(folder / "data/near"),
        "text": ["first", "second"],
        "label": "score",
        "kind": "regression",
    }
    recipe["tasks"] = [
        colour,
        {**same, "pairs": "separate"},
        {**near, "pairs": "separate"},
        {**same, "name": "apart"},
    ]
    return write_recipe(folder, {**recipe, **changes})
