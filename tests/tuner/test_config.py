from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftConfig, PeftType

import graftwork as gw
from graftwork.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": []}, "at least one task name"),
        ({"tasks": "mnli"}, "must be a list"),
        ({"tasks": ["a", ""]}, "non-empty string"),
        ({"tasks": ["a", "b", "a"]}, "'a' repeats"),
        ({"pool_size": 0}, "pool_size=0 must be a whole number of at least 1"),
        ({"r": 2.5}, "r=2.5 must be a whole number"),
        ({"r": True}, "r=True must be a whole number"),
        ({"activation": "gelo"}, "activation='gelo' is not known; did you mean 'gelu'"),
        ({"position": "paralel"}, "did you mean 'parallel'"),
        ({"placement": "ffm"}, "did you mean 'ffn'"),
        ({"penalty": 1.0, "penalty_reduction": "max"}, "Allowed: mean, sum"),
        ({"gates": "sigmoidal"}, "did you mean 'sigmoid'"),
        ({"budget": 0}, "budget=0 must be above 0"),
        ({"budget": -0.1}, "budget=-0.1 must be above 0"),
        ({"budget": float("nan")}, "budget=nan must be a number"),
        ({"budget": "small"}, "budget='small' must be a number"),
        ({"penalty": -1}, "must not be negative"),
        ({"penalty": float("inf")}, "must be a number"),
        ({"budget": 0.1, "penalty": 1.0}, "exclude each other"),
        ({"gates": "fixed", "penalty": 1.0}, "needs learnable gates"),
        ({"gates": "shifted_sigmoid", "penalty": 1.0}, "work with a budget only, not with penalty=1.0"),
        ({"path_threshold": 1.0}, "path_threshold=1.0 must be a number above 0 and below 1"),
        ({"path_threshold": 0}, "path_threshold=0 must be a number above 0 and below 1"),
        ({"path_threshold": None}, "path_threshold=None must be a number"),
        ({"gate_start": "privat"}, "did you mean 'private'"),
        ({"start_seed": -1}, "start_seed=-1 must be a whole number from 0 to 4294967295"),
        ({"start_seed": True}, "start_seed=True must be a whole number"),
        ({"gates": "importance", "penalty": 0.0}, "give budget= instead, or choose gates='hard_concrete'"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        gw.GraftConfig(**settings)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_learnable_gates_get_the_default_budget_and_fixed_ones_none():
    assert gw.GraftConfig().budget == 0.003
    assert gw.GraftConfig(penalty=1.0).budget is None
    assert gw.GraftConfig(gates="fixed").budget is None


def test_importance_starts_from_random_paths_where_a_site_has_enough_to_draw_from():
    assert gw.GraftConfig().gate_start == gw.GraftConfig(pool_size=16).gate_start == "random"
    assert gw.GraftConfig(pool_size=15).gate_start == "shared"
    assert gw.GraftConfig(penalty=1.0).gate_start == gw.GraftConfig(gates="sigmoid").gate_start == "shared"
    assert gw.GraftConfig(gate_start="shared").gate_start == "shared"


def test_the_method_is_known_to_peft():
    assert gw.GraftConfig().peft_type is PeftType("GRAFT") is PeftType.GRAFT
    assert PeftType.GRAFT.value == "GRAFT"
    assert "GRAFT" in PeftType.__members__


@given(
    tasks=st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True),
    pool_size=st.integers(1, 64),
    r=st.integers(1, 64),
    budget=st.none() | st.floats(1e-6, 1e6),
    position=st.sampled_from(["sequential", "parallel"]),
    target_modules=st.none() | st.lists(st.text(min_size=1), min_size=1, max_size=3),
)
def test_round_trip_through_json(tmp_path_factory, **settings):
    config = gw.GraftConfig(**settings)
    folder = tmp_path_factory.mktemp("config")
    config.save_pretrained(str(folder))
    loaded = PeftConfig.from_pretrained(str(folder))
    assert isinstance(loaded, gw.GraftConfig)
    again = loaded.to_dict()
    assert again == config.to_dict()
    assert "resolved_sites" not in json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": {"a": 1}}, "tasks={'a': 1} must be a list"),
        ({"gates": ["sigmoid"]}, r"unknown gates \['sigmoid'\]"),
        ({"budget": 10**400}, "budget=1000.* must be a number"),
        ({"cost": {"x": 10**400}}, "the cost of site 'x' is 1000.*; it must be a number"),
        ({"target_modules": [["a"]]}, r"target_modules has \['a'\]; a name is a string"),
        ({"target_modules": 3}, "target_modules=3 must be a list"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform has '1'; an index"),
        ({"modules_to_save": "classifier"}, "modules_to_save='classifier' must be a list"),
        ({"trainable_token_indices": {"emb": [-1]}}, "trainable_token_indices has -1; an index"),
        ({"init_weights": "no"}, "init_weights='no' must be true or false"),
        ({"base_model_name_or_path": ["x"]}, r"base_model_name_or_path=\['x'\] must be a string"),
        ({"auto_mapping": "x"}, "auto_mapping='x' must be a mapping"),
        ({"task_type": "X"}, "task_type='X' is not known"),
        ({"structure": {"format": 1, "tasks": ["a"], "sites": {"s": 3}}}, "structure: .* site 's' needs"),
        ({"r": 2**31}, "r=2147483648 must be a whole number of at least 1, at most"),
    ],
)
def test_values_of_a_hostile_file_are_one_clear_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        gw.GraftConfig(**settings)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
