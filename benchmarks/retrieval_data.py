"""Questions and the sentences that answer them, from QNLI, for `recipes/retrieval.yaml`.

GRAFTWORK_DATA (default: shared/data of the repository) is a folder with `qnli/{train,validation,test}.jsonl`,
rows of `text_a`, a question, `text_b`, a sentence of Wikipedia, and `label`. Rows whose sentence has the
answer (`entailment`) are written into a folder as `{"query", "passage"}`, split by split. A sentence may
answer several questions; it is then one passage.

    python benchmarks/retrieval_data.py runs/retrieval-data
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

SHARED = Path(__file__).parents[1] / "shared" / "data"


def main() -> None:
    """Write the files and say how many questions and sentences there are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    source = Path(os.environ.get("GRAFTWORK_DATA", SHARED)) / "qnli"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        lines = (source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        found = [row for row in map(json.loads, lines) if row["label"] == "entailment"]
        rows = [{"query": row["text_a"], "passage": row["text_b"]} for row in found]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
        print(f"{split}: {len(rows):,} questions, {len({row['passage'] for row in rows}):,} sentences")


if __name__ == "__main__":
    main()
