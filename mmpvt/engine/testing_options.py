"""Options of a test that change the config's loop, evaluators, pipeline or model."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict

from mmpvt.datasets.pipelines import loading_step
from mmpvt.engine.config import set_hook
from mmpvt.engine.config_parts import split_datasets
from mmpvt.engine.mixed_precision import check_amp
from mmpvt.engine.tiles import Tiling
from mmpvt.errors import ConfigError, OutputError
from mmpvt.utils.outputs import Outputs, check_free


def set_test_amp(config: Config, dtype: str) -> None:
    """Tests in mixed precision.

    Raises:
        LaunchError: the device doesn't compute in ``dtype``.
        ConfigError: the config has a test loop of another kind.
    """
    check_amp("cuda" if torch.cuda.is_available() else "cpu", dtype)
    loop = config.test_cfg
    kind = loop.get("type", "TestLoop").removeprefix("mmengine.")
    if kind not in ("TestLoop", "mmpvt.AmpTestLoop"):
        raise ConfigError(
            f"the config's test loop is {kind}, which chooses its own precision", setting="amp"
        )
    loop.pop("fp16", None)
    loop.update(type="mmpvt.AmpTestLoop", dtype=dtype)


def set_out(config: Config, out: str, force: bool) -> None:
    """Saves a test's predictions: a detector's or classifier's as a pickle file, a segmenter's as
    label maps.

    Raises:
        OutputError: ``out`` isn't such a file or folder, or it exists and ``force`` is False.
        ConfigError: each of several data sets has a metric of its own.
    """
    evaluators = config.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    if config.get("default_scope") == "mmseg":
        if Path(out).suffix:
            raise OutputError(
                f"a segmenter's label maps take a folder, not {out}", setting="out", where=out
            )
        Outputs(out).check_folder()
        cityscapes = [e for e in evaluators if str(e["type"]).endswith("CityscapesMetric")]
        for evaluator in cityscapes:  # whose files are of a form of their own
            evaluator.update(output_dir=out, keep_results=True)
        if not cityscapes:
            set_hook(config, type="mmpvt.LabelMapsHook", out=out)
        return
    if Path(out).suffix not in (".pkl", ".pickle"):
        raise OutputError(
            f"results of a detector or classifier take a file ending in .pkl, not {out}",
            setting="out",
            where=out,
        )
    if any("dataset_prefixes" in evaluator for evaluator in evaluators):
        raise ConfigError(
            "the config's MultiDatasetsEvaluator has a metric for each data set, and none for all",
            setting="out",
            hint="test on one of the data sets",
        )
    check_free(Path(out), force, "out")
    dump = ConfigDict(type="mmpvt.DumpDetResults", out_file_path=out)
    config.test_evaluator = [*(e for e in evaluators if e != dump), dump]


def set_tta(config: Config) -> None:
    """Augments at test time: as the config says, or by a flip.

    Raises:
        ConfigError: a segmenter's config doesn't say how.
    """
    datasets = [dataset for _, dataset in split_datasets(config, ("test",))]
    if "tta_model" not in config or "tta_pipeline" not in config:
        if config.get("default_scope") == "mmseg":
            raise ConfigError("the config holds no tta_model and tta_pipeline", setting="tta")
        flips = [ConfigDict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        pipeline = datasets[0]["pipeline"]
        if config.get("default_scope") == "mmpretrain":
            pack = pipeline[-1]
            config.tta_model = dict(type="AverageClsScoreTTA")
        else:
            keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
            pack = ConfigDict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
            nms = dict(type="nms", iou_threshold=0.5)
            config.tta_model = dict(type="DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))
        tta = ConfigDict(type="TestTimeAug", transforms=[flips, [pack]])
        config.tta_pipeline = [*pipeline[:-1], tta]
    if config.model.get("type") != config.tta_model.type:
        config.model = ConfigDict(**config.tta_model, module=config.model)
    for dataset in datasets:
        dataset["pipeline"] = copy.deepcopy(config.tta_pipeline)  # each reads its own folders


def set_tiles(config: Config, tiling: Tiling) -> None:
    """Cuts images into tiles once they are loaded, and merges the predictions on them.

    Raises:
        ConfigError: the pipeline has no step that loads an image.
    """
    for _, dataset in split_datasets(config, ("test",)):
        steps = dataset.get("pipeline", [])
        place = loading_step(steps)
        if place is None:
            raise ConfigError("the test pipeline doesn't read single images", setting="tiles")
        if steps[-1]["type"] == "mmpvt.CutIntoTiles":  # prepared before
            continue
        cut = ConfigDict(type="mmpvt.CutIntoTiles", tiles=tiling.size, overlap=tiling.overlap)
        cut.transforms = steps[place + 1 :]
        dataset["pipeline"] = [*steps[: place + 1], cut]
    if config.model.get("type") != "mmpvt.TiledModel":
        config.model = ConfigDict(
            type="mmpvt.TiledModel",
            module=config.model,
            tiles=tiling.size,
            overlap=tiling.overlap,
            also_whole=tiling.also_whole,
        )
