"""The words of a report, and its templates filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftwork.experiments.report.tables import MINUS, TIMES, escape, markdown
from graftwork.experiments.results.statistics import LEVEL, RESAMPLES, SEED
from graftwork.pages.canvas import Picture
from graftwork.pages.filling import environment, script, style

__all__ = ["PAGE", "TEXT", "reading", "render"]

PAGE, TEXT = "index.html", "report.md"


def reading() -> tuple[str, ...]:
    """What a reader must know of the numbers."""
    return (
        "Everything here comes from the run files; a run that failed or is missing enters no number.",
        "The seeds expected of a method are all seeds that any method of the same comparison was started "
        "with.",
        "Arrangement single: one model per task. Its parameters, bytes and seconds are sums over the tasks, "
        "its memory is that of the largest; scores are read as elsewhere.",
        f"Spread: sample standard deviation over seeds (n {MINUS} 1).",
        "Paired difference: a method's test score minus the reference's with the same seed, tasks, data "
        "and schedule, over the seeds both have. If there are several runs of the reference method, the one "
        "whose shared swept settings agree (learning rates aside) is taken; of several, the one with the "
        "fewest settings of its own, then the one closest in stored parameters.",
        f"Intervals: {100 * LEVEL:g} % percentile bootstrap, {RESAMPLES:,} resamples, random seed {SEED}. "
        f"“Seeds {TIMES} tasks”: every resample draws as many seeds as there are pairs, with replacement, "
        "and independently as many tasks as there are, with replacement, the same tasks for every drawn "
        "seed; its mean over the drawn cells is one value. It asks what would happen with other seeds and "
        "other tasks of this kind. “Seeds only” keeps the tasks as they are. Test rows are not resampled.",
        "With fewer than about five pairs a bootstrap interval is too narrow: read it as a lower bound of "
        "the doubt.",
        f"Verdict: better or worse where the interval over seeds {TIMES} tasks (seeds alone for one task) "
        "leaves zero out; no correction for many comparisons.",
    )


def render(context: Mapping[str, Any], folder: Path) -> None:
    """Write the page and the text into a folder."""
    own = "graftwork.experiments.report"
    html = (
        environment(own)
        .get_template("report.html.j2")
        .render(**context, style=style(), script=script("maps", "scatter", "tables"))
    )
    (folder / PAGE).write_text(html, encoding="utf-8")
    text = environment(own, markup=False)
    text.filters.update(plain=escape, table=markdown, picture=_markdown_picture)
    lines = text.get_template("report.md.j2").render(**context).splitlines()
    kept = [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]
    (folder / TEXT).write_text("\n".join(kept).strip() + "\n", encoding="utf-8")


def _markdown_picture(picture: Picture) -> str:
    words = f"*{escape(picture.title)}.* {escape(picture.caption)}"
    return f"![{escape(picture.alt)}](figures/{picture.name}.png)\n\n{words}"
