"""The same data in six formats is the same data; what can't be used is said in one sentence."""

from __future__ import annotations

import io
import json
import os
import shutil
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from pycocotools import mask as rle

from annotated import (
    CLASSES,
    COLOURS,
    DATA,
    FORMATS,
    HEIGHT,
    WIDTH,
    coco,
    coco_content,
    cvat,
    image,
    images,
    label_maps,
    masks,
    voc,
    yolo,
)
from mmpvt.datasets.formats import open_dataset
from mmpvt.datasets.formats.instances import area, decoded
from mmpvt.datasets.formats.splitting import original_stem
from mmpvt.errors import ConfigError, DatasetError, OutputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])  # macOS writes the former
@pytest.mark.parametrize("make", [*FORMATS.values(), masks])
def test_names_in_another_unicode_form(make: Callable, forms: tuple[str, str], root: Path):
    make(root)
    for path in sorted(root.rglob("img_*")):
        form = forms[path.suffix != ".jpg"]
        path.rename(path.with_name(unicodedata.normalize(form, path.name.replace("img_", "\xfc"))))
    for path in (*root.rglob("*.json"), *root.rglob("*.xml")):
        text = path.read_text().replace("img_", "\xfc")
        path.write_text(unicodedata.normalize(forms[1], text))
    opened = open_dataset(root)
    assert len(opened.splits["all"]) == len(DATA) and not opened.notes
    assert sum(len(r.instances or r.labels[1:]) for r in opened.splits["all"]) > 30


@pytest.mark.parametrize("make", [*FORMATS.values(), masks])
def test_two_names_that_differ_in_form_alone(make: Callable, root: Path):
    make(root)
    two = {
        f"img_{i:02}": unicodedata.normalize(form, "\xfc") for i, form in enumerate(["NFC", "NFD"])
    }
    for old, new in two.items():
        for path in sorted(root.rglob(f"{old}*")):
            path.rename(path.with_name(path.name.replace(old, new)))
        for path in (*root.rglob("*.json"), *root.rglob("*.xml"), *root.rglob("*.txt")):
            path.write_text(path.read_text().replace(old, new))
    opened = open_dataset(root)
    assert len(opened.splits["all"]) == len(DATA) and not opened.notes


@pytest.mark.parametrize("kind", FORMATS)
def test_equal_data_gives_equal_bytes(kind: str, root: Path, tmp_path: Path):
    FORMATS[kind](root)
    opened = open_dataset(root)
    assert (opened.format, opened.classes) == (kind, CLASSES)
    assert list(opened.splits) == ["all"] and not opened.has_masks and not opened.notes
    found = {r.path.stem: [(o.label, *o.box) for o in r.instances] for r in opened.splits["all"]}
    assert found == DATA
    assert "24 images, 42 objects with boxes, 3 classes (ant, bee, cow); not split" in (
        opened.describe()
    )
    opened.palette = list(COLOURS)  # which CVAT's file has, and others don't
    written = json.loads(opened.write_coco(tmp_path / "out")["all"].read_text())
    expected = tmp_path / "expected"
    expected.mkdir()
    coco(expected)
    reference = open_dataset(expected)
    reference.palette = list(COLOURS)
    again = reference.write_coco(tmp_path / "again")["all"]
    assert (tmp_path / "out" / "all.json").read_bytes() == again.read_bytes()
    assert [c["name"] for c in written["categories"]] == list(CLASSES)


def test_label_maps_of_colours(root: Path, tmp_path: Path):
    masks(root)
    opened = open_dataset(root)
    assert (opened.format, opened.is_semantic) == ("masks", True)
    assert opened.classes == ("background", *CLASSES) and opened.palette[1:] == list(COLOURS)
    made = opened.write_label_maps(tmp_path / "out")
    for line in made.lists["all"].read_text().splitlines():
        assert (made.img_path / f"{line}{made.img_suffix}").is_file()
        found = np.asarray(Image.open(made.seg_map_path / f"{line}{made.seg_map_suffix}"))
        np.testing.assert_array_equal(found, label_maps()[Path(line).stem])


def test_label_maps_of_labels_are_read_as_they_are(root: Path, tmp_path: Path, monkeypatch):
    images(root / "images")
    (root / "masks").mkdir()
    for name, labels in label_maps().items():
        Image.fromarray(labels).save(root / "masks" / f"{name}.png")
    with pytest.raises(DatasetError, match=r"nothing names the classes.*0, 1, 2, 3: .*classes"):
        open_dataset(root)
    with pytest.raises(DatasetError, match=r"hold 4 values .* there are 3 classes"):
        open_dataset(root, classes=CLASSES)
    opened = open_dataset(root, classes=("none", *CLASSES))
    made = opened.write_label_maps(tmp_path / "out")
    assert (made.seg_map_path, made.img_suffix, made.seg_map_suffix) == (
        root / "masks",
        ".jpg",
        ".png",
    )
    assert made.lists["all"].read_text().split() == list(DATA)
    monkeypatch.chdir(root.parent)
    made = open_dataset(root.name, classes=opened.classes).write_label_maps("again")
    assert made.seg_map_path.samefile(root / "masks")
    assert not list(tmp_path.rglob("label_maps"))


