"""A sentence for everything that is off, and none if nothing is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from rich.console import Console

from graftwork.diagnosis.findings import find, print_diagnosis

WELL: dict[str, Any] = {
    "of": "structure",
    "gap": {"rows": 100, "soft": 0.81, "hard": 0.809, "points": -0.1},
    "size": {"unit": "parameters", "target": 1000, "realised": 990, "expected": 1010.0, "pool": 4000},
    "gates": {
        "early": {"gates": 40, "open": 0.7, "closed": 0.1, "undecided": 0.2},
        "decided": {"gates": 40, "open": 0.2, "closed": 0.7, "undecided": 0.1},
    },
    "ablation": {
        "rows": 100,
        "loss": 0.5,
        "stored": 10,
        "adapters": [
            {"site": "s", "adapter": k, "increase": 0.01 * k, "gate": 0.9, "strength": 1.0}
            for k in range(1, 11)
        ],
        "idle": {"adapters": 0, "increase": 0.0},
        "rank_correlation_gate": 0.4,
        "rank_correlation_strength": None,
    },
    "open_paths": {"cats": 3, "dogs": 2},
}


def changed(*path: Any, value: Any) -> dict[str, Any]:
    diagnosis = copy.deepcopy(WELL)
    target: Any = diagnosis
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return diagnosis


def test_no_sentence_if_nothing_is_off() -> None:
    assert find(WELL) == []
    nothing = {**WELL, "gap": None, "ablation": None, "gates": {"early": None, "decided": None}}
    assert find(nothing) == []


@pytest.mark.parametrize(
    ("diagnosis", "sentence"),
    [
        (
            changed("gap", value={"rows": 9, "soft": 0.8, "hard": 0.75, "points": -5.0}),
            "Deciding the gates cost 5.0 points of the mean validation score (0.800 with soft gates, 0.750",
        ),
        (
            changed("size", "target", value=5000),
            "The budget of 5,000 parameters cannot be reached: the whole pool has 4,000",
        ),
        (
            changed("size", "expected", value=1900.0),
            "did not come down to the budget: 1,900 parameters were expected open when the structure",
        ),
        (
            changed("gates", "early", "closed", value=0.95),
            "The gates saturated early: 95 % were closed after a quarter of the search",
        ),
        (
            changed("gates", "decided", "open", value=0.95),
            "95 % of the gates were open when the structure was decided",
        ),
        (
            changed("gates", "decided", "undecided", value=0.6),
            "60 % of the gates were undecided (P(open) between 0.1 and 0.9)",
        ),
        (
            changed("open_paths", "dogs", value=0),
            "Task 'dogs' has no path: it uses no adapter and gets the bare backbone",
        ),
        (
            changed("ablation", "idle", value={"adapters": 6, "increase": 0.0004}),
            "6 of 10 open adapters do nothing: without them, one by one or all at once, the validation",
        ),
        (
            changed("ablation", "rank_correlation_gate", value=-0.3),
            "rank the open adapters no better than chance: the rank correlation",
        ),
    ],
)
def test_a_plain_sentence_for_what_is_off(diagnosis: dict[str, Any], sentence: str) -> None:
    (found,) = find(diagnosis)
    assert sentence in found
    assert found.endswith(".")


def test_adapters_that_stand_in_for_each_other_are_not_said_to_do_nothing() -> None:
    diagnosis = changed("ablation", "idle", value={"adapters": 6, "increase": 0.02})
    assert find(diagnosis) == []
    diagnosis["ablation"]["rank_correlation_gate"] = -0.3
    assert find(diagnosis) == []


def test_a_path_through_a_stored_pool_may_be_as_large_as_it_likes() -> None:
    diagnosis = {**changed("size", "target", value=5000), "of": "path"}
    assert find(diagnosis) == []
    free = {**changed("gates", "decided", "open", value=1.0), "of": "path"}
    free["size"] = {**free["size"], "target": None}
    assert find(free) == []


def test_print(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=120)
    print_diagnosis({**WELL, "findings": []}, console, "search")
    out = capsys.readouterr().out
    assert "search: nothing is off" in out
    assert "0.810 -> 0.809 mean validation score (-0.10 points, 100 rows)" in out
    print_diagnosis({**WELL, "findings": ["Broken."]}, console, "search")
    assert "search: 1 finding(s)\n  - Broken." in capsys.readouterr().out
