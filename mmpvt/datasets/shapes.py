"""The built-in shapes data set: drawn, seeded, in COCO's and in ADE20K's layout at once.

Textured shapes overlap on busy backgrounds. A class is a form and nothing else: colour, texture,
outline, size and rotation are independent of it. Every object is annotated by what is visible. For
classification there is a set of one shape an image, in a folder a class.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from mmpvt.datasets.shapes_drawing import CLASSES, Scene, draw_scene
from mmpvt.errors import ConfigError, OutputError
from mmpvt.utils.progress import progress as show_progress

PALETTE = (
    (56, 189, 248),
    (251, 113, 133),
    (52, 211, 153),
    (251, 191, 36),
    (167, 139, 250),
    (251, 146, 60),
)
METAINFO = dict(classes=CLASSES, palette=list(PALETTE))
"""What a config passes as ``metainfo`` to MMDetection's ``CocoDataset`` or, with
``reduce_zero_label=True``, to MMSegmentation's ``BaseSegDataset``."""

VERSION = 1  # raise it when the same settings give other images or annotations

_SIDES = (48, 2048)
_SPLITS = dict(train="training", val="validation")  # COCO's names to ADE20K's
_SETTINGS_FILE = "shapes.json"
_ENTRIES = {_SETTINGS_FILE, "annotations", "images", "train2017", "val2017", "train", "val", "meta"}


