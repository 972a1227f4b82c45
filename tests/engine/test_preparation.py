"""From a config and a run's options to exactly the config that a runner takes."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from helpers import ROOT
from mmpvt.datasets.shapes import generate
from mmpvt.engine import preparation
from mmpvt.engine.config import load_config
from mmpvt.engine.hooks.training import CompileHook
from mmpvt.engine.preparation import TrainOptions, prepare_test, prepare_training
from mmpvt.engine.replacements import adapt_amp
from mmpvt.errors import ConfigError, LaunchError, OutputError, UserError
from mmpvt.utils.locking import LOCK

DETECTOR, SEGMENTER = "retinanet_pvt_v2_b0_fpn_shapes.py", "fpn_pvt_v2_b0_shapes.py"
HOOKS = ("SkippedData", "CheckpointFit", "Divergence", "NormStatistics", "Pictures", "Interrupt")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    return generate(root, num_train=2, num_val=1, size=64, progress=False)


@pytest.fixture
def options(shapes: Path, tmp_path: Path) -> dict:
    return dict(data_root=str(shapes), work_dir=str(tmp_path / "work"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose PyTorch says that it has one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cuda")  # of MMEngine's import
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # which MMEngine's logger looks up


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("mmengine.device.utils.DEVICE", "cpu")


def load(name: str = DETECTOR, **changes) -> Config:
    return load_config(str(ROOT / "configs" / name), changes)


def hooks(config: Config) -> dict[str, dict]:
    return {
        hook.type.removeprefix("mmpvt.").removesuffix("Hook"): {
            key: value for key, value in hook.items() if key != "type"
        }
        for hook in config.custom_hooks
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_without_workers(workers: int, options: dict):
    """The configs keep workers, which PyTorch refuses where there are none."""
    changes = {"train_dataloader.num_workers": workers, "train_dataloader.prefetch_factor": 4}
    loader = prepare_training(load(**changes), TrainOptions(**options)).train_dataloader
    assert ("persistent_workers" in loader) == ("prefetch_factor" in loader) == bool(workers)


def test_training_a_detector(options: dict, shapes: Path, tmp_path: Path):
    config = load()
    before = config.pretty_text
    prepared = prepare_training(config, TrainOptions(**options, seed=3, on_nan="skip"))
    assert config.pretty_text == before
    assert (prepared.work_dir, prepared.launcher) == (str(tmp_path / "work"), "none")
    assert prepared.randomness == dict(seed=3, deterministic=False)
    assert hooks(prepared) == dict(
        SkippedData=dict(notes=[], on_bad_data="auto"),
        CheckpointFit=dict(strict=False, resume=False),
        Divergence=dict(on_nan="skip"),
        NormStatistics={},
        Pictures={},
        Interrupt={},
    )
    assert tuple(hooks(prepared)) == HOOKS
    assert {name: hook.type for name, hook in prepared.default_hooks.items()} == {
        **{name: hook.type for name, hook in config.default_hooks.items()},
        "checkpoint": "mmpvt.CheckpointHook",
        "logger": "mmpvt.LoggerHook",
    }
    assert prepared.train_cfg.type == "mmpvt.EpochLoop"
    assert prepared.train_dataloader.batch_sampler == dict(
        type="mmpvt.ResumableBatchSampler",
        inner=config.train_dataloader.get("batch_sampler"),
        drop_last=False,
        endless=False,
        on_bad_data="auto",
    )
    assert prepared.train_dataloader.sampler == config.train_dataloader.sampler
    assert prepared.optim_wrapper.type == "mmpvt.OptimWrapper"
    assert prepared.optim_wrapper.optimizer == dict(config.optim_wrapper.optimizer, fused=True)
    assert prepared.val_evaluator.type == "mmpvt.CocoMetric"
    for split in ("train", "val"):
        loader = prepared[f"{split}_dataloader"]
        assert loader.worker_init_fn == dict(type="mmpvt.init_worker")
        assert Path(loader.dataset.data_root) == shapes
        first, *others = loader.dataset.pipeline
        folders = {Path(folder) for folder in first.folders}
        assert first.type == "mmpvt.LoadImageFromFile" and shapes / f"{split}2017" in folders
        assert others == config[f"{split}_dataloader"].dataset.pipeline[1:]
    assert prepared.model == config.model
    again = prepare_training(prepared, TrainOptions(**options, seed=3, on_nan="skip"))
    assert again.to_dict() == prepared.to_dict()


def test_a_seed_leaves_the_configs_determinism(options: dict):
    config = load()
    config.randomness = dict(seed=1, deterministic=True)
    prepared = prepare_training(config, TrainOptions(**options, seed=3))
    assert prepared.randomness == dict(seed=3, deterministic=True)


def test_a_batch_sampler_beside_drop_last(options: dict):
    config = load()
    config.train_dataloader.update(
        drop_last=True, batch_sampler=dict(type="AspectRatioBatchSampler")
    )
    batches = prepare_training(config, TrainOptions(**options)).train_dataloader.batch_sampler
    assert batches.inner == dict(type="AspectRatioBatchSampler", drop_last=True)


def test_training_a_segmenter(options: dict):
    prepared = prepare_training(load(SEGMENTER), TrainOptions(**options, on_bad_data="skip"))
    assert tuple(hooks(prepared)) == HOOKS
    assert hooks(prepared)["SkippedData"] == dict(notes=[], on_bad_data="skip")
    assert prepared.train_cfg.type == "mmpvt.IterLoop" and "by_epoch" not in prepared.train_cfg
    assert prepared.val_evaluator.type == "mmpvt.IoUMetric"
    sampler = prepared.train_dataloader.batch_sampler
    assert sampler.endless and sampler.on_bad_data == "skip"
    for split in ("train", "val"):
        loading = {step.type: step for step in prepared[f"{split}_dataloader"].dataset.pipeline}
        classes = prepared.model.decode_head.num_classes
        assert loading["mmpvt.LoadSegAnnotations"].num_classes == classes
    later = prepare_training(prepared, TrainOptions(**options, on_bad_data="stop"))
    assert later.train_dataloader.batch_sampler.on_bad_data == "stop"


def test_loaders_of_a_pipeline_that_a_hook_switches_to(options: dict):
    config = load()
    switch = dict(type="PipelineSwitchHook", switch_epoch=1)
    config.custom_hooks = [dict(switch, switch_pipeline=[dict(type="LoadImageFromFile")])]
    (step,) = prepare_training(config, TrainOptions(**options)).custom_hooks[0].switch_pipeline
    assert step.type == "mmpvt.LoadImageFromFile"


def test_loaders_named_with_their_scope(options: dict):
    config = load(SEGMENTER)
    image, labels, *_ = config.train_dataloader.dataset.pipeline
    image.type, labels.type = "mmcv.LoadImageFromFile", "mmseg.LoadAnnotations"
    prepared = prepare_training(config, TrainOptions(**options))
    image, labels, *_ = prepared.train_dataloader.dataset.pipeline
    assert image.type == "mmpvt.LoadImageFromFile" and image.folders
    assert labels.type == "mmpvt.LoadSegAnnotations" and labels.num_classes == 6


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTER])
def test_the_truth_is_not_resized(name: str, tested: dict, capsys: pytest.CaptureFixture[str]):
    config = load(name)
    steps = config.test_dataloader.dataset.pipeline
    expected = [step.type.rpartition(".")[2] for step in steps]
    place = next(i for i, kind in enumerate(expected) if kind == "LoadAnnotations")
    for changed in (steps, [*steps[:1], steps[place], *steps[1:place], *steps[place + 1 :]]):
        config.test_dataloader.dataset.pipeline = changed
        prepared = prepare_test(config, preparation.TestOptions(**tested))
        types = [step.type.rpartition(".")[2] for step in prepared.test_dataloader.dataset.pipeline]
        assert types[: place + 1] == [*expected[:place], types[place]]
        assert types[place] in ("LoadAnnotations", "LoadSegAnnotations")
    assert capsys.readouterr().out.count("LoadAnnotations is moved after Resize") == 1


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTER])
def test_objects_are_resized_with_the_image(name: str, options: dict, capsys):
    config = load(name)
    image, labels, resize, *rest = config.train_dataloader.dataset.pipeline
    for changed in ([image, labels, resize, *rest], [image, resize, labels, *rest]):
        config.train_dataloader.dataset.pipeline = changed
        steps = prepare_training(config, TrainOptions(**options)).train_dataloader.dataset.pipeline
        types = [step.type.rpartition(".")[2] for step in steps]
        assert types[1] in ("LoadAnnotations", "LoadSegAnnotations") and types[2] == resize.type
        assert types[3:] == [step.type for step in rest]
    assert capsys.readouterr().out.count("LoadAnnotations is moved before Resize") == 1


def test_all_images_are_scored(tested: dict, shapes: Path, capsys: pytest.CaptureFixture[str]):
    """The last ones, and those without an object."""
    file = shapes / "annotations" / "instances_val2017.json"
    text = file.read_text()
    file.write_text(json.dumps(dict(json.loads(text), annotations=[])))
    try:
        config = load(**{"test_dataloader.drop_last": True})
        config.test_dataloader.dataset.update(filter_cfg=dict(filter_empty_gt=True))
        del config.test_dataloader.dataset.test_mode
        loader = prepare_test(config, preparation.TestOptions(**tested)).test_dataloader
        assert loader.drop_last is False
        with DefaultScope.overwrite_default_scope("mmdet"):
            assert len(DATASETS.build(loader.dataset)) == 1
        said = "test_dataloader goes without drop_last and filter_cfg: all images are scored"
        assert said in capsys.readouterr().out
    finally:
        file.write_text(text)


def test_resuming(options: dict, tmp_path: Path):
    checkpoint = tmp_path / "a.pth"
    checkpoint.touch()
    prepared = prepare_training(load(), TrainOptions(**options, resume=str(checkpoint)))
    assert (prepared.resume, prepared.load_from) == (True, str(checkpoint))
    assert prepared.model.backbone.init_cfg is None
    assert hooks(prepared)["CheckpointFit"] == dict(strict=True, resume=True)
    with pytest.raises(UserError, match="resume: nothing to resume from"):
        prepare_training(load(), TrainOptions(**options, resume="auto"))


def test_own_loops_and_optimizers_stay(options: dict):
    config = load()
    config.train_cfg.type, config.optim_wrapper.type = "OwnLoop", "OwnWrapper"
    prepared = prepare_training(config, TrainOptions(**options))
    assert (prepared.train_cfg.type, prepared.optim_wrapper.type) == ("OwnLoop", "OwnWrapper")
    assert prepared.train_dataloader.get("batch_sampler") == (
        config.train_dataloader.get("batch_sampler")
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (dict(data_root="missing"), UserError),
        (dict(pretrained="missing.pth"), UserError),
        (dict(amp="float16"), LaunchError),
        (dict(launcher="pytorch"), LaunchError),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_nothing_is_written_before_a_mistake(changes: dict, error: type, options: dict):
    with pytest.raises(UserError) as caught:
        prepare_training(load(), TrainOptions(**{**options, **changes}))
    assert isinstance(caught.value, error)
    if "launcher" not in changes:
        assert not Path(options["work_dir"]).exists()


def test_the_work_directory_is_locked(options: dict, monkeypatch: pytest.MonkeyPatch):
    """A new one once it is made, an old one before its newest checkpoint is looked for."""
    folder = Path(options["work_dir"])
    with ExitStack() as locks:
        prepare_training(load(), TrainOptions(**options), locks)
        assert (folder / LOCK).is_file()
    (folder / LOCK).unlink()
    monkeypatch.setattr(preparation, "set_resume", lambda *_: (folder / LOCK).stat())
    with ExitStack() as locks:
        prepare_training(load(), TrainOptions(**options, resume="auto"), locks)
    (folder / LOCK).unlink()
    prepare_training(load(), TrainOptions(**options))
    assert not (folder / LOCK).exists()


def test_what_cannot_be_used_is_noted(shapes: Path, options: dict, tmp_path: Path):
    root = generate(tmp_path / "bad", num_train=2, num_val=1, size=64, progress=False)
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [1, 1, 0, 9]
    file.write_text(json.dumps(content))
    prepared = prepare_training(load(), TrainOptions(**{**options, "data_root": str(root)}))
    (note,) = hooks(prepared)["SkippedData"]["notes"]
    assert "0 images and 1 annotation of" in note
    assert Path(prepared.train_dataloader.dataset.ann_file).parent == tmp_path / "work/annotations"
    assert prepared.val_dataloader.dataset.ann_file == load().val_dataloader.dataset.ann_file


def test_a_config_in_the_work_directory_is_not_replaced(options: dict, tmp_path: Path):
    file = tmp_path / "work" / "own.py"
    file.parent.mkdir()
    file.write_text(f"_base_ = {str(ROOT / 'configs' / DETECTOR)!r}")
    config = load_config(str(file))
    prepared = prepare_training(config, TrainOptions(**options))
    assert prepared.filename is None and config.filename == str(file)
    assert isinstance(prepared.model, ConfigDict) and prepared.model == config.model
    elsewhere = dict(options, work_dir=str(tmp_path / "other"))
    assert prepare_training(config, TrainOptions(**elsewhere)).filename == str(file)


def test_mixed_precision_falls_back(options: dict, capsys: pytest.CaptureFixture[str]):
    config = load()
    config.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    prepared = prepare_training(config, TrainOptions(**options))
    assert prepared.optim_wrapper.type == "mmpvt.OptimWrapper"
    assert "loss_scale" not in prepared.optim_wrapper
    assert "float32" in capsys.readouterr().out
    prepared.optim_wrapper.type = "mmpvt.AmpOptimWrapper"  # prepared on another machine
    again = prepare_training(prepared, TrainOptions(**options))
    assert again.optim_wrapper.type == "mmpvt.OptimWrapper"
    with pytest.raises(LaunchError, match="amp: float16 is for GPUs"):
        prepare_training(load(), TrainOptions(**options, amp="float16"))


def test_bfloat16_on_a_cpu(options: dict, monkeypatch: pytest.MonkeyPatch, capsys):
    prepared = prepare_training(load(), TrainOptions(**options, amp="bfloat16"))
    assert prepared.optim_wrapper.type == "mmpvt.Bfloat16OptimWrapper"
    assert not {"dtype", "loss_scale"} & set(prepared.optim_wrapper)
    config = load()
    config.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=1.0)
    again = prepare_training(config, TrainOptions(**options))
    assert again.optim_wrapper == prepared.optim_wrapper
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "bf16": False}, False)
    capsys.readouterr()
    prepare_training(load(), TrainOptions(**options, amp="bfloat16"))
    assert "warning: this processor has no instructions for bfloat16" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "loss_scale"), [("float16", "dynamic"), ("bfloat16", 1.0)])
def test_mixed_precision(dtype: str, loss_scale: str | float, options: dict, gpu):
    wrapper = prepare_training(load(), TrainOptions(**options, amp=dtype)).optim_wrapper
    found = (wrapper.type, wrapper.dtype, wrapper.loss_scale)
    assert found == ("mmpvt.AmpOptimWrapper", dtype, loss_scale)
    config = load("retinanet_pvt_l_fpn_1x_coco.py")
    adapt_amp(config)
    assert config.optim_wrapper.type == "AmpOptimWrapper"


def test_optimizers_are_fused_unless_the_config_chooses(options: dict):
    config = load()
    config.optim_wrapper.optimizer.fused = False
    prepared = prepare_training(config, TrainOptions(**options))
    assert not prepared.optim_wrapper.optimizer.fused
    config.optim_wrapper.optimizer = dict(type="Adadelta")
    prepared = prepare_training(config, TrainOptions(**options))
    assert "fused" not in prepared.optim_wrapper.optimizer


def test_learning_rates_are_scaled(options: dict, capsys: pytest.CaptureFixture[str]):
    config = load()
    config.auto_scale_lr = dict(enable=False, base_batch_size=16)
    prepared = prepare_training(config, TrainOptions(**options, auto_scale_lr=True))
    assert prepared.auto_scale_lr == dict(enable=True, base_batch_size=16)
    assert "leaves out" not in capsys.readouterr().err
    config.optim_wrapper.accumulative_counts = 4
    config.param_scheduler = [dict(type="CosineAnnealingLR", T_max=12, eta_min=1e-5)]
    prepare_training(config, TrainOptions(**options, auto_scale_lr=True))
    said = "leaves out the schedules' eta_min and accumulative_counts=4"
    assert said in capsys.readouterr().err
    config.auto_scale_lr = None
    with pytest.raises(ConfigError, match="doesn't say which batch"):
        prepare_training(config, TrainOptions(**options, auto_scale_lr=True))


def test_only_backbones_are_compiled(options: dict):
    prepared = prepare_training(load(), TrainOptions(**options, compile=True))
    assert "Compile" in hooks(prepared)
    student, teacher = (
        nn.ModuleDict(dict(backbone=nn.Identity(), neck=nn.Identity())) for _ in "ab"
    )
    model = nn.ModuleDict(dict(student=student, teacher=teacher))
    CompileHook().before_train(SimpleNamespace(model=model))
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl}
    assert compiled == {"student.backbone", "teacher.backbone"}


def test_the_best_checkpoint_is_kept_unless_the_config_chooses(options: dict):
    assert prepare_training(load(), TrainOptions(**options)).default_hooks.checkpoint.save_best == (
        "main"
    )
    config = load(**{"default_hooks.checkpoint.save_best": None})
    assert prepare_training(config, TrainOptions(**options)).default_hooks.checkpoint.save_best is (
        None
    )


def test_a_checkpoint_hook_named_with_its_scope(options: dict):
    config = load(**{"default_hooks.checkpoint.type": "mmengine.CheckpointHook"})
    prepared = prepare_training(config, TrainOptions(**options))
    assert prepared.default_hooks.checkpoint.type == "mmpvt.CheckpointHook"


@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_checkpoint_hook_that_waits_for_an_epoch(by_epoch: bool, options: dict, capsys):
    """MMEngine's loop of iterations is a single epoch."""
    config = load(SEGMENTER, **{"default_hooks.checkpoint.by_epoch": by_epoch})
    prepare_training(config, TrainOptions(**options))
    assert ("it saves at the end alone" in capsys.readouterr().err) is by_epoch


