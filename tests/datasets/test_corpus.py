"""Each bad input is used correctly, or skipped with its name and the reason."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmdet.datasets import CocoDataset, MultiImageMixDataset
from mmdet.datasets.transforms import FilterAnnotations
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.datasets import ADE20KDataset
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

import corpus
from mmpvt import UserError
from mmpvt.datasets.coco import _run_lengths, clean_annotations
from mmpvt.datasets.samplers import (
    EARLY_BATCHES,
    FaultTolerantDataset,
    SampleKey,
    fault_tolerant,
    init_worker,
)
from mmpvt.engine.choices import ON_BAD_DATA
from mmpvt.errors import BadFileError


def names(inputs: list[corpus.Input]) -> dict:
    return dict(argvalues=inputs, ids=[item.name for item in inputs])


def detection(root: Path, content: dict, masks: bool = False) -> CocoDataset:
    init_default_scope("mmdet")
    (root / "a.json").write_text(json.dumps(content))
    pipeline = [
        dict(type="mmpvt.LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=masks),
        dict(type="Resize", scale=(64, 64), keep_ratio=True),
        dict(type="PackDetInputs"),
    ]
    return CocoDataset(
        data_root=str(root),
        ann_file="a.json",
        data_prefix=dict(img=""),
        metainfo=dict(classes=("circle", "square")),
        pipeline=pipeline,
        serialize_data=False,
    )


def load(dataset, evaluating: bool):
    """The first sample, which is the bad one."""
    return FaultTolerantDataset(dataset, evaluating).__getitems__([SampleKey(0, (0, 0))])[0]


def skipped(sample: dict) -> tuple[str, str] | None:
    pairs = sample["data_samples"].metainfo.get("skipped")
    return pairs and pairs[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in (1, 2):
        (tmp_path / f"{i}.jpg").write_bytes(corpus.jpeg(corpus.picture()))
    return tmp_path


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("item", **names(corpus.IMAGES))
def test_image(item: corpus.Input, evaluating: bool, root: Path):
    (root / "1.jpg").write_bytes(item.make(corpus.picture()))
    sample = load(detection(root, corpus.annotations()), evaluating)
    if item.reason:
        name, reason = skipped(sample)
        assert name == str(root / "1.jpg") and item.reason in reason
        blank = not sample["inputs"].any()
        assert blank == evaluating and sample["data_samples"].img_id == 2 - evaluating
    else:
        assert skipped(sample) is None
        seen = sample["inputs"].permute(1, 2, 0).numpy()[..., ::-1].astype(int)
        wanted = item.expected(corpus.picture())
        assert seen.shape == wanted.shape
        assert np.abs(seen - wanted).mean() < 12, np.abs(seen - wanted).mean()


@pytest.mark.parametrize(
    ("key", "evaluating", "stops"),
    [
        (SampleKey(0, (0, 0, 0, EARLY_BATCHES - 1, 0)), False, ("auto", "stop")),
        (SampleKey(0, (0, 0, 0, EARLY_BATCHES, 0)), False, ("stop",)),
        (SampleKey(0, (0, 0, 1, 0, 0)), False, ("stop",)),
        (0, True, ("auto", "stop")),
    ],
    ids=["early", "late", "second epoch", "test"],
)
@pytest.mark.parametrize("on_bad_data", ON_BAD_DATA)
def test_bad_image_stops_a_run(
    on_bad_data: str, key: SampleKey | int, evaluating: bool, stops: tuple[str, ...], root: Path
):
    (root / "1.jpg").write_bytes(b"no image")
    dataset = FaultTolerantDataset(detection(root, corpus.annotations()), evaluating, on_bad_data)
    if on_bad_data not in stops:
        assert skipped(dataset[key])[0] == str(root / "1.jpg")
        return
    with pytest.raises(BadFileError, match=r"1\.jpg can't be read .*on_bad_data='skip'") as caught:
        dataset[key]
    assert caught.value.instead == ("on_bad_data", "skip")
    assert caught.value.where == str(root / "1.jpg")


def test_a_mosaic_names_the_image_at_fault(root: Path):
    (root / "1.jpg").write_bytes(b"no image")
    inner = detection(root, corpus.annotations())
    inner.pipeline.transforms = inner.pipeline.transforms[:2]
    mosaic = [dict(type="Mosaic", img_scale=(64, 64)), dict(type="PackDetInputs")]
    dataset = MultiImageMixDataset(inner, mosaic)
    with pytest.raises(BadFileError) as caught:
        for seed in range(20):  # the second image's mosaic may lack the first
            FaultTolerantDataset(dataset, on_bad_data="stop")[SampleKey(1, (seed, 0, 0, 0, 0))]
    assert caught.value.where == str(root / "1.jpg") and str(caught.value).count(".jpg") == 1


class LoadOwn:
    """A user's loading transform."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, results: dict) -> dict:
        raise self.error


