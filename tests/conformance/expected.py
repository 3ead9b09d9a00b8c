"""The short list of PEFT's tests that graftwork does not pass, each with its reason.

A test on the list must fail, and with the error named here: one that passes, or breaks in another way, fails
the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from graftwork.errors import MergeError

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """Tests that are expected to fail.

    Attributes:
        reason: why they cannot pass.
        tests: names of test functions.
        applies: to which of their parameters.
        error: what they raise.
    """

    reason: str
    tests: frozenset[str]
    applies: Callable[[Parameters], bool]
    error: type[Exception]


def _settings(parameters: Parameters) -> dict[str, Any]:
    """The settings of a row's first configuration, whatever the test calls it."""
    for name in ("config_kwargs", "config_kwargs_1"):
        if name in parameters:
            return dict(parameters[name])
    return dict(vars(parameters["config0"])) if "config0" in parameters else {}


def _nonlinear(parameters: Parameters) -> bool:
    return _settings(parameters).get("activation", "identity") != "identity"


MERGING = frozenset(
    {
        "test_delete_merged_adapter_only_rejects_the_merged_one",
        "test_delete_merged_adapter_raises_without_mutation",
        "test_disable_adapters_with_merging",
        "test_forward_bfloat16",
        "test_forward_bfloat16_no_autocast",
        "test_forward_float16",
        "test_forward_float16_no_autocast",
        "test_merge_layers",
        "test_merge_layers_fp16",
        "test_merge_layers_is_deterministic_in_train_mode",
        "test_merge_layers_is_idempotent",
        "test_merge_layers_multi",
        "test_merge_layers_nan",
        "test_mixed_adapter_batches_merged_raises",
        "test_multiple_active_adapters_merge_and_unmerge",
        "test_safe_merge",
        "test_sequential_merge_matches_batch_merge",
        "test_unmerge_after_sequential_merge_restores_base",
    }
)

EXPECTED = [
    Expected(
        "a nonlinear adapter has no equivalent weight to merge into (activation='identity' has one)",
        MERGING,
        _nonlinear,
        MergeError,
    ),
    Expected(
        "output channels of a grouped convolution see different inputs, and adapters mix them: no weight to "
        "merge into",
        MERGING,
        lambda parameters: "Groups" in parameters.get("model_id", ""),
        MergeError,
    ),
    Expected(
        "adapters behind a multi-head attention work on mixed batches, where LoRA inside it has to refuse",
        frozenset({"test_mixed_adapter_batches_mha_raises"}),
        lambda parameters: True,
        pytest.fail.Exception,
    ),
    Expected(
        "the sites of a model are saved by their full names, so that they match no others elsewhere; a "
        "default given as one pattern does not stay a pattern",
        frozenset({"test_default_target_modules_str"}),
        lambda parameters: True,
        AssertionError,
    ),
    Expected(
        "at this test's learning rate the gradients behind this model's embedding move gates and W_down, by "
        "less than its tolerance; it raises the rate for methods it knows by name",
        frozenset({"test_only_params_are_updated"}),
        lambda parameters: (
            parameters["model_id"] == "EmbConv1D" and _settings(parameters).get("position") == "sequential"
        ),
        AssertionError,
    ),
]


def expected(test: str, parameters: Parameters) -> Expected | None:
    """The entry for a test with its parameters, or None if it has to pass."""
    for entry in EXPECTED:
        if test in entry.tests and entry.applies(parameters):
            return entry
    return None
