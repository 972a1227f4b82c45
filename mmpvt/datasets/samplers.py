"""Which samples make up a batch, the randomness of each, and what replaces one that fails.

A sample key tells a sample's place in a run: the epoch, the batch, the place in the batch. All that
is random about a sample follows from its key and the run's seed. So it is the same whichever worker
loads it, however many there are, how far ahead they are, and whether the run was resumed.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import random
import signal
import struct
import sys
import traceback
import zlib
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.queues import Queue
from typing import Any, NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset, Compose
from mmengine.dist import get_rank
from mmengine.structures import BaseDataElement
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from mmpvt.datasets.loading import placeholder_images
from mmpvt.datasets.pipelines import KNOWN
from mmpvt.errors import BadFileError, DatasetError, UserError
from mmpvt.registry import DATA_SAMPLERS, FUNCTIONS
from mmpvt.utils.signals import handle, stop_signals

EARLY_BATCHES = 100  # on_bad_data='auto' stops a run within these only
MAX_SKIPPED = {False: 20, True: 100}  # images in a row, before and after the first good one
DECODING_ERRORS = (  # UserError is a ValueError, and a broken PNG or XML a SyntaxError
    *(OSError, EOFError, ValueError, SyntaxError, AssertionError),
    *(struct.error, zlib.error, BadZipFile, cv2.error),
)
BATCHING = {"batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}  # of a DataLoader


class SampleKey(NamedTuple):
    """One sample of a run.

    Attributes:
        sample: its index in the data set.
        seeds: numbers that the sample's randomness is derived from: the run's seed, the process,
            the epoch, the batch, the place in the batch.
    """

    sample: int
    seeds: tuple[int, ...]


def seed_generators(*key: int) -> None:
    """Seeds Python's, NumPy's and PyTorch's generators from numbers, each at least 0."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(words.tobytes())
    np.random.seed(words)  # noqa: NPY002  what augmentations draw from
    seed = int.from_bytes(words[:2].tobytes(), "little")
    torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack every time
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class FaultTolerantDataset(Dataset):
    """A data set whose samples get randomness of their own, and are skipped where files are bad.

    Another sample is drawn in place of a bad one in training; in evaluation a placeholder image is
    taken, which the metrics ignore. Either's data sample lists in its ``skipped`` the images that
    were skipped: pairs of a name and a reason.

    Only what a loading transform (a class named ``Load…``) or the data set itself raises about a
    file counts as bad data. Any other transform's exception is raised as it is.

    All other attributes are read from, and set on, the wrapped data set.

    Args:
        dataset (Dataset): of MMEngine's kind.
        evaluating (bool): whether each sample counts. Default: False.
        on_bad_data (str): ``'stop'`` ends the run on a bad sample, ``'skip'`` resumes with another;
            ``'auto'`` stops an evaluation, and training within its first 100 batches. Default:
            ``'skip'``.
    """

    _loaded: bool

    def __init__(
        self, dataset: Dataset, evaluating: bool = False, on_bad_data: str = "skip"
    ) -> None:
        vars(self).update(dataset=dataset, evaluating=evaluating, on_bad_data=on_bad_data)
        vars(self).update(_loaded=False)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # while it is unpickled or copied
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in vars(self):
            super().__setattr__(name, value)
        else:  # a hook changes the pipeline, say
            for dataset in list(_owners(self.dataset, name)) or [self.dataset]:
                setattr(dataset, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey | int) -> dict:
        """A sample.

        Raises:
            BadFileError: it can't be used, and the run is to stop then.
            DatasetError: neither can many others, or there is no placeholder for it; or transforms
                leave nothing of any image.
        """
        if isinstance(key, SampleKey):
            seed_generators(*key.seeds)
        index = key.sample if isinstance(key, SampleKey) else key
        skipped: list[tuple[str, str]] = []
        while True:
            try:
                sample = self.dataset[index]
                break
            except Exception as error:
                if not is_bad_data(error):
                    if _found_nothing(error):
                        raise DatasetError(
                            "the pipeline's transforms leave nothing of the images, as a filter or "
                            "crop does that keeps no object"
                        ) from error
                    raise
                name, reason = self._name(index, error), _reason(error)
                skipped.append((name, reason))
                if self.on_bad_data == "stop" or (self.on_bad_data == "auto" and _is_early(key)):
                    told = error if isinstance(error, UserError) and error.hint else None
                    what = _describe(name, told.what if told else reason)
                    hint = told.hint if told else None
                    skip = ("on_bad_data", "skip")
                    raise BadFileError(what, where=name, hint=hint, instead=skip) from error
                if self.evaluating:
                    sample = self._placeholder(index, name, reason)
                    break
                if len(skipped) == MAX_SKIPPED[self._loaded]:
                    raise DatasetError(
                        f"none of {len(skipped)} images in a row can be used, the last of them "
                        f"{name}: {reason}"
                    ) from error
                index = np.random.randint(len(self.dataset))  # noqa: NPY002  seeded by the key
        self._loaded = True
        if skipped:
            for packed in flatten(sample["data_samples"]):
                packed.set_metainfo(dict(skipped=skipped))
        return sample

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> list[dict]:
        """A batch's samples; PyTorch's data loader calls it with what a batch sampler gave."""
        return [self[key] for key in keys]

    def _placeholder(self, index: int, name: str, reason: str) -> dict:
        try:
            with placeholder_images():
                return self.dataset[index]
        except Exception as error:
            if not is_bad_data(error):
                raise
            raise DatasetError(
                f"{_describe(name, reason)}, and the data set's own way of loading has no "
                "placeholder for it",
                where=name,
                hint="replace the file, or take it out of the annotations",
            ) from error

    def _name(self, index: int, error: Exception) -> str:
        """The image that an error is of: a mosaic has several."""
        for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
            for results in map(frame.f_locals.get, ("results", "data")):  # MMEngine's Compose's
                if isinstance(results, dict) and isinstance(results.get("img_path"), str):
                    return results["img_path"]
        try:
            return self.dataset.get_data_info(index)["img_path"]
        except Exception:  # of a data set of another kind
            return f"sample {index}"


