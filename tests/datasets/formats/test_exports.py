"""Data sets as annotation tools, file systems and people leave them."""

from __future__ import annotations

import base64
import codecs
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from annotated import HEIGHT, WIDTH, coco_content, image
from mmpvt.datasets.formats import OpenedDataset, open_dataset
from mmpvt.datasets.formats.records import unique_records
from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.errors import DatasetError
from mmpvt.inference.sources import find_sources
from mmpvt.utils import progress

BOX = "0 .5 .5 .25 .25\n"  # YOLO's
READ = "0 24 18 16 12"
BOM = codecs.BOM_UTF8.decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


def write(root: Path, files: dict[str, str | bytes]) -> None:
    """Writes files; those that are empty and named as images are images, each another."""
    for value, (name, content) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not content and path.suffix.lower() in (".jpg", ".png", ".webp"):
            image(path, value)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(opened: OpenedDataset) -> dict[str, list[str]]:
    """By split, each image's name and objects: label, box, mask."""
    return {
        split: [
            "; ".join([record.path.name, *(_object(one) for one in record.instances)])
            for record in records
        ]
        for split, records in opened.splits.items()
    }


def _object(one) -> str:
    kind = f" {len(one.polygons)} outlines" if one.polygons else " mask" if one.rle else ""
    return " ".join(f"{v:g}" for v in (one.label, *one.box)) + kind + " ignored" * one.ignored


# --- YOLO

IN_FOLDERS = {"images/train/a.jpg": "", "labels/train/a.txt": BOX,
              "images/val/b.jpg": "", "labels/val/b.txt": BOX}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "path: /home/bob/data\ntrain: /home/bob/data/images/train\nval: /home/bob/data/images/val",
        "path: ../datasets/mine\ntrain: images/train\nval: images/val",
        "train: ../images/train\nval: ../images/val\nnc: 1\nroboflow:\n  workspace: x",
        "path: C:\\data\\x\ntrain: C:\\data\\x\\images\\train\nval: images\\val",
        "train: [images/train]\nval:\n- images/val",
        "path: .\ntrain: train.txt\nval: val.txt",
        f"{BOM}train: images/train\r\nval: images/val\r",
    ],
)
@pytest.mark.parametrize("names", ["names: ['no']", "names:\n  0: no"], ids=["list", "dict"])
def test_data_yaml(text: str, names: str, root: Path):
    write(root, IN_FOLDERS)
    (root / "data.yaml").write_text(f"{text}\n{names}\n", newline="")
    # CVAT's list names folders that aren't there, another machine's, or the current one's
    (root / "train.txt").write_text("data/images/train/a.jpg\r\n", newline="")
    (root / "val.txt").write_text("/mnt/disk/images/val/b.jpg\n")
    opened = open_dataset(root)
    assert opened.classes == ("no",) and not opened.notes
    assert read(opened) == dict(train=[f"a.jpg; {READ}"], val=[f"b.jpg; {READ}"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("names: [a, a]", "has two classes of the name 'a'"),
        ("names: [a, '']", "a class of .* has no name"),
        ("names: {1: a, 2: b}", "names don't count from 0"),
        ("nc: 2\nnames: [a]", "nc is '2', and there are 1 names"),
        ("nc: 2", "data.yaml has no names of classes: pass classes"),
    ],
)
def test_names_that_do_not_fit(text: str, sentence: str, root: Path):
    write(root, {**IN_FOLDERS, "data.yaml": f"train: images/train\nval: images/val\n{text}\n"})
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(root)


def test_yolo_of_cvat(root: Path):
    files = {
        "obj.names": "cat\ndog\n",
        "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = b/\n",
        "train.txt": "data/obj_train_data/a.jpg\n",
        "obj_train_data/a.jpg": "",
        "obj_train_data/a.txt": BOX,
    }
    write(root, files)
    opened = open_dataset(root)
    assert opened.classes == ("cat", "dog") and read(opened) == dict(train=[f"a.jpg; {READ}"])


def test_one_label_file_of_two_images(root: Path):
    write(root, {"train/a.jpg": "", "valid/a.jpg": "", "labels/a.txt": BOX, "classes.txt": "cat"})
    with pytest.raises(DatasetError, match=r"share the label file .*labels/a.txt"):
        open_dataset(root)