class Other(LoadOwn):
    """A user's transform."""


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize(
    "transform",
    [Other(OSError("no such table")), Other(UserError("no")), LoadOwn(ZeroDivisionError("bug"))],
    ids=["OSError", "UserError", "bug in loading"],
)
def test_an_error_of_a_transform_is_no_bad_data(transform: LoadOwn, evaluating: bool, root: Path):
    dataset = detection(root, corpus.annotations())
    dataset.pipeline.transforms.insert(1, transform)
    with pytest.raises(type(transform.error), match=str(transform.error)):
        load(dataset, evaluating)


def test_loading_transforms_of_others(root: Path):
    """Stock ones and a user's are known by their name; a data set may load on its own."""
    dataset = detection(root, corpus.annotations())
    loading, own = dataset.pipeline.transforms[0], LoadOwn(OSError("cut"))

    class Once(LoadOwn):
        def __call__(self, results: dict) -> dict:
            return own(results) if results["img_id"] == 1 else results

    dataset.pipeline.transforms.insert(0, Once(own.error))
    assert "OSError: cut" in skipped(load(dataset, evaluating=False))[1]
    with pytest.raises(UserError, match=r"OSError: cut, .* has no placeholder"):
        load(dataset, evaluating=True)
    dataset.pipeline.transforms[:2] = [MMCVLoadImageFromFile()]
    (root / "1.jpg").write_bytes(b"no image")
    assert "failed to load image" in skipped(load(dataset, evaluating=False))[1]
    dataset.pipeline.transforms[0] = loading

    def prepare(index: int) -> dict:
        if index == 0:
            raise FileNotFoundError("a part of it")
        return dataset.pipeline(dataset.get_data_info(index))

    dataset.prepare_data = prepare
    assert "FileNotFoundError: a part" in skipped(load(dataset, evaluating=False))[1]


@pytest.mark.parametrize("name", corpus.SIZED)
@pytest.mark.parametrize("evaluating", [False, True])
def test_image_of_an_unusual_shape(name: str, evaluating: bool, root: Path):
    height, width = corpus.SIZED[name]
    Image.new("RGB", (width, height), (9, 9, 9)).save(root / "1.jpg", quality=95)
    content = corpus.annotations()
    content["images"][0].update(height=height, width=width)
    sample = load(detection(root, content), evaluating)
    if min(height, width) * 64 / max(height, width) < 0.5:  # would shrink to nothing
        assert "1.jpg" in skipped(sample)[0]
    else:
        assert skipped(sample) is None and sample["inputs"].float().mean() == 9


@pytest.mark.parametrize("item", **names(corpus.ANNOTATIONS))
def test_annotation(item: corpus.Input, root: Path):
    content = corpus.annotations()
    item.make(content)
    before = copy.deepcopy(content)
    cleaned, findings = clean_annotations(content, masks=True)
    assert repr(content) == repr(before)
    lost = [finding for finding in findings if not finding.fixed]
    if item.reason:
        assert len(lost) == 1 and item.reason in lost[0].reason
    else:
        assert not lost
    ids = [annotation["id"] for annotation in cleaned["annotations"]]
    assert len(set(ids)) == len(ids)
    dataset = detection(root, cleaned, masks=True)
    samples = list(FaultTolerantDataset(dataset).__getitems__(range(len(dataset))))
    assert all(skipped(sample) is None for sample in samples)
    for annotation in COCO(str(root / "a.json")).anns.values():  # as an evaluator reads it
        assert COCO(str(root / "a.json")).annToMask(annotation).shape == corpus.SIZE
        assert 0 < annotation["area"] < np.inf and annotation["iscrowd"] in (0, 1)


def test_whole_annotations_stay_as_they_are():
    content = corpus.annotations()
    assert clean_annotations(content, masks=True) == (content, [])
    content["annotations"][0]["segmentation"] = "no mask"
    assert clean_annotations(content, masks=False) == (content, [])


