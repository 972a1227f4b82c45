"""Data that can't be used is skipped: named with its reason, counted, and told beside a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.structures import BaseDataElement

from mmpvt.datasets.coco import UNKNOWN_MASK, Finding, clean_annotations, read_annotations
from mmpvt.datasets.samplers import fault_tolerant, flatten
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.dataset_config import iter_dataset_configs
from mmpvt.errors import DatasetError
from mmpvt.registry import HOOKS
from mmpvt.utils.atomic import atomic_write
from mmpvt.utils.text import counted, few, printable

OWN_TRUTH = ("ann_file", "_coco_api", "_lvis_api")  # of metrics that read all images' objects
NAMED = 3  # of each file, in the log; the rest is in a file


def skip_unusable_annotations(
    config: Config,
    splits: Iterable[str],
    on_bad_data: str,
    contents: dict[Path, dict] | None = None,
) -> list[str]:
    """Replaces annotation files that hold unusable annotations by copies without those.

    Copies, and lists of what is not in them, are written to the work directory's folder
    ``annotations``. Evaluators read the same copies as data sets.

    Args:
        config (Config): changed.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.
        on_bad_data (str): ``'stop'`` and ``'auto'`` refuse masks of no known format, which speak of
            a file that was written wrongly throughout; ``'skip'`` skips them like all else.
        contents (dict[Path, dict] | None): what is known of files' contents already, from
            :func:`~mmpvt.engine.checks.data.check_data`; emptied. Default: None.

    Returns:
        list[str]: what is skipped, a sentence for each file.

    Raises:
        DatasetError: no annotation or no image of a file can be used; or masks, as said.
    """
    datasets = [
        dataset.fields
        for _, dataset in iter_dataset_configs(config, splits)
        if dataset.is_local and dataset.is_coco
    ]
    evaluators = [
        evaluator
        for split in splits
        for evaluator in iter_dicts(config.get(f"{split}_evaluator"))
        if isinstance(evaluator.get("ann_file"), str)
    ]
    with_masks = {_file(part).absolute() for part in (*datasets, *evaluators) if uses_masks(part)}
    copies, notes = {}, []
    for file in {_file(dataset).absolute(): None for dataset in datasets}:
        known = (contents or {}).pop(file, None)
        content, findings = clean_annotations(
            known or read_annotations(file), masks=file in with_masks
        )
        masks = [finding.id for finding in findings if finding.problem == UNKNOWN_MASK]
        if masks and on_bad_data != "skip":
            raise DatasetError(
                f"the segmentation of {counted(len(masks), 'annotation')} in {file} (id "
                f"{few(masks)}) is neither polygons nor run-length encoded",
                where=file,
                hint="fix or remove them",
                instead=("on_bad_data", "skip"),
            )
        if findings:
            # A test in the folder of a training that runs writes the same content to this name.
            key = hashlib.sha256(f"{file} {file in with_masks}".encode("utf8", "surrogateescape"))
            name = f"{key.hexdigest()[:8]}_{file.name}"
            copy = Path(config.work_dir).absolute() / "annotations" / name
            notes.append(_write(copy, file, content, findings))
            copies[file] = str(copy)
    for part in (*datasets, *evaluators):
        if written := copies.get(_file(part).absolute()):
            part["ann_file"] = written
    return notes


def _file(part: dict) -> Path:
    return Path(part.get("data_root") or "") / (part.get("ann_file") or "")


def uses_masks(part: dict) -> bool:
    """Whether a data set's pipeline loads masks, or an evaluator compares them."""
    transforms = iter_dicts(part.get("pipeline"))
    return "segm" in (part.get("metric") or ()) or any(t.get("with_mask") for t in transforms)


def _write(copy: Path, file: Path, content: dict, findings: list[Finding]) -> str:
    lost = [finding for finding in findings if not finding.fixed]
    first = "; ".join(map(str, (lost or findings)[:NAMED]))
    if not content["images"] or not content["annotations"]:
        raise DatasetError(f"nothing of {file} can be used: {first}", where=file)
    listing = copy.with_suffix(".skipped.json")
    atomic_write(copy, json.dumps(content).encode())
    atomic_write(listing, json.dumps([f._asdict() for f in findings], indent=1).encode())
    counts = " and ".join(
        counted(sum(f.kind == kind for f in lost), kind) for kind in ("image", "annotation")
    )
    return (
        f"{counts} of {file} are skipped, "
        f"{counted(len(findings) - len(lost), 'annotation')} fixed: {first}"
        f"{' …' if len(findings) > NAMED else ''} (all of them: {listing})"
    )


