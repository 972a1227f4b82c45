"""Reading checkpoint files and URLs; nothing in them is ever run.

``torch.load`` with ``weights_only=True`` builds tensors, containers and an explicit list of types;
:mod:`mmpvt.checkpoint.safety` shortens that list and sets bounds to sizes. What MMEngine stores
beside the weights (loss history, NumPy numbers) is on our list, one type at a time, while a file is
read; the one function such a file names, ``getattr``, is answered by :func:`_statistic`, which
knows four names and nothing else.
"""

from __future__ import annotations

import collections
import logging
import os
import pickle
import platform
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import HistoryBuffer, print_log

from mmpvt.checkpoint import safety
from mmpvt.checkpoint.conversion import unwrap, upgrade
from mmpvt.checkpoint.hub import SCHEME, WEIGHTS_FILE, download_from_hub
from mmpvt.compat.torch import Global, weights_only_globals
from mmpvt.errors import CheckpointError, DownloadError, UserError
from mmpvt.utils.files import parse_json


def _statistic(owner: type, name: str) -> Callable:
    """``getattr`` for the statistics alone that MMEngine's loss history refers to."""
    if owner is HistoryBuffer and name in ("min", "max", "mean", "current"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr for {name!r}")


DATASET_META = "mmpvt.dataset_meta"  # of a safetensors file's metadata: classes, palette, as JSON
AVERAGES = ("state_dict_ema", "model_ema")  # timm's and DeiT's keys; MMEngine's are state_dict
PLAIN_TYPES: list[Global] = [
    HistoryBuffer,
    (safety.encode_text, "_codecs.encode"),
    (_statistic, "builtins.getattr"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")),
    *(
        (function, f"{module}.multiarray.{name}")
        for name, function in (("scalar", safety.number), ("_reconstruct", safety.empty_array))
        for module in ("numpy.core", "numpy._core")  # NumPy 2 renamed it; files name either
    ),
    collections.deque,
    complex,  # with the next, unknown to PyTorch 2.4
    set,
]


def weights_only() -> AbstractContextManager[None]:
    """Within it, ``torch.load(weights_only=True)`` reads what MMEngine stores."""
    return weights_only_globals(PLAIN_TYPES)


def load_checkpoint(source: str | os.PathLike, map_location: str | None = "cpu") -> dict:
    """Reads a checkpoint without running any code from it.

    Args:
        source (str | PathLike): a file (PyTorch's or, by its suffix, ``.safetensors``), a folder
            of ``save_pretrained``; an ``http(s)://`` URL, whose file is kept in PyTorch's hub
            folder: one that ends in ``#sha256=…`` is verified by these first digits; or
            ``hf://OWNER/NAME``, with ``@REVISION`` or not, with ``/FILE`` or not, for the
            ``model.safetensors`` or the file of a repository of the Hugging Face hub.
        map_location (str | None): device for the tensors, as for ``torch.load``.

    Returns:
        dict: what the file holds, a whole model's tensors under the names they have today.

    Raises:
        CheckpointError: there is no such file, it can't be read, or it holds anything but weights
            and plain values.
        DownloadError: it can't be downloaded.
    """
    source = os.fspath(source)
    if source.startswith(SCHEME):
        (path,) = download_from_hub(source)
    else:
        path = _fetch(source) if source.startswith(("http://", "https://")) else Path(source)
    path = path.expanduser()
    if path.is_dir() and (path / WEIGHTS_FILE).is_file():
        path /= WEIGHTS_FILE
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {source}: there is no such file", where=source)
    try:
        checkpoint = _read(path, map_location)
        safety.check_content(path, checkpoint)
    except UserError:
        raise
    except Exception as error:
        raise _describe(source, error) from error
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f"{source} is no checkpoint: it holds a {type(checkpoint).__name__}, "
            "where tensors by name are expected",
            where=source,
        )
    if isinstance(checkpoint.get("meta"), dict):
        checkpoint["meta"].pop("config", None)  # MMEngine would run it, as Python, on resuming
    averages = [key for key in AVERAGES if isinstance(checkpoint.get(key), Mapping)]
    if averages and unwrap(checkpoint) is not checkpoint:
        print_log(
            f"{source} also holds averages of the weights, {averages[0]}, which aren't used: to "
            "take these, save them to a file of their own",
            logger="current",
            level=logging.WARNING,
        )
    upgrade(checkpoint)
    return checkpoint


def import_safetensors(path: Path) -> ModuleType:
    """``safetensors.torch``, an optional package that a file's format takes.

    Raises:
        CheckpointError: it isn't installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is in safetensors' format", where=path, hint="pip install safetensors"
        ) from error
    return safetensors.torch


def _read(path: Path, map_location: str | None) -> dict:
    if path.suffix == ".safetensors":
        return _read_safetensors(path, map_location or "cpu")
    with weights_only():
        safety.check_file(path)
        return torch.load(path, map_location=map_location, weights_only=True)


def _read_safetensors(path: Path, device: str) -> dict:
    """The tensors; beside them classes and palette, where ``save_pretrained`` has written them."""
    tensors = import_safetensors(path).load_file(path, device=device)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        stored = (file.metadata() or {}).get(DATASET_META)
    if stored is None:
        return tensors
    return dict(state_dict=tensors, meta=dict(dataset_meta=parse_json(stored.encode())))


def _describe(source: str, error: BaseException) -> CheckpointError:
    if isinstance(error, pickle.UnpicklingError) and error.__context__ is not None:
        error = error.__context__  # without PyTorch's advice to load it unsafely
    culprit = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and culprit:
        return safety.carries_code(source, culprit[1])
    reason = next(iter(str(error).splitlines()), "")[:120]
    return CheckpointError(
        f"{source} can't be read as a checkpoint: it is truncated, damaged or of another kind "
        f"({type(error).__name__}: {reason})",
        where=source,
    )


def _fetch(url: str) -> Path:
    """The file of PyTorch's hub folder, downloaded by each machine's first process."""
    # with requests: takes time to import
    from mmpvt.utils.download import RetryPolicy, check_sha256, download

    url, _, sha256 = url.partition("#sha256=")
    verify = partial(check_sha256, digits=sha256, url=url) if sha256 else None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    place = (platform.node(), os.fspath(target))
    places = all_gather_object(place)
    is_first = places.index(place) == get_rank()  # of this machine's processes
    if is_first and verify and target.is_file():
        try:
            verify(target)
        except DownloadError:
            print_log(
                f"{target} is another file than {url}, or a changed one, as its SHA-256 doesn't "
                f"begin with {sha256}: to download that, delete it",
                logger="current",
                level=logging.WARNING,
            )
    for downloads in (is_first, True):  # all, where machines of one name share no folder
        failure = None
        if downloads and not target.is_file():
            print_log(f"downloading {url} to {target}", logger="current")
            try:
                download(url, target, verify=verify, policy=RetryPolicy(retries=3), shared=True)
            except UserError as error:
                failure = error
        failures = all_gather_object(failure)  # none waits for one that has failed
        for (machine, _), failed in zip(places, failures, strict=True):
            if failed is not None:
                is_one = len({node for node, _ in places}) == 1
                raise DownloadError(
                    failed.what if is_one else f"on {machine}: {failed.what}",
                    where=url,
                    hint="download it elsewhere and name the file",
                    instead=("pretrained", "FILE or none"),
                )
    return target
