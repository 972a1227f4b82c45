"""Which samples make up a batch, and the randomness that goes with each.

A draw knows its place in a run: the epoch, the batch, the place in the batch. All that is random
about a sample follows from that place and the run's seed. It is the same then whichever worker
loads it, however many there are, how far ahead they are, and whether the run was stopped in
between.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import struct
import traceback
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmengine.dist import get_rank
from mmengine.structures import BaseDataElement
from torch.utils.data import BatchSampler, Dataset, Sampler

from mmpvt.datasets.loading import placeholder_images
from mmpvt.errors import UserError
from mmpvt.registry import DATA_SAMPLERS, FUNCTIONS
from mmpvt.utils.signals import handle

EARLY = 100  # batches: on_bad_data='auto' stops a run within its first ones only
PATIENCE = {False: 20, True: 100}  # images in a row, before and after one that could be used
STOCK = ("mmcv", "mmdet", "mmseg", "mmpvt")  # packages whose loading transforms are known
DAMAGED = (  # what decoders raise; UserError is a ValueError, and a broken PNG or XML SyntaxError
    *(OSError, EOFError, ValueError, SyntaxError, AssertionError),
    *(struct.error, zlib.error, BadZipFile, cv2.error),
)


class Draw(NamedTuple):
    """One sample to be loaded.

    Attributes:
        index: of the data set.
        key: numbers that the sample's randomness is derived from: the run's seed, the process, the
            epoch, the batch, the place in the batch.
    """

    index: int
    key: tuple[int, ...]


def seed_generators(*key: int) -> None:
    """Seeds Python's, NumPy's and PyTorch's generators from numbers, each at least 0."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002  what augmentations draw from
    seed = int.from_bytes(words[:2].tobytes(), "little")
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack every time
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class Fetch:
    """Loads draws, each with its own randomness, and can skip samples whose files can't be used.

    In place of such a sample another one is drawn for training, and a placeholder image is taken
    in evaluation, which skips its score. Either's data sample says in its ``left_out`` which images
    those were, and why: pairs of a name and a reason.

    Only what a loading transform (a class named ``Load…``) or the data set itself raises about a
    file counts as bad data. Any other transform's exception is an error of its own, and is raised.

    PyTorch's data loader calls a data set's ``__getitems__``, where it has one, with all that a
    batch sampler gave.

    Args:
        dataset (Dataset): of MMEngine's kind.
        evaluating (bool): whether each sample counts. Default: False.
        on_bad_data (str): ``'stop'`` ends the run on a sample that can't be used, ``'skip'`` goes
            on; ``'auto'`` stops training within its first 100 batches, and an evaluation.
            Default: ``'skip'``.
    """

    def __init__(
        self, dataset: Dataset, evaluating: bool = False, on_bad_data: str = "skip"
    ) -> None:
        self.dataset = dataset
        self.evaluating = evaluating
        self.on_bad_data = on_bad_data
        self._used = False

    def __call__(self, draws: list[Draw] | list[int]) -> list[dict]:
        """The samples of a batch.

        Raises:
            UserError: a sample can't be used, in a run that is to stop then; or none of many.
        """
        return [self._load(draw) for draw in draws]

    def _load(self, draw: Draw | int) -> dict:
        index = draw
        if isinstance(draw, Draw):
            seed_generators(*draw.key)
            index = draw.index
        left_out: list[tuple[str, str]] = []
        while True:
            try:
                sample = self.dataset[index]
                break
            except Exception as error:
                if not is_bad_data(error):
                    raise
                left_out.append((self._name(index), _reason(error)))
                if self.on_bad_data == "stop" or (self.on_bad_data == "auto" and _is_early(draw)):
                    raise UserError(_refusal(*left_out[0])) from error
                if self.evaluating:
                    sample = self._placeholder(index, *left_out[0])
                    break
                if len(left_out) == PATIENCE[self._used]:
                    name, reason = left_out[-1]
                    raise UserError(
                        f"none of {len(left_out)} images in a row can be used, the last of them "
                        f"{name}: {reason}"
                    ) from error
                index = np.random.randint(len(self.dataset))  # noqa: NPY002  seeded by the draw
        self._used = True
        if left_out:
            for packed in flatten(sample["data_samples"]):
                packed.set_metainfo(dict(left_out=left_out))
        return sample

    def _placeholder(self, index: int, name: str, reason: str) -> dict:
        try:
            with placeholder_images():
                return self.dataset[index]
        except Exception as error:
            if not is_bad_data(error):
                raise
            raise UserError(
                f"{_said(name, reason)}, and the data set's own way of loading has no placeholder "
                "for it: replace the file, or take it out of the annotations"
            ) from error

    def _name(self, index: int) -> str:
        try:
            return self.dataset.get_data_info(index)["img_path"]
        except Exception:  # of a data set of another kind
            return f"sample {index}"


