from __future__ import annotations

import pytest

import graftwork as gw
from graftwork.errors import ConfigError
from graftwork.patterns import check_pattern, matching
from graftwork.tuner.sites import resolve_sites
from toys import tiny


def test_names_are_matched_as_a_whole() -> None:
    names = ["layer.0.dense", "layer.1.dense", "layer.1.dense.x"]
    assert matching("target_modules", r"layer\.\d+\.dense", names) == names[:2]


@pytest.mark.parametrize("pattern", ["(", "[a-", "(?P<n>", "x{5,2}", "(" * 5000, "a" * 10_001])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match="target_modules"):
        check_pattern("target_modules", pattern)
    with pytest.raises(ConfigError, match="exclude_modules"):
        gw.GraftConfig(exclude_modules=pattern)


@pytest.mark.parametrize("setting", ["target_modules", "exclude_modules"])
def test_a_pattern_that_never_ends_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graftwork.patterns.SECONDS", 0.3)
    pattern = r"(.|..|...)*[!?]"
    with pytest.raises(ConfigError, match=f"{setting}=.* takes more than 0.3 seconds"):
        resolve_sites(tiny(), gw.GraftConfig(**{setting: pattern}))


@pytest.mark.parametrize("setting", ["modules_to_save", "layers_pattern"])
def test_peft_makes_patterns_of_these_so_they_must_be_names(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} has '.*'; a name of a module"):
        gw.GraftConfig(**{setting: ["(a+)+$"]})
