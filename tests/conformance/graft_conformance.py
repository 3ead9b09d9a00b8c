"""A pytest plugin that runs PEFT's own test suite on the method GRAFT.

It replaces the rows of the suite's parameter lists by ours and the models of the hub by tiny local ones, and
deselects the tests that no row of ours reaches. Nothing in the suite's files is changed.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import replaced
from expected import Expected, expected

from graftwork import GraftConfig
from models import HUB, build

_EXPECTED = pytest.StashKey[Expected]()


def pytest_configure(config: pytest.Config) -> None:
    # The suite imports diffusers for the one class that it compares models with.
    stub = types.ModuleType("diffusers")
    stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # type: ignore[attr-defined]
    sys.modules.setdefault("diffusers", stub)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    _adapt(metafunc.module)
    for mark in metafunc.definition.iter_markers("parametrize"):
        names, rows = mark.args[:2]
        if not isinstance(rows, list) or any(map(_is_ours, rows)):
            continue
        if names == "model_id":
            rows[:] = [str(build(name, Path("models"))) if name in HUB else name for name in rows]
        else:
            rows[:] = replaced(names, rows, metafunc.module.__name__.rpartition(".")[2])


def _is_ours(row: Any) -> bool:
    values = row if isinstance(row, tuple) else (row,)
    return any(value is GraftConfig or isinstance(value, GraftConfig) for value in values)


def _adapt(module: Any) -> None:
    """Open what the suite keeps for the methods of PEFT that it knows by name, and shut the hub."""
    common = sys.modules[module.__package__ + ".testing_common"]
    for user in (module, common):
        user.hub_online_once = lambda model_id: contextlib.nullcontext()
    # LoRA's share of these tests is ours too: methods that do not support them are skipped by name.
    common._skip_if_conv1d_not_supported = lambda model_id, config_cls, config_kwargs: None
    # A condition of one method's tests that, in this release, skips all methods.
    module.check_beft_config = lambda config_cls, model_id, config_kwargs: None
    tester = common.PeftCommonTester
    tester.check_modelcard = _check_modelcard
    for name in ("_test_mixed_adapter_batches", "_test_generate_with_mixed_adapter_batches_and_beam_search"):
        setattr(tester, name, _as_lora(getattr(tester, name)))
    for name in ("test_mixed_adapter_batches", "test_generate_with_mixed_adapter_batches"):
        for owner in [value for value in vars(module).values() if isinstance(value, type)]:
            if name in vars(owner):
                setattr(owner, name, _as_lora(vars(owner)[name]))


def _check_modelcard(self: Any, folder: str, model: Any) -> None:
    """The suite's check, but of models that lie in a folder here: ours never name a path as base model."""
    text = (Path(folder) / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["library_name"] == "peft"
    assert "base_model" not in metadata


def _as_lora(function: Any) -> Any:
    """The function, with `GraftConfig` where it asks for `LoraConfig`."""
    if function.__globals__.get("LoraConfig") is GraftConfig:
        return function
    scope = {**function.__globals__, "LoraConfig": GraftConfig}
    twin = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__dict__.update(function.__dict__)
    return twin


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours, others = [], []
    for item in items:
        parameters = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        (ours if _is_ours(tuple(parameters.values())) else others).append(item)
    items[:] = ours
    config.hook.pytest_deselected(items=others)
    for item in items:
        entry = expected(item.originalname, item.callspec.params)  # type: ignore[attr-defined]
        if entry is not None:
            item.stash[_EXPECTED] = entry
            item.add_marker(pytest.mark.xfail(reason=entry.reason, raises=entry.error, strict=True))


def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None] | None:
    stats = terminalreporter.stats
    reports = {name: stats.get(name, []) for name in ("passed", "xfailed", "skipped", "failed", "error")}
    terminalreporter.section("conformance with PEFT's test suite")
    for report, count in Counter(item.wasxfail for item in reports["xfailed"]).most_common():
        terminalreporter.line(f"{count:5} expected: {report}")
    for reason, count in Counter(item.longrepr[2] for item in reports["skipped"]).most_common():
        terminalreporter.line(f"{count:5} left out by PEFT: {reason.removeprefix('Skipped: ')}")
    failed = len(reports["failed"]) + len(reports["error"])
    terminalreporter.line(
        f"{len(reports['passed'])} passed, {len(reports['xfailed'])} expected exceptions, "
        f"{len(reports['skipped'])} left out by PEFT's own conditions, {failed} failed"
    )
    return None
