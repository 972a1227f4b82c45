"""A config that follows a user's own data: classes, heads, data sets, evaluators, schedule."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmpvt.datasets.formats import OpenedDataset, open_dataset
from mmpvt.datasets.formats.records import ImageRecord
from mmpvt.engine.checks.settings import check_trains
from mmpvt.engine.config import merge_options, read_config, writing_to
from mmpvt.engine.launch import is_first_process
from mmpvt.engine.own_data import data, model
from mmpvt.engine.own_data.schedule import set_schedule
from mmpvt.errors import DatasetError
from mmpvt.utils.atomic import atomic_write, make_folder, put_back
from mmpvt.utils.text import counted, few, printable

FOLDER = "data"  # in the work directory, of what is written for a run
log = logging.getLogger("mmpvt")


@dataclass(kw_only=True)
class DataOptions:
    """Of a user's own data.

    Attributes:
        path: a folder, a zip archive, a ``data.yaml``, a ``.json`` or an ``.xml``.
        format: one of :data:`mmpvt.datasets.formats.FORMATS`. Default: recognised by what is
            there.
        classes: their names. Default: the data's.
        val_fraction: of the images, to validate on where the data has no such split.
        split_seed: of the choice of these images.
        keep_empty: whether images without annotations are images without objects.
    """

    path: str
    format: str | None = None
    classes: Sequence[str] | None = None
    val_fraction: float = 0.2
    split_seed: int = 0
    keep_empty: bool = False


def use_own_data(
    config: Config,
    options: DataOptions,
    undo: ExitStack,
    cfg_options: dict | None = None,
    on_bad_data: str = "auto",
    epochs: int | None = None,
    processes: int = 1,
) -> Config:
    """Makes a config one for a user's own data, in whatever format it is.

    Annotations in a form that the model's package reads are written to ``data`` in the work
    directory, and beside it the config, which runs alone. The user's files stay as they are.

    Args:
        config (Config): of any detector, segmenter or classifier that learns from images alone.
        options (DataOptions): of the data.
        undo (ExitStack): removes what is written, and puts back what that replaced, unless its
            callbacks are popped.
        cfg_options (dict | None): dotted keys and values that are set last.
        on_bad_data (str): ``'skip'`` goes on without annotations that can't be used.
        epochs (int | None): passes over the data. Default: None, by the number of images.
        processes (int): that train together. Default: 1.

    Returns:
        Config: the config to train.

    Raises:
        ConfigError: the model can't be trained on such data.
        DatasetError: the data can't be used.
    """
    if not is_first_process():
        undo = ExitStack()  # it finds what the first one wrote
        log.setLevel(logging.ERROR)  # which says the rest
    scope = config.get("default_scope")
    model.check_supported(config)
    check_trains(config)
    task = {"mmseg": "semantic", "mmpretrain": "classification"}.get(scope)
    if task is None:
        masks = data.predicts_masks(config) and data.learns_masks(config)
        task = "instance" if masks else "detection"
    folder = Path(config.work_dir) / FOLDER
    opened = open_dataset(
        options.path,
        format=options.format,
        classes=options.classes,
        unpack_to=_unpack_to(Path(options.path), folder, undo),
        task=task,
        keep_empty=options.keep_empty,
        on_bad_data=on_bad_data,
    )
    dataset = opened.split(val_fraction=options.val_fraction, seed=options.split_seed)
    _say([dataset.describe(), *dataset.notes[len(opened.notes) :]])  # the others are logged
    if not dataset.splits.get("val"):
        raise DatasetError(
            f"{dataset.path} has no images to validate on",
            setting="val_fraction",
            hint="give a fraction of the images",
        )

    _make(folder, undo)
    repeats = data.repeats(config)
    use = dict(semantic=_use_label_maps, classification=_use_labels).get(task, _use_objects)
    classes = use(config, dataset, folder, undo)
    if options.keep_empty and use is _use_objects:
        data.keep_images_without_objects(config)
    images = len(dataset.splits["train"])
    if use is _use_objects:
        images = _count_trained(config, dataset.splits["train"])
    if use is not _use_label_maps and data.repeats_rare_classes(config):
        images = data.epoch_length(config)
    said = [f"{counted(len(classes), 'class', 'classes')}: {few(classes)}"]
    said += model.set_num_classes(config, len(classes))
    batch = (cfg_options or {}).get("train_dataloader.batch_size")
    if batch and config.filename:  # whose own batch tells what its learning rate is for
        own = read_config(config.filename).train_dataloader
        config.train_dataloader.batch_size = own.get("batch_size")
    said += set_schedule(config, images, repeats, epochs, processes, batch)
    if cfg_options:
        said.append(
            "then, by --cfg-options: " + few((f"{k}={v}" for k, v in cfg_options.items()), 9)
        )
    _say(["; ".join(said)])
    merge_options(config, cfg_options)
    return _written(config, undo)


def _unpack_to(path: Path, folder: Path, undo: ExitStack) -> Path | None:
    """Where an archive is unpacked to: another folder once the archive is another."""
    if path.suffix.lower() != ".zip" or not path.is_file():
        return None
    _make(folder, undo)
    status = path.stat()  # by which open_dataset knows it again
    to = folder / f"{path.stem}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not to.exists():
        undo.callback(shutil.rmtree, to, ignore_errors=True)
    return to


def _make(folder: Path, undo: ExitStack) -> None:
    """Makes a folder of the work directory, both of which are removed on an error if they are new;
    what holds the work directory may hold other runs' by then."""
    with writing_to(folder.parent):
        make_folder(folder.parent, undo)
        make_folder(folder, undo)


