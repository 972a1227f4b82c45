"""Class names of configs, annotation files, heads and evaluators: labels go by name."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmpvt import UserError
from mmpvt.datasets.shapes import METAINFO, generate
from mmpvt.engine.checks.classes import check_class_weights
from mmpvt.engine.checks.data import check_data
from mmpvt.engine.class_names import class_differences
from mmpvt.errors import ConfigError
from mmpvt.evaluation import CocoMetric
from mmpvt.registry import DATASETS

NAMES = METAINFO["classes"]
TRAIN, VAL = (f"annotations/instances_{split}2017.json" for split in ("train", "val"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return generate(tmp_path / "shapes", num_train=4, num_val=2, size=64, progress=False)


def change(root: Path, file: str, function) -> None:
    """Rewrites an annotation file."""
    content = json.loads((root / file).read_text())
    function(content)
    (root / file).write_text(json.dumps(content))


def coco(root: Path, file: str = TRAIN, classes: object = NAMES, **changes) -> dict:
    return dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file=file,
        data_prefix=dict(img=f"{Path(file).stem.removeprefix('instances_')}/"),
        metainfo=dict(classes=classes),
        **changes,
    )


def experiment(model: dict | None = None, **datasets) -> Config:
    loaders = {f"{split}_dataloader": dict(dataset=one) for split, one in datasets.items()}
    return Config(dict(default_scope="mmdet", model=model or {}, **loaders))


def labels_by_name(dataset: dict, root: Path) -> dict[tuple, str]:
    """Each box of a data set with the name that its label stands for."""
    init_default_scope("mmdet")
    built = DATASETS.build(dict(dataset, lazy_init=False))
    names = built.metainfo["classes"]
    return {
        (info["img_path"], *instance["bbox"]): names[instance["bbox_label"]]
        for info in (built.get_data_info(i) for i in range(len(built)))
        for instance in info["instances"]
    }


def reverse(content: dict) -> None:
    content["categories"].reverse()


def shuffle_ids(content: dict) -> None:
    """Gives categories ids of another order than their names."""
    fresh = {c["id"]: 100 - 7 * c["id"] for c in content["categories"]}
    for category in content["categories"]:
        category["id"] = fresh[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = fresh[annotation["category_id"]]


def drop_star(content: dict) -> None:
    number = next(c["id"] for c in content["categories"] if c["name"] == "star")
    content["categories"] = [c for c in content["categories"] if c["id"] != number]
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != number]


@pytest.mark.parametrize("kind", ["CocoDataset", "Objects365V1Dataset", "mmpvt.ShapesDataset"])
@pytest.mark.parametrize("harm", [reverse, shuffle_ids, drop_star])
def test_labels_go_by_name(kind: str, harm, root: Path):
    """Whatever a file's order, ids, or a category that it lacks."""
    wanted = labels_by_name(dict(coco(root), type="CocoDataset"), root)
    change(root, TRAIN, harm)
    found = labels_by_name(dict(coco(root), type=kind), root)
    if harm is drop_star:
        wanted = {box: name for box, name in wanted.items() if name != "star"}
    assert found == wanted and len(wanted) > 4


def test_classes_in_another_order_than_the_file(root: Path):
    wanted = labels_by_name(coco(root), root)
    assert labels_by_name(coco(root, classes=NAMES[::-1]), root) == wanted
    subset = labels_by_name(coco(root, classes=("star", "circle")), root)
    assert subset == {k: name for k, name in wanted.items() if name in ("star", "circle")}


def test_data_sets_that_order_their_classes_otherwise(root: Path):
    """A label would mean another class in each."""
    model = dict(bbox_head=dict(num_classes=6))
    one, other = coco(root), coco(root, classes=NAMES[::-1])
    joined = dict(type="ConcatDataset", datasets=[one, other])
    expected = "disagree on what a label means: 0 is 'circle' in one and 'cross' in another"
    with pytest.raises(UserError, match=r"\(train, train\) " + expected):
        check_data(experiment(model, train=joined), ("train",))
    scored = coco(root, VAL, NAMES[::-1])
    with pytest.raises(UserError, match=r"\(train, val\) " + expected):
        check_data(experiment(model, train=one, val=scored), ("train", "val"))
    check_data(experiment(train=joined), ("train",))  # no heads whose labels could disagree


