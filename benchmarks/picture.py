"""The picture of the README: scores of a finished model beside its structure.

    python benchmarks/picture.py DIR PICTURE.png

Left, the test score of every task, with the linear probe on the frozen backbone and the majority class;
right, how many stored adapters of every site the tasks use: a row per task and a column per linear map, by
layer.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

SHORT = {"attention.output.dense": "output", "intermediate.dense": "up", "output.dense": "down"}
"""Names of BERT's maps in the words of the picture; the others are the last part of their name."""


def short(site: str) -> tuple[int, str]:
    """Layer and short name of a site."""
    match = re.search(r"layer\.(\d+)\.(.*)", site)
    assert match is not None, site
    return int(match[1]), SHORT.get(match[2], match[2].rsplit(".", 1)[-1])


def draw(folder: Path, picture: Path) -> None:
    """Draw the report and the structure of a model folder."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    sites = json.loads((folder / "structure.json").read_text(encoding="utf-8"))["sites"]
    tasks = list(report["tasks"])
    names = list(sites)
    open_ = np.array([[sum(sites[name]["open"][t]) for name in names] for t in range(len(tasks))])
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.0), width_ratios=(1, 2.6), constrained_layout=True
    )
    kinds = (("majority", "majority class", "#d9d9d9"), ("linear_probe", "linear probe", "#9ecae1"))
    for offset, (key, label, colour) in enumerate((*kinds, ("test", "graftwork", "#08519c"))):
        values = [report["tasks"][task][key] for task in tasks]
        places = np.arange(len(tasks)) + (1 - offset) * 0.26
        left.barh(places, values, 0.24, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            left.text(value + 0.01, place, f"{value:.3f}".lstrip("0"), va="center", fontsize=9)
    left.set_yticks(range(len(tasks)), tasks)
    left.invert_yaxis()
    left.set_xlim(0, 1.15)
    left.set_title("test accuracy", fontsize=10)
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=3, frameon=False)
    left.spines[["top", "right"]].set_visible(False)
    right.imshow(open_, cmap="Blues", aspect="auto", vmin=0, vmax=max(4, open_.max()))
    for t, row in enumerate(open_):
        for site, count in enumerate(row):
            if count:
                colour = "white" if count > open_.max() / 2 else "#08306b"
                right.text(site, t, str(count), ha="center", va="center", fontsize=9, color=colour)
    layers = [short(name)[0] for name in names]
    edges = [i for i in range(1, len(names)) if layers[i] != layers[i - 1]]
    for edge in edges:
        right.axvline(edge - 0.5, color="#636363", linewidth=0.8)
    right.set_yticks(range(len(tasks)), tasks)
    right.set_xticks(range(len(names)), [short(name)[1] for name in names], rotation=90, fontsize=8)
    for layer in sorted(set(layers)):
        middle = np.mean([i for i, value in enumerate(layers) if value == layer])
        right.text(middle, -0.62, f"layer {layer}", ha="center", va="bottom", fontsize=9)
    size = report["parameters"]["stored"]
    share = report["parameters"]["stored_fraction"]
    right.set_title(
        f"adapters each task uses, of {size:,} parameters stored ({share:.2%} of the backbone)",
        fontsize=10,
        pad=20,
    )
    figure.savefig(picture, dpi=130, metadata={"Software": None})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    draw(options.folder, options.picture)


if __name__ == "__main__":
    main()
