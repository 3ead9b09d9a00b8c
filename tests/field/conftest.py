"""What users do, at the command line: toy models that are fitted once, and a way to run a command."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from commands import Command, Ended
from graftwork.cli import main
from toyrun import write_run


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command line in this process."""

    def run(*arguments: object, stdin: bytes | None = None) -> Ended:
        capfd.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code: object = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        assert isinstance(code, int), code
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipe.yaml`, `backbone`, `data` and the toy model in `out`; copy it to change it."""
    folder = tmp_path_factory.mktemp("fitted")
    main(["fit", str(write_run(folder))])
    return folder
