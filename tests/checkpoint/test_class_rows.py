"""Models of some classes started from checkpoints of others."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

import mmpvt.setup  # noqa: F401
from mmpvt.checkpoint.class_rows import (
    ClassRows,
    find_class_rows,
    match_names,
    start_by_class_names,
)
from mmpvt.errors import CheckpointMismatchError

STORED = ("person", "traffic light", "car", "dog")
CLASSES = ("dog", "cone", "Traffic_Light")
SHARED = {0: 3, 2: 1}  # a class's number here: that in the checkpoint
STRIDES = [4, 8]
MAPS = [torch.randn(1, 8, side, side, generator=torch.manual_seed(0)) for side in (4, 2)]


def dense(group: int, *, background: bool = False, before: int = 0) -> Callable:
    """Columns of the classes, as AnchorHead and YOLOV3Head shape their maps before the losses."""

    def columns(head: nn.Module, num_classes: int) -> tuple[Tensor, Tensor]:
        maps = head(MAPS)[0]
        width = before + num_classes + background
        flat = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, width) for m in maps])
        assert maps[0].shape[1] == group * width
        classes = slice(before, before + num_classes)
        rest = torch.cat([flat[:, :before], flat[:, before + num_classes :]], 1)
        return flat[:, classes], rest

    return columns


def box_head(head: nn.Module, num_classes: int) -> tuple[Tensor, Tensor]:
    scores, boxes = head(torch.cat([MAPS[1], 2 * MAPS[1]]))
    boxes = boxes.view(len(boxes), num_classes, 4)  # BBoxHead.loss
    classes = torch.cat([scores[:, :-1, None], boxes], 2)
    return classes.transpose(1, 2).reshape(-1, num_classes), scores[:, -1:]


def maps_of_classes(head: nn.Module, num_classes: int) -> tuple[Tensor, Tensor]:
    logits = head(MAPS[0] if "Mask" in type(head).__name__ else MAPS)
    return logits.movedim(1, -1).reshape(-1, num_classes), torch.zeros(0)


def anchors(**more) -> dict:
    sizes = dict(ratios=[0.5, 1.0, 2.0], octave_base_scale=4, scales_per_octave=1)
    return dict(type="AnchorGenerator", strides=STRIDES, **(sizes | more))


BOX_HEAD = dict(
    type="Shared2FCBBoxHead", in_channels=8, fc_out_channels=8, roi_feat_size=2, num_classes=0
)
DENSE = dict(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=0)
HEADS: dict[str, tuple[str, dict, Callable]] = {
    "retina": ("mmdet", dict(DENSE, type="RetinaHead", anchor_generator=anchors()), dense(3)),
    "retina with softmax": (
        "mmdet",
        dict(
            DENSE,
            type="RetinaHead",
            anchor_generator=anchors(),
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False),
        ),
        dense(3, background=True),
    ),
    "atss": (
        "mmdet",
        dict(DENSE, type="ATSSHead", anchor_generator=anchors(ratios=[1.0]), norm_cfg=None),
        dense(1),
    ),
    "ssd": (
        "mmdet",
        dict(
            type="SSDHead",
            num_classes=0,
            in_channels=(8, 8),
            anchor_generator=dict(
                type="SSDAnchorGenerator",
                strides=STRIDES,
                ratios=([2], [2]),
                min_sizes=[8, 16],
                max_sizes=[16, 32],
            ),
        ),
        dense(4, background=True),
    ),
    "yolo": (
        "mmdet",
        dict(
            type="YOLOV3Head",
            num_classes=0,
            in_channels=[8, 8],
            out_channels=[8, 8],
            featmap_strides=STRIDES,
            anchor_generator=dict(
                type="YOLOAnchorGenerator",
                base_sizes=[[(4, 4), (8, 8)], [(8, 8), (16, 16)]],
                strides=STRIDES,
            ),
        ),
        dense(2, before=5),
    ),
    "boxes": ("mmdet", BOX_HEAD, box_head),
    "masks": (
        "mmdet",
        dict(type="FCNMaskHead", num_convs=1, in_channels=8, conv_out_channels=8, num_classes=0),
        maps_of_classes,
    ),
    "segments": (
        "mmseg",
        dict(type="FCNHead", in_channels=8, in_index=0, channels=8, num_convs=1, num_classes=0),
        maps_of_classes,
    ),
}


def build(scope: str, head: dict, num_classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(scope):
        built = MODELS.build(dict(head, num_classes=num_classes)).eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def started(
    scope: str, head: dict, classes: tuple[str, ...], stored: tuple[str, ...], source: nn.Module
) -> tuple[nn.Module, nn.Module, list[str]]:
    """A head before and after, and what was said."""
    fresh, model, wider = (build(scope, head, len(classes) + more, 1) for more in (0, 0, 1))
    rows = find_class_rows(model, wider, len(classes))
    tensors, said = start_by_class_names(
        source.state_dict(), model.state_dict(), rows, classes, stored, "a.pth"
    )
    model.load_state_dict(tensors)
    return fresh, model, said


@pytest.mark.parametrize("kind", HEADS)
def test_shared_classes_are_scored_as_before(kind: str):
    scope, head, columns = HEADS[kind]
    source = build(scope, head, len(STORED))
    fresh, model, said = started(scope, head, CLASSES, STORED, source)
    assert said == ["classes taken from a.pth: dog, Traffic_Light; fresh: cone"]
    with torch.no_grad():
        was, rest_was = columns(source, len(STORED))
        now, rest = columns(model, len(CLASSES))
    for i, j in SHARED.items():
        torch.testing.assert_close(now[:, i], was[:, j])
    torch.testing.assert_close(rest, rest_was)
    assert not any(torch.allclose(now[:, 1], other) for other in was.T)
    with torch.no_grad():  # with all else the checkpoint's, too
        sizes = {name: tensor.shape for name, tensor in source.state_dict().items()}
        same = {n: t for n, t in model.state_dict().items() if t.shape == sizes[n]}
        fresh.load_state_dict(same, strict=False)
        torch.testing.assert_close(now[:, 1], columns(fresh, len(CLASSES))[0][:, 1])


@pytest.mark.parametrize("kind", HEADS)
def test_same_classes_are_loaded_exactly(kind: str):
    scope, head, _ = HEADS[kind]
    source = build(scope, head, len(STORED))
    for stored, sentence in (
        (STORED, "its 4 classes are the data set's"),
        ((), "names no classes"),
    ):
        _, model, said = started(scope, head, STORED, stored, source)
        assert sentence in said[0]
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, source.state_dict()[name]), name


def test_another_order(head: dict = HEADS["retina"][1]):
    source = build("mmdet", head, 4)
    _, model, said = started("mmdet", head, STORED[::-1], STORED, source)
    assert said == ["classes taken from a.pth: dog, car, traffic light, person"]
    weight = model.retina_cls.weight.view(3, 4, 8, 3, 3)
    assert torch.equal(weight.flip(1), source.retina_cls.weight.view_as(weight))


def test_no_names_or_none_in_common():
    scope, head, _ = HEADS["boxes"]
    source = build(scope, head, 4)
    for stored, sentence in (((), "names no classes of its own"), (("a", "b", "c", "d"), "a, b")):
        fresh, model, said = started(scope, head, CLASSES, stored, source)
        assert said[0].startswith("all classes start fresh (dog, cone, Traffic_Light): a.pth")
        assert sentence in said[0]
        assert torch.equal(model.fc_cls.weight, fresh.fc_cls.weight)
        assert torch.equal(model.shared_fcs[0].weight, source.shared_fcs[0].weight)


def test_rows_of_unknown_order():
    """Seesaw loss' layer has two more rows than classes: it starts fresh, and is named."""
    loss = dict(type="SeesawLoss", num_classes=0)
    built = []
    for count, seed in ((4, 0), (3, 1), (4, 2)):
        head = dict(BOX_HEAD, loss_cls=dict(loss, num_classes=count), reg_class_agnostic=True)
        built.append(build("mmdet", head, count, seed))
    source, model, wider = built
    rows = find_class_rows(model, wider, 3)
    assert rows["fc_cls.weight"] is None and rows["fc_cls.bias"] is None
    tensors, said = start_by_class_names(
        source.state_dict(), model.state_dict(), rows, CLASSES, STORED, "a.pth"
    )
    assert torch.equal(tensors["fc_cls.weight"], model.fc_cls.weight)
    assert "isn't known: fc_cls.weight, fc_cls.bias" in said[1]


