"""In a log a training tells how far it is, a line at a time and not too often."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graftwork.cli import main
from graftwork.messages import duration
from toyrun import write_run

LINE = re.compile(r"^training: step (\d+) of 54 \((\d+) %\)(, loss \d\.\d{3})?, about \d+ s left$")


def test_a_log_has_a_line_every_half_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(write_run(tmp_path))
    monkeypatch.setattr("graftwork.training.bars.EVERY", 1e9)
    main(["fit", recipe])
    assert "training: step" not in capsys.readouterr().err
    monkeypatch.setattr("graftwork.training.bars.EVERY", 0.0)
    main(["fit", recipe, "--overwrite"])
    found = [
        LINE.match(line) for line in capsys.readouterr().err.splitlines() if line.startswith("training:")
    ]
    assert all(found)
    assert [int(line[1]) for line in found if line] == list(range(1, 55))
    assert any(line[3] for line in found if line)


def test_seconds_in_words() -> None:
    assert [duration(seconds) for seconds in (0.4, 89, 91, 5399, 5401)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
    ]