def test_joined_files_agree(root: Path):
    (root / "other.json").write_text((root / TRAIN).read_text())
    change(root, "other.json", reverse)
    other = dict(coco(root), ann_file="other.json")
    joined = dict(type="ConcatDataset", datasets=[coco(root), other])
    init_default_scope("mmdet")
    built = DATASETS.build(dict(type="RepeatDataset", times=1, dataset=joined))
    one, two = ([built.get_data_info(i + j) for i in range(4)] for j in (0, 4))
    for first, second in zip(one, two, strict=True):
        labels = [[instance["bbox_label"] for instance in x["instances"]] for x in (first, second)]
        assert labels[0] == labels[1]


@pytest.mark.parametrize("kind", [CocoMetric, MMDetCocoMetric])
@pytest.mark.parametrize("harm", [reverse, shuffle_ids])
def test_metrics_number_classes_so_too(kind: type, harm, root: Path):
    change(root, VAL, harm)
    metric = kind(ann_file=str(root / VAL))
    ids = metric._coco_api.get_cat_ids(cat_names=NAMES)
    assert [metric._coco_api.cats[number]["name"] for number in ids] == list(NAMES)


def test_two_categories_of_a_name(root: Path):
    change(root, TRAIN, lambda c: c["categories"].append(dict(id=77, name="star")))
    with pytest.raises(UserError, match=r"several categories of the name star"):
        check_data(experiment(train=coco(root)), ("train",))
    with pytest.raises(UserError, match="several categories of the name 'star'"):
        labels_by_name(coco(root), root)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("sqare", "square"), ("Square", "square"), ("square ", "square"), ("trinagle", "triangle")],
)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_misspelt(wrong: str, near: str, split: str, root: Path):
    classes = tuple(wrong if name == near else name for name in NAMES)
    config = experiment(**{split: coco(root, TRAIN if split == "train" else VAL, classes)})
    expected = rf"class '{wrong}' is not in .*json, which has '{near}': .*6 classes, the file 6\)"
    with pytest.raises(UserError, match=expected):
        check_data(config, (split,))


def test_names_that_look_the_same(root: Path):
    """In an accent of its own, as macOS writes it, or none; in both they are told apart."""
    names = (f"caf{chr(0xE9)}", f"cafe{chr(0x301)}")
    change(root, TRAIN, lambda c: c["categories"][0].update(name=names[1]))
    config = experiment(train=coco(root, classes=(names[0], *NAMES[1:])))
    with pytest.raises(UserError, match=r"class 'caf\\xe9' is not in .* has 'cafe\\u0301'"):
        check_data(config, ("train",))
    assert class_differences(names[:1], names[1:]).count("caf\\xe9") == 1
    assert class_differences(["ant", "bee"], ["ant"]) == (
        "class 1 is 'bee' in the checkpoint and missing in the data set"
    )


def test_a_byte_order_mark(root: Path):
    (root / TRAIN).write_bytes(codecs.BOM_UTF8 + (root / TRAIN).read_bytes())
    with pytest.raises(UserError, match=r"begins with a byte order mark.* without one$"):
        check_data(experiment(train=coco(root)), ("train",))


def test_a_class_of_ones_own_that_reads_the_file(root: Path, caplog: pytest.LogCaptureFixture):
    class OwnReading(CocoDataset):
        def load_data_list(self) -> list[dict]:
            return super().load_data_list()

    def check(*names: str) -> None:
        check_data(experiment(train=dict(coco(root, classes=names), type=OwnReading)), ("train",))

    with pytest.raises(UserError, match=r"class 'sqare' is not in .*json, which has 'square'"):
        check("circle", "sqare")
    assert not caplog.messages
    check("circle", "banana")
    assert caplog.messages == ["no image that OwnReading gives to train on has an object of banana"]


def test_classes_that_are_all_others(root: Path):
    """COCO's, left in the config: "orange" isn't "triangle" misspelt."""
    others = CocoDataset.METAINFO["classes"]
    with pytest.raises(UserError, match=r"holds none of the config's 80 classes .*, but 6 others"):
        check_data(experiment(train=coco(root, classes=others)), ("train",))


