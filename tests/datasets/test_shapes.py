import errno
import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpvt.datasets import shapes
from mmpvt.datasets import shapes_drawing as drawing
from mmpvt.errors import UserError

SETTINGS = dict(num_train=12, num_val=5, size=(96, 160), seed=3, progress=False)
SMALL = dict(num_train=2, num_val=1, size=64, progress=False)
TOOL = Path(__file__).parents[2] / "tools" / "make_shapes.py"


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return shapes.generate(tmp_path_factory.mktemp("data") / "shapes", **SETTINGS)


def contents(root: Path) -> dict:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def annotations(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


def decode(annotation: dict, height: int, width: int) -> np.ndarray:
    polygons = coco_mask.frPyObjects(annotation["segmentation"], height, width)
    return coco_mask.decode(coco_mask.merge(polygons)).astype(bool)


def scenes(count: int, size=(96, 160)):
    return [drawing.draw_scene(np.random.default_rng(i), size) for i in range(count)]


# What is written


def test_same_settings_give_the_same_bytes(root, tmp_path):
    again = shapes.generate(tmp_path / "again", **SETTINGS)
    assert contents(again) == contents(root)


def test_smaller_set_is_the_beginning_of_a_larger(root, tmp_path):
    small = shapes.generate(tmp_path / "small", **{**SETTINGS, "num_train": 4, "num_val": 2})
    large = contents(root)
    files = {name: data for name, data in contents(small).items() if not name.endswith(".json")}
    assert len(files) == 3 * (4 + 2)
    assert all(large[name] == data for name, data in files.items())
    for split in ("train", "val"):
        few, many = annotations(small, split), annotations(root, split)
        assert few["images"] == many["images"][: len(few["images"])]
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]


def test_pictures_differ_between_splits_and_seeds(root, tmp_path):
    other = shapes.generate(tmp_path / "other", **{**SETTINGS, "seed": 4})
    first = "000000000001.jpg"
    names = (root / "train2017", root / "val2017", other / "train2017", other / "val2017")
    assert len({(folder / first).read_bytes() for folder in names}) == 4


def test_sides_vary_within_the_size(root):
    sides = [(i["height"], i["width"]) for i in annotations(root, "train")["images"]]
    assert all(96 <= side <= 160 for pair in sides for side in pair)
    assert any(h > w for h, w in sides)
    assert any(h < w for h, w in sides)


@pytest.mark.parametrize(("split", "ade_split"), [("train", "training"), ("val", "validation")])
def test_both_layouts_tell_the_same(root, split, ade_split):
    content = annotations(root, split)
    assert len(content["images"]) == SETTINGS[f"num_{split}"]
    for image in content["images"]:
        name = Path(image["file_name"])
        photo = root / f"{split}2017" / name
        assert (root / "images" / ade_split / name).samefile(photo)
        shape = image["height"], image["width"]
        assert cv2.imread(str(photo)).shape == (*shape, 3)

        path = root / "annotations" / ade_split / name.with_suffix(".png")
        label_map = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected = np.zeros(shape, np.uint8)
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert own
        for annotation in own:
            mask = decode(annotation, *shape)
            assert not expected[mask].any(), "two objects claim one pixel"
            expected[mask] = annotation["category_id"]
        np.testing.assert_array_equal(label_map, expected)


