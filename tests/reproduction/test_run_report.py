"""What goes wrong with a report after training is said in a sentence; and the data's summary."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import ExifTags, Image

from mmpvt.datasets.shapes import generate
from mmpvt.engine.config import load_config, set_data_root
from mmpvt.errors import Interrupted
from mmpvt.reproduction import run_report
from mmpvt.reproduction.data_summary import summarize_data


def test_a_training_is_worth_more_than_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    config = Config(dict(work_dir=str(tmp_path)))
    said = run_report.report_on_training(config)
    assert said == (
        f"the training is complete, in {tmp_path}, but without a report: "
        f"there is no checkpoint of the training in {tmp_path}"
    )

    def end(error: BaseException) -> None:
        def raise_it(*_: object) -> None:
            raise error

        monkeypatch.setattr(run_report, "write_run_report", raise_it)

    (tmp_path / "last_checkpoint").write_text("epoch_1.pth")
    assert run_report.report_on_training(config) == said  # it was removed since
    (tmp_path / "epoch_1.pth").touch()
    end(ZeroDivisionError("a\nb"))
    assert run_report.report_on_training(config).endswith(r"ZeroDivisionError: a\nb")
    swallowed = SyntaxError("Failed to format the config file")  # as MMEngine's `except:` has it
    swallowed.__context__ = Interrupted(2)
    for error in (Interrupted(2), swallowed):
        end(error)
        with pytest.raises(Interrupted):
            run_report.report_on_training(config)
        assert f"complete, in {tmp_path}; only its report was stopped" in capsys.readouterr().out


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    return generate(root, num_train=4, num_val=2, progress=False)


@pytest.mark.parametrize("name", ["retinanet_pvt_v2_b0_fpn_shapes", "fpn_pvt_v2_b0_shapes"])
def test_summary_of_data(name: str, shapes: Path):
    config = load_config(f"configs/{name}.py")
    set_data_root(config, str(shapes))
    train, val = summarize_data(config)
    assert (train["splits"], val["splits"]) == (["train"], ["val", "test"])
    assert (train["images"], val["images"], train["read"]) == (4, 2, 4)
    assert [one["name"] for one in train["classes"]][:2] == ["circle", "square"]
    counted = sum(one["count"] for one in train["classes"])
    if train["unit"] == "objects":
        assert counted > 4 and sum(train["sizes"]) == pytest.approx(1)
    else:
        assert 4 * 1000 < counted < 4 * 192 * 192
    assert 160 <= train["width"][0] <= train["width"][1] <= train["width"][2] <= 192
    set_data_root(config, str(shapes / "none"))
    assert all("error" in one for one in summarize_data(config))


def test_summary_of_images_of_any_size(shapes: Path, monkeypatch: pytest.MonkeyPatch):
    """Pillow refuses to open the largest."""
    config = load_config("configs/fpn_pvt_v2_b0_shapes.py")
    set_data_root(config, str(shapes))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    for one in summarize_data(config):
        assert "error" not in one and one["images"] and "width" not in one


def test_summary_of_images_that_are_turned(tmp_path: Path):
    """Of photographs that a telephone took upright."""
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
    for name in ("training/1", "validation/2"):
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = 6
        Image.new("RGB", (30, 20)).save(tmp_path / f"images/{name}.jpg", exif=turned)
        Image.new("L", (20, 30), 1).save(tmp_path / f"annotations/{name}.png")
    config = load_config("configs/fpn_pvt_v2_b0_shapes.py")
    set_data_root(config, str(tmp_path))
    for one in summarize_data(config):
        assert (one["width"], one["height"]) == ([20, 20, 20], [30, 30, 30])
        assert sum(each["count"] for each in one["classes"]) == 600
