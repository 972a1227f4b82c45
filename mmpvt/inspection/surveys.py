"""What there is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmpvt.engine.classes import check_class_counts, check_same_classes
from mmpvt.engine.config_parts import dataset_kind, iter_datasets
from mmpvt.engine.data_check import ALLOW_OUTSIDE, check_arguments, data_root, is_coco, is_maps
from mmpvt.engine.pixel_check import Depth, check_head, keeps_channels, misfit
from mmpvt.errors import UserError
from mmpvt.inspection.files import Job, Loader, Seen

SPLITS = ("train", "val", "test")
LACKING = "classes of the config that the annotations lack"
UNANNOTATED = "no annotation of a class"
KINDS = {  # part of what is said of a file, and the kind of problem that it is
    "is missing": "images that are missing",
    "can't be read as an image": "images that can't be read",
    "of another size than its annotations say": "images of another size than annotated",
    "holds colours": "label maps of colours",
    "which is not among": "label maps with values that aren't listed",
    "can't be read as a label map": "label maps that are missing or can't be read",
    "is of another size than its image": "label maps of another size than their images",
    "values that are no labels": "label maps with values that are no labels",
    "and the model's": "label maps with labels beyond the classes",
}


def palette_of(dataset: dict, kind: type) -> object:
    """The colours that a data set's config or class gives its classes, or None.

    Args:
        dataset (dict): its config.
        kind (type): its class.
    """
    return (dataset.get("metainfo") or {}).get("palette") or kind.METAINFO.get("palette")


@dataclass(frozen=True)
class Sample:
    """An image to show.

    Attributes:
        job: its file, and its label map's.
        boxes: its objects, (n, 4), in pixels: left, top, right, bottom.
        labels: their classes, (n,).
    """

    job: Job
    boxes: np.ndarray
    labels: np.ndarray


@dataclass
class Survey:
    """A data set that was looked at.

    Attributes:
        splits: that it is used for.
        place: of its annotations.
        classes: the config's names.
        palette: their colours, or None.
        segments: whether it is of label maps.
        images: how many are listed.
        shapes: heights and widths of those that can be used, (n, 2).
        counts: a class's objects, or its share of the labelled pixels in percent, (classes,).
        sizes: square root of each object's area in pixels; of a segmenter's data, of each class's
            region in an image.
        empty: images without an object or label.
        samples: images that can be shown.
        loader: reads its files as training does.
        channels: that its images have as they are loaded, and one of each.
        digests: of each image's file, by its path.
        ids: images' ids.
        problems: what is to be mended, by kind.
        notes: what is unusual, by kind.
    """

    splits: list[str]
    place: str
    classes: list[str]
    palette: object = None
    segments: bool = False
    images: int = 0
    shapes: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), int))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0))
    empty: int = 0
    samples: list[Sample] = field(default_factory=list)
    loader: Loader | None = None
    channels: dict[int, str] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    ids: set = field(default_factory=set)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def name(self) -> str:
        """The splits that it is used for."""
        return ", ".join(self.splits)

    def take(self, jobs: Sequence[Job], seen: Sequence[Seen]) -> None:
        """Takes in what was seen of the files: digests, shapes, problems, duplicates."""
        first: dict[bytes, str] = {}
        for job, one in zip(jobs, seen, strict=True):
            if one.reason:
                self.problems[_kind(one.reason)].append(one.reason)
            if one.digest is None or job.image in self.digests:
                continue
            self.digests[job.image] = one.digest
            if one.digest in first:
                same = f"{job.image} is the same as {first[one.digest]}"
                self.problems["images that are there twice"].append(same)
            first.setdefault(one.digest, job.image)
        depth = None
        for job, one in zip(jobs, seen, strict=True):
            depth = Depth.join(depth, one.depth)
            if one.channels is not None:
                self.channels.setdefault(one.channels, job.image)
        if depth is not None:
            group = self.problems if depth.is_dark else self.notes
            group["data sets of images that are cut to 8 bits"].append(str(depth))
        shapes = [one.shape for one in seen if one.shape]
        self.shapes = np.array(shapes, int).reshape(-1, 2)


def _kind(reason: str) -> str:
    return next((kind for part, kind in KINDS.items() if part in reason), "files")


def survey(config: Config, splits: Sequence[str], workers: int) -> list[Survey]:
    """Looks at a config's data sets, each once.

    Args:
        config (Config): of an experiment.
        splits (Sequence[str]): of ``'train'``, ``'val'`` and ``'test'``.
        workers (int): processes that decode files.

    Returns:
        list[Survey]: one a data set.

    Raises:
        UserError: there is no data, or an annotation file can't be read as a whole.
    """
    from mmpvt.inspection.detection import survey_coco
    from mmpvt.inspection.segmentation import survey_maps

    scope = config.get("default_scope", "mmengine")
    init_default_scope(scope)
    users: dict[str, list[str]] = defaultdict(list)
    datasets: dict[str, dict] = {}
    for split in splits:
        loaded = (config.get(f"{split}_dataloader") or {}).get("dataset")
        check_arguments(loaded, scope)
        for dataset in iter_datasets(loaded):
            keys = ("data_root", "ann_file", "data_prefix")
            place = str([dataset.get(key) for key in keys])
            users[place].append(split)
            datasets.setdefault(place, dataset)
    if not datasets:
        raise UserError(f"the config has no data set for {', '.join(splits)}")
    surveys = []
    for place, dataset in datasets.items():
        kind, used_for = dataset_kind(dataset, scope), list(dict.fromkeys(users[place]))
        if dataset.get("backend_args") is not None:
            raise UserError(f"the data set for {', '.join(used_for)} doesn't lie on this machine")
        if is_coco(kind):
            look = survey_coco
        elif is_maps(kind):
            look = survey_maps
        else:
            raise UserError(
                f"the data set for {', '.join(used_for)} is a {dataset['type']}: only COCO's and "
                "MMSegmentation's kinds can be looked at"
            )
        allow_outside = config.get(ALLOW_OUTSIDE, False)
        found = look(dataset, data_root(dataset), kind, used_for, workers, allow_outside)
        try:
            check_class_counts(found.classes, config.model)
            check_head(config)
        except UserError as error:
            found.problems["classes"].append(str(error))
        if all(map(keeps_channels, (dataset.get("pipeline") or ())[1:])):
            for channels, file in found.channels.items():
                if reason := misfit(channels, config):
                    said = f"{file} is loaded as an image of {reason}"
                    found.problems["channels that the model doesn't take"].append(said)
        surveys.append(found)
    _join_training([one for one in surveys if "train" in one.splits])
    try:
        check_same_classes(config, splits)
    except UserError as error:
        surveys[-1].problems["classes"].append(str(error))
    return surveys


def _join_training(surveys: Sequence[Survey]) -> None:
    """Makes a note of what one of several training data sets lacks and another has."""
    for kind in (LACKING, UNANNOTATED):
        found = [one.problems.pop(kind, []) for one in surveys]
        for one, said in zip(surveys, found, strict=True):
            for item in said:
                is_everywhere = all(found) if kind == UNANNOTATED else all(item in f for f in found)
                (one.problems if is_everywhere else one.notes)[kind].append(item)
