from __future__ import annotations

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from graftwork.gates.names import GATES
from graftwork.gates.registry import GATE_FAMILIES
from graftwork.recipe.settings import TRACKERS
from graftwork.tuner.config_checks import ACTIVATION_NAMES
from graftwork.tuner.pool import ACTIVATIONS


def test_the_plain_names_are_those_of_the_registries() -> None:
    assert list(GATES) == list(GATE_FAMILIES)
    for name, traits in GATES.items():
        family = GATE_FAMILIES[name]
        assert (traits.learnable, traits.needs_budget) == (family.learnable, family.needs_budget)
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES
    assert sorted(INTEGRATION_TO_CALLBACK) == list(TRACKERS)
