"""COCO's curves and mistakes, on cases that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpvt.reproduction import curves as module
from mmpvt.reproduction.curves import curves, read_truth
from mmpvt.reproduction.mistakes import find_mistakes, worst_first
from mmpvt.reproduction.outlines import outline

CLASSES = ["cat", "dog", "bird"]
SIZE = (200, 100)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Two images; the categories' numbers are not in the order of the classes."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in (1, 2):
        for number in (9, 4, 9):
            x, y = rng.uniform(0, 60, 2).round(1).tolist()
            box = [x, y, 30.0, 40.0]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image, category_id=number, bbox=box)
                | dict(area=1200.0, iscrowd=0)
            )
    numbers = {"cat": 9, "dog": 4, "bird": 7}
    content = dict(
        info={},
        images=[dict(id=i, width=200, height=100, file_name=f"{i}.jpg") for i in (1, 2)],
        annotations=annotations,
        categories=[dict(id=numbers[name], name=name) for name in CLASSES],
    )
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return str(path)


def detections(file: str) -> list[dict]:
    rng = np.random.default_rng(1)
    return [
        dict(
            image_id=a["image_id"],
            category_id=int(rng.choice([a["category_id"], a["category_id"], 7])),
            bbox=(np.array(a["bbox"]) + rng.uniform(-6, 6, 4)).tolist(),
            score=float(rng.uniform(0.1, 1)),
        )
        for a in json.loads(Path(file).read_text())["annotations"] * 3
    ]


@pytest.mark.parametrize("backend", ["installed", "pycocotools"])
def test_equal_to_pycocotools(backend: str, file: str, monkeypatch: pytest.MonkeyPatch):
    if backend == "pycocotools":
        monkeypatch.setattr(module, "COCO", COCO)
        monkeypatch.setattr(module, "COCOeval", COCOeval)
    truth, results = read_truth(file, CLASSES), detections(file)
    found = curves(truth, results, "bbox")
    theirs = COCO(file)
    evaluation = COCOeval(theirs, theirs.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = [found[key] for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")]
    expected = [value if value >= 0 else None for value in evaluation.stats[:6]]
    assert ours == pytest.approx(expected, abs=1e-9)
    by_class = {one["name"]: one for one in found["classes"]}
    assert [one["name"] for one in found["classes"]] == CLASSES
    assert by_class["bird"]["AP"] is None
    assert by_class["cat"]["truths"] == 4 and by_class["dog"]["truths"] == 2
    evaluation.params.catIds = [4]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert by_class["dog"]["AP"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert found["curves"]["0.50"][0] > 0 and len(found["curves"]["mean"]) == 101


def test_no_detection_at_all(file: str):
    found = curves(read_truth(file, CLASSES), [], "bbox")
    assert found["AP"] == 0 and found["classes"][2]["AP"] is None


def seen(*found: tuple) -> dict:
    """An image's detections: label, score, and left, top, right, bottom."""
    return dict(
        labels=np.array([one[0] for one in found], dtype=int),
        scores=np.array([one[1] for one in found], dtype=np.float32),
        boxes=np.array([one[2] for one in found], dtype=np.float32).reshape(-1, 4),
        masks=None,
        size=SIZE,
    )


def there(label: int, *box: float, crowd: int = 0) -> dict:
    return dict(label=label, bbox=list(box), area=box[2] * box[3], iscrowd=crowd)


def test_each_kind_of_mistake():
    truth = [
        there(0, 0, 0, 40, 40),
        there(1, 100, 0, 40, 40),
        there(2, 0, 60, 30, 30),
        there(0, 150, 50, 50, 50, crowd=1),
    ]
    found = seen(
        (0, 0.9, (0, 0, 40, 40)),
        (0, 0.8, (2, 0, 42, 40)),  # again
        (0, 0.7, (100, 0, 140, 40)),  # a dog
        (1, 0.6, (120, 0, 160, 40)),  # half beside it
        (2, 0.5, (60, 60, 70, 70)),
        (0, 0.45, (160, 60, 170, 70)),  # of a crowd
        (2, 0.2, (0, 60, 30, 90)),  # too unsure
    )
    marks = find_mistakes(found, truth)
    assert [mark["kind"] for mark in marks["truth"]] == ["found", "missed", "missed", "crowd"]
    assert [mark["kind"] for mark in marks["found"]] == [
        "right",
        "duplicate",
        "confused",
        "misplaced",
        "nothing there",
        "right",
    ]
    assert marks["found"][2]["instead"] == 1
    assert marks["alarm"] == pytest.approx(0.8)
    dog, bird = (mark["severity"] for mark in marks["truth"][1:3])
    assert dog == pytest.approx((1600 / 20000) ** 0.5 * (1 - 1 / 3))
    assert bird == pytest.approx((900 / 20000) ** 0.5)
    assert marks["miss"] == pytest.approx(bird, abs=1e-4)


def test_nothing_there_and_nothing_found():
    marks = find_mistakes(seen(), [])
    assert marks == dict(truth=[], found=[], miss=0, alarm=0)
    assert find_mistakes(seen(), [there(0, 0, 0, 200, 100)])["miss"] == 1
    assert find_mistakes(seen((0, 0.75, (0, 0, 9, 9))), [])["alarm"] == 0.75


def test_the_worst_by_turns():
    found = dict(
        a=dict(miss=0.1, alarm=0.9),
        b=dict(miss=0.8, alarm=0.0),
        c=dict(miss=0.5, alarm=0.95),
        d=dict(miss=0.0, alarm=0.0),
    )
    assert worst_first(found) == ["b", "c", "a"]
    assert worst_first({}) == []


@pytest.mark.parametrize("encoded", [False, True])
def test_outline(encoded: bool):
    polygon = [[20.0, 10.0, 120.0, 10.0, 120.0, 60.0, 20.0, 60.0]]
    if encoded:
        counts = [20 * 100]
        for _ in range(100):
            counts[-1] += 10
            counts += [50, 40]
        counts[-1] += 80 * 100
        polygon = dict(counts=counts, size=[100, 200])
    (piece,) = outline(polygon, SIZE, scale=0.5)
    x, y = piece[::2], piece[1::2]
    assert (min(x), min(y), max(x), max(y)) == pytest.approx((10, 5, 59, 29), abs=1)
