"""Channels, bits and label maps are checked before a run: what is wrong, and what to do."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from shutil import copyfile

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmpvt import UserError
from mmpvt.datasets.formats import open_dataset
from mmpvt.engine.checks.channels import accepted_channels, channel_mismatch
from mmpvt.engine.checks.data import check_data, check_pixels
from mmpvt.engine.config import take_channels
from mmpvt.errors import ConfigError
from mmpvt.inspection import inspect_datasets

SIDE = 32
OBJECTS = np.array([[0, 1], [1, 0]], np.uint8).repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)


def noise(channels: int, dtype: type = np.uint8, high: int = 256) -> np.ndarray:
    shape = (SIDE, SIDE, channels) if channels > 1 else (SIDE, SIDE)
    return np.random.default_rng(channels).integers(0, high, shape).astype(dtype)


def detector(root: Path, image: np.ndarray, suffix: str = ".tif", **loading) -> Config:
    """A config of two images of those pixels."""
    names = [f"{i}{suffix}" for i in range(2)]
    for name in names:
        cv2.imwrite(str(root / name), image)
    sides = dict(height=image.shape[0], width=image.shape[1])
    box = dict(bbox=[4, 4, 16, 16], area=256, iscrowd=0, category_id=1)
    content = dict(
        images=[dict(id=i, file_name=name, **sides) for i, name in enumerate(names)],
        annotations=[dict(id=i + 1, image_id=i, **box) for i in range(2)],
        categories=[dict(id=1, name="a")],
    )
    (root / "a.json").write_text(json.dumps(content))
    pipeline = [
        dict(type="LoadImageFromFile", **loading),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="PackDetInputs"),
    ]
    dataset = dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file="a.json",
        metainfo=dict(classes=("a",)),
        pipeline=pipeline,
    )
    model = dict(
        data_preprocessor=dict(
            type="DetDataPreprocessor", mean=[1.0, 2, 3], std=[1.0, 1, 1], bgr_to_rgb=True
        ),
        backbone=dict(type="mmpvt.PyramidVisionTransformerV2"),
    )
    loader = dict(dataset=dataset)
    return Config(dict(default_scope="mmdet", model=model, train_dataloader=loader))


def checked(config: Config) -> None:
    take_channels(config)
    check_pixels(config, ("train",), check_data(config, ("train",)))


@pytest.mark.parametrize("channels", [1, 4])
def test_channels(channels: int, tmp_path: Path):
    config = detector(tmp_path, noise(channels), color_type="unchanged")
    if channels == 4:  # MMDetection drops the fourth on its way to red first
        checked(config)
        config.model.data_preprocessor.bgr_to_rgb = False
    loaded = rf"0\.tif is loaded as an image of {channels} channels?, and the model's "
    with pytest.raises(UserError, match=loaded + "data_preprocessor has mean and std of 3 values"):
        checked(config)
    config.model.data_preprocessor.update(mean=[5.0], std=[9.0])
    if channels == 4:
        with pytest.raises(UserError, match=loaded + "backbone takes 3: set .*in_channels=4"):
            checked(config)
        assert (
            channel_mismatch(4, config, trained=True)
            == "4 channels, and the model's backbone takes 3"
        )
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert len(found.shapes) == 2
    if channels == 4:
        assert "channels that the model doesn't take" in found.errors
    config.model.backbone.in_channels = channels
    checked(config)
    config.model.data_preprocessor.update(mean=[5.0] * channels, std=[9.0] * channels)
    checked(config)
    assert not inspect_datasets(config, ("train",), workers=1)[0].errors.keys() & {"channels that"}


def test_values_that_no_loader_of_colours_takes(tmp_path: Path):
    """Said before the run, not as one bad file to skip."""
    with pytest.raises(ConfigError, match=r"0\.tif holds float32 values, which can't be loaded"):
        checked(detector(tmp_path, noise(1).astype(np.float32)))


def test_accepted_channels(tmp_path: Path):
    config = detector(tmp_path, noise(3), color_type="unchanged")
    steps = config.train_dataloader.dataset.pipeline
    assert accepted_channels(config, steps) is None  # all but three are dropped for red first
    config.model.data_preprocessor.bgr_to_rgb = False
    assert accepted_channels(config, steps) == [3]
    config.model.backbone.in_channels = 7
    config.model.data_preprocessor = dict(
        type="mmpvt.DetDataPreprocessor", mean=[5.0] * 7, std=[9.0] * 7
    )
    assert accepted_channels(config, steps) == [1, 7]
    assert accepted_channels(config, [*steps, dict(type="Own")]) is None
    config.model = dict(data_preprocessor=dict(type="Own"), backbone=dict(type="Own"))
    assert accepted_channels(config, steps) is None


def test_a_transform_of_ones_own_may_change_channels(tmp_path: Path):
    from mmengine.registry import TRANSFORMS

    class TakeThree:
        def __call__(self, results: dict) -> dict:
            return {**results, "img": results["img"][..., :3]}

    config = detector(tmp_path, noise(4), color_type="unchanged")
    config.model.data_preprocessor.bgr_to_rgb = False
    TRANSFORMS.register_module(name="TakeThree", module=TakeThree, force=True)
    config.train_dataloader.dataset.pipeline.insert(1, dict(type="TakeThree"))
    checked(config)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LoadMultiChannelImageFromFiles", "doesn't read the single file an image"),
        ("mmseg.LoadSingleRSImageFromFile", "gdal is not installed; LoadImageFromFile reads TIFF"),
        ("mmseg.LoadImageFromNDArray", "doesn't read the single file an image"),
    ],
)
def test_other_loaders(name: str, said: str, tmp_path: Path):
    config = detector(tmp_path, noise(4))
    config.train_dataloader.dataset.pipeline[0] = dict(type=name)
    with pytest.raises(UserError, match=said):
        checked(config)


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_twelve_bits(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = detector(tmp_path, noise(1, np.uint16, 4096), suffix)
    checked(config)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: images such as {tmp_path}/0{suffix} hold values from ")
    assert "(12 bits), which are cut to 8 bits as they are loaded: at most 16 levels" in line
    assert "max_value=4095" in line
    (found,) = inspect_datasets(config, ("train",), workers=1)
    (said,) = found.errors["data sets of images that are cut to 8 bits"]
    assert said in line

    config.train_dataloader.dataset.pipeline[0].max_value = 4095
    checked(config)
    assert not capsys.readouterr().err
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert not found.errors.keys() & {"data sets of images that are cut to 8 bits"}


def test_sixteen_bits_and_eight(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checked(detector(tmp_path, noise(3), ".jpg"))
    assert not capsys.readouterr().err
    config = detector(tmp_path, noise(3, np.uint16, 65536), ".png")
    checked(config)
    assert "(16 bits)" in capsys.readouterr().err
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert "data sets of images that are cut to 8 bits" in found.notes


def test_values_that_miss_the_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Floats from 0 to 1, with the mean of bytes, would all be nearly equal."""
    image = noise(1).astype(np.float32) / 255
    for loading, is_said in ((dict(color_type="unchanged"), True), (dict(max_value=1), False)):
        config = detector(tmp_path, image, **loading)
        config.model.data_preprocessor.update(mean=[120.0], std=[58.0])
        config.model.backbone.in_channels = 1 if is_said else 3
        checked(config)
        said = "hold values from 0 to 1, and the model's data_preprocessor subtracts a mean of 120:"
        assert (said in capsys.readouterr().err) is is_said