def test_lists_of_darknet(root: Path):
    files = {f"data/obj/{n}.{end}": content for n in "abcd" for end, content in
             (("jpg", ""), ("txt", BOX))}  # fmt: skip
    lists = {"data/train.txt": "data/obj/a.jpg\r\ndata/obj/c.jpg\r\n",
             "data/test.txt": "C:\\darknet\\data\\obj\\b.jpg\n"}  # fmt: skip
    write(root, {"data/obj.names": "cat\n", **files, **lists})
    opened = open_dataset(root)
    assert read(opened) == dict(train=[f"a.jpg; {READ}", f"c.jpg; {READ}"], test=[f"b.jpg; {READ}"])
    assert opened.notes == ["1 image is in no list and unused (the first: data/obj/d.jpg)"]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("0 5e-1 5.0E-01 +.25 .25   \r\n\r\n", READ),
        (f"{BOM}0\t.5 .5 .25 .25\r\n", READ),
        ("0.0 .5 .5 .25 .25", READ),
        (BOX * 2, READ),  # Ultralytics takes one, too
        ("0 .25 .25 .5 .25 .5 .5 .25 .5\n", "0 16 12 16 12 1 outlines"),  # a turned box
        ("", ""),
    ],
)
def test_lines(lines: str, found: str, root: Path):
    write(root, {"a.jpg": "", "a.txt": lines, "classes.txt": f"{BOM}cat\r\n\r\n"})
    assert read(open_dataset(root)) == dict(all=["; ".join(filter(None, ("a.jpg", found)))])


def test_predictions_are_no_labels(root: Path):
    write(root, {"a.jpg": "", "a.txt": "0 .5 .5 .25 .25 .9\n", "classes.txt": "cat"})
    with pytest.raises(DatasetError, match="6 numbers: a box and a score, as predictions have"):
        open_dataset(root)


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_an_empty_line_moves_no_class(name: str, root: Path):
    write(root, {"a.jpg": "", "a.txt": "1 .5 .5 .25 .25", name: "cat\n\ndog\n"})
    with pytest.raises(DatasetError, match=f"line 2 of .*{name} is empty"):
        open_dataset(root)


# --- Pascal VOC


def voc(*boxes: tuple, more: str = "") -> str:
    objects = "".join(
        f"<object><name>cat</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in boxes
    )
    return f"<annotation>{more}{objects}</annotation>"


@pytest.mark.parametrize(
    ("boxes", "format", "found", "said"),
    [
        ([(2, 3, 10, 12)], None, "1 2 9 10", "1 (as PASCAL VOC; none begins at 0 or 1)"),
        ([(10, 12, 2, 3)], None, "1 2 9 10", "1 (as PASCAL VOC; none begins at 0 or 1)"),
        ([(1, 3, 10, 12)], None, "0 2 10 10", "1 (as PASCAL VOC; 1 begin at 1, 0 at 0)"),
        ([(0, 3, 10, 12)], None, "0 3 10 9", "0 (1 begin at 0, 0 at 1)"),
        ([(2.5, 3.5, 10.2, 12)], None, "2.5 3.5 7.7 8.5", "0 (they have fractions)"),
        ([(2, 3, 10, 12)], "voc0", "2 3 8 9", "0, as asked for"),
        ([(0.5, 3, 10, 12)], "voc1", "0 2 10 10", "1, as asked for"),
    ],
)
def test_first_pixel(boxes: list, format: str | None, found: str, said: str, root: Path):
    write(root, {"a.jpg": "", "a.xml": voc(*boxes)})
    opened = open_dataset(root, format=format)
    assert read(opened) == dict(all=[f"a.jpg; 0 {found}"])
    assert f"Pascal VOC with coordinates from {said}, 1 image," in opened.describe()


NAMES = ("my a", "c,d", "e%20f", "ü")


@pytest.mark.parametrize(
    ("lists", "train", "val"),
    [
        ({"Main/train": "my a\r\nc,d\r\n", "Main/val": "ü\ne%20f", "Main/cat_train": "ü 1"}, 2, 2),
        ({"Main/Train": '"my a" 1\n', "Main/Validation": "c,d\nü\ne%20f\n"}, 1, 3),  # CVAT
        ({"train": "my a.jpg\nü.jpg 1\n", "val": "JPEGImages\\c,d.jpg\ne%20f -1\n"}, 2, 2),
        ({"Main/trainval2012": "my a\nc,d\nü\n", "Main/val2012": "e%20f\n"}, 3, 1),
        ({"Main/train": "my a\n", "Main/val": "c,d\nü\ne%20f\n", "Main/trainval": "my a\nc,d\n",
          "Segmentation/train": "ü\n"}, 1, 3),
        ({"Main/train": "my a\n", "Main/val": "c,d\nü\ne%20f\n", "Action/train": "c,d 1 1\n",
          "Action/val": "my a 1 1\n"}, 1, 3),
    ],
)  # fmt: skip
def test_image_sets(lists: dict[str, str], train: int, val: int, root: Path):
    files: dict[str, str | bytes] = {f"JPEGImages/{name}.jpg": "" for name in NAMES}
    files.update({f"Annotations/{name}.xml": voc((2, 3, 10, 12)) for name in NAMES})
    files.update({f"ImageSets/{name}.txt": text for name, text in lists.items()})
    files["labelmap.txt"] = (
        "# label:color_rgb:parts:actions\ndog:1,2,3::\ncat:4,5,6:head,tail:run\n"
    )
    write(root, files)
    opened = open_dataset(root)
    assert opened.classes == ("dog", "cat") and opened.palette == [(1, 2, 3), (4, 5, 6)]
    assert {split: len(records) for split, records in opened.splits.items()} == dict(
        train=train, val=val
    )


