"""Data sets in the formats that annotation tools export, as one thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmpvt.datasets.formats.opened import LabelMaps, OpenedDataset
from mmpvt.datasets.formats.records import FORMATS, ImageRecord, Instance

__all__ = ["FORMATS", "ImageRecord", "Instance", "LabelMaps", "OpenedDataset", "open_dataset"]


def open_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    unpack_to: str | Path | None = None,
    task: str | None = None,
    keep_empty: bool = False,
    on_bad_data: str = "auto",
) -> OpenedDataset:
    """Opens a data set in whatever format it is.

    Args:
        path (str | Path): a folder, a zip archive, a ``data.yaml``, a ``.json`` or an ``.xml``.
        format (str | None): one of :data:`FORMATS`. Default: None, recognised by what is there.
        classes (Sequence[str] | None): names: of label maps, in the order of their values; of
            other formats, those to take, in this order. Default: None, all that are there.
        unpack_to (str | Path | None): the new folder that an archive is unpacked to.
        task (str | None): ``'detection'``, ``'instance'`` or ``'semantic'``: chooses between
            formats where several fit, and refuses data that lacks what it needs. Default: None.
        keep_empty (bool): take images without annotations as images without objects.
        on_bad_data (str): ``'skip'`` goes on without annotations and images that can't be used,
            and notes how many; ``'auto'`` and ``'stop'`` raise. Default: ``'auto'``.

    Raises:
        DatasetError: it can't be used as asked.
    """
    raise NotImplementedError