def _use_objects(
    config: Config, dataset: OpenedDataset, folder: Path, undo: ExitStack
) -> tuple[str, ...]:
    data.load_objects(config, with_masks=dataset.has_masks)
    files = _set_datasets(
        config,
        dataset,
        dataset.write_coco(folder, undo),
        dataset.classes,
        dataset.palette,
        type="mmdet.CocoDataset",
        data_prefix=dict(img=dataset.image_root.as_posix()),
    )
    val, test = (
        data.coco_metric(config, files[split], dataset.has_masks) for split in ("val", "test")
    )
    config.val_evaluator, config.test_evaluator = val, test
    return dataset.classes


def _count_trained(config: Config, records: Sequence[ImageRecord]) -> int:
    """The number of images that an epoch goes through; says how many the config's filter skips."""
    rule = data.filter_rule(config)
    least, is_filtered = rule.get("min_size", 0), rule.get("filter_empty_gt", False)
    large = [record for record in records if min(record.width, record.height) >= least]
    trained = sum(bool(record.instances) or not is_filtered for record in large)
    if 0 < trained < len(records):  # where none is left, the checks of the data say why
        skipped = f"{len(records) - trained:,} of {counted(len(records), 'training image')}"
        way = DatasetError.name_setting("keep_empty")
        reasons = [f"without objects ({way} keeps those)"] * (trained < len(large))
        reasons += [f"smaller than {least} pixels"] * (len(large) < len(records))
        _say([f"skipped by the config's filter_cfg: {skipped}, {' or '.join(reasons)}"])
    return trained or len(records)


def _use_label_maps(
    config: Config, dataset: OpenedDataset, folder: Path, undo: ExitStack
) -> tuple[str, ...]:
    data.load_labels_as_they_are(config)
    maps = dataset.write_label_maps(folder, undo)
    _set_datasets(
        config,
        dataset,
        maps.lists,
        maps.classes,
        maps.palette,
        type="mmseg.BaseSegDataset",
        data_prefix=dict(
            img_path=maps.img_path.as_posix(),
            seg_map_path=Path(os.path.abspath(maps.seg_map_path)).as_posix(),  # noqa: PTH100
        ),
        img_suffix=maps.img_suffix,
        seg_map_suffix=maps.seg_map_suffix,
        reduce_zero_label=False,
    )
    config.val_evaluator = ConfigDict(type="mmseg.IoUMetric", iou_metrics=["mIoU"])
    config.test_evaluator = config.val_evaluator
    return maps.classes


def _use_labels(
    config: Config, dataset: OpenedDataset, folder: Path, undo: ExitStack
) -> tuple[str, ...]:
    _set_datasets(
        config,
        dataset,
        dataset.write_labels(folder, undo),
        dataset.classes,
        dataset.palette,
        type="mmpretrain.CustomDataset",
        data_prefix=dict(img_path=dataset.image_root.as_posix()),
    )
    topk = (1, 5) if len(dataset.classes) > 5 else (1,)
    config.val_evaluator = ConfigDict(type="mmpretrain.Accuracy", topk=topk)
    config.test_evaluator = config.val_evaluator
    return dataset.classes


def _set_datasets(
    config: Config,
    dataset: OpenedDataset,
    files: Mapping[str, Path],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    **fields: object,
) -> dict[str, str]:
    """Puts the data's splits in the place of the config's; those without images to test on are
    tested on those to validate on. Returns the annotation file of each."""
    files = {**files, "test": files.get("test", files["val"])}
    named = {split: str(files[split].resolve()) for split in ("train", "val", "test")}
    metainfo = dict(classes=tuple(classes), palette=[tuple(colour) for colour in palette])
    common = dict(metainfo=metainfo, data_root=_data_root(config, dataset), **fields)
    data.set_datasets(config, {k: dict(ann_file=file, **common) for k, file in named.items()})
    return named


def _data_root(config: Config, dataset: OpenedDataset) -> str:
    """What may be moved without what is written for the run: the user's folder, else that of the
    images, else none."""
    path, work_dir = (Path(os.path.abspath(p)) for p in (dataset.path, config.work_dir))  # noqa: PTH100
    images = dataset.image_root
    for root in (path if path.is_dir() else path.parent, images):
        if images.is_relative_to(root) and not work_dir.is_relative_to(root):
            return root.as_posix()
    return ""


def _written(config: Config, undo: ExitStack) -> Config:
    """Writes the config to the work directory; it takes that file's name."""
    file = Path(config.work_dir) / f"{Path(config.filename or 'config').stem}.py"
    text = config.pretty_text
    if is_first_process():
        with writing_to(file.parent):
            put_back(file, undo)
            atomic_write(file, text.encode())
    return Config(config.to_dict(), text, str(file), env_variables=config.env_variables)


def _say(sentences: Sequence[str]) -> None:
    if is_first_process():
        for sentence in sentences:
            print(printable(sentence))
