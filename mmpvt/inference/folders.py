"""Prediction on many image files, into a folder of results."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from mmpvt.errors import UserError
from mmpvt.evaluation.coco_results import coco_categories, to_coco
from mmpvt.inference.predictor import Predictor
from mmpvt.inference.sources import Source
from mmpvt.utils.outputs import CannotWriteError, Outputs
from mmpvt.utils.progress import progress
from mmpvt.utils.text import printable, to_json
from mmpvt.visualization import saving
from mmpvt.visualization.sheets import grid

ON_SHEET = 24  # images on the contact sheet, evenly spaced
THUMBNAIL = 420  # pixels: the longer side of a picture kept for it
TOP = 5  # classes whose scores a classifier's predictions hold
MAX_PENDING = 4  # batches' worth of images that may wait for others of their size
CATEGORIES, PREDICTIONS, SHEET = "categories.json", "predictions.json", "contact_sheet.jpg"


def classification(sample: BaseDataElement, classes: Sequence[str]) -> dict:
    """A classifier's prediction: ``class``, its ``score``, and the five highest ``scores``."""
    scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
    names = [classes[i] if i < len(classes) else str(i) for i in labels.tolist()]
    ranked = dict(zip(names, scores.tolist(), strict=True))
    return {"class": names[0], "score": scores[0].item(), "scores": ranked}


@dataclass
class Item:
    """An image, decoded and prepared, or the reason why it is skipped."""

    source: Source
    image: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    data: dict = field(default_factory=dict)
    reason: str = ""


@dataclass
class Summary:
    """Counts of a run."""

    images: int = 0  # that were predicted on
    instances: int | None = None  # that are drawn in all of them; None for label maps
    skipped: dict[Path, str] = field(default_factory=dict)  # the reason, by file