def test_options_for_small_data(options: dict, shapes: Path):
    config = load(**{"train_cfg.val_interval": 1})
    config.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True)
    asked = TrainOptions(
        **options, epochs=12, freeze=2, early_stop=3, ema=0.01, val_loss=True, loggers=["wandb"]
    )
    with pytest.raises(ConfigError, match="wandb is not installed: pip install wandb"):
        prepare_training(config, asked)
    assert not Path(options["work_dir"]).exists()
    asked.loggers = ["tensorboard"]
    config.visualizer.vis_backends = (dict(type="LocalVisBackend"),)
    prepared = prepare_training(config, asked)
    assert prepared.train_cfg.max_epochs == 12
    assert prepared.model.backbone.frozen_stages == 2
    found = hooks(prepared)
    assert found["EarlyStopping"] == dict(patience=3)
    assert found["EMA"] == dict(ema_type="MomentumAnnealingEMA", momentum=0.01, gamma=10)
    loader = found["ValLoss"]["dataloader"]
    steps = [step.type for step in loader.dataset.pipeline]
    assert steps == ["mmpvt.LoadImageFromFile", "LoadAnnotations", "Resize", "PackDetInputs"]
    assert shapes / "val2017" in map(Path, loader.dataset.pipeline[0].folders)
    assert loader.batch_size == prepared.train_dataloader.batch_size
    assert not loader.dataset.test_mode and not loader.persistent_workers
    assert loader.dataset.filter_cfg == dict(filter_empty_gt=True)
    assert prepared.val_dataloader.dataset.test_mode
    kinds = [backend.type for backend in prepared.visualizer.vis_backends]
    assert kinds.count("TensorboardVisBackend") == 1
    assert prepare_training(prepared, asked).to_dict() == prepared.to_dict()


