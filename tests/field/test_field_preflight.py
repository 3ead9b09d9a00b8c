"""Backbones and sources of all kinds: a model that works, or one line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
import yaml
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HfHubHTTPError

from commands import Command
from toyrun import WORDS, recipe_dict, write_backbone, write_lines, write_recipe, write_tasks
from toys import tiny_config

VOCABULARY = len(WORDS) + 4


def run_with(folder: Path, kind: str, settings: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A run of one short epoch on a tiny random model of this kind, with the toy tokenizer."""
    write_backbone(folder / "backbone")
    write_tasks(folder / "data")
    torch.manual_seed(0)
    config = tiny_config(kind, vocab_size=VOCABULARY, **changes)
    transformers.AutoModel.from_config(config).save_pretrained(folder / "backbone")
    recipe = recipe_dict(folder)
    recipe["tasks"] = recipe["tasks"][:1]
    recipe["training"] |= {"epochs": 1, **(settings or {})}
    return write_recipe(folder, recipe)


def predicted(command: Command, folder: Path, text: str) -> dict[str, Any]:
    line = json.dumps({"text": text}).encode() + b"\n"
    ended = command("predict", folder, stdin=line)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)  # type: ignore[no-any-return]


def words(count: int) -> str:
    return " ".join(["river"] * (count - 3) + ["red"])


@pytest.mark.parametrize(
    ("kind", "changes"), [("opt", {"word_embed_proj_dim": 8}), ("bart", {}), ("gpt2", {"pad_token_id": None})]
)
def test_fits_and_predicts(kind: str, changes: dict[str, Any], tmp_path: Path, command: Command) -> None:
    ended = command("fit", run_with(tmp_path, kind, **changes))
    assert ended.code == 0, ended.err
    assert predicted(command, tmp_path / "out", "tree red")["task"] == "colour"


def test_a_length_above_the_positions_is_lowered_in_all_that_is_saved(
    tmp_path: Path, command: Command
) -> None:
    recipe = run_with(tmp_path, "roberta", {"max_length": 64}, pad_token_id=0)
    write_lines(
        tmp_path / "data/colour/train.jsonl",
        [{"text": words(length), "label": label} for length, label in ((50, "red"), (5, "blue")) * 20],
    )
    ended = command("fit", recipe)
    assert ended.code == 0, ended.err
    # Of 32 positions RoBERTa leaves the first, that of the padding, unused.
    said = " ".join(ended.out.split())
    assert "max_length is 64, but the backbone (RobertaModel) has positions for 31 tokens" in said
    assert "20 of 136 rows are longer and are cut" in said
    saved = yaml.safe_load((tmp_path / "out/recipe.yaml").read_text())
    assert saved["training"]["max_length"] == 31
    assert command("evaluate", tmp_path / "out").code == 0


def test_sites_that_cannot_learn_are_named(tmp_path: Path, command: Command) -> None:
    recipe = run_with(tmp_path, "bert")
    ended = command("fit", recipe, "--set", "graft.target_modules=all-linear")
    assert ended.code == 0, ended.err
    said = " ".join(ended.out.split())
    assert "1 of 13 sites are of no use (pooler.dense): what they give does not reach the output" in said


def test_no_site_that_can_learn_is_refused(tmp_path: Path, command: Command) -> None:
    message = command(
        "fit", run_with(tmp_path, "bert"), "--set", "graft.target_modules=[pooler.dense]"
    ).message
    assert "no adapter can learn: of 1 sites (pooler.dense)" in message


def test_a_backbone_of_images_says_so(tmp_path: Path, command: Command) -> None:
    recipe = run_with(tmp_path, "bert")
    transformers.AutoModel.from_config(tiny_config("vit")).save_pretrained(tmp_path / "backbone")
    said = command("fit", recipe).message
    assert "is a ViTModel, which reads images; name the field of the images with image:" in said


def test_a_tokenizer_that_needs_a_missing_package_names_it(tmp_path: Path, command: Command) -> None:
    recipe = run_with(tmp_path, "t5")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "backbone" / name).unlink()
    (tmp_path / "backbone/tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (tmp_path / "backbone/spiece.model").write_bytes(b"no model")
    message = command("fit", recipe).message
    assert "cannot be loaded" in message


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, command: Command) -> None:
    recipe = run_with(tmp_path, "bert")
    path = tmp_path / "backbone/config.json"
    config = json.loads(path.read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    path.write_text(json.dumps(config))
    (tmp_path / "backbone/own.py").write_text("raise SystemExit('this was run')")
    assert "it brings code of its own, which graftwork never runs" in command("fit", recipe).message


def hub_run(folder: Path, source: str) -> Path:
    recipe = run_with(folder, "bert")
    contents = yaml.safe_load(recipe.read_text())
    contents["tasks"][0] = {"name": "colour", "train": source}
    return write_recipe(folder, contents)


def test_a_dataset_with_a_script_is_one_line(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some/some.py").write_text("raise SystemExit('this was run')")
    load = datasets.load_dataset

    def local(path: str, *args: Any, **kwargs: Any) -> Any:
        return load(str(tmp_path / path), *args, **kwargs)

    recipe = hub_run(tmp_path, "hub:some")
    monkeypatch.setattr(datasets, "load_dataset", local)
    message = command("fit", recipe).message
    assert "hub:some cannot be loaded (" in message
    assert "script" in message


def test_a_dataset_with_a_broken_file_is_one_line(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some/train.jsonl").write_text('{"text": "a", "label": \n"b"')
    load = datasets.load_dataset

    def local(path: str, *args: Any, **kwargs: Any) -> Any:
        return load(str(tmp_path / path), *args, cache_dir=str(tmp_path / "cache"), **kwargs)

    recipe = hub_run(tmp_path, "hub:some")
    monkeypatch.setattr(datasets, "load_dataset", local)
    message = command("fit", recipe).message
    assert "hub:some cannot be loaded (" in message
    assert "JSON" in message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Dataset scripts are no longer supported, but found some.py"),
        DatasetGenerationError("An error occurred while generating the dataset"),
        HfHubHTTPError.__new__(HfHubHTTPError, "403 Forbidden: the dataset is gated"),
        ImportError("To support decoding audio files, please install 'torchcodec'"),
    ],
)
def test_whatever_datasets_raises_is_one_line(
    error: Exception, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    recipe = hub_run(tmp_path, "hub:some/name")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert f"hub:some/name cannot be loaded ({error}" in command("fit", recipe).message


def test_a_row_that_a_saved_model_cannot_take_is_one_line(
    fitted: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graftwork.models.predictor import Predictor

    load = Predictor.load.__func__  # type: ignore[attr-defined]

    def long(cls: type[Predictor], folder: Path, **options: Any) -> Predictor:
        return load(cls, folder, **{**options, "max_length": 64})  # type: ignore[no-any-return]

    monkeypatch.setattr(Predictor, "load", classmethod(long))
    line = json.dumps({"text": words(50)}).encode() + b"\n"
    message = command("predict", fitted / "out", "--task", "colour", stdin=line).message
    assert "1 rows of up to 50 tokens cannot be passed through the backbone; shorten" in message
