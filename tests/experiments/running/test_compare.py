"""`compare` end to end on toy tasks: killed and resumed, failures, pairs, tuning, processes, command line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from graftwork.cli import main
from graftwork.errors import ConfigError, Interrupted
from graftwork.experiments.grid.grid import Grid, Trial
from graftwork.experiments.results.store import Store, hash_settings
from graftwork.experiments.running import trial
from graftwork.experiments.running.compare import Summary, compare
from graftwork.structure.structure import Structure

MakeGrid = Callable[..., Grid]
FAST = {"epochs": 0.2, "batch_size": 16, "learning_rate": 0.01, "max_length": 16}


def quiet(grid: Grid, **options: Any) -> Summary:
    return compare(grid, console=Console(quiet=True), **options)


def said(grid: Grid, **options: Any) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    compare(grid, console=console, **options)
    return console.export_text()


def results(grid: Grid) -> list[dict[str, Any]]:
    return list(Store(grid.results).results())


def test_one_file_per_run_and_none_is_repeated(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora", "linear_probe"], seeds=[0, 1], training=FAST)
    assert quiet(grid) == Summary(4, 4, (), 4)
    first = {path.name: path.read_bytes() for path in grid.results.iterdir()}
    assert quiet(grid) == Summary(4, 4, (), 0)
    assert {path.name: path.read_bytes() for path in grid.results.iterdir()} == first
    for name, content in first.items():
        found = json.loads(content)
        assert name == f"{found['key']}.json"
        assert found["key"] == hash_settings(found["settings"])
        assert found["group"] == hash_settings(found["settings"], leave_out=("seed",))
    wider = make_grid(methods=["lora", "linear_probe"], seeds=[0, 1, 2], training=FAST)
    assert quiet(wider).started == 2


def test_tuning_runs_may_be_shorter_than_final_ones(make_grid: MakeGrid) -> None:
    tune = {"learning_rates": [0.01, 0.02], "epochs": 0.1}
    grid = make_grid(methods=["lora"], seeds=[0], training={**FAST, "epochs": 0.4}, tune=tune)
    quiet(grid)
    epochs = {(run["purpose"], run["settings"]["training"]["epochs"]) for run in results(grid)}
    assert epochs == {("tune", 0.1), ("final", 0.4)}


def test_a_search_tells_what_its_discretisation_cost_and_who_shares(make_grid: MakeGrid) -> None:
    methods = [
        {"name": "graft", "graft": {"gate_start": "grouped"}},
        {"name": "fixed_structure", "method": {"structure": "grouped_paths"}},
    ]
    grid = make_grid(
        methods=methods, seeds=[0], training=FAST, graft={"budget": 0.05, "pool_size": 4, "r": 1}
    )
    quiet(grid)
    found = {run["method"]: run for run in results(grid)}
    search = found["graft"]["search"]
    assert search["gap"]["points"] == pytest.approx(100 * (search["gap"]["hard"] - search["gap"]["soft"]))
    assert found["fixed_structure"]["search"] == {
        "groups": search["groups"],
        "distances": search["distances"],
    }
    structure = Structure.from_dict(found["fixed_structure"]["structure"])
    owners = {frozenset(structure.paths(name)) for name in structure.tasks}
    assert len(owners) == len(search["groups"])


def test_structures_tell_the_price_of_all_tasks_on_one_text(make_grid: MakeGrid) -> None:
    methods = ["shared", "private", "lora"]
    grid = make_grid(
        methods=methods, seeds=[0], training=FAST, graft={"budget": 0.05, "pool_size": 4, "r": 1}
    )
    quiet(grid)
    found = {run["method"]: run for run in results(grid)}
    assert found["shared"]["trunk"]["price"] == 1.0
    tasks = len(found["private"]["tasks"])
    assert 1.0 < found["private"]["trunk"]["price"] <= tasks
    assert "trunk" not in found["lora"]


def test_groups_and_pairs(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["lora", {"name": "graft", "training": {"learning_rate": 0.02}}, "linear_probe"],
        seeds=[0, 1],
        training=FAST,
        vary={"noise.ratio": [0.0, 0.5]},
        noise=[{"kind": "word_drop", "ratio": 0.0}],
    )
    quiet(grid)
    found = results(grid)
    assert len(found) == 12
    assert len({run["group"] for run in found}) == 6
    pairs = {run["pair"] for run in found}
    assert len(pairs) == 2
    for pair in pairs:
        ratios = {run["settings"]["vary"]["noise.ratio"] for run in found if run["pair"] == pair}
        methods = {run["method"] for run in found if run["pair"] == pair}
        assert len(ratios) == 1
        assert methods == {"lora", "graft", "linear_probe"}


def test_moved_data_are_the_same_run_and_changed_data_another(
    make_grid: MakeGrid, toy: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(toy / "data/colour", tmp_path / "moved")
    tasks = [{"name": "colour", "train": str(toy / "data/colour")}]
    moved = [{"name": "colour", "train": str(tmp_path / "moved")}]
    quiet(make_grid(tasks=tasks, methods=["linear_probe"]))
    assert quiet(make_grid(tasks=moved, methods=["linear_probe"])).started == 0
    lines = (tmp_path / "moved/train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "moved/train.jsonl").write_text("".join(lines[:-1]))
    assert quiet(make_grid(tasks=moved, methods=["linear_probe"])).started == 1


def test_failed_runs_are_recorded_and_retried_on_demand(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(methods=["lora", "linear_probe"], seeds=[0, 1], training=FAST)
    original = trial.train_trial

    def broken(run: Trial, **options: Any) -> trial.Trained:
        if run.method.name == "lora" and run.seed == 1:
            raise RuntimeError("out of\nmemory")
        return original(run, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "train_trial", broken)
        summary = quiet(grid)
    assert summary.failed == ("LoRA, 3 tasks, rate 0.01, seed 1: RuntimeError: out of memory",)
    assert summary.done == 3
    (failed,) = [run for run in results(grid) if run["status"] == "failed"]
    assert failed["error"] == "RuntimeError: out of memory"
    assert failed["seed"] == 1
    assert "tasks" not in failed
    assert quiet(grid).started == 0
    assert quiet(grid, retry_failed=True) == Summary(4, 4, (), 1)


def test_tuning_picks_on_validation_and_never_sees_test(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["lora", "linear_probe"],
        seeds=[0, 1],
        training={**FAST, "epochs": 2},
        tune={"learning_rates": [1e-6, 0.01], "seeds": [0, 5]},
    )
    text = said(grid)
    assert "LoRA: learning rate out of 1e-06, 0.01, on validation, seeds 0, 5" in text
    tuned = [run for run in results(grid) if run["purpose"] == "tune"]
    final = [run for run in results(grid) if run["purpose"] == "final" and run["method"] == "lora"]
    assert len(tuned) == 4
    assert all(task["test"] is None for run in tuned for task in run["tasks"].values())
    assert all(run["suite"]["test"] is None for run in tuned)
    means = {
        rate: sum(
            r["suite"]["validation"] for r in tuned if r["settings"]["training"]["learning_rate"] == rate
        )
        / 2
        for rate in (1e-6, 0.01)
    }
    best = max(means, key=lambda rate: means[rate])
    assert [run["settings"]["training"]["learning_rate"] for run in final] == [best, best]
    assert final[0]["tuning"]["chosen"] == best
    assert final[0]["tuning"]["grid"] == [1e-6, 0.01]
    assert final[0]["tuning"]["validation"] == pytest.approx(
        {f"{rate:g}": mean for rate, mean in means.items()}
    )


def test_a_rate_that_diverges_is_not_chosen(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["full"], training=FAST, tune={"learning_rates": [1e-3, 1e12]})
    summary = quiet(grid)
    assert len(summary.failed) == 1
    assert "diverged" in summary.failed[0]
    (final,) = [run for run in results(grid) if run["purpose"] == "final"]
    assert final["settings"]["training"]["learning_rate"] == 1e-3
    hopeless = make_grid(methods=["full"], training={**FAST, "epochs": 0.3}, tune={"learning_rates": [1e12]})
    assert "no tuning run succeeded" in quiet(hopeless).failed[-1]


def test_dry_run_lists_and_estimates(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora"], seeds=[0, 1], training=FAST, tune={"learning_rates": [0.001, 0.01]})
    text = said(grid, dry_run=True)
    assert "4 runs: 0 done, 0 failed, 4 to do; no run is done yet to estimate from" in text
    assert "the learning rate is tuned first" in text
    assert not grid.results.exists()
    quiet(grid)
    wider = make_grid(
        methods=["lora"], seeds=[0, 1, 2], training=FAST, tune={"learning_rates": [0.001, 0.01]}
    )
    text = said(wider, dry_run=True)
    assert "5 runs: 4 done, 0 failed, 1 to do; about" in text


def test_unknown_engine_and_no_jobs(make_grid: MakeGrid) -> None:
    with pytest.raises(ConfigError, match="unknown engine 'slurm'; allowed: local, ray"):
        quiet(make_grid(), engine="slurm")
    with pytest.raises(ConfigError, match="jobs=0 must be at least 1"):
        quiet(make_grid(), jobs=0)


def test_ctrl_c_leaves_no_half_run(make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid(methods=["lora", "linear_probe"], training=FAST)
    original = trial.train_trial

    def interrupted(run: Trial, **options: Any) -> trial.Trained:
        if run.method.name == "linear_probe":
            raise KeyboardInterrupt
        return original(run, **options)

    monkeypatch.setattr(trial, "train_trial", interrupted)
    advice = r"Go on with: compare\(grid, jobs=1, engine='local'\)"
    with pytest.raises(Interrupted, match=rf"interrupted; 1 of 2 runs .* {advice}"):
        quiet(grid)
    assert len(list(grid.results.iterdir())) == 1


def test_command_line(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grid(methods=["linear_probe"])
    other = str(tmp_path / "other")
    main(["compare", str(path), "--results", other, "--set", "seeds=[7]", "--dry-run"])
    assert "linear probe, 3 tasks, seed 7" in capsys.readouterr().out
    main(["compare", str(path), "--results", other, "--set", "seeds=[7]"])
    assert "1 of 1 runs have a result" in capsys.readouterr().out
    assert len(list(Path(other).glob("*.json"))) == 1
    bad = write_grid(methods=[{"name": "lora", "method": {"budget": 1e-6}}])
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(bad)])
    assert "1 runs have failed" in capsys.readouterr().err


def command(path: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "graftwork", "compare", str(path), *options]


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_and_resumed(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid(methods=["lora", "heads", "bitfit"], training={**FAST, "epochs": 10})
    folder = tmp_path / "results"
    with subprocess.Popen(command(path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: folder.is_dir() and bool(list(folder.glob("*.json"))))
        process.send_signal(signal.SIGKILL)
    before = {file.name: file.read_bytes() for file in folder.glob("*.json")}
    assert 1 <= len(before) < 3
    done = subprocess.run(command(path), capture_output=True, text=True, check=True)
    assert "3 of 3 runs have a result" in done.stdout
    assert len(list(folder.glob("*.json"))) == 3
    assert {name: (folder / name).read_bytes() for name in before} == before


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
def test_processes_give_the_same_results_and_may_die(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid(methods=["lora", "heads"], seeds=[0, 1], training=FAST)
    folder = tmp_path / "results"
    with subprocess.Popen(
        command(path, "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: len(workers_of(process.pid)) == 2)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert "the worker process died (signal 9)" in output
    assert len(list(folder.glob("*.json"))) == 4
    subprocess.run(command(path, "--jobs", "2", "--retry-failed"), check=True, capture_output=True)
    several = {run["key"]: run for run in Store(folder).results()}
    assert {run["status"] for run in several.values()} == {"done"}
    subprocess.run(command(path, "--results", str(tmp_path / "one")), check=True, capture_output=True)
    for run in Store(tmp_path / "one").results():
        assert several[run["key"]]["suite"] == pytest.approx(run["suite"], abs=1e-6)


@pytest.mark.slow
def test_ctrl_c_ends_the_workers(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid(methods=["lora", "heads"], seeds=[0, 1], training={**FAST, "epochs": 20})
    folder = tmp_path / "results"
    with subprocess.Popen(
        command(path, "--jobs", "2"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        wait_for(lambda: folder.is_dir() and len(list(folder.glob("*.json"))) >= 1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted;" in errors
    assert errors.strip().endswith(f"Go on with: python -m graftwork compare {path} --jobs 2")
    assert "Traceback" not in errors
    assert all(json.loads(file.read_text())["status"] == "done" for file in folder.iterdir())
