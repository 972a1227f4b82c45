"""Looking at a data set of images and label maps."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from mmpvt.datasets.loading import IGNORED
from mmpvt.engine.classes import class_names
from mmpvt.engine.data_check import default_of, label_maps, list_stems
from mmpvt.engine.pixel_check import MAPS, describe_maps, map_fields, map_loader
from mmpvt.inspection.files import Job, Loader, image_reader, look, look_at_all
from mmpvt.inspection.surveys import Sample, Survey, palette_of


def survey_maps(
    dataset: dict,
    root: Path,
    kind: type,
    splits: list[str],
    workers: int,
    allow_outside: bool = False,
) -> Survey:
    """Looks at a data set of images and label maps.

    Args:
        dataset (dict): its config.
        root (Path): the folder that it lies in.
        kind (type): its class.
        splits (list[str]): that it is used for.
        workers (int): processes that decode files.
        allow_outside (bool): whether files may lie elsewhere. Default: False.

    Returns:
        Survey: what was found.

    Raises:
        UserError: there are no images.
    """
    images, stems = list_stems(dataset, root, kind, allow_outside)
    folder, suffix = label_maps(dataset, root, kind)
    ending = dataset.get("img_suffix") or default_of(kind, "img_suffix")
    classes = class_names(dataset, kind)
    found = Survey(
        splits, str(images), classes, palette_of(dataset, kind), segments=True, images=len(stems)
    )
    found.loader = Loader(
        image_reader(dataset),
        map_loader(dataset, num_classes=len(classes) or None),
        map_fields(dataset, kind),
    )
    stems = sorted(stems)
    maps = [str(folder / (stem + suffix)) if folder else None for stem in stems]
    jobs = [
        Job(str(images / (stem + ending)), label_map=path)
        for stem, path in zip(stems, maps, strict=True)
    ]
    seen = look_at_all(
        f"images and label maps for {found.name}",
        jobs,
        functools.partial(look, loader=found.loader),
        workers,
    )
    found.take(jobs, seen)
    if folder and folder.is_dir():
        named = set(maps)
        extra = sorted(str(p) for p in folder.rglob(f"*{suffix}") if str(p) not in named)
        if extra:
            found.notes["label maps without an image"] += extra

    total = np.zeros(256)
    sizes = []
    for job, one in zip(jobs, seen, strict=True):
        if one.pixels is None:
            continue
        pixels = one.pixels.copy()
        pixels[IGNORED] = 0
        total += pixels
        sizes.append(np.sqrt(pixels[pixels > 0]))
        found.empty += not pixels.any()
        if pixels.any():
            found.samples.append(Sample(job, np.zeros((0, 4)), np.zeros(0, int)))
    found.counts = 100 * total[: len(classes)] / max(1, total.sum())
    found.sizes = np.concatenate(sizes) if sizes else found.sizes
    if sizes and np.count_nonzero(total) < 2:
        readable = [job.label_map for job, one in zip(jobs, seen, strict=True) if not one.reason]
        if said := describe_maps(readable[:MAPS], dataset, kind):
            sentence, is_trap = said
            group = found.problems if is_trap or "train" in splits else found.notes
            group["data sets whose label maps hold no two classes"].append(sentence)
    return found
