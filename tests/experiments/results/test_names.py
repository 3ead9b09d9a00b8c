"""Titles of groups."""

from __future__ import annotations

from graftwork.experiments.results.names import told_apart


def test_groups_of_one_title_are_told_apart_by_the_settings_in_which_they_differ() -> None:
    def settings(rate: float, pool: int, warmup: float) -> dict[str, object]:
        return {
            "training": {"learning_rate": rate, "epochs": 3},
            "graft": {"pool_size": pool, "gates": "importance"},
            "schedule": {"warmup": warmup},
            "seed": 0,
        }

    titles = {"a": "search", "b": "search", "c": "search", "d": "uniform"}
    told = told_apart(
        titles,
        {
            "a": settings(0.003, 16, 0.1),
            "b": settings(0.001, 16, 0.1),
            "c": settings(0.003, 4, 0.1),
            "d": settings(0.01, 16, 0.1),
        },
    )
    assert told == {
        "a": "search · pool_size 16, rate 0.003",
        "b": "search · pool_size 16, rate 0.001",
        "c": "search · pool_size 4, rate 0.003",
        "d": "uniform",
    }


def test_a_setting_that_one_group_lacks_is_named_and_equal_groups_stay_alike() -> None:
    titles = {"a": "x", "b": "x"}
    assert told_apart(titles, {"a": {"method": {"structure": "uniform"}}, "b": {}}) == {
        "a": "x · structure uniform",
        "b": "x · structure null",
    }
    assert told_apart(titles, {"a": {"seed": 0}, "b": {"seed": 1}}) == titles
