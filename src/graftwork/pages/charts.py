"""The curves of one training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from graftwork.pages import canvas
from graftwork.pages.canvas import FAINT, PALETTE, Picture

__all__ = ["training_curves"]


def training_curves(report: Mapping[str, Any]) -> list[Picture]:
    """The loss, the scores on validation, and the size while the structure was learned.

    Args:
        report: the contents of `report.json`.

    Returns:
        None of a run whose curves were not kept, or where matplotlib is not installed.
    """
    history = report.get("curves") or []
    if not history or find_spec("matplotlib") is None:
        return []
    ends = _phases(report.get("phases", {}))
    scores = {name: _series(history, f"eval_{name}") for name in report["tasks"]}
    drawn = [
        _draw(
            "loss",
            "Loss",
            {"training": _series(history, "loss")},
            ends,
            "mean of the rows since the last point",
        ),
        _draw("scores", "Scores on validation rows", scores, ends, "of the model as it was at that step"),
        _draw(
            "size",
            "Size",
            {
                "expected": _series(history, "graft/expected_parameters"),
                "budget": _level(history, report["parameters"].get("budget")),
            },
            ends,
            "adapter parameters that are open",
        ),
    ]
    return [picture for picture in drawn if picture is not None]


def _series(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(entry["step"], entry[name]) for entry in history if name in entry]


def _level(history: Sequence[Mapping[str, float]], value: float | None) -> list[tuple[float, float]]:
    return [] if value is None else [(history[0]["step"], value), (history[-1]["step"], value)]


def _phases(phases: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Names of the phases, and the step at which each ends."""
    found, step = [], 0
    for name, phase in phases.items():
        if "steps" in phase:
            step += phase["steps"]
            found.append((name, float(step)))
    return found


def _draw(
    name: str,
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    ends: Sequence[tuple[str, float]],
    unit: str,
) -> Picture | None:
    shown = {label: points for label, points in lines.items() if len(points) > 1}
    if not shown or all(label == "budget" for label in shown):
        return None
    with canvas.style(name):
        figure = canvas.figure(2.6)
        axes = figure.add_subplot()
        for place, (label, points) in enumerate(shown.items()):
            steps, values = zip(*points, strict=True)
            look: dict[str, Any] = {"color": PALETTE[place % len(PALETTE)]}
            if label == "budget":
                look = {"color": FAINT, "linestyle": "--"}
            axes.plot(steps, values, label=label, **look)
        for phase, end in ends[:-1]:
            axes.axvline(end, color=FAINT, linewidth=0.8, linestyle=":")
            axes.annotate(
                f"{phase} ",
                (end, 1),
                xycoords=("data", "axes fraction"),
                ha="right",
                va="top",
                rotation=90,
                fontsize=7,
                color=FAINT,
            )
        axes.set_xlabel("step")
        if name == "size":
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.set_ylim(bottom=0)
        if len(shown) > 1:
            figure.legend(loc="outside lower left", ncols=3)
        words = f"{title}: {unit}. Dotted: ends of phases."
        return canvas.picture(figure, name, title, words, title)
