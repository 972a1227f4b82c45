"""The shapes data set, as MMDetection and MMSegmentation read it."""

from __future__ import annotations

from mmdet.datasets import CocoDataset
from mmseg.datasets import ADE20KDataset

from mmpvt.datasets.shapes import METAINFO
from mmpvt.registry import DATASETS


@DATASETS.register_module()
class ShapesDataset(CocoDataset):
    """Boxes and masks, in COCO's layout."""

    METAINFO = METAINFO


@DATASETS.register_module()
class ShapesSegDataset(ADE20KDataset):
    """Label maps, in ADE20K's layout."""

    METAINFO = METAINFO
