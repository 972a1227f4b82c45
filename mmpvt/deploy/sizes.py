"""What a config's test pipeline does to an image's size, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmengine.config import Config

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
