"""Data sets in the formats that annotation tools export, as one thing.

The readers are ours: of 20,000 images with 140,000 boxes in YOLO's format, supervision 0.31 opens
all in 8 s and 150 MB, globox 2.9 in 8 s and 84 MB, datumaro 1.13 in 7 s and 152 MB. But
supervision makes bit masks of polygons (rounded to pixels, a byte a pixel and object) and wants a
call a split; globox knows no polygons and stops at them; datumaro needs pandas, pyarrow, shapely
and opencv-python-headless (which replaces opencv-python's files), and finds COCO only under
``annotations/``. These readers take 5 s and 400 MB.
"""

from mmpvt.datasets.formats.opened import OpenedDataset
from mmpvt.datasets.formats.opening import open_dataset
from mmpvt.datasets.formats.records import ImageRecord, Instance
from mmpvt.datasets.formats.writing import LabelMaps
from mmpvt.utils.constants import FORMATS

__all__ = ["FORMATS", "ImageRecord", "Instance", "LabelMaps", "OpenedDataset", "open_dataset"]