def predict_folder(
    predictor: Predictor, sources: Sequence[Source], out: Path, score: float, batch_size: int
) -> Summary:
    """Predicts on images and writes pictures, predictions, label maps and a contact sheet.

    Files that can't be used, or whose results can't be written, are skipped and named on stderr.
    What is predicted by the time that something ends the run is written.

    Args:
        predictor (Predictor): the model.
        sources (Sequence[Source]): the images.
        out (Path): the folder of results: a new or empty one, or one of an earlier run, whose
            files of the same names are replaced, and no others.
        score (float): instances below are not drawn; ``predictions.json`` holds them all.
        batch_size (int): images at a time, at most: only images of one size share a batch, since
            padding would change their numbers.

    Returns:
        Summary: counts, and what was skipped.

    Raises:
        UserError: the folder can't be written to, or holds something else.
    """
    folder = check_out(out)
    categories = coco_categories(predictor.classes)
    folder.write(CATEGORIES, to_json(categories))
    writer = _ResultsWriter(predictor, folder, score, [entry["id"] for entry in categories])
    step = -(-len(sources) // ON_SHEET)
    writer.on_sheet = {source.path for source in sources[::step]}
    summary = Summary()
    try:
        with progress("predicting", len(sources)) as advance:
            done = 0
            for batch in _batches(predictor, sources, batch_size):
                for item, sample in _predict(predictor, batch):
                    reason = item.reason if sample is None else writer.write(item, sample)
                    if reason:
                        summary.skipped[item.source.path] = reason
                        print(f"skipped: {printable(reason)}", file=sys.stderr)
                    else:
                        summary.images += 1
                done += len(batch)
                advance(done)
    finally:
        writer.finish([source.path for source in sources])
    summary.instances = writer.instances
    return summary


def check_out(out: Path) -> Outputs:
    """Checks that results may go into a folder, without making it."""
    folder = Outputs(out)
    folder.check_folder()
    folder.check(CATEGORIES, PREDICTIONS, SHEET)
    return folder


def _batches(
    predictor: Predictor, sources: Sequence[Source], batch_size: int
) -> Iterator[list[Item]]:
    """Images of one prepared size, together; one that is skipped, by itself."""
    pending: dict[tuple[int, ...], list[Item]] = defaultdict(list)
    if predictor.tiling:
        yield from ([Item(source, reason=source.problem)] for source in sources)
        return
    for item in _prefetch(predictor, sources, ahead=batch_size + 1):
        if item.reason:
            yield [item]
            continue
        shape = tuple(item.data["inputs"].shape)
        pending[shape].append(item)
        if len(pending[shape]) == batch_size:
            yield pending.pop(shape)
        elif sum(map(len, pending.values())) >= MAX_PENDING * batch_size:
            yield pending.pop(max(pending, key=lambda shape: len(pending[shape])))
    yield from pending.values()


def _prefetch(predictor: Predictor, sources: Sequence[Source], ahead: int) -> Iterator[Item]:
    """Images in order, the next ones decoded while the model is at work."""
    with ThreadPoolExecutor(1) as pool:
        rest = iter(sources)
        futures = [pool.submit(_prepare, predictor, source) for source in islice(rest, ahead)]
        try:
            while futures:
                item = futures.pop(0).result()
                futures += [pool.submit(_prepare, predictor, source) for source in islice(rest, 1)]
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(predictor: Predictor, source: Source) -> Item:
    if source.problem:
        return Item(source, reason=source.problem)
    try:
        image = predictor.load(source.path)
        return Item(source, image, predictor.pipeline.prepare(image, str(source.path)))
    except UserError as error:
        return Item(source, reason=str(error))


def _predict(
    predictor: Predictor, batch: list[Item]
) -> Iterator[tuple[Item, BaseDataElement | None]]:
    """Each image of a batch with its prediction, or with None and a reason."""
    if not batch[0].reason:
        try:
            if predictor.tiling:
                (item,) = batch
                item.image, sample = predictor.predict_in_tiles(item.source.path)
                yield item, sample
                return
            yield from zip(batch, predictor.predict([item.data for item in batch]), strict=True)
            return
        except UserError as error:
            if len(batch) > 1:  # they may be too many for the memory
                for item in batch:
                    yield from _predict(predictor, [item])
                return
            batch[0].reason = f"{batch[0].source.path}: {error}"
    yield batch[0], None


class _ResultsWriter:
    """Writes each image's files as it comes, and those of all at the end."""

    def __init__(
        self, predictor: Predictor, out: Outputs, score: float, category_ids: list[int]
    ) -> None:
        self.predictor, self.out, self.score = predictor, out, score
        self.category_ids = category_ids
        self.instances: int | None = None
        self.on_sheet: set[Path] = set()
        self.predictions: dict[Path, list[dict]] = {}
        self.thumbnails: dict[Path, tuple[np.ndarray, str]] = {}

    def write(self, item: Item, sample: BaseDataElement) -> str:
        """Writes a prediction; the reason if that can't be done, and it is the image's fault."""
        try:
            self._write(item, sample)
        except CannotWriteError as error:
            return f"{item.source.path}: {error}"
        except (cv2.error, MemoryError):  # it can be predicted on, but not be drawn
            height, width = item.image.shape[:2]
            return f"{item.source.path}: a picture of {width}x{height} pixels can't be drawn"
        return ""

    def _write(self, item: Item, sample: BaseDataElement) -> None:
        source = item.source
        picture = self.predictor.draw(item.image, sample, self.score)
        saving.write_picture(self.out, f"pictures/{source.name}", picture)
        if "pred_sem_seg" in sample:
            labels = saving.label_map(sample)
            path = saving.write_picture(self.out, f"label_maps/{source.name}", labels, [".png"])
            if labels.shape != item.image.shape[:2]:  # of an image that is seen made smaller
                size = item.image.shape[1::-1]
                labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
            coloured = saving.colour_map(labels, self.predictor.meta)
            saving.write_picture(self.out, f"colour_maps/{source.name}", coloured, [".png"])
            entry = dict(image_id=source.image_id, file_name=source.file_name)
            entry["label_map"] = path.relative_to(self.out.folder).as_posix()
            self.predictions[source.path] = [entry]
        if source.path in self.on_sheet:
            scale = THUMBNAIL / max(picture.shape[:2])
            size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
            thumbnail = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            self.thumbnails[source.path] = (thumbnail, source.file_name)
        if "pred_label" in sample:
            entry = dict(image_id=source.image_id, file_name=source.file_name)
            entry.update(classification(sample, self.predictor.classes))
            self.predictions[source.path] = [entry]
        if "pred_instances" in sample:
            found = to_coco(sample, source.image_id, source.file_name, self.category_ids)
            self.predictions[source.path] = found
            drawn = sum(result["score"] > self.score for result in found)
            self.instances = (self.instances or 0) + drawn

    def finish(self, order: Sequence[Path]) -> None:
        """Writes the predictions and the contact sheet, in the order of the images.

        Where there are none, what an earlier run has written stays.
        """
        if not self.predictions:
            return
        done = [result for path in order for result in self.predictions.get(path, ())]
        self.out.write(PREDICTIONS, to_json(done))
        sheet = [self.thumbnails[path] for path in order if path in self.thumbnails]
        if sheet:
            picture = grid(*zip(*sheet, strict=True))
            saving.write_picture(self.out, Path(SHEET).stem, picture, [Path(SHEET).suffix])