@pytest.mark.parametrize(
    "files",
    [
        {"pics/A.JPG": "", "annots/A.xml": voc((2, 3, 10, 12))},
        {"pics/A b.JPG": "", "x/1.xml": voc((2, 3, 10, 12), more="<filename>a B.jpg</filename>")},
        {"A.JPG": "", "A.xml": BOM + "<?xml version='1.0'?>\r\n" + voc((2, 3, 10, 12))},
    ],
)
def test_voc_finds_images(files: dict, root: Path):
    write(root, files)
    (found,) = read(open_dataset(root))["all"]
    assert found.endswith("; 0 1 2 9 10")


@pytest.mark.parametrize("content", [b"", b"<?xml version='1.0'?>", bytes(99)])
def test_an_empty_xml_is_not_an_image_without_objects(content: bytes, root: Path):
    """As a full disk leaves it."""
    write(root, {"a.jpg": "", "a.xml": voc((2, 3, 10, 12)), "b.jpg": "", "b.xml": content})
    with pytest.raises(DatasetError, match=r"1 error in .*: b.xml: it is no XML"):
        open_dataset(root, keep_empty=True)
    (root / "c.xml").write_bytes(content)  # of no image
    opened = open_dataset(root, keep_empty=True, on_bad_data="skip")
    assert read(opened) == dict(all=["a.jpg; 0 1 2 9 10"])


# --- folders


@pytest.mark.parametrize("train, test", [("train", "test"), ("training_set", "test_set"),
                                         ("Training Data", "Test Data")])  # fmt: skip
def test_folders_of_splits(train: str, test: str, root: Path):
    classes = ("cat", "test_tube")
    write(root, {f"{split}/{name}/{split}.jpg": "" for split in (train, test) for name in classes})
    opened = open_dataset(root, task="classification")
    assert opened.classes == classes
    assert {split: len(records) for split, records in opened.splits.items()} == dict(
        train=2, test=2
    )


@pytest.mark.parametrize(
    "files, classes",
    [
        ("dogs/poodle/a dogs/pug/b cats/persian/c", ("cats", "dogs")),
        ("dogs/poodle/a dogs/b cats/c", ("cats", "dogs")),
        ("pets/dogs/poodle/a pets/cats/b", ("cats", "dogs")),
        ("pets/dogs/a", ("dogs",)),
        ("train/dogs/poodle/a train/cats/b", ("cats", "dogs")),
    ],
)
def test_folders_in_the_folder_of_a_class(files: str, classes: tuple, root: Path):
    write(root, {f"{name}.jpg": "" for name in files.split()})
    opened = open_dataset(root, task="classification")
    assert opened.classes == classes
    deeper = any("deeper than their class's folder" in note for note in opened.notes)
    assert deeper == ("poodle" in files)
    for record in unique_records(opened.splits):
        assert classes[record.labels[0]] in record.path.parts


def test_an_image_beside_the_folders_of_classes(root: Path):
    write(root, {f"{name}.jpg": "" for name in ("pets/dogs/a", "pets/cats/b", "pets/c")})
    with pytest.raises(DatasetError, match=r"c\.jpg: it lies in no class's folder"):
        open_dataset(root, task="classification")


# --- LabelMe


def labelme(*shapes: dict, **more: object) -> str:
    common = dict(label="cat", group_id=None, flags={}, mask=None, description="")
    content = dict(version="5.4.1", flags={}, shapes=[{**common, **one} for one in shapes])
    return json.dumps({**content, "imagePath": "a.jpg", "imageData": None, **more})


def rectangle(*points: list) -> dict:
    return dict(shape_type="rectangle", points=points)


