"""A look at the pixels before a run starts: channels, bits a channel, and what label maps hold."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, DefaultScope, Registry
from mmengine.structures import BaseDataElement

from mmpvt.datasets.loading import IGNORED, LoadImageFromFile, LoadSegAnnotations, deep_values
from mmpvt.engine.classes import class_names
from mmpvt.engine.config_parts import dataset_kind, iter_datasets, iter_dicts
from mmpvt.engine.data_check import default_of, is_coco, is_maps, label_maps, list_stems
from mmpvt.errors import UserError
from mmpvt.utils.files import read_bytes

SAMPLED = 8  # images of a data set that are decoded
MAPS = 500  # label maps that are read, at most, where they seem to hold a single class
DARK = 64  # of 255: what the brightest pixel of images cut to 8 bits reaches at least, if they fit
PREPROCESSORS = ("DetDataPreprocessor", "SegDataPreProcessor")
SEVERAL_FILES = ("LoadMultiChannelImageFromFiles", "LoadMultipleRSImageFromFile")
OURS = ("mmcv", "mmdet", "mmseg", "mmpvt")  # whose transforms keep an image's channels,
CHANGING = ("RGB2Gray", "ConcatCDInput")  # except for these


def check_pixels(
    config: Config, splits: Iterable[str], contents: dict[Path, dict] | None = None
) -> None:
    """Checks that the model takes the images as they are loaded, and that label maps hold classes.

    Prints a warning of what is used all the same: images of which 8 bits are kept, label maps of a
    single class.

    Args:
        config (Config): of an experiment.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.
        contents (dict[Path, dict] | None): of COCO's annotation files, by their absolute paths,
            from :func:`~mmpvt.engine.data_check.check_data`. Default: None.

    Raises:
        UserError: the images have other channels than the model takes, the label maps hold nothing
            that could be trained, or the head can't tell classes apart.
    """
    scope = config.get("default_scope") or "mmengine"
    check_head(config)
    seen = []
    for split in splits:
        for dataset in iter_datasets((config.get(f"{split}_dataloader") or {}).get("dataset")):
            keys = ("data_root", "ann_file", "data_prefix", "pipeline")
            place = [dataset.get(key) for key in keys]
            if dataset.get("backend_args") is not None or place in seen:
                continue
            seen.append(place)
            with DefaultScope.overwrite_default_scope(scope):
                _check_images(config, dataset, contents or {})
                _check_maps(dataset, scope, is_trained=split == "train")


def loading_step(pipeline: Sequence[dict]) -> int | None:
    """The place of the transform that reads a pipeline's images; None where there is none."""
    return next((i for i, step in enumerate(pipeline) if is_loader(transform_name(step))), None)


def is_loader(name: str) -> bool:
    """Whether a transform of this name reads images, as those of the ecosystem do."""
    return name.startswith("Load") and ("Image" in name or "File" in name)


def image_loader(step: dict) -> BaseTransform:
    """The transform that reads images.

    In place of MMCV's ``LoadImageFromFile`` it is this project's, which says what is wrong with a
    file.

    Args:
        step (dict): its config.

    Raises:
        UserError: it can't be built; or it reads several files an image.
    """
    name = transform_name(step)
    if name in SEVERAL_FILES:
        raise UserError(
            f"{name} reads several files an image: only models that read single images from files "
            "can predict; join the channels in one TIFF file, for LoadImageFromFile with "
            "color_type='unchanged'"
        )
    options = {key: value for key, value in step.items() if key not in ("type", "_scope_")}
    if name in ("LoadImageFromFile", "LoadImageFromNDArray"):
        return LoadImageFromFile(**options)
    try:
        return TRANSFORMS.build(dict(step))
    except (RuntimeError, KeyError) as error:  # "gdal is not installed"
        raise UserError(
            f"{name} can't be used: {error}; LoadImageFromFile reads TIFF files of any number of "
            "channels with color_type='unchanged', imdecode_backend='tifffile' (docs/data.md)"
        ) from error