def test_the_loss_of_label_maps(options: dict, shapes: Path):
    prepared = prepare_training(load(SEGMENTER), TrainOptions(**options, val_loss=True))
    loader = hooks(prepared)["ValLoss"]["dataloader"]
    image, labels, *_ = loader.dataset.pipeline
    assert labels.type == "mmpvt.LoadSegAnnotations" and labels.folders == image.folders
    assert shapes / "annotations" / "validation" in map(Path, labels.folders)
    assert loader.batch_size == 1


def test_a_configs_own_average_keeps_its_kind(options: dict):
    config = load()
    config.custom_hooks = [dict(type="EMAHook", ema_type="ExpMomentumEMA", update_buffers=True)]
    for momentum, changes in ((None, {}), (0.01, dict(momentum=0.01))):
        prepared = prepare_training(config, TrainOptions(**options, ema=momentum))
        own = dict(ema_type="ExpMomentumEMA", update_buffers=True)
        assert hooks(prepared)["EMA"] == own | changes


@pytest.mark.parametrize(
    ("asked", "changes", "says"),
    [
        (dict(early_stop=0), {}, "early_stop: 0 is no number"),
        (dict(early_stop=1), {}, "validations is 1, too few to see 1 without improvement"),
        (dict(early_stop=999), {}, "too few to see 999 without improvement: name a smaller number"),
        (dict(early_stop=1), dict(val_cfg=None), "has no validation"),
        (dict(early_stop=1), {"train_cfg.type": "Own"}, "the loop Own can't be told to end"),
        (dict(ema=0.999), {}, "0.999 is no momentum"),
        (dict(val_loss=True), dict(val_cfg=None), "val_loss: the config's training has no"),
        (dict(loggers=["own"]), {}, "there is no 'own', but tensorboard, mlflow, wandb"),
        (dict(epochs=0), {}, "epochs: 0: a run takes"),
        (dict(freeze=-1), {}, "freeze: -1 is no number"),
        (dict(freeze=5), {}, "freeze: a mmpvt.PyramidVisionTransformerV2 has fewer than 5 stages"),
        (dict(freeze=1), {"model.backbone.type": "CSPDarknet"}, None),
        (dict(freeze=1), {"model.backbone.type": "HRNet"}, "a HRNet has no frozen_stages"),
    ],
)
def test_what_options_ask_for_in_vain(asked: dict, changes: dict, says, options: dict):
    config = load()
    config.merge_from_dict(changes)
    if says is None:
        prepare_training(config, TrainOptions(**options, **asked))
        return
    with pytest.raises(ConfigError) as caught:
        prepare_training(config, TrainOptions(**options, **asked))
    assert says in str(caught.value)
    assert not Path(options["work_dir"]).exists()


