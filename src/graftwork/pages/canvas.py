"""What all figures share: colours, style, and files that are the same to the byte whenever they are made."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Look", "Picture", "figure", "looks", "picture", "style"]

INK, FAINT, LINE, PAPER = "#1c2430", "#5c6675", "#d5dae1", "#ffffff"
GOOD, BAD = "#1a7f4b", "#c2402a"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#5e4fa2", "#56b4e9", "#8c4a1f")
MARKERS = "osD^vPX"
_VARIABLES = {INK: "ink", FAINT: "faint", LINE: "line", PAPER: "paper", GOOD: "good", BAD: "bad"}
_VARIABLES |= {colour: f"c{i}" for i, colour in enumerate(PALETTE)}
"""Colours that the page replaces by its own, which follow its light or dark theme."""
_WIDTH = 4.2
"""Inches: text of 9 points is then readable both on a phone and across half a desktop page."""
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 200,
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "text.color": INK,
    # A label may hold a dollar sign; it is text, not mathematics.
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}
Look = tuple[str, str]
"""Colour and marker of a label."""


@dataclass(frozen=True)
class Picture:
    """A figure in both forms.

    Attributes:
        name: file name without ending.
        caption: what it shows and how it was computed.
        alt: what it is, for those who do not see it.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes

    @property
    def inline(self) -> str:
        """The SVG for a page: colours of its theme, and names that no other figure has."""
        svg = self.svg[self.svg.index("<svg") :]
        svg = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, f"var(--{variable})")
        return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(self.alt)}" ', 1)


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A colour and marker for every label, the same in all figures."""
    return {
        label: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)])
        for i, label in enumerate(sorted(set(labels)))
    }


@contextmanager
def style(name: str) -> Iterator[None]:
    """Settings that owe nothing to the user's own, and ids that depend on the figure alone."""
    import matplotlib

    with matplotlib.rc_context(), catch_warnings():
        filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["svg.hashsalt"] = f"graftwork {name}"
        yield


def figure(height: float) -> Figure:
    """A figure of the common width, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def picture(drawn: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """The figure as SVG and PNG, without dates or versions."""
    svg, png = io.BytesIO(), io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn.savefig(svg, format="svg", metadata=nothing)
    drawn.savefig(png, format="png", metadata={"Software": None})
    return Picture(name, title, caption, alt, svg.getvalue().decode(), png.getvalue())