def test_a_class_that_training_files_lack(root: Path):
    config = experiment(train=coco(root, classes=(*NAMES, "hexagon")))
    expected = r"1 of the config's 7 classes \(hexagon\) are not in .*, which has 6 categories"
    with pytest.raises(UserError, match=expected):
        check_data(config, ("train",))
    (root / "other.json").write_text((root / TRAIN).read_text())
    change(root, TRAIN, drop_star)
    two = dict(type="ConcatDataset", datasets=[coco(root), dict(coco(root), ann_file="other.json")])
    check_data(experiment(train=two), ("train",))


def test_a_validation_file_may_lack_a_category(root: Path, caplog: pytest.LogCaptureFixture):
    change(root, VAL, drop_star)
    check_data(experiment(val=coco(root, VAL)), ("val",))
    (note,) = [record.getMessage() for record in caplog.records]
    assert "has no category star: the score is over the other 5 of 6 classes" in note


def test_a_subset_is_said_once(root: Path, caplog: pytest.LogCaptureFixture):
    classes = ("circle", "ring")
    check_data(experiment(train=coco(root, classes=classes)), ("train",))
    (note,) = [record.getMessage() for record in caplog.records]
    assert "2 of the 6 categories of" in note and "square, triangle, star … are skipped" in note


def all_crowds(content: dict) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def no_annotations(content: dict) -> None:
    content["annotations"] = []


def of_one_class(content: dict) -> None:
    for annotation in content["annotations"]:
        annotation["category_id"] = content["categories"][1]["id"]


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (all_crowds, "all annotations are crowds"),
        (no_annotations, "it holds no annotations"),
        (of_one_class, "its annotations are of square, which the config has no class for"),
    ],
)
def test_nothing_to_train_on(harm, expected: str, root: Path, caplog: pytest.LogCaptureFixture):
    for file in (TRAIN, VAL):
        change(root, file, harm)
    config = experiment(train=coco(root, classes=("star",)), val=coco(root, VAL, ("star",)))
    with pytest.raises(UserError, match=f"nothing to train on in .*: {expected}"):
        check_data(config, ("train",))
    caplog.clear()
    check_data(config, ("val",))
    scored = "no annotation of a class to score" in caplog.text
    assert scored == (harm is not no_annotations)  # test-dev's files have none


