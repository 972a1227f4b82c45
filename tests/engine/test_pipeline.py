"""Images are read as data sets read them, and prepared as in testing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import ExifTags, Image

from corpus import IMAGES, UNREADABLE, Input, picture, pillow, png
from helpers import ROOT
from mmpvt import UserError
from mmpvt.engine.class_names import dataset_meta
from mmpvt.engine.pipeline import TestPipeline, read_image

NEAR = 6  # grey levels, on average: what JPEG and conversions of colour change


@pytest.mark.parametrize("entry", IMAGES, ids=lambda entry: entry.name)
def test_reading(entry: Input, tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(entry.make(picture()))
    if entry.reason == UNREADABLE:
        with pytest.raises(UserError, match=r"a\.jpg can't be read as an image: .* another kind$"):
            read_image(path)
        return
    image = read_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3
    if entry.reason is None:
        expected = entry.expected(picture())
        if entry.name == "turned by 90, sized as stored":  # there are no annotations to say so
            expected = np.rot90(expected, -1)
        assert image.shape == expected.shape
        assert np.abs(image[..., ::-1].astype(int) - expected).mean() < NEAR


def test_no_image(tmp_path: Path):
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(UserError, match="there is no such file"):
        read_image(tmp_path / "none.jpg")


def test_too_many_pixels(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(png(picture()))
    assert read_image(path, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(UserError, match="too large an image: 64x48 pixels"):
        read_image(path, max_pixels=48 * 64 - 1)


@pytest.mark.parametrize("name", ["retinanet_pvt_v2_b0_fpn_shapes", "fpn_pvt_v2_b0_shapes"])
def test_preparation_is_the_data_sets(name: str, shapes_config, tmp_path: Path):
    """What the model gets is what the test data set gives it."""
    config, dataset = shapes_config(name)
    theirs = dataset[0]
    path = theirs["data_samples"].img_path
    pipeline = TestPipeline(config)
    ours = pipeline.prepare(pipeline.load(path), path)
    assert torch.equal(ours["inputs"], theirs["inputs"])
    for key in ("ori_shape", "img_shape", "scale_factor"):
        assert ours["data_samples"].get(key) == theirs["data_samples"].get(key)
    assert list(dataset_meta(config, "test")["classes"])[:2] == ["circle", "square"]


def test_images_that_nothing_resizes_or_two_steps_do(shapes_config):
    """Detectors' boxes are divided by what it was resized by."""
    config, _ = shapes_config("retinanet_pvt_v2_b0_fpn_shapes")
    fields = config.test_dataloader.dataset
    fields.pipeline.insert(1, fields.pipeline[1])
    with pytest.raises(UserError, match="has Resize and Resize, and detectors undo the last"):
        TestPipeline(config)
    fields.pipeline = [step for step in fields.pipeline if step.type != "Resize"]
    fields.pipeline[0].type = "mmpvt.LoadImageFromFile"  # as in a test
    theirs = DATASETS.build(fields)[0]
    ours = TestPipeline(config).prepare(np.zeros((8, 8, 3), np.uint8))
    assert ours["data_samples"].scale_factor == theirs["data_samples"].scale_factor == (1.0, 1.0)


@pytest.fixture
def shapes_config(tmp_path: Path):
    """A config of the built-in data, and its test data set."""
    from mmengine.registry import init_default_scope

    from mmpvt.datasets.shapes import generate
    from mmpvt.engine.config import set_data_root

    def load(name: str) -> tuple:
        config = Config.fromfile(ROOT / "configs" / f"{name}.py")
        root = generate(tmp_path / "shapes", num_train=1, num_val=1, size=(64, 80), progress=False)
        set_data_root(config, str(root))
        init_default_scope(config.default_scope)
        return config, DATASETS.build(config.test_dataloader.dataset)

    return load


