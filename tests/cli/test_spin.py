from __future__ import annotations

import os
import subprocess
import sys

import pytest

from graftwork.cli.spin import CHOSEN, SPIN_LIMITS, limit_spinning

SCRIPT = f"""
import os
from graftwork.cli.spin import limit_spinning
limit_spinning()
print({{name: os.environ[name] for name in {CHOSEN} if name in os.environ}})
"""


@pytest.mark.parametrize("chosen", [{}, *({name: "passive"} for name in CHOSEN)], ids=str)
def test_a_limit_is_set_unless_a_user_has_set_one(chosen: dict[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**kept, **chosen}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(chosen or SPIN_LIMITS)


def test_too_late_once_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: F401

    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    limit_spinning()
    assert not set(CHOSEN) & set(os.environ)
