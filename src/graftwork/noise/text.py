"""Noise in a text: characters, OCR errors, keyboard typos, lost and swapped words; and its measures.

Every function depends on the text, the ratio and a key alone. A larger ratio of `ocr`, `keyboard` and
`drop_words` damages what a smaller one does, and more.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import random
import re
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import ConfigError

__all__ = [
    "TEXT_NOISE",
    "characters",
    "drop_words",
    "edit_distance",
    "keyboard",
    "moved_words",
    "ocr",
    "swap_words",
]

_SPACES = re.compile(r"(\s+)")
"""White space, kept when a text is split into words."""


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Levenshtein distance of two texts (in characters) or of two lists of words.

    One column of the distance table is a pair of bit vectors, here integers of any length, so the cost is
    that of `len(second)` operations on them.

    Source: Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances".
    """
    if not first or not second:
        return max(len(first), len(second))
    places: dict[Hashable, int] = {}
    for i, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << i
    distance = len(first)
    last = 1 << (distance - 1)
    full = (1 << distance) - 1
    rises, falls = full, 0
    for item in second:
        match = places.get(item, 0)
        diagonal = (((match & rises) + rises) ^ rises) | match | falls
        up = falls | (full & ~(diagonal | rises))
        down = rises & diagonal
        distance += bool(up & last) - bool(down & last)
        up = up << 1 | 1
        rises = full & (down << 1 | ~(diagonal | up))
        falls = full & up & diagonal
    return distance


def moved_words(first: Sequence[str], second: Sequence[str]) -> int:
    """Places whose word differs; an edit distance counts less for a run of swaps. Equal lengths."""
    return sum(a != b for a, b in zip(first, second, strict=True))


def characters(text: str, ratio: float, key: int) -> str:
    """Insert, swap, substitute and delete characters at random; the expected CER is `ratio` (textnoisr).

    Raises:
        ConfigError: textnoisr is not installed.
    """
    try:
        from textnoisr.noise import CharNoiseAugmenter
    except ImportError as error:
        raise _missing("characters", "textnoisr") from error
    with warnings.catch_warnings():
        # For a text of one character, with nothing to swap, its solver finds no root, says so and gives 0.
        warnings.simplefilter("ignore", RuntimeWarning)
        return str(CharNoiseAugmenter(noise_level=ratio, seed=key).add_noise(text))


def ocr(text: str, ratio: float, key: int) -> str:
    """Confuse characters that look alike: `ratio` of all, as far as nlpaug's table knows enough of them.

    Raises:
        ConfigError: nlpaug is not installed.
    """
    return _substitute(text, ratio, key, _ocr_table())


def keyboard(text: str, ratio: float, key: int) -> str:
    """Hit a neighbouring key: for `ratio` of all, as far as nlpaug's English table knows enough of them.

    Raises:
        ConfigError: nlpaug is not installed.
    """
    return _substitute(text, ratio, key, _keyboard_table())


def drop_words(text: str, ratio: float, key: int) -> str:
    """Leave out words; a text keeps at least one. Words are what white space separates."""
    pieces = _SPACES.split(text)
    words = [i for i in range(0, len(pieces), 2) if pieces[i]]
    rng = random.Random(key)
    count = min(_count(ratio, len(words), rng), len(words) - 1)
    if count <= 0:
        return text
    lost = list(words)
    rng.shuffle(lost)
    first, *others = sorted(lost[count:])
    leading, trailing = "".join(pieces[: words[0]]), "".join(pieces[words[-1] + 1 :])
    return leading + pieces[first] + "".join(pieces[i - 1] + pieces[i] for i in others) + trailing


def swap_words(text: str, ratio: float, key: int) -> str:
    """Swap words with their neighbours, so that `ratio` of the words move; no word moves twice."""
    pieces = _SPACES.split(text)
    words = [i for i in range(0, len(pieces), 2) if pieces[i]]
    rng = random.Random(key)
    pairs = min(_count(ratio / 2, len(words), rng), len(words) // 2)
    # Any choice of places in the row of single words and pairs is one way to choose disjoint pairs.
    for shift, start in enumerate(sorted(rng.sample(range(len(words) - pairs), pairs))):
        i, j = words[start + shift], words[start + shift + 1]
        pieces[i], pieces[j] = pieces[j], pieces[i]
    return "".join(pieces)


TEXT_NOISE: dict[str, Callable[[str, float, int], str]] = {
    "characters": characters,
    "ocr": ocr,
    "keyboard": keyboard,
    "word_drop": drop_words,
    "word_swap": swap_words,
}


def _count(ratio: float, total: int, rng: random.Random) -> int:
    """`ratio * total`, rounded up or down at random so that the expectation is exact even in short texts."""
    return int(ratio * total + rng.random())


def _substitute(text: str, ratio: float, key: int, table: Mapping[str, Sequence[str]]) -> str:
    rng = random.Random(key)
    count = _count(ratio, len(text), rng)
    known = [i for i, character in enumerate(text) if character in table]
    rng.shuffle(known)
    result = list(text)
    for i in known[:count]:
        result[i] = rng.choice(table[text[i]])
    return "".join(result)


def _missing(kind: str, package: str) -> ConfigError:
    return ConfigError(
        f"{kind} noise needs {package}, which is not installed; run `pip install 'graftwork[noise]'`"
    )


def _read_table(kind: str, name: str) -> dict[str, list[str]]:
    """Read a table of nlpaug without importing it.

    Importing it needs pandas, gdown and requests and loads torch; its augmenters change the white space
    around punctuation, round up to a character per word, and draw from the global random state.
    """
    spec = importlib.util.find_spec("nlpaug")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(folder, "res", "char", name, "en.json")
        if file.is_file():
            table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return {key: list(values) for key, values in table.items()}
    raise _missing(kind, "nlpaug")


@functools.cache
def _ocr_table() -> dict[str, list[str]]:
    """The table read both ways, as nlpaug does: `0` looks like `O`, so `O` looks like `0`."""
    table = _read_table("ocr", "ocr")
    both: dict[str, set[str]] = {}
    for key, values in table.items():
        for value in values:
            both.setdefault(key, set()).add(value)
            both.setdefault(value, set()).add(key)
    return {key: sorted(values) for key, values in both.items()}


@functools.cache
def _keyboard_table() -> dict[str, list[str]]:
    """The table for small and capital letters, as nlpaug does: a neighbouring key, with or without shift."""
    table: dict[str, list[str]] = {}
    for key, values in _read_table("keyboard", "keyboard").items():
        # One entry of the table has a stray blank, which would make two words of one.
        near = {case for value in values if len(value) == 1 for case in (value, value.upper())}
        for case in (key, key.upper()):
            table[case] = sorted(near - {case})
    return {key: values for key, values in table.items() if values}
