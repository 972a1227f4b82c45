"""Files that a generator has broken: each is used, skipped, or refused in a sentence.

`make test` tries the same inputs every time; `make test-full` more, drawn anew.
"""

from __future__ import annotations

import copy
import json
import math
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO

import corpus
from mmpvt import UserError
from mmpvt.checkpoint import load_checkpoint
from mmpvt.datasets.coco import clean_annotations, read_annotations
from mmpvt.datasets.loading import LoadSegAnnotations
from mmpvt.engine.class_names import compare_with_checkpoint, model_meta
from mmpvt.reproduction.result_store import to_json
from mmpvt.reproduction.training_log import read_log
from mmpvt.utils.files import parse_json
from mmpvt.visualization.drawing import colours

# The numbers of inputs of a minute in `make test`, and of ten in `make test-full`.
EXAMPLES = [
    pytest.param(dict(max_examples=300, derandomize=True), id="short"),
    pytest.param(dict(max_examples=6000), id="long", marks=pytest.mark.full),
]


def fuzz(examples: dict, strategy: st.SearchStrategy, check: Callable[[object], None]) -> None:
    """Runs a check on inputs, and prints how many there were."""
    tried = 0

    @settings(
        **examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: object) -> None:
        nonlocal tried
        tried += 1
        check(value)

    run()
    print(f"{tried} inputs were tried")
    assert tried >= examples["max_examples"] * 0.9


HUGE = st.sampled_from([10**400, -(10**400), 2**31, 2**32, 2**63, 2**64, -1, 0, 1e308, 1e16])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 100)
    | st.floats(width=64)
    | HUGE
    | st.text(st.characters(), max_size=12)  # lone surrogates, too
    | st.sampled_from(["circle", "1.jpg", "../1.jpg", "/dev/zero", "\x1b[2J", "a\0b", "o" * 5000])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
) | st.integers(1, 120).map(corpus.nested)
MASKS = st.fixed_dictionaries(
    dict(
        size=st.just(list(corpus.SIZE)) | VALUES,
        counts=st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=60)
        | st.lists(st.integers(-2, 4000), max_size=9)
        | VALUES,
    )
) | st.lists(st.lists(st.floats(-100, 200) | HUGE, max_size=10), max_size=3)
CHANGES = st.lists(
    st.tuples(st.lists(st.integers(0, 200), min_size=1, max_size=6), VALUES | MASKS),
    min_size=1,
    max_size=5,
)


def changed(content: object, changes: list[tuple[list[int], object]]) -> object:
    """Replaces, drops or adds something at places that numbers lead to."""
    for path, value in changes:
        place = content
        for number in path[:-1]:
            entries = list(place.values() if isinstance(place, dict) else place)
            inner = [entry for entry in entries if isinstance(entry, dict | list) and entry]
            if not inner:
                break
            place = inner[number % len(inner)]
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[path[-1] % len(keys)]
        if path[-1] % 7 == 6:
            del place[key]
        else:
            place[key] = copy.deepcopy(value)  # a value may be put into itself
        if not place:
            break
    return content


