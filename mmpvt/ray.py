"""Prediction on a Ray Dataset, by actors that each hold the model: ``mmpvt.ray.predict``."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from mmpvt.environment import setup_environment
from mmpvt.errors import ConfigError, DatasetError, SetupError
from mmpvt.utils.text import few

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

ROWS = 32  # at least, that an actor predicts on at a time: some of one size are among them
COLUMNS = ("image", "bytes", "img", "jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "content")
CPUS_OF_A_GPU = 4.0  # decoding threads of an actor, where nothing is said


def predict(
    dataset: Dataset | str | os.PathLike,
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    *,
    column: str | None = None,
    batch_size: int = 1,
    tiles: int | None = None,
    overlap: float | None = None,
    also_whole: bool = False,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
) -> Dataset:
    """Predicts on the images of a Ray Dataset, lazily, as its own transformations do.

    Args:
        dataset (Dataset | str | PathLike): with a column of images: the bytes of a file, a dict
            with these as ``bytes``, or an RGB array of uint8 or uint16. Bytes are decoded as
            ``mmpvt predict`` decodes files, with its limits. Or a folder of image files.
        config (str | PathLike | Config): as :class:`mmpvt.Predictor` takes it.
        checkpoint (str | PathLike): as it takes it; a file that every machine can read.
        column (str | None): of the images. Default: None, the one that is named ``image``,
            ``bytes``, ``jpg`` or alike, or else the only one that can hold images.
        batch_size (int): images of one prepared size, or tiles, at a time, at most. Default: 1.
        tiles (int | None): side in pixels of the tiles of larger images. Default: None.
        overlap (float | None): share of its side that a tile has in common with the next.
        also_whole (bool): whether images that are cut are predicted on as a whole, too.
        concurrency (int | tuple[int, int] | None): actors, or how few and how many. Default: None,
            one for each GPU; without GPUs, one for each ``num_cpus`` but for one that
            reads.
        num_cpus (float | None): processors of an actor, each of which decodes. Default: None, 1;
            with a GPU 4.
        num_gpus (float | None): GPUs of an actor. Default: None, 1 where the cluster has some.

    Returns:
        Dataset: the other columns, and what a line of ``predictions.jsonl`` has: ``instances``;
        or ``label_map``, the bytes of a PNG file; or ``class``, ``score`` and ``scores``. ``error``
        says why an image has none, and is None of the others.

    Raises:
        UserError: Ray isn't installed, the dataset has no column of images, or the model can't be
            loaded.

    Example:
        >>> images = ray.data.read_binary_files('photos', include_paths=True)
        >>> found = mmpvt.ray.predict(images, 'retinanet_pvt_s_fpn_1x_coco', 'epoch_12.pth')
        >>> found.write_parquet('found')
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
        raise SetupError("Ray Data isn't installed", hint="pip install 'mmpvt[ray]'")
    import ray
    import ray.data

    if batch_size < 1:
        raise ConfigError(f"at least one image at a time, not {batch_size}", setting="batch_size")
    setup_environment()
    from mmpvt.inference.batches import MAX_PENDING
    from mmpvt.inference.predictor import Predictor
    from mmpvt.inference.rows import added_columns
    from mmpvt.utils.constants import IMAGE_SUFFIXES

    # Loaded here, too, as Ray would report a mistake with the traceback of each of its actors.
    options = dict(tiles=tiles, overlap=overlap, also_whole=also_whole, batch_size=batch_size)
    predictor = Predictor(config, checkpoint, "cpu", **options)  # type: ignore[arg-type]
    predictor.check_results()
    source = Path(predictor.checkpoint).expanduser()
    where = str(source.absolute()) if source.exists() else predictor.checkpoint
    if isinstance(dataset, str | os.PathLike):
        endings = sorted(suffix[1:] for suffix in IMAGE_SUFFIXES)
        try:
            dataset = ray.data.read_binary_files(
                os.fspath(dataset), include_paths=True, file_extensions=endings
            )
        except (FileNotFoundError, ValueError) as error:  # Ray's, of an empty folder
            raise DatasetError(f"{dataset} isn't there, or holds no images") from error
    column = _image_column(dataset, column, added_columns(predictor))
    available = ray.cluster_resources()
    gpus = available.get("GPU", 0)
    if num_gpus is None:
        num_gpus = 1 if gpus else 0
    if num_cpus is None:
        num_cpus = CPUS_OF_A_GPU if num_gpus else 1.0
    if concurrency is None:
        count = gpus / num_gpus if num_gpus else (available.get("CPU", 1) - 1) / num_cpus
        concurrency = max(1, int(count))
    least, most = (concurrency,) * 2 if isinstance(concurrency, int) else concurrency
    if not num_gpus and least * num_cpus >= available.get("CPU", 1):
        raise ConfigError(
            f"{least} actors of {num_cpus:g} processors leave none of the cluster's "
            f"{available.get('CPU', 1):g} to read the images",
            setting="concurrency",
            hint="take fewer, or num_cpus=0.5, say",
        )
    return dataset.map_batches(
        cast(Any, _Actor),
        fn_constructor_args=(predictor.config, where, column, bool(num_gpus), num_cpus, options),
        batch_size=max(ROWS, MAX_PENDING * batch_size),
        batch_format="pyarrow",
        udf_modifying_row_count=False,
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


def _image_column(dataset: Dataset, column: str | None, added: list[str]) -> str:
    schema = dataset.schema()
    if schema is None or not schema.names:
        raise DatasetError("the dataset has no rows")
    kinds = dict(zip(schema.names, schema.types, strict=True))
    if column is None:
        possible = [name for name, kind in kinds.items() if _can_hold_images(kind)]
        named = [name for name in COLUMNS if name in possible]
        if not named and len(possible) != 1:
            raise DatasetError(
                f"none of the dataset's columns ({few(kinds, 10)}) is known to hold images",
                hint="name it with column='…'",
            )
        column = (named or possible)[0]
    elif column not in kinds:
        raise DatasetError(
            f"the dataset has no column {column!r}, but {few(kinds, 10)}", setting="column"
        )
    if taken := [name for name in added if name in kinds and name != column]:
        raise DatasetError(
            f"the dataset has a column {taken[0]!r} already, which the predictions would take",
            hint=f"rename it: dataset.rename_columns({{{taken[0]!r}: '…'}})",
        )
    return column


def _can_hold_images(kind: object) -> bool:
    """By a column's type: bytes, a struct with such, or an array; a Python object, in pandas."""
    said = str(kind)
    return said.startswith(("binary", "large_binary", "Arrow", "<class 'object'>")) or (
        said.startswith("struct<") and "bytes: " in said
    )


class _Actor:
    """A model in a process of Ray's.

    It imports what it needs by itself: Ray imports this module before anything could be set up.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: str,
        column: str,
        on_gpu: bool,
        num_cpus: float,
        options: dict,
    ) -> None:
        setup_environment()
        import cv2

        from mmpvt.inference.predictor import Predictor
        from mmpvt.inference.rows import RowPredictor

        if modules := config.get("custom_imports"):
            import_modules_from_strings(**modules)
        predictor = Predictor(config, checkpoint, "cuda" if on_gpu else "cpu", **options)
        self.predict = RowPredictor(predictor, column, max(1, math.ceil(num_cpus)))
        cv2.setNumThreads(1)  # it decodes in threads of its own

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.predict(table)
