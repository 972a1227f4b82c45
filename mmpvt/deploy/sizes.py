"""How a config's test pipeline loads an image, and what it does to its size, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.config import Config

from mmpvt.datasets.pipelines import loading_step, transform_name
from mmpvt.errors import UserError

PREFIXES = ("Load", "Pack")  # of transforms that read files and pack results


@dataclass(frozen=True)
class Within:
    """As large as fits, the ratio of the sides kept.

    Attributes:
        height, width (int): the frame, in pixels.
        any_way_round (bool): the frame lies as the image does, as MMCV has it.
    """

    height: int
    width: int
    any_way_round: bool = True


@dataclass(frozen=True)
class Exactly:
    """To this size, whatever the ratio."""

    height: int
    width: int


@dataclass(frozen=True)
class UpToMultiple:
    """Each side rounded up to a multiple of ``divisor``."""

    divisor: int


@dataclass(frozen=True)
class Loading:
    """How an image of 8 bits is decoded.

    Attributes:
        channels (int | None): of it; None for those that the file has.
        is_bgr (bool): blue first; otherwise in the file's order.
        is_float (bool): made float32 before it is resized.
    """

    channels: int | None = 3
    is_bgr: bool = True
    is_float: bool = False


Step = Within | Exactly | UpToMultiple


def test_pipeline(config: Config) -> list[dict]:
    """The transforms of the data set that a test is of.

    Raises:
        UserError: the config has no test data set.
    """
    dataset = (config.get("test_dataloader") or {}).get("dataset")
    while dataset and "dataset" in dataset:
        dataset = dataset.dataset
    if not dataset or not dataset.get("pipeline"):
        raise UserError("the config holds no test_dataloader with a pipeline to export")
    return dataset.pipeline


def read_loading(config: Config) -> Loading:
    """How the test pipeline decodes images.

    Raises:
        UserError: in a way that an exported file's user can't follow.
    """
    pipeline = test_pipeline(config)
    place = loading_step(pipeline)
    if place is None:
        return Loading()
    step = pipeline[place]
    name = transform_name(step)
    if name not in ("LoadImageFromFile", "LoadImageFromNDArray"):
        raise UserError(
            f"{name}, which loads the test pipeline's images, can't be exported: LoadImageFromFile "
            "can"
        )
    if step.get("max_value") is not None:
        raise UserError(
            "LoadImageFromFile with max_value can't be exported: it is for images of more than 8 "
            "bits a channel, and an exported file takes 8"
        )
    kind = step.get("color_type", "color").removesuffix("_ignore_orientation")
    is_bgr = step.get("imdecode_backend") != "tifffile"
    channels = {"color": 3, "grayscale": 1}.get(kind) if is_bgr else None
    return Loading(channels, is_bgr, bool(step.get("to_float32")))


def read_steps(config: Config, shape: Sequence[int] | None = None) -> list[Step]:
    """The resizing of the test pipeline.

    Args:
        config (Config): of the model.
        shape (Sequence[int] | None): height and width to take in the place of the pipeline's.

    Returns:
        list[Step]: in order.

    Raises:
        UserError: the pipeline holds a transform that has no form in ONNX; it is named.
    """
    steps: list[Step] = []
    for transform in test_pipeline(config):
        name = transform["type"].rpartition(".")[2]
        if name.startswith(PREFIXES):
            continue
        if name == "Resize":
            steps.append(_resize(transform))
        elif name == "ResizeToMultiple":
            steps.append(UpToMultiple(transform.get("size_divisor", 32)))
        else:
            raise UserError(f"{name}, a transform of the test pipeline, can't be exported")
        if transform.get("interpolation", "bilinear") != "bilinear":
            raise UserError(
                f"{name} with {transform['interpolation']} interpolation can't be exported: "
                "bilinear can"
            )
    if shape is None:
        return steps
    keeps_ratio = not any(isinstance(step, Exactly) for step in steps)
    return [Within(*shape, any_way_round=False) if keeps_ratio else Exactly(*shape)]


def frame(config: Config, shape: Sequence[int] | None) -> tuple[int, int] | None:
    """A fixed height and width, rounded up where the pipeline rounds the sides of images up."""
    if shape is None:
        return None
    for step in read_steps(config):
        if isinstance(step, UpToMultiple):
            shape = [-(-side // step.divisor) * step.divisor for side in shape]
    return tuple(shape)


def _resize(transform: dict) -> Step:
    scale = transform.get("scale")
    if not isinstance(scale, list | tuple) or len(scale) != 2:
        raise UserError("Resize without a scale of width and height can't be exported")
    width, height = scale
    return (Within if transform.get("keep_ratio") else Exactly)(height, width)
