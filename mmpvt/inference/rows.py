"""Predictions on tables whose rows hold images, as Ray Data and PyArrow have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from mmpvt.errors import BadFileError, UserError
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.inference.batches import (
    Item,
    batches,
    classification,
    in_threads,
    instance_lines,
    predict_batch,
)
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.text import printable
from mmpvt.visualization import saving

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("path", "file_name", "filename", "__key__", "key", "id")  # of an image, for messages
COLOURS = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}  # by number of channels


class RowPredictor:
    """A predictor on the rows of tables.

    Args:
        predictor (Predictor): the model.
        column (str): of the images: files' bytes, or RGB arrays.
        threads (int): that decode. Default: 1.
    """

    def __init__(self, predictor: Predictor, column: str, threads: int = 1) -> None:
        self.predictor, self.column, self.threads = predictor, column, threads
        self.ids = [category["id"] for category in coco_categories(predictor.classes)]

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with its predictions, and without its images.

        Args:
            table (pa.Table): of some images.

        Returns:
            pa.Table: a row an image, in the same order, with the columns of :func:`added_columns`.
        """
        predictor = self.predictor
        names = next((table[name] for name in NAMES if name in table.column_names), None)
        images = table[self.column]

        def prepare(i: int) -> Item:
            item = Item(i, "the image" if names is None else printable(names[i].as_py()))
            try:
                content = _content(images[i].as_py(), item.name)
                item.image = predictor.pipeline.decode(content, item.name)
                if not predictor.tiling:
                    item.data = predictor.pipeline.prepare(item.image, item.name)
            except UserError as error:
                item.reason = str(error)
            return item

        lines: list[dict] = [{} for _ in range(len(table))]
        ahead = predictor.batch_size + self.threads
        items = in_threads(prepare, len(table), ahead, self.threads)
        for batch in batches(predictor, items, predictor.batch_size):
            for item, sample in predict_batch(predictor, batch):
                line = self._describe(sample) if sample is not None else {}
                lines[item.index] = line or dict(error=printable(item.reason))
        table = table.drop_columns([self.column])
        types = _types()
        for name in added_columns(predictor):
            values = [line.get(name) for line in lines]
            table = table.append_column(name, _array(values, types[name]))
        return table

    def _describe(self, sample: BaseDataElement) -> dict:
        line: dict = {}
        if "pred_sem_seg" in sample:
            line["label_map"] = cv2.imencode(".png", saving.label_map(sample))[1].tobytes()
        if "pred_label" in sample:
            line.update(classification(sample, self.predictor.classes))
        if "pred_instances" in sample:
            line["instances"] = instance_lines(sample, self.ids)
        return line


def added_columns(predictor: Predictor) -> list[str]:
    """Names of the columns that predictions are in."""
    if predictor.classifies:
        return ["class", "score", "scores", "error"]
    return ["instances" if predictor.finds_instances else "label_map", "error"]


def _content(value: object, name: str) -> bytes:
    """A file's bytes of a column's value; an array becomes a PNG file, so that a config's loader
    takes channels and bits as it does a file's."""
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if value is None:
        raise BadFileError(f"{name}: the row has no image")
    if isinstance(value, np.ndarray) and value.ndim in (2, 3) and value.size:
        channels = value.shape[2] if value.ndim == 3 else 1
        if value.dtype == np.int32 and value.min() >= 0 and value.max() < 2**16:
            value = value.astype(np.uint16)  # as Pillow has 16 bits
        if channels in (1, *COLOURS) and value.dtype in (np.uint8, np.uint16):
            pixels = cv2.cvtColor(value, COLOURS[channels]) if channels in COLOURS else value
            return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    found = f"{value.dtype} of {value.shape}" if isinstance(value, np.ndarray) else type(value)
    raise BadFileError(
        f"{name} is neither a file's bytes nor an RGB array of uint8 or uint16, but {found}"
    )


def _types() -> dict[str, pa.DataType]:
    """Of the columns: the same in every block, whatever its images have."""
    import pyarrow as pa

    segmentation = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])
    instance = [
        ("category_id", pa.int64()),
        ("bbox", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("segmentation", segmentation),
    ]
    return {
        "instances": pa.list_(pa.struct(instance)),
        "label_map": pa.binary(),
        "class": pa.string(),
        "score": pa.float64(),
        "scores": pa.map_(pa.string(), pa.float64()),
        "error": pa.string(),
    }


def _array(values: list, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_map(kind):
        values = [value and list(value.items()) for value in values]
    return pa.array(values, kind)