def test_depths_that_differ(tmp_path: Path):
    """Of one data set, or between training and validation."""
    config = detector(tmp_path, noise(1), ".png", color_type="unchanged")
    config.model.data_preprocessor.update(mean=[5.0], std=[9.0])
    config.model.backbone.in_channels = 1
    checked(config)
    cv2.imwrite(str(tmp_path / "1.png"), noise(1, np.uint16, 4096))
    said = r"0\.png is loaded as uint8, and .*1\.png as uint16: the model takes their values as"
    with pytest.raises(ConfigError, match=said):
        checked(config)
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert "images of different depths" in found.errors
    (tmp_path / "val").mkdir()
    config.val_dataloader = detector(tmp_path / "val", noise(1), ".png").train_dataloader
    config.val_dataloader.dataset.pipeline = config.train_dataloader.dataset.pipeline
    cv2.imwrite(str(tmp_path / "0.png"), noise(1, np.uint16, 4096))
    with pytest.raises(ConfigError, match=r"0\.png is loaded as uint16, and .*val/0\.png as uint8"):
        check_pixels(config, ("train", "val"), check_data(config, ("train", "val")))


def segmenter(root: Path, labels: np.ndarray, classes: tuple = ("a", "b"), **options) -> Config:
    for folder in ("images", "maps"):
        (root / folder).mkdir(exist_ok=True)
    for i in range(3):
        cv2.imwrite(str(root / "images" / f"{i}.jpg"), noise(3) // (i + 1))
        cv2.imwrite(str(root / "maps" / f"{i}.png"), labels)
    steps = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ]
    dataset = dict(
        type=options.pop("type", "BaseSegDataset"),
        data_root=str(root),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        metainfo=dict(classes=classes),
        pipeline=steps,
        **options,
    )
    model = dict(decode_head=dict(num_classes=len(classes)))
    return Config(dict(default_scope="mmseg", model=model, train_dataloader=dict(dataset=dataset)))


