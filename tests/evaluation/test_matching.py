"""Matches are pycocotools'; what follows from them: curves, confusion matrices, worst errors."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpvt.evaluation.confusion import detection_confusion
from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays
from mmpvt.evaluation.detection_errors import find_errors
from mmpvt.evaluation.matching import match
from mmpvt.evaluation.score_curves import score_curves

LEFT, RIGHT, LOW = (0, 0, 10, 10), (50, 0, 10, 10), (0, 50, 40, 40)


def made_objects(*rows: tuple) -> ObjectArrays:
    """Of one image: label, box, whether it is a crowd."""
    return ObjectArrays(
        images=np.zeros(len(rows), np.int64),
        labels=np.array([label for label, *_ in rows], np.int64),
        boxes=np.array([box for _, box, _ in rows], float).reshape(-1, 4),
        crowd=np.array([crowd for *_, crowd in rows], bool),
        shares=np.array([box[2] * box[3] / 1e4 for _, box, _ in rows]),
    )


def made_detections(*rows: tuple) -> DetectionArrays:
    """Of one image: label, box, score."""
    return DetectionArrays(
        images=np.zeros(len(rows), np.int64),
        labels=np.array([label for label, *_ in rows], np.int64),
        scores=np.array([score for *_, score in rows], np.float32),
        boxes=np.array([box for _, box, _ in rows], float).reshape(-1, 4),
        masks=None,
    )


def random_api(
    seed: int, images: int, classes: int, objects: int, found: int, ties: bool = True
) -> tuple:
    """Objects, and detections near them and elsewhere, for pycocotools and in arrays."""
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for image in range(images):
        boxes = np.c_[rng.uniform(0, 80, (objects, 2)), rng.uniform(8, 30, (objects, 2))]
        labels = rng.integers(classes, size=objects)
        for label, box in zip(labels.tolist(), boxes, strict=True):
            truth.append(
                dict(
                    id=len(truth) + 1,
                    image_id=image,
                    category_id=label + 1,
                    bbox=box.tolist(),
                    area=box[2] * box[3],
                    iscrowd=int(rng.random() < 0.15),
                )
            )
        near = rng.integers(objects, size=found)
        moved = boxes[near] + rng.normal(0, 3, (found, 4))
        moved[:, 2:] = moved[:, 2:].clip(1)
        guessed = np.where(rng.random(found) < 0.8, labels[near], rng.integers(classes, size=found))
        scores = rng.integers(1, 40, found) / 40 if ties else rng.random(found)
        results += [
            dict(image_id=image, category_id=label + 1, bbox=box, score=score)
            for label, box, score in zip(
                guessed.tolist(), moved.tolist(), scores.tolist(), strict=True
            )
        ]
    api = COCO()
    api.dataset = dict(
        images=[dict(id=i, width=120, height=100) for i in range(images)],
        annotations=truth,
        categories=[dict(id=i + 1, name=str(i)) for i in range(classes)],
    )
    api.createIndex()
    detections = DetectionArrays(
        images=np.array([r["image_id"] for r in results]),
        labels=np.array([r["category_id"] - 1 for r in results]),
        scores=np.array([r["score"] for r in results]),
        boxes=np.array([r["bbox"] for r in results]),
        masks=None,
    )
    ids = range(1, classes + 1)
    return api, api.loadRes(results), ObjectArrays.collect(api, range(images), ids), detections


@pytest.mark.parametrize("iou", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_pycocotools(seed: int, iou: float):
    api, results, objects, detections = random_api(seed, 20, 3, 8, 25)
    evaluation = COCOeval(api, results, "bbox")
    evaluation.params.iouThrs = np.array([iou])
    evaluation.evaluate()
    expected = np.full(len(detections.images), -1)
    ignored = np.zeros(len(detections.images), bool)
    everywhere = evaluation.params.areaRng[0]
    for one in filter(None, evaluation.evalImgs):
        if one["aRng"] == everywhere:
            places = np.array(one["dtIds"], int) - 1
            expected[places] = one["dtMatches"][0].astype(int) - 1
            ignored[places] = one["dtIgnore"][0]
    matches = match(objects, detections, iou)
    assert (matches.objects == expected).all() and (matches.ignored == ignored).all()
    assert ignored.any() and (expected < 0).any() and (expected >= 0).sum() > 50
    found = np.flatnonzero(matches.detections >= 0)
    assert (matches.objects[matches.detections[found]] == found).all()


def test_score_curves_have_the_recall_and_precision_of_pycocotools():
    api, results, objects, detections = random_api(5, 30, 4, 8, 25, ties=False)
    evaluation = COCOeval(api, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    curves = score_curves(objects, detections, match(objects, detections), 4)
    for label, curve in enumerate(curves):
        assert curve.recall[-1] == evaluation.eval["recall"][0, label, 0, -1]
        # pycocotools' precision at a recall is the highest at that recall or beyond
        envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
        theirs = evaluation.eval["precision"][0, :, label, 0, -1]
        reached = np.searchsorted(curve.recall, evaluation.params.recThrs)
        np.testing.assert_allclose(theirs, np.append(envelope, 0)[reached], atol=1e-9)


def test_score_curve_of_a_small_case():
    objects = made_objects((0, LEFT, False), (0, RIGHT, False), (1, LOW, True))
    detections = made_detections(
        *((0, LEFT, 0.9), (0, LOW, 0.8), (0, RIGHT, 0.5), (0, RIGHT, 0.5)),
        *((1, LOW, 0.7), (2, LOW, 0.6), (0, LEFT, float("-inf"))),
    )
    first, crowd, absent = score_curves(objects, detections, match(objects, detections), 3)
    assert first.scores.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert first.precision.tolist() == [1, 0.5, 0.5] and first.recall.tolist() == [0.5, 0.5, 1]
    assert first.best == pytest.approx((0.9, 1, 0.5, 2 / 3)), "the highest of equal ones"
    assert first.objects == 2
    precision, recall, f1 = first.at(np.array([0.95, 0.89, 0.6, 0.5, 0.0]))
    np.testing.assert_allclose(precision, [np.nan, 1, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(recall, [0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(f1, [0, 2 / 3, 0.5, 2 / 3, 2 / 3])
    assert crowd.objects == 0 and len(crowd.scores) == 0 and crowd.best is None
    assert (
        absent.best is None and np.isnan(absent.recall).all() and absent.precision.tolist() == [0]
    )


def test_confusion_of_a_small_case():
    """MMDetection's tool gives [[2, 1, 1], [0, 0, 1], [0, 1, 0]] here: it counts the duplicate as
    correct, and the object that has another class's detection as missed, too."""
    objects = made_objects((0, LEFT, False), (0, RIGHT, False), (1, LOW, False))
    detections = made_detections(
        (0, LEFT, 0.9),
        (0, LEFT, 0.8),  # a duplicate
        (1, RIGHT, 0.7),  # of another class
        (1, (80, 80, 10, 10), 0.6),  # of nothing
        (1, LOW, 0.2),  # below the score
    )
    matrix = detection_confusion(objects, detections, 2, score=0.3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_confusion_prefers_the_own_class_and_ignores_crowds_of_it():
    near = (0, 1, 10, 10)
    objects = made_objects((0, near, False), (1, LEFT, False), (1, LOW, True))
    detections = made_detections((0, LEFT, 0.9), (1, LOW, 0.8), (0, LOW, 0.7))
    matrix = detection_confusion(objects, detections, 2, score=0.3)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_confusion_without_objects_or_detections():
    one, none = made_objects((0, LEFT, False)), made_objects()
    assert detection_confusion(one, made_detections(), 1, 0.3).tolist() == [[0, 1], [0, 0]]
    found = made_detections((0, LEFT, 0.9))
    assert detection_confusion(none, found, 1, 0.3).tolist() == [[0, 0], [1, 0]]
    assert detection_confusion(none, made_detections(), 1, 0.3).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("score", [0.05, 0.5])
def test_confusion_sums_are_objects_and_detections(score: float):
    *_, objects, detections = random_api(1, 20, 3, 8, 25)
    matrix = detection_confusion(objects, detections, 3, score)
    counts = np.bincount(objects.labels[~objects.crowd], minlength=3)
    assert (matrix[:3].sum(1) == counts).all()
    found = detections.select(detections.scores >= score)
    assert 0 < matrix[:, :3].sum() <= len(found.scores)
    assert matrix[-1, -1] == 0 and (matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))).any()


