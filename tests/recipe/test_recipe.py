from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.data.task import Task
from graftwork.errors import RecipeError
from graftwork.gates.registry import GATE_FAMILIES
from graftwork.recipe.loading import load_recipe, recipe_to_yaml
from graftwork.recipe.recipe import Recipe
from graftwork.recipe.schema import joined
from graftwork.recipe.settings import GraftSettings, TrainingSettings
from graftwork.search.schedule import Schedule
from graftwork.tuner.config import GraftConfig
from graftwork.tuner.config_checks import PLACEMENTS, POSITIONS
from graftwork.tuner.pool import ACTIVATIONS
from toyrun import recipe_dict, write_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

MINIMAL = """
model: some/model
output: out
tasks:
  - {name: a, train: a.jsonl}
  - {name: b, train: b.jsonl}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def fault(folder: Path, text: str, **overrides: object) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_round_trips(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert GraftConfig(**recipe.graft_values()).tasks == [task.name for task in recipe.tasks]
    assert GraftConfig(**load_recipe(path, {"seed": 7}).graft_values()).start_seed == 7
    assert load_recipe(write(tmp_path, recipe_to_yaml(recipe))) == recipe


def test_recipes_are_shipped() -> None:
    assert {path.stem for path in RECIPES} >= {"quickstart", "shared8"}


def test_minimal_recipe_has_the_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert recipe == Recipe(
        model="some/model",
        output="out",
        tasks=(Task(name="a", train="a.jsonl"), Task(name="b", train="b.jsonl")),
    )
    assert GraftConfig(**recipe.graft_values()).budget == 0.003


def test_values_are_converted(tmp_path: Path) -> None:
    text = """
model: m
output: out
seed: 3
tasks:
  - name: pair
    text: [left, right]
    labels: [0, 1]
    minimum: {confidence: 9e-1}
graft: {penalty: 1, target_modules: [a, b], layers_to_transform: [0, 1]}
schedule: {warmup: 0}
training: {learning_rate: 1e-4, epochs: 2, bf16: true, eval_steps: 10}
"""
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.tasks[0].text == ("left", "right")
    assert recipe.tasks[0].labels == ("0", "1")
    assert recipe.tasks[0].minimum == {"confidence": 0.9}
    assert recipe.graft == GraftSettings(penalty=1.0, target_modules=("a", "b"), layers_to_transform=(0, 1))
    assert recipe.schedule == Schedule(warmup=0.0)
    assert recipe.training == TrainingSettings(learning_rate=1e-4, epochs=2.0, bf16=True, eval_steps=10)
    config = GraftConfig(**recipe.graft_values())
    assert (config.penalty, config.budget, config.target_modules) == (1.0, None, {"a", "b"})


def test_section_with_every_setting_commented_out(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL + "graft:\n")).graft == GraftSettings()


def test_all_unknown_keys_are_reported_at_once(tmp_path: Path) -> None:
    text = """
modle: m
model: m
output: out
learning_rate: 0.1
tasks:
  - {name: a, lable: x}
  - {nmae: b}
graft: {bugdet: 0.01}
schedule: {warm: 0.1}
training: {epoch: 3, zzz: 1}
"""
    message = fault(tmp_path, text)
    for expected in (
        "unknown key 'modle' in the recipe; did you mean 'model'?",
        "unknown key 'learning_rate' in the recipe; did you mean 'training.learning_rate'?",
        "unknown key 'lable' in task 'a'; did you mean 'label'?",
        "unknown key 'nmae' in tasks[1]; did you mean 'name'?",
        "tasks[1].name is missing; give a string",
        "unknown key 'bugdet' in graft; did you mean 'budget'?",
        "unknown key 'warm' in schedule; did you mean 'warmup'?",
        "unknown key 'epoch' in training; did you mean 'epochs'?",
        "unknown key 'zzz' in training; allowed: epochs, min_steps, patience, batch_size",
    ):
        assert expected in message


def test_all_wrong_types_are_reported_at_once(tmp_path: Path) -> None:
    text = """
model: null
output: 5
tasks:
  - {name: a, labels: [yes, no], max_train: many, kind: ranking, minimum: {x: high}}
