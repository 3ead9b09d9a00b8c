"""A saved model serves what was trained: its length, its tokenizer, its backbone, wherever they lie."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

import graftwork as gw
from commands import Command
from graftwork.cli import main
from graftwork.models.predictor import Predictor
from toyrun import WORDS, recipe_dict, write_backbone, write_lines, write_recipe, write_run, write_tasks
from toys import tiny

ROW = b'{"text": "tree red"}\n'


@pytest.fixture
def project(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the fitted project that says where its backbone is."""
    return copied(fitted, tmp_path / "project")


def copied(fitted: Path, target: Path) -> Path:
    shutil.copytree(fitted, target)
    edit(target / "out/tasks.json", model=str(target / "backbone"))
    return target


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    found = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def served(command: Command, folder: Path, *options: object) -> dict[str, Any]:
    ended = command("predict", folder, "--task", "colour", *options, stdin=ROW)
    assert ended.code == 0, ended.err
    return dict(json.loads(ended.out))


# --- the length ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two tasks whose decisive words stand behind token 160."""
    folder = tmp_path_factory.mktemp("long")
    write_backbone(folder / "backbone", positions=256)
    draw = random.Random(0)
    for task in ("colour", "more"):
        for split, size in (("train", 64), ("validation", 16), ("test", 40)):
            rows = []
            for index in range(size):
                colour = WORDS[index % 2]
                rows.append(
                    {"text": " ".join([*draw.choices(WORDS[3:], k=165), *[colour] * 60]), "label": colour}
                )
            write_lines(folder / "data" / task / f"{split}.jsonl", rows)
    training = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02}
    recipe = recipe_dict(folder)
    recipe |= {
        "tasks": [{"name": "colour", "train": str(folder / "data/colour")}],
        "training": {**training, "max_length": 256},
    }
    main(["fit", str(write_recipe(folder, recipe))])
    added = {"tasks": [{"name": "more", "train": str(folder / "data/more")}], "training": training}
    main(
        [
            "add-task",
            str(folder / "out"),
            str(write_recipe(folder, added, "add.yaml")),
            "-o",
            str(folder / "two"),
        ]
    )
    main(["extract", str(folder / "two"), "more", str(folder / "one")])
    main(["remove-task", str(folder / "two"), "more", "-o", str(folder / "less")])
    return folder


@pytest.mark.parametrize("name", ["out", "two", "one", "less"])
def test_evaluate_and_predict_agree_to_the_last_label(long_rows: Path, name: str, command: Command) -> None:
    scores = json.loads(command("evaluate", long_rows / name, "--json").out)["tasks"]
    for task, found in scores.items():
        source = long_rows / "data" / task / "test.jsonl"
        lines = command("predict", long_rows / name, "--task", task, "--input", source).out.splitlines()
        labels = [json.loads(line)["label"] for line in source.read_text().splitlines()]
        right = [json.loads(line)["label"] == label for line, label in zip(lines, labels, strict=True)]
        assert found["score"] == sum(right) / len(right) > 0.9
        cut = Predictor.load(long_rows / name, max_length=128).predict(
            [json.loads(line) for line in source.read_text().splitlines()], task
        )
        assert len({row["label"] for row in cut}) == 1 or [row["label"] for row in cut] != labels


def test_the_length_goes_with_an_export(long_rows: Path, tmp_path: Path, command: Command) -> None:
    assert command("export", long_rows / "one", tmp_path / "pt2", "--format", "pt2").code == 0
    about = json.loads((tmp_path / "pt2/export.json").read_text())
    assert about["max_length"] == 256
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "pt2"))
    source = long_rows / "data/more/test.jsonl"
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    inputs = tokenizer(
        [row["text"] for row in rows],
        truncation=True,
        max_length=about["max_length"],
        padding=True,
        return_tensors="pt",
    )
    program = torch.export.load(tmp_path / "pt2/model.pt2").module()
    logits = program(**{name: inputs[name] for name in about["inputs"]})
    found = [about["tasks"][0]["labels"][index] for index in logits.argmax(1).tolist()]
    assert found == [row["label"] for row in Predictor.load(long_rows / "one").predict(rows, "more")]


def test_an_older_folder_takes_the_length_of_its_recipe(project: Path, command: Command) -> None:
    edit(project / "out/tasks.json", max_length=None)
    assert Predictor.load(project / "out").max_length == 16
    (project / "out/recipe.yaml").unlink()
    ended = command("predict", project / "out", "--task", "colour", stdin=ROW)
    assert ended.code == 0
    assert "rows are cut at 128" in ended.err
    edit(project / "out/tasks.json", max_length=0)
    message = command("predict", project / "out", "--task", "colour", stdin=ROW).message
    assert "max_length=0 must be a whole number of at least 1" in message


