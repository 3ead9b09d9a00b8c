"""Toy tasks of several labels and of spans, beside those of `toyrun`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toyrun import WORDS, write_lines

LABELS = ("bird", "road", "stone")
TAGS = ("O", "B-place", "I-place", "B-thing", "I-thing")
TYPES = {"river": "place", "road": "place", "stone": "thing", "lamp": "thing"}


def write_things(folder: Path) -> None:
    """Which of three words are in the text; none in about a third of the rows."""
    rng = np.random.default_rng(0)
    for split, size in (("train", 96), ("validation", 48), ("test", 48)):
        rows = []
        for _ in range(size):
            words = [str(word) for word in rng.choice(WORDS[2:], size=2)]
            rows.append({"text": " ".join(words), "things": sorted(set(words) & set(LABELS))})
        write_lines(folder / "things" / f"{split}.jsonl", rows)


def things(folder: Path, **changes: Any) -> dict[str, Any]:
    source = str(folder / "data/things")
    return {"name": "things", "train": source, "label": "things", "kind": "multilabel", **changes}


def write_spans(folder: Path) -> None:
    """Places and things; two of one type that follow each other are two spans."""
    rng = np.random.default_rng(0)
    for split, size in (("train", 96), ("validation", 48), ("test", 48)):
        rows = []
        for _ in range(size):
            words, at, spans = [str(word) for word in rng.choice(WORDS, size=5)], 0, []
            for word in words:
                if word in TYPES:
                    spans.append({"start": at, "end": at + len(word), "label": TYPES[word]})
                at += len(word) + 1
            rows.append({"text": " ".join(words), "spans": spans})
        write_lines(folder / "spans" / f"{split}.jsonl", rows)


def spans_task(folder: Path, **changes: Any) -> dict[str, Any]:
    source = str(folder / "data/spans")
    return {"name": "spans", "train": source, "label": "spans", "kind": "tokens", **changes}