@pytest.fixture
def tested(options: dict, tmp_path: Path) -> dict:
    checkpoint = tmp_path / "a.pth"
    checkpoint.touch()
    return dict(options, checkpoint=str(checkpoint))


def test_testing_a_detector(tested: dict, shapes: Path, tmp_path: Path):
    config = load()
    out = str(tmp_path / "out.pkl")
    options = preparation.TestOptions(**tested, out=out, tta=True, show_dir=str(tmp_path / "show"))
    prepared = prepare_test(config, options)
    assert prepared.load_from == tested["checkpoint"] and not prepared.get("resume")
    assert hooks(prepared) == dict(
        SkippedData=dict(notes=[], on_bad_data="auto"),
        CheckpointFit=dict(strict=True, resume=False),
        Pictures=dict(show_dir=str(tmp_path / "show")),
        Interrupt={},
    )
    metric, dump = prepared.test_evaluator
    assert metric.type == "mmpvt.CocoMetric"
    assert dump == dict(type="mmpvt.DumpDetResults", out_file_path=out)
    assert prepared.model.type == "DetTTAModel" and prepared.model.module == config.model
    loader = prepared.test_dataloader
    first, *_, last = loader.dataset.pipeline
    assert (first.type, last.type) == ("mmpvt.LoadImageFromFile", "TestTimeAug")
    assert str(shapes / "val2017") in [str(Path(folder)) for folder in first.folders]
    assert loader.worker_init_fn == dict(type="mmpvt.init_worker")
    assert prepare_test(prepared, options).to_dict() == prepared.to_dict()


