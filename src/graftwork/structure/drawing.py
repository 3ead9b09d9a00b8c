"""Pictures of a `Structure`: which task uses how much of the pool of which site."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import GraftworkError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table
    from rich.text import Text

    from graftwork.structure.structure import Structure

__all__ = ["Kind", "kinds_of", "structure_png", "structure_table"]

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
"""The index of a layer in the name of a site."""
_SHADES = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c")
"""Colours of the cells, from few open adapters to many."""
_NARROW = 78
"""Width of the terminal table in characters; a wider one stacks the kinds of sites."""
_WIDTH = 10.0
"""Width of the picture in inches, from which on layers stand below each other."""
_CELL = 0.25
"""Side of a cell of the picture, in inches: room for three digits of 8 points."""
_LETTER = 0.078
"""Width of a letter of the picture, in inches, at most 9 points high."""


@dataclass(frozen=True)
class Kind:
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

    kinds = kinds_of(structure)
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

    A row per task, a column per site, the sites of a layer side by side under short names; a cell has the
    number of open adapters, darker for more of the pool. Two rows below count what is stored and what two or
    more tasks share. As many layers stand side by side as a page is wide, the others below them. No letter is
    smaller than 8 points.

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
    figure = Figure(dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    _draw(figure, structure)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, format="png")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def kinds_of(structure: Structure) -> list[Kind]:
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
        Kind(
            label=ending
            if ending and endings.count(ending) == 1
            else f"{start}.*.{ending}"
            if ending
            else start,
            sites=tuple(sorted(sites, key=lambda site: -1 if site[0] is None else site[0])),
        )
        for (start, ending), sites in groups.items()
    ]


def _ruler(structure: Structure, kind: Kind, header: str = "") -> Text:
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


def _cells(structure: Structure, kind: Kind, task: int) -> Text:
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


def _gap(kind: Kind) -> int:
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


def _used(structure: Structure, kind: Kind, task: int) -> int:
    return sum(structure.sites[name].cost * sum(structure.sites[name].open[task]) for _, name in kind.sites)


def _draw(figure: Figure, structure: Structure) -> None:
    """Bands of layers below each other; one unit of the axes is an inch."""
    from matplotlib.patches import Rectangle

    layers = _layers(structure)
    tasks = [*map(_cut, structure.tasks), "stored", *(["shared"] if len(structure.tasks) > 1 else [])]
    left = 0.3 + _LETTER * max(max(map(len, tasks), default=0), len("layer"))
    right = 1.0
    bands = _bands([len(sites) for _, sites in layers], max(1, int((_WIDTH - left - right) / _CELL)))
    heads = [
        _LETTER * max((len(label) for i in band for label, _ in layers[i][1]), default=0) for band in bands
    ]
    body = _CELL * (len(tasks) + 0.3)
    widest = max((_CELL * sum(len(layers[i][1]) + 0.4 for i in band) for band in bands), default=0)
    width = max(left + widest + right, 0.2 + _LETTER * len(_caption(structure)))
    height = 0.5 + sum(head + body + 0.6 for head in heads) + (0.4 if layers else 0.0)
    figure.set_size_inches(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.text(0.1, 0.25, _caption(structure), fontsize=10, va="center")
    y = 0.5
    for number, (band, head) in enumerate(zip(bands, heads, strict=True)):
        axes.text(left - 0.08, y + 0.15, "layer", fontsize=9, ha="right", va="center")
        y += 0.3 + head
        for row, name in enumerate(tasks):
            slant = "italic" if row >= len(structure.tasks) else "normal"
            place = y + _row(structure, row)
            axes.text(left - 0.08, place, name, fontsize=9, ha="right", va="center", style=slant)
        x = left
        for i in band:
            title, sites = layers[i]
            middle = x + _CELL * len(sites) / 2
            axes.text(middle, y - head - 0.15, title, fontsize=9, ha="center", va="center", weight="bold")
            for label, name in sites:
                axes.text(x + _CELL / 2, y - 0.04, label, fontsize=8, rotation=90, ha="center", va="bottom")
                for row, (count, most) in enumerate(_column(structure, name)):
                    place = y + _row(structure, row)
                    colour, ink = _shade(count, most, total=row >= len(structure.tasks))
                    corner = (x + 0.01, place - _CELL / 2 + 0.01)
                    axes.add_patch(
                        Rectangle(corner, _CELL - 0.02, _CELL - 0.02, facecolor=colour, linewidth=0)
                    )
                    if count:
                        text = str(count) if count < 1000 else "+"
                        axes.text(x + _CELL / 2, place, text, fontsize=8, color=ink, ha="center", va="center")
                x += _CELL
            x += 0.4 * _CELL
        if number == 0:
            axes.text(x + right - 0.2, y - 0.04, "active\nparameters", fontsize=8, ha="right", va="bottom")
            for row, task in enumerate(structure.tasks):
                used = f"{structure.parameters(task):,}"
                axes.text(
                    x + right - 0.2, y + _row(structure, row), used, fontsize=8, ha="right", va="center"
                )
        y += body + 0.3
    if layers:
        note = "numbers: open adapters of the pool of a site"
        axes.text(
            0.1, y + 0.1, note + "; shared: by two or more tasks" * (len(structure.tasks) > 1), fontsize=8
        )


def _row(structure: Structure, row: int) -> float:
    """Middle of a row, in inches; the totals stand a little apart."""
    return _CELL * (row + 0.5 + (0.3 if row >= len(structure.tasks) else 0))


def _column(structure: Structure, name: str) -> list[tuple[int, int]]:
    """Open adapters and pool size of one site: for every task, what is stored, and what is shared."""
    site = structure.sites[name]
    counts = [sum(gates) for gates in site.open]
    users = [sum(column) for column in zip(*site.open, strict=True)]
    counts.append(sum(many > 0 for many in users))
    counts += [sum(many > 1 for many in users)] if len(structure.tasks) > 1 else []
    return [(count, site.pool_size) for count in counts]


def _shade(count: int, most: int, *, total: bool) -> tuple[str, str]:
    """Colours of a cell and of its number."""
    if not count:
        return "#f2f2f2", "black"
    if total:
        return "#d9d9d9", "black"
    shade = round((len(_SHADES) - 1) * (count - 1) / max(most - 1, 1))
    return _SHADES[shade], "black" if shade < 3 else "white"


def _layers(structure: Structure) -> list[tuple[str, list[tuple[str, str]]]]:
    """Layers with their sites, as (short label, full name), in the order of the model."""
    kinds = kinds_of(structure)
    endings = [_ending(kind) for kind in kinds]
    labels = dict(zip(kinds, _short_labels(endings), strict=True))
    place = {name: (kind, layer) for kind in kinds for layer, name in kind.sites}
    stacks = list(dict.fromkeys(_stack(name) for name in structure.sites if place[name][1] is not None))
    groups: dict[tuple[str, int | None], list[tuple[str, str]]] = {}
    for name in structure.sites:
        kind, layer = place[name]
        groups.setdefault((_stack(name), layer), []).append((labels[kind], name))
    order = {stack: i for i, stack in enumerate(stacks)}
    ordered = sorted(
        groups, key=lambda key: (order.get(key[0], len(order)), -1 if key[1] is None else key[1])
    )
    shown = {}
    for stack, layer in ordered:
        own = "" if layer is None else str(layer)
        # Stacks, such as encoder and decoder, are told apart by their first letters.
        shown[stack, layer] = f"{stack.split('.')[0][:3]} {own}" if len(stacks) > 1 and own else own
    return [(shown[key], groups[key]) for key in ordered]


def _stack(name: str) -> str:
    """What stands before the index of the layer."""
    match = _LAYER.search(name)
    return name[: match.start()] if match else ""


def _ending(kind: Kind) -> str:
    """What stands behind the index of the layer, or the whole name."""
    name = kind.sites[0][1]
    match = _LAYER.search(name)
    return name[match.end() :] or name if match else name


def _short_labels(endings: Sequence[str]) -> list[str]:
    """Of every name the shortest end that no other one has, without a last part that tells nothing."""
    distinct = set(endings)
    short = {}
    for ending in distinct:
        parts = ending.split(".")
        ends = [".".join(parts[-size:]) for size in range(1, len(parts) + 1)]
        short[ending] = next(
            (
                end
                for end in ends
                if not any(f".{other}".endswith(f".{end}") for other in distinct - {ending})
            ),
            ending,
        )
    less = {ending: label.removesuffix(".dense") for ending, label in short.items()}
    short = less if len(set(less.values())) == len(less) else short
    labels = [short[ending].replace("attention", "attn") for ending in endings]
    return [label if len(label) <= 20 else f"…{label[-19:]}" for label in labels]


def _cut(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _bands(widths: Sequence[int], most: int) -> list[list[int]]:
    """Layers side by side, as many as fit into `most` cells."""
    bands: list[list[int]] = []
    room = 0.0
    for i, width in enumerate(widths):
        if not bands or room < width:
            bands.append([])
            room = most
        bands[-1].append(i)
        room -= width + 0.4
    return bands