def test_each_kind_of_error():
    high, far = (50, 0, 10, 20), (80, 80, 10, 10)
    objects = made_objects(
        *((0, LEFT, False), (1, high, False), (2, LOW, False), (0, (60, 50, 40, 40), True)),
        (2, far, False),
    )
    detections = made_detections(
        (0, LEFT, 0.9),
        (0, LEFT, 0.8),  # again
        (1, LEFT, 0.75),  # again, of another class
        (0, high, 0.7),  # of another class
        (2, (0, 50, 40, 16), 0.6),  # of an IoU of 0.4
        (2, (0, 20, 10, 10), 0.5),
        (0, (70, 60, 10, 10), 0.45),  # of a crowd
        (1, (70, 60, 10, 10), 0.4),  # another class's crowd is no object to it
        (2, far, 0.2),  # of too low a score
    )
    errors = find_errors(objects, detections, score=0.3)
    assert errors.object_kinds.tolist() == [
        "detected",
        "misclassified",
        "missed",
        "crowd",
        "missed",
    ]
    assert errors.detection_kinds.tolist() == [
        *("correct", "duplicate", "duplicate", "classification", "localization"),
        *("background", "ignored", "background"),
    ]
    assert errors.true_labels[3] == 1
    expected = [0, 0.8, 0.75, 0.7, 0.6, 0.5, 0, 0.4]
    assert errors.false_positives.tolist() == pytest.approx(expected)
    severities = [0, 0, 0.4 * (1 - 0.4), 0, 0.1]
    assert errors.false_negatives.tolist() == pytest.approx(severities)