def png(pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (rectangle([20, 30], [10, 5]), "0 10 5 10 25"),
        (rectangle([10, 5], [20, 5], [20, 30], [10, 30]), "0 10 5 10 25"),  # X-AnyLabeling
        (dict(shape_type="rotation", points=[[15, 5], [20, 10], [15, 15], [10, 10]]),
         "0 10 5 10 10 1 outlines"),
        (dict(shape_type="oriented_rectangle", points=[[15, 5], [20, 10], [15, 15], [10, 10]]),
         "0 10 5 10 10 1 outlines"),
        (dict(shape_type="circle", points=[[30, 20], [33, 24]]), "0 25 15 10 10 1 outlines"),
        (dict(shape_type="mask", points=[[10, 20], [14, 22]], mask=png(np.eye(3, 5) > 0)),
         "0 10 20 3 3 mask"),
        (dict(points=[[1.5, 1], [4, 1], [4, 5]], shape_type=None), "0 1.5 1 2.5 4 1 outlines"),
    ],
)  # fmt: skip
def test_labelme_shapes(shape: dict, found: str, root: Path):
    skipped = [dict(shape_type=kind, points=[[1, 1], [2, 2]], label=kind)
               for kind in ("line", "linestrip", "point", "points")]  # fmt: skip
    write(root, {"a.jpg": "", "a.json": labelme(shape, *skipped)})
    opened = open_dataset(root)
    assert opened.classes == ("cat",) and read(opened) == dict(all=[f"a.jpg; {found}"])
    assert opened.notes == ["points and lines are skipped: 4 (the first: a.json, shape 2)"]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("json/1.json", dict(imagePath="..\\imgs\\a.jpg")),
        ("imgs/a.json", dict(imagePath="/Users/bob/other/a.jpg", imageWidth=64.0, imageHeight=48)),
    ],
)
@pytest.mark.parametrize("mark", ["", BOM], ids=["", "BOM"])
def test_labelme_finds_images(name: str, more: dict, mark: str, root: Path):
    write(root, {"imgs/a.jpg": "", name: mark + labelme(rectangle([1, 1], [5, 5]), **more)})
    opened = open_dataset(root)
    assert not opened.notes and read(opened) == dict(all=["a.jpg; 0 1 1 4 4"])


@pytest.mark.parametrize("others", [{}, {"b.jpg": "", "b.json": labelme(imagePath="b.jpg")}])
def test_labelme_with_its_images_inside(others: dict, root: Path):
    data = base64.b64encode(image(root / "a.jpg").read_bytes()).decode()
    (root / "a.jpg").unlink()
    write(root, {"a.json": labelme(rectangle([1, 1], [5, 5]), imageData=data), **others})
    with pytest.raises(DatasetError, match=r"a.jpg' is missing; imageData holds a copy"):
        open_dataset(root)


def test_annotations_without_an_image_are_what_is_wrong(root: Path):
    """Not that the image is without annotations."""
    write(root, {"b.jpg": "", "a.json": labelme(rectangle([1, 1], [5, "x"]))})
    with pytest.raises(DatasetError, match=r"a.json: Expected `float`, got `str`"):
        open_dataset(root)


# --- CVAT


def cvat(shapes: str, image_fields: str = "") -> str:
    labels = "".join(f"<label><name>{n}</name><attributes/></label>" for n in ("dog", "cat"))
    return (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task>'
        f'<labels>{labels}</labels></task></meta><image id="0" name="a.jpg" {image_fields} '
        f'width="{WIDTH}" height="{HEIGHT}">{shapes}</image></annotations>'
    )


POLYGON = '<polygon label="cat" points="{},1.00;{},1.00;{},10.00" group_id="{}"/>'


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ('<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"/>',
         ["1 15 5 10 20 1 outlines"]),
        ('<ellipse label="dog" cx="30" cy="20" rx="10" ry="5" rotation="90"/>',
         ["0 25 10 10 20 1 outlines"]),
        (POLYGON.format(1, 10, 10, 3) + POLYGON.format(20, 30, 30, 3),
         ["1 1 1 29 9 2 outlines"]),
        (POLYGON.format(1, 10, 10, 0) + POLYGON.format(20, 30, 30, 0),
         ["1 1 1 9 9 1 outlines", "1 20 1 10 9 1 outlines"]),
        ('<box label="dog" xtl="1" ytl="1" xbr="5" ybr="5" group_id="3"/>'
         '<box label="dog" xtl="11" ytl="1" xbr="15" ybr="5" group_id="3"/>',
         ["0 1 1 4 4", "0 11 1 4 4"]),
        ('<mask label="cat" rle="1, 2, 1" left="3" top="4" width="2" height="2"/>',
         ["1 3 4 2 2 mask"]),
        ('<polygon label="cat" points="-10,0;10,10;-10,20"/>', ["1 0 5 10 10 1 outlines"]),
    ],
)  # fmt: skip
def test_cvat_shapes(shapes: str, found: list[str], root: Path):
    skipped = (
        '<polyline label="cat" points="1,1;2,2"/><points label="cat" points="1,1"/>'
        '<skeleton label="cat"><points label="1" outside="0" points="1,1"/></skeleton>'
        '<tag label="cat"/>'
    )
    write(root, {"images/a.jpg": "", "annotations.xml": cvat(shapes + skipped, 'subset="Train"')})
    opened = open_dataset(root)
    assert opened.classes == ("dog", "cat")
    assert read(opened) == dict(train=["; ".join(["a.jpg", *found])])
    assert "points, lines, cuboids, skeletons and tags are skipped: 4" in " ".join(opened.notes)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (cvat("").replace("</annotations>", '<track id="0" label="cat"/></annotations>'),
         "is of the format CVAT for video: export the task as CVAT for images 1.1"),
        (cvat('<polygon label="cat" points="1,1,1;2,2;3,3"/>'), "its points aren't pairs"),
        (cvat('<box label="cow" xtl="1" ytl="1" xbr="5" ybr="5"/>'), "'cow' isn't in meta"),
    ],
)  # fmt: skip
def test_cvat_that_can_not_be_read(text: str, sentence: str, root: Path):
    write(root, {"a.jpg": "", "annotations.xml": text})
    with pytest.raises(DatasetError, match=sentence):
        open_dataset(root)


