"""Images in tiles: where they lie, and what is found in them as one prediction."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from pycocotools import mask as coco_mask

from mmpvt.engine.tiles import Box, Tiling, merge_instances, merge_tiles, merging, tiling_of
from mmpvt.errors import ConfigError, OutputError


@pytest.mark.parametrize("size, overlap", [(64, 0.2), (64, 0.0), (50, 0.6), (1, 0.5), (300, 0.2)])
@pytest.mark.parametrize("shape", [(64, 64), (65, 200), (199, 7), (128, 301)])
def test_tiles_cover_the_image(size: int, overlap: float, shape: tuple[int, int]):
    """Every pixel, by tiles of one size where the image has room for them, in rows."""
    covered = np.zeros(shape, int)
    boxes = Tiling(size, overlap).boxes(*shape)
    for box in boxes:
        part = covered[box.top : box.bottom, box.left : box.right]
        assert part.shape == (min(size, shape[0]), min(size, shape[1]))
        part += 1
    assert covered.min() == 1 or overlap > 0
    assert covered.min() >= 1
    assert boxes == sorted(boxes, key=lambda box: (box.top, box.left)) and len({*boxes}) == len(
        boxes
    )
    assert Tiling(size, overlap).cuts(*shape) == (len(boxes) > 1)
    for starts in (sorted({box.top for box in boxes}), sorted({box.left for box in boxes})):
        steps = np.diff(starts)
        assert (steps <= max(1, round(size * (1 - overlap)))).all(), "less overlap than asked for"
        assert not len(steps) or steps.max() - steps.min() <= 1, "unevenly spread"


@pytest.mark.parametrize(
    "options, said",
    [
        ((0, None, False), "tiles: a tile's side is an int of pixels from 1 on, not 0"),
        ((2.5, None, False), "tiles: a tile's side is an int"),
        ((64, 1.0, False), "overlap: 1.0: the share"),
        ((64, float("nan"), False), "overlap: nan"),
        ((64, -0.1, False), "overlap: -0.1"),
        ((None, 0.3, False), "overlap: it is for tiles, which isn't given"),
        ((None, None, True), "also_whole: it is for tiles"),
    ],
)
def test_careless_tilings(options: tuple, said: str):
    with pytest.raises(ConfigError, match=said):
        tiling_of(*options)


def found(*instances: tuple, shape: tuple[int, int] | None = None) -> InstanceData:
    """Of (box, score, label); with rectangular masks of a tile's shape, if it is given."""
    boxes, scores, labels = zip(*instances, strict=True) if instances else ((), (), ())
    data = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.long),
    )
    if shape:
        data.masks = torch.zeros(len(boxes), *shape, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(data.masks, boxes, strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = True
    return data


LEFT, RIGHT = Box(0, 0, 100, 100), Box(80, 0, 180, 100)  # two tiles of an image of 180x100
SHAPE = (100, 180)


def merged(left: InstanceData, right: InstanceData) -> list[tuple]:
    result = merge_instances([(LEFT, left), (RIGHT, right)], SHAPE)
    return [
        (box, round(score, 3), label)
        for box, score, label in zip(
            result.bboxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True
        )
    ]


def test_an_object_across_a_border_is_one():
    """Cut in both tiles, its parts are joined; of the one that is cut, the other's box is taken."""
    both = merged(found(([40, 20, 100, 50], 0.8, 1)), found(([0, 21, 60, 50], 0.9, 1)))
    assert both == [([40, 20, 140, 50], 0.9, 1)]
    one = merged(found(([85, 20, 100, 50], 0.9, 1)), found(([5, 20, 40, 50], 0.8, 1)))
    assert one == [([85, 20, 120, 50], 0.9, 1)]
    seen_twice = merged(found(([82, 20, 96, 50], 0.7, 1)), found(([2, 20, 16, 50], 0.8, 1)))
    assert seen_twice == [([82, 20, 96, 50], 0.8, 1)]


def test_what_stays_apart():
    """Other classes, what only one tile sees, objects in front of others, faint ghosts."""
    two = merged(found(([40, 20, 100, 50], 0.8, 1)), found(([0, 20, 60, 50], 0.9, 2)))
    assert [label for *_, label in two] == [2, 1]
    nested = ([10, 10, 90, 90], 0.9, 1), ([30, 30, 60, 60], 0.8, 1)  # IoS of 1 within one tile
    assert len(merged(found(*nested), found())) == 2
    apart = merged(found(([40, 20, 84, 50], 0.8, 1)), found(([10, 20, 60, 50], 0.9, 1)))
    assert len(apart) == 2  # 4 pixels of the one in what both see, and 10 of the other
    ghost = merged(found(([40, 20, 100, 50], 0.9, 1)), found(([0, 15, 100, 60], 0.1, 1)))
    assert ghost == [([40, 20, 100, 50], 0.9, 1)]  # with less than half of the score
    assert merged(found(), found()) == []


def test_an_object_across_many_tiles():
    tiling = Tiling(100, 0.2)
    boxes = tiling.boxes(100, 420)
    whole = torch.tensor([30.0, 20, 390, 70])
    cut = []
    for i, box in enumerate(boxes):
        limits = torch.tensor([box.left, box.top, box.right, box.bottom])
        its = whole.clamp(limits[[0, 1, 0, 1]], limits[[2, 3, 2, 3]]) - limits[[0, 1, 0, 1]]
        cut.append((box, found((its.tolist(), 0.5 + i / 20, 0))))
    result = merge_instances(cut, (100, 420))
    assert result.bboxes.tolist() == [whole.tolist()]
    assert result.scores.item() == pytest.approx(0.5 + (len(boxes) - 1) / 20)


def test_masks_are_joined():
    left = found(([40, 20, 100, 50], 0.8, 1), ([3, 3, 9, 9], 0.5, 0), shape=(100, 100))
    right = found(([0, 20, 100, 50], 0.9, 1), shape=(100, 100))
    result = merge_instances([(LEFT, left), (RIGHT, right)], SHAPE)
    expected = np.zeros((2, *SHAPE), np.uint8)
    expected[0, 20:50, 40:180] = 1  # to the image's last column
    expected[1, 3:9, 3:9] = 1
    for rle, mask in zip(result.masks, expected, strict=True):
        assert (coco_mask.decode(rle) == mask).all()
        assert rle == coco_mask.encode(np.asfortranarray(mask))


@pytest.mark.parametrize(
    "place", [(0, 0, 5, 5), (95, 175, 100, 180), (0, 0, 100, 180), (7, 9, 8, 10)]
)
def test_masks_as_rle(place: tuple[int, ...]):
    """At corners, of all the image, of a pixel: as pycocotools encodes them."""
    top, left, bottom, right = place
    mask = np.zeros(SHAPE, np.uint8)
    mask[top:bottom, left:right] = 1
    box = Box(left, 0, right, 100)
    rle = merging._joined_mask([(box, mask[:, left:right].astype(bool))], SHAPE)
    assert rle == coco_mask.encode(np.asfortranarray(mask))


def segmented(logits: torch.Tensor, shape: tuple[int, int]) -> SegDataSample:
    sample = SegDataSample(metainfo=dict(ori_shape=shape))
    sample.seg_logits = PixelData(data=logits)
    sample.pred_sem_seg = PixelData(data=logits.argmax(0, keepdim=True))
    return sample


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("with_whole", [False, True])
@pytest.mark.parametrize("size, overlap", [(16, 0.25), (16, 0.7), (20, 0.0), (16, 0.2)])
def test_logits_are_averaged(size, overlap, classes: int, with_whole: bool, monkeypatch):
    """Against all of them in memory at once; what waits for the next row is in a file."""
    monkeypatch.setattr(merging, "ON_DISK", 100)
    shape, tiling = (45, 37), Tiling(size, overlap)
    draw = torch.Generator().manual_seed(0)
    total, count = torch.zeros(classes, *shape), torch.zeros(shape)
    given = []
    for box in tiling.boxes(*shape):
        part = (box.bottom - box.top, box.right - box.left)
        logits = torch.rand(classes, *part, generator=draw)
        given.append((box, segmented(logits, part)))
        total[:, box.top : box.bottom, box.left : box.right] += logits
        count[box.top : box.bottom, box.left : box.right] += 1
    whole = None
    if with_whole:
        logits = torch.rand(classes, *shape, generator=draw)
        whole, total, count = segmented(logits, shape), total + logits, count + 1
    expected = total.argmax(0) if classes > 1 else (total[0] / count > 0.5).long()
    labels = merge_tiles(tiling, shape, iter(given), whole)["pred_sem_seg"].data
    assert labels.shape == (1, *shape) and labels.dtype == torch.uint8
    assert (labels[0] == expected).float().mean() > 0.999  # rounding decides between equal ones


def test_no_room_for_the_temporary_file(monkeypatch):
    """It is told before anything is written: a disk that is full later would end the process."""
    monkeypatch.setattr(merging, "ON_DISK", 100)
    tiling, shape = Tiling(16, 0.25), (45, 37)
    parts = [(box, segmented(torch.rand(3, 16, 16), (16, 16))) for box in tiling.boxes(*shape)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"has no room for .*set TMPDIR"):
            merge_tiles(tiling, shape, iter(parts))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
