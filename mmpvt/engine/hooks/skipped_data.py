"""What of the data can't be used: said with its reason, counted, and said beside a score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from mmpvt.datasets.coco import UNKNOWN_MASK, Finding, clean_annotations, read_annotations
from mmpvt.datasets.samplers import Fetch, flatten
from mmpvt.engine import settings
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.dataset_config import iter_dataset_configs
from mmpvt.errors import UserError
from mmpvt.registry import HOOKS
from mmpvt.utils.atomic import atomic_write
from mmpvt.utils.text import printable

NAMED = 3  # of each file, in the log; the rest is in a file


def leave_out_unusable_annotations(
    config: Config,
    splits: Iterable[str],
    on_bad_data: str,
    contents: dict[Path, dict] | None = None,
) -> None:
    """Puts copies without them in place of annotation files that hold some that can't be used.

    Copies, and lists of what is not in them, are written to the work directory's folder
    ``annotations``. Evaluators read the same copies as data sets.

    Args:
        config (Config): changed; it is given a hook that says what was left out.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.
        on_bad_data (str): ``'stop'`` and ``'auto'`` refuse masks of no known format, which speak of
            a file that was written wrongly as a whole; ``'skip'`` skips them like all else.
        contents (dict[Path, dict] | None): what is known of files' contents already, from
            :func:`~mmpvt.engine.checks.check_data`; emptied. Default: None.

    Raises:
        UserError: no annotation or no image of a file can be used; or masks, as said.
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
        if on_bad_data != "skip":
            _refuse_unknown_masks(file, findings)
        if findings:
            # A test in the folder of a training that runs writes the same content to this name.
            key = hashlib.sha256(f"{file} {file in with_masks}".encode("utf8", "surrogateescape"))
            name = f"{key.hexdigest()[:8]}_{file.name}"
            copy = Path(config.work_dir).absolute() / "annotations" / name
            notes.append(_write(copy, file, content, findings))
            copies[file] = str(copy)
    for part in (*datasets, *evaluators):
        if copy := copies.get(_file(part).absolute()):
            part["ann_file"] = copy
    settings.add_hook(config, type="mmpvt.LeftOutHook", notes=notes, on_bad_data=on_bad_data)


def _refuse_unknown_masks(file: Path, findings: list[Finding]) -> None:
    ids = [str(finding.id) for finding in findings if finding.problem == UNKNOWN_MASK]
    if ids:
        named = ", ".join(ids[:NAMED]) + (" …" if len(ids) > NAMED else "")
        raise UserError(
            f"{len(ids)} annotations in {file} (id {named}) have a segmentation that is neither "
            "polygons nor run-length encoded: mend or remove them, or pass --on-bad-data skip, "
            "which leaves them out"
        )


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
        raise UserError(f"nothing of {file} can be used: {first}")
    listing = copy.with_suffix(".left_out.json")
    atomic_write(copy, json.dumps(content).encode())
    atomic_write(listing, json.dumps([f._asdict() for f in findings], indent=1).encode())
    counts = " and ".join(
        f"{sum(f.kind == kind for f in lost)} {kind}s" for kind in ("image", "annotation")
    )
    return (
        f"{counts} of {file} are left out, {len(findings) - len(lost)} annotations mended: {first}"
        f"{' …' if len(findings) > NAMED else ''} (all of them: {listing})"
    )


@HOOKS.register_module()
class LeftOutHook(Hook):
    """Says which images and annotations are left out, and why; beside a score, how many.

    Args:
        notes (list[str]): what is left out of annotation files.
        on_bad_data (str): what an evaluation does on an image that can't be used: ``'stop'``,
            ``'skip'``, or ``'auto'``, which stops a test and goes on in a validation, as training
            has brought it so far. Default: ``'skip'``.
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

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Logs an image when it is left out for the first time."""
        for name, (reason, _) in _left_out(data_batch).items():
            if name not in self.trained:
                self.trained[name] = reason
                runner.logger.warning(
                    f"left out of training, number {len(self.trained)}: {printable(name)}: "
                    f"{printable(reason)}"
                )

    def after_train_epoch(self, runner: Runner) -> None:
        """Logs how many images were left out, by all processes."""
        everywhere = {name for part in all_gather_object(self.trained) for name in part}
        if everywhere:
            runner.logger.warning(f"left out of training so far: {len(everywhere)} images")

    def before_val(self, runner: Runner) -> None:
        """Prepares the data set for images that can't be used."""
        self._prepare(runner.val_loop, "stop" if self.on_bad_data == "stop" else "skip")

    def before_test(self, runner: Runner) -> None:
        """Prepares the data set for images that can't be used."""
        self._prepare(runner.test_loop, self.on_bad_data)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Takes what was left out of the score, before it is computed."""
        self._evaluate(runner, runner.val_loop, batch_idx, data_batch)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs=None
    ) -> None:
        """Takes what was left out of the score, before it is computed."""
        self._evaluate(runner, runner.test_loop, batch_idx, data_batch)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Puts the number of images left out beside the score."""
        self._count(runner, "val")

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Puts the number of images left out beside the score."""
        self._count(runner, "test")

    def _prepare(self, loop: BaseLoop, on_bad_data: str) -> None:
        self.evaluated = {}
        dataset = loop.dataloader.dataset
        dataset.__getitems__ = Fetch(dataset, evaluating=True, on_bad_data=on_bad_data)

    def _evaluate(self, runner: Runner, loop: BaseLoop, batch_idx: int, data_batch: dict) -> None:
        self.evaluated.update(_left_out(data_batch))
        if batch_idx + 1 < len(loop.dataloader):
            return
        for part in all_gather_object(self.evaluated):
            self.evaluated.update(part)
        for metric in loop.evaluator.metrics:
            if isinstance(metric, CocoMetric) and metric._coco_api is not None:
                lost = {number for _, number in self.evaluated.values()}
                numbers = metric._coco_api.get_img_ids()
                metric.img_ids = [number for number in numbers if number not in lost]
        if self.evaluated and is_main_process():
            total = len(loop.dataloader.dataset)
            names = "; ".join(f"{name}: {reason}" for name, (reason, _) in self.evaluated.items())
            runner.logger.warning(
                f"the score is over {total - len(self.evaluated)} of {total} images, left out are "
                f"{printable(names)}"
            )

    def _count(self, runner: Runner, mode: str) -> None:
        for note in self.notes:
            runner.logger.warning(printable(note))
        name = f"{mode}/left_out_images"
        if self.evaluated or name in runner.message_hub.log_scalars:  # the last stays, otherwise
            runner.message_hub.update_scalar(name, len(self.evaluated))


def _left_out(data_batch: dict | None) -> dict[str, tuple[str, object]]:
    """Names of a batch's images that couldn't be used, with the reason and the image's number."""
    return {
        name: (reason, sample.metainfo.get("img_id"))
        for sample in flatten((data_batch or {}).get("data_samples", ()))
        for name, reason in sample.metainfo.get("left_out", ())
    }