def test_boxes_and_areas_are_those_of_the_visible_masks(root):
    content = annotations(root, "train")
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation in content["annotations"]:
        mask = decode(annotation, *sizes[annotation["image_id"]])
        y, x = mask.nonzero()
        width, height = np.ptp(x) + 1, np.ptp(y) + 1
        assert annotation["bbox"] == [x.min(), y.min(), width, height]
        assert annotation["area"] == len(x) >= 40
        assert annotation["iscrowd"] == 0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_pycocotools_finds_the_truth_perfect(root, kind, capsys):
    truth = COCO(str(root / "annotations" / "instances_val2017.json"))
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == list(shapes.CLASSES)
    fields = ("image_id", "category_id", "bbox" if kind == "bbox" else "segmentation")
    found = []
    for annotation in truth.dataset["annotations"]:
        found.append({field: annotation[field] for field in fields} | {"score": 1.0})
        found[-1].update(segmentation=truth.annToRLE(annotation)) if kind == "segm" else None
    evaluation = COCOeval(truth, truth.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


# What is drawn


def test_every_visible_object_is_annotated(monkeypatch):
    def seen_on(brightness: float) -> list[drawing.Scene]:
        monkeypatch.setattr(
            drawing, "_background", lambda _, h, w: np.full((h, w, 3), brightness, np.float32)
        )
        return scenes(20)

    for dark, light in zip(seen_on(60), seen_on(160), strict=True):
        background = np.abs(light.image.astype(int) - dark.image).max(2)
        assert dark.instances[background == 0].all(), "an object without an annotation"
        assert background[dark.instances > 0].max() <= 51, "an annotation without an object"
        present = np.unique(dark.instances[dark.instances > 0])
        assert present.tolist() == list(range(1, len(dark.labels) + 1))


def test_polygons_decode_to_the_mask_for_every_class():
    seen, rings_with_holes = set(), 0
    for scene in scenes(60):
        for i, annotation in enumerate(shapes.annotate(scene), start=1):
            mask = decode(annotation, *scene.instances.shape)
            np.testing.assert_array_equal(mask, scene.instances == i)
            name = shapes.CLASSES[annotation["category_id"] - 1]
            seen.add(name)
            contours, _ = cv2.findContours(
                mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
            )
            rings_with_holes += name == "ring" and len(contours) > 1
    assert seen == set(shapes.CLASSES)
    assert rings_with_holes > 10


@pytest.mark.parametrize("blur", [0.4, 1.0, 2.5])
def test_polygons_decode_to_ragged_masks_with_holes(blur):
    noise = cv2.GaussianBlur(np.random.default_rng(0).random((50, 70)), (0, 0), blur)
    mask = noise > np.median(noise)
    annotation = dict(segmentation=shapes.mask_to_polygons(mask))
    np.testing.assert_array_equal(decode(annotation, *mask.shape), mask)


# Where it is written


def test_written_set_is_left_as_it_is(root, monkeypatch):
    monkeypatch.setattr(shapes, "draw_scene", lambda *_: pytest.fail("drawn again"))
    assert shapes.generate(root, **SETTINGS) == root


def test_other_settings_need_force(tmp_path):
    root = shapes.generate(tmp_path / "set", **SMALL)
    before = contents(root)
    with pytest.raises(UserError, match="pass force=True") as error:
        shapes.generate(root, **SMALL, seed=1)
    assert str(root) in str(error.value)
    assert contents(root) == before

    shapes.generate(root, **SMALL, seed=1, force=True)
    assert contents(root).keys() == before.keys()
    assert contents(root) != before
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("entry", ["notes.txt", "train2017"])
@pytest.mark.parametrize("force", [False, True])
def test_foreign_files_are_never_replaced(tmp_path, entry, force):
    (tmp_path / entry).write_text("mine")
    with pytest.raises(UserError, match="choose another folder") as error:
        shapes.generate(tmp_path, **SMALL, force=force)
    assert str(tmp_path) in str(error.value)
    assert contents(tmp_path) == {entry: b"mine"}


def test_file_added_to_a_set_is_not_deleted_with_it(tmp_path):
    root = shapes.generate(tmp_path / "set", **SMALL)
    (root / "results.txt").write_text("mine")
    with pytest.raises(UserError, match="choose another folder"):
        shapes.generate(root, **SMALL, seed=1, force=True)
    assert (root / "results.txt").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path):
    assert shapes.generate(tmp_path, **SMALL) == tmp_path
    assert (tmp_path / "shapes.json").is_file()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), UserError),
    ],
)
def test_broken_off_run_leaves_nothing(tmp_path, monkeypatch, raised, expected):
    drawn = []

    def draw_scene(rng, size):
        if len(drawn) == 2:
            raise raised
        drawn.append(drawing.draw_scene(rng, size))
        return drawn[-1]

    monkeypatch.setattr(shapes, "draw_scene", draw_scene)
    with pytest.raises(expected):
        shapes.generate(tmp_path / "set", **SMALL)
    assert len(drawn) == 2
    assert list(tmp_path.iterdir()) == []


