"""A run on images from end to end: fit, evaluate, predict, extract, add a task, export, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

import graftwork as gw
from graftwork.cli import main
from graftwork.errors import DataError, Interrupted, RecipeError
from graftwork.export.folder import export_folder
from graftwork.finished.evaluate import rescore
from graftwork.finished.extract import extract
from graftwork.fitting.fit import fit
from graftwork.recipe.loading import load_recipe
from graftwork.training.interrupt import InterruptCallback
from toy_images import drawn, image_recipe, write_image_backbone, write_images
from toyrun import write_tasks


def recipe(folder: Path, name: str = "recipe", **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**image_recipe(folder), **changes}))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    write_images(place / "data")
    write_image_backbone(place / "backbone")
    training = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "image_size": 12}
    training["augment"] = {"flip": 0.5, "crop": 0.9, "colour": 0.05}
    gw.fit(recipe(place, training=training))
    return place


def test_fit_and_evaluate(folder: Path) -> None:
    report = json.loads((folder / "out/report.json").read_text())
    processor = json.loads((folder / "out/preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 12, "width": 12}
    assert report["tasks"]["colour"]["linear_probe"] == 1.0
    found = rescore(folder / "out")
    for name in ("colour", "bright", "both"):
        assert found["tasks"][name]["score"] == pytest.approx(report["tasks"][name]["test"], abs=1e-6)
    rows = folder / "data/bright/test.jsonl"
    other = rescore(folder / "out", data=str(rows), task="bright")
    assert other["tasks"]["bright"]["score"] == found["tasks"]["bright"]["score"]


def test_predict_paths_images_and_fields(folder: Path) -> None:
    model = gw.load(folder / "out")
    path = folder / "data/colour/test/red/000.png"
    image = Image.open(path)
    answers = [model.predict([row], task="colour")[0] for row in (str(path), path, image, {"image": image})]
    assert all(answer == answers[0] for answer in answers)
    rng = np.random.default_rng(5)
    images = [drawn(("red", "blue")[i % 2], 0.5 + 0.1 * i, rng) for i in range(5)]
    for task in ("colour", "bright", "both"):
        together = model.predict(images, task=task)
        for one, row in zip(together, images, strict=True):
            (alone,) = model.predict([row], task=task)
            for key, value in alone.items():
                if key != "labels":
                    assert one[key] == (pytest.approx(value, abs=1e-5) if key != "label" else value)
    every = model.predict_all([{"image": images[0], "photo": images[0]}, str(path)])
    assert every[0]["skipped"] == {}
    (single,) = model.predict([images[0]], task="bright")
    assert every[0]["answers"]["bright"]["score"] == pytest.approx(single["score"], abs=1e-4)
    assert set(every[1]["answers"]) == {"colour", "bright", "both"}


def test_bad_rows(folder: Path) -> None:
    model = gw.load(folder / "out")
    with pytest.raises(DataError, match=r"row 2: the image in 'image' is 'nope.png', and there is no such"):
        model.predict([Image.new("RGB", (4, 4)), "nope.png"], task="colour")
    with pytest.raises(DataError, match="row 1 has no field 'image', which task 'colour' reads"):
        model.predict([{"picture": "x"}], task="colour")
    with pytest.raises(DataError, match="row 1 has 2 texts, but task 'colour' reads 1"):
        model.predict([("a.png", "b.png")], task="colour")
    with pytest.raises(DataError, match="row 1: the image in 'image' is 7, not the path of an image"):
        model.predict([{"image": 7}], task="colour")


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = folder / "data/bright/test.jsonl"
    main(["predict", str(folder / "out"), "--input", str(rows), "--task", "both"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 24
    assert set(lines[0]) == {"task", "labels", "probabilities"}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"image": "gone.png"}\n')
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(folder / "out"), "--input", str(bad), "--task", "colour"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("graftwork: row 1: the image in 'image' is 'gone.png'")


def test_extract_add_and_export(folder: Path) -> None:
    before = gw.load(folder / "out")
    paths = [str(path) for path in sorted((folder / "data/colour/test").glob("*/*.png"))[:4]]
    extract(folder / "out", "bright", folder / "one")
    assert gw.load(folder / "one").predict(paths)[0]["score"] == pytest.approx(
        before.predict(paths, task="bright")[0]["score"], abs=1e-5
    )
    added = {
        "tasks": [{"name": "again", "train": str(folder / "data/colour/train"), "image": "image"}],
        "training": {"epochs": 1, "batch_size": 16, "augment": {"flip": 0.5}},
    }
    (folder / "again.yaml").write_text(yaml.safe_dump(added))
    report = gw.add_task(folder / "out", folder / "again.yaml", folder / "more")
    assert report["additions"][0]["older_tasks_change"] == 0.0
    assert set(gw.load(folder / "more").predict(paths, task="again")[0]["probabilities"]) == {"blue", "red"}
    described = export_folder(folder / "out", folder / "pt2", format="pt2")
    assert described["inputs"]["pixel_values"]["axes"] == ["batch", 3, 12, 12]
    assert (folder / "pt2/preprocessor_config.json").is_file()


def test_onnx(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    described = export_folder(folder / "out", folder / "onnx", format="onnx", all_tasks=True)
    assert described["inputs"]["pixel_values"]["axes"] == ["batch", 3, 12, 12]
    assert described["largest_difference"] < 1e-4


def test_rows_in_memory(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [{"image": drawn(("red", "blue")[i % 2], 0.8, rng), "label": i % 2} for i in range(40)]
    model = gw.fit(
        tasks={"picture": {"train": rows, "image": "image"}},
        model=str(folder / "backbone"),
        output=str(folder / "memory"),
        training={"epochs": 1},
        graft={"pool_size": 2, "budget": "20%"},
    )
    assert set(model.predict([rows[0]["image"]])[0]["probabilities"]) == {"0", "1"}


def test_texts_and_images_do_not_mix(folder: Path) -> None:
    write_tasks(folder / "texts")
    tasks = image_recipe(folder)["tasks"]
    text = {"name": "words", "train": str(folder / "texts/colour")}
    with pytest.raises(RecipeError, match="task 'both' reads images and task 'words' texts"):
        load_recipe(recipe(folder, "mixed", tasks=[*tasks, text]))
    with pytest.raises(RecipeError, match="keyboard noise is for texts, and the tasks read images"):
        load_recipe(recipe(folder, "noisy", noise=[{"kind": "keyboard", "ratio": 0.1, "when": "train"}]))
    with pytest.raises(RecipeError, match=r"training\.augment\.crop=0\.0 must be from 0.01 to 1"):
        load_recipe(recipe(folder, "crop", training={"augment": {"crop": 0}}))
    with pytest.raises(RecipeError, match="unknown key 'blur'; allowed: flip, crop, rotate, colour"):
        load_recipe(recipe(folder, "blur", training={"augment": {"blur": 1}}))
    with pytest.raises(RecipeError, match=r"training\.augment is for tasks that read images, and none does"):
        load_recipe(recipe(folder, "texts", tasks=[text], training={"augment": {"flip": 0.5}}))
    (folder / "words.yaml").write_text(yaml.safe_dump({"tasks": [text]}))
    with pytest.raises(RecipeError, match="task 'words' reads texts, but the model images"):
        gw.add_task(folder / "out", folder / "words.yaml", folder / "words")


def test_resume_goes_on_to_the_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_recipe(folder / "recipe.yaml", {"output": str(folder / "stopped")})
    original = InterruptCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # In the middle of an epoch: the same images must be drawn again.
        self.requested = self.requested or state.global_step == 13
        original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(InterruptCallback, "on_step_end", on_step_end)
        with pytest.raises(Interrupted):
            fit(plan, console=Console(quiet=True))
    fit(plan, resume=True, console=Console(quiet=True))
    for name in ("adapter_model.safetensors", "heads.safetensors", "structure.json"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "out" / name).read_bytes()
