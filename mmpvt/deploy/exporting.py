"""From a config and a checkpoint to one ONNX file."""

from __future__ import annotations

import ast
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import onnx_ir as ir
import torch
from mmdet.models.detectors import DETR, SingleStageDetector, TwoStageDetector
from mmengine.config import Config
from mmseg.models.segmentors import EncoderDecoder
from torch import nn
from torch.export import Dim

from mmpvt.deploy.detection import OneStage
from mmpvt.deploy.metadata import describe
from mmpvt.deploy.operators import OPSET, TRANSLATIONS
from mmpvt.deploy.preprocessing import Preprocessing
from mmpvt.deploy.segmentation import Segmenter
from mmpvt.deploy.sizes import UpToMultiple, frame, read_loading, read_steps
from mmpvt.deploy.transformer import Transformer
from mmpvt.deploy.two_stage import TwoStage
from mmpvt.engine.checks.channels import channel_mismatch
from mmpvt.errors import UserError
from mmpvt.models.data_preprocessor import input_channels

EXAMPLE = (256, 320)  # pixels of the image that a network of any size is recorded with
LARGEST = 4096  # pixels of a side that the network sees, where sizes are dynamic
OUTSIDE = ("preprocessing/", "decoding/")  # begin the names of nodes outside the network's layers
SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch writes which module a node comes from


def export(
    model: nn.Module,
    config: Config,
    shape: Sequence[int] | None = None,
    report: Callable[[str], None] = print,
) -> ir.Model:
    """Writes a whole model as ONNX: image in; boxes, masks or label map out.

    Args:
        model (nn.Module): MMDetection's or MMSegmentation's, its weights loaded.
        config (Config): its config, of which the test pipeline is read.
        shape (Sequence[int] | None): height and width, in pixels, that every image is fitted into;
            by default images have the sizes that the test pipeline gives them.
        report (Callable): takes a line of progress.

    Returns:
        ir.Model: the model, in memory.

    Raises:
        UserError: a part has no form in ONNX; it is named.
    """
    model = model.eval()
    shape = frame(config, shape)
    steps, loading = read_steps(config, shape), read_loading(config)
    channels = loading.channels or input_channels(model.backbone)
    if reason := channel_mismatch(channels, config):
        raise UserError(f"the test pipeline loads images of {reason}")
    normaliser = model.data_preprocessor
    divisor, value = padding(normaliser)
    canvas = shape and [-(-side // divisor) * divisor for side in shape]
    network = recordable(model)

    start = time.monotonic()
    report(f"recording {type(model).__name__} on {type(model.backbone).__name__}")
    if steps and isinstance(steps[-1], UpToMultiple):
        divisor = max(divisor, steps[-1].divisor)
    exported = record(network, canvas, divisor)
    report(f"recorded in {time.monotonic() - start:.0f} s")

    first = Preprocessing(steps, normaliser, divisor, value, canvas, channels, loading)
    join(first, exported)
    exported.metadata_props.update(describe(model, config, network, steps, canvas, channels))
    return exported


def padding(normaliser: nn.Module) -> tuple[int, float]:
    """What sides are padded to a multiple of, and with what value.

    Raises:
        UserError: images are padded in another way.
    """
    if hasattr(normaliser, "pad_size_divisor"):
        return normaliser.pad_size_divisor, float(normaliser.pad_value)
    options = dict(getattr(normaliser, "test_cfg", None) or {})
    divisor = options.pop("size_divisor", 1)
    if options:
        raise UserError(
            f"{type(normaliser).__name__}'s test_cfg with {', '.join(options)} can't be exported: "
            "size_divisor can"
        )
    return divisor, float(getattr(normaliser, "pad_val", 0))


def recordable(model: nn.Module) -> nn.Module:
    """The model in a form that can be recorded.

    Raises:
        UserError: it has none; the part that is in the way is named.
    """
    for name, part in model.named_modules():
        if type(part).__module__.startswith("mmcv.ops") and type(part).__name__ != "RoIAlign":
            raise UserError(f"{type(part).__name__} (the model's {name}) can't be exported")
    if type(model) is DETR:
        return Transformer(model)
    if isinstance(model, TwoStageDetector) and _predicts_as(model, TwoStageDetector):
        return TwoStage(model)
    if isinstance(model, SingleStageDetector) and _predicts_as(model, SingleStageDetector):
        return OneStage(model)
    if isinstance(model, EncoderDecoder) and _predicts_as(model, EncoderDecoder):
        return Segmenter(model)
    raise UserError(f"{type(model).__name__} can't be exported: docs/deploy.md lists what can")


def _predicts_as(model: nn.Module, base: type) -> bool:
    return type(model).predict is base.predict and type(model).extract_feat is base.extract_feat


def record(network: nn.Module, canvas: Sequence[int] | None, divisor: int) -> ir.Model:
    """The network, from its normalised input on, as PyTorch's exporter writes it.

    Raises:
        UserError: it can't be recorded; what the exporter says is passed on.
    """
    height, width = canvas or [-(-side // divisor) * divisor for side in EXAMPLE]
    inputs = {
        "x": torch.zeros(1, input_channels(network.model), height, width),
        "size": torch.tensor([height - 1.0, width - 1.0]),
        "scale": torch.ones(4),
        "rows": torch.arange(height + 5) + 0.5,
        "columns": torch.arange(width + 7) + 0.5,
    }
    sides = None
    if canvas is None:
        high = LARGEST // divisor
        sides = {2 + i: divisor * Dim(n, min=2, max=high) for i, n in enumerate(("down", "across"))}
    shapes = {
        "x": sides,
        "size": None,
        "scale": None,
        "rows": {0: Dim("height", min=2)},
        "columns": {0: Dim("width", min=2)},
    }
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                network,
                (),
                kwargs=inputs,
                dynamic_shapes=shapes,
                dynamo=True,
                opset_version=OPSET,
                output_names=list(network.outputs),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter wraps what went wrong
            cause = cause.__cause__
        reason = next(iter(str(cause).strip().splitlines()), "")[:200]
        raise UserError(
            f"{type(network.model).__name__} can't be exported: PyTorch's exporter fails at it "
            f"({type(cause).__name__}: {reason})"
        ) from error
    return program.model


def join(first: Preprocessing, exported: ir.Model) -> None:
    """Puts the preprocessing before the recorded network, which is changed."""
    graph = exported.graph
    for i, node in enumerate(first.nodes):
        node.name = f"preprocessing/{node.op_type}_{i}"
        for j, value in enumerate(node.outputs):
            value.name = f"preprocessing/{i}_{j}"
    for value in list(graph.inputs):
        ir.convenience.replace_all_uses_with(value, first.outputs[value.name])
    graph.inputs.clear()
    graph.inputs.append(first.image)
    graph.insert_before(graph[0], first.nodes)
    for i, node in enumerate(graph):
        scope = module_of(node)
        if scope is not None:
            node.name = f"{scope}/{node.op_type}_{i}"
        elif not node.name.startswith(OUTSIDE):
            node.name = f"decoding/{node.op_type}_{i}"


def module_of(node: ir.Node) -> str | None:
    """The part of the model, such as ``backbone.block1.0.attn.q``, that a node comes from."""
    names = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    inside = [n.removeprefix("model.") for n in names if n.startswith("model.")]
    return inside[-1] if inside else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's remarks on itself from the user."""
    loggers = [logging.getLogger(name) for name in ("root", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
