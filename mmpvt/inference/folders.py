"""Prediction on many image files, into a folder of results.

Worker processes or a thread decode and prepare the images, the model runs here, and a thread draws
and writes.
Each image's result is a line of JSON that is written as soon as those before it are, so that a run
that was killed can be resumed, and none of the results is kept in memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmpvt.datasets.samplers import end_on_lost_batch
from mmpvt.engine.launch import Share
from mmpvt.engine.pipeline import TestPipeline, read_test_pipeline
from mmpvt.errors import UserError
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.inference.batches import (
    Item,
    batches,
    classification,
    in_threads,
    instance_lines,
    predict_batch,
)
from mmpvt.inference.journal import LINES, Journal
from mmpvt.inference.predictor import Predictor
from mmpvt.inference.sources import Source
from mmpvt.utils.constants import SCORE
from mmpvt.utils.outputs import CannotWriteError, Outputs
from mmpvt.utils.progress import progress
from mmpvt.utils.text import printable, to_json
from mmpvt.visualization import saving
from mmpvt.visualization.sheets import grid

ON_SHEET = 24  # images on the contact sheet, evenly spaced
THUMBNAIL = 420  # pixels: the longer side of a picture kept for it
MOST_WORKERS = 8
PR_SET_PDEATHSIG = 1  # of Linux's prctl
FEW = 32  # images from which on starting worker processes pays
OF_PREDICTIONS = ("model", "data_preprocessor", "test_cfg", "default_scope")  # a config's keys
CATEGORIES, PREDICTIONS, SHEET = "categories.json", "predictions.json", "contact_sheet.jpg"


@dataclass
class Summary:
    """Counts of a run."""

    images: int = 0  # that were predicted on
    instances: int | None = None  # over the score, in all of them; None for label maps
    skipped: dict[Path, str] = field(default_factory=dict)  # the reason, by file
    resumed: int = 0  # that an earlier run has done
    predicted: int | None = None  # on, by all processes, where this is the last of several to end
    missing: int = 0  # of this last one: those that a process which was killed hasn't done
    awaited: int = 0  # of this last one: those of processes that have yet to begin


@dataclass(frozen=True)
class FolderOptions:
    """How images are predicted on.

    Attributes:
        score: instances below are not drawn; the predictions hold them all. Default: 0.3.
        batch_size: images at a time, at most: only images of one size share a batch, since padding
            would change their numbers. Default: 1.
        workers: processes that decode images. Default: None, one a processor and at most 8 where
            the model is on a GPU and there are 32 images or more, else none, as they would take
            the processors from the model: a thread decodes.
        pictures: whether to draw. Default: True.
        resume: whether what an earlier run, of the same settings, has done is left out.
        share: this process' part, where several share the images. Default: all of them.
    """

    score: float = SCORE
    batch_size: int = 1
    workers: int | None = None
    pictures: bool = True
    resume: bool = False
    share: Share = field(default_factory=Share)


def predict_folder(
    predictor: Predictor, sources: Sequence[Source], out: Path, options: FolderOptions
) -> Summary:
    """Predicts on images and writes pictures, predictions, label maps and a contact sheet.

    Files that can't be used, or whose results can't be written, are skipped and named on stderr.
    What is predicted by the time that something ends the run is written. Of several processes
    each takes every n-th image, and the one that ends last writes what is of all.

    Args:
        predictor (Predictor): the model.
        sources (Sequence[Source]): the images; of several processes, the same ones.
        out (Path): the folder of results: a new or empty one, or one of an earlier run, whose
            files of the same names are replaced, and no others.
        options (FolderOptions): how.

    Returns:
        Summary: counts, and what was skipped.

    Raises:
        UserError: the folder can't be written to, holds something else or is in use by another run,
            or the run to resume was one of other settings.
    """
    folder = check_out(out)
    categories = coco_categories(predictor.classes)
    share = options.share
    journal = Journal(folder, _settings(predictor), sources, share, options.resume)
    summary = Summary(resumed=len(journal.done))
    work = "predicting" if share.count == 1 else f"predicting, part 1 of {share.count}"
    total = len(sources) if share.count == 1 else len(journal.todo)
    done = summary.resumed if share.count == 1 else 0
    writer = _ResultsWriter(predictor, folder, options, [entry["id"] for entry in categories])
    try:
        folder.write(CATEGORIES, to_json(categories))
        with (
            progress(work, total, done=done) if share.index == 0 else nullcontext() as advance,
            ThreadPoolExecutor(1) as thread,
        ):
            for item, future in _written(predictor, sources, journal.todo, options, writer, thread):
                line, reason = future.result()
                if reason:
                    summary.skipped[sources[item.index].path] = reason
                    print(f"skipped: {printable(reason)}", file=sys.stderr)
                else:
                    summary.images += 1
                journal.add(line)
                done += 1
                if advance:
                    advance(done)
        journal.complete = True
    finally:
        with journal.closed() as is_last:
            if is_last and share.count > 1:
                summary.predicted = writer.finish(sources, journal)
            elif is_last and journal.predicted():  # by an earlier run, perhaps
                writer.finish(sources, journal)
    summary.missing, summary.awaited = journal.missing, journal.awaited
    summary.instances = writer.instances
    return summary


def check_out(out: Path) -> Outputs:
    """Checks that results may go into a folder, without making it."""
    folder = Outputs(out)
    folder.check_folder()
    folder.check(CATEGORIES, PREDICTIONS, LINES, SHEET)
    return folder


def _settings(predictor: Predictor) -> dict:
    """What has to be the same for a run to be resumed; digests of the weights and the config, as
    files of the same names may have other content."""
    tiling, config = predictor.tiling, predictor.config
    kept: dict[str, object] = {key: config.get(key) for key in OF_PREDICTIONS}
    kept.update(pipeline=read_test_pipeline(config), classes=predictor.classes)
    text = to_json(kept, default=_plain, skipkeys=True)
    return dict(
        config=str(config.filename),
        checkpoint=predictor.checkpoint,
        tiles=None if tiling is None else [tiling.size, tiling.overlap, tiling.also_whole],
        amp=predictor.amp,
        checkpoint_sha256=_digest(predictor.model),
        config_sha256=hashlib.sha256(text).hexdigest(),
    )


def _plain(value: object) -> object:
    """What stands in a config and is no data, as text that is the same in every process."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
    return digest.hexdigest()