COLOURS = np.stack([OBJECTS * 200, OBJECTS * 0, 255 - OBJECTS], axis=-1)
ONLY = "data sets whose label maps hold no two classes"


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        (OBJECTS * 255, {}, r"hold only 0 and 255, and 255 is .* ignored.*values=\[0, 255\]"),
        (
            OBJECTS * 255,
            dict(reduce_zero_label=True),
            "hold only 0 and 255.*leave out reduce_zero_label",
        ),
        (OBJECTS, dict(reduce_zero_label=True), "hold only 0 and 1, .*reduce_zero_label=False"),
        (OBJECTS * 0 + 255, {}, "hold nothing but 255, which is ignored"),
        (COLOURS, {}, r"holds colours \(RGB: .*255, 0, 0.*values=\[\[R, G, B\], …\]"),
        (np.dstack([COLOURS, OBJECTS * 9]), {}, r"holds colours \(RGBA: "),
        (np.dstack([OBJECTS] * 3), {}, r"holds colours .*values=\[0, 1\]"),
    ],
    ids=["255", "255 reduced", "0 and 1 reduced", "ignored", "RGB", "RGBA", "grey as RGB"],
)
def test_label_maps(labels: np.ndarray, options: dict, said: str, tmp_path: Path):
    config = segmenter(tmp_path, labels, **options)
    with pytest.raises(UserError, match=said):
        checked(config)
    (found,) = inspect_datasets(config, ("train",), workers=1)
    kind = "label maps of colours" if "colours" in said else ONLY
    with pytest.raises(UserError, match=said):
        raise UserError(found.errors[kind][0])


def test_written_label_maps_of_one_name(tmp_path: Path):
    config = segmenter(tmp_path, OBJECTS)
    config.test_dataloader = config.pop("train_dataloader")
    config.test_evaluator = dict(type="IoUMetric", output_dir="out")
    check_data(config, ("test",))
    for folder, suffix in (("images", ".jpg"), ("maps", ".png")):
        (tmp_path / folder / "more").mkdir()
        copyfile(tmp_path / folder / f"1{suffix}", tmp_path / folder / "more" / f"1{suffix}")
    with pytest.raises(ConfigError, match="one label map for several images of the name 1:"):
        check_data(config, ("test",))


@pytest.mark.parametrize("reduced", [True, False])
def test_a_pipeline_of_another_reduce_zero_label(reduced: bool, tmp_path: Path):
    config = segmenter(tmp_path, OBJECTS, reduce_zero_label=reduced)
    config.train_dataloader.dataset.pipeline[1].reduce_zero_label = not reduced
    said = f"BaseSegDataset has reduce_zero_label={not reduced}, and the data set {reduced}"
    with pytest.raises(UserError, match=said):
        checked(config)
    with pytest.raises(UserError, match=said):
        inspect_datasets(config, ("train",), workers=1)
    config.train_dataloader.dataset.pipeline[1].reduce_zero_label = reduced
    inspect_datasets(config, ("train",), workers=1)


