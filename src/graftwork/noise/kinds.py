"""Kinds of noise, and `Noise`: how much of which, in training or in testing, as data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from graftwork.data.task import SPLITS
from graftwork.errors import ConfigError
from graftwork.messages import did_you_mean

__all__ = ["KINDS", "Kind", "Noise", "NoiseKind", "NoiseReport", "When"]

Kind = Literal[
    "characters",
    "ocr",
    "keyboard",
    "word_drop",
    "word_swap",
    "labels",
    "row_drop",
    "embeddings",
    "path_drop",
    "path_redraw",
    "weights",
]
When = Literal["train", "test", "both"]

_ANY: tuple[When, ...] = ("test", "train", "both")
"""All values of `when`, the default first."""


@dataclass(frozen=True)
class NoiseKind:
    """What one kind of noise means by its ratio.

    Example:
        >>> from graftwork.noise import KINDS
        >>> KINDS["keyboard"].unit
        'CER (character edits / characters)'
        >>> KINDS["labels"].when
        ('train',)
    """

    target: Literal["text", "rows", "model"]
    """What it changes."""
    unit: str
    """Unit of the ratio, for tables."""
    when: tuple[When, ...] = _ANY
    """When it may be applied, the default first."""
    most: float = 1.0
    """The largest ratio."""


_CER = "CER (character edits / characters)"
"""Unit of the noises in characters: character error rate."""
KINDS: dict[str, NoiseKind] = {
    # textnoisr's swaps cannot reach a larger error rate than 0.509.
    "characters": NoiseKind("text", _CER, most=0.5),
    "ocr": NoiseKind("text", _CER),
    "keyboard": NoiseKind("text", _CER),
    "word_drop": NoiseKind("text", "fraction of words left out"),
    "word_swap": NoiseKind("text", "fraction of words moved"),
    "labels": NoiseKind("rows", "fraction of training labels changed", ("train",)),
    "row_drop": NoiseKind("rows", "fraction of training rows left out", ("train",)),
    "embeddings": NoiseKind("model", "noise RMS / RMS of the input embeddings", most=math.inf),
    "path_drop": NoiseKind("model", "fraction of open paths closed"),
    "path_redraw": NoiseKind("model", "fraction of open paths with a random gate"),
    # In training, removing it at the end would also remove what was learned.
    "weights": NoiseKind("model", "noise RMS / RMS of the adapter weights", ("test",), most=math.inf),
}
"""Name of a kind of noise -> what it changes, its unit, and when it may be applied."""


@dataclass(frozen=True)
class Noise:
    """One kind of noise.

    `train` noise is in the training split, or in passes in training mode; `test` noise in the test split, or
    in passes while testing; `both` is everywhere, in the validation split too.

    Raises:
        ConfigError: a setting is wrong; the message names all that are.

    Example:
        >>> from graftwork.noise import Noise
        >>> noise = Noise("word_drop", 0.1)
        >>> noise.when, noise.unit
        ('test', 'fraction of words left out')
        >>> Noise("word_dorp", 0.1)
        Traceback (most recent call last):
            ...
        graftwork.errors.ConfigError: unknown noise 'word_dorp'; did you mean 'word_drop'? Allowed: ...
    """

    kind: Kind
    """What is damaged: characters, ocr, keyboard, word_drop, word_swap, labels, row_drop, embeddings,
    path_drop, path_redraw or weights."""
    ratio: float
    """How much, in the unit of the kind (`KINDS`); 0: nothing."""
    when: When | None = None
    """In training, in testing, or in both; null: labels and rows in training, the rest in testing."""
    seed: int = 0
    """Seed of all random choices."""

    def __post_init__(self) -> None:
        """Fill in `when` and check everything at once."""
        if self.kind not in KINDS:
            hint = did_you_mean(self.kind, KINDS)
            raise ConfigError(f"unknown noise {self.kind!r}{hint} Allowed: {', '.join(KINDS)}.")
        kind = KINDS[self.kind]
        if self.when is None:
            object.__setattr__(self, "when", kind.when[0])
        faults = []
        number = not isinstance(self.ratio, bool) and isinstance(self.ratio, int | float)
        if not number or not math.isfinite(self.ratio) or not 0 <= self.ratio <= kind.most:
            top = f" and at most {kind.most:g}" if math.isfinite(kind.most) else ""
            faults.append(f"ratio={self.ratio!r} must be a number of at least 0{top}, in {kind.unit}")
        if self.when not in kind.when:
            faults.append(f"when={self.when!r} must be {' or '.join(map(repr, kind.when))}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            faults.append(f"seed={self.seed!r} must be a whole number of at least 0 and below 2^63")
        if faults:
            raise ConfigError(f"{self.kind} noise: " + "; ".join(faults) + ".")

    @property
    def target(self) -> Literal["text", "rows", "model"]:
        """What is changed: texts, rows (or their labels), or the model."""
        return KINDS[self.kind].target

    @property
    def unit(self) -> str:
        """The unit of the ratio."""
        return KINDS[self.kind].unit

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that noise in data changes."""
        return SPLITS if self.when == "both" else (str(self.when),)


@dataclass(frozen=True)
class NoiseReport:
    """The noise that was asked for and the noise there was.

    Example:
        >>> from graftwork.noise import Noise, NoiseReport
        >>> report = NoiseReport(Noise("word_drop", 0.1), realised={"test": 0.098}, items={"test": 512})
        >>> report.as_dict()["unit"], report.realised["test"]
        ('fraction of words left out', 0.098)
    """

    noise: Noise
    realised: Mapping[str, float]
    """Split (or stage, for noise in a model) -> measured ratio in the noise's unit. Empty: none applied."""
    items: Mapping[str, int]
    """What was measured: characters, words, rows, paths, vectors or weights."""
    words: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """For noise in texts: split -> word edits / words. A CER of .15 touches more than half of all words."""

    @property
    def unit(self) -> str:
        """Unit of the asked and the realised ratio."""
        return self.noise.unit

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **dataclasses.asdict(self.noise),
            "unit": self.unit,
            "realised": dict(self.realised),
            "items": dict(self.items),
            "words": dict(self.words),
        }
