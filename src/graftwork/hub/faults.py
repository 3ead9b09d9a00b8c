"""What goes wrong between this machine and the hub, in one line that never holds a token."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from graftwork.errors import GraftworkError

__all__ = ["hub_errors", "quiet_in_files", "without_tokens"]

MOST = 200
"""Longest part of what the hub says that is shown, in characters."""
_TOKEN = re.compile(r"(?:hf|api)_\w{8,}|(?i:bearer)\s+\S+")
"""What looks like a token, whoever's it is."""
_MEANING = {
    400: "the hub refuses what was sent",
    401: "the hub does not accept the token, or there is no such model; set HF_TOKEN to a valid one, or log "
    "in with `hf auth login`",
    403: "the token does not allow this; use one that may write there, and the name of a user or an "
    "organisation it belongs to",
    404: "there is no such model, user or revision on the hub, or it is private and the token cannot see it",
    409: "somebody else has changed it at the same time; try again",
    412: "somebody else has changed it at the same time; try again",
    413: "a file is too large for the hub",
    429: "the hub asks for fewer calls; try again later",
}
"""Status of HTTP -> what it means here, and what to do."""


@contextmanager
def quiet_in_files() -> Iterator[None]:
    """Leave out the hub's own remarks, and its bars unless somebody sees them move."""
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity, seen = hub_logging.get_verbosity(), sys.stderr.isatty() or are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    if not seen:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if not seen:
            enable_progress_bars()


def without_tokens(text: str, token: str | None = None) -> str:
    """A text of a library or of the hub on one line, without the token and what looks like one."""
    line = " ".join(text.split())
    return _TOKEN.sub("***", line.replace(token, "***") if token else line)


@contextmanager
def hub_errors(what: str, kind: type[GraftworkError], token: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line.

    Args:
        what: what was tried; the line begins with it.
        kind: the error to raise.
        token: never part of the line.

    Raises:
        GraftworkError: of that kind. It has no cause: a traceback of the library may hold what was sent.
    """
    try:
        yield
        return
    except GraftworkError:
        raise
    except Exception as error:  # the library raises errors of httpx, of hf_xet, and its own
        line = f"{what}: {_reason(error, token)}"
    raise kind(without_tokens(line, token))


def _reason(error: Exception, token: str | None) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )

    found = _first(error, HfHubHTTPError, OfflineModeIsEnabled)
    if constants.HF_HUB_OFFLINE and (
        isinstance(error, LocalEntryNotFoundError) or isinstance(found, OfflineModeIsEnabled)
    ):
        part = "only a part of it is" if isinstance(error, IncompleteSnapshotError) else "it is not"
        cached = f"{part} in the cache {constants.HF_HUB_CACHE}, and "
        return (
            cached if isinstance(error, LocalEntryNotFoundError) else ""
        ) + "the hub is not asked while HF_HUB_OFFLINE is set; unset it"
    if isinstance(found, RevisionNotFoundError):
        return "the hub has this model, but no such revision; give a branch, a tag or a commit"
    if isinstance(found, HfHubHTTPError):
        status = found.response.status_code
        said = without_tokens(found.server_message or "", token)[:MOST]
        meaning = _MEANING.get(status, "the hub fails; try again later" if status >= 500 else "it fails")
        return f"{meaning} (HTTP {status}{f': {said}' if said else ''})"
    if isinstance(error, LocalEntryNotFoundError) or type(error).__module__.startswith("httpx"):
        return (
            f"the hub at {constants.ENDPOINT} cannot be reached"
            + (", and it is not in the cache" if isinstance(error, LocalEntryNotFoundError) else "")
            + f"; look at the network and at HF_ENDPOINT ({_words(error.__cause__ or error, token)})"
        )
    return _words(error, token)


def _first(error: BaseException | None, *kinds: type[BaseException]) -> BaseException | None:
    """The first of an error and its causes that is of one of these kinds."""
    while error is not None and not isinstance(error, kinds):
        error = error.__cause__
    return error


def _words(error: BaseException, token: str | None) -> str:
    return f"{type(error).__name__}: {without_tokens(str(error), token)[:MOST]}"