def test_cvat_tasks_whose_frames_have_the_same_names(root: Path):
    for place in (1, 2):
        box = f'<box label="cat" xtl="{place}" ytl="5" xbr="20" ybr="25"/>'
        write(root, {f"{place}/images/a.jpg": "", f"{place}/annotations.xml": cvat(box)})
    assert read(open_dataset(root)) == dict(all=["a.jpg; 1 1 5 19 20", "a.jpg; 1 2 5 18 20"])


# --- COCO


def coco(*annotations: dict, categories: tuple = ((1, "cat", ""),), name: str = "a.jpg") -> str:
    common = dict(image_id=1, category_id=1, iscrowd=0, bbox=[1, 2, 3, 4], segmentation=[])
    content = dict(
        images=[dict(id=1, file_name=name, width=WIDTH, height=HEIGHT)],
        annotations=[{**common, "id": i, "area": 12, **one} for i, one in enumerate(annotations)],
        categories=[dict(id=i, name=n, supercategory=s) for i, n, s in categories],
    )
    return json.dumps(content, ensure_ascii=False)


PIXELS = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
PIXELS[5:10, 7:20] = 1
RUNS = np.diff([0, *np.flatnonzero(np.diff(PIXELS.ravel("F"))) + 1, PIXELS.size]).tolist()
MASK = dict(bbox=[7, 5, 13, 5], segmentation=dict(size=[HEIGHT, WIDTH], counts=RUNS))


def test_coco_masks(root: Path):
    packed = dict(size=[HEIGHT, WIDTH], counts=rle.encode(PIXELS)["counts"].decode())
    content = coco(MASK, {**MASK, "segmentation": packed, "category_id": 7}, {**MASK, "iscrowd": 1},
                   dict(segmentation=[[1, 2, 4, 2, 4, 6]]),
                   categories=((7, "b", ""), (1, "z", "")))  # fmt: skip
    write(root, {"a.jpg": "", "a.json": content})
    opened = open_dataset(root, task="instance")
    assert opened.classes == ("z", "b")  # by id
    first, second, *_ = opened.splits["all"][0].instances
    np.testing.assert_array_equal(rle.decode(first.rle), PIXELS)
    assert first.rle == second.rle
    where = "7 5 13 5 mask"
    assert read(opened) == dict(
        all=[f"a.jpg; 0 {where}; 1 {where}; 0 {where} ignored; 0 1 2 3 4 1 outlines"]
    )


def test_coco_boxes_with_an_empty_polygon(root: Path):
    write(root, {"a.jpg": "", "a.json": coco(dict(segmentation=[[]]))})
    assert read(open_dataset(root)) == dict(all=["a.jpg; 0 1 2 3 4"])


def test_coco_boxes_that_are_corners(root: Path):
    content = coco(dict(bbox=[30, 10, 60, 40]), dict(bbox=[40, 5, 64, 9]), dict(bbox=[1, 1, 9, 9]))
    write(root, {"a.jpg": "", "a.json": content})
    (note,) = open_dataset(root).notes
    assert note == (
        "a.json: 2 boxes reach out of their images (the first: annotation 0): COCO's are x, y, "
        "width and height, not corners"
    )


def test_coco_mask_of_another_size_than_the_image(root: Path):
    write(root, {"a.jpg": "", "a.json": coco(MASK)})
    Image.open(root / "a.jpg").resize((2 * WIDTH, 2 * HEIGHT)).save(root / "a.jpg")
    with pytest.raises(DatasetError, match="annotation 0 has a mask of another size"):
        open_dataset(root)


def test_classes_that_differ_in_case_or_spaces(root: Path):
    categories = ((1, "zebra crossing", ""), (2, "Zebra  crossing ", ""), (3, "car", ""))
    objects = (dict(category_id=i, bbox=[i, 2, 3, 4]) for i in (1, 2, 3))
    write(root, {"a.jpg": "", "a.json": coco(*objects, categories=categories)})
    assert open_dataset(root).notes == [
        "'zebra crossing' and 'Zebra  crossing ' are classes of their own: they differ in case or "
        "spaces"
    ]


