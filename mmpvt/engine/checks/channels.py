"""Checks that the model takes the images as they are loaded: channels, and bits of a channel."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import BaseDataElement

from mmpvt.datasets.coco import image_files
from mmpvt.datasets.loading import LoadImageFromFile, read_high_bit_depth
from mmpvt.datasets.pipelines import (
    SEVERAL_FILES,
    build_image_loader,
    find_class,
    keep_channels,
    loading_step,
    transform_name,
)
from mmpvt.engine.config_parts import default_argument, iter_dicts
from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.errors import ConfigError, UserError
from mmpvt.utils.files import read_bytes

SAMPLED = 8  # images of a data set that are decoded
MANY = 10_000  # channels, which no model takes whose number is known
DARK = 64  # of 255: what the brightest pixel of images cut to 8 bits reaches at least, if they fit
PREPROCESSORS = ("DetDataPreprocessor", "SegDataPreProcessor", "ClsDataPreprocessor")


class LostBits(NamedTuple):
    """What is lost of images of more than 8 bits a channel that are loaded as 8 bits."""

    file: str  # one of them
    low: float  # the lowest value that is stored
    high: float  # the highest value that is stored
    loaded: int  # the highest value as loaded

    @classmethod
    def of(cls, file: str, image: np.ndarray) -> LostBits | None:
        """Of a file, loaded as ``image``; None if all of its bits are kept."""
        stored = read_high_bit_depth(read_bytes(file)) if image.dtype == np.uint8 else None
        if stored is None:
            return None
        return cls(file, float(stored.min()), float(stored.max()), int(image.max()))

    @classmethod
    def join(cls, several: Iterable[LostBits | None]) -> LostBits | None:
        """Of several files, named by the first."""
        found = [one for one in several if one is not None]
        if not found:
            return None
        files, lows, highs, loaded = zip(*found, strict=True)
        return cls(files[0], min(lows), max(highs), max(loaded))

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


def check_images(
    config: Config, dataset: DatasetConfig, contents: dict[Path, dict], depths: dict[str, str]
) -> None:
    """Raises a ConfigError if a data set's images have other channels than the model takes, or
    other depths than those before.

    Prints a warning where bits of them are lost, or other tools can't load such images.

    Args:
        config (Config): of the experiment.
        dataset (DatasetConfig): whose images a few are loaded of.
        contents (dict[Path, dict]): of annotation files.
        depths (dict[str, str]): an image of each type of values, such as ``'uint8'``, in which
            images are loaded unchanged; images are added.
    """
    place = loading_step(dataset.pipeline)
    if place is None:
        return
    name = transform_name(dataset.pipeline[place])
    is_known = dataset.is_coco or dataset.is_segmentation
    if is_known and name in (*SEVERAL_FILES, "LoadImageFromNDArray"):
        raise ConfigError(
            f"{name} doesn't read the single file an image that a {dataset.fields['type']} names",
            hint="take LoadImageFromFile, with color_type='unchanged' for images of any number of "
            "channels (docs/data.md)",
        )
    if name in SEVERAL_FILES:
        print(
            f"warning: {name} reads several files an image: predict.py, export.py and app.py "
            "can't be used with this model",
            file=sys.stderr,
        )
        return
    loader = build_image_loader(dataset.pipeline[place])
    is_plain = isinstance(loader, LoadImageFromFile)
    by_channels: dict[int, str] = {}
    lost_bits = []
    raw: list[tuple[float, float, str]] = []  # lowest and highest value as stored, of which file
    for file in _sample_files(dataset, contents) if is_known or is_plain else []:
        try:
            image = loader(dict(img_path=file))["img"]
        except ConfigError:  # nor can the data set's other images be loaded
            raise
        except UserError:  # on_bad_data says what becomes of a broken file
            continue
        by_channels.setdefault(image.shape[2] if image.ndim == 3 else 1, file)
        lost_bits.append(LostBits.of(file, image))
        if is_plain and (depth := loader.depth(image)):
            depths.setdefault(depth, file)
            raw.append((float(image.min()), float(image.max()), file))
    if raw and (note := _misses_mean(raw, config)):
        print(f"warning: {note}", file=sys.stderr)
    if lost := LostBits.join(lost_bits):
        print(f"warning: {lost}", file=sys.stderr)
    for reason in (*rejected_channels(by_channels, dataset, config), *mixed_depths(depths)):
        raise ConfigError(reason)


def _misses_mean(raw: Sequence[tuple[float, float, str]], config: Config) -> str | None:
    """Says that the values of images are all below or above what is subtracted from them."""
    model = config.get("model") or {}
    preprocessor = model.get("data_preprocessor") or config.get("data_preprocessor") or {}
    mean = preprocessor.get("mean") or ()
    low, high = min(one[0] for one in raw), max(one[1] for one in raw)
    if not isinstance(mean, list | tuple) or all(low <= value <= high for value in mean):
        return None
    return (
        f"images such as {raw[0][2]} hold values from {low:g} to {high:g}, and the model's "
        f"data_preprocessor subtracts a mean of {', '.join(f'{value:g}' for value in mean)}: set "
        "its mean and std to the images' own, or load them with max_value (docs/data.md)"
    )


def mixed_depths(depths: Mapping[str, str]) -> list[str]:
    """Says that images, one of each type of values, are of different scales."""
    if len(depths) < 2:
        return []
    (kind, file), (other, second), *_ = depths.items()
    return [
        f"{file} is loaded as {kind}, and {second} as {other}: the model takes their values as "
        "they are, so that one is brighter than the other; store all with as many bits"
    ]


def rejected_channels(
    by_channels: Mapping[int, str], dataset: DatasetConfig, config: Config
) -> list[str]:
    """Says which of a data set's images, one of each number of channels, the model doesn't take."""
    place = loading_step(dataset.pipeline)
    if not keep_channels(dataset.pipeline[0 if place is None else place + 1 :]):
        return []
    reasons = ((file, channel_mismatch(channels, config)) for channels, file in by_channels.items())
    return [f"{file} is loaded as an image of {reason}" for file, reason in reasons if reason]


def accepted_channels(config: Config, steps: Sequence[dict]) -> list[int] | None:
    """The numbers of channels that images of a model may have; None where that isn't known.

    Args:
        config (Config): of the experiment.
        steps (Sequence[dict]): of its pipelines.
    """
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet"):
        if not keep_channels(steps) or channel_mismatch(MANY, config) is None:
            return None
    own = (config.model.get("backbone") or {}).get("in_channels", 3)
    return [n for n in sorted({1, 3, 4, own}) if channel_mismatch(n, config) is None]


def channel_mismatch(channels: int, config: Config, trained: bool = False) -> str | None:
    """Why the model doesn't take images of so many channels, or None.

    Args:
        channels (int): of the image that the pipeline gives.
        config (Config): of the experiment.
        trained (bool): don't say how to change the model. Default: False.

    Returns:
        str | None: ``"4 channels, and the model's backbone takes 3 (in_channels)"``.
    """
    images = f"{channels} channel{'s' * (channels != 1)}"
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet"):
        part = next((d for d in iter_dicts(config.get("model")) if "backbone" in d), {})
        preprocessor = part.get("data_preprocessor") or config.get("data_preprocessor")
        reached = channels
        if (preprocessor or {}).get("type") and transform_name(preprocessor) in PREPROCESSORS:
            try:
                built = MODELS.build(dict(preprocessor))
                blank = dict(
                    inputs=[torch.zeros(channels, 32, 32)], data_samples=[BaseDataElement()]
                )
                reached = built(blank)["inputs"].shape[1]
            except (AssertionError, RuntimeError, IndexError, TypeError):
                values = len(preprocessor.get("mean") or ())
                hint = "" if trained else ": give one a channel, or a single one for all"
                return (
                    f"{images}, and the model's data_preprocessor has mean and std of {values} "
                    f"values{hint}"
                )
        backbone = part.get("backbone") or {}
        taken = backbone.get("in_channels")
        if taken is None and (kind := backbone.get("type")):
            taken = default_argument(find_class(MODELS, kind), "in_channels")
            taken = taken if taken == 3 else None
    if not isinstance(taken, int) or taken == reached:
        return None
    reason = f"{images}, and the model's backbone takes {taken}"
    if trained:
        return reason
    return (
        f"{reason}: set model.backbone.in_channels={reached}, or color_type of LoadImageFromFile "
        "in each pipeline ('color': 3 channels, 'grayscale': 1, 'unchanged': as many as the file "
        "has)"
    )


def _sample_files(dataset: DatasetConfig, contents: dict[Path, dict]) -> list[str]:
    """A few of a data set's images that are there, evenly spaced."""
    if dataset.is_coco:
        names = image_files(contents.get(dataset.ann_file.absolute()) or dict(images=[]))
        sampled = (names[i] for i in evenly_spaced(len(names), SAMPLED))
        files = [str(dataset.folder("img") / name) for name in sampled]
    elif dataset.is_segmentation:
        found = dataset.segmentation_files()
        files = [found.image(found.stems[i]) for i in evenly_spaced(len(found.stems), SAMPLED)]
    elif dataset.kind is not None and any(
        step.get("color_type", "color") != "color" for step in dataset.pipeline
    ):
        built = DATASETS.build({**dataset.fields, "pipeline": []})
        infos = (built.get_data_info(i) for i in evenly_spaced(len(built), SAMPLED))
        files = [str(info.get("img_path")) for info in infos]
    else:
        files = []
    return [file for file in files if Path(file).is_file()]


def evenly_spaced(length: int, number: int) -> list[int]:
    """At most ``number`` places of a sequence of ``length``, from the first to the last."""
    return np.linspace(0, length - 1, min(number, length)).astype(int).tolist()
