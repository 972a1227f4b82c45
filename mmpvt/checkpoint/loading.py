"""Reading checkpoint files and addresses; nothing in them is ever run.

``torch.load`` with ``weights_only=True`` builds tensors, containers and an explicit list of types;
:mod:`mmpvt.checkpoint.guard` shortens that list and sets bounds to sizes.
What MMEngine stores beside the weights (loss history, NumPy numbers) is on our list, one type at a
time; the one function such a file names, ``getattr``, is answered by :func:`_statistic`, which
knows four names and nothing else.
"""

from __future__ import annotations

import collections
import os
import pickle
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader

from mmpvt.checkpoint import guard
from mmpvt.checkpoint.detectors import upgrade
from mmpvt.errors import DownloadError, UserError


def _statistic(owner: type, name: str) -> Callable:
    """Stands in for ``getattr``: the statistics that MMEngine's loss history refers to."""
    if owner is HistoryBuffer and name in ("min", "max", "mean", "current"):
        return getattr(HistoryBuffer, name)
    raise pickle.UnpicklingError(f"Unsupported global: GLOBAL builtins.getattr for {name!r}")


PLAIN_TYPES: list = [
    HistoryBuffer,
    (_statistic, "builtins.getattr"),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")),
    *(
        (function, f"{module}.multiarray.{name}")
        for name, function in (("scalar", guard.number), ("_reconstruct", guard.empty_array))
        for module in ("numpy.core", "numpy._core")  # NumPy 2 renamed it; files name either
    ),
    collections.deque,
]

torch.serialization.add_safe_globals(PLAIN_TYPES)
guard.tame_codecs()


def load_checkpoint(source: str | os.PathLike, map_location: str | None = "cpu") -> dict:
    """Reads a checkpoint without running any code from it.

    Args:
        source (str | PathLike): a file (PyTorch's or, by its ending, ``.safetensors``), or an
            ``http(s)://`` address, which is kept in PyTorch's hub folder.
        map_location (str | None): device for the tensors, as for ``torch.load``.

    Returns:
        dict: what the file holds, a whole model's tensors under the names they have today.

    Raises:
        UserError: there is no such file, it can't be downloaded or read, or it holds anything but
            weights and plain values.
    """
    source = os.fspath(source)
    path = _fetch(source) if source.startswith(("http://", "https://")) else Path(source)
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"no checkpoint at {source}: there is no such file")
    try:
        checkpoint = _read(path, map_location)
        guard.check_content(path, checkpoint)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_reason(source, error)) from error
    if not isinstance(checkpoint, Mapping):
        raise UserError(
            f"{source} is no checkpoint: it holds a {type(checkpoint).__name__}, "
            "where tensors by name are expected"
        )
    if isinstance(checkpoint.get("meta"), dict):
        checkpoint["meta"].pop("config", None)  # MMEngine would run it, as Python, on resuming
    upgrade(checkpoint)
    return checkpoint


def register_loaders() -> None:
    """Makes this the way that MMEngine reads files and addresses."""

    def load_from_local(filename: str, map_location: str | None = None) -> dict:
        return load_checkpoint(filename, map_location)

    def load_from_http(filename: str, map_location: str | None = None, **_) -> dict:
        return load_checkpoint(filename, map_location)

    CheckpointLoader.register_scheme("", load_from_local, force=True)
    CheckpointLoader.register_scheme(["http://", "https://"], load_from_http, force=True)


def _read(path: Path, map_location: str | None) -> dict:
    if path.suffix == ".safetensors":
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise UserError(f"{path} is in safetensors' format: pip install safetensors") from error
        return load_file(path, device=map_location or "cpu")
    guard.check_file(path)
    return torch.load(path, map_location=map_location, weights_only=True)


def _reason(source: str, error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) and error.__context__ is not None:
        error = error.__context__  # without PyTorch's advice to load it unsafely
    culprit = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and culprit:
        return (
            f"{source} is refused: it carries {culprit[1]}, which is neither a weight nor a plain "
            "value, and nothing of it was run"
        )
    reason = next(iter(str(error).splitlines()), "")[:120]
    return (
        f"{source} can't be read as a checkpoint: it is truncated, damaged or of another kind "
        f"({type(error).__name__}: {reason})"
    )


def _fetch(url: str) -> Path:
    """The file of PyTorch's hub folder, downloaded by each machine's first process."""
    from mmpvt.utils.download import RetryPolicy, download  # with requests: takes time to import

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    target = folder / url.split("?")[0].rstrip("/").rsplit("/", 1)[-1]
    place = (platform.node(), os.fspath(target))
    places = all_gather_object(place)
    is_first = places.index(place) == get_rank()  # of this machine's processes
    for downloads in (is_first, True):  # all, where machines of one name share no folder
        failure = None
        if downloads and not target.is_file():
            print_log(f"downloading {url} to {target}", logger="current")
            try:
                download(url, target, policy=RetryPolicy(retries=3), shared=True)
            except UserError as error:
                failure = error
        failures = all_gather_object(failure)  # none waits for one that has failed
        for (machine, _), failed in zip(places, failures, strict=True):
            if failed:
                is_one = len({node for node, _ in places}) == 1
                raise DownloadError(
                    failed.what if is_one else f"on {machine}: {failed.what}",
                    where=url,
                    hint="download it elsewhere",
                    instead=("pretrained", "FILE or none"),
                )
    return target
