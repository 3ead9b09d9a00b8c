"""Where graftwork calls a library that reads files or the network, or runs a backbone unknown to us.

Such a library raises anything at all. `library_errors` turns it into one line with the library's own words;
an exception that comes from graftwork's own code is a fault of graftwork, and passes.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import DataError, GraftworkError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["forward_errors", "library_errors", "quiet_peft", "words_of"]

OURS = str(Path(__file__).parent)
"""Folder of this package, to tell its frames from those of a library."""
OLD_NAME = "`is_gradient_checkpointing` is deprecated"
"""Begin of a warning: peft 0.21 asks transformers 5.2x for a property by its old name."""
MOST = 300
"""Longest part of a library's message that is shown, in characters."""
OPTIONAL = ("sentencepiece", "tiktoken", "protobuf", "blobfile")
"""Packages that tokenizers need and Transformers does not install, by their name on PyPI."""
_MODULES = {"protobuf": "google.protobuf"}
"""Package on PyPI -> the module it installs, where the names differ."""
_MISSING = re.compile(r"No module named '([\w-]+)|requires the (\w+) library|pip install ([\w-]+)")
"""What libraries write when a package is missing."""


@contextmanager
def library_errors(what: str, kind: type[GraftworkError], cure: str = "") -> Iterator[None]:
    """Turn an exception of a library into one line.

    Args:
        what: what was tried, and with what; the line begins with it.
        kind: the error to raise.
        cure: what to do about it.

    Raises:
        GraftworkError: of that kind: `what; cure (the library's words)`.
    """
    try:
        yield
    except GraftworkError:
        raise
    except Exception as error:
        if isinstance(error, Warning) or _is_ours(error):
            raise
        raise kind(f"{what}{f'; {cure}' if cure else ''} ({words_of(error)})") from error


@contextmanager
def forward_errors(inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """`library_errors` around a pass of these rows through a model.

    Raises:
        DataError: the backbone cannot take them.
    """
    name, first = next(iter(inputs.items()))
    rows, *size = first.shape
    if name == "pixel_values":
        what = f"{rows} images of {size[-1]} x {size[-2]} pixels cannot be passed through the backbone"
        cure = "set training.image_size, or give the backbone and image processor that belong together"
    else:
        what = f"{rows} rows of up to {size[0]} tokens cannot be passed through the backbone"
        cure = "shorten the texts, or give the backbone and tokenizer that belong together"
    with library_errors(what, DataError, cure):
        yield


def words_of(error: BaseException) -> str:
    """What a library says of an error and of its cause, on one line; a package that is missing is named."""
    parts = [_line(error)]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and _line(cause) not in parts[0]:
        parts.append(_line(cause))
    whole = " ".join(str(error).split())
    missing = _missing_package(whole)
    text = ": ".join(part[:MOST] for part in parts)
    return f"{text}; pip install {missing}" if missing and f"pip install {missing}" not in text else text


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    # `KeyError('x')` says nothing but 'x', and an assertion nothing at all.
    bare = isinstance(error, KeyError | AssertionError | IndexError) or len(text) < 12
    return f"{type(error).__name__}{': ' if text else ''}{text}" if bare else text


def _missing_package(text: str) -> str | None:
    """The package that a message says is missing, if it is."""
    found = _MISSING.search(text)
    named = [next(name for name in found.groups() if name)] if found else []
    known = [name for name in OPTIONAL if name in text.lower()]
    for name in (*known, *named):
        name = name.lower()
        if not _installed(_MODULES.get(name, name.replace("-", "_"))):
            return name
    return None


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _is_ours(error: BaseException) -> bool:
    """Was the error raised in graftwork's own code, inside what the context calls?

    The first two frames are that of `library_errors` and that of the context's body. A library of compiled
    code has no frames of its own: if the body's is the last, the call it made has failed.
    """
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return len(frames) > 2 and Path(frames[-1]).is_relative_to(OURS)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Leave out what PEFT warns of when it wraps or loads a model, and no user of graftwork can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OLD_NAME, category=FutureWarning)
        yield
