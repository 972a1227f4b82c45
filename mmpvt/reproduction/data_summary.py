"""What a config's data sets hold: images, objects by class, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmpvt.datasets.coco import clean_annotations, read_annotations
from mmpvt.datasets.formats.reading import image_size
from mmpvt.engine.checks.channels import evenly_spaced
from mmpvt.engine.checks.label_maps import label_map_fields, label_map_loader
from mmpvt.engine.config_parts import SPLITS
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.errors import UserError
from mmpvt.utils.constants import IGNORE_LABEL

MAX_MAPS = 300  # label maps that are read of a data set
UNREADABLE = (OSError, ValueError, Image.DecompressionBombError)


def summarize_data(config: Config) -> list[dict]:
    """Summarizes a config's data sets, each once, from their annotations and label maps.

    No image is decoded. Of more than 300 label maps, as many are read.

    Args:
        config (Config): of an experiment.

    Returns:
        list[dict]: for each, ``splits`` that it is used for, ``place``, and either ``error``, why
        there is no more, or ``images``, ``read`` (of which it was found out), ``empty`` (without an
        object or label), ``width`` and ``height`` (smallest, median, largest), ``classes``, of each
        ``name`` and ``count`` (objects, or pixels), and for objects ``sizes``, the shares that are
        small, medium and large, as COCO counts.
    """
    found: dict[str, dict] = {}
    for split, dataset in iter_dataset_configs(config, SPLITS):
        if (key := dataset.key()) in found:
            found[key]["splits"] += [split] if split not in found[key]["splits"] else []
            continue
        found[key] = dict(splits=[split], place=str(dataset.root))
        try:
            if dataset.fields.get("ann_file"):
                place = dataset.ann_file
            elif dataset.is_local and dataset.is_classification:
                place = dataset.classified_images.place
            else:
                place = dataset.folder("img_path")
            found[key]["place"] = str(place)
            found[key].update(_summarize(dataset))
        except (UserError, OSError) as error:
            found[key]["error"] = str(error)
    return list(found.values())


def _summarize(dataset: DatasetConfig) -> dict:
    if dataset.is_local and dataset.is_classification:
        return _labels(dataset)
    if not dataset.is_local or not (dataset.is_coco or dataset.is_segmentation):
        raise UserError(
            "only local data of COCO's and MMSegmentation's kinds, and classified images, are "
            "summarized"
        )
    return _objects(dataset) if dataset.is_coco else _pixels(dataset)


def _objects(dataset: DatasetConfig) -> dict:
    content, _ = clean_annotations(read_annotations(dataset.ann_file), masks=False)
    names = dataset.classes or [category["name"] for category in content["categories"]]
    labels = {c["id"]: names.index(c["name"]) for c in content["categories"] if c["name"] in names}
    known = [a for a in content["annotations"] if a["category_id"] in labels]
    sides = np.sqrt([a["area"] for a in known])
    counts = np.bincount([labels[a["category_id"]] for a in known], minlength=len(names))
    small, large = ((sides < limit).mean() if known else 0.0 for limit in (32, 96))
    return dict(
        unit="objects",
        images=len(content["images"]),
        read=len(content["images"]),
        empty=len({image["id"] for image in content["images"]} - {a["image_id"] for a in known}),
        sizes=[small, large - small, 1 - large] if known else None,
        **_shapes([(image["width"], image["height"]) for image in content["images"]]),
        **_by_class(names, counts),
    )


def _pixels(dataset: DatasetConfig) -> dict:
    files = dataset.segmentation_files()
    stems = [files.stems[i] for i in evenly_spaced(len(files.stems), MAX_MAPS)]
    counts = list(_count(dataset, map(files.label_map, stems)))
    total = np.array([np.zeros(256), *counts]).sum(axis=0).astype(np.int64)
    return dict(
        unit="pixels",
        images=len(files.stems),
        read=len(stems),
        empty=sum(not pixels.any() for pixels in counts),
        **_shapes(_image_sizes(map(files.image, stems))),
        **_by_class(dataset.classes, total[: len(dataset.classes)]),
    )


def _labels(dataset: DatasetConfig) -> dict:
    images = dataset.classified_images
    names = [images.names[i] for i in evenly_spaced(len(images.names), MAX_MAPS)]
    counts = np.bincount(images.labels, minlength=len(dataset.classes))
    return dict(
        unit="images",
        images=len(images.names),
        read=len(images.names),
        empty=0,
        **_shapes(_image_sizes(images.folder / name for name in names)),
        **_by_class(dataset.classes, counts),
    )


def _count(dataset: DatasetConfig, paths: Iterable[str | None]) -> Iterator[np.ndarray]:
    """Pixels of each label in each label map, (256,); nothing of one that can't be used."""
    loader = label_map_loader(dataset, num_classes=len(dataset.classes) or None)
    common = dict(label_map_fields(dataset), seg_fields=[])
    for path in paths:
        for size in _image_sizes([path or ""]):
            fields = dict(common, img_path=path, seg_map_path=path, ori_shape=size[::-1])
            with suppress(UserError, OSError, ValueError):
                pixels = np.bincount(loader(fields)["gt_seg_map"].ravel(), minlength=256)
                pixels[IGNORE_LABEL] = 0
                yield pixels


def _image_sizes(paths: Iterable[str | Path]) -> list[tuple[int, int]]:
    """Width and height of each image as it is loaded, but of those that can't be read."""
    sizes = []
    for path in paths:
        with suppress(*UNREADABLE):
            sizes.append(image_size(Path(path))[0])
    return sizes


def _shapes(sizes: list[tuple[int, int]]) -> dict:
    if not sizes:
        return {}
    columns = zip(("width", "height"), np.array(sizes).T, strict=True)
    return {name: [side.min(), np.median(side), side.max()] for name, side in columns}


def _by_class(names: list[str], counts: np.ndarray) -> dict:
    rows = zip(names, counts.tolist(), strict=True)
    return dict(classes=[dict(name=str(name), count=count) for name, count in rows])
