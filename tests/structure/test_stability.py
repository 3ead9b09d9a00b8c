"""How alike structures are, with what chance would give beside it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from rich.console import Console

from graftwork.errors import StructureError
from graftwork.structure.stability import jaccard, print_stability, stability
from graftwork.structure.structure import SiteStructure, Structure

TASKS = ("cats", "dogs")


def structure(
    counts: list[tuple[int, int]], *, pool: int = 4, rotate: int = 0, prefix: str = "s"
) -> Structure:
    """`counts[site]`: open adapters of both tasks, the first ones of the pool after a rotation."""
    sites = {}
    for index, pair in enumerate(counts):
        table = [[(k + rotate) % pool < count for k in range(pool)] for count in pair]
        sites[f"{prefix}{index}"] = SiteStructure(pool, 2, 10, tuple(map(tuple, table)))
    return Structure(TASKS, sites)


def test_jaccard_counts_adapters_per_site() -> None:
    assert jaccard(Counter(a=2, b=1), Counter(a=1, c=1)) == pytest.approx(1 / 4)
    assert jaccard(Counter(), Counter()) == 1.0
    assert jaccard(Counter(a=1), Counter()) == 0.0


def test_interchangeable_adapters_make_equal_structures() -> None:
    counts = [(2, 1), (0, 0), (3, 4)]
    result = stability({"a": structure(counts), "b": structure(counts, rotate=1)})
    assert result["stored"]["mean"] == 1.0
    assert {entry["least"] for entry in result["tasks"].values()} == {1.0}
    assert result["pairs"] == [{"runs": ["a", "b"], "stored": 1.0, "tasks": {"cats": 1.0, "dogs": 1.0}}]


def test_mean_and_least_over_pairs() -> None:
    runs = {
        "a": structure([(2, 0), (0, 0)]),
        "b": structure([(1, 0), (1, 0)]),
        "c": structure([(0, 0), (2, 0)]),
    }
    cats = stability(runs)["tasks"]["cats"]
    assert cats["least"] == 0.0
    assert cats["mean"] == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)


def test_random_structures_are_as_alike_as_chance() -> None:
    draw = random.Random(0)

    def drawn() -> Structure:
        sites = {}
        for index in range(40):
            row = tuple(draw.random() < 0.3 for _ in range(4))
            sites[f"s{index}"] = SiteStructure(4, 2, 10, (row, row))
        return Structure(TASKS, sites)

    result = stability({str(run): drawn() for run in range(5)})
    assert result["stored"]["mean"] == pytest.approx(result["stored"]["chance"], abs=0.05)
    assert any(
        "what is stored is no more alike than random structures" in found for found in result["findings"]
    )
    same = stability({"a": structure([(4, 4), *[(0, 0)] * 9]), "b": structure([(4, 4), *[(0, 0)] * 9])})
    assert same["findings"] == []
    assert same["stored"]["chance"] < 0.3


def test_chance_is_unknown_of_compact_structures(capsys: pytest.CaptureFixture[str]) -> None:
    compact = structure([(4, 4)])
    result = stability({"a": compact, "b": compact})
    assert result["stored"] == {"mean": 1.0, "least": 1.0, "chance": None}
    assert result["findings"] == []
    print_stability(result, Console(width=100))
    assert "unknown" in capsys.readouterr().out


def test_runs_that_cannot_be_compared() -> None:
    with pytest.raises(StructureError, match="at least two"):
        stability({"a": structure([(1, 1)])})
    with pytest.raises(StructureError, match="no site in common"):
        stability({"a": structure([(1, 1)]), "b": structure([(1, 1)], prefix="t")})