def transform_name(step: dict) -> str:
    """A transform's name, without its scope."""
    kind = step["type"]
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def misfit(channels: int, config: Config, trained: bool = False) -> str | None:
    """Why the model doesn't take images of so many channels, or None.

    Args:
        channels (int): of the image that the pipeline gives.
        config (Config): of the experiment.
        trained (bool): don't say how to change the model. Default: False.

    Returns:
        str | None: ``"4 channels, and the model's backbone takes 3 (in_channels)"``.
    """
    scope = config.get("default_scope") or "mmdet"
    with DefaultScope.overwrite_default_scope(scope):
        part = next((d for d in iter_dicts(config.get("model")) if "backbone" in d), {})
        preprocessor = part.get("data_preprocessor") or config.get("data_preprocessor")
        reached = channels
        if preprocessor and transform_name(preprocessor) in PREPROCESSORS:
            values = len(preprocessor.get("mean") or ())
            try:
                built = MODELS.build(dict(preprocessor))
                blank = dict(
                    inputs=[torch.zeros(channels, 32, 32)], data_samples=[BaseDataElement()]
                )
                reached = built(blank)["inputs"].shape[1]
            except (AssertionError, RuntimeError, IndexError, TypeError):
                return (
                    f"{_channels(channels)}, and the model's data_preprocessor has mean and std of "
                    f"{values} values: give one a channel, or a single one for all"
                )
        taken = _in_channels(part.get("backbone"))
    if taken is None or taken == reached:
        return None
    reason = f"{_channels(channels)}, and the model's backbone takes {taken}"
    if trained:
        return reason
    return (
        f"{reason}: set model.backbone.in_channels={reached}, or color_type of LoadImageFromFile "
        "in each pipeline ('color': 3 channels, 'grayscale': 1, 'unchanged': as many as the file "
        "has)"
    )


def _registered(registry: Registry, kind: str | type) -> type | None:
    """The class of a name, as the current scope has it."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as current:
        return current.get(kind)


def _channels(number: int) -> str:
    return f"{number} channel{'s' * (number != 1)}"


def _in_channels(backbone: dict | None) -> int | None:
    """What a backbone's config or class says it takes; None where neither does."""
    if not isinstance(backbone, dict):
        return None
    said = backbone.get("in_channels")
    if said is None:
        kind = _registered(MODELS, backbone.get("type"))
        said = default_of(kind, "in_channels") if isinstance(kind, type) else None
        said = said if said == 3 else None
    return said if isinstance(said, int) else None


def _check_images(config: Config, dataset: dict, contents: dict[Path, dict]) -> None:
    pipeline = dataset.get("pipeline") or ()
    place = loading_step(pipeline)
    if place is None:
        return
    kind = dataset_kind(dataset, config.get("default_scope") or "mmengine")
    is_known = is_coco(kind) or is_maps(kind)
    name = transform_name(pipeline[place])
    if is_known and name in (*SEVERAL_FILES, "LoadImageFromNDArray"):
        raise UserError(
            f"{name} doesn't read the single file an image that a {dataset['type']} names: take "
            "LoadImageFromFile, with color_type='unchanged' for images of any number of channels "
            "(docs/data.md)"
        )
    if name in SEVERAL_FILES:
        print(
            f"warning: {name} reads several files an image: predict.py, export.py and app.py "
            "can't be used with this model",
            file=sys.stderr,
        )
        return
    reader = image_loader(pipeline[place])
    is_plain = isinstance(reader, LoadImageFromFile)
    files = _image_files(dataset, kind, contents) if is_known or is_plain else []
    shapes: dict[int, str] = {}
    depth: Depth | None = None
    for file in files:
        try:
            image = reader(dict(img_path=file))["img"]
        except UserError as error:
            if "can't be loaded with" in str(error):  # nor can the others of the data set
                raise
            continue  # a broken file is the run's matter
        shapes.setdefault(image.shape[2] if image.ndim == 3 else 1, file)
        depth = Depth.join(depth, Depth.of(file, image))
    if depth is not None:
        print(f"warning: {depth}", file=sys.stderr)
    if all(keeps_channels(step) for step in pipeline[place + 1 :]):
        for channels, file in shapes.items():
            if reason := misfit(channels, config):
                raise UserError(f"{file} is loaded as an image of {reason}")


def keeps_channels(step: dict) -> bool:
    """Whether a transform after loading is known to leave an image's channels as they are."""
    kind = _registered(TRANSFORMS, step["type"])
    module = getattr(kind, "__module__", "").partition(".")[0]
    return module in OURS and transform_name(step) not in CHANGING


