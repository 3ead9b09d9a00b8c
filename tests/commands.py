"""A way to run a command of graftwork in this process, as a user would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from graftwork.cli import main

__all__ = ["Command", "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of a refusal; anything else fails the test."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("graftwork: "), self.err
        return lines[0]


Command = Callable[..., Ended]
"""`command("show", folder)`; with `stdin=` bytes."""


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that must fail with one line on standard error; return the line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    error = capsys.readouterr().err
    assert stopped.value.code == code, error
    assert error.startswith("graftwork: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error
