"""The examples in the docstrings of the public names run, and every public class and function has one.

An example may use the names of `names`, runs in a folder that holds a trained model, and may write there.
"""

from __future__ import annotations

import doctest
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoModel

import graftwork as gw
import graftwork.noise
from graftwork.data.images.reader import ImageReader
from graftwork.data.images.row_image import RowImage
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from toyrun import WORDS, recipe_dict, run_parts, write_lines, write_recipe, write_run

INNER = (ImageReader, RowImage)
"""Classes inside of the package that many modules share, and that have an example, too."""
PUBLIC: dict[str, Any] = {
    f"{module.__name__}.{name}": value
    for module in (gw, graftwork.noise)
    for name in module.__all__
    if inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value)
} | {f"{value.__module__}.{value.__name__}": value for value in INNER}
PARSER = doctest.DocTestParser()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(value: Any) -> list[doctest.Example]:
    return PARSER.get_examples(inspect.getdoc(value) or "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of all examples: `backbone`, `data`, and a model `runs/colours` of three tasks."""
    folder = tmp_path_factory.mktemp("examples")
    write_run(folder)
    recipe = load_recipe(
        write_recipe(folder, {**recipe_dict(folder), "output": str(folder / "runs/colours")})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fit(recipe, console=Console(file=io.StringIO()))
        rows = [{"text": f"{word} {other} road", "label": word} for word in WORDS[:3] for other in WORDS[3:]]
        write_lines(folder / "data/words/train.jsonl", rows)
        write_recipe(
            folder,
            {"tasks": [{"name": "words", "train": "data/words"}], "training": {"epochs": 1}},
            "new-task.yaml",
        )
        yield folder


@pytest.fixture
def names(folder: Path) -> dict[str, Any]:
    """What an example finds: a backbone nobody has changed, and the tokens and heads of three tasks."""
    splits, tokenizer, heads = run_parts(folder)
    return {
        "gw": gw,
        "backbone": AutoModel.from_pretrained(folder / "backbone"),
        "tokenizer": tokenizer,
        "tokens": tokenizer(["red stone", "blue bird lamp"], padding=True, return_tensors="pt"),
        "heads": heads,
        "rows": splits["train"],
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name: str, names: dict[str, Any]) -> None:
    found = examples(PUBLIC[name])
    assert found, f"{name} has no example"
    text = inspect.getdoc(PUBLIC[name])
    said = io.StringIO()
    test = doctest.DocTest(found, names, name, None, None, text)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.write).failed == 0, said.getvalue()


def test_no_example_is_forgotten() -> None:
    """One in a private place would never be run."""
    source = Path(gw.__file__).parent
    written = sum(
        len(re.findall(r"^ *>>> ", path.read_text(), re.MULTILINE)) for path in source.rglob("*.py")
    )
    assert written == sum(len(examples(value)) for value in PUBLIC.values())
