"""The same 24 images of three classes, annotated in each format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")  # sorted, as formats without an order have them
COLOURS = ((10, 20, 30), (200, 0, 0), (0, 99, 250))
WIDTH, HEIGHT = 64, 48
Boxes = list[tuple[int, int, int, int, int]]  # label, x, y, width, height


def objects(i: int) -> Boxes:
    """An image's objects; none of them in its third."""
    rng = np.random.default_rng(i)
    if i % 8 == 3:
        return []
    made = []
    for k in range(1 + i % 3):
        w, h = (int(v) for v in rng.integers(4, 20, 2))
        x, y = int(rng.integers(0, WIDTH - w + 1)), int(rng.integers(0, HEIGHT - h + 1))
        made.append(((i + k) % 3, x, y, w, h))
    return made


DATA: dict[str, Boxes] = {f"img_{i:02d}": objects(i) for i in range(24)}


def image(path: Path, value: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH, 3), value, np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def images(folder: Path) -> None:
    for value, name in enumerate(DATA):
        image(folder / f"{name}.jpg", value)


def coco_content(data: dict[str, Boxes]) -> dict:
    ids = (3, 5, 9)
    annotations = [
        dict(id=0, image_id=i + 7, category_id=ids[c], bbox=[x, y, w, h], area=w * h, iscrowd=0)
        for i, boxes in enumerate(data.values())
        for c, x, y, w, h in boxes
    ]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    return dict(
        images=[
            dict(id=i + 7, file_name=f"{name}.jpg", width=WIDTH, height=HEIGHT)
            for i, name in enumerate(data)
        ],
        annotations=annotations,
        categories=[dict(id=i, name=n) for i, n in reversed(list(zip(ids, CLASSES, strict=True)))],
    )


def coco(root: Path) -> None:
    images(root / "images")
    (root / "labels.json").write_text(json.dumps(coco_content(DATA)))


def voc(root: Path) -> None:
    images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name, boxes in DATA.items():
        text = "".join(
            f"<object><name>{CLASSES[c]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for c, x, y, w, h in boxes
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{text}</annotation>")


def yolo(root: Path) -> None:
    images(root / "images")
    (root / "labels").mkdir()
    for name, boxes in DATA.items():
        lines = [
            f"{c} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} "
            f"{h / HEIGHT:.6f}\n"
            for c, x, y, w, h in boxes
        ]
        (root / "labels" / f"{name}.txt").write_text("".join(lines))
    (root / "classes.txt").write_text("\n".join(CLASSES))


def labelme(root: Path) -> None:
    images(root)
    for name, boxes in DATA.items():
        shapes = [
            dict(label=CLASSES[c], points=[[x + w, y], [x, y + h]], shape_type="rectangle")
            for c, x, y, w, h in boxes
        ]
        content = dict(imageData="AAAA" * 99, shapes=shapes, imagePath=f"{name}.jpg")
        content.update(imageWidth=WIDTH, imageHeight=HEIGHT)
        (root / f"{name}.json").write_text(json.dumps(content))


def cvat(root: Path, shape: str = "") -> None:
    images(root / "images")
    labels = "".join(
        f"<label><name>{name}</name><color>#{bytes(colour).hex()}</color></label>"
        for name, colour in zip(CLASSES, COLOURS, strict=True)
    )
    text = "".join(
        f'<image id="{i}" name="{name}.jpg" width="{WIDTH}" height="{HEIGHT}">'
        + "".join(
            f'<box label="{CLASSES[c]}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
            for c, x, y, w, h in boxes
        )
        + (shape if i == 0 else "")
        + "</image>"
        for i, (name, boxes) in enumerate(DATA.items())
    )
    (root / "annotations.xml").write_text(
        f"<annotations><meta><task><labels>{labels}</labels></task></meta>{text}</annotations>"
    )


def masks(root: Path) -> None:
    images(root / "images")
    (root / "masks").mkdir()
    table = [(0, 0, 0), *COLOURS]
    for name, labels in label_maps().items():
        pixels = np.array(table, np.uint8)[labels]
        Image.fromarray(pixels).save(root / "masks" / f"{name}.png")
    lines = [
        f"{name}:{','.join(map(str, colour))}::"
        for name, colour in zip(("background", *CLASSES), table, strict=True)
    ]
    (root / "labelmap.txt").write_text("\n".join(("# label:color_rgb:parts:actions", *lines)))


def label_maps() -> dict[str, np.ndarray]:
    """The boxes painted: 0 is the background."""
    made = {}
    for name, boxes in DATA.items():
        made[name] = np.zeros((HEIGHT, WIDTH), np.uint8)
        for c, x, y, w, h in boxes:
            made[name][y : y + h, x : x + w] = c + 1
    return made


FORMATS: dict[str, Callable[[Path], None]] = dict(
    coco=coco, voc=voc, yolo=yolo, labelme=labelme, cvat=cvat
)
