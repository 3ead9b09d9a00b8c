"""Pictures of a `Structure`: which task uses how much of the pool of which site."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import GraftworkError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table
    from rich.text import Text

    from graftwork.structure.structure import Structure

__all__ = ["structure_png", "structure_table"]

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
"""The index of a layer in the name of a site."""
_SHADES = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c")
"""Colours of the cells, from few open adapters to many."""
_NARROW = 78
"""Width of the terminal table in characters; a wider one stacks the kinds of sites."""


@dataclass(frozen=True)
class _Kind:
    """Sites of the same name in different layers."""

    label: str
    sites: tuple[tuple[int | None, str], ...]
    """Layer and full name of every site, in the order of the layers."""


def structure_table(structure: Structure) -> Table:
    """A table for the terminal: the number of open adapters of every task at every site, `·` for none.

    A task is a row, a kind of site (such as `output.dense`) is a column with a cell per layer. The kinds are
    stacked instead where they would not fit side by side. The last columns count the open adapters of a task
    and its active parameters; the caption says what is stored for all tasks together.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    kinds = _kinds(structure)
    table = Table(title="open adapters per task, site and layer", title_justify="left", box=box.SIMPLE_HEAD)
    table.caption, table.caption_justify = _caption(structure), "left"
    table.add_column("task", no_wrap=True, vertical="bottom")
    width = sum(max(len(kind.label), len(_ruler(structure, kind).plain)) + 3 for kind in kinds)
    stacked = width + max(map(len, structure.tasks), default=0) + 24 > _NARROW
    if stacked:
        table.add_column("site and layer", no_wrap=True, vertical="bottom")
    else:
        for kind in kinds:
            table.add_column(_ruler(structure, kind, kind.label + "\n"), no_wrap=True)
    table.add_column("open", justify="right", vertical="bottom")
    table.add_column("active\nparameters", justify="right", vertical="bottom")
    if stacked:
        for kind in kinds:
            table.add_row("", _ruler(structure, kind, kind.label + "\n"))
            for t, task in enumerate(structure.tasks):
                count = sum(sum(structure.sites[name].open[t]) for _, name in kind.sites)
                table.add_row(
                    Text(task), _cells(structure, kind, t), str(count), f"{_used(structure, kind, t):,}"
                )
            table.add_section()
        table.add_row("", Text("all sites", style="bold"))
    for t, (task, count) in enumerate(structure.counts().items()):
        cells = [""] if stacked else [_cells(structure, kind, t) for kind in kinds]
        table.add_row(Text(task), *cells, str(count), f"{structure.parameters(task):,}")
    return table


