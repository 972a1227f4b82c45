"""Models by name, as folders and in repositories: what is loaded predicts what was saved."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import mmpvt
from helpers import save_untrained
from hub_server import HubServer
from mmpvt.engine.config import load_config
from mmpvt.engine.initial_weights import set_pretrained
from mmpvt.engine.saved_config import from_data
from mmpvt.errors import CheckpointError, ConfigError, DownloadError, OutputError, UserError
from mmpvt.inference import Predictor

NAMES = ("cone", "Kegel", "sphère", "<b>", "ring", "x")
PUBLISHED = "retinanet_pvtv2-b0_fpn_1x_coco_20210831_103157-13e9aabe.pth"


@pytest.fixture(scope="module")
def detector(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A tiny one of random weights and of classes that only its checkpoint names."""
    file = save_untrained(tiny_config, tmp_path_factory.mktemp("detector") / "untrained.pth")
    content = torch.load(file, weights_only=True)
    torch.save(dict(content, meta=dict(dataset_meta=dict(classes=NAMES))), file)
    return mmpvt.load_model(tiny_config, file, device="cpu")


@pytest.fixture(scope="module")
def saved(detector: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector.save_pretrained(tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture
def image(shapes: Path) -> Path:
    return next((shapes / "val2017").iterdir())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_folder(detector: Predictor, saved: Path, image: Path, offline: None):
    model = mmpvt.load_model(saved, device="cpu")
    wanted = detector(image).pred_instances
    assert len(wanted)
    given = (image, str(image), model.load(image))
    for sample in (*map(model, given), *model(list(given))):
        for name in ("bboxes", "scores", "labels"):
            assert torch.equal(sample.pred_instances[name], wanted[name])
    assert model.classes == list(NAMES)
    assert isinstance(model.config.test_dataloader.dataset.pipeline[1].scale, tuple)


def test_what_a_folder_holds(detector: Predictor, saved: Path, tmp_path: Path, tiny_config: Path):
    assert {path.name for path in saved.iterdir()} == {
        *(".mmpvt-files", "README.md", "config.json", "model.safetensors")
    }
    text = (saved / "config.json").read_text()
    assert json.loads(text)["classes"] == list(NAMES)
    assert str(tiny_config.parent) not in text
    assert "init_cfg" not in text
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: mmpvt\npipeline_tag: object-detection\n")
    assert "RetinaNet on PyramidVisionTransformerV2" in card and ", ".join(NAMES) in card

    again = shutil.copytree(saved, tmp_path / "again")
    (again / "README.md").write_text("mine")
    detector.save_pretrained(again)
    assert (again / "README.md").read_text() == "mine"
    assert mmpvt.load_model(again, device="cpu").classes == list(NAMES)
    (again / "config.json").write_text("{}")
    with pytest.raises(OutputError, match=r"config\.json is not of an earlier run"):
        detector.save_pretrained(again)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(OutputError, match="holds other files"):
        detector.save_pretrained(tmp_path)


def test_the_folder_of_a_run_is_tested_on_data_elsewhere(
    trained: Path, tiny_config: Path, shapes: Path, tmp_path: Path, call_tool
):
    """The config in a run's work directory names its data by absolute paths."""
    model = mmpvt.load_model(trained / tiny_config.name, trained / "epoch_2.pth", device="cpu")
    folder = model.save_pretrained(tmp_path / "saved")
    assert str(shapes.parent) not in (folder / "config.json").read_text()
    args = (folder, folder, "--data-root", shapes, "--work-dir", tmp_path / "work")
    ended = call_tool("test.py", *args)
    assert ended.code == 0 and "bbox_mAP: " in ended.out + ended.err, ended.err


def test_a_segmenter(untrained_segmenter: tuple[Path, Path], image: Path, tmp_path: Path):
    model = mmpvt.load_model(*untrained_segmenter, device="cpu")
    saved = model.save_pretrained(tmp_path / "segmenter")
    loaded = mmpvt.load_model(saved, device="cpu")
    assert torch.equal(loaded(image).pred_sem_seg.data, model(image).pred_sem_seg.data)
    assert loaded.meta == model.meta and loaded.meta["palette"]
    tiled = mmpvt.load_model(saved, device="cpu", tiles=64)
    assert tiled(image).pred_sem_seg.shape == model(image).pred_sem_seg.shape
    assert "pipeline_tag: image-segmentation" in (tmp_path / "segmenter/README.md").read_text()


def test_tools_take_a_folder(saved: Path, shapes: Path, image: Path, tmp_path: Path, call_tool):
    out = tmp_path / "out"
    ended = call_tool("predict.py", saved, saved, image, "--out", out)
    assert ended.code == 0, ended.err
    assert json.loads((out / "predictions.json").read_text())
    args = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    ended = call_tool("train.py", saved, *args)
    assert ended.code == 2 and "the config has no train_dataloader, train_cfg, opt" in ended.err
    assert "--start-from" in ended.err and not (tmp_path / "work").exists()
    ended = call_tool("test.py", saved, saved, *args)
    assert ended.code == 0 and "coco/bbox_mAP: " in ended.out, ended.err


@pytest.mark.parametrize(
    "path, value",
    [
        ("model.backbone.type", "subprocess.Popen"),
        ("model.backbone.type", "os"),
        ("model.backbone.type", ["RetinaNet"]),
        ("model.backbone.type", "mmdet.utils.setup_multi_processes"),
        ("model.test_cfg.nms.type", "__import__('os').system('touch {marker}')"),
        ("model.teacher_config", "{marker}.py"),
        ("model.backbone._scope_", "antigravity"),
        ("model.backbone._scope_", "mmpretrain"),
        ("model.backbone.type", "mmpretrain.HuggingFaceClassifier"),
        ("model.backbone.type", "mmpretrain.TIMMBackbone"),
        ("model.backbone.type", "mmpretrain.CIFAR10"),
        ("test_dataloader.dataset.pipeline", [{"type": "mmpretrain.torchvision/ToTensor"}]),
        ("model.cmc", {"type": "CameraMotionCompensation", "warp_mode": "open('{marker}', 'w')"}),
        ("test_dataloader.dataset.pipeline", [{"type": "{marker}"}]),
        ("default_scope", "antigravity"),
        ("model", None),
    ],
)
def test_a_config_that_would_run_code(saved: Path, tmp_path: Path, path: str, value: object):
    marker = str(tmp_path / "marker")
    data = json.loads((saved / "config.json").read_text())
    *above, last = path.split(".")
    part = data["config"]
    for name in above:
        part = part[name]
    part[last] = json.loads(json.dumps(value).replace("{marker}", marker))
    folder = shutil.copytree(saved, tmp_path / "hostile")
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"config\.json is refused: it"):
        mmpvt.load_model(folder, device="cpu")
    assert {file.name for file in tmp_path.iterdir()} == {"hostile"}


def test_other_parts_of_a_config_are_not_read(saved: Path):
    data = json.loads((saved / "config.json").read_text())
    data["config"] |= dict(custom_imports=dict(imports=["antigravity"]), _base_="/x.py")
    assert not {"custom_imports", "_base_"} & from_data(data).keys()


@pytest.mark.parametrize("content", [b"", b"[" * 10**5, b"[1]", b'{"model": 1}', b"\xff", None])
def test_a_damaged_folder(saved: Path, tmp_path: Path, content: bytes | None):
    folder = shutil.copytree(saved, tmp_path / "damaged")
    if content is None:
        (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    else:
        (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError if content is None else ConfigError):
        mmpvt.load_model(folder, device="cpu")


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A published detector is found by its config's name, without a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    config = load_config("retinanet_pvt_v2_b0_fpn_1x_coco")
    set_pretrained(config, "none")
    config.dump("untrained.py")
    save_untrained(Path("untrained.py"), tmp_path / "hub" / "checkpoints" / PUBLISHED)
    model = mmpvt.load_model("retinanet_pvt_v2_b0_fpn_1x_coco", device="cpu")
    assert model.classes[:2] == ["person", "bicycle"]
    for name, sentence in {
        "fpn_pvt_t_ade20k_40k": "no detector was published for this config's architecture",
        "retinanet_pvt_v2_b0_1x": "did you mean retinanet_pvt_v2_b0_fpn_1x_coco",
        "resnet50": "no config at resnet50",
        "hf://alone": "hf://alone is no repository: write hf://OWNER/NAME",
    }.items():
        with pytest.raises(UserError, match=sentence):
            mmpvt.load_model(name, device="cpu")


def test_a_repository(
    detector: Predictor, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with HubServer() as server:
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        with pytest.raises(UserError, match=r"me/tiny can't be uploaded: .*401"):
            detector.push_to_hub("me/tiny", token="wrong")
        url = detector.push_to_hub("me/tiny", token="secret", private=True)
        assert url.startswith(f"{server.url}/me/tiny/commit/")
        files = server.repositories["me/tiny"]
        assert files.keys() == {"README.md", "config.json", "model.safetensors"}
        assert "# tiny\n" in files["README.md"].decode()

        files["extra.py"] = b"raise SystemExit"
        model = mmpvt.load_model("hf://me/tiny", device="cpu")
        wanted = detector(image).pred_instances.scores
        assert torch.equal(model(image).pred_instances.scores, wanted)
        by_config = Predictor(detector.config, "hf://me/tiny@main/model.safetensors", "cpu")
        assert torch.equal(by_config(image).pred_instances.scores, wanted)
        assert not list((tmp_path / "cache").rglob("*.py"))
        with pytest.raises(
            DownloadError, match=r"config\.json of hf://me/none can't be downloaded"
        ):
            mmpvt.load_model("hf://me/none", device="cpu")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = mmpvt.load_model("hf://me/tiny", device="cpu")  # from the cache
    assert again.classes == list(NAMES)
