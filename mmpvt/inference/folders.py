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

from mmpvt.checkpoint.keeping import write_whole
from mmpvt.engine.pictures import grid
from mmpvt.errors import UserError
from mmpvt.inference import results
from mmpvt.inference.predictor import Predictor
from mmpvt.inference.sources import Source
from mmpvt.progress import progress
from mmpvt.text import printable, to_json

ON_SHEET = 24  # images on the contact sheet, evenly spaced
THUMBNAIL = 420  # pixels: the longer side of a picture kept for it
WAITING = 4  # batches' worth of images that may wait for others of their size
CATEGORIES, PREDICTIONS, SHEET = "categories.json", "predictions.json", "contact_sheet.jpg"


@dataclass
class Item:
    """An image on its way: decoded and prepared, or why it can't be used."""

    source: Source
    image: np.ndarray | None = None
    data: dict = field(default_factory=dict)
    reason: str = ""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        images: how many were predicted on.
        instances: how many are drawn in all of them; None for label maps.
        passed_over: why, by file.
    """

    images: int = 0
    instances: int | None = None
    passed_over: dict[Path, str] = field(default_factory=dict)


def predict_folder(
    predictor: Predictor, sources: Sequence[Source], out: Path, score: float, batch_size: int
) -> Outcome:
    """Predicts on images and writes pictures, predictions, label maps and a contact sheet.

    Files that can't be used are named on stderr and passed over. What is predicted by the time
    that something ends the run is written.

    Args:
        predictor (Predictor): the model.
        sources (Sequence[Source]): the images.
        out (Path): the folder of results: a new or empty one, or one of an earlier run, whose
            files of the same names are replaced.
        score (float): instances below are not drawn; ``predictions.json`` holds them all.
        batch_size (int): images at a time, at most: only images of one size share a batch, since
            padding would change their numbers.

    Returns:
        Outcome: counts, and what was passed over.

    Raises:
        UserError: the folder can't be written to, or holds something else.
    """
    check_out(out)
    listed = results.categories(predictor.classes)
    write_json(out / CATEGORIES, listed)
    writer = _Writer(predictor, out, score, [entry["id"] for entry in listed])
    step = -(-len(sources) // ON_SHEET)
    writer.on_sheet = {source.path for source in sources[::step]}
    outcome = Outcome()
    try:
        with progress("predicting", len(sources)) as advance:
            done = 0
            for batch in _batches(predictor, sources, batch_size):
                for item, sample in _predicted(predictor, batch):
                    if sample is None:
                        outcome.passed_over[item.source.path] = item.reason
                        print(
                            f"passed over: {printable(item.reason)}", file=sys.stderr
                        )  # above the bar
                    else:
                        writer.write(item, sample)
                        outcome.images += 1
                done += len(batch)
                advance(done)
    finally:
        writer.finish([source.path for source in sources])
    outcome.instances = writer.instances
    return outcome


def _predicted(
    predictor: Predictor, batch: list[Item]
) -> Iterator[tuple[Item, BaseDataElement | None]]:
    """Each image of a batch with its prediction, or with None and a reason."""
    if not batch[0].reason:
        try:
            yield from zip(batch, predictor.predict([item.data for item in batch]), strict=True)
            return
        except UserError as error:
            if len(batch) > 1:  # they may be too many for the memory
                for item in batch:
                    yield from _predicted(predictor, [item])
                return
            batch[0].reason = f"{batch[0].source.path}: {error.sentence}"
    yield batch[0], None


def check_out(out: Path) -> None:
    """Looks whether results may go into a folder, without making it.

    Raises:
        UserError: it is a file, or holds what no earlier run has written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder for the results")
    if out.is_dir() and not (out / CATEGORIES).exists() and any(out.iterdir()):
        raise UserError(f"--out {out} holds other files: name a new folder for the results")


def write_json(path: Path, content: list) -> None:
    """Writes a list as JSON, whole or not at all.

    Raises:
        UserError: it can't be written.
    """
    try:
        write_whole(path, to_json(content))
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror})") from error


def _batches(
    predictor: Predictor, sources: Sequence[Source], batch_size: int
) -> Iterator[list[Item]]:
    """Images that are prepared alike, together; one that can't be used, by itself."""
    waiting: dict[tuple[int, ...], list[Item]] = defaultdict(list)
    for item in _prepared(predictor, sources, ahead=batch_size + 1):
        if item.reason:
            yield [item]
            continue
        alike = tuple(item.data["inputs"].shape)
        waiting[alike].append(item)
        if len(waiting[alike]) == batch_size:
            yield waiting.pop(alike)
        elif sum(map(len, waiting.values())) >= WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def _prepared(predictor: Predictor, sources: Sequence[Source], ahead: int) -> Iterator[Item]:
    """Images in order, the next ones decoded while the model is at work."""
    with ThreadPoolExecutor(1) as pool:
        rest = iter(sources)
        pending = [pool.submit(_prepare, predictor, source) for source in islice(rest, ahead)]
        try:
            while pending:
                item = pending.pop(0).result()
                pending += [pool.submit(_prepare, predictor, source) for source in islice(rest, 1)]
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare(predictor: Predictor, source: Source) -> Item:
    try:
        image = predictor.load(source.path)
        return Item(source, image, predictor.pipeline.prepare(image, str(source.path)))
    except UserError as error:
        return Item(source, reason=error.sentence)


class _Writer:
    """Writes each image's files as it comes, and those of all at the end."""

    def __init__(
        self, predictor: Predictor, out: Path, score: float, category_ids: list[int]
    ) -> None:
        self.predictor, self.out, self.score = predictor, out, score
        self.category_ids = category_ids
        self.instances: int | None = None
        self.on_sheet: set[Path] = set()
        self.predictions: dict[Path, list[dict]] = {}
        self.thumbnails: dict[Path, tuple[np.ndarray, str]] = {}

    def write(self, item: Item, sample: BaseDataElement) -> None:
        """Writes a prediction."""
        source = item.source
        picture = self.predictor.draw(item.image, sample, self.score)
        results.write_picture(self._place("pictures", source, ".jpg"), picture)
        if source.path in self.on_sheet:
            self.thumbnails[source.path] = (_thumbnail(picture), source.file_name)
        if "pred_sem_seg" in sample:
            labels = results.label_map(sample)
            place = self._place("label_maps", source, ".png")
            results.write_picture(place, labels)
            coloured = results.colour_map(labels, self.predictor.meta)
            results.write_picture(self._place("colour_maps", source, ".png"), coloured)
            entry = dict(image_id=source.image_id, file_name=source.file_name)
            entry["label_map"] = place.relative_to(self.out).as_posix()
            self.predictions[source.path] = [entry]
        if "pred_instances" in sample:
            found = results.to_coco(sample, source.image_id, source.file_name, self.category_ids)
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
        write_json(self.out / PREDICTIONS, done)
        sheet = [self.thumbnails[path] for path in order if path in self.thumbnails]
        if sheet:
            results.write_picture(self.out / SHEET, grid(*zip(*sheet, strict=True)))

    def _place(self, kind: str, source: Source, suffix: str) -> Path:
        return self.out / kind / f"{source.name}{suffix}"


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