def _written(
    predictor: Predictor,
    sources: Sequence[Source],
    todo: Sequence[int],
    options: FolderOptions,
    writer: _ResultsWriter,
    thread: ThreadPoolExecutor,
) -> Iterator[tuple[Item, Future]]:
    """Images in order, each with the line and the reason that the thread is at work on."""
    waiting: dict[int, tuple[Item, Future]] = {}
    order = deque(todo)
    ahead = 2 * options.batch_size + 2
    items = _load(predictor, sources, todo, options)
    for batch in batches(predictor, items, options.batch_size):
        for item, sample in predict_batch(predictor, batch):
            future = thread.submit(writer.write, item, sources[item.index], sample)
            waiting[item.index] = (item, future)
        while (
            order and order[0] in waiting and (len(waiting) > ahead or waiting[order[0]][1].done())
        ):
            yield waiting.pop(order.popleft())
    yield from (waiting.pop(index) for index in order)


def _load(
    predictor: Predictor, sources: Sequence[Source], todo: Sequence[int], options: FolderOptions
) -> Iterator[Item]:
    """Images in order, decoded by worker processes or, of few, by a thread."""
    prepared = _Prepared(predictor.pipeline, sources, todo, bool(predictor.tiling))
    workers = options.workers
    if workers is None:
        workers = 0
        if predictor.device.type != "cpu" and len(todo) >= FEW:
            workers = min(MOST_WORKERS, options.share.threads)
    if predictor.tiling or not workers:
        yield from in_threads(prepared.__getitem__, len(todo), options.batch_size)
        return
    loader: DataLoader = DataLoader(
        prepared,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=max(2, -(-2 * options.batch_size // workers)),
        worker_init_fn=_init_worker,
        collate_fn=_as_it_is,
    )
    yield from loader


class _Prepared(Dataset):
    """Images as :class:`Item`, prepared for the model; those of tiles are read later."""

    def __init__(
        self, pipeline: TestPipeline, sources: Sequence[Source], todo: Sequence[int], tiled: bool
    ) -> None:
        self.pipeline, self.sources, self.todo, self.tiled = pipeline, sources, todo, tiled

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, i: int) -> Item:
        source = self.sources[self.todo[i]]
        item = Item(self.todo[i], str(source.path), source.path, reason=source.problem)
        if item.reason or self.tiled:
            return item
        try:
            item.image = self.pipeline.load(source.path)
            item.data = self.pipeline.prepare(item.image, str(source.path))
        except UserError as error:
            item.reason = str(error)
        return item


def _init_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the main process
    end_on_lost_batch()
    if sys.platform == "linux":  # PyTorch's workers wait for ever where the main one was killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    cv2.setNumThreads(0)


def _as_it_is(item: Any) -> Any:
    return item


class _ResultsWriter:
    """Writes each image's files as it comes, and those of all at the end."""

    def __init__(
        self, predictor: Predictor, out: Outputs, options: FolderOptions, category_ids: list[int]
    ) -> None:
        self.predictor, self.out, self.options = predictor, out, options
        self.category_ids = category_ids
        self.instances: int | None = None

    def write(self, item: Item, source: Source, sample: BaseDataElement | None) -> tuple[dict, str]:
        """Writes a prediction's files; its line, and the reason if that can't be done and it is
        the image's fault."""
        line = dict(image_id=source.image_id, file_name=source.file_name)
        reason = item.reason
        if sample is not None:
            try:
                self._write(item, source, sample, line)
            except CannotWriteError as error:
                reason = f"{item.name}: {error}"
            except (cv2.error, MemoryError):  # it can be predicted on, but not be drawn
                height, width = item.image.shape[:2]
                reason = f"{item.name}: a picture of {width}x{height} pixels can't be drawn"
        item.image, item.data = np.empty((0, 0, 3), np.uint8), {}  # it may wait for others
        if reason:
            line = dict(image_id=line["image_id"], file_name=line["file_name"])
            line["error"] = printable(reason)
        return line, reason

    def _write(self, item: Item, source: Source, sample: BaseDataElement, line: dict) -> None:
        if self.options.pictures:
            picture = self.predictor.draw(item.image, sample, self.options.score)
            saving.write_picture(self.out, f"pictures/{source.name}", picture)
        if "pred_sem_seg" in sample:
            labels = saving.label_map(sample)
            path = saving.write_picture(self.out, f"label_maps/{source.name}", labels, [".png"])
            line["label_map"] = path.relative_to(self.out.folder).as_posix()
            if self.options.pictures:
                if labels.shape != item.image.shape[:2]:  # of an image that was made smaller
                    size = item.image.shape[1::-1]
                    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
                coloured = saving.colour_map(labels, self.predictor.meta)
                saving.write_picture(self.out, f"colour_maps/{source.name}", coloured, [".png"])
        if "pred_label" in sample:
            line.update(classification(sample, self.predictor.classes))
        if "pred_instances" in sample:
            line["instances"] = found = instance_lines(sample, self.category_ids)
            drawn = sum(one["score"] > self.options.score for one in found)
            self.instances = (self.instances or 0) + drawn

    def finish(self, sources: Sequence[Source], journal: Journal) -> int:
        """Writes ``predictions.json`` from the lines, and the contact sheet; the number of images
        that were predicted on."""
        self.out.write_parts(PREDICTIONS, _as_array(journal.lines()))
        predicted = journal.predicted()
        if self.options.pictures:
            step = -(-len(sources) // ON_SHEET)
            shown = (i for i in range(0, len(sources), step) if i in predicted)
            found = (self._thumbnail(sources[i]) for i in shown)
            sheet = [one for one in found if one is not None]
            if sheet:
                picture = grid(*zip(*sheet, strict=True))
                saving.write_picture(self.out, Path(SHEET).stem, picture, [Path(SHEET).suffix])
        return len(predicted)

    def _thumbnail(self, source: Source) -> tuple[np.ndarray, str] | None:
        """An image's picture, which another process may have written, made smaller."""
        for name in (f"pictures/{source.name}.jpg", f"pictures/{source.name}.png"):
            if self.out.owns(name):
                stored = np.fromfile(self.out.folder / name, np.uint8)
                picture = cv2.imdecode(stored, cv2.IMREAD_COLOR)
                if picture is None:
                    continue
                scale = THUMBNAIL / max(picture.shape[:2])
                size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
                small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
                return np.ascontiguousarray(small[..., ::-1]), source.file_name
        return None


def _as_array(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Of lines, one JSON array of COCO's results, or of what else images have one of."""
    start = b"["
    for text in lines:
        line = msgspec.json.decode(text)
        if "error" in line:
            continue
        common = {key: line[key] for key in ("image_id", "file_name")}
        for one in line.get("instances", [line]):
            yield start + msgspec.json.encode({**common, **one})
            start = b","
    yield b"[]" if start == b"[" else b"]"
