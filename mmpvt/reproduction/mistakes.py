"""Which objects of an image were missed, and which detections are false alarms.

A detection is of an object if it has its class and their boxes' intersection over union is at
least 0.5, the best-scored detection first, as COCO's evaluation has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mmpvt.datasets.coco import is_valid_mask

AT_LEAST = 0.3  # score of a detection that counts as one here
MATCH = 0.5  # intersection over union
NEAR = 0.1  # … from which on a detection was meant for an object

# kinds of marks: of the truth; of detections
FOUND, MISSED, IGNORED = "found", "missed", "crowd"
RIGHT, DUPLICATE, CONFUSED, MISPLACED, NOTHING = (
    "right",
    "duplicate",
    "confused",
    "misplaced",
    "nothing there",
)


def find_mistakes(image: dict, annotations: Sequence[dict]) -> dict:
    """Compares an image's detections with its truth.

    Args:
        image (dict): from :meth:`~mmpvt.reproduction.detection.Detections.keep`.
        annotations (Sequence[dict]): COCO's, with a ``label`` each.

    Returns:
        dict: ``truth`` and ``found``, a mark for each object and detection with ``label``,
        ``box`` (left, top, width, height), ``mask`` (as COCO stores it, or None), ``kind``,
        ``iou``, ``severity`` (0 for what is right), for a detection ``score`` and ``instead``, the
        label of the object that it was confused with; ``miss`` and ``alarm``, the image's greatest
        severity of each sort.

        A miss is the worse the larger the object is (the square root of its share of the image)
        and the less of it any detection of its class covers (1 - IoU); a false alarm is as bad as
        its score is high.
    """
    chosen = np.flatnonzero(image["scores"] >= AT_LEAST)
    chosen = chosen[np.argsort(-image["scores"][chosen], kind="stable")]
    boxes = image["boxes"][chosen].astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    labels = image["labels"][chosen]
    crowd = [bool(a.get("iscrowd")) for a in annotations]
    truth_boxes = np.array([a["bbox"] for a in annotations], dtype=float).reshape(-1, 4)
    truth_labels = np.array([a["label"] for a in annotations], dtype=int)
    shape = (len(boxes), len(annotations))
    overlap = np.zeros(shape)
    if all(shape):
        overlap = np.asarray(coco_mask.iou(boxes, truth_boxes, crowd)).reshape(shape)
    same = labels[:, None] == truth_labels[None]

    taken = _assign(overlap * same, np.array(crowd, dtype=bool))
    found = []
    for i, number in enumerate(chosen):
        kind, instead = _judge(overlap[i], same[i], taken[i], truth_labels)
        score = float(image["scores"][number])
        found.append(
            dict(
                label=int(labels[i]),
                box=boxes[i],
                mask=image["masks"][number] if image["masks"] is not None else None,
                kind=kind,
                instead=instead,
                iou=float((overlap[i] * same[i]).max(initial=0)),
                score=score,
                severity=0.0 if kind == RIGHT else score,
            )
        )
    area = image["size"][0] * image["size"][1]
    truth = []
    for j, annotation in enumerate(annotations):
        best = float((overlap[:, j] * same[:, j]).max(initial=0))
        kind = IGNORED if crowd[j] else FOUND if j in taken else MISSED
        share = annotation.get("area", truth_boxes[j, 2] * truth_boxes[j, 3]) / area
        mask = annotation.get("segmentation")
        is_drawn = image["masks"] is not None and is_valid_mask(mask, *image["size"])
        truth.append(
            dict(
                label=annotation["label"],
                box=truth_boxes[j],
                mask=mask if is_drawn else None,
                kind=kind,
                iou=best,
                severity=np.sqrt(share) * (1 - best) if kind == MISSED else 0.0,
            )
        )
    return dict(
        truth=truth,
        found=found,
        miss=round(float(max((mark["severity"] for mark in truth), default=0)), 4),
        alarm=round(max((mark["severity"] for mark in found), default=0.0), 4),
    )


def worst_first(found: Mapping[object, dict]) -> list:
    """Images with mistakes: by turns the one with the worst miss and with the worst false alarm.

    Args:
        found (Mapping): what :func:`find_mistakes` gave, by image.

    Returns:
        list: the keys of those that have any, each once.
    """
    rankings = [
        sorted((key for key in found if found[key][sort] > 0), key=lambda key: -found[key][sort])
        for sort in ("miss", "alarm")
    ]
    longest = max(map(len, rankings))
    turns = (ranking[i] for i in range(longest) for ranking in rankings if i < len(ranking))
    return list(dict.fromkeys(turns))


def _assign(overlap: np.ndarray, crowd: np.ndarray) -> list[int | None]:
    """The object of each detection: the best that is left, a crowd for any number of them."""
    free = np.ones(overlap.shape[1], dtype=bool)
    taken: list[int | None] = []
    for row in overlap:
        candidates = np.where(free, row, 0)
        best = int(candidates.argmax()) if len(row) else -1
        if best < 0 or candidates[best] < MATCH:
            taken.append(None)
            continue
        free[best] = crowd[best]
        taken.append(best)
    return taken


def _judge(
    overlap: np.ndarray, same: np.ndarray, taken: int | None, labels: np.ndarray
) -> tuple[str, int | None]:
    """What is wrong with a detection, and the class it was confused with."""
    if taken is not None:
        return RIGHT, None
    own = (overlap * same).max(initial=0)
    if own >= MATCH:
        return DUPLICATE, None
    other = overlap * ~same
    if other.max(initial=0) >= MATCH:
        return CONFUSED, int(labels[other.argmax()])
    return (MISPLACED if own >= NEAR else NOTHING), None