def test_augmenting_several_data_sets(tested: dict):
    """Each reads files in its own folders alone."""
    config = load(SEGMENTER)
    load_image, *_ = config.test_dataloader.dataset.pipeline
    config.tta_model = ConfigDict(type="SegTTAModel")
    config.tta_pipeline = [load_image, ConfigDict(type="TestTimeAug", transforms=[])]
    one = config.test_dataloader.dataset
    two = ConfigDict(one, data_prefix=config.train_dataloader.dataset.data_prefix)
    config.test_dataloader.dataset = ConfigDict(type="ConcatDataset", datasets=[one, two])
    prepared = prepare_test(config, preparation.TestOptions(**tested, tta=True))
    pipelines = [dataset.pipeline for dataset in prepared.test_dataloader.dataset.datasets]
    assert [steps[-1].type for steps in pipelines] == ["TestTimeAug"] * 2
    folders = [{Path(folder).name for folder in steps[0].folders} for steps in pipelines]
    assert "validation" in folders[0] and "training" in folders[1]


def test_testing_a_segmenter(tested: dict, tmp_path: Path):
    out = str(tmp_path / "maps")
    prepared = prepare_test(load(SEGMENTER), preparation.TestOptions(**tested, out=out))
    assert hooks(prepared)["LabelMaps"] == dict(out=out)
    for changes, error in ((dict(out="a.pkl"), OutputError), (dict(tta=True), ConfigError)):
        config = load(SEGMENTER)
        config.pop("tta_model", None)
        with pytest.raises(error):
            prepare_test(config, preparation.TestOptions(**{**tested, **changes}))


def test_a_config_that_says_nothing_of_tests(tested: dict):
    config = load()
    config.test_cfg = config.test_evaluator = None
    with pytest.raises(ConfigError, match="has no test_cfg, test_evaluator, which testing takes"):
        prepare_test(config, preparation.TestOptions(**tested))


def test_testing_after_training(options: dict, tested: dict):
    """From the config that the training has left in its folder."""
    trained = prepare_training(load(), TrainOptions(**options))
    prepared = prepare_test(trained, preparation.TestOptions(**tested))
    assert hooks(prepared)["CheckpointFit"] == dict(strict=True, resume=False)
    with pytest.raises(OutputError, match=r"take a file ending in \.pkl"):
        prepare_test(load(), preparation.TestOptions(**tested, out="a"))