@pytest.mark.parametrize(
    ("categories", "used", "classes"),
    [
        (((0, "zoo", "none"), (1, "cat", "zoo"), (2, "dog", "zoo")), 2, ("cat", "dog")),
        (((0, "cat", "none"), (1, "cat", "cat")), 1, ("cat",)),  # a project of its one class
        (((1, "person", "person"), (2, "cat", "animal")), 2, ("person", "cat")),
        (((1, "dog", "animal"), (2, "animal", "animal")), 1, ("dog", "animal")),
        (((0, "zoo", "none"), (1, "cat", "zoo")), 0, ("zoo", "cat")),
    ],
)
def test_roboflow_categories(categories: tuple, used: int, classes: tuple, root: Path):
    write(root, {"a.jpg": "", "a.json": coco(dict(category_id=used), categories=categories)})
    assert open_dataset(root).classes == classes


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("my img.JPG", "images\\My%20Img.jpg"),  # Windows, a web tool
        (unicodedata.normalize("NFD", "ü.jpg"), unicodedata.normalize("NFC", "ü.jpg")),  # macOS
        ("a,b 100%.jpg", "a,b 100%.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
    ],
)
def test_names_of_images(name: str, written: str, root: Path):
    write(root, {f"images/{name}": "", "images/b.jpg": "", "a.json": BOM + coco({}, name=written)})
    opened = open_dataset(root)
    assert read(opened) == dict(all=[f"{name}; 0 1 2 3 4"])
    again = open_dataset(opened.write(root.with_name("out"), "voc"))
    assert read(again) == read(opened)


def test_folders_that_the_annotation_file_names(root: Path):
    write(root, {"a/x.jpg": "", "cam/x.jpg": "", "cam_2.json": coco({}, name="x.jpg")})
    assert open_dataset(root).splits["all"][0].path == root / "cam" / "x.jpg"
    (root / "cam_2.json").rename(root / "labels.json")
    with pytest.raises(DatasetError, match=r"'x.jpg' may be any of a/x.jpg, cam/x.jpg"):
        open_dataset(root)
    (root / "a").rename(root / "2017")
    (root / "labels.json").rename(root / "labels2017.json")
    assert open_dataset(root).splits["all"][0].path == root / "2017" / "x.jpg"


def test_names_that_differ_in_case_alone(root: Path):
    write(root, {"a.jpg": "", "A.JPG": "", "a.json": coco({}, name="A.jpg")})
    with pytest.raises(DatasetError, match=r"'A.jpg' may be any of A.JPG, a.jpg"):
        open_dataset(root)


def test_keypoints_are_skipped_and_counted(root: Path):
    write(root, {"a.jpg": "", "a.json": coco(dict(keypoints=[1, 1, 2] * 17, num_keypoints=17))})
    (note,) = open_dataset(root).notes
    assert note == "objects have keypoints, which are skipped: 1 (the first: a.json, a.jpg)"


def listed_twice() -> str:
    content = json.loads(coco({}))
    content["images"].append({**content["images"][0], "id": 2})
    return json.dumps(content)


NAMED = "<filename>a.jpg</filename>"


@pytest.mark.parametrize(
    "files",
    [
        {"x.json": listed_twice()},
        {"x/1.xml": voc((2, 3, 9, 9), more=NAMED), "x/2.xml": voc((2, 3, 9, 9), more=NAMED)},
        {"a.json": labelme(rectangle([1, 1], [5, 5])), "b.json": labelme()},
        {"1.xml": cvat(""), "2.xml": cvat("")},
    ],
    ids=["coco", "voc", "labelme", "cvat"],
)
def test_an_image_annotated_twice(files: dict, root: Path):
    write(root, {"a.jpg": "", **files})
    with pytest.raises(DatasetError, match=r"a\.jpg: it is annotated 2 times"):
        open_dataset(root)
    opened = open_dataset(root, on_bad_data="skip")
    assert sum(map(len, opened.splits.values())) == 1


# --- Label maps


def label_map(*, colour: tuple | None = None, palette: bool = False) -> bytes:
    pixels = np.eye(HEIGHT, WIDTH, dtype=np.uint8)
    if colour:
        pixels = pixels[..., None] * np.array(colour, np.uint8)
    drawn = Image.fromarray(pixels)
    if palette:
        drawn.putpalette([0, 0, 0, 9, 8, 7])
    data = io.BytesIO()
    drawn.save(data, "PNG")
    return data.getvalue()