def flatten(samples: Any) -> Iterator[BaseDataElement]:
    """Data samples out of the lists that batches and test-time augmentation make of them."""
    if isinstance(samples, list | tuple):
        for inner in samples:
            yield from flatten(inner)
    else:
        yield samples


def is_bad_data(error: Exception) -> bool:
    """Whether loading a sample failed on its files, not a transform on what was loaded.

    Args:
        error (Exception): as a data set raised it.
    """
    places = [
        (frame.f_locals.get("self"), frame.f_globals.get("__name__", ""))
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    loading = [module for owner, module in places if type(owner).__name__.startswith("Load")]
    if loading:  # a stock one takes what it can't decode for a fault of its own: AttributeError, …
        return loading[-1].split(".")[0] in STOCK or isinstance(error, DAMAGED)
    transforms = [module for owner, module in places if isinstance(owner, BaseTransform)]
    if transforms:  # an image so narrow that resizing leaves nothing of it is of a wrong size
        is_empty = isinstance(error, cv2.error) and error.func == "resize"
        return is_empty and transforms[-1].split(".")[0] in STOCK
    is_other = any(isinstance(owner, Compose) for owner, _ in places)
    return isinstance(error, DAMAGED) and not is_other


def _is_early(draw: Draw | int) -> bool:
    """Whether a sample is of a run's first batches; an evaluation's all are."""
    if not isinstance(draw, Draw):
        return True
    _, _, epoch, batch, _ = draw.key
    return epoch == 0 and batch < EARLY


def _refusal(name: str, reason: str) -> str:
    return f"{_said(name, reason)} (or pass --on-bad-data skip, which skips what can't be used)"


def _said(name: str, reason: str) -> str:
    return reason if name in reason else f"{name}: {reason}"


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:200]


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """A batch sampler that can start anywhere, without loading what comes before.

    It gives nothing until :meth:`start_at` is called: MMEngine's iteration-based loop asks for
    batches before a checkpoint has said where the run stands.

    Args:
        sampler (Sampler): MMEngine's or MMDetection's; its data set learns to load draws.
        batch_size (int): samples of a batch.
        inner (dict | None): config of the batch sampler that groups the sampler's indices.
            Default: None, in the order they come.
        drop_last (bool): leave out an epoch's last batch if it is short; for ``inner=None``.
            Default: False.
        endless (bool): go on with the next epoch where one ends. Default: False.
        on_bad_data (str): as :class:`Fetch`'s. Default: ``'skip'``.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        inner: dict | None = None,
        drop_last: bool = False,
        endless: bool = False,
        on_bad_data: str = "skip",
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.endless = endless
        self.batches: BatchSampler = (
            BatchSampler(sampler, batch_size, drop_last)
            if inner is None
            else DATA_SAMPLERS.build(
                inner, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        )
        self.place: tuple[int, int] | None = None
        sampler.dataset.__getitems__ = Fetch(sampler.dataset, on_bad_data=on_bad_data)

    @property
    def seed(self) -> int:
        """The seed of the order and of every sample."""
        return getattr(self.sampler, "seed", 0)

    @seed.setter
    def seed(self, seed: int) -> None:
        self.sampler.seed = seed

    def start_at(self, epoch: int, batch: int) -> None:
        """Sets where the next iteration over the sampler starts.

        Args:
            epoch (int): from 0.
            batch (int): of that epoch, from 0; those before are left out.
        """
        self.place = (epoch, batch)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Batches of draws."""
        if self.place is None:
            return
        epoch, first = self.place
        rank = get_rank()
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            number = -1
            for number, indices in enumerate(self.batches):
                if number >= first:
                    yield [
                        Draw(index, (self.seed, rank, epoch, number, place))
                        for place, index in enumerate(indices)
                    ]
            if not self.endless or number < 0:
                return
            first = max(0, first - number - 1)
            epoch += 1

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.batches)


@FUNCTIONS.register_module()
def init_worker(worker_id: int) -> None:
    """Leaves it to the main process to answer signals that a terminal or a cluster sends to all.

    A worker that ends on one would take the main process with it before that can save. It ends
    when the main process tells it to, kills it (:func:`kill_workers`) or is gone. What a transform
    starts answers signals as if it were started elsewhere.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        handle(number, lambda *_: None)  # an executed program would inherit SIG_IGN


def kill_workers() -> None:
    """Kills the daemonic processes that are left at this process's exit.

    Python ends them by SIGTERM there, which data-loading workers ignore, and waits for them.
    """
    if hasattr(signal, "SIGCHLD"):  # PyTorch's handler takes it for a crash; Windows has none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
