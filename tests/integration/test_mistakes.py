"""A user's mistake ends in one sentence and exit code 2, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from mmpvt.engine.cli import setting, user_errors


@pytest.fixture
def broken(tmp_path: Path, shapes: Path) -> Path:
    """A copy of the data, to be broken."""
    return Path(shutil.copytree(shapes, tmp_path / "broken"))


ANNOTATIONS = "annotations/instances_train2017.json"


def no_folder(root: Path) -> str:
    shutil.rmtree(root)
    return f"no data under {root}"


def no_annotations(root: Path) -> str:
    (root / ANNOTATIONS).unlink()
    return f"no annotations at {root / ANNOTATIONS}"


def empty_annotations(root: Path) -> str:
    (root / ANNOTATIONS).write_bytes(b"")
    return f"{root / ANNOTATIONS} is empty"


def no_json(root: Path) -> str:
    (root / ANNOTATIONS).write_text('{"images": [')
    return f"{root / ANNOTATIONS} is no JSON"


def another_json(root: Path) -> str:
    (root / ANNOTATIONS).write_text("[]")
    return f"{root / ANNOTATIONS} is not COCO's: it has no images, annotations, categories"


def no_images_listed(root: Path) -> str:
    content = json.loads((root / ANNOTATIONS).read_text())
    (root / ANNOTATIONS).write_text(json.dumps({**content, "images": []}))
    return "lists no images"


def other_classes(root: Path) -> str:
    content = json.loads((root / ANNOTATIONS).read_text())
    for category in content["categories"]:
        category["name"] += " of another kind"
    (root / ANNOTATIONS).write_text(json.dumps(content))
    return "holds none of the config's 6 classes (circle, square, triangle …)"


def all_images_missing(root: Path) -> str:
    shutil.rmtree(root / "train2017")
    return f"no images under {root / 'train2017'}: 8 of 8 files named in"


def one_image_missing(root: Path) -> str:
    (root / "val2017" / "000000000003.jpg").unlink()
    return "1 of 4 files named in"


@pytest.mark.parametrize(
    "harm",
    [
        no_folder,
        no_annotations,
        empty_annotations,
        no_json,
        another_json,
        no_images_listed,
        other_classes,
        all_images_missing,
        one_image_missing,
    ],
)
def test_data(harm, broken: Path, tmp_path: Path, tiny_config: Path, call_tool):
    expected = harm(broken)
    work_dir = tmp_path / "work"
    ended = call_tool("train.py", tiny_config, "--data-root", broken, "--work-dir", work_dir)
    sentence = ended.one_sentence()
    assert expected in sentence
    assert "--data-root" in sentence or "metainfo" in sentence or "not COCO's" in sentence
    assert not work_dir.exists()


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "cut"])
def test_unreadable_image(
    content: bytes | None, broken: Path, tmp_path: Path, tiny_config: Path, run_tool
):
    """Found in a worker process, while training."""
    image = broken / "train2017" / "000000000005.jpg"
    image.unlink()  # a link to the same file elsewhere must stay whole
    image.write_bytes(b"\xff\xd8\xff\xe0" if content is None else content)
    ended = run_tool("train.py", tiny_config, "--data-root", broken, "--work-dir", tmp_path / "w")
    assert f"{image} can't be read as an image" in ended.one_sentence()


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("optim_wrapper.optimizer.lrr=0.1", "got an unexpected keyword argument 'lrr'"),
        ("train_cfg.max_epoch=3", "got an unexpected keyword argument 'max_epoch'"),
        ("model.backbone.drop_path=0.1", "got an unexpected keyword argument 'drop_path'"),
        ("model.type=RetinaNett", "RetinaNett is not in the mmdet::model registry"),
        ("optim_wrapper.accumulative_counts=0", "OptimWrapper: _accumulative_counts at least"),
        ("default_hooks.logger.interval=0", "LoggerHook: interval must be greater than 0"),
        ("train_dataloader.num_workers=-1", "DataLoader: num_workers option should be"),
        ("val_evaluator=None", "Runner: val_dataloader, val_cfg, and val_evaluator should be"),
        ("model.neck.num_outs=1", "FPN: assert num_outs "),
        ("optim_wrapper.optimizer.lr=high", "AdamW: '<=' not supported between instances"),
        (
            "optim_wrapper.paramwise_cfg.bias_decay_mult=0 "
            "optim_wrapper.optimizer.weight_decay=None",
            "DefaultOptimWrapperConstructor: base_wd should not be None",
        ),
        ("val_evaluator.metric=mAP", "CocoMetric: metric should be one of 'bbox', 'segm',"),
    ],
)
def test_option_that_no_class_takes(
    option: str, sentence: str, shapes: Path, tmp_path: Path, tiny_config: Path, call_tool
):
    ended = call_tool(
        "train.py", tiny_config, "--data-root", shapes, "--work-dir", tmp_path / "work",
        "--cfg-options", *option.split(),
    )  # fmt: skip
    assert ended.one_sentence().startswith("error: the config can't be built: ")
    assert sentence in ended.one_sentence()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["train_dataloader.drop_last=True", "train_dataloader.batch_size=99"],
            "training images make no batch of 99",
        ),
        (["train_cfg.val_interval=0"], "train_cfg.val_interval is 0, and it counts"),
    ],
)
def test_option_that_leaves_nothing_to_do(
    options: list, sentence: str, shapes: Path, tmp_path: Path, tiny_config: Path, call_tool
):
    ended = call_tool(
        "train.py", tiny_config, "--data-root", shapes, "--work-dir", tmp_path / "work",
        "--cfg-options", *options,
    )  # fmt: skip
    assert sentence in ended.one_sentence()


@pytest.mark.parametrize(
    "option",
    ["optim_wrapper=AdamW", "train_dataloader=3", "default_hooks=x", "train_dataloader.dataset=x"],
)
def test_option_in_the_place_of_a_dict(option: str, tiny_config: Path, call_tool):
    key = option.partition("=")[0]
    sentence = call_tool("train.py", tiny_config, "--cfg-options", option).one_sentence()
    assert f"--cfg-options: {key} is " in sentence and "and it takes a dict: set its" in sentence


@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", "-1"), ("--seed", "4294967296"), ("--cfg-options", "randomness.seed=1.5")],
)
def test_seed(option: str, value: str, tiny_config: Path, tmp_path: Path, call_tool):
    args = ("--work-dir", tmp_path / "work", option, value)
    expected = f"--seed: {value.rpartition('=')[2]}: a seed is an int from 0 to 4294967295"
    for tool, named in (("train.py", ()), ("test.py", ("x.pth",))):
        assert expected in call_tool(tool, tiny_config, *named, *args).one_sentence()
    assert not (tmp_path / "work").exists()


def test_names_that_are_too_long(shapes: Path, tmp_path: Path, tiny_config: Path, call_tool):
    long = tmp_path / ("n" * 300)
    for line in (
        ("train.py", long),
        ("train.py", tiny_config, "--data-root", long),
        ("train.py", tiny_config, "--data-root", shapes, "--work-dir", long),
        ("test.py", tiny_config, long),
        ("predict.py", tiny_config, "x.pth", shapes, "--out", long),
        ("convert_dataset.py", long, tmp_path / "out", "--to", "coco"),
        ("run_onnx.py", long, shapes, "--out", tmp_path / "out"),
    ):
        sentence = call_tool(*line).one_sentence()
        assert str(long) in sentence and "can't be used (File name too long)" in sentence
    assert not (tmp_path / "out").exists()


def test_file_without_permission(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit), user_errors():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "hers/a.pth")
    assert capsys.readouterr().err == "error: hers/a.pth can't be used (Permission denied)\n"


def test_format_that_the_data_is_not_of(shapes: Path, tmp_path: Path, tiny_config: Path, call_tool):
    args = ("--data", shapes, "--data-format", "voc")
    for tool, option in (("train.py", "--work-dir"), ("check_data.py", "--out")):
        ended = call_tool(tool, tiny_config, *args, option, tmp_path / "work")
        assert f"error: --data-format: {shapes} is not of the format voc" in ended.one_sentence()
    ended = call_tool(
        "convert_dataset.py", shapes, tmp_path / "out", "--to", "coco", "--format", "voc"
    )
    assert "error: --format: " in ended.one_sentence()


def test_option_in_braces():
    """A name with a place to fill in is no dict."""
    for text in ("a={:06d}.png", "a=[{}.png,x_{}]", "a={img_id}_{}.png"):
        assert setting(text) == text


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("train_cfg", "'train_cfg' is no KEY=VALUE"),
        ("a=[1,2", "the brackets in 'a=[1,2' aren't those of a list [A,B] or tuple (A,B)"),
        ("a=f(1,2)", "the brackets in 'a=f(1,2)' aren't those"),
        ("a=[dict(type='X', b=1)]", "holds a dict: set its keys one by one, a.KEY=VALUE"),
        ("a={'b': {'c': 1}, 'd': 2}", "holds a dict"),
    ],
)
def test_option_that_is_no_setting(option: str, said: str, tiny_config: Path, call_tool):
    for args in (
        ("train.py", tiny_config),
        ("reproduce.py", "--checkpoints", tiny_config.parent, "--out", tiny_config.parent / "out"),
    ):
        ended = call_tool(*args, "--cfg-options", "b=1", option)
        assert ended.code == 2 and "Traceback" not in ended.err
        assert "error: argument --cfg-options: " in ended.err.splitlines()[-1]
        assert said in ended.err.splitlines()[-1]


def test_config_that_does_not_exist(call_tool):
    ended = call_tool("train.py", "configs/retinanet_pvt_small_fpn_1x_coco.py")
    sentence = ended.one_sentence()
    assert "no config at configs/retinanet_pvt_small_fpn_1x_coco.py" in sentence
    assert "retinanet_pvt_s_fpn_1x_coco.py" in sentence
    ended = call_tool("test.py", "mmdet::retinanet/retinanet_r50_fpn_1x_cocos.py", "x.pth")
    assert "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py" in ended.one_sentence()


def test_config_that_is_none(tmp_path: Path, call_tool):
    path = tmp_path / "config.py"
    path.write_text("model = dict(")
    assert "can't be read as a config" in call_tool("train.py", path).one_sentence()
    path.write_text("a = 1")
    assert "holds no model" in call_tool("train.py", path).one_sentence()


def test_faults_in_the_users_code(tmp_path: Path, call_tool, monkeypatch):
    """The line is named, and of a module what it lacks."""
    config, module = tmp_path / "config.py", tmp_path / "my_transforms.py"
    config.write_text("a = 1\nmodel = dict(type=RetinaNet)")
    sentence = call_tool("train.py", config).one_sentence()
    assert f"NameError: name 'RetinaNet' is not defined ({config}, line 2)" in sentence
    config.write_text("custom_imports = dict(imports=['my_transforms'])\nmodel = dict()")
    sentence = call_tool("train.py", config).one_sentence()
    assert "No module named 'my_transforms': install it, or set PYTHONPATH" in sentence
    monkeypatch.syspath_prepend(tmp_path)
    module.write_text("import json\nimport pandaz")
    sentence = call_tool("train.py", config).one_sentence()
    assert f"No module named 'pandaz' ({module}, line 2): install it" in sentence
    module.write_text("try:\n    import pandaz\nexcept ImportError:\n    import polarz")
    sentence = call_tool("train.py", config).one_sentence()
    assert f"No module named 'polarz' ({module}, line 4)" in sentence
    module.write_text("x = [][0]")
    sentence = call_tool("train.py", config).one_sentence()
    assert f"IndexError: list index out of range ({module}, line 1)" in sentence
    config.write_text("from my_transforms import Cut\nmodel = dict(neck=dict(type=Cut))")
    module.write_text("")
    sentence = call_tool("train.py", config).one_sentence()
    assert f"Failed to import Cut from my_transforms in {config}, line 1" in sentence


def test_unknown_arch(tmp_path: Path, shapes: Path, tiny_config: Path, call_tool):
    args = (tiny_config, "--data-root", shapes, "--work-dir", tmp_path)
    ended = call_tool("train.py", *args, "--cfg-options", "model.backbone.arch=b9")
    assert "unknown arch 'b9': take one of b0, b1, b2, b2_li, b3, b4, b5" in ended.one_sentence()


class Evil:
    """What a hostile checkpoint would hold: unpickling it runs a command."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def missing_checkpoint(path: Path, good: dict) -> str:
    return f"{path}"