def structure_png(structure: Structure, path: str | Path) -> None:
    """Write a heat map of the structure as a PNG file.

    A panel per kind of site, a row per task, a column per layer; a column has a slot for every adapter of the
    pool. A filled slot is an open adapter, coloured by the number of tasks that share it. Bars beside a panel
    are the parameters a task uses there.

    Raises:
        GraftworkError: matplotlib is not installed.
    """
    path = Path(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GraftworkError(
            f"{path} needs matplotlib, which is not installed; run `pip install 'graftwork[report]'`"
        ) from error
    figure = Figure(layout="constrained", dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    _draw(figure, structure)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _kinds(structure: Structure) -> list[_Kind]:
    """Group the sites by their name without the index of the layer, in the order of the model."""
    groups: dict[tuple[str, str], list[tuple[int | None, str]]] = {}
    for name in structure.sites:
        match = _LAYER.search(name)
        if match:
            key, layer = (name[: match.start()], name[match.end() :]), int(match[1])
            groups.setdefault(key, []).append((layer, name))
        else:
            groups.setdefault((name, ""), []).append((None, name))
    endings = [ending for _, ending in groups]
    return [
        _Kind(
            label=ending
            if ending and endings.count(ending) == 1
            else f"{start}.*.{ending}"
            if ending
            else start,
            sites=tuple(sorted(sites, key=lambda site: -1 if site[0] is None else site[0])),
        )
        for (start, ending), sites in groups.items()
    ]


def _ruler(structure: Structure, kind: _Kind, header: str = "") -> Text:
    """Layer indices above the cells, every fifth where they stand close."""
    from rich.text import Text

    gap = _gap(kind)
    line, position = "", 0
    for layer, name in kind.sites:
        width = max(len(str(structure.sites[name].pool_size)), len(str(layer)) if gap else 1)
        if layer is not None and (gap or layer % 5 == 0) and position >= len(line):
            line = line.ljust(position) + str(layer).rjust(width)
        position += width + gap
    return Text().append(header, style="bold").append(line.ljust(position - gap), style="dim")


def _cells(structure: Structure, kind: _Kind, task: int) -> Text:
    """The number of open adapters of one task at every site of a kind, darker for more."""
    from rich.text import Text

    gap = _gap(kind)
    text = Text()
    for i, (layer, name) in enumerate(kind.sites):
        site = structure.sites[name]
        width = max(len(str(site.pool_size)), len(str(layer)) if gap else 1)
        count = sum(site.open[task])
        shade = round((len(_SHADES) - 1) * (count - 1) / max(site.pool_size - 1, 1))
        style = f"{'black' if shade < 3 else 'white'} on {_SHADES[shade]}" if count else "dim"
        text.append(" " * (gap if i else 0))
        text.append((str(count) if count else "·").rjust(width), style=style)
    return text


def _gap(kind: _Kind) -> int:
    """Blanks between the cells: none for deep models."""
    return 1 if len(kind.sites) <= 16 else 0


def _caption(structure: Structure) -> str:
    uses = [sum(column) for site in structure.sites.values() for column in zip(*site.open, strict=True)]
    stored = sum(count > 0 for count in uses)
    text = f"{stored} of {len(uses)} adapters stored, {structure.parameters():,} parameters"
    return (
        f"{text}; {sum(count > 1 for count in uses)} shared by two or more tasks"
        if len(structure.tasks) > 1
        else text
    )


def _used(structure: Structure, kind: _Kind, task: int) -> int:
    return sum(structure.sites[name].cost * sum(structure.sites[name].open[task]) for _, name in kind.sites)


def _draw(figure: Figure, structure: Structure) -> None:
    kinds, tasks = _kinds(structure), range(len(structure.tasks))
    figure.suptitle(_caption(structure), fontsize=10, x=0.01, ha="left")
    if not kinds:
        figure.set_size_inches(6, 0.8)
        return
    slots = max(sum(structure.sites[name].pool_size for _, name in kind.sites) for kind in kinds)
    width = min(max(0.14 * slots, 4.0), 24.0)
    row = 0.3 if len(tasks) <= 20 else 0.18
    figure.set_size_inches(width + 3.4, len(kinds) * (max(len(tasks), 2) * row + 0.75) + 1.0)
    grid = figure.add_gridspec(len(kinds), 2, width_ratios=[width, 1.6])
    colours = _sharing_colours(len(tasks))
    used = [[_used(structure, kind, t) for t in tasks] for kind in kinds]
    maps = []
    for i, kind in enumerate(kinds):
        axes = figure.add_subplot(grid[i, 0])
        bars = figure.add_subplot(grid[i, 1], sharey=axes)
        _draw_map(axes, structure, kind, colours)
        _draw_bars(bars, used[i], limit=max(map(max, used)) or 1)
        for each in (axes, bars):
            each.tick_params(length=0)
            each.spines[:].set_visible(False)
        maps.append(axes)
    maps[-1].set_xlabel("layer (one slot per adapter of the pool)", fontsize=8)
    bars.set_xlabel("active parameters", fontsize=8)
    if len(tasks) > 1:
        _draw_key(figure, maps, colours)


def _draw_map(axes: Axes, structure: Structure, kind: _Kind, colours: Sequence[Any]) -> None:
    from matplotlib.patches import Rectangle

    for x, (_, name) in enumerate(kind.sites):
        site = structure.sites[name]
        for k in range(site.pool_size):
            sharing = sum(gates[k] for gates in site.open)
            left, right = (x + 0.06 + 0.88 * (k + side) / site.pool_size for side in (0, 0.86))
            for t, gates in enumerate(site.open):
                colour = colours[sharing - 1] if gates[k] else "#efefef"
                axes.add_patch(Rectangle((left, t - 0.42), right - left, 0.84, facecolor=colour, linewidth=0))
    axes.set(xlim=(0, len(kind.sites)), ylim=(len(structure.tasks) - 0.5, -0.5))
    axes.set_title(kind.label, loc="left", fontsize=9)
    layers = ["" if layer is None else str(layer) for layer, _ in kind.sites]
    axes.set_xticks([x + 0.5 for x in range(len(layers))], layers, fontsize=7)
    axes.set_yticks(range(len(structure.tasks)), structure.tasks, fontsize=8)


def _draw_bars(axes: Axes, used: Sequence[int], limit: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.barh(range(len(used)), used, height=0.7, color="#8c96a6")
    axes.set_xlim(0, limit * 1.05)
    axes.tick_params(axis="y", labelleft=False)
    axes.tick_params(axis="x", labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))


def _draw_key(figure: Figure, maps: list[Axes], colours: Sequence[Any]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    edges = [n + 0.5 for n in range(len(colours) + 1)]
    scale = ScalarMappable(BoundaryNorm(edges, len(colours)), ListedColormap(colours))
    key = figure.colorbar(scale, ax=maps, location="bottom", shrink=0.5, anchor=(0, 0), aspect=30, pad=0.02)
    key.set_ticks(list(range(1, len(colours) + 1, 1 + len(colours) // 12)))
    key.minorticks_off()
    key.ax.tick_params(labelsize=7, length=0)
    key.set_label("tasks that share the adapter", fontsize=8, loc="left")
    key.outline.set_visible(False)


def _sharing_colours(tasks: int) -> list[Any]:
    """A colour for an adapter used by 1, 2, ... tasks: from light to dark."""
    from matplotlib import colormaps

    return [colormaps["YlGnBu"](0.35 + 0.65 * n / max(tasks - 1, 1)) for n in range(tasks)]


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