def generate(
    root: str | os.PathLike,
    *,
    num_train: int = 1000,
    num_val: int = 200,
    size: int | tuple[int, int] = (160, 192),
    seed: int = 0,
    classification: bool = False,
    progress: bool = True,
    force: bool = False,
) -> Path:
    """Writes a shapes data set, in COCO's and ADE20K's layouts, under one folder.

    The same settings give the same bytes (with the same NumPy and OpenCV), and the first n images
    of a split don't depend on how many follow. ``root`` appears when all of it is written; where
    it already holds a set of the same settings, nothing is done. ::

        root/
          shapes.json                             the settings
          annotations/instances_{train,val}2017.json
          {train,val}2017/000000000001.jpg        COCO's layout
          images/{training,validation}/           the same files (links), ADE20K's layout
          annotations/{training,validation}/      label maps: 0 background, 1 + i CLASSES[i]

    With ``reduce_zero_label=True`` the background is ignored and the classes start at 0.

    For classification, with as many images of each class::

        root/
          shapes.json
          {train,val}/circle/000000000001.jpg     ImageNet's layout
          meta/{train,val}.txt                    each image's label, an index into CLASSES

    Args:
        root (str | os.PathLike): the folder to write.
        num_train (int): images to train on. Default: 1000.
        num_val (int): images to validate on. Default: 200.
        size (int | tuple[int, int]): sides in pixels, or the least and greatest length that height
            and width are each drawn from. Default: (160, 192).
        seed (int): another seed, another set. Default: 0.
        classification (bool): one object an image, in a folder of its class. Default: False.
        progress (bool): whether to show a progress bar on stderr. Default: True.
        force (bool): whether to replace a shapes data set of other settings; a folder with anything
            else in it is never replaced. Default: False.

    Returns:
        Path: the folder, absolute.

    Raises:
        ConfigError: a setting is out of range.
        OutputError: ``root`` holds something else, or can't be written.
    """
    counts = dict(train=num_train, val=num_val)
    low, high = (size, size) if isinstance(size, int) else size
    _check(counts, low, high, seed, least=len(CLASSES) if classification else 1)
    settings = dict(version=VERSION, **counts, size=[low, high], seed=seed, classes=[*CLASSES])
    if classification:
        settings["classification"] = True
    root = Path(root).expanduser().resolve()
    drawn = itertools.count(1)
    total = sum(counts.values())
    shown = show_progress("drawing shapes", total) if progress else nullcontext(lambda _: None)
    try:
        if _is_written(root, settings, force):
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        # beside the root, and gone at the end, however that comes
        beside = TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent)
        with beside as temporary, shown as advance:
            folder = Path(temporary) / "new"
            for index, (split, count) in enumerate(counts.items()):
                scenes = (
                    draw_scene(
                        np.random.default_rng((seed, index, i)),
                        (low, high),
                        **(dict(alone=i % len(CLASSES)) if classification else {}),
                    )
                    for i in range(count)
                )
                write = _write_classes if classification else _write_split
                write(folder, split, scenes, lambda: advance(next(drawn)))
            (folder / _SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
            if not _is_written(root, settings, force):  # by another process, meanwhile
                if root.exists():
                    root.rename(folder.with_name("old"))
                folder.rename(root)
    except OSError as error:
        raise OutputError(
            f"the shapes data set could not be written to {root}: {error.strerror or error}",
            hint="choose a folder that you may write to, on a disk with room",
        ) from error
    return root


def _check(counts: dict[str, int], low: int, high: int, seed: int, least: int) -> None:
    for split, count in counts.items():
        if count < least:
            raise ConfigError(
                f"a shapes data set of {count} {split} images: choose {least} or more"
            )
    if not _SIDES[0] <= low <= high <= _SIDES[1]:
        raise ConfigError(
            f"images with sides from {low} to {high} pixels cannot be drawn: choose two lengths "
            f"between {_SIDES[0]} and {_SIDES[1]}, the smaller one first"
        )
    if seed < 0:
        raise ConfigError(f"the seed is {seed}: choose one that is not negative")


def _is_written(root: Path, settings: dict, force: bool) -> bool:
    """Whether a folder holds this very data set; OutputError if it holds what must stay."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise OutputError(f"{root} is a file: choose another folder for the shapes data set")
    entries = {path.name for path in root.iterdir()}
    if not entries:
        return False
    if _SETTINGS_FILE not in entries or entries - _ENTRIES:
        raise OutputError(
            f"{root} holds other files than a shapes data set, which are never replaced: choose "
            "another folder"
        )
    with suppress(ValueError):
        if json.loads((root / _SETTINGS_FILE).read_text()) == settings:
            return True
    if not force:
        raise OutputError(
            f"{root} holds a shapes data set of other settings (see {_SETTINGS_FILE} in it)",
            hint="choose another folder",
            instead=("force", True),
        )
    return False


def _write_split(
    folder: Path, split: str, scenes: Iterable[Scene], advance: Callable[[], None]
) -> None:
    pictures = folder / f"{split}2017"
    links = folder / "images" / _SPLITS[split]
    label_maps = folder / "annotations" / _SPLITS[split]
    for directory in (pictures, links, label_maps):
        directory.mkdir(parents=True)

    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes, start=1):
        picture = pictures / f"{image_id:012d}.jpg"
        picture.write_bytes(_jpeg(scene))
        _link(picture, links / picture.name)
        (label_maps / f"{picture.stem}.png").write_bytes(_encoded(scene.label_map, ".png"))

        height, width = scene.instances.shape
        images.append(dict(id=image_id, file_name=picture.name, width=width, height=height))
        for annotation in annotate(scene):
            annotations.append(dict(id=len(annotations) + 1, image_id=image_id, **annotation))
        advance()

    content = dict(
        info=dict(description="mmpvt's shapes data set", version=str(VERSION)),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=[
            dict(id=i, name=name, supercategory="shape") for i, name in enumerate(CLASSES, start=1)
        ],
    )
    path = folder / "annotations" / f"instances_{split}2017.json"
    path.write_text(json.dumps(content, separators=(",", ":")))


def _write_classes(
    folder: Path, split: str, scenes: Iterable[Scene], advance: Callable[[], None]
) -> None:
    lines = []
    for image_id, scene in enumerate(scenes, start=1):
        (label,) = scene.labels
        picture = folder / split / CLASSES[label] / f"{image_id:012d}.jpg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(_jpeg(scene))
        lines.append(f"{picture.parent.name}/{picture.name} {label}\n")
        advance()
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta" / f"{split}.txt").write_text("".join(lines))


def _jpeg(scene: Scene) -> bytes:
    return _encoded(scene.image[..., ::-1], ".jpg", cv2.IMWRITE_JPEG_QUALITY, 92)


def _encoded(image: np.ndarray, suffix: str, *params: int) -> bytes:
    # Not cv2.imwrite, which reports a full disk by no more than its return value.
    return cv2.imencode(suffix, image, params)[1].tobytes()


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy where the file system has no links."""
    with suppress(OSError, NotImplementedError):
        target.hardlink_to(source)
        return
    with suppress(OSError, NotImplementedError):
        target.symlink_to(os.path.relpath(source, target.parent))
        return
    shutil.copyfile(source, target)


def annotate(scene: Scene) -> list[dict]:
    """A scene's objects as COCO's annotations, by what is visible of each.

    Returns:
        list[dict]: for each object ``category_id`` (from 1), ``bbox`` ([x, y, width, height] in
        pixels, tight), ``area`` (visible pixels), ``segmentation`` (polygons) and ``iscrowd``.
    """
    annotations = []
    for i, label in enumerate(scene.labels, start=1):
        mask = (scene.instances == i).astype(np.uint8)
        annotations.append(
            dict(
                category_id=label + 1,
                bbox=list(cv2.boundingRect(mask)),
                area=cv2.countNonZero(mask),
                segmentation=mask_to_polygons(mask),
                iscrowd=0,
            )
        )
    return annotations


def mask_to_polygons(mask: np.ndarray) -> list[list[float]]:
    """The polygons that pycocotools decodes to a mask, also where the mask has holes.

    COCO's polygons have no holes: a mask with a hole is cut through it into pieces side by side.

    Args:
        mask (np.ndarray): (height, width), non-zero where the mask is.

    Returns:
        list[list[float]]: polygons [x1, y1, x2, y2, ...] in pixels; pixel (0, 0) reaches from 0 to
        1.
    """
    mask = (mask > 0).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    mask = mask[top : top + height, left : left + width]

    # The points in steps of half a pixel that lie in or on the border of the mask: contours
    # traced through them follow the pixels' edges, not their centres.
    points = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    points[:-1, :-1] = mask.repeat(2, axis=0).repeat(2, axis=1)
    points = cv2.dilate(points, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, tree = cv2.findContours(points, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)

    for contour, (*_, parent) in zip(contours, [] if tree is None else tree[0], strict=True):
        if parent >= 0:
            cut = int(contour[:, 0, 0].min() + contour[:, 0, 0].max() + 2) // 4
            sides = (0, mask[:, :cut]), (cut, mask[:, cut:])
            return [
                _shifted(polygon, left + x, top)
                for x, side in sides
                for polygon in mask_to_polygons(side)
            ]

    # The corners of pixels along a slanted edge may go, their centres stay on their side of it.
    outlines = (cv2.approxPolyDP(contour, 0.6, closed=True) for contour in contours)
    return [_shifted((outline / 2).ravel().tolist(), left, top) for outline in outlines]


def _shifted(polygon: list[float], x: int, y: int) -> list[float]:
    return [value + (y if i % 2 else x) for i, value in enumerate(polygon)]