# --- the tokenizer ------------------------------------------------------------------------------------------


def reverse_vocabulary(folder: Path) -> None:
    """Give a folder a tokenizer of the same size that means other things."""
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    vocabulary = found["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    ids = [vocabulary[word] for word in reversed(words)]
    found["model"]["vocab"] = {**vocabulary, **dict(zip(words, ids, strict=True))}
    path.write_text(json.dumps(found))


def test_the_tokenizer_of_the_model_is_used_unless_another_is_asked_for(
    project: Path, tmp_path: Path, command: Command
) -> None:
    expected = served(command, project / "out")
    other = tmp_path / "other"
    shutil.copytree(project / "backbone", other)
    reverse_vocabulary(other)
    assert served(command, project / "out", "--backbone", other) == expected
    changed = served(command, project / "out", "--tokenizer", other)
    assert changed != expected
    for path in (project / "backbone").glob("*token*"):
        path.unlink()
    assert served(command, project / "out") == expected
    command("extract", project / "out", "colour", tmp_path / "small", "--tokenizer", other)
    assert served(command, tmp_path / "small")["probabilities"] == pytest.approx(
        changed["probabilities"], abs=1e-6
    )


def test_a_backbone_without_a_tokenizer_is_refused(project: Path, command: Command) -> None:
    run = (
        "fit",
        project / "recipe.yaml",
        "--set",
        f"model={project / 'backbone'}",
        "--output",
        project / "new",
    )
    for path in (project / "backbone").glob("*token*"):
        path.unlink()
    assert "has no tokenizer: neither tokenizer.json nor" in command(*run).message
    message = command("predict", project / "out", "--tokenizer", project / "backbone", stdin=ROW).message
    assert "has no tokenizer" in message
    assert not (project / "new").exists()


def test_a_tokenizer_of_nothing_but_special_tokens_is_refused(project: Path, command: Command) -> None:
    """Where Transformers finds no vocabulary it makes up one of special tokens, and every text is [UNK]."""
    half = project / "half"
    half.mkdir()
    shutil.copy(project / "backbone/config.json", half)
    (half / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    message = command("predict", project / "out", "--tokenizer", half, stdin=ROW).message
    assert "has no tokenizer" in message
    (half / "vocab.txt").unlink()
    (half / "vocab.json").write_text('{"a": 0, "b": 1, "c": 2, "<|endoftext|>": 3}')
    edit(half / "config.json", model_type="gpt2")
    assert "merges" in command("predict", project / "out", "--tokenizer", half, stdin=ROW).message


def test_a_vocabulary_larger_than_the_embeddings_is_refused(project: Path, command: Command) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(project / "backbone"))
    tokenizer.add_tokens(["cloudy", "windy"])
    tokenizer.save_pretrained(project / "backbone")
    run = (
        "fit",
        project / "recipe.yaml",
        "--set",
        f"model={project / 'backbone'}",
        "--output",
        project / "new",
    )
    expected = "has ids up to 15, but the backbone .* has embeddings for 14 tokens"
    for ended in (
        command(*run),
        command("predict", project / "out", "--tokenizer", project / "backbone", stdin=ROW),
    ):
        assert re.search(expected, ended.message)


# --- the backbone -------------------------------------------------------------------------------------------


def test_other_weights_of_the_same_shape_are_refused_or_taken(
    project: Path, tmp_path: Path, command: Command
) -> None:
    expected = served(command, project / "out")
    other = write_backbone(tmp_path / "other", seed=1)
    add = {"tasks": [{**recipe_dict(project)["tasks"][0], "name": "hue"}]}
    new = tmp_path / "new"
    out = project / "out"
    for arguments in (
        ("predict", out, "--task", "colour"),
        ("evaluate", out),
        ("extract", out, "colour", new),
        ("export", out, new, "--format", "pt2"),
        ("add-task", out, write_recipe(tmp_path, add, "add.yaml"), "-o", new),
        ("remove-task", out, "colour", "-o", new),
    ):
        message = command(*arguments, "--backbone", other, stdin=ROW).message
        assert "has other weights than the backbone that" in message
        assert "--backbone-unchecked" in message
    assert not new.exists()
    assert served(command, out, "--backbone", other, "--backbone-unchecked") != expected
    # What was taken is what the new model says.
    command("extract", out, "colour", new, "--backbone", other, "--backbone-unchecked")
    assert served(command, new)["task"] == "colour"
    assert "other weights" in command("predict", new, "--backbone", project / "backbone", stdin=ROW).message


def test_one_value_is_enough(project: Path, command: Command) -> None:
    path = project / "backbone/model.safetensors"
    tensors = load_file(path)
    tensors["encoder.layer.1.output.dense.weight"][3, 5] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    assert "other weights" in command("predict", project / "out", "--task", "colour", stdin=ROW).message


@pytest.mark.parametrize("form", ["bin", "sharded", "saved again"])
def test_the_checksum_does_not_depend_on_files(project: Path, form: str, command: Command) -> None:
    expected = served(command, project / "out")
    folder = project / "backbone"
    model = AutoModel.from_pretrained(str(folder))
    (folder / "model.safetensors").unlink()
    if form == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder, max_shard_size="20KB" if form == "sharded" else "1GB")
    assert (
        len(list(folder.glob("*.safetensors"))) == {"bin": 0, "saved again": 1}.get(form, 3)
        or form == "sharded"
    )
    assert served(command, project / "out") == expected