def _owners(dataset: Any, name: str) -> Iterator[object]:
    """The data sets that have an attribute, within wrappers that don't."""
    if hasattr(dataset, name):
        yield dataset
    else:
        inner = [dataset.dataset] if hasattr(dataset, "dataset") else []
        for one in getattr(dataset, "datasets", inner):
            yield from _owners(one, name)


def fault_tolerant(
    loader: DataLoader, evaluating: bool = False, on_bad_data: str = "skip"
) -> DataLoader:
    """A data loader of the same settings over a :class:`FaultTolerantDataset`.

    Args:
        loader (DataLoader): over a data set of MMEngine's kind; its samplers are shared.
        evaluating, on_bad_data: as :class:`FaultTolerantDataset`'s.

    Returns:
        DataLoader: the loader itself if its data set is one already.
    """
    if isinstance(loader.dataset, FaultTolerantDataset):
        return loader
    names = inspect.signature(DataLoader).parameters.keys() - BATCHING - {"dataset"}
    names |= {"batch_sampler"} if loader.batch_size is None else BATCHING - {"batch_sampler"}
    settings = {name: getattr(loader, name) for name in names - {"shuffle"}}
    dataset = FaultTolerantDataset(loader.dataset, evaluating, on_bad_data)
    return DataLoader(dataset, **settings)


def flatten(samples: Any) -> Iterator[BaseDataElement]:
    """Data samples out of the lists that batches and test-time augmentation make of them.

    Those of semi-supervised training lie in a dict of branches, None where an image is not in one.
    """
    if isinstance(samples, dict):
        yield from flatten(list(samples.values()))
    elif isinstance(samples, list | tuple):
        for inner in samples:
            yield from flatten(inner)
    elif samples is not None:
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
        return loading[-1].split(".")[0] in KNOWN or isinstance(error, DECODING_ERRORS)
    transforms = [module for owner, module in places if isinstance(owner, BaseTransform)]
    if transforms:  # an image so narrow that resizing leaves nothing of it is of a wrong size
        is_empty = isinstance(error, cv2.error) and error.func == "resize"
        return is_empty and transforms[-1].split(".")[0] in KNOWN
    is_other = any(isinstance(owner, Compose) for owner, _ in places)
    return isinstance(error, DECODING_ERRORS) and not is_other


