from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.recipe.shares import SHARE, plain_share, share_slips, spelled_share


@dataclass
class Settings:
    budget: float | None = field(default=None, metadata=SHARE)
    budgets: tuple[float, ...] = field(default=(), metadata=SHARE)
    other: float = 0.0


@pytest.mark.parametrize(
    ("given_value", "number"),
    [
        ("0.3%", 0.003),
        ("0.7 %", 0.007),
        ("30%", 0.3),
        (" 1e-1%", 0.001),
        ("5.%", 0.05),
        (0.5, 0.5),
        ("x", "x"),
    ],
)
def test_percent_is_the_number_a_file_would_have(given_value: Any, number: Any) -> None:
    assert plain_share(given_value) == number
    assert plain_share([given_value, None]) == [number, None]
    assert plain_share(given_value, "graft.r") == given_value


@pytest.mark.parametrize(
    "value", ["0%", "100%", "150%", "-1%", "nan%", "%", "1%%", "1e999%", "9" * 400 + "%"]
)
def test_what_is_no_part_of_a_whole_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="a percentage above 0% and below 100%, such as"):
        plain_share(value)


@given(st.floats(min_value=1e-9, max_value=1, exclude_max=True))
def test_what_is_written_reads_as_the_same_number(share: float) -> None:
    written = spelled_share(share)
    assert plain_share(written) == share
    assert share_slips(Settings, {"budget": written}, "") == []


def test_a_plain_tenth_is_a_slip() -> None:
    raw = {"budget": "3e-1", "budgets": [0.01, 0.5, 2], "other": 0.5}
    assert share_slips(Settings, raw, "graft.") == [
        "graft.budget='3e-1' would be 30 %; write 0.3% or 0.003, or 30% if that is meant",
        "graft.budgets=0.5 would be 50 %; write 0.5% or 0.005, or 50% if that is meant",
    ]
    assert share_slips(Settings, {"budget": 3}, "", below=100) == [
        "budget=3 would be 300 %; write 3% or 0.03"
    ]
    assert share_slips(Settings, {"budget": True, "budgets": "0.5"}, "") != []
    assert share_slips(Settings, 3, "") == []