def test_voc(root: Path):
    """Its files list no categories: a class without objects is none that is misspelt."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir()
    for stem, names in (("a", ["cat", "dog"]), ("b", ["dog"])):
        sides = "".join(f"<{side}>1</{side}>" for side in ("xmin", "ymin", "xmax", "ymax"))
        box = f"<bndbox>{sides}</bndbox>"
        objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
        (root / f"Annotations/{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
        (root / f"JPEGImages/{stem}.jpg").touch()
    (root / "train.txt").write_text("a\nb\n")

    def check(*classes: str) -> None:
        dataset = dict(
            type="VOCDataset",
            data_root=str(root),
            ann_file="train.txt",
            data_prefix=dict(sub_data_root=""),
            metainfo=dict(classes=classes),
        )
        check_data(experiment(train=dataset), ("train",))

    check("cat", "dog", "hexagon")
    with pytest.raises(UserError, match=r"class 'dogs' is not in .*, which has 'dog'"):
        check("cat", "dogs")
    with pytest.raises(UserError, match="none of the config's 1 classes"):
        check("hexagon")
    (root / "Annotations/b.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"b\.xml is no XML"):
        check("cat", "dog")
    (root / "Annotations/b.xml").unlink()
    with pytest.raises(UserError, match=r"annotations are missing under .*1 of 2 .*b\.xml"):
        check("cat", "dog")


def test_lvis_numbers_classes_as_its_file_does(root: Path):
    dataset = dict(coco(root), type="LVISV1Dataset")
    check_data(experiment(train=dataset), ("train",))
    change(root, TRAIN, reverse)
    with pytest.raises(UserError, match="number 0 is 'cross' in the file and 'circle' in the"):
        check_data(experiment(train=dataset), ("train",))


def test_subset_of_a_segmenters_classes(root: Path):
    dataset = dict(
        type="mmseg.ADE20KDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
    )
    check_data(experiment(train=dict(dataset, metainfo=dict(classes=("wall", "sky")))), ("train",))
    with pytest.raises(UserError, match=r"class 'wal' is none of ADE20KDataset's 150 .*'wall'"):
        check_data(experiment(train=dict(dataset, metainfo=dict(classes=("wal",)))), ("train",))
    meta = dict(classes=("wall", "sky"), palette=[[0, 0, 0]])
    with pytest.raises(UserError, match="1 colours in its palette for 2 classes"):
        check_data(experiment(train=dict(dataset, metainfo=meta)), ("train",))


def test_several_annotation_files(root: Path):
    dataset = dict(coco(root), ann_file=[TRAIN, VAL])
    with pytest.raises(UserError, match=r"ann_file is a list of 2 files.*ConcatDataset"):
        check_data(experiment(train=dataset), ("train",))
    config = experiment(val=coco(root, VAL))
    config.val_evaluator = dict(type="CocoMetric", ann_file=[VAL])
    with pytest.raises(UserError, match=r"val_evaluator\.ann_file is a list"):
        check_data(config, ("val",))


def test_images_that_are_all_too_small(root: Path):
    small = coco(root, filter_cfg=dict(min_size=65))
    with pytest.raises(UserError, match=r"below min_size=65 pixels, and the shorter side .* 64 at"):
        check_data(experiment(train=small), ("train",))
    check_data(experiment(train=dict(small, test_mode=True)), ("train",))
    check_data(experiment(train=coco(root, filter_cfg=dict(min_size=64))), ("train",))


def test_what_cannot_be_balanced(root: Path):
    two = dict(type="ConcatDataset", datasets=[coco(root), coco(root)])
    balanced = dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=two)
    with pytest.raises(UserError, match="can't balance a ConcatDataset, which has no get_cat_ids"):
        check_data(experiment(train=balanced), ("train",))
    check_data(experiment(train=dict(balanced, dataset=coco(root))), ("train",))


def test_masks_that_are_not_loaded(root: Path):
    names = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
    steps = [dict(type=name) for name in names]
    lacking = experiment(train=coco(root, pipeline=steps))
    lacking.model.roi_head = dict(mask_head=dict(type="FCNMaskHead"))
    with pytest.raises(UserError, match="pipeline loads no masks: set with_mask=True"):
        check_data(lacking, ("train",))
    steps[1]["with_mask"] = True
    lacking.train_dataloader.dataset.pipeline = steps
    check_data(lacking, ("train",))


def test_images_are_scored_once(root: Path):
    """Else what is found in one again is a false positive."""
    repeated = dict(type="mmengine.RepeatDataset", times=2, dataset=coco(root))
    check_data(experiment(train=repeated), ("train",))
    with pytest.raises(UserError, match="the val_dataloader has a RepeatDataset, and a score"):
        check_data(experiment(val=repeated), ("val",))


def test_an_evaluator_of_other_images(root: Path):
    config = experiment(val=coco(root, VAL))
    config.val_evaluator = dict(type="CocoMetric", ann_file=str(root / TRAIN))
    change(root, TRAIN, lambda content: content.update(images=content["images"][:1]))
    with pytest.raises(UserError, match="lacks 1 of the 2 images of the data set's"):
        check_data(config, ("val",))


def test_an_evaluator_of_other_images_of_the_same_ids(root: Path):
    """As where it is left at another split's file: nothing that is found would be there."""
    config = experiment(val=coco(root, VAL))
    other = root / "other.json"
    config.val_evaluator = dict(type="CocoMetric", ann_file=str(other))
    content = json.loads((root / VAL).read_text())
    for folder, name in (("elsewhere\\", None), ("", "b.jpg")):
        image = content["images"][0]
        image["file_name"] = folder + (name or image["file_name"])
        other.write_text(json.dumps(content))
        if not name:
            check_data(config, ("val",))
    with pytest.raises(UserError, match=r"other\.json, which lacks 1 of the 2 images"):
        check_data(config, ("val",))


