"""Score against what all tasks on one text cost: a point a method, from results of `graftwork compare`.

    python benchmarks/trunk_front.py [results/search/linear results/search/trunk] [--budget 0.003]
                                     [--methods LABEL ...] [--output results/trunk_front.png]

The score is the mean of the tasks on test; the price, in passes of one task, is that of
`graftwork.trunk_price` for the structure in the file, put into its backbone. A point is the mean over seeds,
a bar goes from the lowest seed to the highest. Methods without a structure, and those with another budget,
are left out. Prints a table, then JSON as its last line; the picture needs matplotlib
(`pip install 'graftwork[report]'`).
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from peft import get_peft_model
from rich.console import Console
from rich.table import Table

import graftwork as gw
from graftwork.models.backbone import load_backbone

FOLDERS = [Path("results/search/linear"), Path("results/search/trunk")]
OTHERS = ("search", "random paths", "private paths", "uniform")
"""Methods that are drawn beside those whose tasks are limited in where they part."""


def read(folders: Sequence[Path], budget: float, methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The finished results of every method that has a structure of this budget, by label."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        graft = result["settings"].get("graft", {})
        limited = any(graft.get(name) is not None for name in ("trunk", "trunk_budget"))
        wanted = result["label"] in methods if methods else limited or result["label"] in OTHERS
        if wanted and result["status"] == "done" and result["structure"] and graft.get("budget") == budget:
            found.setdefault(result["label"], []).append(result)
    return found


def price(result: dict[str, Any], backbones: dict[str, Any]) -> float:
    """What all tasks on one text cost with the structure of a result."""
    name = result["sources"]["model"]
    if name not in backbones:
        backbones[name] = load_backbone(name)[0]
    graft, structure = result["settings"]["graft"], gw.Structure.from_dict(result["structure"]).compacted()
    form = {key: graft[key] for key in ("r", "activation", "position") if key in graft}
    config = gw.GraftConfig(
        tasks=list(structure.tasks),
        structure=structure.to_dict(),
        target_modules=list(structure.sites),
        **form,
    )
    return gw.trunk_price(get_peft_model(copy.deepcopy(backbones[name]), config).eval())


def draw(points: Sequence[dict[str, Any]], path: Path, budget: float) -> None:
    """Write the picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for point in points:
        x, y, (low, high) = point["price"], 100 * point["test"], point["range"]
        color = "#08519c" if point["limited"] else "#777777"
        axes.errorbar(
            x, y, yerr=[[y - 100 * low], [100 * high - y]], fmt="o", color=color, capsize=2, linewidth=0.8
        )
        axes.annotate(point["method"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    best: list[tuple[float, float]] = []
    for x, y in sorted((point["price"], 100 * point["test"]) for point in points):
        if not best or y > best[-1][1]:
            best.append((x, y))
    axes.plot(*zip(*best, strict=True), color="#6baed6", linewidth=1, zorder=0)
    axes.set_xlabel("price of all tasks on one text, in passes of one task")
    axes.set_ylabel("mean test score of the tasks, in %")
    axes.set_title(f"at {100 * budget:g} % of the backbone", fontsize=10)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Read, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, default=FOLDERS, help="with result files")
    parser.add_argument("--budget", type=float, default=0.003, help="graft.budget of the results")
    parser.add_argument("--methods", nargs="*", default=[], help="labels of methods, in place of all")
    parser.add_argument("--output", type=Path, default=Path("results/trunk_front.png"))
    arguments = parser.parse_args()
    backbones: dict[str, Any] = {}
    points = []
    for label, results in read(arguments.folders, arguments.budget, arguments.methods).items():
        tests = [result["suite"]["test"] for result in results]
        graft = results[0]["settings"]["graft"]
        points.append(
            {
                "method": label,
                "limited": any(graft.get(name) is not None for name in ("trunk", "trunk_budget")),
                "price": mean(price(result, backbones) for result in results),
                "test": mean(tests),
                "validation": mean(result["suite"]["validation"] for result in results),
                "range": [min(tests), max(tests)],
                "seeds": sorted(result["seed"] for result in results),
            }
        )
    if not points:
        raise SystemExit(f"no result with a structure of budget {arguments.budget:g} in these folders")
    points.sort(key=lambda point: (point["price"], point["method"]))
    table = Table(title=f"mean scores at {100 * arguments.budget:g} % of the backbone")
    for name in ("method", "price", "test", "validation", "seeds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for point in points:
        scores = (f"{point[name]:.4f}" for name in ("test", "validation"))
        table.add_row(point["method"], f"{point['price']:.2f}", *scores, " ".join(map(str, point["seeds"])))
    Console().print(table)
    draw(points, arguments.output, arguments.budget)
    print(json.dumps({"budget": arguments.budget, "points": points}))


if __name__ == "__main__":
    main()