def test_another_architecture():
    scope, head, _ = HEADS["retina"]
    wide = dict(head, feat_channels=16)
    with pytest.raises(CheckpointMismatchError, match=r"another architecture than the config's: 6"):
        started(scope, head, CLASSES, STORED, build(scope, wide, 4))
    fewer = dict(head, anchor_generator=anchors(ratios=[1.0, 2.0]))
    with pytest.raises(CheckpointMismatchError, match=r"a\.pth is .*retina_reg\.weight \(8x8x3x3"):
        started(scope, head, CLASSES, STORED, build(scope, fewer, 4))


def test_names():
    assert match_names(CLASSES, STORED) == SHARED
    assert match_names(["Dog", "dog"], ["dog", "Dog"]) == {0: 1, 1: 0}
    assert match_names(["hot-dog"], ["dog", "Hot Dog"]) == {0: 1}
    assert match_names(["a"], []) == {}
    imagenet = ["tench, Tinca tinca", "crane", "crane, machine", "tabby, tabby cat"]
    assert match_names(["tinca_tinca", "crane", "Tabby"], imagenet) == {0: 0, 1: 1, 2: 3}
    assert match_names(["Crane"], [" crane , bird", "crane"]) == {0: 1}
    assert match_names(["crane"], ["crane, bird", "crane, machine"]) == {}


@pytest.mark.parametrize(("groups", "values", "before", "after"), [(1, 4, 0, 0), (3, 1, 5, 1)])
def test_counts(groups: int, values: int, before: int, after: int):
    rows = ClassRows(0, groups, values, before, after)
    sizes = {groups * values * (before + n + after): n for n in range(1, 9)}
    for size in range(1, max(sizes)):
        assert rows.count(size) == sizes.get(size)


def test_names_that_occur_twice():
    """However a name is written, a checkpoint's row goes by it, the first where several could."""
    for stored in itertools.permutations(("Car", "car", "CAR")):
        assert match_names(["c-a-r"], stored) == {0: 0}
