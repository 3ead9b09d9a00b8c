from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import graftwork as gw
from graftwork.tuner.registration import METHOD

SOURCE = Path(gw.__file__).parent
HEAVY = ("torch", "peft", "transformers", "datasets", "pandas", "sklearn", "numpy", "matplotlib", "jaxtyping")


def test_all_equals_the_public_names():
    for name in gw.__all__:  # loaded on first use
        getattr(gw, name)
    public = {
        name
        for name, value in vars(gw).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    } - {"annotations", "TYPE_CHECKING"}
    assert sorted(public) == sorted(gw.__all__)
    assert list(gw.__all__) == sorted(gw.__all__)
    assert set(gw.__all__) <= set(dir(gw))
    for name in gw.__all__:
        assert getattr(gw, name).__doc__, f"{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Grafts'"):
        gw.Grafts  # noqa: B018


def test_modules_are_attributes():
    assert run("import graftwork; print(graftwork.errors.DataError.__name__)").strip() == "DataError"


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    assert gw.__version__ == project["version"]


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import graftwork; dir(graftwork); graftwork.Structure; graftwork.TaskRecipe; graftwork.Extension",
        "import graftwork.cli; graftwork.cli.build_parser().format_help()",
        "import graftwork.recipe.recipe, graftwork.recipe.task_recipe, graftwork.noise.kinds",
        "import graftwork.structure.structure, graftwork.structure.file, graftwork.structure.fixed",
        "import graftwork.structure.drawing, graftwork.structure.stability, graftwork.models.files",
        "import graftwork.finished.reports, graftwork.diagnosis.findings",
    ],
)
def test_is_free_of_torch(statement: str):
    found = run(f"{statement}; import sys; print(*(n for n in {HEAVY} if n in sys.modules))").split()
    assert found == []


KNOWS_THE_METHOD = """
import torch
import peft
from transformers import BertConfig, BertModel
bert = BertModel(BertConfig(
    vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
config = peft.get_peft_config({"peft_type": "GRAFT", "pool_size": 2, "task_type": None})
peft.get_peft_model(bert, config).save_pretrained(FOLDER)
again = peft.PeftModel.from_pretrained(BertModel(bert.config), FOLDER)
print(type(again.base_model).__name__, again.peft_config["default"].peft_type.value)
"""


@pytest.mark.parametrize(
    "first",
    [
        "import graftwork",
        "import peft; import graftwork",
        *(f"import graftwork.{x}" for x in ("tuner.config", "tuner.layer")),
    ],
    ids=lambda text: text.replace("import ", ""),
)
def test_peft_knows_the_method(first: str, tmp_path: Path):
    assert run(f"{first}\nFOLDER = {str(tmp_path)!r}{KNOWS_THE_METHOD}").split() == ["GraftModel", "GRAFT"]


def imports(module: str) -> set[str]:
    """What a module imports at its top."""
    path = SOURCE / (module.replace(".", "/") + ".py")
    tree = ast.parse((path if path.exists() else SOURCE / module / "__init__.py").read_text())
    lines = [line for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom)]
    return {
        name
        for line in lines
        for name in ([line.module] if isinstance(line, ast.ImportFrom) else [n.name for n in line.names])
        if name
    }


def test_the_hook_knows_the_modules_of_the_method():
    def closure(module: str, seen: dict[str, set[str]]) -> dict[str, set[str]]:
        if module not in seen:
            seen[module] = imports(module)
            for name in seen[module]:
                if name.startswith("graftwork."):
                    closure(name.removeprefix("graftwork."), seen)
        return seen

    def needs_peft(module: str) -> bool:
        return any(
            name.partition(".")[0] == "peft" for below in closure(module, {}).values() for name in below
        )

    assert sorted(METHOD) == sorted(
        name.removeprefix("tuner.")
        for name in filter(needs_peft, closure("tuner.model", {}))
        if name.startswith("tuner.")
    )