def test_arrays_that_are_no_images():
    config = Config.fromfile(ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py")
    pipeline = TestPipeline(config)
    for wrong in (np.zeros(8), np.zeros((8, 8, 4, 1)), "a.jpg", None):
        with pytest.raises(UserError, match="an array of"):
            pipeline.prepare(wrong)
    for wrong, channels in ((np.zeros((8, 8), np.uint8), 1), (np.zeros((8, 8, 2), np.uint8), 2)):
        with pytest.raises(UserError, match=f"an image of {channels} channels?, and the model's"):
            pipeline.prepare(wrong)
    with pytest.raises(UserError, match="no pixels"):
        pipeline.prepare(np.zeros((0, 8, 3), np.uint8))


def test_arrays_that_no_file_would_give():
    """Each would give wrong predictions without a word."""
    config = Config.fromfile(ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py")
    pipeline = TestPipeline(config)
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    floats = image.astype(np.float32)
    for right in (image, image[..., 0], floats, floats * 1.1 - 9.5, np.zeros((8, 9, 3))):
        assert pipeline.check_given(right) is right
    for wrong, said in (
        (image / 255, "from 0 to 1, .* from 0 to 255"),
        ((floats - 120) / 58, r"from -2\.\d+ to 2"),
        (image.astype(np.uint16) * 16, "from 0 to 4080, "),
        (image.transpose(2, 0, 1), r"\(3, 8, 9\), is \(channels, height, width\)"),
        (image * np.nan, "NaN or infinite"),
        (image.astype(np.int64), "not int64"),
        (image > 3, "not bool"),
    ):
        with pytest.raises(UserError, match=said):
            pipeline.check_given(wrong)
    big = image.astype(">f4")
    given = pipeline.check_given(big)
    assert given.dtype.isnative and (given == big).all()
    loader = config.test_dataloader.dataset.pipeline[0]
    pipeline.reader.imdecode_backend = "tifffile"  # which reads floats as they are
    assert pipeline.check_given(image / 255).max() <= 1
    loader.update(type="mmpvt.LoadImageFromFile", max_value=4095)
    assert TestPipeline(config).check_given(image / 255).max() <= 1  # a dark one


def test_a_pillow_image_is_what_its_pixels_in_a_file_are(tmp_path: Path):
    pipeline = TestPipeline(Config.fromfile(ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
    for mode in ("RGB", "L", "P", "RGBA", "1"):
        converted = image.convert(mode)
        converted.save(tmp_path / "image.png")
        given = pipeline.check_given(converted)
        np.testing.assert_array_equal(given, pipeline.load(tmp_path / "image.png"))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    image.save(tmp_path / "turned.jpg", exif=turned)
    with Image.open(tmp_path / "turned.jpg") as opened:
        given, pixels = pipeline.check_given(opened), np.asarray(opened)
    np.testing.assert_array_equal(given[..., ::-1], pixels)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "turned.jpg").read_bytes()[:-20])
    with Image.open(tmp_path / "cut.jpg") as cut:
        for unusable, said in ((cut, "truncated"), (image.convert("CMYK"), "CMYK")):
            with pytest.raises(UserError, match=f"Pillow image can't be used: .*{said}"):
                pipeline.check_given(unusable)


def test_configs_that_cannot_predict():
    with pytest.raises(UserError, match="no test_dataloader"):
        TestPipeline(Config(dict(model=dict())))
    steps = [dict(type="LoadProposals")]
    with pytest.raises(UserError, match="has no LoadImageFromFile, but LoadProposals"):
        TestPipeline(Config(dict(test_dataloader=dict(dataset=dict(type="X", pipeline=steps)))))


def test_pillow_and_opencv_agree_on_what_an_image_is(tmp_path: Path):
    path = tmp_path / "a.tif"
    from PIL import Image

    path.write_bytes(pillow(Image.fromarray(picture()), "TIFF"))
    assert (read_image(path) == cv2.imread(str(path))).all()