def _image_files(dataset: dict, kind: type | None, contents: dict[Path, dict]) -> list[str]:
    """A few of a data set's images that are there, evenly spaced."""
    root = Path(dataset.get("data_root") or "")
    if is_coco(kind):
        content = contents.get((root / (dataset.get("ann_file") or "")).absolute()) or {}
        folder = root / ((dataset.get("data_prefix") or {}).get("img") or "")
        listed = [image for image in content.get("images") or () if isinstance(image, dict)]
        files = [folder / str(image.get("file_name")) for image in listed]
    elif is_maps(kind):
        folder, stems = list_stems(
            dataset, root, kind, allow_outside=True
        )  # as check_data has said
        ending = dataset.get("img_suffix") or default_of(kind, "img_suffix")
        files = [folder / (stem + ending) for stem in sorted(stems)]
    elif kind is not None and _may_have_other_channels(dataset):
        built = DATASETS.build({**dataset, "pipeline": []})
        places = np.linspace(0, len(built) - 1, min(SAMPLED, len(built))).astype(int)
        files = [Path(str(built.get_data_info(int(i)).get("img_path"))) for i in places]
    else:
        files = []
    places = np.linspace(0, len(files) - 1, min(SAMPLED, len(files))).astype(int)
    return [str(files[i]) for i in places if files[i].is_file()]


def _may_have_other_channels(dataset: dict) -> bool:
    return any(step.get("color_type", "color") != "color" for step in dataset["pipeline"])


class Depth:
    """What is lost of images of more than 8 bits a channel that are loaded as 8 bits.

    Args:
        file (str): one of them.
        low, high (float): the lowest and the highest value that is stored.
        loaded (int): the highest value as loaded.
    """

    def __init__(self, file: str, low: float, high: float, loaded: int) -> None:
        self.file, self.low, self.high, self.loaded = file, low, high, loaded

    @classmethod
    def of(cls, file: str, image: np.ndarray) -> Depth | None:
        """Of a file, loaded as ``image``; None if all of its bits are kept."""
        if image.dtype != np.uint8:
            return None
        stored = deep_values(read_bytes(file))
        if stored is None:
            return None
        return cls(file, float(stored.min()), float(stored.max()), int(image.max()))

    @staticmethod
    def join(one: Depth | None, other: Depth | None) -> Depth | None:
        """Of both's files; the first one's name."""
        if one is None or other is None:
            return one or other
        return Depth(
            one.file,
            min(one.low, other.low),
            max(one.high, other.high),
            max(one.loaded, other.loaded),
        )

    @property
    def is_dark(self) -> bool:
        """Whether most of what the file tells apart is lost: 12 bits in 16 leave 16 levels."""
        return self.loaded < DARK

    def __str__(self) -> str:
        bits = max(8, int(self.high).bit_length())
        return (
            f"images such as {self.file} hold values from {self.low:g} to {self.high:g} ({bits} "
            "bits), which are cut to 8 bits as they are loaded: at most "
            f"{self.loaded + 1} levels are left; dict(type='mmpvt.LoadImageFromFile', max_value="
            f"{2**bits - 1}) in each pipeline keeps the others (docs/data.md)"
        )


def check_head(config: Config) -> None:
    """Checks that a segmenter's heads of one channel can learn.

    Raises:
        UserError: one has a loss over classes, which is 0 for a single one, or is for one class.
    """
    for part in iter_dicts(config.get("model")):
        for name in ("decode_head", "auxiliary_head"):
            heads = part.get(name)
            for head in heads if isinstance(heads, list | tuple) else [heads]:
                if isinstance(head, dict):
                    _check_head(name, head)


def _check_head(name: str, head: dict) -> None:
    if head.get("num_classes") != 1 and head.get("out_channels") != 1:
        return
    way = (
        "set num_classes=2, out_channels=1 and loss_decode.use_sigmoid=True, and two classes in "
        "the data set's metainfo, background first (docs/data.md)"
    )
    if head.get("num_classes") == 1:
        raise UserError(
            f"the model's {name} is for one class, and every pixel then is of that class: {way}"
        )
    losses = head.get("loss_decode")
    for loss in losses if isinstance(losses, list | tuple) else [losses]:
        kind = (loss or {}).get("type", "CrossEntropyLoss")
        if kind == "CrossEntropyLoss" and not (loss or {}).get("use_sigmoid"):
            raise UserError(
                f"the model's {name} gives one channel (out_channels=1), and its loss compares "
                f"channels, so that it is always 0: {way}"
            )


def _check_maps(dataset: dict, scope: str, is_trained: bool) -> None:
    kind = dataset_kind(dataset, scope)
    if not is_maps(kind):
        return
    root = Path(dataset.get("data_root") or "")
    folder, suffix = label_maps(dataset, root, kind)
    if folder is None:
        return
    _, stems = list_stems(dataset, root, kind, allow_outside=True)  # as check_data has said
    stems = sorted(stems)
    places = np.linspace(0, len(stems) - 1, min(MAPS, len(stems))).astype(int)
    said = describe_maps([str(folder / (stems[i] + suffix)) for i in places], dataset, kind)
    if said is None:
        return
    sentence, is_trap = said
    if is_trap:
        raise UserError(sentence)
    if is_trained:
        print(f"warning: {sentence}", file=sys.stderr)


