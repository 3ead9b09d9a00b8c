"""What every case must end in: success, or a `GraftworkError` of one line, soon and within bounded memory."""

from __future__ import annotations

import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

import graftwork
from graftwork.errors import GraftworkError

FULL = "fuzz"
"""The profile of `make test-fuzz`, given as `--hypothesis-profile`."""
settings.register_profile(FULL, max_examples=600, print_blob=False)
settings.register_profile("few", max_examples=40, derandomize=True, database=None, print_blob=False)

CASES: Counter[str] = Counter()
"""Cases that ran, by kind."""
SECONDS = 20.0
"""Of processor time for one case; most take hundredths."""
BLOCKED = 200.0
"""Of any time: what waits for a pipe takes no processor time."""
HEADROOM = 2 * 2**30
"""Address space that a test may take beyond what the process has when it starts."""
LONGEST = 4000
"""Characters of a message."""
MARKER = Path("/tmp") / f"graftwork-fuzz-executed-{os.getpid()}"
"""Made by every payload, if it is executed."""
_SOURCE = str(Path(graftwork.__file__).parent)


class Hang(BaseException):
    """A case that takes too long; no `except Exception` may swallow it."""


def share(of_all: float) -> settings:
    """Settings of a test that takes this share of the profile's cases."""
    # Not as the profile of the session: that would hold for the tests beside these, too.
    profile = settings.get_profile(FULL if settings.get_current_profile_name() == FULL else "few")
    return settings(
        profile,
        max_examples=max(3, round(profile.max_examples * of_all)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Refuse the process more than `HEADROOM` of further address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def case(kind: str, *names: str, foreign: bool = False) -> Iterator[None]:
    """Count a case, and check how it ends.

    Args:
        kind: what is counted.
        *names: a message must have one of them; none: any.
        foreign: an error that was raised outside graftwork's code, and not called from it, is let pass.
    """
    CASES[kind] += 1

    def too_long(*_: Any) -> None:
        raise Hang(f"{kind}: more than {SECONDS:g} seconds of processor time, or {BLOCKED:g} of any")

    timers = {signal.ITIMER_PROF: (signal.SIGPROF, SECONDS), signal.ITIMER_REAL: (signal.SIGALRM, BLOCKED)}
    old = {number: signal.signal(number, too_long) for number, _ in timers.values()}
    for timer, (_, seconds) in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    except GraftworkError as error:
        message = " ".join(str(error).split())
        assert message, "an empty message"
        assert len(message) <= LONGEST, f"a message of {len(message)} characters: {message[:300]}"
        assert "allocate" not in message, f"memory was asked for before the size was checked: {message}"
        assert not names or any(name in message for name in names), f"names none of {names}: {message}"
    except Exception as error:
        if not foreign or _passed_through(error):
            raise
    finally:
        for timer, (number, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, old[number])
    assert not MARKER.exists(), "a payload was executed"


def _passed_through(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename.startswith(_SOURCE):
            return True
        traceback = traceback.tb_next
    return False
