"""What a diagnosis means: a plain sentence for everything that is off, and how the whole is printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["figures", "find", "print_diagnosis"]

GAP_POINTS = 1.0
"""Loss of the mean score by deciding the gates, in points, from which it is a finding."""
MOST = 0.9
"""Fraction of the gates from which they count as nearly all."""
OVERSHOOT = 1.25
"""Expected size divided by the budget, at the discretisation, from which it is a finding."""
NOTHING = 1e-3
"""Relative increase of the loss below which an adapter counts as doing nothing."""
FEW = 8
"""Number of ablated adapters below which a rank correlation is not reported as a finding."""


def find(diagnosis: Mapping[str, Any]) -> list[str]:
    """One sentence per finding, with what to do about it; none if all is well."""
    return [
        *_gap(diagnosis),
        *_size(diagnosis),
        *_gates(diagnosis),
        *_paths(diagnosis),
        *_ablation(diagnosis),
    ]


def _budget(diagnosis: Mapping[str, Any], times: float) -> str:
    """The setting of another budget, in parentheses, so many times what it is."""
    key = "graft.budget" if diagnosis["of"] == "structure" else "extend.limit"
    return f" (--set {key}=SHARE, {times:.2g} times what it is)"


def _gap(diagnosis: Mapping[str, Any]) -> Iterator[str]:
    gap = diagnosis["gap"]
    if gap is not None and gap["points"] < -GAP_POINTS:
        yield (
            f"Deciding the gates cost {-gap['points']:.1f} points of the mean validation score "
            f"({gap['soft']:.3f} with soft gates, {gap['hard']:.3f} with hard ones); search longer "
            f"(--set schedule.discretise=0.75) or raise the budget{_budget(diagnosis, 1.5)}."
        )


def _size(diagnosis: Mapping[str, Any]) -> Iterator[str]:
    size = diagnosis["size"]
    small = size["pool"] is None or size["target"] is None or size["pool"] <= size["target"]
    if size["target"] is None or (diagnosis["of"] != "structure" and small):
        return
    if size["pool"] is not None and size["pool"] <= size["target"]:
        yield (
            f"The budget of {size['target']:,} parameters cannot be reached: the whole pool has "
            f"{size['pool']:,}, so nothing had to be closed; raise pool_size or lower the budget"
            f"{_budget(diagnosis, size['pool'] / (2 * size['target']))}."
        )
    elif size["expected"] is not None and size["expected"] > OVERSHOOT * size["target"]:
        yield (
            f"The search did not come down to the budget: {size['expected']:,.0f} {size['unit']} were "
            f"expected open when the structure was decided, {size['target']:,.10g} are allowed, so the "
            "ranking closed adapters whose gates were open; train longer (--set training.epochs=N), raise "
            "the learning rate (--set training.learning_rate=R), or raise the budget"
            f"{_budget(diagnosis, 1.5)}."
        )


def _gates(diagnosis: Mapping[str, Any]) -> Iterator[str]:
    early, decided = diagnosis["gates"]["early"], diagnosis["gates"]["decided"]
    size = diagnosis["size"]
    if size["target"] is None:
        selective = diagnosis["of"] == "structure"
    else:
        selective = size["pool"] is None or size["pool"] > size["target"]
    if early is not None and early["closed"] >= MOST:
        yield (
            f"The gates saturated early: {100 * early['closed']:.0f} % were closed after a quarter of the "
            "search, before the adapters had learned much; lower the learning rate "
            "(--set training.learning_rate=R), or lengthen schedule.warmup or schedule.ramp "
            "(--set schedule.warmup=0.25)."
        )
    if decided is None:
        return
    if decided["open"] >= MOST and selective:
        yield (
            f"{100 * decided['open']:.0f} % of the gates were open when the structure was decided, so it was "
            "chosen by the strength of the weights and not by the gates; train longer "
            "(--set training.epochs=N), or raise the learning rate (--set training.learning_rate=R) or the "
            "penalty (--set graft.penalty=P)."
        )
    if decided["undecided"] >= 0.5:
        yield (
            f"{100 * decided['undecided']:.0f} % of the gates were undecided (P(open) between 0.1 and 0.9) "
            "when the structure was decided; search longer (--set schedule.discretise=0.75) or raise the "
            "learning rate (--set training.learning_rate=R)."
        )


def _paths(diagnosis: Mapping[str, Any]) -> Iterator[str]:
    for task, count in diagnosis["open_paths"].items():
        if not count:
            yield (
                f"Task {task!r} has no path: it uses no adapter and gets the bare backbone; raise the "
                f"budget{_budget(diagnosis, 1.5)}, give the task more weight (--set training.temperature=2), "
                "or check that it can be learned."
            )


def _ablation(diagnosis: Mapping[str, Any]) -> Iterator[str]:
    ablation = diagnosis["ablation"]
    if ablation is None or not ablation["adapters"]:
        return
    tried, idle = ablation["adapters"], ablation["idle"]
    # What single adapters do is lost in noise where most can be missed; their order then says nothing.
    if idle["adapters"] > len(tried) / 2:
        if idle["increase"] <= NOTHING * ablation["loss"]:
            yield (
                f"{idle['adapters']} of {len(tried)} open adapters do nothing: without them, one by one or "
                "all at once, the validation loss does not rise; a smaller budget may do as well"
                f"{_budget(diagnosis, 0.5)}."
            )
        return
    correlation = ablation["rank_correlation_gate"]
    if correlation is not None and len(tried) >= FEW and correlation < 0:
        yield (
            "The gates rank the open adapters no better than chance: the rank correlation with what closing "
            f"each one costs is {correlation:.2f}; run other seeds (--seed N) and compare the structures "
            "(graftwork show A B --diagnose)."
        )


def print_diagnosis(diagnosis: Mapping[str, Any], console: Console, title: str) -> None:
    """Findings first, then the figures. Names may have brackets, which are not markup."""
    from rich.markup import escape
    from rich.table import Table

    findings = diagnosis["findings"]
    console.print(
        escape(
            f"{title}: {f'{len(findings)} finding(s)' if findings else 'nothing is off, nothing to change'}"
        )
    )
    for sentence in findings:
        console.print(f"  - {sentence}", highlight=False, markup=False)
    table = Table(show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("figures")
    for what, text in figures(diagnosis):
        table.add_row(what, escape(text))
    console.print(table)


def figures(diagnosis: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is printed of a diagnosis, by name."""
    gap, size, gates = diagnosis["gap"], diagnosis["size"], diagnosis["gates"]
    if gap is not None:
        yield (
            "soft vs hard gates",
            f"{gap['soft']:.3f} -> {gap['hard']:.3f} mean validation score ({gap['points']:+.2f} points, "
            f"{gap['rows']} rows)",
        )
    target = "no budget" if size["target"] is None else f"{size['target']:,.10g} allowed"
    expected = "" if size["expected"] is None else f", {size['expected']:,.0f} expected before"
    pool = "" if size["pool"] is None else f", whole pool {size['pool']:,}"
    yield f"stored {size['unit']}", f"{size['realised']:,.10g} ({target}{expected}{pool})"
    for when, label in (("early", "gates, early in the search"), ("decided", "gates when decided")):
        if gates[when] is not None:
            shares = ", ".join(
                f"{100 * gates[when][key]:.0f} % {key}" for key in ("open", "closed", "undecided")
            )
            yield label, f"{shares} of {gates[when]['gates']:,}"
    ablation = diagnosis["ablation"]
    if ablation is not None and ablation["adapters"]:
        increases = [entry["increase"] for entry in ablation["adapters"]]
        yield (
            "closing one adapter",
            f"validation loss {ablation['loss']:.4g} rises by {min(increases):+.2g} to {max(increases):+.2g} "
            f"({len(increases)} of {ablation['stored']} tried, {ablation['rows']} rows)",
        )
        if idle := ablation.get("idle"):  # optional in reports
            yield (
                "closing what can be missed",
                f"{idle['adapters']} that can go one by one raise it by {idle['increase']:+.2g} together",
            )
        for kind in ("gate", "strength"):
            value = ablation[f"rank_correlation_{kind}"]
            yield f"its rank correlation with the {kind}", "none" if value is None else f"{value:.2f}"
    yield "open adapters per task", ", ".join(f"{task} {n}" for task, n in diagnosis["open_paths"].items())
