"""The figures of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from graftwork.experiments.report.curves import Curve, Line
from graftwork.experiments.report.tables import FEW, TIMES
from graftwork.experiments.results.collect import Comparison, Group
from graftwork.experiments.results.statistics import Difference, Interval, interval_of_mean, pareto_front
from graftwork.pages import canvas
from graftwork.pages.canvas import BAD, FAINT, GOOD, INK, PAPER, Look, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curve", "draw_differences", "draw_pareto"]

SCORE = f"suite mean (test, {TIMES} 100)"
"""What the axis of scores says."""


def _short(text: str, limit: int = 44) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _bounds(interval: Interval | None, mean: float) -> list[list[float]] | None:
    """An interval as matplotlib's error bar, in points."""
    if interval is None:
        return None
    return [[max(100 * (mean - interval.low), 0)], [max(100 * (interval.high - mean), 0)]]


def _shape(labels: Sequence[str]) -> tuple[int, float]:
    """Columns of a legend with these labels, and its height in inches."""
    columns = 2 if max(map(len, labels), default=0) <= 30 else 1
    return columns, 0.175 * -(-len(labels) // columns)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns, _ = _shape(labels)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, handletextpad=0.5)


def draw_differences(differences: Sequence[Difference], name: str, title: str) -> Picture | None:
    """A row per method: the paired difference and its interval; None for fewer than two rows."""
    shown = sorted((each for each in differences if each.mean is not None), key=lambda d: -(d.mean or 0))
    if len(shown) < 2:
        return None
    with canvas.style(name):
        figure = canvas.figure(0.44 * len(shown) + 0.9)
        axes = figure.add_subplot()
        for y, each in enumerate(shown):
            mean = each.mean or 0.0
            sure = len(each.seeds) >= FEW
            colour = {"better": GOOD, "worse": BAD}.get(each.verdict, FAINT) if sure else FAINT
            hollow = PAPER if each.interval is None else colour
            if each.interval is not None:
                ends = [100 * each.interval.low, 100 * each.interval.high]
                axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([100 * mean], [y], "o", markersize=6, color=colour, markerfacecolor=hollow)
            axes.text(
                0.0,
                y - 0.3,
                _short(each.group.title, 54),
                fontsize=8.5,
                transform=axes.get_yaxis_transform(),
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
            )
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(
            ylim=(len(shown) - 0.6, -0.75), yticks=[], xlabel="difference in points (test, paired by seed)"
        )
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        several = len({each.reference.title for each in shown}) > 1
        against = "its reference in the table" if several else shown[0].reference.title
        caption = (
            f"Suite mean minus that of {against}, on the same seeds. Bars: 95 % bootstrap intervals, seeds "
            "and (where several) tasks resampled; hollow: too few pairs for an interval. "
            f"Coloured from {FEW} pairs on."
        )
        return canvas.picture(figure, name, title, caption, f"Paired differences from {against}")


def draw_pareto(comparison: Comparison, looks: Mapping[str, Look], name: str, title: str) -> Picture | None:
    """The suite mean against stored parameters with the Pareto front; None if all have the same size."""
    tasks = list(comparison.tasks)
    points = [
        (group, stored, suites)
        for group in comparison.groups
        if (suites := group.suites(tasks)) and (stored := group.mean("parameters.stored")) is not None
    ]
    if len({stored for _, stored, _ in points}) < 2:
        return None
    whole = [(stored, float(np.mean(suites))) for group, stored, suites in points if group.complete(tasks)]
    front = [whole[i] for i in pareto_front(whole)]
    with canvas.style(name):
        _, legend = _shape([_short(label) for label in sorted({group.label for group, _, _ in points})])
        figure = canvas.figure(3.0 + legend)
        axes = figure.add_subplot()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: _compact(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        positive = [stored for _, stored, _ in points if stored > 0]
        # A method without stored parameters stands left of a dotted line.
        zero = min(positive) / 4
        for label in sorted({group.label for group, _, _ in points}):
            own = sorted((p for p in points if p[0].label == label), key=lambda p: (p[1], p[0].id))
            places = [(stored or zero, 100 * float(np.mean(suites))) for _, stored, suites in own]
            axes.plot(*zip(*places, strict=True), color=looks[label][0], linewidth=0.8, alpha=0.6)
            for i, (group, stored, suites) in enumerate(own):
                _mark(axes, group, stored or zero, suites, looks[label], tasks, named=i == 0)
        steps = [(cost or zero, 100 * score) for cost, score in front]
        if steps:
            steps.append((max(positive) * 1.3, steps[-1][1]))
            axes.step(
                *zip(*steps, strict=True), where="post", color=INK, linewidth=1, linestyle="--", zorder=1
            )
        if any(stored == 0 for _, stored, _ in points):
            axes.axvline(zero * 2, color=FAINT, linewidth=0.8, linestyle=":")
            axes.text(
                zero, 1.0, "none", fontsize=8, ha="center", va="top", transform=axes.get_xaxis_transform()
            )
        # At least a factor of 12, so that a labelled power of ten is in sight.
        left = zero / 2 if any(stored == 0 for _, stored, _ in points) else min(positive) / 2
        axes.set_xlim(left, max(max(positive) * 2, left * 12))
        axes.set(xlabel="stored adapter parameters (log scale, without heads)", ylabel=SCORE)
        _legend(figure, axes)
        caption = (
            "Mean over seeds with the 95 % bootstrap interval over seeds; horizontal bars: least to most "
            "stored parameters; thin lines join the swept settings of a method. Dashed: the Pareto front of "
            "the methods with every expected seed; hollow: seeds missing."
        )
        return canvas.picture(figure, name, title, caption, "Suite mean against stored adapter parameters")


def _mark(
    axes: Axes,
    group: Group,
    x: float,
    suites: Sequence[float],
    look: Look,
    tasks: Sequence[str],
    *,
    named: bool,
) -> None:
    mean, (colour, marker) = float(np.mean(suites)), look
    sizes = [size for size in group.numbers("parameters.stored") if size > 0]
    axes.errorbar(
        [x],
        [100 * mean],
        xerr=[[x - min(sizes)], [max(sizes) - x]]
        if len(set(sizes)) > 1 and min(sizes) <= x <= max(sizes)
        else None,
        yerr=_bounds(interval_of_mean(np.array(suites)[:, None]), mean),
        fmt=marker,
        markersize=6,
        color=colour,
        markerfacecolor=colour if group.complete(tasks) else PAPER,
        elinewidth=1.2,
        label=_short(group.label) if named else None,
        zorder=3,
    )


def draw_curve(curve: Curve, looks: Mapping[str, Look], name: str) -> Picture:
    """The suite mean over one setting, a line per method; below, stored parameters if they change."""
    lines = curve.lines
    changing = [line for line in lines if len({point.stored for point in line.points} - {None}) > 1]
    titles = [*(line.title for line in lines), *(text for _, text, _ in curve.levels)]
    with canvas.style(name):
        _, legend = _shape([_short(each) for each in titles])
        figure = canvas.figure(3.0 + (1.3 if changing else 0) + legend)
        grid = figure.add_gridspec(2 if changing else 1, 1, height_ratios=[2.2, 1] if changing else [1])
        axes = figure.add_subplot(grid[0])
        dashes = ("-", "--", ":", "-.")
        drawn: dict[str, int] = {}
        for line in lines:
            number = drawn[line.label] = drawn.get(line.label, -1) + 1
            _draw_line(axes, line, looks[line.label], dashes[number % len(dashes)])
        for label, text, level in curve.levels:
            axes.axhline(100 * level, color=looks[label][0], linestyle=(0, (1, 2)), label=_short(text))
        lowest = axes
        if changing:
            lowest = figure.add_subplot(grid[1], sharex=axes)
            for line in changing:
                known = [(point.x, point.stored) for point in line.points if point.stored is not None]
                colour, marker = looks[line.label]
                lowest.plot(*zip(*known, strict=True), color=colour, marker=marker, markersize=4)
            lowest.set_ylabel("stored")
            lowest.yaxis.set_major_formatter(lambda value, _: _compact(value))
            axes.tick_params(axis="x", labelbottom=False)
        _scale(lowest, sorted({point.x for line in lines for point in line.points}))
        lowest.set_xlabel(curve.key)
        axes.set_ylabel(SCORE)
        _legend(figure, axes)
        return canvas.picture(
            figure, name, f"Test scores over {curve.key}", curve.caption, f"Curve over {curve.key}"
        )


def _draw_line(axes: Axes, line: Line, look: Look, dash: str) -> None:
    colour, marker = look
    xs = [point.x for point in line.points]
    means = [100 * point.mean for point in line.points]
    axes.plot(xs, means, dash, color=colour, label=_short(line.title))
    for point in line.points:
        axes.plot(
            [point.x],
            [100 * point.mean],
            marker,
            markersize=5,
            color=colour,
            markerfacecolor=colour if point.complete else PAPER,
        )
    known = [(point.x, point.interval) for point in line.points if point.interval is not None]
    if known:
        places = [x for x, _ in known]
        low, high = ([100 * getattr(interval, end) for _, interval in known] for end in ("low", "high"))
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Log where the values span more than a factor of 20; ticks at the values if they are few."""
    if values[0] > 0 and values[-1] / values[0] >= 20:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(values) <= 8:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()


def _compact(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