def map_fields(dataset: dict, kind: type) -> dict:
    """What a data set tells the loader of its label maps.

    Args:
        dataset (dict): its config.
        kind (type): its class.

    Returns:
        dict: ``reduce_zero_label`` (bool), ``label_map`` (dict | None) from the labels of the class
        to those of the config's choice among its classes.
    """
    reduced = dataset.get("reduce_zero_label")
    reduced = bool(default_of(kind, "reduce_zero_label") if reduced is None else reduced)
    classes = class_names(dataset, kind)
    chosen = set(classes) <= set(kind.METAINFO.get("classes") or ())
    return dict(
        reduce_zero_label=reduced,
        label_map=kind.get_label_map(classes) if classes and chosen else None,
    )


def map_loader(dataset: dict, num_classes: int | None = None) -> LoadSegAnnotations:
    """What reads a data set's label maps.

    Args:
        dataset (dict): its config.
        num_classes (int | None): labels from there on are refused. Default: None.
    """
    steps = [s for s in dataset.get("pipeline") or () if transform_name(s) in MAP_LOADERS]
    names = ("values", "imdecode_backend", "reduce_zero_label")
    options = {key: steps[0][key] for key in names if steps and key in steps[0]}
    return LoadSegAnnotations(num_classes=num_classes, **options)


MAP_LOADERS = ("LoadAnnotations", "LoadSegAnnotations")


def describe_maps(paths: Sequence[str], dataset: dict, kind: type) -> tuple[str, bool] | None:
    """What is wrong with label maps from which at most one class can be learned.

    Reads them until two classes are found.

    Args:
        paths (Sequence[str]): label maps.
        dataset (dict): config of their data set.
        kind (type): its class.

    Returns:
        tuple[str, bool] | None: a sentence, and whether the files need another way of reading
        them; None if there is nothing to say.

    Raises:
        UserError: all that can be read hold colours.
    """
    loader, fields = map_loader(dataset), map_fields(dataset, kind)
    stored: set[int] = set()
    labels: set[int] = set()
    first, unusable = "", None
    for path in paths:
        results = dict(seg_map_path=path, img_path="", seg_fields=[], **fields)
        try:
            raw = mmcv.imfrombytes(
                read_bytes(path), flag="unchanged", backend=loader.imdecode_backend
            )
            results["ori_shape"] = raw.shape[:2]
            labels.update(np.unique(loader(results)["gt_seg_map"]).tolist())
        except UserError as error:
            unusable = unusable or error
            continue
        except (OSError, ValueError, AttributeError, AssertionError):
            continue  # a broken file is the run's matter
        if len(labels - {IGNORED}) > 1:
            return None
        first = first or path
        if raw.ndim == 2:
            stored.update(np.unique(raw).tolist())
    if not first:
        if unusable is not None and "holds colours" in str(unusable):
            raise unusable
        return None
    return _describe(first, stored, labels - {IGNORED}, loader, dataset, kind, fields)


def _describe(
    first: str,
    stored: set[int],
    labels: set[int],
    loader: LoadSegAnnotations,
    dataset: dict,
    kind: type,
    fields: dict,
) -> tuple[str, bool]:
    names = class_names(dataset, kind)
    place = f"the label maps in {Path(first).parent}"
    if loader.values is None and stored == {0, IGNORED}:
        return (
            f"{place} hold only 0 and 255, and 255 is the label of pixels that are ignored, so "
            "that no foreground is trained or scored: if 255 means the second class, write "
            "dict(type='mmpvt.LoadSegAnnotations', values=[0, 255]) for LoadAnnotations in each "
            "pipeline"
            + (" and leave out reduce_zero_label" if fields["reduce_zero_label"] else "")
            + " (docs/data.md)"
        ), True
    if loader.values is None and fields["reduce_zero_label"] and stored <= {0, 1, IGNORED}:
        return (
            f"{place} hold only {_listed(stored)}, and with reduce_zero_label=True 0 is ignored "
            "and 1 is the first class, so that there is one class at most: set "
            "reduce_zero_label=False of the data set"
        ), True
    if not labels:
        return (
            f"{place} hold nothing but {_listed(stored)}, which is ignored: there is nothing to "
            "train or score"
        ), True
    (label,) = labels
    name = f" ({names[label]})" if label < len(names) else ""
    return f"{place} hold nothing but label {label}{name}: there is nothing to tell apart", False


def _listed(values: set[int]) -> str:
    return " and ".join(map(str, sorted(values)))