def broken_bytes(data: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes replaced, and perhaps the end cut off."""
    places = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))

    def harm(edits: list[tuple[int, int]], end: int) -> bytes:
        harmed = bytearray(data)
        for place, value in edits:
            harmed[place] = value
        return bytes(harmed[:end])

    ends = st.just(len(data)) | st.integers(0, len(data))
    return st.builds(harm, st.lists(places, max_size=6), ends)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_coco_annotations(examples: dict, tmp_path: Path):
    """What is said to be usable is loaded by MMDetection and decoded by pycocotools."""
    from mmdet.datasets import CocoDataset

    init_default_scope("mmdet")
    file, copied = tmp_path / "a.json", tmp_path / "b.json"

    def check(data: bytes) -> None:
        file.write_bytes(data)
        try:
            content, findings = clean_annotations(read_annotations(file), masks=True)
        except UserError as error:
            assert str(file) in str(error)
            return
        "; ".join(map(str, findings))
        if not content["images"] or not content["annotations"]:
            return
        copied.write_bytes(json.dumps(content).encode())
        dataset = CocoDataset(
            ann_file=str(copied),
            data_prefix=dict(img=""),
            metainfo=dict(classes=("circle", "square")),
            pipeline=[],
        )
        for sample in dataset:
            assert all(map(math.isfinite, np.ravel([i["bbox"] for i in sample["instances"]])))
        coco = COCO(str(copied))
        for annotation in coco.anns.values():
            image = coco.imgs[annotation["image_id"]]
            if image["width"] * image["height"] <= 10**6:
                assert coco.annToMask(annotation).shape == (image["height"], image["width"])

    texts = CHANGES.map(lambda c: json.dumps(changed(corpus.annotations(), c)).encode())
    plain = json.dumps(corpus.annotations()).encode()
    fuzz(examples, texts | broken_bytes(plain) | st.binary(max_size=40), check)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_label_maps(examples: dict, tmp_path: Path):
    init_default_scope("mmseg")
    loader = LoadSegAnnotations(num_classes=6, reduce_zero_label=None)
    file = tmp_path / "a.png"
    whole = corpus.png(corpus.labels())

    def with_header(fields: tuple) -> bytes:
        header = struct.pack(">IIBBBBB", *fields)
        checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
        return whole[:16] + header + checksum + whole[33:]

    def check(data: bytes) -> None:
        file.write_bytes(data)
        results = dict(
            seg_map_path=str(file), img_path="1.jpg", ori_shape=corpus.SIZE, seg_fields=[]
        )
        try:
            labels = loader(dict(results, reduce_zero_label=True))["gt_seg_map"]
        except UserError as error:
            assert str(file) in str(error)
            return
        assert labels.shape == corpus.SIZE and set(np.unique(labels)) <= {*range(6), 255}

    sides = st.integers(0, 2**32 - 1) | st.sampled_from([48, 64])
    small = st.integers(0, 20)
    headers = st.tuples(sides, sides, small, small, small, small, small).map(with_header)
    others = [broken_bytes(item.make(corpus.labels()) or b"\0") for item in corpus.LABEL_MAPS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images
        fuzz(examples, st.one_of(headers, *others), check)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_what_checkpoints_say_of_themselves(examples: dict, tmp_path: Path):
    dataset = dict(type="CocoDataset", metainfo=dict(classes=("circle", "square")))
    model = dict(type="RetinaNet", bbox_head=dict(num_classes=2))
    loader = dict(dataset=dataset)
    config = Config(dict(default_scope="mmdet", model=model, test_dataloader=loader))
    whole = dict(
        meta=dict(
            epoch=1,
            iter=2,
            config="raise SystemExit",
            dataset_meta=dict(classes=("circle", "square"), palette=[(1, 2, 3), (4, 5, 6)]),
            CLASSES=("circle", "square"),
        ),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
    )
    file = tmp_path / "a.pth"

    def check(content: dict) -> None:
        file.unlink(missing_ok=True)
        torch.save(dict(content, state_dict=dict(weight=torch.zeros(1))), file)
        try:
            saved = load_checkpoint(file)
            meta = model_meta(config, saved)
            compare_with_checkpoint(["circle", "square"], saved)
        except UserError:
            return
        assert all(isinstance(name, str) for name in meta["classes"])
        for colour in colours(meta.get("palette"), len(meta["classes"])):
            assert len(colour) == 3 and all(0 <= level <= 255 for level in colour)

    odd = CHANGES.map(lambda c: changed(copy.deepcopy(whole), c))
    fuzz(examples, odd, check)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("examples", EXAMPLES)
def test_training_logs(examples: dict, tmp_path: Path):
    row = dict(mode="train", step=50, iter=50, epoch=1, loss=0.5, bbox_mAP=0.1, mIoU=30.0)
    rows = CHANGES.map(lambda c: json.dumps(changed(dict(row), c)))
    line = "mmengine - INFO - Epoch(train) [1][50/99]  lr: 1e-04  loss: 2.5  bbox_mAP: 0.3"
    harmed = broken_bytes(line.encode()).map(lambda data: data.decode(errors="replace"))
    numbers = st.integers(0, 5000).map(lambda n: line.replace("50/", "9" * n + "/"))
    losses = st.integers(0, 5000).map(lambda n: line.replace("2.5", "9" * n + "e" + "9" * 9))
    deep = st.integers(1, 100_000).map(lambda n: "[" * n)
    lines = st.lists(rows | harmed | numbers | losses | deep, max_size=6)

    def check(content: list[str]) -> None:
        for name in ("a.json", "a.log"):
            path = tmp_path / name
            path.write_bytes("\n".join(content).encode("utf-8", "surrogatepass"))
            if found := read_log(path):
                points = [*found["loss"], *(p for s in found["scores"].values() for p in s)]
                assert all(math.isfinite(value) for point in points for value in point)
                assert parse_json(to_json(found))

    fuzz(examples, lines, check)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.log"]
