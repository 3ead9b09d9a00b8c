"""What a tracker sees of a run: TensorBoard's event files are read back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import graftwork as gw
import toy_search
from graftwork.errors import ConfigError, RecipeError
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from graftwork.recipe.settings import TrainingSettings
from graftwork.search.tracking import gate_values, size_figures
from graftwork.structure.structure import Structure
from graftwork.training.arguments import trackers
from graftwork.tuner.view import graft_view
from toy_training import make_model, make_trainer
from toyrun import recipe_dict, write_backbone, write_recipe, write_tasks
from toys import HOULSBY, grafted, random_structure, spread_gates

TASKS = ("colour", "same", "length")
SITES, POOL, R, HIDDEN = 12, 4, 2, 32
POOL_FLOPS = POOL * 2 * 2 * R * (4 * 2 * HIDDEN + 2 * 3 * HIDDEN)
BACKBONE_FLOPS = 2 * (2 * (4 * HIDDEN**2 + 2 * HIDDEN * 64) + HIDDEN**2)


def adapter_flops(site: str) -> int:
    """Of an adapter beside a map of the attention, or of the feed-forward part, which is twice as wide."""
    wide = re.search(r"\d\.(intermediate|output)\.dense$", site)
    return 2 * R * (3 if wide else 2) * HIDDEN


def events(folder: Path) -> EventAccumulator:
    (file,) = folder.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(file), size_guidance={"histograms": 0, "scalars": 0})
    found.Reload()
    return found


def curve(found: EventAccumulator, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in found.Scalars(tag)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[EventAccumulator, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    recipe = recipe_dict(folder)
    recipe["graft"] |= {"gates": "hard_concrete"}  # which have multipliers
    recipe["training"]["report_to"] = "tensorboard"
    report = fit(load_recipe(write_recipe(folder, recipe)), console=Console(quiet=True))
    return events(folder / "out.runs"), report


def test_tensorboard_gets_every_figure_of_fit(fitted: tuple[EventAccumulator, dict[str, Any]]) -> None:
    found, _ = fitted
    tags = found.Tags()
    of_tasks = ("active_parameters", "realised_active_parameters", "expected_flops", "realised_flops")
    wanted = {f"train/graft/{name}_{task}" for name in (*of_tasks, "open_paths") for task in TASKS}
    plain = "expected_parameters realised_parameters pool_parameters expected_flops realised_flops "
    plain += "backbone_flops multiplier_1 multiplier_2 gates_q10 gates_q50 gates_q90 penalty_factor up_norm"
    wanted |= {f"train/graft/{name}" for name in plain.split()}
    wanted |= {"train/loss", "train/learning_rate", "train/grad_norm", "eval/loss", "eval/mean"}
    wanted |= {f"eval/{task}" for task in TASKS}
    assert wanted <= set(tags["scalars"])
    assert {f"graft/gates/{task}" for task in TASKS} <= set(tags["histograms"])


def test_figures_are_right_in_search_and_tune(fitted: tuple[EventAccumulator, dict[str, Any]]) -> None:
    found, report = fitted
    decided = 0.6 * 54
    structure = Structure.from_dict(report["structure"])
    expected, realised = (
        curve(found, f"train/graft/{name}") for name in ("expected_flops", "realised_flops")
    )
    searching = [step for step in expected if step < decided]
    tuning = [step for step in expected if step > decided]
    assert searching
    assert tuning
    stored = sum(sum(site.used) * adapter_flops(name) for name, site in structure.sites.items())
    assert {expected[step] for step in tuning} == {realised[step] for step in tuning} == {stored}
    # Gates start wide open, and close towards the budget.
    assert 0.8 * POOL_FLOPS < expected[min(searching)] < POOL_FLOPS
    assert expected[max(searching)] < expected[min(searching)]
    assert {*curve(found, "train/graft/backbone_flops").values()} == {BACKBONE_FLOPS}
    for task, paths in structure.counts().items():
        flops, parameters, opened = (
            curve(found, f"train/graft/{name}_{task}")
            for name in ("realised_flops", "realised_active_parameters", "open_paths")
        )
        assert {flops[step] for step in tuning} == {
            sum(adapter_flops(site) for site, _ in structure.paths(task))
        }
        assert {parameters[step] for step in tuning} == {structure.parameters(task)}
        assert {opened[step] for step in tuning} == {paths}
    first, second = (curve(found, f"train/graft/multiplier_{i}") for i in (1, 2))
    assert any(value != 0 for value in first.values())
    assert set(first) == set(second)
    assert max(first) < decided + 2


def test_histograms_hold_every_gate(fitted: tuple[EventAccumulator, dict[str, Any]]) -> None:
    found, report = fitted
    counts = Structure.from_dict(report["structure"]).counts()
    for task in TASKS:
        drawn = {event.step: event.histogram_value for event in found.Histograms(f"graft/gates/{task}")}
        steps = sorted(drawn)
        assert steps[0] < 0.6 * 54 < steps[-1]
        assert drawn[steps[0]].num == SITES * POOL
        assert 0 <= drawn[steps[0]].min <= drawn[steps[0]].max <= 1
        assert drawn[steps[-1]].sum == counts[task]
        assert curve(found, "train/graft/gates_q50")[steps[0]] > 0.8


def test_plain_trainer_needs_one_call(tmp_path: Path) -> None:
    settings = {"logging_strategy": "steps", "logging_steps": 2, "report_to": ["tensorboard"]}
    for name, tracked in (("with", True), ("without", False)):
        folder = tmp_path / name
        model = toy_search.classifier()
        trainer = toy_search.make_trainer(folder, model, [gw.StructureCallback()], **settings)
        if tracked:
            gw.track(trainer)
            gw.track(trainer)
        trainer.train()
        tags = events(folder).Tags()
        assert ("train/graft/expected_flops_dogs" in tags["scalars"]) is tracked
        assert ("graft/gates/cats" in tags["histograms"]) is tracked
        history = trainer.state.log_history[-2]
        assert ("graft/realised_parameters" in history) is tracked


def test_a_trainer_without_a_search_logs_as_before(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, make_model(gates="fixed", budget=None), logging_strategy="steps", logging_steps=5
    )
    trainer.train()
    assert all(not name.startswith("graft/") for entry in trainer.state.log_history for name in entry)


def test_sizes_by_hand() -> None:
    model = grafted(pool_size=3, r=2, **HOULSBY)
    spread_gates(model)
    view = graft_view(model)
    structure = random_structure(model)
    figures = size_figures(view, structure)
    price = 2 * 2 * (16 + 16)
    expected = {"cats": 0.0, "dogs": 0.0, "birds": 0.0}
    stored = 0.0
    for site in view.sites.values():
        chance = site.prob_open("default").detach()
        stored += price * float(chance.max(dim=0).values.sum())
        for t, task in enumerate(expected):
            expected[task] += price * float(chance[t].sum())
    assert figures["expected_flops"] == pytest.approx(stored, rel=1e-5)
    for task, value in expected.items():
        assert figures[f"expected_flops_{task}"] == pytest.approx(value, rel=1e-5)
        assert figures[f"realised_flops_{task}"] == structure.counts()[task] * price
    gates = gate_values(view)
    model.train()
    assert all(torch.equal(gate_values(view)[task], gates[task]) for task in gates)
    assert model.training
    assert all(site.training for site in view.sites.values())


def test_trackers_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers("none") == []
    assert trackers("tensorboard") == ["tensorboard"]
    assert "tensorboard" in trackers("all")
    assert trackers(("tensorboard",)) == ["tensorboard"]
    with pytest.raises(
        RecipeError, match=r"training.report_to='tensorbord' must be none, all, or among .*wandb"
    ):
        TrainingSettings(report_to="tensorbord")
    monkeypatch.setattr(
        "transformers.integrations.integration_utils.get_available_reporting_integrations", lambda: ["mlflow"]
    )
    with pytest.raises(ConfigError, match=r"report_to='wandb' is not installed; .* none, mlflow"):
        trackers("wandb")
    path = tmp_path / "recipe.yaml"
    recipe = {**recipe_dict(tmp_path), "training": {"report_to": ["tensorboard", "trackio"]}}
    path.write_text(yaml.safe_dump(recipe))
    assert load_recipe(path).training.report_to == ("tensorboard", "trackio")
