from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftwork.data.images.augmentation import augment
from graftwork.data.images.reader import AugmentedRows
from graftwork.data.images.row_image import RowImage, open_image
from graftwork.data.splits import load_split, load_task
from graftwork.data.task import Task
from graftwork.data.tokens import collate, encode, pad, tokenise
from graftwork.errors import DataError, RecipeError
from graftwork.models.backbone import load_image_reader
from toy_images import SIDE, write_image_backbone, write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    write_images(place / "data")
    write_image_backbone(place / "backbone")
    return place


def colour(folder: Path, **changes: object) -> Task:
    return Task("colour", str(folder / "data/colour/train"), image="image", **changes)  # type: ignore[arg-type]


def save(image: Image.Image, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, **{"format": "PNG", **options})  # type: ignore[arg-type]
    return sink.getvalue()


def test_folder_per_class_and_field_with_paths(folder: Path) -> None:
    data = load_task(colour(folder))
    assert data.head.labels == ("blue", "red")
    assert (data.head.reads, data.head.text) == ("image", ("image",))
    assert sum(data.counts.values()) == 48
    paths = Task("bright", str(folder / "data/bright"), image="photo", label="score", kind="regression")
    bright = load_task(paths)
    assert bright.counts == {"train": 48, "validation": 24, "test": 24}
    first = bright.splits["train"].texts[0][0]
    assert isinstance(first, RowImage)
    assert open_image(first).size == (24, 20)
    again = load_split(paths, bright.head, "test")
    assert again.sha256["test"] == bright.sha256["test"]


def test_equal_images_fall_into_one_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(40):
        image = Image.fromarray(rng.integers(0, 255, size=(8, 8, 3)).astype(np.uint8))
        for copy in "ab":
            file = tmp_path / ("odd" if index % 2 else "even") / f"{index}{copy}.png"
            file.parent.mkdir(exist_ok=True)
            image.save(file)
    data = load_task(Task("twice", str(tmp_path), image="image"))
    kept = [set(split.texts[0]) for split in data.splits.values()]
    assert all(len(split.texts[0]) == 2 * len(set(split.texts[0])) for split in data.splits.values())
    assert sum(map(len, kept)) == len(set.union(*kept)) == 40


def test_bad_images_name_row_and_field(folder: Path, tmp_path: Path) -> None:
    good = folder / "data/colour/train/red/000.png"
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:-40])
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "deep.png")
    cases = {
        "nope.png": "'nope.png', and there is no such file, neither in",
        "text.png": "which is no image that Pillow can read",
        "cut.png": "which is broken",
        "deep.png": "more than 8 bits a channel",
        str(tmp_path): "which cannot be read",
        "": "not the path of an image",
        7: "is 7, not the path of an image",
        None: "is null, not the path of an image",
    }
    for value, message in cases.items():
        rows = [{"image": str(good), "label": "a"}, {"image": value, "label": "b"}]
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(DataError, match=r"rows\.jsonl line 2: the image in 'image'") as caught:
            load_task(Task("bad", str(file), image="image"))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_else_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="to read images set image: image"):
        load_task(Task("text", str(folder / "data/colour/train")))
    with pytest.raises(DataError, match="To read images set image: photo in place of text:"):
        load_task(Task("text", str(folder / "data/bright"), text="photo", label="score", kind="regression"))
    with pytest.raises(DataError, match="has no field 'image'; its fields: photo, score, labels"):
        load_task(Task("field", str(folder / "data/bright"), image="image", label="score"))
    with pytest.raises(RecipeError, match="text or image, not both"):
        Task("both", "x", text="body", image="photo")
    with pytest.raises(RecipeError, match="an image has no words"):
        Task("words", "x", kind="tokens", image="photo")


def test_decoding() -> None:
    pixels = np.zeros((4, 6, 4), dtype=np.uint8)
    pixels[:2, :, 3] = 255  # black above, transparent black below
    seen = np.asarray(open_image(RowImage("d", content=save(Image.fromarray(pixels)))))
    assert (seen[:2] == 0).all()
    assert (seen[2:] == 255).all()
    turned = Image.new("RGB", (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6  # a camera held upright
    assert open_image(RowImage("d", content=save(turned, exif=exif))).size == (4, 6)
    grey = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    assert np.asarray(open_image(RowImage("d", content=save(grey)))).shape == (4, 4, 3)
    palette = Image.new("P", (3, 3))
    assert RowImage.read(palette) == RowImage.read({"bytes": RowImage.read(palette).content, "path": None})


def test_pixels_are_made_by_the_batch(folder: Path) -> None:
    data, reader = load_task(colour(folder)), load_image_reader(str(folder / "backbone"))
    table = tokenise([data], reader, 128, None)["train"]
    assert table.column_names == ["image", "labels", "graft_rows"]
    assert table[0]["image"]["content"] is None  # no pixels are kept, only the path
    batch = collate(reader)([table[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, SIDE, SIDE)
    images = data.splits["train"].texts[0][:3]
    columns = encode(reader, [images], 128)["image"]
    assert torch.equal(
        pad(reader, [{"image": image} for image in columns])["pixel_values"], batch["pixel_values"]
    )
    alone = [pad(reader, [{"image": image}])["pixel_values"] for image in columns]
    assert torch.equal(torch.cat(alone), batch["pixel_values"])


def test_another_size(folder: Path) -> None:
    reader = load_image_reader(str(folder / "backbone"))
    image = Image.new("RGB", (50, 30))
    assert reader.sized(None) is reader
    assert reader.sized(24).pixels([image]).shape[-2:] == (24, 24)
    cutting = load_image_reader(str(folder / "backbone"))
    cutting.processor.do_center_crop = True
    cutting.processor.size, cutting.processor.crop_size = {"shortest_edge": 20}, {"height": 16, "width": 16}
    sized = cutting.sized(32).processor
    assert (sized.size, dict(sized.crop_size)) == ({"shortest_edge": 40}, {"height": 32, "width": 32})


def test_augmentation_is_drawn_by_row_epoch_and_seed(folder: Path) -> None:
    data, reader = load_task(colour(folder)), load_image_reader(str(folder / "backbone"))
    table = tokenise([data], reader, 128, None)["train"]
    rows, epoch = [table[index] for index in range(6)], 0
    changes = {"flip": 0.5, "crop": 0.5, "rotate": 20.0, "colour": 0.3}

    def batch(order: list[int], seed: int = 0) -> torch.Tensor:
        collator = AugmentedRows(collate(reader), changes, seed, lambda: epoch)
        return collator([rows[index] for index in order])["pixel_values"]

    first = batch([0, 1, 2])
    assert torch.equal(batch([2, 1, 0]), first.flip(0))
    assert not torch.equal(batch([0, 1, 2], seed=1), first)
    epoch = 1
    assert not torch.equal(batch([0, 1, 2]), first)
    plain = collate(reader)(rows[:3])["pixel_values"]
    assert not torch.equal(first, plain)


def test_each_change() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, size=(20, 30, 3)).astype(np.uint8))
    assert np.array_equal(np.asarray(augment(image, {}, 0)), np.asarray(image))
    assert np.array_equal(np.asarray(augment(image, {"flip": 1.0}, 0)), np.asarray(image)[:, ::-1])
    areas = [np.prod(augment(image, {"crop": 0.5}, seed).size) / 600 for seed in range(50)]
    assert 0.4 < min(areas) < 0.6
    assert max(areas) <= 1
    assert augment(image, {"rotate": 30.0}, 1).size == image.size
    brighter = np.asarray(augment(image, {"colour": 0.5}, 3)).mean()
    assert brighter != np.asarray(image).mean()