def test_black_and_white_masks(root: Path, tmp_path: Path):
    image(root / "a.jpg")
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255).save(root / "a_mask.png")
    opened = open_dataset(root, classes=("off", "on"))
    made = opened.write_label_maps(tmp_path / "out")
    found = np.asarray(Image.open(made.seg_map_path / f"a.jpg{made.seg_map_suffix}"))
    np.testing.assert_array_equal(found, np.eye(HEIGHT, WIDTH))


def test_grey_levels_of_which_255_is_one(root: Path, tmp_path: Path):
    levels = np.array([0, 127, 255], np.uint8)[np.indices((HEIGHT, WIDTH)).sum(0) % 3]
    image(root / "a.jpg")
    Image.fromarray(levels).save(root / "a_mask.png")
    opened = open_dataset(root, classes=("off", "half", "on"))
    assert "taken as 0 off, 127 half, 255 on" in opened.notes[0]
    made = opened.write_label_maps(tmp_path / "out")
    found = np.asarray(Image.open(made.seg_map_path / f"a.jpg{made.seg_map_suffix}"))
    np.testing.assert_array_equal(found, levels // 127)
    expected = r"hold 2 values \(0, 127, and 255, which is ignored\), and there are 4 classes"
    with pytest.raises(DatasetError, match=expected):
        open_dataset(root, classes=("off", "half", "on", "more"))
    labels = np.array([0, 1, 4, 255], np.uint8)[np.indices((HEIGHT, WIDTH)).sum(0) % 4]
    Image.fromarray(labels).save(root / "a_mask.png")  # 255 is no level, but ignored
    with pytest.raises(DatasetError, match="hold 3 values"):
        open_dataset(root, classes=("off", "half", "on", "more"))


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_round_trip(to: str, root: Path, tmp_path: Path):
    cvat(root)
    opened = open_dataset(root).split(val_fraction=0.25, seed=1)
    again = open_dataset(opened.write(tmp_path / "out", to))
    assert again.classes == CLASSES and list(again.splits) == ["train", "val"]
    for split, records in opened.splits.items():
        found = {r.path.name: r.instances for r in again.splits[split]}
        assert {r.path.name: [(o.label, o.box) for o in r.instances] for r in records} == {
            name: [(o.label, o.box) for o in same] for name, same in found.items()
        }


@pytest.mark.parametrize("to", ["voc", "yolo"])
def test_boxes_that_reach_out_of_their_image(to: str, root: Path, tmp_path: Path):
    """As COCO's may; the last lies within the image's last half pixel."""
    boxes = [(0, -30, -8, 40, 12), (1, -20, 4, 200, 8), (2, WIDTH - 0.25, 30, 0.25, 9)]
    (root / "a.json").write_text(json.dumps(coco_content({"a": boxes})))
    image(root / "a.jpg")
    again = open_dataset(open_dataset(root).write(tmp_path / "out", to))
    last = (WIDTH - 1, 30, 1, 9) if to == "voc" else boxes[2][1:]
    assert [one.box for one in again.splits["train" if to == "yolo" else "all"][0].instances] == [
        (0, 0, 10, 4),
        (0, 4, WIDTH, 8),
        last,
    ]


def test_outlines_go_to_yolo_and_label_maps(root: Path, tmp_path: Path):
    content = coco_content({"a": [(0, 4, 4, 20, 10), (1, 30, 6, 10, 10), (2, 2, 30, 8, 8)]})
    first, second, third = content["annotations"]
    first["segmentation"] = [[4, 4, 24, 4, 24, 14], [4, 8, 10, 14, 4, 14]]
    second["segmentation"] = [[30.25, 6.5, 40, 6, 40, 16]]
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[30:38, 2:10] = 1
    runs = rle.encode(pixels)
    third["segmentation"] = dict(size=runs["size"], counts=runs["counts"].decode())
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    opened = open_dataset(root, task="instance")
    (record,) = opened.splits["all"]
    assert record.instances[1].polygons == [[30.25, 6.5, 40.0, 6.0, 40.0, 16.0]]
    again = open_dataset(opened.write(tmp_path / "yolo", "yolo"))
    assert again.splits["train"][0].instances[1].polygons == record.instances[1].polygons
    assert len(again.splits["train"][0].instances) == 3
    painted = open_dataset(opened.write(tmp_path / "masks", "masks"))
    assert painted.classes == ("background", *CLASSES)
    assert painted.splits["all"][0].labels == (0, 1, 2, 3)


def test_a_written_data_yaml_is_found_from_anywhere(root: Path, tmp_path: Path):
    """Ultralytics takes paths from the file's folder where it gives no path."""
    coco(root)
    written = open_dataset(root).write(tmp_path / "yolo", "yolo") / "data.yaml"
    assert written.read_text() == "train: images/all\nnames:\n- ant\n- bee\n- cow\n"


def test_area_of_parts_that_turn_either_way(root: Path, tmp_path: Path):
    content = coco_content({"a": [(0, 4, 4, 40, 20)]})
    parts = [[4, 4, 24, 4, 24, 24, 4, 24], [34, 4, 34, 14, 44, 14, 44, 4]]
    content["annotations"][0].update(segmentation=parts, area=500)
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    again = open_dataset(open_dataset(root).write(tmp_path / "yolo", "yolo"))
    assert area(again.splits["train"][0].instances[0]) == 500


@pytest.mark.parametrize(
    "parts",
    [
        [[4, 4, 24, 4, 24, 24, 4, 24], [14, 14, 34, 14, 34, 34, 14, 34]],
        [[-20, 24, 20, 4, 20, 44]],
        [[-20, 4, 0, 14, -20, 24], [4, 4, 24, 4, 24, 24, 4, 24]],
    ],
    ids=["parts that overlap", "a part that reaches out of its image", "a part that touches it"],
)
def test_outlines_that_yolo_cannot_hold_as_they_are(parts: list, root: Path, tmp_path: Path):
    content = coco_content({"a": [(0, 0, 4, 34, 40)]})
    content["annotations"][0]["segmentation"] = parts
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    opened = open_dataset(root)
    (record,) = opened.splits["all"]
    (again,) = open_dataset(opened.write(tmp_path / "yolo", "yolo")).splits["train"]
    found, wanted = (decoded(r.instances[0], HEIGHT, WIDTH) for r in (again, record))
    assert (found != wanted).sum() < 4


def test_masks_go_to_yolo_pixel_by_pixel(root: Path, tmp_path: Path):
    ring, column, pixel = (np.zeros((HEIGHT, WIDTH), np.uint8, order="F") for _ in range(3))
    ring[10:20, 10:20], ring[13:17, 13:16] = 1, 0
    column[20:40, 50] = pixel[30, 5] = pixel[32, 8] = 1
    content = coco_content({"a": [(0, 10, 10, 10, 10), (1, 50, 20, 1, 20), (2, 5, 30, 4, 3)]})
    for one, pixels in zip(content["annotations"], (ring, column, pixel), strict=True):
        runs = rle.encode(pixels)
        one["segmentation"] = dict(size=runs["size"], counts=runs["counts"].decode())
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    opened = open_dataset(root)
    (record,) = opened.splits["all"]
    (again,) = open_dataset(opened.write(tmp_path / "yolo", "yolo")).splits["train"]
    for one, other, pixels in zip(
        record.instances, again.instances, (ring, column, pixel), strict=True
    ):
        assert other.box == one.box
        np.testing.assert_array_equal(decoded(other, HEIGHT, WIDTH), pixels)


def test_labelme_and_cvat_shapes(root: Path, tmp_path: Path):
    shapes = [
        dict(label="cat", points=[[0, 0], [10, 0], [10, 10]], shape_type="polygon", group_id=1),
        dict(label="cat", points=[[20, 0], [30, 0], [30, 10]], shape_type="polygon", group_id=1),
        dict(label="cat", points=[[5, 5]], shape_type="point"),
        dict(label="wheel", points=[[30, 30], [36, 30]], shape_type="circle"),
    ]
    (root / "a.json").write_text(json.dumps(dict(shapes=shapes, imagePath="..\\old\\a.jpg")))
    image(root / "a.jpg")
    opened = open_dataset(root)
    one, wheel = opened.splits["all"][0].instances
    assert one.box == (0, 0, 30, 10) and len(one.polygons) == 2
    assert wheel.box == pytest.approx((24, 24, 12, 12))
    assert opened.notes == ["points and lines are skipped: 1 (the first: a.json, shape 3)"]
    other = tmp_path / "cvat"
    other.mkdir()
    cvat(other, '<mask label="cow" rle="1, 2, 1" left="3" top="4" width="2" height="2"/>')
    mask = open_dataset(other).splits["all"][0].instances[-1]
    assert np.argwhere(rle.decode(mask.rle)).tolist() == [[4, 4], [5, 3]]  # row, column


def roboflow(root: Path) -> Path:
    """YOLO as Roboflow exports it."""
    for split in ("train", "valid"):
        image(root / split / "images" / "a_jpg.rf.0123456789abcdef.jpg")
        (root / split / "labels").mkdir()
        (root / split / "labels" / "a_jpg.rf.0123456789abcdef.txt").write_text("1 .5 .5 .5 .5\n")
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\n"
    (root / "data.yaml").write_text(f"{text}names: ['no', 'yes']\n")
    return root / "data.yaml"


def test_roboflow_yolo(root: Path):
    opened = open_dataset(roboflow(root))
    assert opened.classes == ("no", "yes")  # which YAML takes for booleans
    assert {split: len(records) for split, records in opened.splits.items()} == dict(train=1, val=1)
    assert any("../test/images" in note for note in opened.notes)
    assert any("no training image has an object of no" in note for note in opened.notes)


def test_roboflow_coco(root: Path):
    for split in ("train", "valid"):
        image(root / split / "a.jpg")
        content = coco_content({"a": [(0, 1, 2, 3, 4)]})
        content["categories"] = [
            dict(id=0, name="zoo", supercategory="none"),
            *({**c, "supercategory": "zoo"} for c in content["categories"]),
        ]
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    opened = open_dataset(root)
    assert list(opened.splits) == ["train", "val"] and opened.classes == CLASSES
    assert {r.path.parent.name for r in opened.splits["val"]} == {"valid"}


def test_turned_images_have_the_size_that_training_loads(root: Path):
    exif = Image.Exif()
    exif[274] = 6
    image(root / "images" / "a.jpg", exif=exif)
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 .5 .5 1 1\n")
    (record,) = open_dataset(root, classes=["x"]).splits["all"]
    loaded = LoadImageFromFile().transform(dict(img_path=str(record.path)))
    assert (record.height, record.width) == loaded["img_shape"] == (WIDTH, HEIGHT)
    content = coco_content({"a": [(0, 1, 2, 3, 4)]})  # says the size as stored
    (root / "a.json").write_text(json.dumps(content))
    (record,) = open_dataset(root, format="coco").splits["all"]
    assert (record.height, record.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("how", [5, 6, 7, 8])
def test_turned_images_annotated_as_stored(how: int, root: Path, tmp_path: Path):
    """YOLO's files and label maps can't say a size: they are of the image as it is loaded."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[5:15, 40:60] = 255
    pixels[30:33, 2:12] = 99
    exif = Image.Exif()
    exif[274] = how
    Image.fromarray(pixels).save(root / "a.png", exif=exif)
    content = coco_content({"a": [(0, 40, 5, 20, 10), (1, 2, 30, 10, 3)]})
    content["images"][0]["file_name"] = "a.png"
    first, second = content["annotations"]
    first["segmentation"] = [[40, 5, 60, 5, 60, 15, 40, 15]]
    runs = rle.encode(np.asfortranarray(pixels[..., 0] == 99).astype(np.uint8))
    second["segmentation"] = dict(size=runs["size"], counts=runs["counts"].decode())
    (root / "a.json").write_text(json.dumps(content))
    opened = open_dataset(root)

    loaded = LoadImageFromFile().transform(dict(img_path=str(root / "a.png")))["img"][..., 0]
    made = opened.write_label_maps(tmp_path / "maps")
    found = np.asarray(Image.open(made.seg_map_path / "a.png.png"))
    np.testing.assert_array_equal(found, np.select([loaded == 255, loaded == 99], [1, 2]))

    (record,) = open_dataset(opened.write(tmp_path / "yolo", "yolo")).splits["train"]
    for one, value in zip(record.instances, (255, 99), strict=True):
        ys, xs = np.nonzero(loaded == value)
        box = xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1
        assert one.box == pytest.approx(box, abs=1.01 if value == 99 else 0.01)
    open_dataset(opened.write(tmp_path / "masks", "masks"))
    (record,) = open_dataset(opened.write(tmp_path / "coco", "coco")).splits["all"]
    assert record.instances[0].box == (40, 5, 20, 10)


@pytest.mark.parametrize("number", [2, 3, 4, 16, 17])
def test_ignored_pixels_stay_ignored(number: int, root: Path, tmp_path: Path):
    """A PNG file of few colours has few bits a pixel."""
    names = [f"c{i}" for i in range(number)]
    labels = np.array([0, 1, 255], np.uint16)[np.indices((HEIGHT, WIDTH)).sum(0) % 3]
    image(root / "maps" / "a.jpg")
    Image.fromarray(labels).save(root / "maps" / "a_mask.png")  # of 16 bits
    made = open_dataset(root / "maps", classes=names).write_label_maps(tmp_path / "maps")
    found = np.asarray(Image.open(made.seg_map_path / "a.jpg.png"))
    np.testing.assert_array_equal(found, labels)

    content = coco_content({"b": [(0, 4, 4, 20, 10), (0, 30, 6, 10, 10)]})
    content["categories"] = [dict(id=i, name=name) for i, name in enumerate(names[1:], 1)]
    for is_crowd, annotation in enumerate(content["annotations"]):
        x, y, w, h = annotation["bbox"]
        outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation.update(category_id=1, iscrowd=is_crowd, segmentation=outline)
    image(root / "outlines" / "b.jpg")
    (root / "outlines" / "b.json").write_text(json.dumps(content))
    folder = open_dataset(root / "outlines").write(tmp_path / "written", "masks")
    (path,) = folder.rglob("b.png")
    found = np.asarray(Image.open(path))
    assert found[5, 5] == 1 and found[8, 32] == 255 and found[0, 0] == 0


def test_a_class_named_background(root: Path, tmp_path: Path):
    """It is the label maps' own."""
    content = coco_content({"a": [(0, 4, 4, 20, 10), (1, 30, 6, 10, 10)]})
    content["categories"] = [dict(id=3, name="car"), dict(id=5, name="background")]
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    made = open_dataset(root).write_label_maps(tmp_path / "out")
    assert made.classes == ("background", "car") and len(made.palette) == 2
    found = np.asarray(Image.open(made.seg_map_path / "a.jpg.png"))
    assert found[5, 5] == 1 and found[8, 32] == 0


@pytest.mark.parametrize("number", [254, 255])
def test_as_many_classes_as_label_maps_hold(number: int, root: Path, tmp_path: Path):
    content = coco_content({"a": [(0, 4, 4, 20, 10)]})
    content["categories"] = [dict(id=i, name=f"c{i}") for i in range(number)]
    content["annotations"][0].update(category_id=number - 1, segmentation=[[4, 4, 24, 4, 24, 14]])
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    opened = open_dataset(root)
    if number == 255:  # and the background
        with pytest.raises(DatasetError, match=r"256 classes with 'background', and .* hold 255"):
            opened.write_label_maps(tmp_path / "out")
        with pytest.raises(DatasetError, match="256 classes"):
            opened.write(tmp_path / "out", "masks")
        return
    made = opened.write_label_maps(tmp_path / "out")
    assert np.asarray(Image.open(made.seg_map_path / "a.jpg.png")).max() == 254


def test_names_that_lists_cannot_hold(root: Path, tmp_path: Path):
    masks(root)
    for kind, end in (("images", "jpg"), ("masks", "png")):
        (root / kind / f"img_00.{end}").rename(root / kind / f" img_00.{end}")
    with pytest.raises(DatasetError, match=r"' img_00.jpg' begins or ends .*rename it"):
        open_dataset(root).write_label_maps(tmp_path / "out")


@pytest.mark.parametrize("to", ["coco", "voc"])
def test_names_that_are_not_utf8(to: str, root: Path, tmp_path: Path, monkeypatch):
    yolo(root)
    for kind, end in (("images", "jpg"), ("labels", "txt")):
        (root / kind / f"img_00.{end}").rename(root / kind / f"b\udce4r.{end}")
    with pytest.raises(DatasetError, match=r"name of the image .*b\\xe4r.* isn't in utf-8.*rename"):
        open_dataset(root).write(tmp_path / "out", to)
    with monkeypatch.context() as patch, pytest.raises(DatasetError, match=r"ascii.*PYTHONUTF8=1"):
        patch.setattr("sys.getfilesystemencoding", lambda: "ascii")
        open_dataset(root).write(tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    again = open_dataset(open_dataset(root).write(tmp_path / "yolo", "yolo"))
    assert len(again.splits["train"]) == len(DATA)


def test_names_of_label_maps_and_classes_that_are_not_utf8(root: Path, tmp_path: Path):
    image(root / "b\udce4r.jpg")
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)).save(root / "b\udce4r_mask.png")
    with pytest.raises(DatasetError, match=r"name of the image b\\xe4r isn't in utf-8"):
        open_dataset(root, classes=("off", "on")).write_label_maps(tmp_path / "out")
    (root / "b\udce4r_mask.png").unlink()
    (root / "cat").mkdir()
    (root / "b\udce4r.jpg").rename(root / "cat" / "b\udce4r.jpg")
    with pytest.raises(DatasetError, match=r"name of the image .*b\\xe4r.jpg isn't in utf-8"):
        open_dataset(root, task="classification").write_labels(tmp_path / "out")


def test_names_that_voc_cannot_list(root: Path, tmp_path: Path):
    yolo(root)
    for kind, end in (("images", "jpg"), ("labels", "txt")):
        (root / kind / f"img_00.{end}").rename(root / kind / f"img .{end}")
    with pytest.raises(DatasetError, match=r"'img ' begins or ends .*rename it"):
        open_dataset(root).write(tmp_path / "out", "voc")


def test_masks_of_voc_that_are_not_read_are_named(root: Path):
    voc(root)
    with pytest.raises(DatasetError, match=r"instance segmentation takes outlines$"):
        open_dataset(root, task="instance")
    image(root / "SegmentationObject/img_00.png")
    with pytest.raises(DatasetError, match="SegmentationObject/ isn't read"):
        open_dataset(root, task="instance", format="voc")


def test_voc_keeps_classes_of_any_name(root: Path, tmp_path: Path):
    content = coco_content({"a": [(0, 4, 4, 20, 10)]})
    names = ["z:1", "C#", "a b"]
    content["categories"] = [dict(id=i, name=n) for i, n in zip((3, 5, 9), names, strict=True)]
    (root / "a.json").write_text(json.dumps(content))
    image(root / "a.jpg")
    again = open_dataset(open_dataset(root).write(tmp_path / "out", "voc"))
    assert again.classes == tuple(names)


def two_coco_splits(root: Path) -> dict:
    for split in ("train", "valid"):
        image(root / split / "a.jpg")
        (root / split / "_annotations.coco.json").write_text(
            json.dumps(coco_content({"a": [(0, 1, 2, 3, 4)]}))
        )
    return coco_content({"a": [(0, 1, 2, 3, 4)]})


def test_nan_in_one_of_several_coco_files(root: Path):
    content = two_coco_splits(root)
    content["annotations"][0]["area"] = float("nan")
    (root / "valid" / "_annotations.coco.json").write_text(json.dumps(content))
    opened = open_dataset(root)
    assert {split: len(same) for split, same in opened.splits.items()} == {"train": 1, "val": 1}


@pytest.mark.parametrize("on_bad_data", ["auto", "skip"])
@pytest.mark.parametrize("damage", ["truncated", "utf-16", "empty"])
def test_one_of_several_coco_files_is_damaged(damage: str, on_bad_data: str, root: Path):
    text = json.dumps(two_coco_splits(root))
    data = {"truncated": text[:-9].encode(), "utf-16": text.encode("utf-16"), "empty": b""}[damage]
    (root / "valid" / "_annotations.coco.json").write_bytes(data)
    with pytest.raises(DatasetError, match=r"valid/_annotations.coco.json is no JSON"):
        open_dataset(root, on_bad_data=on_bad_data)


@pytest.mark.parametrize("content", ['{"categories": [], "info": {}}', '["ant"]', "{}", "{"])
@pytest.mark.parametrize("kind", ["yolo", "voc", "cvat"])
def test_json_of_no_data_set(kind: str, content: str, root: Path):
    """As Label Studio writes it beside YOLO's labels; a damaged one is one of COCO's, perhaps."""
    FORMATS[kind](root)
    (root / "notes.json").write_text(content)
    if content == "{":
        with pytest.raises(DatasetError, match=f"fits 2 formats, coco and {kind}"):
            open_dataset(root)
    else:
        assert open_dataset(root).format == kind


def test_coco_boxes_from_0_to_1(root: Path):
    coco(root)
    content = coco_content(DATA)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    (root / "labels.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"labels.json are within 0 and 1, .* in pixels"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("write", "name", "classes"),
    [(yolo, "classes.txt", CLASSES), (masks, "labelmap.txt", ("background", *CLASSES))],
)
def test_names_of_classes_in_capitals(write: Callable, name: str, classes: tuple, root: Path):
    write(root)
    (root / name).rename(root / name.upper())
    assert open_dataset(root).classes == classes


def test_yolo_lists_of_some_images(root: Path):
    """Images that data.yaml doesn't name, and their labels, aren't used, which is said."""
    yolo(root)
    (root / "classes.txt").unlink()
    (root / "train.txt").write_text("images/img_00.jpg\nimages/img_01.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nval:\nnames: [ant, bee, cow]\n")
    opened = open_dataset(root)
    assert [len(same) for same in opened.splits.values()] == [2]
    assert "22 images are of no split of data.yaml and unused (the first: " in opened.notes[0]
    (root / "labels" / "other.txt").write_text("0 .5 .5 .1 .1\n")
    with pytest.raises(DatasetError, match=r"other.txt: there is no image of its name"):
        open_dataset(root)


def test_split_is_stratified_and_keeps_copies_together(root: Path):
    yolo(root)
    for name in ("img_01", "img_05"):
        for copy in (f"{name}_flip", f"{name} (1)"):
            shutil.copy(root / "images" / f"{name}.jpg", root / "images" / f"{copy}.jpg")
            shutil.copy(root / "labels" / f"{name}.txt", root / "labels" / f"{copy}.txt")
    made = open_dataset(root).split(0.3, seed=5, test_fraction=0.2)
    again = open_dataset(root).split(0.3, seed=5, test_fraction=0.2)
    names = {split: [r.path.name for r in records] for split, records in made.splits.items()}
    assert names == {s: [r.path.name for r in records] for s, records in again.splits.items()}
    assert sum(map(len, names.values())) == 28
    where = {original_stem(name): split for split, same in names.items() for name in same}
    assert all(where[original_stem(n)] == split for split, same in names.items() for n in same)
    for records in made.splits.values():
        assert {one.label for r in records for one in r.instances} == {0, 1, 2}
    other = open_dataset(root).split(0.3, seed=6, test_fraction=0.2)
    assert [r.path.name for r in other.splits["val"]] != names["val"]
    with pytest.raises(ConfigError, match="can't be split off"):
        made.split(1.0)


def test_original_stems():
    for name in ("a.jpg", "a_jpg.rf.0123456789abcdef.jpg", "a_aug1.png", "a-copy.jpg",
                 "a_flip_rot90.jpg"):  # fmt: skip
        assert original_stem(name) == "a"
    assert original_stem("b/frame_001.jpg") == "b/frame_001"
    assert original_stem("a (1).jpg") != "a"  # Windows numbers unlike images so


def no_images(root: Path) -> str:
    shutil.rmtree(root / "images")
    return "there are no images in"


def a_class_of_no_name(root: Path) -> str:
    (root / "labels" / "img_01.txt").write_text("0 .5 .5 .1 .1\n3 .5 .5 .1 .1\n")
    return r"1 error in .*labels/img_01.txt, line 2: the class is 3, and the names end at 2"


def coordinates_in_pixels(root: Path) -> str:
    for i in range(5):
        (root / "labels" / f"img_{i:02d}.txt").write_text("0 20 30 .1 .1\n")
    return r"5 errors in .*img_00.txt, line 1: a coordinate is 30, .*img_02.txt.* …: correct them"


def a_polygon_of_two_points(root: Path) -> str:
    (root / "labels" / "img_02.txt").write_text("0 .1 .1 .2 .2 .3\n")
    return r"img_02.txt, line 1: it holds 6 numbers"


def missing_labels(root: Path) -> str:
    (root / "labels" / "img_03.txt").unlink()
    return r"1 of 24 images in .* have no annotations \(the first: .*img_03.jpg\).*keep_empty=True"


def missing_images(root: Path) -> str:
    (root / "images" / "img_03.jpg").unlink()
    return r"labels/img_03.txt: there is no image of its name"


def shared_labels(root: Path) -> str:
    image(root / "images" / "img_03.png")
    return r"img_03.jpg and .*img_03.png would share one label file"


def two_formats(root: Path) -> str:
    (root / "labels.json").write_text(json.dumps(coco_content(DATA)))
    return r"fits 2 formats, coco and yolo: say which, or pass format='coco'"


def broken_image(root: Path) -> str:
    (root / "images" / "img_03.jpg").write_bytes(b"no image")
    return r"images/img_03.jpg: it can't be read as an image"


def no_names(root: Path) -> str:
    (root / "classes.txt").unlink()
    return r"nothing names the classes of the YOLO labels .*pass classes"


def yaml_with_a_tab(root: Path) -> str:
    (root / "classes.txt").unlink()
    (root / "my.yaml").write_text("train: images\nnames:\n\t- ant\n")
    return r"my.yaml is no YAML: line 3: .*'\\t' .*: correct or remove it"


def test_a_yaml_of_something_else(root: Path):
    """It is no matter where other files name the classes."""
    yolo(root)
    (root / "deploy.yaml").write_text("a: 1\n---\nb: 2\n")
    assert open_dataset(root).classes == CLASSES


def yaml_in_utf_16(root: Path) -> str:
    (root / "data.yaml").write_bytes("train: images\nnames: [ant]\n".encode("utf-16"))
    return r"data.yaml is no text in UTF-8"


def link_to_a_missing_yaml(root: Path) -> str:
    (root / "data.yaml").symlink_to("missing")
    return r"data.yaml can't be read: No such file"


def link_to_a_missing_xml(root: Path) -> str:
    (root / "a.xml").symlink_to("missing")
    return r"a.xml can't be read: No such file"


def yaml_that_is_a_pipe(root: Path) -> str:
    os.mkfifo(root / "data.yaml")
    return r"data.yaml is not a regular file, but a pipe"


def labels_that_are_a_pipe(root: Path) -> str:
    (root / "labels" / "img_00.txt").unlink()
    os.mkfifo(root / "labels" / "img_00.txt")
    return r"img_00.txt is not a regular file, but a pipe"


def outside_the_image(root: Path) -> str:
    (root / "labels" / "img_02.txt").write_text("0 .1 .1 .0 .2\n")
    return r"img_02.txt, line 1: a box has no area"


@pytest.mark.parametrize(
    "harm",
    [no_images, a_class_of_no_name, coordinates_in_pixels, a_polygon_of_two_points, missing_labels,
     missing_images, shared_labels, two_formats, broken_image, no_names, outside_the_image,
     yaml_with_a_tab, yaml_in_utf_16, link_to_a_missing_yaml, link_to_a_missing_xml,
     yaml_that_is_a_pipe, labels_that_are_a_pipe],
)  # fmt: skip
def test_bad_yolo_is_one_sentence(harm: Callable[[Path], str], root: Path):
    yolo(root)
    sentence = harm(root)
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(root)


def test_bad_data_is_skipped_on_request(root: Path):
    yolo(root)
    a_class_of_no_name(root)
    missing_labels(root)
    broken_image(root)
    opened = open_dataset(root, on_bad_data="skip")
    assert "line 2: the class is 3" in " ".join(opened.notes)
    assert len(opened.splits["all"]) == 23  # img_03 has neither labels nor an image
    image(root / "images" / "img_03.jpg")
    a_class = open_dataset(root, on_bad_data="skip", keep_empty=True)
    assert len(a_class.splits["all"]) == 24


def test_little_is_clipped_and_counted(root: Path):
    image(root / "a.jpg")
    (root / "a.txt").write_text("0 0.5 0.5 1.0005 1.0\n")
    opened = open_dataset(root, classes=["x"])
    assert opened.splits["all"][0].instances[0].box == (0, 0, WIDTH, HEIGHT)
    assert opened.notes[0].startswith("objects have coordinates a little beyond")


def test_classes_choose(root: Path):
    coco(root)
    opened = open_dataset(root, classes=("cow", "ant"))
    assert opened.classes == ("cow", "ant")
    found = {r.path.stem: [o.label for o in r.instances] for r in opened.splits["all"]}
    assert found == {n: [(1, 9, 0)[c] for c, *_ in b if c != 1] for n, b in DATA.items()}
    others = sum(c == 1 for boxes in DATA.values() for c, *_ in boxes)
    assert opened.notes[-1] == f"skipped: {others} objects of other classes"
    with pytest.raises(DatasetError, match="dog is no class of"):
        open_dataset(root, classes=("dog",))
    with pytest.raises(ConfigError, match="each once"):
        open_dataset(root, classes=("ant", "ant"))


@pytest.mark.parametrize("colours", [True, False])
def test_classes_of_label_maps_in_another_order(colours: bool, root: Path, tmp_path: Path):
    """A name of their table is that of its class, wherever it is named."""
    masks(root)
    if not colours:
        (root / "labelmap.txt").unlink()
        (root / "classes.txt").write_text("\n".join(("background", *CLASSES)))
        for name, labels in label_maps().items():
            Image.fromarray(labels).save(root / "masks" / f"{name}.png")
    names = ("cow", "soil", "bee", "background")
    with pytest.raises(DatasetError, match="it isn't clear which the others are"):
        open_dataset(root, classes=("background", "bee", "cow", "dog"))
    opened = open_dataset(root, classes=names)
    made = opened.write_label_maps(tmp_path / "out")
    order = np.array([3, 1, 2, 0])  # by label in the files
    for record in opened.splits["all"]:
        expected = order[label_maps()[record.path.stem]]
        assert (
            np.asarray(Image.open(made.seg_map_path / f"{record.path.name}.png")) == expected
        ).all()
        assert record.labels == tuple(np.unique(expected))
    if colours:
        assert opened.palette == [COLOURS[2], COLOURS[0], COLOURS[1], (0, 0, 0)]


def test_xml_with_entities_is_refused(root: Path):
    voc(root)
    bomb = (
        '<!DOCTYPE a [<!ENTITY b "cow">]><annotation><object><name>&b;</name></object></annotation>'
    )
    for text in (bomb.encode(), bomb.encode("utf-16")):
        (root / "Annotations" / "img_00.xml").write_bytes(text)
        with pytest.raises(DatasetError, match=r"img_00.xml: it has a document type"):
            open_dataset(root, format="voc")


def test_yaml_makes_no_objects(root: Path, tmp_path: Path):
    config = roboflow(root)
    mark = tmp_path / "mark"
    config.write_text(f"names: !!python/object/apply:os.mkdir ['{mark}']\ntrain: train/images\n")
    with pytest.raises(DatasetError):
        open_dataset(config)
    assert not mark.exists()


def test_archives(root: Path, tmp_path: Path):
    voc(root)
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "zip", root))
    with pytest.raises(DatasetError, match=r"is an archive: pass unpack_to"):
        open_dataset(archive)
    assert open_dataset(archive, unpack_to=tmp_path / "there").format == "voc"
    assert open_dataset(archive, unpack_to=tmp_path / "there").format == "voc"  # as it is there
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("../evil.txt", "")
    archive.write_bytes(content.getvalue())
    with pytest.raises(DatasetError, match="leads out of the folder"):
        open_dataset(archive, unpack_to=tmp_path / "other")
    with pytest.raises(DatasetError, match="exists and isn't"):
        open_dataset(archive, unpack_to=tmp_path / "there")
    with pytest.raises(OutputError, match=r"a.zip can't be unpacked to"):
        open_dataset(archive, unpack_to=archive / "there")
    video = tmp_path / "a.mp4"
    video.write_bytes(b"")
    with pytest.raises(DatasetError, match="is a video"):
        open_dataset(video)


@pytest.mark.parametrize("kind", [".", "link", "folder"])
def test_an_empty_folder_is_written_into(kind: str, root: Path, tmp_path: Path, monkeypatch):
    """It may be a mount point, which can't be replaced; what a killed run left there is removed."""
    yolo(root)
    out = tmp_path / "out"
    (out / ".part" / "JPEGImages").mkdir(parents=True)
    before = out.stat().st_ino
    (tmp_path / "link").symlink_to(out)
    monkeypatch.chdir(out)
    open_dataset(root).write({".": Path(), "link": tmp_path / "link", "folder": out}[kind], "coco")
    assert sorted(path.name for path in out.iterdir()) == ["all", "annotations"]
    assert out.stat().st_ino == before


def test_user_files_stay(root: Path, tmp_path: Path):
    coco(root)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    opened = open_dataset(root)
    opened.write(tmp_path / "out", "yolo")
    with pytest.raises(OutputError, match="exists"):
        opened.write(root, "voc")
    with pytest.raises(DatasetError, match="boxes only"):
        opened.write(tmp_path / "maps", "masks")
    assert not (tmp_path / "maps").exists()
    assert before == {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
