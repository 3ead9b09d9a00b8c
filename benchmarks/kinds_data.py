"""E2E NLG turned round: from a sentence about a restaurant to what it says, for `recipes/kinds.yaml`.

GRAFTWORK_DATA (default: shared/data of the repository) is a folder with `e2e_nlg/{train,test}.jsonl`, rows of
`input`, slots with values such as `food[Chinese], area[riverside]`, and `target`, a sentence that says them.
Written into a folder are two tasks on the sentences:

- `slots` (multilabel): which slots it says. `name` is left out, for every sentence has one.
- `values` (tokens): the values of five slots, where the sentence has them word for word.

    python benchmarks/kinds_data.py runs/kinds-data

Every tenth input of `train.jsonl` is validation, the one after it test, so that no input is in two splits. A
restaurant is in several, though, and its inputs have much the same slots: a model may know them by the name.
Half of the 18 restaurants of `test.jsonl` are others, and its inputs have more slots; it becomes
`others.jsonl`, to be scored with `graftwork evaluate DIR --data FOLDER/slots/others.jsonl --task slots`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[1] / "shared" / "data"
SLOT = re.compile(r"\s*([^,\[\]]+)\[([^\]]*)\]")
MARKED = ("name", "near", "food", "area", "eatType")
"""Slots whose values a sentence can repeat; `high` may be a price or a rating, and `yes` is never said."""
EVERY = 10


def slots(text: str) -> dict[str, str]:
    """Slot -> value."""
    return {name.strip(): value for name, value in SLOT.findall(text)}


def spans(sentence: str, values: dict[str, str]) -> list[dict[str, Any]]:
    """Every place of every value, longer values first, so that none lies in another."""
    found: list[dict[str, Any]] = []
    for label, value in sorted(values.items(), key=lambda item: -len(item[1])):
        if label not in MARKED:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", sentence, re.IGNORECASE):
            start, end = match.span()
            if all(end <= span["start"] or span["end"] <= start for span in found):
                found.append({"start": start, "end": end, "label": label})
    return sorted(found, key=lambda span: int(span["start"]))


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Write the files and say how many rows and spans there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    source = Path(os.environ.get("GRAFTWORK_DATA", SHARED)) / "e2e_nlg"
    found = _rows(source / "train.jsonl")
    place = {given: i % EVERY for i, given in enumerate(sorted({row["input"] for row in found}))}
    names = {0: "validation", 1: "test"}
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for row in found:
        rows[names.get(place[row["input"]], "train")].append(row)
    rows["others"] = _rows(source / "test.jsonl")
    for split, own in rows.items():
        made: dict[str, list[dict[str, Any]]] = {"slots": [], "values": []}
        for row in own:
            values, text = slots(row["input"]), row["target"]
            made["slots"].append({"text": text, "slots": sorted(set(values) - {"name"})})
            made["values"].append({"text": text, "spans": spans(text, values)})
        for task, written in made.items():
            (folder / task).mkdir(parents=True, exist_ok=True)
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in written)
            (folder / task / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        count = sum(len(row["spans"]) for row in made["values"])
        print(f"{split}: {len(own):,} rows, {count:,} spans")


if __name__ == "__main__":
    main()
