"""Which transform of a pipeline reads the images, and whether the others keep their channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS, Registry

from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.errors import ConfigError

SEVERAL_FILES = ("LoadMultiChannelImageFromFiles", "LoadMultipleRSImageFromFile")
KNOWN = ("mmcv", "mmdet", "mmseg", "mmpretrain", "mmpvt")  # packages
CHANGING = ("RGB2Gray", "ConcatCDInput")  # their transforms that change an image's channels
MOVING = (  # and those that move its content
    *("RandomFlip", "RandomCrop", "MinIoURandomCrop", "Expand", "RandomAffine", "RandomShift"),
    *("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "GeomTransform"),
    *("Mosaic", "CachedMosaic", "MixUp", "CachedMixUp"),
)


def transform_name(step: dict) -> str:
    """A transform's name, without its scope."""
    kind = step["type"]
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def is_image_loader(name: str) -> bool:
    """Whether a transform of this name reads images, as those of the ecosystem do."""
    return name.startswith("Load") and ("Image" in name or "File" in name)


def loads_annotations(step: dict) -> bool:
    """Whether a transform reads annotations, as those of the ecosystem do."""
    name = transform_name(step)
    return name.startswith("Load") and name.endswith("Annotations")


def loading_step(pipeline: Sequence[dict]) -> int | None:
    """The place of the transform that reads a pipeline's images; None where there is none."""
    return next(
        (i for i, step in enumerate(pipeline) if is_image_loader(transform_name(step))), None
    )


def build_image_loader(step: dict) -> BaseTransform:
    """Builds the transform that reads images.

    In place of MMCV's ``LoadImageFromFile`` it is this project's, which says what is wrong with a
    file.

    Raises:
        ConfigError: it can't be built; or it reads several files an image.
    """
    name = transform_name(step)
    if name in SEVERAL_FILES:
        raise ConfigError(
            f"{name} reads several files an image: only models that read single images from files "
            "can predict",
            hint="join the channels in one TIFF file, for LoadImageFromFile with "
            "color_type='unchanged'",
        )
    options = {key: value for key, value in step.items() if key not in ("type", "_scope_")}
    if name in ("LoadImageFromFile", "LoadImageFromNDArray"):
        return LoadImageFromFile(**options)
    try:
        return TRANSFORMS.build(dict(step))
    except (RuntimeError, KeyError) as error:  # "gdal is not installed"
        raise ConfigError(
            f"{name} can't be used: {error}; LoadImageFromFile reads TIFF files of any number of "
            "channels with color_type='unchanged', imdecode_backend='tifffile' (docs/data.md)"
        ) from error


def resizes(step: dict) -> bool:
    """Whether a transform changes an image's size, as those of the ecosystem do."""
    return "Resize" in transform_name(step)


def moves_content(step: dict) -> bool:
    """Whether a transform of the ecosystem's moves an image's content, as a flip or a crop does."""
    return transform_name(step) in MOVING and bool(np.any(step.get("prob", 1)))


def check_keeps_places(pipeline: Sequence[dict], where: str, detects: bool) -> None:
    """Raises a ConfigError if a test's pipeline moves an image's content: models give predictions
    where it was moved to. Or resizes it several times: detectors undo the last alone."""
    steps = [step for step in pipeline if "type" in step]
    for step in filter(moves_content, steps):
        raise ConfigError(
            f"{where} has {transform_name(step)}, which moves objects, and predictions aren't "
            "moved back: scores and boxes would be wrong",
            hint="leave it out there: it is for training",
        )
    resizing = [transform_name(step) for step in steps if resizes(step)]
    if detects and len(resizing) > 1:
        raise ConfigError(
            f"{where} has {' and '.join(resizing)}, and detectors undo the last alone",
            hint="leave one of them",
        )


def keep_channels(steps: Sequence[dict]) -> bool:
    """Whether transforms after loading are known to leave an image's channels as they are."""
    return are_known(steps) and all(transform_name(step) not in CHANGING for step in steps)


def are_known(steps: Sequence[dict]) -> bool:
    """Whether transforms are all of the ecosystem's packages."""
    return all(is_known(find_class(TRANSFORMS, step["type"])) for step in steps)


def is_known(kind: type | None) -> bool:
    """Whether a class is of one of the ecosystem's packages, and not a user's own."""
    return getattr(kind, "__module__", "").partition(".")[0] in KNOWN


def find_class(registry: Registry, kind: str | type) -> type | None:
    """The class of a name, as the current scope has it."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as current:
        return current.get(kind)
