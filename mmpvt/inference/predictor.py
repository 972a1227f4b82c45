"""Prediction with a trained detector, segmenter or classifier."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from mmseg.models import BaseSegmentor
from mmseg.structures import SegDataSample
from PIL import Image

from mmpvt.engine.class_names import is_classifier, read_class_lists
from mmpvt.engine.config import read_config, take_channels
from mmpvt.engine.mixed_precision import check_amp, decode_in_float32
from mmpvt.engine.pipeline import TestPipeline, load_model
from mmpvt.engine.start_from import find_checkpoint
from mmpvt.engine.tiles import (
    Box,
    check_tiled,
    merge_tiles,
    predict_tiles,
    threshold_of,
    tiling_of,
)
from mmpvt.errors import ConfigError, LaunchError, UserError
from mmpvt.inference.saving import push_to_hub, save_pretrained
from mmpvt.inference.windows import ArrayWindows, Windows, open_windows
from mmpvt.utils.constants import MAX_PIXELS, SCORE
from mmpvt.visualization.drawing import draw_sample, viewable


class Predictor:
    """A trained model with its test pipeline and class names.

    It gives the numbers of ``tools/test.py`` with batches of one image: the same loading,
    transforms and model. It doesn't use MMDetection's ``inference_detector`` and MMSegmentation's
    ``inference_model``, which load incomplete checkpoints with a warning only, and of which the
    former has no batches (see also :class:`~mmpvt.engine.pipeline.TestPipeline`).

    Args:
        config (str | PathLike | Config): of an experiment; ``mmdet::…`` and ``mmseg::…`` too.
        checkpoint (str | PathLike): file or URL, of any layout that tests take, ``hf://…``, or
            ``'published'``: MMDetection's, or a classifier's, for this config's architecture.
        device (str | None): ``'cpu'``, ``'cuda'``, ``'cuda:1'``. Default: a GPU where there is one.
        max_pixels (int): an image of more is refused, but for files that are read in tiles.
            Default: 179 million.
        tiles (int | None): side in pixels of the tiles that larger images are cut into, each
            prepared as an image would be. Default: None, images are predicted on as they are.
        overlap (float | None): share of its side that a tile has in common with the next.
            Default: 0.2.
        also_whole (bool): whether an image that is cut is predicted on as a whole, too, for the
            objects that are larger than a tile. Default: False.
        batch_size (int): tiles at a time. Default: 1.
        amp (str | None): type of mixed precision, ``'float16'`` or ``'bfloat16'``. Default: the
            config's.

    Attributes:
        model (BaseModel): MMDetection's, MMSegmentation's or mmpretrain's.
        config (Config): that it was built from.
        checkpoint (str): the file or URL of its weights.
        amp (str | None): the type of mixed precision that the option or the config names.
        classes (list[str]): by label: the checkpoint's, or else the config's data set's.
        meta (dict): ``classes`` and, perhaps, ``palette``.
        pipeline (TestPipeline): from an image to the model's input.

    Raises:
        UserError: the config or checkpoint can't be read or don't go together, or there is no such
            device; tiles of a model that needs the whole image.

    Example:
        >>> predictor = mmpvt.Predictor('configs/retinanet_pvt_s_fpn_1x_coco.py', 'epoch_12.pth')
        >>> sample = predictor('street.jpg')
        >>> sample.pred_instances.bboxes.shape, predictor.classes[sample.pred_instances.labels[0]]
        (torch.Size([100, 4]), 'car')
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike,
        device: str | None = None,
        max_pixels: int = MAX_PIXELS,
        *,
        tiles: int | None = None,
        overlap: float | None = None,
        also_whole: bool = False,
        batch_size: int = 1,
        amp: str | None = None,
    ) -> None:
        self.tiling = tiling_of(tiles, overlap, also_whole)
        self.batch_size = batch_size
        self.device = choose_device(device)
        if not isinstance(config, Config):
            config = read_config(os.fspath(config))
        config = copy.deepcopy(config)
        read_class_lists(config)
        take_channels(config)
        if self.tiling:
            check_tiled(config)
        self.config = config
        self.pipeline = TestPipeline(config, max_pixels)
        if amp:
            check_amp(self.device.type, amp)
        loop = config.get("test_cfg") or {}
        self.amp = amp = amp or loop.get("dtype")  # of our test loop
        self._autocast = partial(
            torch.autocast,
            self.device.type,
            getattr(torch, amp) if amp else None,
            enabled=bool(amp or loop.get("fp16")),
        )
        checkpoint = find_checkpoint(config, checkpoint)
        self.checkpoint = str(checkpoint)
        self.model: BaseModel = load_model(config, checkpoint).to(self.device)
        if amp:
            decode_in_float32(self.model)
        self.meta = cast(dict, self.model.dataset_meta)  # torch says Tensor | Module
        self.classes = list(self.meta.get("classes", ()))

    @property
    def finds_instances(self) -> bool:
        """Whether it gives instances (boxes, masks) rather than a label map or an image's class."""
        return not self.classifies and not isinstance(self.model, BaseSegmentor)

    @property
    def classifies(self) -> bool:
        """Whether it gives an image's class."""
        return is_classifier(self.config.model)

    def check_results(self) -> None:
        """Checks that what it gives can be written to files, served or shown.

        Raises:
            ConfigError: it gives panoptic segments alone.
        """
        fusion = getattr(self.model, "panoptic_fusion_head", None)
        if fusion is not None and not (fusion.test_cfg or {}).get("instance_on"):
            raise ConfigError(
                f"{type(self.model).__name__} gives panoptic segments alone, which are in no "
                "results: instances are",
                hint="of a MaskFormer or Mask2Former, set model.test_cfg's panoptic_on=False and "
                "instance_on=True in the config",
            )

    def load(self, path: str | os.PathLike) -> np.ndarray:
        """Decodes an image file as the config has it loaded: (height, width, 3), uint8, BGR, say.

        Raises:
            UserError: it is missing, empty, truncated, of another kind or too large.
        """
        return self.pipeline.load(path)

    def __call__(
        self, image: str | os.PathLike | np.ndarray | Image.Image | Sequence
    ) -> BaseDataElement | list[BaseDataElement]:
        """Predicts on an image, or on each of several.

        Args:
            image (str | PathLike | np.ndarray | PIL.Image.Image | Sequence): a file, an array as
                :meth:`load` gives it, or Pillow's image; or several of them.

        Returns:
            BaseDataElement | list[BaseDataElement]: MMDetection's or MMSegmentation's data
            sample, with ``pred_instances`` or ``pred_sem_seg`` in the image's pixels, or
            mmpretrain's, with ``pred_label`` and ``pred_score``, on the CPU.

        Raises:
            UserError: an image can't be read, or an array is no image as :meth:`load` gives it.
        """
        if isinstance(image, Sequence) and not isinstance(image, (str, bytes)):
            return [self(one) for one in image]
        image = cast("str | os.PathLike | np.ndarray | Image.Image", image)  # others are refused
        if self.tiling:
            return self.predict_in_tiles(image)[1]
        if isinstance(image, (str, os.PathLike)):
            prepared = self.pipeline.prepare(self.load(image), str(image))
        else:
            prepared = self.pipeline.prepare(self.pipeline.check_given(image))
        return self.predict([prepared])[0]

    @torch.no_grad()
    def predict(self, batch: Sequence[dict]) -> list[BaseDataElement]:
        """Predicts on prepared images.

        Args:
            batch (Sequence[dict]): of :meth:`TestPipeline.prepare`. Where their ``inputs`` are not
                of one size, MMDetection pads the smaller ones, which changes their numbers, and
                MMSegmentation refuses.

        Returns:
            list[BaseDataElement]: a data sample an image, on the CPU.

        Raises:
            UserError: the model takes no images of that size, or the GPU's memory is full.
        """
        data = {key: [item[key] for item in batch] for key in ("inputs", "data_samples")}
        try:
            with self._autocast():
                samples = self.model.test_step(data)
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"the GPU has no memory for {len(batch)} images of this size at once"
            ) from error
        return [sample.cpu() for sample in samples]

    def predict_in_tiles(
        self, image: str | os.PathLike | np.ndarray | Image.Image
    ) -> tuple[np.ndarray, BaseDataElement]:
        """Predicts on the tiles of an image, of which a large file's are read one by one.

        An image that is no larger than a tile is predicted on as it is.

        Args:
            image (str | PathLike | np.ndarray | PIL.Image.Image): a file, an array as :meth:`load`
                gives it, or Pillow's image.

        Returns:
            tuple[np.ndarray, BaseDataElement]: the image, or of one that is read window by window,
            a smaller one; and the prediction on all of it: ``pred_instances``, whose masks are a
            list of RLE dicts, or ``pred_sem_seg`` of uint8.

        Raises:
            UserError: the image can't be read, or the predictor has no tiles.
        """
        if self.tiling is None:
            raise ConfigError("the predictor was built without tiles", setting="tiles")
        opened: AbstractContextManager[Windows]
        if isinstance(image, (str, os.PathLike)):
            path, opened = str(image), open_windows(image, self.pipeline)
        else:
            path, opened = "", nullcontext(ArrayWindows(self.pipeline.check_given(image)))
        with opened as windows:
            shape = windows.shape
            if not self.tiling.cuts(*shape):
                picture = windows.read(Box(0, 0, shape[1], shape[0]))
                return picture, self.predict([self.pipeline.prepare(picture, path)])[0]
            picture, whole = windows.overview(), None
            if self.tiling.also_whole:
                (whole,) = self.predict([self.pipeline.prepare(picture, path)])
            prepared = (
                (box, self.pipeline.prepare(windows.read(box), path))
                for box in self.tiling.boxes(*shape)
            )
            tiles = predict_tiles(prepared, self.predict, self.batch_size)
            merged = merge_tiles(self.tiling, shape, tiles, whole, threshold_of(self.model))
        kind = SegDataSample if isinstance(self.model, BaseSegmentor) else DetDataSample
        sample = kind(metainfo=dict(img_path=path, img_id=0, ori_shape=shape, img_shape=shape))
        sample.set_data(merged)
        return picture, sample

    def draw(
        self, image: np.ndarray | Image.Image, sample: BaseDataElement, score: float = SCORE
    ) -> np.ndarray:
        """A prediction over its image.

        Args:
            image (np.ndarray | PIL.Image.Image): as :meth:`load` or :meth:`predict_in_tiles` gives
                it, or Pillow's.
            sample (BaseDataElement): its prediction, whose masks are left out where the image was
                made smaller.
            score (float): instances below are not drawn. Default: 0.3.

        Returns:
            np.ndarray: RGB, uint8, the shorter side at least 480 pixels.
        """
        if isinstance(image, Image.Image):
            image = self.pipeline.check_given(image)
        old, new = sample.metainfo.get("ori_shape", image.shape)[:2], image.shape[:2]
        side = None
        if self.tiling and self.tiling.cuts(*old):  # objects are as large as in a tile
            side = round(self.tiling.size * new[0] / old[0])
        if "pred_instances" in sample and old != new:
            instances = sample.pred_instances
            scale = torch.tensor([new[1] / old[1], new[0] / old[0]] * 2)
            kept = {key: instances[key] for key in ("scores", "labels")}
            sample = sample.new()
            sample.pred_instances = InstanceData(**kept, bboxes=instances.bboxes * scale)
        return draw_sample(viewable(image), sample, self.meta, False, score, side)

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Writes the model to a folder that :func:`mmpvt.load_model` reads, without a network.

        It holds ``model.safetensors``, ``config.json`` (with the class names) and ``README.md``, a
        model card, which stays as it is once it was edited.

        Args:
            folder (str | PathLike): a new or empty one, or one that this wrote.

        Returns:
            Path: the folder.

        Raises:
            OutputError: the folder holds other files, or can't be written.
            ConfigError: the config holds what is no data.
            CheckpointError: safetensors isn't installed.
        """
        return save_pretrained(folder, self.model, self.config, self.meta)

    def push_to_hub(self, repo: str, **options: Any) -> str:
        """Uploads what :meth:`save_pretrained` writes to a repository of the Hugging Face hub.

        Args:
            repo (str): ``'OWNER/NAME'``; made where there is none.
            **options: ``private``, ``message`` and ``token`` of
                :func:`mmpvt.inference.saving.push_to_hub`.

        Returns:
            str: the commit's URL.

        Raises:
            UserError: huggingface_hub isn't installed, or the hub refuses or can't be reached.
        """
        return push_to_hub(repo, self.model, self.config, self.meta, **options)


def choose_device(name: str | None) -> torch.device:
    """The device of that name; by default a CUDA GPU where there is one, or else the CPU.

    Raises:
        LaunchError: PyTorch knows no such device, or this machine has none.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LaunchError(
            f"no device {name!r}", hint="take cpu, cuda, or cuda:1 for the second"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count()
        is_there = (device.index or 0) < count
        available = f"{count} GPUs" if count else "no GPU that PyTorch can use"
    else:
        is_there, available = _has(device), "none that PyTorch can use"
    if not is_there:
        raise LaunchError(f"no device {name!r}: this machine has {available}", hint="take cpu, say")
    return device


def _has(device: torch.device) -> bool:
    try:
        return torch.zeros(1, device=device).item() == 0
    except (AssertionError, NotImplementedError, RuntimeError):  # as each backend likes it
        return False