class OwnSegDataset(BaseSegDataset):
    """Its class alone knows its suffixes, and what it does with label 0."""

    def __init__(self, **kwargs) -> None:
        super().__init__(
            img_suffix="0.jpg", seg_map_suffix="0.png", reduce_zero_label=True, **kwargs
        )


def test_what_a_class_of_ones_own_passes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = segmenter(tmp_path, np.where(OBJECTS, 2, 1).astype(np.uint8))
    dataset = config.train_dataloader.dataset
    dataset.type, dataset.pipeline[1].reduce_zero_label = OwnSegDataset, True
    checked(config)
    assert not caplog.messages
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert found.images == 1 and found.counts.tolist() == [50, 50] and not found.errors


def test_label_0_of_two_meanings(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    maps = OBJECTS.copy()
    maps[:4] = 2
    config = segmenter(tmp_path, maps, ("background", "a", "b"), reduce_zero_label=True)
    config.val_dataloader = copy.deepcopy(config.train_dataloader)
    config.val_dataloader.dataset.reduce_zero_label = False
    check_data(config, ("train", "val"))
    expected = [
        "for train .*0 in its label maps is ignored and background, its first class, is 1",
        "for train and val have reduce_zero_label=True and False",
    ]
    reports = inspect_datasets(config, ("train", "val"), workers=1)
    for said, noted, pattern in zip(
        caplog.messages, reports[-1].notes["label 0"], expected, strict=True
    ):
        assert re.search(pattern, said) and said == noted


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (OBJECTS * 255, [0, 255]),
        (np.dstack([OBJECTS] * 3), [0, 1]),
        (COLOURS, [[255, 0, 0], [254, 0, 200]]),
        (np.dstack([COLOURS, OBJECTS * 9]), [[255, 0, 0], [254, 0, 200]]),
    ],
    ids=["255", "grey as RGB", "RGB", "RGBA"],
)
def test_the_way_on(labels: np.ndarray, values: list, tmp_path: Path):
    config = segmenter(tmp_path, labels)
    config.train_dataloader.dataset.pipeline[1] = dict(
        type="mmpvt.LoadSegAnnotations", values=values
    )
    checked(config)
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert found.counts.tolist() == [50, 50] and not found.errors.get(ONLY)


def test_background_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = segmenter(tmp_path, OBJECTS * 0)
    checked(config)
    assert "hold nothing but label 0 (a): there is nothing to tell" in capsys.readouterr().err
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert "nothing but label 0 (a)" in found.errors[ONLY][0]


def test_a_class_that_no_label_map_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Training warns of it; what is tested may lack classes."""
    labels = OBJECTS.copy()
    labels[:4] = 255
    config = segmenter(tmp_path, labels, ("a", "b", "c"))
    checked(config)
    said = capsys.readouterr().err
    assert re.search(
        r"warning: of 3 label maps read in .*maps none holds 2 \(c\): .*; 255, which some hold, ",
        said,
    )
    loader = config.train_dataloader
    other = dict(loader.dataset, ann_file="listed.txt")  # another, which may hold it
    (tmp_path / "listed.txt").write_text("0\n1\n")
    joined = dict(type="ConcatDataset", datasets=[loader.dataset, other])
    config.train_dataloader = dict(dataset=joined)
    checked(config)
    assert not capsys.readouterr().err
    config.train_dataloader = loader
    config.val_dataloader = config.pop("train_dataloader")
    check_pixels(config, ("val",))
    assert not capsys.readouterr().err


def open_as_own(root: Path) -> None:
    """Opens the images and label maps of two classes as a user's own data."""
    for folder, name in (("images", "images"), ("maps", "masks")):
        shutil.copytree(root / folder, root / "own" / name, dirs_exist_ok=True)
    open_dataset(root / "own", classes=("a", "b"))