def test_an_evaluator_of_more_images(root: Path, caplog: pytest.LogCaptureFixture):
    """Their objects would count as missed, in silence."""
    more = root / "more.json"
    more.write_bytes((root / VAL).read_bytes())
    change(root, VAL, lambda content: content.update(images=content["images"][:1]))
    config = experiment(val=coco(root, VAL))
    config.val_evaluator = dict(type="CocoMetric", ann_file=str(more))
    check_data(config, ("val",))
    assert "1 of its 2 images are not in the data set" in caplog.text


@pytest.mark.parametrize(("indices", "said"), [(1, True), ([-1], True), (5, False)])
def test_an_evaluator_of_images_that_indices_skip(
    indices: object, said: bool, root: Path, caplog: pytest.LogCaptureFixture
):
    config = experiment(val=coco(root, VAL, indices=indices))
    config.val_evaluator = dict(type="CocoMetric", ann_file=str(root / VAL))
    check_data(config, ("val",))
    assert ("1 of its 2 images are not in the data set" in caplog.text) is said


def test_an_evaluator_of_joined_files(root: Path):
    """Images of one id would be scored as one image."""
    two = dict(type="ConcatDataset", datasets=[coco(root, VAL), coco(root)])
    config = experiment(val=two)
    config.val_evaluator = dict(type="CocoMetric", ann_file=str(root / VAL))
    with pytest.raises(UserError, match=r"the image id 1 is in .*val2017\.json and in .*train2017"):
        check_data(config, ("val",))
    metrics = [dict(type="CocoMetric", ann_file=str(root / file)) for file in (VAL, TRAIN)]
    config.val_evaluator = dict(
        type="MultiDatasetsEvaluator", metrics=metrics, dataset_prefixes=["a", "b"]
    )
    check_data(config, ("val",))  # each metric has the images of one
    config.val_evaluator.metrics.reverse()
    with pytest.raises(UserError, match=r"val2017\.json, which lacks 2 of the 4 images"):
        check_data(config, ("val",))


def test_an_evaluator_without_annotations(root: Path):
    config = experiment(val=coco(root, VAL))
    config.val_evaluator = dict(type="CocoMetric")
    with pytest.raises(UserError, match=r"val_evaluator has no ann_file: set it to .*val2017"):
        check_data(config, ("val",))
    packed = dict(type="PackDetInputs", meta_keys=("img_id", "ori_shape", "instances"))
    config.val_dataloader.dataset.pipeline = [dict(type="LoadImageFromFile"), packed]
    check_data(config, ("val",))


def test_a_metric_that_lists_classes_by_id(root: Path):
    change(root, VAL, shuffle_ids)
    config = experiment(val=coco(root, VAL))
    config.val_evaluator = dict(type="OVCocoMetric", ann_file=str(root / VAL))
    with pytest.raises(UserError, match="OVCocoMetric lists single classes by the ids"):
        check_data(config, ("val",))


def test_paths_with_backslashes(root: Path):
    def harm(content: dict) -> None:
        for image in content["images"]:
            image["file_name"] = f"pictures\\{image['file_name']}"

    change(root, TRAIN, harm)
    expected = r"4 of 4 .* are missing \(pictures\\.*\.jpg.*\): the names have backslashes"
    with pytest.raises(UserError, match=expected):
        check_data(experiment(train=coco(root)), ("train",))


@pytest.mark.parametrize(
    ("head", "loss", "expected"),
    [
        ("decode_head", dict(loss_decode=[dict(type="DiceLoss"), dict(type="LovaszLoss")]), 6),
        ("auxiliary_head", dict(loss_decode=dict(type="CrossEntropyLoss")), 6),
        ("bbox_head", dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True)), 6),
        ("bbox_head", dict(loss_cls=dict(type="CrossEntropyLoss")), 7),
    ],
)
def test_class_weights_of_another_length(head: str, loss: dict, expected: int):
    losses = next(iter(loss.values()))
    weighted = losses[-1] if isinstance(losses, list) else losses
    model = {head: [dict(num_classes=6, **loss)]}
    weighted["class_weight"] = [1.0] * expected
    check_class_weights(model)
    weighted["class_weight"] = [1.0] * 5
    with pytest.raises(ConfigError, match=f"{head} has 5 weights .* takes {expected}"):
        check_class_weights(model)