TABLE = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:9,8,7::\n"
CSV = "Pixel Value, Class\n0, background\n1, cat\n"


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        ({"train/a.jpg": "", "train/a_mask.png": label_map(), "train/_classes.csv": CSV,
          "valid/b.jpg": "", "valid/b_mask.png": label_map(), "valid/_classes.csv": CSV},
         dict(train=1, val=1)),  # Roboflow
        ({"JPEGImages/a.jpg": "", "SegmentationClass/a.png": label_map(palette=True),
          "SegmentationObject/a.png": label_map(), "labelmap.txt": TABLE,
          "ImageSets/Segmentation/default.txt": "a\n"}, dict(all=1)),  # CVAT
        ({"JPEGImages/a.jpg": "", "SegmentationClass/a.png": label_map(colour=(9, 8, 7)),
          "JPEGImages/b.jpg": "", "SegmentationClass/b.png": label_map(colour=(9, 8, 7)),
          "JPEGImages/c.jpg": "", "ImageSets/Segmentation/Train.txt": "a\n",
          "ImageSets/Segmentation/val.txt": "/JPEGImages/b.jpg /SegmentationClass/b.png\n",
          "ImageSets/Main/train.txt": "b\n", "labelmap.txt": TABLE}, dict(train=1, val=1)),
        ({"img_dir/a.jpg": "", "ann_dir/a.png": label_map(), "_classes.csv": CSV,
          "img_dir/b.jpg": "", "ann_dir/b.png": label_map(), "splits/train.txt": "b\n",
          "splits/val.txt": "a\n"}, dict(train=1, val=1)),  # MMSegmentation
        ({"img/a.jpg": "", "gt/a.png": label_map(), "_classes.csv": CSV,
          "img/b.jpg": "", "gt/b.png": label_map(), "train.txt": "img/b.jpg gt/b.png\n",
          "val.txt": "img/a.jpg gt/a.png\n"}, dict(train=1, val=1)),  # PaddleSeg
        ({"images/a.jpg": "", "masks/a.png": label_map(colour=(9, 8, 7, 255)),
          "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncat,9,8,7\n"}, dict(all=1)),
    ],
)  # fmt: skip
def test_label_maps(files: dict, splits: dict, root: Path):
    write(root, files)
    if any(name.startswith("masks") for name in files):  # RGBA, whose black is opaque
        pixels = np.asarray(Image.open(root / "masks" / "a.png")).copy()
        pixels[..., 3] = 255
        Image.fromarray(pixels).save(root / "masks" / "a.png")
    opened = open_dataset(root)
    assert opened.classes == ("background", "cat")
    assert {split: len(records) for split, records in opened.splits.items()} == splits
    assert all(r.labels == (0, 1) for same in opened.splits.values() for r in same)
    maps = opened.write_label_maps(root.with_name("out"))
    for file in maps.lists.values():
        (name,) = file.read_text().split()
        labels = np.asarray(Image.open(maps.seg_map_path / f"{name}{maps.seg_map_suffix}"))
        np.testing.assert_array_equal(labels, np.eye(HEIGHT, WIDTH))


def test_tables_that_differ(root: Path):
    write(root, {"train/a.jpg": "", "train/a_mask.png": label_map(), "train/_classes.csv": CSV,
                 "valid/b.jpg": "", "valid/b_mask.png": label_map(),
                 "valid/_classes.csv": CSV.replace("cat", "dog")})  # fmt: skip
    with pytest.raises(DatasetError, match=r"_classes.csv, valid/_classes.csv name different"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("name", "table", "what"),
    [("labelmap.txt", "bg:0,0,0::\ncat:1,1,1::\ndog:1,1,1::\n", "colour, (1, 1, 1)"),
     ("_classes.csv", "Pixel Value,Class\n0,bg\n1,cat\n1,dog\n", "value, 1")],
)  # fmt: skip
def test_classes_of_one_colour(name: str, table: str, what: str, root: Path):
    write(root, {"a.jpg": "", "a_mask.png": label_map(), name: table})
    opened = open_dataset(root)
    assert f"'cat' and 'dog' have one {what}: its pixels are of the latter" in opened.notes
    assert opened.splits["all"][0].labels == (0, 2)


# --- File systems and images


@pytest.mark.parametrize(
    ("picture", "labels"),
    [("images/A.JPG", "labels/A.TXT"), ("Images/Train/a.jpg", "Labels/Train/a.txt"),
     ("IMAGES/a.webp", "LABELS/a.txt"), ("train/images/a b.png", "train/labels/a b.txt")],
)  # fmt: skip
def test_letters_of_either_case(picture: str, labels: str, root: Path):
    write(root, {picture: "", labels: BOX, "classes.txt": "cat"})
    ((found,),) = read(open_dataset(root)).values()
    assert found == f"{Path(picture).name}; {READ}"


@pytest.mark.parametrize("suffix", [".jfif", ".gif", ".jp2", ".jpe"])
def test_images_that_are_trained_on_are_predicted_on(suffix: str, root: Path):
    write(root, {"a.jpg": "", "a.txt": BOX, "classes.txt": "cat"})
    kind = "JPEG" if suffix in (".jfif", ".jpe") else None
    Image.open(root / "a.jpg").save(root / f"a{suffix}", kind)
    (root / "a.jpg").unlink()
    assert read(open_dataset(root)) == dict(all=[f"a{suffix}; {READ}"])
    (found,), _ = find_sources([root])
    assert LoadImageFromFile()(dict(img_path=str(found.path)))["img_shape"] == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images.zip", "images.zip is an archive: give its path"),
        ("a.HEIC", "a.HEIC isn't read: convert such images"),
        ("a.mp4", "a.mp4 is a video: give a folder of frames"),
    ],
)
def test_what_is_there_instead_of_images(name: str, said: str, root: Path):
    write(root, {name: b"x", "labels/a.txt": BOX, "classes.txt": "cat"})
    with pytest.raises(DatasetError, match=rf"there are no images in .*: {said}"):
        open_dataset(root)