def test_weights_that_a_file_lacks_do_not_count(project: Path, tmp_path: Path, command: Command) -> None:
    """Many files have no pooler, which Transformers makes up anew each time it loads them."""
    folder = project / "backbone"
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in tensors.items() if "pooler" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    recipe = {**yaml.safe_load((project / "recipe.yaml").read_text()), "model": str(folder)}
    recipe["output"] = str(project / "new")
    recipe["training"]["epochs"] = 1
    assert command("fit", write_recipe(project, recipe, "new.yaml")).code == 0
    expected = served(command, project / "new")
    AutoModel.from_pretrained(str(folder)).save_pretrained(tmp_path / "again")
    assert served(command, project / "new", "--backbone", tmp_path / "again") == expected
    tensors = {name: value for name, value in tensors.items() if "layer.1.output.dense" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = command("predict", project / "new", "--task", "colour", stdin=ROW).message
    assert "lacks 2 of its weights (encoder.layer.1.output.dense.weight" in message


def test_a_folder_without_a_checksum_is_served_with_a_note(project: Path, command: Command) -> None:
    expected = served(command, project / "out")
    backbone = json.loads((project / "out/tasks.json").read_text())["backbone"]
    backbone.pop("sha256")
    edit(project / "out/tasks.json", backbone=backbone)
    ended = command("predict", project / "out", "--task", "colour", stdin=ROW)
    assert json.loads(ended.out) == expected
    assert len(ended.err.strip().splitlines()) == 1
    assert "note: " in ended.err
    assert "holds no checksum of its backbone" in ended.err


def test_an_unwritable_home_does_not_matter(
    project: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = served(command, project / "out")
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert served(command, project / "out") == expected


# --- places -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with relative places, fitted in its folder, then moved."""
    before = tmp_path_factory.mktemp("before") / "project"
    write_backbone(before / "models/backbone")
    write_tasks(before / "shared/data")
    recipe = recipe_dict(before)
    recipe |= {"model": "../models/backbone", "output": "runs/out", "budgets": [0.05, 0.03]}
    del recipe["graft"]["budget"]
    recipe["training"]["epochs"] = 2
    recipe["tasks"][0]["train"] = "../shared/data/colour"
    recipe["tasks"][1]["train"] = "${TOY_DATA:-../shared/data}/same"
    recipe["tasks"][2]["train"] = "shared/data/length"
    (before / "recipes").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(before)
        main(["fit", str(write_recipe(Path("recipes"), recipe))])
        main(["extract", "runs/out/0.05", "colour", "small/colour"])
        added = {**recipe["tasks"][0], "name": "hue"}
        add = {"tasks": [added], "training": {"epochs": 1, "batch_size": 16}}
        main(
            ["add-task", "runs/out/0.03", str(write_recipe(Path("recipes"), add, "add.yaml")), "-o", "grown"]
        )
        main(["remove-task", "grown", "same", "-o", "a/b/shrunk"])
    after = tmp_path_factory.mktemp("after") / "deep" / "project"
    after.parent.mkdir()
    before.rename(after)
    return after


@pytest.mark.parametrize("name", ["runs/out/0.05", "runs/out/0.03", "small/colour", "grown", "a/b/shrunk"])
def test_a_moved_project_finds_backbone_and_data(
    moved: Path, name: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("evaluate", moved / name).code == 0
    monkeypatch.chdir(moved / name)
    assert command("evaluate", ".").code == 0


def test_no_file_of_a_model_names_the_machine(moved: Path) -> None:
    folder = moved / "runs/out/0.05"
    stored = json.loads((folder / "tasks.json").read_text())["model"]
    assert stored == "../../../models/backbone"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == stored
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["model"] == stored
    assert [task["train"] for task in recipe["tasks"]] == [
        "../../../shared/data/colour",
        "${TOY_DATA:-../../../shared/data}/same",
        "../../../shared/data/length",
    ]
    for name in ("runs/out/0.05", "grown", "a/b/shrunk"):
        recipe = yaml.safe_load((moved / name / "recipe.yaml").read_text())
        assert json.loads((moved / name / "report.json").read_text())["recipe"] == recipe
    for path in folder.glob("*.[jmy]*"):
        assert str(Path(os.path.realpath(moved)).parents[2]) not in path.read_text(), path
        assert "project" not in path.read_text(), path
    base = AutoModel.from_pretrained(str(moved / "models/backbone"))
    assert isinstance(PeftModel.from_pretrained(base, str(folder)), PeftModel)


def test_a_variable_is_filled_in_where_the_model_is_used(
    moved: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_DATA", str(moved / "nowhere"))
    assert "nowhere/same does not exist" in command("evaluate", moved / "runs/out/0.05").message
    path = moved / "small/colour/tasks.json"
    edit(path, model="$TOY_MODELS/backbone")
    message = command("evaluate", moved / "small/colour").message
    assert "environment variable TOY_MODELS, which is not set" in message
    assert "--backbone" in message
    monkeypatch.setenv("TOY_MODELS", str(moved / "models"))
    monkeypatch.delenv("TOY_DATA")
    assert command("extract", moved / "small/colour", "colour", moved / "again").code == 0
    assert json.loads((moved / "again/tasks.json").read_text())["model"] == "$TOY_MODELS/backbone"
    edit(path, model="../../models/backbone")


def test_a_backbone_that_is_gone_is_asked_for(project: Path, command: Command) -> None:
    (project / "backbone").rename(project / "elsewhere")
    message = command("predict", project / "out", "--task", "colour", stdin=ROW).message
    assert "backbone does not exist" in message
    assert "--backbone" in message
    assert served(command, project / "out", "--backbone", project / "elsewhere")["label"] == "red"


def test_absolute_places_stay_as_given(fitted: Path) -> None:
    recipe = yaml.safe_load((fitted / "out/recipe.yaml").read_text())
    assert recipe["model"] == str(fitted / "backbone")
    assert recipe["tasks"][0]["train"] == str(fitted / "data/colour")


# --- neighbours ---------------------------------------------------------------------------------------------


def write_decoder(folder: Path, kind: str) -> Path:
    """A backbone whose tokenizer pads on the left, as for generation."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        padding_side="left",
        truncation_side="left",
    )
    tiny(kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_row_of_a_decoder_does_not_depend_on_its_neighbours(tmp_path: Path, command: Command) -> None:
    write_run(tmp_path)
    shutil.rmtree(tmp_path / "backbone")
    write_decoder(tmp_path / "backbone", "gpt2")
    assert command("fit", tmp_path / "recipe.yaml", "--set", "training.epochs=1").code == 0
    rows = [{"text": "tree red", "task": "colour"}, {"text": "tree bird road lamp " * 3, "task": "length"}]
    lines = [json.dumps(row) + "\n" for row in rows]
    alone = command("predict", tmp_path / "out", stdin=lines[0].encode())
    beside = command("predict", tmp_path / "out", stdin="".join(lines).encode())
    one, both = json.loads(alone.out), json.loads(beside.out.splitlines()[0])
    assert both["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)
    assert json.loads((tmp_path / "out/tokenizer_config.json").read_text())["padding_side"] == "right"
    tokenizer = gw.Predictor.load(tmp_path / "out").tokenizer
    assert tokenizer.truncation_side == "left"


def test_a_backbone_that_mixes_padding_into_rows_is_refused(tmp_path: Path, command: Command) -> None:
    from transformers import FNetConfig, FNetModel

    write_run(tmp_path)
    config = FNetConfig(
        vocab_size=14, hidden_size=16, intermediate_size=24, num_hidden_layers=1, max_position_embeddings=32
    )
    FNetModel(config).save_pretrained(tmp_path / "backbone")
    message = command("fit", tmp_path / "recipe.yaml").message
    assert "gives a row other outputs beside a longer row than alone" in message
