"""Annotations that can't be used are skipped, or end a run before it begins."""

from __future__ import annotations

import json
import logging
import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config

from mmpvt import UserError
from mmpvt.datasets.shapes import METAINFO, generate
from mmpvt.engine.checks.data import check_data
from mmpvt.engine.hooks.skipped_data import SkippedDataHook, skip_unusable_annotations

ANNOTATIONS = "annotations/instances_train2017.json"
SKIPPED = dict(skipped=[("a.png", "broken")])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return generate(tmp_path / "shapes", num_train=2, num_val=1, size=64, progress=False)


def detector(root: Path, with_mask: bool = True) -> Config:
    dataset = dict(
        type="mmpvt.ShapesDataset",
        data_root=str(root),
        ann_file=ANNOTATIONS,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=with_mask),
            dict(type="PackDetInputs"),
        ],
    )
    return Config(dict(work_dir=str(root / "work"), train_dataloader=dict(dataset=dataset)))


def with_mask(root: Path, mask: object) -> int:
    """Gives the second annotation another mask; its id."""
    content = json.loads((root / ANNOTATIONS).read_text())
    content["annotations"][1]["segmentation"] = mask
    (root / ANNOTATIONS).write_text(json.dumps(content))
    return content["annotations"][1]["id"]


@pytest.mark.parametrize("mask", ["a mask", None, [1.0, 2.0, 3.0]])
def test_masks_of_no_known_format(mask: object, root: Path):
    named = with_mask(root, mask)
    with pytest.raises(
        UserError, match=rf"the segmentation of 1 annotation in .*\(id {named}\) is"
    ):
        skip_unusable_annotations(detector(root), ("train",), "stop")
    boxes = detector(root, with_mask=False)
    skip_unusable_annotations(boxes, ("train",), "stop")
    assert boxes.train_dataloader.dataset.ann_file == ANNOTATIONS
    config = detector(root)
    (note,) = skip_unusable_annotations(config, ("train",), "skip")
    assert "0 images and 1 annotation of" in note and ".skipped.json" in note
    kept = json.loads(Path(config.train_dataloader.dataset.ann_file).read_text())["annotations"]
    assert named not in [annotation["id"] for annotation in kept] and kept


def test_run_length_encoded_masks(root: Path):
    with_mask(root, {"counts": [0, 4096], "size": [64, 64]})
    config = detector(root)
    skip_unusable_annotations(config, ("train",), "stop")
    assert config.train_dataloader.dataset.ann_file == ANNOTATIONS


@pytest.mark.parametrize("kind", ["mmpvt.ShapesDataset", "CocoDataset"])
def test_what_was_read_is_not_read_again(kind: str, root: Path):
    with_mask(root, None)
    config = detector(root)
    config.default_scope = "mmdet"
    config.train_dataloader.dataset.update(
        type=kind, metainfo=METAINFO, data_prefix=dict(img="train2017/")
    )
    config.model = {}
    contents = check_data(config, ("train",))
    assert list(contents) == [root / ANNOTATIONS]
    (root / ANNOTATIONS).unlink()
    skip_unusable_annotations(config, ("train",), "skip", contents)
    assert not contents
    assert Path(config.train_dataloader.dataset.ann_file).parent == root / "work" / "annotations"


def skip(root: Path) -> None:
    for _ in range(20):
        config = detector(root)
        skip_unusable_annotations(config, ("train",), "skip")
        json.loads(Path(config.train_dataloader.dataset.ann_file).read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA can't be copied to a process")
def test_processes_of_one_run(root: Path):
    """Each writes the copy; none sees a half one."""
    with_mask(root, None)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=skip, args=(root,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_branches_of_semi_supervised_training():
    """Of which each image is in some, None stands for it in the others."""
    skipped = DetDataSample(metainfo=dict(img_id=3, skipped=[("a.png", "it is broken")]))
    samples = {"sup": [DetDataSample(), None], "unsup_teacher": [None, skipped]}
    runner = SimpleNamespace(logger=logging.getLogger("skipped"))
    hook = SkippedDataHook([])
    hook.after_train_iter(runner, 0, dict(data_samples=samples))
    assert hook.trained == {"a.png": "it is broken"}


@pytest.mark.parametrize(("rank", "skipped", "counted"), [(0, {}, 3), (1, {}, 2), (1, SKIPPED, 2)])
def test_an_image_that_fills_up_a_share(
    rank: int, skipped: dict, counted: int, monkeypatch: pytest.MonkeyPatch
):
    """Of five images and two processes the second has the first image, too."""
    module = "mmpvt.engine.hooks.skipped_data"
    monkeypatch.setattr(f"{module}.get_world_size", lambda: 2)
    monkeypatch.setattr(f"{module}.get_rank", lambda: rank)
    elsewhere = {"b.png": ("broken", None)}
    monkeypatch.setattr(f"{module}.all_gather_object", lambda own: [own, elsewhere])
    metric = type("Accuracy", (), {"__module__": "mmpretrain.evaluation"})()
    metric.results = ["one", "two", "three"]
    loader = SimpleNamespace(dataset=range(5), sampler=SimpleNamespace(total_size=6))
    loader = type("Loader", (), {"__len__": lambda _: 1, **vars(loader)})()
    loop = SimpleNamespace(dataloader=loader, evaluator=SimpleNamespace(metrics=[metric]))
    runner = SimpleNamespace(val_loop=loop, logger=logging.getLogger("skipped"))
    sample = DetDataSample(metainfo=skipped)
    SkippedDataHook([])._after_iter(runner, 0, dict(data_samples=[sample]), mode="val")
    assert len(metric.results) == counted


@pytest.mark.parametrize(("truth", "said"), [("truth.odgt", True), (None, False)])
def test_a_metric_that_reads_all_objects(
    truth: str | None, said: bool, caplog: pytest.LogCaptureFixture
):
    """As CrowdHuman's does."""
    metrics = [SimpleNamespace(ann_file=truth)]
    loop = SimpleNamespace(
        evaluator=SimpleNamespace(metrics=metrics), dataloader=SimpleNamespace(dataset=range(5))
    )
    hook = SkippedDataHook([])
    hook.evaluated = {"a.png": ("it is broken", 3)}
    hook._correct_score(SimpleNamespace(logger=logging.getLogger("skipped")), loop)
    assert "the score is over 4 of 5 images" in caplog.text
    assert ("but SimpleNamespace takes the objects of the others for missed" in caplog.text) is said