@pytest.mark.parametrize("name", ["via.json", "train/metadata.jsonl", "labels.csv", "a.xml"])
def test_annotations_of_another_format(name: str, root: Path):
    write(root, {"a.jpg": "", name: "<other/>" if name == "a.xml" else "[]"})
    with pytest.raises(DatasetError, match=rf"export COCO or YOLO from the tool .* {name}$"):
        open_dataset(root)


def test_what_is_hidden_or_linked(root: Path):
    write(root, {"images/a.jpg": "", "labels/a.txt": BOX, "classes.txt": "cat",
                 ".DS_Store": b"\0", "images/._a.jpg": b"\0\5\x16\7", "images/Thumbs.db": b"\0",
                 "__MACOSX/images/b.jpg": b"\0", ".cache/c.jpg": b"\0"})  # fmt: skip
    (root / "images" / "up").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "again").symlink_to(root / "images")
    opened = open_dataset(root)
    assert not opened.notes and read(opened) == dict(all=[f"a.jpg; {READ}"])
    (root / "images" / "b.jpg").symlink_to("nowhere")
    (root / "labels" / "b.txt").touch()
    with pytest.raises(DatasetError, match=r"images/b.jpg: No such file"):
        open_dataset(root)


def test_sizes_are_those_of_the_loaded_images(root: Path):
    pixels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    grey = pixels.astype(np.uint8)
    made = dict(grey=Image.fromarray(grey), deep=Image.fromarray(pixels.astype(np.uint16)),
                rgba=Image.fromarray(np.dstack([grey] * 4)), bits=Image.fromarray(grey > 9),
                palette=Image.fromarray(grey).convert("P"))  # fmt: skip
    (root / "images").mkdir()
    for name, picture in made.items():
        picture.save(root / "images" / f"{name}.png")
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[274] = turn
        for end in ("jpg", "png", "webp", "tif"):
            image(root / "images" / f"{turn}_{end}.{end}", exif=exif)
    for path in list((root / "images").iterdir()):
        write(root, {f"labels/{path.stem}.txt": BOX})
    opened = open_dataset(root, classes=["cat"])
    assert len(opened.splits["all"]) == 37
    for record in opened.splits["all"]:
        results = dict(img_path=str(record.path), height=record.height, width=record.width)
        loaded = LoadImageFromFile().transform(results)["img_shape"]
        assert loaded[:2] == (record.height, record.width), record.path.name


# --- Splits that share images


def test_copies_across_splits_are_said(root: Path):
    same = image(root / "same.jpg", 99).read_bytes()
    (root / "same.jpg").unlink()
    files: dict[str, str | bytes] = {
        "train/1.jpg": "", "val/1.jpg": "",  # numbers begin anew
        "train/x (1).jpg": "", "val/x (2).jpg": "",
        "train/b_jpg.rf.0123456789abcdef.jpg": "", "val/b_jpg.rf.abcdef0123456789.jpg": "",
        "train/2.jpg": same, "val/3.jpg": same, "test/c_flip.jpg": "", "train/c.jpg": "",
    }  # fmt: skip
    write(root, {**files, **{f"{n.removesuffix('.jpg')}.txt": BOX for n in files}})
    opened = open_dataset(root, classes=["cat"])
    assert opened.notes == [
        "3 images of val and test are copies of training images, or made from the same (the first: "
        "val/3.jpg of train/2.jpg): scores on them say too much"
    ]


def test_one_image_in_two_lists(root: Path):
    files = {"images/a.jpg": "", "labels/a.txt": BOX}
    write(root, {**files, "data.yaml": "train: images\nval: images\nnames: [cat]\n"})
    (note,) = open_dataset(root).notes
    assert "1 image of val is a copy of a training image, or" in note and "first: a.jpg)" in note


# --- Long work


def test_progress_is_shown_where_it_takes_long(root: Path, monkeypatch, capsys):
    content = coco_content({name: [(0, 1, 2, 3, 4)] for name in "abc"})
    write(root, {**{f"images/{name}.jpg": "" for name in "abc"}, "x.json": json.dumps(content)})
    open_dataset(root)
    assert not capsys.readouterr().err
    monkeypatch.setattr(progress, "PROGRESS_AFTER", 0.0)
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    open_dataset(root)
    assert "reading images of x.json: 3 of 3" in capsys.readouterr().err
