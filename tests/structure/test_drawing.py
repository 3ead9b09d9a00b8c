from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from graftwork.errors import GraftworkError
from graftwork.structure.drawing import structure_png, structure_table
from graftwork.structure.structure import SiteStructure, Structure

PNG = b"\x89PNG\r\n\x1a\n"


def bert(layers: int = 2) -> Structure:
    """Two tasks; adapter 0 of every site is shared, adapter 1 private to `b`, adapter 2 closed."""
    site = SiteStructure(pool_size=3, r=2, cost=1000, open=((True, False, False), (True, True, False)))
    closed = SiteStructure(pool_size=3, r=2, cost=1000, open=((False,) * 3,) * 2)
    sites = {}
    for layer in range(layers):
        sites[f"encoder.layer.{layer}.attention.output.dense"] = site
        sites[f"encoder.layer.{layer}.output.dense"] = closed
    return Structure(("a", "b"), sites)


def text(structure: Structure, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(structure_table(structure))
    return capture.get()


def test_table_has_a_cell_per_task_and_site() -> None:
    rows = {line.split()[0]: line.split()[1:] for line in text(bert()).splitlines() if line.split()}
    assert rows["a"] == ["1", "1", "·", "·", "2", "2,000"]
    assert rows["b"] == ["2", "2", "·", "·", "4", "4,000"]
    assert rows["task"] == ["0", "1", "0", "1", "open", "parameters"]
    assert "attention.output.dense   output.dense" in text(bert())
    assert "4 of 12 adapters stored, 4,000 parameters; 2 shared by two or more tasks" in " ".join(
        text(bert()).split()
    )


def test_table_of_a_deep_model_stacks_the_kinds_and_fits() -> None:
    shown = text(bert(layers=32), width=80)
    assert "…" not in shown
    assert "2" * 32 in shown
    assert "·" * 32 in shown
    assert "0    5    10   15   20   25   30" in shown
    total = shown[shown.index("all sites") :]
    assert ["b", "64", "64,000"] in [line.split() for line in total.splitlines()]


def test_table_of_encoder_and_decoder_keeps_them_apart() -> None:
    site = SiteStructure(1, 1, 10, ((True,),))
    structure = Structure(("a",), {f"{half}.block.0.layer.0.wo": site for half in ("encoder", "decoder")})
    assert "encoder.block.*.layer.0.wo" in text(structure)
    assert "decoder.block.*.layer.0.wo" in text(structure)


def test_table_of_one_task_does_not_speak_of_sharing() -> None:
    assert "shared" not in text(bert().only("a"))


def test_site_without_layer_and_structure_without_site() -> None:
    alone = Structure(("a",), {"pooler.dense": SiteStructure(12, 1, 5, ((True,) * 12,))})
    assert "pooler.dense" in text(alone)
    assert "12 of 12 adapters stored, 60 parameters" in " ".join(text(alone).split())
    assert "0 of 0 adapters stored" in " ".join(text(Structure(("a", "b"), {})).split())


@pytest.mark.parametrize("structure", [bert(), bert(12).compacted(), bert().only("b"), Structure(("a",), {})])
def test_png(tmp_path: Path, structure: Structure) -> None:
    path = tmp_path / "structure.png"
    path.write_text("an older picture")
    structure_png(structure, path)
    assert path.read_bytes().startswith(PNG)
    assert list(tmp_path.iterdir()) == [path]


def test_png_shows_what_is_open_what_is_closed_and_what_is_shared(tmp_path: Path) -> None:
    from matplotlib.colors import to_hex
    from matplotlib.image import imread

    from graftwork.structure.drawing import _column, _shade

    structure_png(bert(), tmp_path / "structure.png")
    pixels = imread(tmp_path / "structure.png")[..., :3].reshape(-1, 3)
    shown = {to_hex(pixel) for pixel in {tuple(pixel) for pixel in pixels}}
    expected = set()
    for name, site in bert().sites.items():
        *tasks, stored, shared = _column(bert(), name)
        assert [count for count, _ in tasks] == [sum(row) for row in site.open]
        assert stored[0] == sum(site.used)
        assert shared[0] == sum(sum(column) > 1 for column in zip(*site.open, strict=True))
        expected |= {_shade(count, most, total=False)[0] for count, most in tasks}
        expected |= {_shade(count, most, total=True)[0] for count, most in (stored, shared)}
    assert len(expected) > 2
    assert expected <= shown


BERT = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
BERT += ("intermediate.dense", "output.dense")
LLAMA = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


@pytest.mark.parametrize(
    ("tasks", "layers", "prefix", "kinds"),
    [(2, 6, "encoder.layer", BERT[3::2]), (8, 6, "encoder.layer", BERT), (32, 25, "model.layers", LLAMA)],
)
def test_png_can_be_read(tasks: int, layers: int, prefix: str, kinds: tuple[str, ...]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from graftwork.structure.drawing import _draw

    site = SiteStructure(32, 1, 65, tuple(tuple(k <= t % 12 for k in range(32)) for t in range(tasks)))
    names = [f"{prefix}.{layer}.{kind}" for layer in range(layers) for kind in kinds]
    figure = Figure(dpi=120)
    canvas = FigureCanvasAgg(figure)
    _draw(figure, Structure(tuple(f"a_task_{t}" for t in range(tasks)), dict.fromkeys(names, site)))
    canvas.draw()
    texts = figure.axes[0].texts
    assert min(text.get_fontsize() for text in texts) >= 8
    assert figure.get_figwidth() <= 11
    boxes = sorted((text.get_window_extent() for text in texts), key=lambda box: box.y0)
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        for other in boxes[i + 1 :]:
            if other.y0 >= box.y1:
                break
            assert not (box.x0 < other.x1 and other.x0 < box.x1), (box, other)


def test_png_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "structure.png").mkdir()
    with pytest.raises(OSError, match=r"structure\.png"):
        structure_png(bert(), tmp_path / "structure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["structure.png"]


def test_png_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GraftworkError, match=r"needs matplotlib.*pip install 'graftwork\[report\]'"):
        structure_png(bert(), tmp_path / "structure.png")
    assert not list(tmp_path.iterdir())


@settings(max_examples=30, deadline=None)
@given(data=st.data(), tasks=st.integers(1, 4), pool_size=st.integers(1, 12), layers=st.integers(1, 20))
def test_table_counts_what_the_structure_counts(
    data: st.DataObject, tasks: int, pool_size: int, layers: int
) -> None:
    gates = st.lists(st.booleans(), min_size=pool_size, max_size=pool_size)
    table = st.lists(gates, min_size=tasks, max_size=tasks)
    structure = Structure(
        tuple(f"task{t}" for t in range(tasks)),
        {
            f"h.{layer}.mlp": SiteStructure(pool_size, 1, 7, tuple(map(tuple, data.draw(table))))
            for layer in range(layers)
        },
    )
    lines = [line.split() for line in text(structure, width=200).splitlines()]
    for task, count in structure.counts().items():
        row = next(line for line in reversed(lines) if line[:1] == [task])
        assert row[-2:] == [str(count), f"{structure.parameters(task):,}"]
