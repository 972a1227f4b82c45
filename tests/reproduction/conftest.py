"""Records as tests of models would give them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

HOSTILE = '</script><img src=x onerror="document.title = 1">&amp;'


def png(rng: np.random.Generator) -> str:
    """An image of its own, in base64."""
    import base64

    _, data = cv2.imencode(".png", rng.integers(0, 256, (24, 32, 3), np.uint8))
    return base64.b64encode(data).decode()


def detector(name: str, box_ap: float, rng: np.random.Generator) -> dict:
    line = [1 - i / 100 for i in range(101)]
    classes = [
        dict(name=HOSTILE, AP=0.2, AP50=0.4, objects=3),
        dict(name="cat", AP=None, objects=0),
    ]
    mark = dict(name="cat", box=[2, 2, 9, 9], iou=0.1, severity=0.3)
    entry = dict(
        **dict(image=f"{name}.jpg", width=32, height=24, false_negative=0.4, false_positive=0.0),
        truth=[dict(mark, kind="missed")],
        detections=[dict(mark, kind="classification", score=0.8, true_class=HOSTILE)],
    )
    return dict(
        **dict(status="tested", family="RetinaNet", backbone="pvt_t", dataset="COCO val2017"),
        **dict(scores=dict(box_AP=box_ap, box_AP_small=3.0), published=dict(box_AP=36.7)),
        curves=dict(bbox=dict(curves={"0.50": line, "mean": line}, classes=classes)),
        training=dict(file="x.log", loss=[[i, 1 / i] for i in range(1, 50)], scores={}),
        gallery=[dict(entry, jpeg=png(rng)) for _ in range(14)],
    )


def segmenter(name: str, rng: np.random.Generator) -> dict:
    classes = [dict(name="wall", colour="#787878", iou=0.5, share=0.7)]
    entry = dict(image=f"{name}.jpg", mean_iou=0.3, classes=classes)
    return dict(
        **dict(status="tested", family="Semantic FPN", backbone="pvt_v2_b0", dataset="ADE20K val"),
        **dict(scores=dict(mIoU=38.01), published=dict(mIoU=37.2)),
        classes=[dict(name="wall", IoU=0.5, share=0.7), dict(name="sky", IoU=None, share=0.0)],
        gallery=[
            dict(entry, jpeg=png(rng), truth_map=png(rng), prediction_map=png(rng))
            for _ in range(3)
        ],
    )


def classifier(name: str, rng: np.random.Generator) -> dict:
    entry = dict(image=f"{name}.jpg", class_=HOSTILE, taken_for=[["cat", 0.7], [HOSTILE, 0.2]])
    classes = [
        dict(name=HOSTILE, recall=0.25, precision=0.5, share=0.7),
        dict(name="cat", recall=None, precision=None, share=0.0),
    ]
    return dict(
        **dict(status="tested", family="ImageClassifier", backbone="pvt_t", dataset="ImageNet"),
        **dict(scores=dict(top1=74.9), published=dict(top1=75.1), classified=True, classes=classes),
        gallery=[dict(entry, jpeg=png(rng)) for _ in range(3)],
    )


@pytest.fixture
def make_run() -> Callable[[str], dict]:
    """Makes the record of one run, of a ``detector``, a ``segmenter`` or a ``classifier``."""

    def make(kind: str) -> dict:
        rng = np.random.default_rng(0)
        is_detector = kind == "detector"
        if is_detector:
            parts = detector("b_first", 36.6, rng)
        else:
            parts = dict(segmenter=segmenter, classifier=classifier)[kind]("third", rng)
        unit = dict(detector="objects", segmenter="pixels", classifier="images")[kind]
        names, counts = [HOSTILE, "cat"], [[2, 5], [1, 3]]
        if is_detector:
            names, counts = [*names, "background"], [[2, 5, 0], [1, 3, 0], [0, 9, 0]]
        line = dict(precision=[0.5, None], recall=[0.9, 0.1], F1=[0.6, 0.2])
        line["best"] = dict(score=0.1, precision=0.5, recall=0.9, F1=0.6)
        classes = [
            dict(line, name=HOSTILE, objects=3),
            dict(line, name="cat", objects=0, best=None),
        ]
        data = [dict(name=name, count=count) for name, count in ((HOSTILE, 3), ("cat", 0))]
        sizes = dict(width=[9, 9.5, 12], height=[9, 9, 9], sizes=[0.1, 0.2, 0.7])
        return dict(
            **parts,
            **dict(name=HOSTILE, file="x.pth", run=True, min_score=0.3, config="config"),
            **dict(gflops=None, parameters=2.3e7, images_per_second=10.0, seconds=1.0, images=5),
            **dict(memory=dict(of="RAM", MiB=600.0), versions=dict(device="CPU"), processes=1),
            **dict(skipped=0, finished="2026-01-01T00:00:00", metrics={}, missing={}),
            by_score=dict(scores=[0.0, 0.5], classes=classes, mean=dict(line, name="mean"))
            if is_detector
            else None,
            confusion=dict(names=names, counts=counts),
            data=[
                dict(splits=["train"], place=HOSTILE, unit=unit)
                | dict(sizes, images=3, read=2, empty=0, classes=data),
                dict(splits=["val", "test"], place="b", error=HOSTILE),
            ],
        ) | dict(training=dict(file="x", loss=[[1, 2], [5, 1]], val_loss=[[5, 1.5]], scores={}))

    return make


@pytest.fixture
def make_records() -> Callable[..., list[dict]]:
    """Makes two detectors, a segmenter, and two checkpoints that weren't tested."""

    def make(copies: int = 1) -> list[dict]:
        rng = np.random.default_rng(0)
        measured = dict(
            **dict(gflops=None, parameters=2.3e7, images_per_second=10.0, seconds=1.0, images=5),
            **dict(memory=dict(of="RAM", MiB=600.0), versions=dict(device="CPU"), processes=1),
            **dict(skipped=0, finished="today", config="config"),
        )
        records = []
        for i in range(copies):
            parts = {
                f"b_first_{i}": detector("b_first", 36.6, rng),
                f"a_second_{i}": detector("a_second", 40.0, rng),
                f"{HOSTILE}_{i}": segmenter("third", rng),
            }
            records += [dict(measured, name=n, file=f"{n}.pth", **p) for n, p in parts.items()]
        records.append(dict(name="broken", status="failed", error=f"can't be read {HOSTILE}"))
        records.append(dict(name="unknown", status="skipped", error="no config"))
        return records

    return make
