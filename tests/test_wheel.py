"""What is released: it builds, passes the index's checks, and predicts when it is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import graftwork

ROOT = Path(__file__).parents[1]
TOOLS = ("build", "hatchling", "twine")


def run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert project["version"] == graftwork.__version__ == citation["version"]
    assert citation["license"] == project["license"]


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, TOOLS)), reason=f"needs {', '.join(TOOLS)} (make develop)")
def test_the_wheel_predicts(tmp_path: Path) -> None:
    run("-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    run("-m", "twine", "check", "--strict", str(wheel), str(source))
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("pages/templates/fit.html.j2", "shipped/quickstart/adapter_model.safetensors", "py.typed"):
        assert f"graftwork/{part}" in names
    assert not [name for name in names if name.startswith(("tests", "docs"))]
    with tarfile.open(source) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert {
        "README.md",
        "LICENSE",
        "CITATION.cff",
        "tests/test_wheel.py",
        "recipes/quickstart.yaml",
    } <= inside
    place = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(place), str(wheel))
    block = re.search(
        r"```python\n(import graftwork as gw\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block is not None
    script = f"{block[1]}\nprint(gw.__file__)"
    *answers, file = run("-c", script, PYTHONPATH=str(place), HF_HUB_OFFLINE="1").splitlines()
    assert Path(file).is_relative_to(place)
    expected = [line.removeprefix("# ") for line in block[1].splitlines() if line.startswith("# [")]
    assert answers == expected
