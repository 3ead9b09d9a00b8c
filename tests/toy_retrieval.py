"""Toy queries and passages, which say the same in other words."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from toy_kinds import spans_task, things, write_spans, write_things
from toyrun import WORDS, recipe_dict, write_lines, write_recipe, write_run

SPLITS = {"train": 96, "validation": 24, "test": 24}


def found_rows(size: int, seed: int) -> list[dict[str, Any]]:
    """A query has some of five words, its passage for each of them another word; later rows repeat them."""
    words = [mine for count in (1, 2, 3, 4) for mine in combinations(range(5), count)]
    order = np.random.default_rng(seed).permutation(len(words))
    chosen = [words[order[place % len(words)]] for place in range(size)]
    return [
        {
            "query": " ".join(WORDS[word] for word in mine),
            "passage": " ".join(WORDS[word + 5] for word in mine),
            "year": place,
        }
        for place, mine in enumerate(chosen)
    ]


def write_found(folder: Path) -> None:
    """The rows of the task `found`."""
    for seed, (split, size) in enumerate(SPLITS.items()):
        write_lines(folder / "found" / f"{split}.jsonl", found_rows(size, seed))


def found(folder: Path, **changes: Any) -> dict[str, Any]:
    """The task in a recipe."""
    return {
        "name": "found",
        "train": str(folder / "data/found"),
        "text": ["query", "passage"],
        "kind": "retrieval",
        **changes,
    }


def write_retrieval_run(folder: Path, **changes: Any) -> Path:
    """`colour`; `same`, read separately; `length`; several labels, spans, and two retrieval tasks."""
    write_run(folder)
    write_found(folder / "data")
    write_things(folder / "data")
    write_spans(folder / "data")
    recipe = recipe_dict(folder)
    recipe["tasks"][1]["pairs"] = "separate"
    recipe["tasks"] += [
        found(folder),
        things(folder),
        found(folder, name="again", metric="recall@1"),
        spans_task(folder),
    ]
    recipe["training"] |= {"epochs": 1}
    return write_recipe(folder, {**recipe, **changes})
