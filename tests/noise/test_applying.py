"""What noise is, whatever it damages."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from torch import nn

from graftwork.errors import ConfigError
from graftwork.noise.applying import apply_to_task, model_noise
from graftwork.noise.kinds import KINDS, Noise, NoiseReport
from graftwork.noise.text import TEXT_NOISE
from noisy import toy_data


@pytest.mark.parametrize(
    ("kind", "when"), [("labels", "train"), ("row_drop", "train"), ("keyboard", "test"), ("weights", "test")]
)
def test_noise_knows_when_it_is_usual(kind: Any, when: str) -> None:
    assert Noise(kind, 0.1).when == when


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"kind": "keybord", "ratio": 0.1},
            r"unknown noise 'keybord'; did you mean 'keyboard'\? Allowed: char",
        ),
        (
            {"kind": "ocr", "ratio": 1.2},
            r"ocr noise: ratio=1.2 must be a number of at least 0 and at most 1, in CER",
        ),
        ({"kind": "characters", "ratio": 0.6}, "at most 0.5, in CER"),
        ({"kind": "embeddings", "ratio": -1}, "ratio=-1 must be a number of at least 0, in noise RMS"),
        ({"kind": "embeddings", "ratio": float("nan")}, "ratio=nan must be a number"),
        ({"kind": "ocr", "ratio": "much"}, "ratio='much' must be a number"),
        ({"kind": "labels", "ratio": 0.1, "when": "test"}, "labels noise: when='test' must be 'train'"),
        ({"kind": "weights", "ratio": 0.1, "when": "both"}, "when='both' must be 'test'"),
        ({"kind": "ocr", "ratio": 0.1, "when": "now"}, "when='now' must be 'test' or 'train' or 'both'"),
        ({"kind": "ocr", "ratio": 2, "seed": -1}, r"ratio=2 .*; seed=-1 must be a whole number"),
    ],
)
def test_wrong_settings_are_one_clear_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Noise(**arguments)
    assert "\n" not in str(error.value)


def test_every_kind_is_either_in_data_or_in_a_model_and_has_a_unit() -> None:
    for kind, facts in KINDS.items():
        noise = Noise(kind, 0.0)  # type: ignore[arg-type]
        assert noise.unit
        assert noise.target == facts.target
        assert (noise.target == "text") == (kind in TEXT_NOISE)


def test_a_report_is_plain_data() -> None:
    _, report = apply_to_task(toy_data(), Noise("word_drop", 0.1, "both", 2))
    plain = report.as_dict()
    assert {key: plain[key] for key in ("kind", "ratio", "when", "seed")} == {
        "kind": "word_drop",
        "ratio": 0.1,
        "when": "both",
        "seed": 2,
    }
    assert plain["unit"] == "fraction of words left out"
    assert (
        set(plain["realised"])
        == set(plain["items"])
        == set(plain["words"])
        == {"train", "validation", "test"}
    )
    assert plain["realised"] == plain["words"]


def test_either_call_passes_over_noise_that_is_not_its_own() -> None:
    data = toy_data()
    for kind, stage in itertools.product(KINDS, ("train", "test")):
        noise = Noise(kind, 0.1)  # type: ignore[arg-type]
        if noise.target == "model":
            assert apply_to_task(data, noise) == (data, NoiseReport(noise, {}, {}))
        else:
            with model_noise(nn.Linear(2, 2), noise, stage) as report:  # type: ignore[arg-type]
                assert report().realised == {}
