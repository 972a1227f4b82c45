"""Every family of models learns a user's own classes: a step, an evaluation, a prediction.

tests/dev/test_swap_sweep.py runs the families that are refused here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from PIL import Image

from dev.swap_sweep.checks import check_gradients, check_predictions
from dev.swap_sweep.config_trial import make_small
from helpers import SWAP_FAMILIES, forget_runs
from mmpvt import Predictor
from mmpvt.engine.class_names import head_counts
from mmpvt.engine.config import load_config
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.own_data import DataOptions
from mmpvt.engine.preparation import TrainOptions, prepare_training
from mmpvt.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore")  # of many models

CLASSES = ("zebra crossing", "car", "dog")
REFUSED = {
    "mmdet::cascade_rpn": "region proposals",
    "mmdet::fast_rcnn": "region proposals",
    "mmdet::libra_rcnn": "region proposals",
    "mmdet::ld": "a teacher",
    "mmdet::masktrack_rcnn": "videos",
    "mmdet::qdtrack": "videos",
    "mmdet::panoptic_fpn": "label maps beside the objects",
    "mmdet::rpn": "no head that tells classes apart",
    "mmdet::soft_teacher": "without annotations",
}
# One of each way in which heads, targets and data are fitted; `make test-full` runs all.
QUICK = {
    *("mmdet::albu_example", "mmdet::centernet", "mmdet::condinst", "mmdet::detr"),
    *("mmdet::faster_rcnn", "mmdet::fcos", "mmdet::mask2former", "mmdet::yolact"),
    *("mmseg::emanet", "mmseg::encnet", "mmseg::ocrnet", "mmseg::sem_fpn"),
}
WIDTH, HEIGHT = 128, 96


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images to train on, one to validate on, with boxes and outlines."""
    root = tmp_path_factory.mktemp("objects")
    for split, numbers in (("train", (1, 2)), ("valid", (3,))):
        (root / split).mkdir()
        annotations = []
        for number in numbers:
            image = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            for label in range(len(CLASSES)):
                x, y, side = 4 + 40 * label, 8 * number, 36
                image[y : y + side, x : x + side] = 80 * label
                outline = [x, y, x + side, y, x + side, y + side, x, y + side]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=3 + 2 * label,
                        bbox=[x, y, side, side],
                        area=side * side,
                        segmentation=[outline],
                        iscrowd=0,
                    )
                )
            Image.fromarray(image).save(root / split / f"{number}.jpg")
        content = dict(
            images=[dict(id=n, file_name=f"{n}.jpg", width=WIDTH, height=HEIGHT) for n in numbers],
            annotations=annotations,
            categories=[dict(id=3 + 2 * i, name=name) for i, name in enumerate(CLASSES)],
        )
        (root / split / "_annotations.coco.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("maps")
    for split, numbers in (("train", (1, 2)), ("val", (3,))):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in numbers:
            labels = np.arange(WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, 0) // 48
            image = np.stack([80 * labels] * 3, -1) + np.uint8(number)
            Image.fromarray(image).save(root / "images" / split / f"{number}.png")
            Image.fromarray(labels).save(root / "masks" / split / f"{number}.png")
    return root


def small(name: str, work_dir: Path) -> Config:
    """A family's config on the smallest PVT, for small images."""
    config = load_config(name, backbone="pvt_v2_b0")
    make_small(config)
    for part in iter_dicts(config._cfg_dict):
        kind = str(part.get("type"))
        if kind.endswith(("Resize", "RandomChoiceResize", "RandomResize")):
            keep_ratio = part.get("keep_ratio", True)
            part.clear()
            part.update(type="Resize", scale=(WIDTH, HEIGHT), keep_ratio=keep_ratio)
        elif "crop_size" in part:
            part["crop_size"] = (64, 64)
        if "num_workers" in part:
            part.update(num_workers=0, persistent_workers=False)
    # A model of 30 million weights is saved once, without the optimizer's state.
    config.default_hooks.checkpoint.update(save_best=None, save_optimizer=False)
    config.work_dir = str(work_dir)
    return config


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            id=(family := name.partition("/")[0]),
            marks=() if family in QUICK or family in REFUSED else pytest.mark.full,
        )
        for name in SWAP_FAMILIES
    ],
)
def test_learns_own_classes(
    name: str,
    objects: Path,
    label_maps: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    family = name.partition("/")[0]
    is_semantic = name.startswith("mmseg")
    data = DataOptions(path=str(label_maps), classes=CLASSES)
    if not is_semantic:
        data = DataOptions(path=str(objects))
    config = small(name, tmp_path / "run")
    options = TrainOptions(data=data, epochs=1, seed=0)
    if family == "mmdet::albu_example":
        pytest.importorskip("albumentations")
    if family in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[family]):
            prepare_training(config, options)
        assert not (tmp_path / "run").exists()
        return

    config = prepare_training(config, options)
    assert {n for counts in head_counts(config.model).values() for n in counts} <= {3}
    forget_runs()
    monkeypatch.setattr(OptimWrapper, "zero_grad", lambda self, **kwargs: None)  # to look at them
    runner = Runner.from_cfg(config)
    runner.train()
    check_gradients(runner.model)
    assert runner.iter in (1, 2)  # by the config's batch
    scores = runner.message_hub.log_scalars
    assert any("mAP" in key or "mIoU" in key for key in scores) or _nothing_found(runner)
    forget_runs()
    written = tmp_path / "run" / f"{Path(name).stem}.py"
    predictor = Predictor(written, (tmp_path / "run" / "last_checkpoint").read_text())
    assert list(predictor.classes) == list(CLASSES)
    image = next((label_maps if is_semantic else objects).rglob("3.*g"))
    sample = predictor(image)
    check_predictions([sample], 1, (HEIGHT, WIDTH))
    labels = sample.pred_sem_seg.data if is_semantic else sample.pred_instances.labels
    assert not len(labels) or int(labels.max()) < len(CLASSES)


def _nothing_found(runner: Runner) -> bool:
    """Whether an untrained detector gave no box, for which there is no score."""
    return "is empty" in Path(runner.log_dir, f"{runner.timestamp}.log").read_text()


def test_many_families():
    assert len({name.partition("/")[0] for name in SWAP_FAMILIES} - set(REFUSED)) >= 40
