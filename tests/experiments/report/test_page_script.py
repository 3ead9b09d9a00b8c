"""The script of the page, in a browser: tables sorted, axes chosen, sites asked; without it all is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from graftwork.experiments.report.report import report
from graftwork.experiments.report.tables import FEW
from graftwork.experiments.results.names import natural
from synthetic import run_file, showcase, structure, write

needs_chromium = pytest.mark.skipif(which("chromium") is None, reason="needs Chromium: apt install chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    report(showcase(folder / "runs"), folder / "out")
    return (folder / "out/index.html").read_text(encoding="utf-8")


def browsed(page: str, folder: Path, act: str = "", width: int = 1400) -> str:
    """The page as it is after its script and some more of it have run."""
    path = folder / "index.html"
    path.write_text(page.replace("</body>", f"<script>{act}</script></body>"), encoding="utf-8")
    options = f"--headless --no-sandbox --disable-gpu --virtual-time-budget=4000 --window-size={width},2000"
    command = ["chromium", *options.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    return subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout


def first_column(table: str) -> list[str]:
    return re.findall(r'<th scope="?row"?[^>]*>([^<]*)', table)


def test_without_a_script_there_is_a_plain_table_and_a_still_picture(page: str) -> None:
    table = page[page.index("<table") : page.index("</table>")]
    assert "<button" not in table
    assert '<th scope="col" aria-sort="descending">suite mean' in table
    assert len(first_column(table)) == 21
    assert re.search(r'<div class="scatter" data-scatter="(comparison-\d+-still)" hidden>', page)
    assert re.search(r'<figure id="comparison-\d+-still">', page)


def test_scores_come_before_everything_but_the_headline(page: str) -> None:
    places = [page.index(text) for text in ("<h1>", "<h3>Test scores", 'class="scatter"', 'class="tiles"')]
    assert places == sorted(places)


def test_no_colour_below_five_pairs(tmp_path: Path) -> None:
    for seeds, coloured in ((FEW - 1, False), (FEW, True)):
        runs = [
            run_file(method, seed, {"a": score + seed / 1000, "b": score}, label=method)
            for method, score in (("lora", 0.5), ("graft", 0.6), ("bitfit", 0.4))
            for seed in range(seeds)
        ]
        folder = tmp_path / str(seeds)
        report(write(folder / "runs", *runs), folder / "out")
        text = (folder / "out/index.html").read_text()
        body = text[text.index("<body>") :]
        assert (re.search(r'class="[^"]*\b(good|bad)\b', body) is not None) is coloured
        assert (re.search(r"var\(--(good|bad)\)", body) is not None) is coloured  # the figures


@pytest.mark.slow
@needs_chromium
def test_the_head_of_a_column_sorts_the_table(page: str, tmp_path: Path) -> None:
    plain = first_column(page[page.index("<table") : page.index("</table>")])
    press = "document.querySelectorAll('table[data-sort]')[0].querySelectorAll('thead button')[%d].click();"

    def rows(*columns: int) -> tuple[list[str], str]:
        found = browsed(page, tmp_path, "".join(press % column for column in columns))
        table = found[found.index("<table") : found.index("</table>")]
        heads = re.findall(r"<th [^>]*?(?:aria-sort=\"(\w+)\")?><button", table)
        return first_column(table), ",".join(heads)

    found, heads = rows()
    assert (found, heads) == (plain, ",descending,,,,,")
    found, heads = rows(1)  # by the suite mean, which it was sorted by: the other way round
    shown = dict(zip(plain, re.findall(r'</th><td class="[^"]*">([\d.]+)', page), strict=False))
    assert [shown[name] for name in found] == sorted(shown.values())
    assert (found[0], found[-1], heads) == (plain[-1], plain[0], ",ascending,,,,,")
    found, heads = rows(0)
    assert (found, heads) == (sorted(plain, key=natural), "ascending,,,,,,")
    found, heads = rows(0, 0)
    assert (found, heads) == (sorted(plain, key=natural, reverse=True), "descending,,,,,,")


@pytest.mark.slow
@needs_chromium
def test_missing_numbers_are_last_both_ways(tmp_path: Path) -> None:
    runs = [
        run_file("lora", 0, {"a": 0.5, "b": 0.1}, label="LoRA"),
        run_file("bitfit", 0, {"a": 0.1, "b": 0.7}),
    ]
    runs += [run_file("graft", 0, {"a": 0.7, "b": None})]
    report(write(tmp_path / "runs", *runs), tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    press = "document.querySelectorAll('table[data-sort]')[0].querySelectorAll('thead button')[4].click();"
    for times, expected in ((1, ["bitfit", "LoRA", "graft"]), (2, ["LoRA", "bitfit", "graft"])):
        found = browsed(page, tmp_path, press * times)
        assert first_column(found[found.index("<table") : found.index("</table>")]) == expected


@pytest.mark.slow
@needs_chromium
def test_the_reader_chooses_the_axes(page: str, tmp_path: Path) -> None:
    choose = (
        "const box = document.querySelector('[data-scatter]');"
        "const [up, across] = box.querySelectorAll('select');"
        "across.value = [...across.options].find((one) => one.text.startsWith('peak memory')).value;"
        "across.dispatchEvent(new Event('change'));"
        "[...box.querySelectorAll('.plot g')].find((one) => one.ariaLabel.startsWith('LoRA'))"
        ".dispatchEvent(new Event('click'));"
    )
    before, after = browsed(page, tmp_path), browsed(page, tmp_path, choose)
    for text, name in ((before, "stored adapter parameters"), (after, "peak memory, GB")):
        assert f'aria-label="suite mean (test) against {name}"' in text
        assert re.search(r'<div class="scatter" data-scatter="comparison-\d+-still">', text)
        assert re.search(r'<figure id="comparison-\d+-still" hidden="">', text)
    told = re.search(r'<div class="told" aria-live="polite">(.*?)</div>', after)
    assert told is not None
    name, score, cost, seeds = re.findall(r"<(?:b|span)>([^<]*)</", told[1])
    assert (name, seeds) == ("LoRA", "5 of 5 seeds")
    assert re.fullmatch(r"suite mean \(test\) 80\.\d \[\d\d\.\d, \d\d\.\d\]", score)
    assert cost == "peak memory, GB 0.900327"  # 900,000,000 + 4 x 81,728 bytes
    assert after.count("<g tabindex") == 21


@pytest.mark.slow
@needs_chromium
def test_a_site_of_a_structure_is_told(tmp_path: Path) -> None:
    found = structure(1)
    runs = [
        run_file(
            method,
            0,
            dict.fromkeys(found.tasks, 0.5),
            structure=found.to_dict() if method == "graft" else None,
        )
        for method in ("graft", "lora")
    ]
    report(write(tmp_path / "runs", *runs), tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    text = browsed(page, tmp_path, "document.querySelector('[data-cell=\"0\"]').click();")
    site = next(iter(found.sites))
    stored = sum(map(any, zip(*found.sites[site].open, strict=True)))
    assert f"<b>{site}</b>" in text
    assert f"<span>{stored} adapters, {stored * found.sites[site].cost:,} parameters, " in text
    assert "validation loss" not in re.search(r'class="told".*?</div>', text)[0]  # nothing was measured of it


@pytest.mark.slow
@needs_chromium
def test_on_a_phone_only_the_boxes_of_tables_scroll(page: str, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    measure = (
        "const whole = document.documentElement, boxes = [...document.querySelectorAll('.scroll')];"
        "const wide = boxes.map((box) => box.scrollWidth > box.clientWidth ? 1 : 0);"
        "parent.postMessage([whole.scrollWidth, whole.clientWidth, ...wide].join(' '), '*');"
    )
    (tmp_path / "page/index.html").write_text(
        page.replace("</body>", f"<script>{measure}</script></body>"), encoding="utf-8"
    )
    frame = (
        "<body><p id=said></p><script>onmessage = (event) => said.textContent = event.data;</script>"
        "<iframe src='page/index.html' width=400 height=900></iframe></body>"
    )
    found = browsed(frame, tmp_path)
    whole, seen, *boxes = map(int, re.search(r'id="said">([\d ]+)<', found)[1].split())
    assert whole == seen <= 400
    assert any(boxes)