def _found_nothing(error: Exception) -> bool:
    """Whether MMEngine's data set gave up on transforms that return None, for another image."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code is BaseDataset.__getitem__.__code__


def _is_early(key: SampleKey | int) -> bool:
    """Whether a sample is of a run's first batches; an evaluation's all are."""
    if not isinstance(key, SampleKey):
        return True
    _, _, epoch, batch, _ = key.seeds
    return epoch == 0 and batch < EARLY_BATCHES


def _describe(name: str, reason: str) -> str:
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
        sampler (Sampler): MMEngine's or MMDetection's.
        batch_size (int): samples of a batch.
        inner (dict | None): config of the batch sampler that groups the sampler's indices.
            Default: None, in the order they come.
        drop_last (bool): drop an epoch's last batch if it is short; for ``inner=None``. Default:
            False.
        endless (bool): start the next epoch where one ends. Default: False.
        on_bad_data (str): as :class:`FaultTolerantDataset`'s, which the loops of
            :mod:`mmpvt.engine.loops` put around the data set. Default: ``'skip'``.
    """

    sampler: Any

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
        self.on_bad_data = on_bad_data
        self.batches: BatchSampler = (
            BatchSampler(sampler, batch_size, drop_last)
            if inner is None
            else DATA_SAMPLERS.build(
                inner, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        )
        self.place: tuple[int, int] | None = None

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
            batch (int): of that epoch, from 0; those before are skipped.
        """
        self.place = (epoch, batch)

    def __iter__(self) -> Iterator[list[SampleKey]]:  # type: ignore[override]  # PyTorch: ints only
        """Batches."""
        if self.place is None:
            return
        epoch, first = self.place
        rank = get_rank()
        while True:
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            number = -1
            for number, indices in enumerate(
                _with_own_numbers(self.batches, self.seed, rank, epoch)
            ):
                if number >= first:
                    yield [
                        SampleKey(index, (self.seed, rank, epoch, number, place))
                        for place, index in enumerate(indices)
                    ]
            if not self.endless or number < 0:
                return
            first = max(0, first - number - 1)
            epoch += 1

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.batches)


def _with_own_numbers(batches: Iterable[list[int]], *key: int) -> Iterator[list[int]]:
    """Batches of a sampler that may draw from NumPy's generator, as ``GroupMultiSourceSampler``
    does: there it gets numbers of the key's, whatever else draws between two batches."""
    words = np.random.SeedSequence(key).generate_state(4)
    own = np.random.RandomState(words).get_state()
    iterator = iter(batches)
    while True:
        outer = np.random.get_state()  # noqa: NPY002
        np.random.set_state(own)  # noqa: NPY002
        try:
            batch = next(iterator, None)
        finally:
            own = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outer)  # noqa: NPY002
        if batch is None:
            return
        yield batch


@FUNCTIONS.register_module()
def init_worker(worker_id: int) -> None:
    """Ignores, in a data-loading worker, the signals that a terminal or a cluster sends to all.

    A worker that ended on one would take the main process with it before that can save. It ends
    when the main process tells it to, kills it (:func:`kill_workers`) or is gone, or a batch can't
    be handed over. Processes that a transform starts answer signals as usual.
    """
    for number in stop_signals():
        handle(number, lambda *_: None)  # an executed program would inherit SIG_IGN
    end_on_lost_batch()


def end_on_lost_batch() -> None:
    """Ends this data-loading worker once it can't hand a batch over: the main process would wait
    for it for ever."""
    # the class is this process's own; multiprocessing has no other way to be told
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, _: object) -> None:
    if not isinstance(error, BrokenPipeError):  # the main process is gone
        print(
            f"error: a batch can't be handed over by a process that loads data: {error}. If "
            "/dev/shm is full, give it more room (docker run --shm-size=8g) or load in the main "
            "process (num_workers=0)",
            file=sys.stderr,
            flush=True,
        )
    os._exit(1)


def kill_workers() -> None:
    """Kills the daemonic processes that are left at this process's exit, but those of pools.

    Python would send SIGTERM, which data-loading workers ignore, and wait for them. A pool waits
    for ever for the lock that a killed worker held; its workers end on SIGTERM.
    """
    if hasattr(signal, "SIGCHLD"):  # PyTorch's handler takes it for a crash; Windows has none
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon and "PoolWorker" not in process.name:  # as multiprocessing names them
            process.kill()
