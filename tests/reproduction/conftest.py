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
    mark = dict(name="cat", box=[2, 2, 9, 9], iou=0.1)
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
