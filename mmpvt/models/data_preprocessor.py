"""Images of any number of channels: how many a model takes, and a detector's data preprocessor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models import DetDataPreprocessor as MMDetDataPreprocessor
from torch import Tensor, nn

from mmpvt.registry import MODELS


def input_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its first convolution; else 3."""
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return next((conv.in_channels for conv in convolutions), 3)


@MODELS.register_module()
class DetDataPreprocessor(MMDetDataPreprocessor):
    """MMDetection's, for images of any number of channels.

    MMEngine's takes one or three means only, and its ``bgr_to_rgb`` drops what comes after the
    third channel. This one swaps the first and the third channel of images that have three or more,
    and keeps the others.

    Args:
        mean (Sequence[float] | None): one, or one a channel, in the order after ``bgr_to_rgb``.
            Default: None.
        std (Sequence[float] | None): as many. Default: None.
        bgr_to_rgb (bool): swap the first and the third channel. Default: False.
        rgb_to_bgr (bool): the same. Default: False.
        **kwargs: of MMDetection's ``DetDataPreprocessor``.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.channel_conversion = bgr_to_rgb or rgb_to_bgr
        self._enable_normalize = mean is not None
        if mean is not None:
            for name, values in (("mean", mean), ("std", std)):
                buffer = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
                self.register_buffer(name, buffer, persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalises, pads and stacks images.

        Args:
            data (dict): ``inputs``, a list of (channels, height, width) tensors or one of
                (batch, channels, height, width); ``data_samples``.
            training (bool): whether batch augmentations apply. Default: False.
        """
        if self.channel_conversion:
            inputs = data["inputs"]
            is_batch = isinstance(inputs, Tensor)
            inputs = _swap_channels(inputs) if is_batch else [_swap_channels(x) for x in inputs]
            data = {**data, "inputs": inputs}
        return super().forward(data, training)


def _swap_channels(x: Tensor) -> Tensor:
    if x.shape[-3] < 3:
        return x
    x = x.float()  # PyTorch can't index uint16
    return x[..., [2, 1, 0, *range(3, x.shape[-3])], :, :]