def test_255_in_place_of_1_in_some_label_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """Annotated by two people, say. Beside 1 in one map it is what is ignored."""
    config = segmenter(tmp_path, OBJECTS)
    for is_mixed, labels in ((True, OBJECTS * 255), (False, np.where(OBJECTS, 1, 255))):
        cv2.imwrite(str(tmp_path / "maps" / "2.png"), labels.astype(np.uint8))
        check_pixels(config, ("train",))
        assert ("2.png 255 and no 1, and 255 is ignored" in capsys.readouterr().err) is is_mixed
        (found,) = inspect_datasets(config, ("train",), workers=1)
        assert ("label maps of other values" in found.notes) is is_mixed
        caplog.clear()
        open_as_own(tmp_path)
        assert ("2.png 255 and no 1" in caplog.text) is is_mixed


def test_palettes_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """As where each map was saved with the colours that it holds: 1 may be any class."""
    config = segmenter(tmp_path, OBJECTS)
    for red, unused in ((0, 9), (255, 0)):
        for name, palette in (("1", [0, 0, 0, 255, 0, 0, 9, 9, 9]), ("2", [0, 0, 0, red, 0, 0])):
            indexed = Image.fromarray(OBJECTS.astype(np.uint8), "P")
            indexed.putpalette([*palette, *[unused] * 9])
            indexed.save(tmp_path / "maps" / f"{name}.png")
        is_said = red == 0
        check_pixels(config, ("train",))
        assert ("palettes of label maps differ: 1 is (" in capsys.readouterr().err) is is_said
        (found,) = inspect_datasets(config, ("train",), workers=1)
        assert ("label maps of other palettes" in found.notes) is is_said
        caplog.clear()
        open_as_own(tmp_path)
        assert ("the palettes of label maps differ" in caplog.text) is is_said


def test_a_map_with_two_classes_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = segmenter(tmp_path, OBJECTS * 0)
    cv2.imwrite(str(tmp_path / "maps" / "2.png"), OBJECTS)
    checked(config)
    assert not capsys.readouterr().err


def test_a_choice_of_a_data_sets_classes(tmp_path: Path):
    """Labels of the other classes are ignored, as MMSegmentation has it; none is out of bounds."""
    labels = OBJECTS * 149 + 1  # wall and flag, of ADE20K's 150
    options = dict(type="ADE20KDataset", reduce_zero_label=True)
    config = segmenter(tmp_path, labels, ("flag", "sky"), **options)
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert len(found.shapes) == 3 and found.counts.tolist() == [100, 0]
    labels[0] = 3  # sky
    config = segmenter(tmp_path, labels, ("flag", "sky"), **options)
    checked(config)
    (found,) = inspect_datasets(config, ("train",), workers=1)
    assert not found.errors.get(ONLY) and (found.counts > 0).all()


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (dict(num_classes=1), "is for one class, .* set num_classes=2, out_channels=1"),
        (dict(num_classes=2, out_channels=1), "gives one channel .* always 0: set"),
        (
            dict(num_classes=2, out_channels=1, loss_decode=[dict(type="CrossEntropyLoss")]),
            "gives one channel",
        ),
        (dict(num_classes=2, ignore_index=0), "ignores label 0 .* padded with 255 .*seg_pad_val"),
        (dict(num_classes=2, in_index=[-3, 3]), r"reads map 3 \(in_index\), and it gets 3 maps"),
    ],
)
def test_heads_that_cannot_learn(head: dict, said: str, tmp_path: Path):
    config = segmenter(tmp_path, OBJECTS)
    config.model.decode_head = head
    maps = dict(type="mmpvt.PyramidVisionTransformer", out_indices=(1, 2, 3))
    config.model.backbone = maps
    with pytest.raises(UserError, match=said):
        check_pixels(config, ("train",))
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    config.model.decode_head = dict(num_classes=2, out_channels=1, loss_decode=loss)
    check_pixels(config, ("train",))
    config.model.decode_head = dict(num_classes=2, ignore_index=0)
    config.model.data_preprocessor = dict(seg_pad_val=0)
    check_pixels(config, ("train",))