def truncated_checkpoint(path: Path, good: dict) -> str:
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[:5000])
    return "truncated, damaged or of another kind"


def text_checkpoint(path: Path, good: dict) -> str:
    path.write_text("not a checkpoint")
    return "truncated, damaged or of another kind"


def checkpoint_with_code(path: Path, good: dict) -> str:
    torch.save({**good, "meta": Evil(path.with_suffix(".ran"))}, path)
    return "system, which is neither a weight nor a plain value, and nothing of it was run"


def checkpoint_of_another_model(path: Path, good: dict) -> str:
    tensors = dict(good["state_dict"])
    name = "backbone.block1.0.attn.q.weight"
    tensors["backbone.block1.1.attn.q.weight"] = tensors.pop(name)
    torch.save({**good, "state_dict": tensors}, path)
    return f"1 missing: {name}; 1 unexpected: backbone.block1.1.attn.q.weight"


def checkpoint_of_other_sizes(path: Path, good: dict) -> str:
    name = "bbox_head.retina_cls.weight"
    torch.save({**good, "state_dict": {**good["state_dict"], name: torch.ones(2, 3)}}, path)
    return f"1 of another shape: {name} (2x3, not 12x16x3x3)"


@pytest.mark.parametrize(
    "harm",
    [
        missing_checkpoint,
        truncated_checkpoint,
        text_checkpoint,
        checkpoint_with_code,
        checkpoint_of_another_model,
        checkpoint_of_other_sizes,
    ],
)
@pytest.mark.parametrize("tool", ["test.py", "train.py"])
def test_checkpoint(
    tool: str, harm, tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool
):
    good = torch.load(trained / "epoch_2.pth", weights_only=False)  # our own, just written
    path = tmp_path / "broken.pth"
    expected = harm(path, good)
    options = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    named = (path,) if tool == "test.py" else ("--resume", path)
    ended = call_tool(tool, tiny_config, *named, *options)
    sentence = ended.one_sentence()
    assert expected in sentence
    assert not path.with_suffix(".ran").exists()