graft: {r: 2.5, gates: hard, target_modules: [1]}
training: 3
"""
    message = fault(tmp_path, text)
    for expected in (
        "model=None must be a string",
        "output=5 must be a string",
        "labels of task 'a'=[True, False] must be a list of strings or null (YAML reads bare yes, no",
        "max_train of task 'a'='many' must be a whole number or null",
        "kind of task 'a'='ranking' must be one of classification, regression",
        "minimum of task 'a'={'x': 'high'} must be a mapping of names to numbers",
        "graft.r=2.5 must be a whole number",
        "graft.gates='hard' must be one of auto, importance, hard_concrete, sigmoid, gumbel, "
        "shifted_sigmoid, fixed",
        "graft.target_modules=[1] must be a string or a list of strings or null",
        "training=3 must be a mapping; allowed keys: epochs",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a recipe is a mapping with at least model, tasks and output"),
        ("- a\n", "holds a list; a recipe is a mapping"),
        ("model: [\n", "not valid YAML: .*line 2"),
        ("output: out\n", "tasks is missing; .*; model is missing; give a string"),
        ("model: m\noutput: o\ntasks: []\n", "tasks is empty; give at least one"),
        ("model: m\noutput: o\ntasks: {a: b}\n", "tasks={'a': 'b'} must be a list of tasks"),
        ("model: m\noutput: o\ntasks: [a]\n", r"tasks\[0\]='a' must be a mapping"),
        ("model: ' '\noutput: o\ntasks: [{name: a}]\n", "model is empty"),
        (MINIMAL + "  - {name: a}\n", "task name 'a' is given 2 times; names must differ"),
        (MINIMAL + "  - {name: 'a b'}\n", "task 'a b': a name is made of letters"),
        (MINIMAL + "graft: {budget: 0}\n", "graft.budget=0.0 must be above 0 and below 1"),
        (MINIMAL + "graft: {budget: -0.1}\n", "graft.budget=-0.1 must be above 0 and below 1"),
        (MINIMAL + "graft: {budget: 1}\n", "graft.budget=1.0 must be above 0 and below 1"),
        (MINIMAL + "graft: {budget: .nan}\n", "graft.budget=nan must be above 0 and below 1"),
        (
            MINIMAL + "graft: {budget: 0.01, penalty: 1}\n",
            "graft: budget=0.01 and penalty=1.0 exclude each other",
        ),
        (MINIMAL + "graft: {r: 0}\n", "graft: r=0 must be a whole number of at least 1"),
        (MINIMAL + "schedule: {ramp: 0.9}\n", "must satisfy 0 <= warmup <= ramp <= discretise <= 1"),
        (
            MINIMAL + "training: {epochs: 0, batch_size: 0}\n",
            "epochs=0.0 must be above 0; .*batch_size=0 must be at",
        ),
        (MINIMAL + "training: {learning_rate: .inf}\n", "training.learning_rate=inf must be above 0"),
        (MINIMAL + "training: {warmup_ratio: 2}\n", "training.warmup_ratio=2.0 must be between 0 and 1"),
        (MINIMAL + "seed: -1\n", "seed=-1 must be a whole number from 0"),
    ],
)
def test_bad_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file; give the path of a YAML recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read as text"):
        load_recipe(tmp_path)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"model: \xff\n")
    with pytest.raises(RecipeError, match="cannot be read as text"):
        load_recipe(tmp_path / "recipe.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    recipe = load_recipe(
        path, {"training.epochs": "2", "seed": 4, "tasks.b.max_train": 7, "output": "there", "graft.r": 2}
    )
    assert recipe.training.epochs == 2.0
    assert (recipe.seed, recipe.output, recipe.graft.r) == (4, "there", 2)
    assert [task.max_train for task in recipe.tasks] == [None, 7]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("training.epoch", "unknown key 'epoch' in training; did you mean 'epochs'?"),
        ("tasks.c.max_train", "cannot set 'tasks.c.max_train': the recipe has no 'tasks.c'"),
        ("model.name", "cannot set 'model.name': the recipe has no 'model'"),
        ("sed", "unknown key 'sed' in the recipe; did you mean 'seed'?"),
    ],
)
def test_bad_override(tmp_path: Path, key: str, message: str) -> None:
    assert message in fault(tmp_path, MINIMAL, **{key: 1})


def test_sources_beside_the_recipe_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "backbone").mkdir()
    text = """