def test_errors_without_objects_or_detections():
    one, none = made_objects((0, LEFT, False)), made_objects()
    errors = find_errors(one, made_detections(), 0.3)
    assert errors.false_negatives.tolist() == [0.1] and errors.false_positives.tolist() == []
    errors = find_errors(none, made_detections((0, LEFT, 0.9)), 0.3)
    assert errors.detection_kinds.tolist() == ["background"] and len(errors.object_kinds) == 0


@pytest.mark.parametrize("score", [0.05, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_errors_sum_up_to_the_matrix_and_to_the_matches_of_coco(seed: int, score: float):
    *_, objects, detections = random_api(seed, 20, 3, 8, 25)
    errors = find_errors(objects, detections, score)
    found, kinds = errors.detections, errors.detection_kinds
    matrix = np.zeros((4, 4), int)
    for kind in ("correct", "classification"):
        np.add.at(matrix, (errors.true_labels[kinds == kind], found.labels[kinds == kind]), 1)
    is_spurious = np.isin(kinds, ("duplicate", "localization", "background"))
    np.add.at(matrix, (3, found.labels[is_spurious]), 1)
    np.add.at(matrix, (objects.labels[errors.object_kinds == "missed"], 3), 1)
    assert (matrix == detection_confusion(objects, detections, 3, score)).all()
    assert set(kinds) >= {"correct", "ignored", "classification", "duplicate", "background"}

    matches = match(objects, detections)  # of all scores, within classes
    is_positive = (matches.objects >= 0) & ~matches.ignored & (detections.scores >= score)
    positives = np.bincount(detections.labels[is_positive], minlength=3)
    assert np.diag(matrix)[:3].tolist() == positives.tolist()
    misclassified = np.count_nonzero(errors.object_kinds == "misclassified")
    assert misclassified == np.count_nonzero(kinds == "classification") > 0


def test_infinite_boxes_match_nothing():
    detections = made_detections((0, (0, 0, np.inf, np.inf), 0.9), (0, (np.inf, 0, 1, 1), 0.8))
    matches = match(made_objects((0, LEFT, False)), detections)
    assert (matches.objects == -1).all() and matches.object_ious.tolist() == [0]


def test_a_data_set_takes_seconds():
    """5,000 images of 100 detections take about 1 s."""
    *_, objects, detections = random_api(0, 10, 80, 8, 100)
    images = 5000
    many = DetectionArrays(
        images=np.repeat(np.arange(images), 100),
        labels=np.tile(detections.labels, 500),
        scores=np.tile(detections.scores, 500),
        boxes=np.tile(detections.boxes, (500, 1)),
        masks=None,
    )
    truth = ObjectArrays(
        images=np.repeat(np.arange(images), 8),
        labels=np.tile(objects.labels, 500),
        boxes=np.tile(objects.boxes, (500, 1)),
        crowd=np.tile(objects.crowd, 500),
        shares=np.tile(objects.shares, 500),
    )
    start = time.process_time()
    score_curves(truth, many, match(truth, many), 80)
    detection_confusion(truth, many, 80, 0.3)
    assert time.process_time() - start < 10