def test_pretrained_weights(
    tmp_path: Path, shapes: Path, tiny_config: Path, call_tool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between a download's attempts
    args = (tiny_config, "--data-root", shapes, "--work-dir", tmp_path)
    address = "http://127.0.0.1:9/pvt_v2_b0.pth"
    sentence = call_tool("train.py", *args, "--pretrained", address).one_sentence()
    assert f"could not download {address}" in sentence
    assert "--pretrained FILE" in sentence
    sentence = call_tool("train.py", *args, "--pretrained", tmp_path / "no.pth").one_sentence()
    assert f"no such file: {tmp_path / 'no.pth'}" in sentence
    weights = tmp_path / "other.pth"
    torch.save({"patch_embed1.proj.weight": torch.ones(2, 3, 7, 7)}, weights)
    sentence = call_tool("train.py", *args, "--pretrained", weights).one_sentence()
    assert f"{weights} are another architecture's" in sentence
    assert "patch_embed1.proj.weight (2x3x7x7, not 8x3x7x7)" in sentence


def test_work_directory_that_is_a_file(tmp_path: Path, shapes: Path, tiny_config: Path, call_tool):
    path = tmp_path / "work"
    path.write_text("precious")
    ended = call_tool("train.py", tiny_config, "--data-root", shapes, "--work-dir", path)
    assert f"the work directory {path} can't be written to" in ended.one_sentence()
    assert path.read_text() == "precious"


def test_nothing_to_resume_from(tmp_path: Path, shapes: Path, tiny_config: Path, call_tool):
    args = (tiny_config, "--data-root", shapes, "--work-dir", tmp_path / "work")
    assert "nothing to resume from" in call_tool("train.py", *args, "--resume").one_sentence()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes --amp")
def test_mixed_precision_without_a_gpu(shapes: Path, tiny_config: Path, call_tool):
    ended = call_tool("train.py", tiny_config, "--data-root", shapes, "--amp")
    assert ended.one_sentence() == "error: --amp: float16 is for GPUs: pass --amp bfloat16"


def test_launcher_that_did_not_launch(tmp_path: Path, shapes: Path, tiny_config: Path, call_tool):
    args = (tiny_config, "--data-root", shapes, "--work-dir", tmp_path)
    ended = call_tool("train.py", *args, "--launcher", "pytorch")
    assert "this process was not started by it (RANK is not set)" in ended.one_sentence()


def test_results_of_the_wrong_kind(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained, call_tool
):
    args = (tiny_config, trained / "epoch_2.pth", "--data-root", shapes, "--work-dir", tmp_path)
    assert "ending in .pkl" in call_tool("test.py", *args, "--out", "results.txt").one_sentence()