model: backbone
output: out
tasks:
  - {name: a, train: a.jsonl, test: b.jsonl}
  - {name: b, train: "package:x/y", test: "hub:z"}
"""
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.model == str(tmp_path / "backbone")
    assert recipe.output == "out"
    assert (recipe.tasks[0].train, recipe.tasks[0].test) == (str(tmp_path / "a.jsonl"), "b.jsonl")
    assert (recipe.tasks[1].train, recipe.tasks[1].test) == ("package:x/y", "hub:z")


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTWORK_TEST_A", "/data")
    monkeypatch.setenv("GRAFTWORK_TEST_EMPTY", "")
    monkeypatch.delenv("GRAFTWORK_TEST_B", raising=False)
    text = """
model: $GRAFTWORK_TEST_A/model
output: ${GRAFTWORK_TEST_B:-here}
tasks: [{name: a, train: "${GRAFTWORK_TEST_A}/a", test: "${GRAFTWORK_TEST_EMPTY:-/b}/c"}]
"""
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.model, recipe.output) == ("/data/model", "here")
    assert (recipe.tasks[0].train, recipe.tasks[0].test) == ("/data/a", "/b/c")
    message = fault(tmp_path, text.replace("GRAFTWORK_TEST_A}", "GRAFTWORK_TEST_B}"))
    assert "train of task 'a' uses the environment variable GRAFTWORK_TEST_B, which is not set" in message


def test_graft_settings_mirror_the_config() -> None:
    config = {item.name: item.default for item in dataclasses.fields(GraftConfig)}
    assert {item.name: item.default for item in dataclasses.fields(GraftSettings)}.items() <= config.items()
    hints = typing.get_type_hints(GraftSettings)
    for name, allowed in (
        ("activation", tuple(ACTIVATIONS)),
        ("placement", PLACEMENTS),
        ("position", POSITIONS),
        ("gates", ("auto", *GATE_FAMILIES)),
    ):
        assert set(typing.get_args(hints[name])) == set(allowed)


@settings(deadline=None)  # a busy machine is no fault
@given(
    budget=st.floats(min_value=1e-6, max_value=0.999),
    pool_size=st.integers(1, 32),
    text=st.sampled_from(["text", ("left", "right")]),
    labels=st.none() | st.lists(st.text("abc no123", min_size=1), min_size=2, unique_by=str.strip).map(tuple),
    seed=st.integers(0, 2**32 - 1),
    epochs=st.floats(min_value=1e-3, max_value=1e3),
)
def test_yaml_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    budget: float,
    pool_size: int,
    text: str | tuple[str, ...],
    labels: tuple[str, ...] | None,
    seed: int,
    epochs: float,
) -> None:
    if labels and not all(label.strip() for label in labels):
        labels = None
    recipe = Recipe(
        model="m",
        output="o",
        tasks=(Task(name="a", train="a.jsonl", text=text, labels=labels),),
        graft=GraftSettings(pool_size=pool_size, budget=budget),
        training=TrainingSettings(epochs=epochs),
        seed=seed,
    )
    folder = tmp_path_factory.mktemp("recipe", numbered=True)
    assert load_recipe(write(folder, recipe_to_yaml(recipe))) == recipe


def test_documented_settings() -> None:
    """Every field has the docstring that the command line shows as its help."""
    parse = pytest.importorskip("docstring_parser").parse_from_object
    for cls in (Recipe, GraftSettings, Schedule, TrainingSettings):
        documented = {entry.arg_name for entry in parse(cls).params if entry.description}
        assert documented == {item.name for item in dataclasses.fields(cls)}


def test_files_of_settings_are_found_beside_the_recipe(tmp_path):
    (tmp_path / "costs.json").write_text("{}")
    (tmp_path / "old").mkdir()
    raw = recipe_dict(tmp_path)
    raw["graft"] |= {"cost": "file:costs.json", "structure": "task:same:old"}
    recipe = load_recipe(write_recipe(tmp_path, raw))
    assert recipe.graft.cost == f"file:{tmp_path}/costs.json"
    assert recipe.graft.structure == f"task:same:{tmp_path}/old"
    raw["graft"] |= {"cost": "file:$NOWHERE/costs.json", "structure": "file:elsewhere.json"}
    with pytest.raises(RecipeError, match="cost uses the environment variable NOWHERE"):
        load_recipe(write_recipe(tmp_path, raw))


def test_a_table_of_costs_in_the_recipe(tmp_path):
    raw = recipe_dict(tmp_path)
    raw["graft"]["cost"] = {"a.b": 1, "c": 2.5}
    recipe = load_recipe(write_recipe(tmp_path, raw))
    assert GraftConfig(**recipe.graft_values()).cost == {"a.b": 1.0, "c": 2.5}
    again = tmp_path / "again.yaml"
    again.write_text(recipe_to_yaml(recipe))
    assert load_recipe(again) == recipe


def test_a_given_structure_needs_no_gates(tmp_path):
    raw = recipe_dict(tmp_path)
    raw["graft"]["structure"] = "uniform"
    config = GraftConfig(**load_recipe(write_recipe(tmp_path, raw)).graft_values())
    assert config.gates == "fixed"
    assert config.structure is None
    assert config.budget == 0.05


def test_the_largest_of_several_budgets_is_searched(tmp_path):
    raw = {**recipe_dict(tmp_path), "budgets": ["1e-2", 0.03, 0.001]}
    recipe = load_recipe(write_recipe(tmp_path, raw))
    assert recipe.budgets == (0.01, 0.03, 0.001)
    assert GraftConfig(**recipe.graft_values()).budget == 0.03


@pytest.mark.parametrize(
    ("graft", "message"),
    [
        ({"structure": "unifrom"}, r"graft\.structure='unifrom' is not known; did you mean 'uniform'"),
        ({"structure": "uniform"}, r"graft\.structure='uniform' needs graft\.budget"),
        ({"structure": "file:x", "penalty": 1}, r"leaves nothing to learn for graft\.penalty=1; give one"),
        ({"cost": "flop"}, "graft: cost='flop' is not known; did you mean 'flops'"),
        ({"cost": 3}, r"graft\.cost=3 must be a string or a mapping of names to numbers"),
        ({"task_budget": -1}, "graft: task_budget=-1.0 must be above 0"),
        ({"rank_by": "luck"}, "must be one of prob_open, strength, product"),
        (
            {"groups": [["colour"], ["same"]]},
            r"graft: groups=.* must hold each of the tasks colour, same",
        ),
        ({"groups": "colour"}, r"graft\.groups='colour' must be a list of lists of strings or null"),
    ],
)
def test_bad_structures_costs_and_rankings(graft, message, tmp_path):
    raw = {**recipe_dict(tmp_path), "graft": graft}
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(write_recipe(tmp_path, raw))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["[" * 50_000, "&a [*a, *a]" * 9000, ["[" * 50_000]])
def test_text_in_place_of_a_number_is_not_read_as_yaml_again(value, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: m\noutput: o\ntasks: [{name: a, train: x}]\n")
    with pytest.raises(RecipeError, match=r"graft.layers_to_transform=.{,400} must be"):
        load_recipe(path, {"graft.layers_to_transform": value})


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: m\noutput: o\nseed: 1\ntasks: [{name: a, train: x}]\nseed: 2\n")
    with pytest.raises(
        RecipeError, match=r"recipe.yaml: not valid YAML: the key 'seed' is given twice .*line 5"
    ):
        load_recipe(path)


@pytest.mark.parametrize("output", ["/", ".", "a/..", "a\0b"])
def test_an_output_must_end_in_a_name(output, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: m\noutput: o\ntasks: [{name: a, train: x}]\n")
    with pytest.raises(RecipeError, match="must end in the name of a folder"):
        load_recipe(path, {"output": output})


def test_one_string_is_no_list_of_strings(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: m\noutput: o\ntasks: [{name: a, train: x, text: body, labels: xyz}]\n")
    with pytest.raises(RecipeError, match="labels of task 'a'='xyz' must be"):
        load_recipe(path)


def test_of_very_many_long_faults_the_first_are_named_once(tmp_path):
    path = tmp_path / "recipe.yaml"
    entry = str(["a" * 100] * 8)
    path.write_text(f"model: m\noutput: o\ntasks: [{', '.join([entry] * 30)}]\n")
    with pytest.raises(RecipeError, match=r"tasks\[0\]=.*; and 2\d more$") as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 4000
    assert joined(["x", "y", "x"]) == "x; y"
