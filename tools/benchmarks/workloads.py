"""What is timed: a backbone alone, a whole detector around it, or an ImageNet classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from benchmarks.peers import PEERS, classifier
from mmpvt.models.archs import find_variant

if TYPE_CHECKING:
    from mmdet.structures import DetDataSample  # which a backbone's process needn't import

BACKBONE = ("forward", "forward+backward")
DETECTOR = ("train", "predict")
CLASSIFY = "classify"
WORK = (*BACKBONE, *DETECTOR, CLASSIFY)
CONFIGS = Path(__file__).parents[2] / "configs"
DETECTORS = {1: "retinanet_pvt_s_fpn_1x_coco.py", 2: "retinanet_pvt_v2_b2_fpn_1x_coco.py"}
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Case:
    """One line of the table, but for whose implementation it is.

    Attributes:
        arch: a variant's name.
        work: one of ``WORK``.
        height, width: of the images, in pixels.
        batch: images at once.
        precision: ``'float32'``, or the data type of autocast, ``'bfloat16'`` or ``'float16'``.
        device: ``'cpu'`` or ``'cuda'``.
    """

    arch: str
    work: str
    height: int
    width: int
    batch: int = 1
    precision: str = "float32"
    device: str = "cpu"

    def __str__(self) -> str:
        return (
            f"{self.arch} {self.work}, {self.batch} x {self.height}x{self.width}, "
            f"{self.precision}, {self.device}"
        )


def prepare(case: Case, peer: str) -> Callable[[], object]:
    """Builds what ``case`` runs.

    Args:
        case (Case): the work.
        peer (str): whose implementation: one of ``PEERS``.

    Returns:
        Callable: does the work once.

    Raises:
        UserError: the peer can't be had or lacks the variant.
    """
    torch.manual_seed(0)
    classifies = case.work == CLASSIFY
    backbone = classifier(peer, case.arch) if classifies else PEERS[peer](case.arch)
    torch.manual_seed(0)  # again: peers draw differently
    images = torch.randn(case.batch, 3, case.height, case.width).to(case.device)
    if classifies:
        step = partial(_forward, backbone.to(case.device).eval(), images)
    elif case.work in BACKBONE:
        model = backbone.to(case.device)
        run = _forward if case.work == "forward" else _forward_backward
        step = partial(run, model.train(case.work != "forward"), images)
    else:
        model = _detector(case, backbone)
        run = _train(model) if case.work == "train" else partial(model, mode="predict")
        model.train(case.work == "train")
        step = partial(run, images, _samples(case))
    return partial(_with_precision, case, step)


def _with_precision(case: Case, step: Callable[[], object]) -> object:
    grad = torch.inference_mode(case.work in ("forward", "predict", CLASSIFY))
    cast = torch.autocast(
        case.device,
        getattr(torch, case.precision if case.precision != "float32" else "bfloat16"),
        enabled=case.precision != "float32",
    )
    with grad, cast:
        return step()


def _forward(model: nn.Module, images: torch.Tensor) -> Sequence[torch.Tensor]:
    return model(images)


def _forward_backward(model: nn.Module, images: torch.Tensor) -> None:
    model.zero_grad()
    sum(out.float().square().mean() for out in model(images)).backward()


def _detector(case: Case, backbone: nn.Module) -> nn.Module:
    from mmpvt.engine.config import load_config

    variant = find_variant(case.arch)
    config = load_config(str(CONFIGS / DETECTORS[variant.version]))
    channels = getattr(backbone, "out_channels", variant.arch.embed_dims)
    config.model.neck.in_channels = list(channels)
    config.model.backbone.update(arch="tiny" if variant.version == 1 else "b0", init_cfg=None)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model)
    model.backbone = backbone
    return model.to(case.device)


def _train(model: nn.Module) -> Callable[..., None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def step(images: torch.Tensor, samples: list[DetDataSample]) -> None:
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model(images, samples, mode="loss"))
        loss.backward()
        optimizer.step()

    return step


def _samples(case: Case, boxes: int = 8) -> list[DetDataSample]:
    """Truth for each image: ``boxes`` boxes of random places, a quarter of the image at most."""
    from mmdet.structures import DetDataSample

    shape = (case.height, case.width)
    scale = torch.tensor([case.width, case.height] * 2)
    samples = []
    for _ in range(case.batch):
        corners, sides = torch.rand(boxes, 2) / 2, torch.rand(boxes, 2) / 4 + 0.1
        truth = InstanceData(
            bboxes=torch.cat([corners, corners + sides], 1) * scale,
            labels=torch.randint(80, (boxes,)),
        )
        sample = DetDataSample(
            metainfo=dict(
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                batch_input_shape=shape,
                scale_factor=(1.0, 1.0),
            )
        )
        sample.gt_instances = truth
        samples.append(sample.to(case.device))
    return samples
