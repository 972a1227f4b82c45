"""Class names through the tools: whatever a file's order, a number is of the class it is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from mmpvt.checkpoint import load_checkpoint

OUT = {"train.py": ["--work-dir"], "report.py": ["--out"]}
NAMES = ("circle", "square", "triangle", "star", "ring", "cross")


@pytest.fixture(scope="module")
def reversed_shapes(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data, its categories listed the other way round."""
    root = tmp_path_factory.mktemp("reversed") / "shapes"
    shutil.copytree(shapes, root)
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"].reverse()
        file.unlink()
        file.write_text(json.dumps(content))
    return root


def config(folder: Path, base: Path, text: str = "", **metainfo: object) -> Path:
    """A config with other classes."""
    path = folder / "config.py"
    meta = f"dict(metainfo={metainfo!r})" if metainfo else "dict()"
    loaders = "".join(f"{s}_dataloader = dict(dataset={meta})\n" for s in ("train", "val", "test"))
    path.write_text(f"_base_ = {str(base)!r}\n{loaders}{text}")
    return path


def scores(work_dir: Path) -> dict:
    (file,) = work_dir.glob("*/*.json")
    return json.loads(file.read_text())


def test_categories_in_another_order(
    tmp_path: Path, shapes: Path, reversed_shapes: Path, tiny_config: Path, trained: Path, run_tool
):
    """In processes of their own, so that nothing is imported yet; with MMDetection's metric."""
    mmdets = config(
        tmp_path, tiny_config, 'test_evaluator = dict(type="CocoMetric", classwise=True)\n'
    )
    found = {}
    for name, root in (("one", shapes), ("other", reversed_shapes)):
        args = (mmdets, trained / "epoch_2.pth", "--data-root", root)
        ended = run_tool("test.py", *args, "--work-dir", tmp_path / name)
        assert ended.code == 0, ended.err
        found[name] = {k: v for k, v in scores(tmp_path / name).items() if "time" not in k}
    assert found["one"] == pytest.approx(found["other"], nan_ok=True)
    assert any("star_precision" in key for key in found["one"])
    assert found["one"]["coco/bbox_mAP"] > 0


def test_other_names_than_the_checkpoints(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool, caplog
):
    args = (trained / "epoch_2.pth", "--data-root", shapes, "--work-dir", tmp_path / "work")
    permuted = config(tmp_path, tiny_config, classes=NAMES[::-1])
    said = call_tool("test.py", permuted, *args).one_sentence()
    assert "its class 0 is 'circle', which is the data set's class 5" in said
    for tool, options in (("train.py", ("--resume", args[0])), ("report.py", args[:1])):
        said = call_tool(tool, permuted, *options, *args[1:3], *OUT[tool], tmp_path / "out")
        assert "its class 0 is 'circle'" in said.one_sentence()
    shifted = config(tmp_path, tiny_config, classes=(*NAMES[1:], "zzz"))
    said = call_tool("test.py", shifted, *args).one_sentence()
    assert "its class 1 is 'square', which is the data set's class 0; its class 2 is" in said
    renamed = config(tmp_path, tiny_config, classes=(*NAMES[:5], "zzz"))
    ended = call_tool("test.py", renamed, *args)
    assert ended.code == 0, ended.err
    assert "class 5 is 'cross' in the checkpoint and 'zzz' in the data set" in ended.out
    caplog.clear()
    permuted = config(tmp_path, tiny_config, classes=NAMES[::-1])
    options = ("--cfg-options", "train_cfg.max_epochs=1", f"load_from={args[0]}")
    ended = call_tool("train.py", permuted, *args[1:], *options)
    assert "start from its classes: class 0 is 'circle' in the checkpoint and 'cross'" in ended.out
    one = config(tmp_path, tiny_config, "model = dict(bbox_head=dict(num_classes=1))")
    option = ("--cfg-options", "test_dataloader.dataset.metainfo.classes=star")
    said = call_tool("test.py", one, *args, *option).one_sentence()
    assert "metainfo.classes='star': taken as one class" in caplog.text
    assert "retina_cls.weight (12x16x3x3, not 2x16x3x3)" in said


def test_prediction_and_export_name_classes_alike(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool, caplog
):
    """The checkpoint's names, or, where it holds none, those of the config's data."""
    coco = 'dict(dataset=dict(type="CocoDataset"))'
    left = config(tmp_path, tiny_config, f"test_dataloader = {coco}\n")
    bare = tmp_path / "bare.pth"
    torch.save(dict(state_dict=load_checkpoint(trained / "epoch_2.pth")["state_dict"]), bare)
    image = next((shapes / "val2017").iterdir())
    for case, base, checkpoint in (("left", left, trained / "epoch_2.pth"), ("bare", left, bare)):
        out = tmp_path / case
        ended = call_tool("predict.py", base, checkpoint, image, "--out", out)
        assert ended.code == 0, ended.err
        listed = json.loads((out / "categories.json").read_text())
        assert [(c["id"], c["name"]) for c in listed] == list(enumerate(NAMES, 1)), case
        assert "the config's test data set has 80 (person" in caplog.text
        caplog.clear()
        model = out / "model.onnx"
        ended = call_tool("export.py", base, checkpoint, "--out", model, "--shape", 64, 64)
        assert ended.code == 0, ended.err
        meta = {p.key: p.value for p in onnx.load(model).metadata_props}
        assert json.loads(meta["classes"]) == list(NAMES)
        assert json.loads(meta["category_ids"]) == [1, 2, 3, 4, 5, 6]


def test_starting_from_a_checkpoint_that_fits_in_part(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool
):
    args = (tiny_config, "--data-root", shapes, "--work-dir", tmp_path / "work")
    start = tmp_path / "start.pth"
    options = ("--cfg-options", "train_cfg.max_epochs=1", f"load_from={start}")
    tensors = load_checkpoint(trained / "epoch_2.pth")["state_dict"]

    torch.save({"layer1.weight": torch.ones(3), "bbox_head.retina_cls.bias": torch.ones(7)}, start)
    said = call_tool("train.py", *args, *options).one_sentence()
    assert "no tensor of the checkpoint to start from fits the model" in said

    tensors["bbox_head.retina_cls.weight"] = torch.ones(7, 16, 3, 3)
    tensors["extra.weight"] = torch.ones(1)
    del tensors["bbox_head.retina_cls.bias"]
    torch.save(tensors, start)
    ended = call_tool("train.py", *args, *options)
    assert ended.code == 0, ended.err
    (line,) = (line for line in ended.out.splitlines() if "tensors are loaded" in line)
    assert f"{len(tensors) - 2} of the model's {len(tensors)} tensors are loaded (backbone " in line
    assert "1 missing: bbox_head.retina_cls.bias; 1 unexpected: extra.weight" in line
    for noise in ("do not match", "unexpected key in", "missing keys in"):
        assert noise not in ended.out
    trained_again = load_checkpoint(tmp_path / "work" / "epoch_1.pth")["state_dict"]
    name = "backbone.patch_embed1.proj.weight"
    drift = (trained_again[name] - tensors[name]).abs().max()
    assert drift < 0.05 < tensors[name].abs().max()  # started from what was loaded