def test_folder_inside_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not be written"):
        shapes.generate(tmp_path / "file" / "set", **SMALL)


@pytest.mark.parametrize("missing", [["hardlink_to"], ["hardlink_to", "symlink_to"]])
def test_pictures_are_found_where_links_are_not_to_be_had(tmp_path, monkeypatch, missing):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    for name in missing:
        monkeypatch.setattr(Path, name, refuse)
    root = shapes.generate(tmp_path / "set", **SMALL)
    moved = root.rename(tmp_path / "moved")
    picture = "000000000002.jpg"
    linked = moved / "images" / "training" / picture
    assert linked.is_symlink() == ("symlink_to" not in missing)
    assert linked.read_bytes() == (moved / "train2017" / picture).read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [dict(num_train=0), dict(num_val=-1), dict(size=(200, 100)), dict(size=8), dict(seed=-1)],
)
def test_settings_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match="choose"):
        shapes.generate(tmp_path / "set", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


# Who reads it


def test_mmdet_reads_it(root):
    from mmdet.datasets import CocoDataset

    dataset = CocoDataset(
        data_root=str(root),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        metainfo=shapes.METAINFO,
        pipeline=[],
    )
    truth = annotations(root, "train")["annotations"]
    assert len(dataset) == SETTINGS["num_train"]
    item = dataset[0]
    assert Path(item["img_path"]).is_file()
    found = [(i["bbox_label"] + 1, *i["bbox"]) for i in item["instances"]]
    expected = [
        (a["category_id"], x, y, x + w, y + h)
        for a in truth
        if a["image_id"] == item["img_id"]
        for x, y, w, h in [a["bbox"]]
    ]
    assert found == expected


def test_mmseg_reads_it(root):
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    dataset = BaseSegDataset(
        data_root=str(root),
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        metainfo=shapes.METAINFO,
        reduce_zero_label=True,
        pipeline=[],
    )
    assert len(dataset) == SETTINGS["num_val"]
    item = dataset[1]
    assert Path(item["img_path"]).is_file()
    stored = cv2.imread(item["seg_map_path"], cv2.IMREAD_UNCHANGED)
    loaded = LoadAnnotations()(item)["gt_seg_map"]
    np.testing.assert_array_equal(loaded, np.where(stored == 0, 255, stored - 1))


# The command line


def run_tool(monkeypatch, *args) -> int:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, args)])
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def test_tool_writes_and_says_so_and_refuses_in_a_sentence(tmp_path, monkeypatch, capsys):
    args = (tmp_path / "set", "--train", 2, "--val", 1, "--size", 64, 80)
    assert run_tool(monkeypatch, *args) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert "2 training and 1 validation" in out
    assert json.loads((tmp_path / "set" / "shapes.json").read_text())["size"] == [64, 80]

    assert run_tool(monkeypatch, *args, "--seed", 1) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "pass --force" in message
    assert len(message.splitlines()) == 1
    assert run_tool(monkeypatch, *args, "--seed", 1, "--force") == 0


# For classification


def test_one_shape_an_image_in_its_class_folder(tmp_path):
    root = shapes.generate(
        tmp_path / "shapes", num_train=12, num_val=6, size=64, classification=True, progress=False
    )
    lines = (root / "meta" / "train.txt").read_text().splitlines()
    for line in lines:
        name, label = line.split()
        assert name.split("/")[0] == drawing.CLASSES[int(label)]
        assert cv2.imread(str(root / "train" / name)).shape == (64, 64, 3)
    assert len(lines) == 12 and len(list(root.glob("val/*/*.jpg"))) == 6
    scene = drawing.draw_scene(np.random.default_rng(1), (64, 64), alone=3)
    assert scene.labels == (3,) and set(np.unique(scene.instances)) == {0, 1}
    assert not scene.instances[[0, -1]].any() and not scene.instances[:, [0, -1]].any()
    with pytest.raises(UserError, match="choose 6 or more"):
        shapes.generate(tmp_path / "few", **SMALL, classification=True)