def test_run_lengths_are_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = np.asfortranarray(rng.random((37, 53)) < rng.random(), dtype=np.uint8)
        assert _run_lengths(rle.encode(drawn)["counts"].decode()) == 37 * 53


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("item", **names(corpus.LABEL_MAPS))
def test_label_map(item: corpus.Input, evaluating: bool, tmp_path: Path):
    init_default_scope("mmseg")
    for i in (1, 2):
        (tmp_path / f"{i}.jpg").write_bytes(corpus.jpeg(corpus.picture()))
        (tmp_path / f"{i}.png").write_bytes(corpus.png(corpus.labels()))
    (tmp_path / "1.png").write_bytes(item.make(corpus.labels()))
    dataset = ADE20KDataset(
        data_root=str(tmp_path),
        data_prefix=dict(img_path="", seg_map_path=""),
        serialize_data=False,
        pipeline=[
            dict(type="mmpvt.LoadImageFromFile"),
            dict(type="mmpvt.LoadSegAnnotations", num_classes=6, reduce_zero_label=True),
            dict(type="PackSegInputs"),
        ],
    )
    sample = load(dataset, evaluating)
    labels = sample["data_samples"].gt_sem_seg.data.numpy()
    if item.reason:
        assert item.reason in skipped(sample)[1]
        assert (labels == 255).all() == evaluating
    else:
        assert skipped(sample) is None
        assert np.array_equal(labels[0], corpus.labels() - 1)


def test_nothing_can_be_used(root: Path):
    for i in (1, 2):
        (root / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="none of 20 images in a row can be used, the last of them"):
        load(detection(root, corpus.annotations()), False)


@pytest.mark.parametrize("test_mode", [False, True])
def test_transforms_leave_nothing(test_mode: bool, root: Path):
    dataset = detection(root, corpus.annotations())
    dataset.test_mode, dataset.max_refetch = test_mode, 3
    dataset.pipeline.transforms.insert(2, FilterAnnotations(min_gt_bbox_wh=(900, 900)))
    with pytest.raises(UserError, match="transforms leave nothing of the images, as a filter or"):
        load(dataset, test_mode)


def test_corpus_is_large():
    inputs = len(corpus.IMAGES) + len(corpus.SIZED) + len(corpus.ANNOTATIONS)
    assert inputs + len(corpus.LABEL_MAPS) >= 60


def test_a_fault_tolerant_data_set_is_the_wrapped_one(root: Path):
    """Hooks read and change it as if it weren't wrapped; workers get it pickled."""
    dataset = detection(root, corpus.annotations())
    wrapped = FaultTolerantDataset(dataset)
    assert wrapped.metainfo == dataset.metainfo and len(wrapped) == len(dataset)
    wrapped.pipeline = pipeline = copy.copy(dataset.pipeline)
    assert dataset.pipeline is pipeline and "pipeline" not in vars(wrapped)
    for copied in (pickle.loads(pickle.dumps(wrapped)), copy.deepcopy(wrapped)):
        assert isinstance(copied, FaultTolerantDataset)
        assert np.array_equal(copied[1]["inputs"], dataset[1]["inputs"])
    assert "__getitems__" not in vars(dataset)


def test_a_batch_that_can_not_be_handed_over(capfd):
    """As where /dev/shm is full: the main process doesn't wait for it."""
    loader = DataLoader(
        [0], num_workers=1, collate_fn=lambda _: lambda: None, worker_init_fn=init_worker,
        timeout=60,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iter(loader))
    assert "a batch can't be handed over" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_tolerant_data_loader(workers: int, root: Path):
    """It has the settings of the first, and shares its samplers; the first stays as it is."""
    dataset = detection(root, corpus.annotations())
    (root / "1.jpg").write_bytes(b"no image")
    settings = dict(num_workers=workers, collate_fn=pseudo_collate, worker_init_fn=init_worker)
    for batching in (dict(batch_size=2, drop_last=True), dict(batch_sampler=[[0, 1], [1]])):
        loader = DataLoader(dataset, **settings, **batching)
        tolerant = fault_tolerant(loader, evaluating=True)
        assert fault_tolerant(tolerant) is tolerant and loader.dataset is dataset
        assert tolerant.batch_sampler is loader.batch_sampler or tolerant.sampler is loader.sampler
        names = ("batch_size", "drop_last", "num_workers", "collate_fn", "worker_init_fn")
        assert all(getattr(tolerant, name) == getattr(loader, name) for name in names)
        batch = next(iter(tolerant))
        assert [skipped(dict(data_samples=s)) is not None for s in batch["data_samples"]] == [
            True,
            False,
        ]