@HOOKS.register_module(name=["SkippedDataHook", "LeftOutHook"])  # the second: in older configs
class SkippedDataHook(Hook):
    """Logs which images and annotations are skipped, and why; beside a score, how many.

    Args:
        notes (list[str]): what is skipped of annotation files.
        on_bad_data (str): what an evaluation does on an image that can't be used: ``'stop'``,
            ``'skip'``, or ``'auto'``, which stops a test and skips in a validation, where training
            would be lost. Default: ``'skip'``.
    """

    def __init__(self, notes: list[str], on_bad_data: str = "skip") -> None:
        self.notes = notes
        self.on_bad_data = on_bad_data
        self.trained: dict[str, str] = {}
        self.evaluated: dict[str, tuple[str, object]] = {}

    def before_run(self, runner: Runner) -> None:
        """Logs what the annotation files lack."""
        for note in self.notes:
            runner.logger.warning(printable(note))

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        """Makes the data loader of an evaluation fault-tolerant; our training loops' are."""
        if mode != "train":
            self.evaluated = {}
            loop = getattr(runner, f"{mode}_loop")
            is_lenient = mode == "val" and self.on_bad_data == "auto"
            on_bad_data = "skip" if is_lenient else self.on_bad_data
            loop.dataloader = fault_tolerant(loop.dataloader, True, on_bad_data)

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs=None, mode: str = "train"
    ) -> None:
        """Logs images that training skips for the first time; takes others out of the score."""
        skipped = _skipped(data_batch)
        if mode == "train":
            for name, (reason, _) in skipped.items():
                if name not in self.trained:
                    self.trained[name] = reason
                    runner.logger.warning(
                        f"skipped in training, number {len(self.trained)}: {printable(name)}: "
                        f"{printable(reason)}"
                    )
            return
        self.evaluated.update(skipped)
        loop = getattr(runner, f"{mode}_loop")
        if skipped:
            _drop_labels(loop, list(flatten(data_batch["data_samples"])))
        if batch_idx + 1 == len(loop.dataloader):  # before the score is computed
            self._correct_score(runner, loop)
            if self.evaluated:
                _drop_padding(loop, data_batch)

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        """Logs how many images all processes skipped; in an evaluation, beside the score."""
        if mode == "train":
            everywhere = {name for part in all_gather_object(self.trained) for name in part}
            if everywhere:
                runner.logger.warning(
                    f"skipped in training so far: {counted(len(everywhere), 'image')}"
                )
            return
        for note in self.notes:
            runner.logger.warning(printable(note))
        name = f"{mode}/skipped_images"
        if self.evaluated or name in runner.message_hub.log_scalars:  # the last stays, otherwise
            runner.message_hub.update_scalar(name, len(self.evaluated))

    def _correct_score(self, runner: Runner, loop: BaseLoop) -> None:
        for part in all_gather_object(self.evaluated):
            self.evaluated.update(part)
        others = []
        for metric in loop.evaluator.metrics:
            if not isinstance(metric, CocoMetric) or metric._coco_api is None:
                others += [type(metric).__name__] * any(map(vars(metric).get, OWN_TRUTH))
            else:
                lost = {number for _, number in self.evaluated.values()}
                numbers = metric._coco_api.get_img_ids()
                metric.img_ids = [number for number in numbers if number not in lost]
        if self.evaluated and is_main_process():
            total = len(loop.dataloader.dataset)
            names = "; ".join(f"{name}: {reason}" for name, (reason, _) in self.evaluated.items())
            said = f"the score is over {total - len(self.evaluated)} of {total} images"
            if others:
                said += f", but {few(others)} takes the objects of the others for missed"
            runner.logger.warning(f"{said}, skipped are {printable(names)}")


def _drop_labels(loop: BaseLoop, samples: list[BaseDataElement]) -> None:
    """Takes placeholder images, which have labels as all others, out of a classifier's scores."""
    for metric in loop.evaluator.metrics:
        if type(metric).__module__.startswith("mmpretrain.") and len(metric.results) >= len(
            samples
        ):
            first = len(metric.results) - len(samples)
            kept = [r for r, s in zip(metric.results[first:], samples, strict=True)
                    if "skipped" not in s.metainfo]  # fmt: skip
            metric.results[first:] = kept


def _drop_padding(loop: BaseLoop, last_batch: dict) -> None:
    """Takes the image that fills up a process' share out of a classifier's scores: MMEngine drops
    as many of the last results as are too many, and none are where others were skipped."""
    padding = getattr(loop.dataloader.sampler, "total_size", 0) - len(loop.dataloader.dataset)
    *_, last = flatten(last_batch["data_samples"])
    if get_rank() < get_world_size() - padding or "skipped" in last.metainfo:
        return
    for metric in loop.evaluator.metrics:
        if type(metric).__module__.startswith("mmpretrain."):
            metric.results.pop()


def _skipped(data_batch: dict | None) -> dict[str, tuple[str, object]]:
    """A batch's images that couldn't be used: by name, the reason and the image's id."""
    return {
        name: (reason, sample.metainfo.get("img_id"))
        for sample in flatten((data_batch or {}).get("data_samples"))
        for name, reason in sample.metainfo.get("skipped", ())
    }
