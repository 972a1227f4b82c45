"""From a model and its config to one ONNX file."""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import mmdet
import mmseg
import numpy as np
import onnx_ir as ir
import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch.export import Dim, ExportedProgram

from mmpvt.deploy import tensorrt
from mmpvt.deploy.decoding import NMS, WithoutNMS
from mmpvt.deploy.forms import BatchForm, Core, ImageForm
from mmpvt.deploy.kinds import exportable
from mmpvt.deploy.openvino_files import save_openvino, to_openvino
from mmpvt.deploy.operators import OPSET, translations
from mmpvt.deploy.precision import (
    FLOAT32_NODES,
    Sample,
    digest,
    quiet,
    to_float16,
    to_int8,
    to_openvino_int8,
)
from mmpvt.deploy.preprocessing import (
    CenterCrop,
    PreprocessingGraph,
    ResizeToMultiple,
    read_image_format,
    read_resizing,
    round_shape,
)
from mmpvt.deploy.verification import Deviation, make_batch, prepare, resized, to_rgb, verify
from mmpvt.engine.checks.channels import channel_mismatch
from mmpvt.engine.pipeline import evaluating
from mmpvt.errors import ExportError, OutputError, SetupError
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.models.data_preprocessor import input_channels
from mmpvt.utils.atomic import replacing
from mmpvt.utils.requirements import OLDEST_TO_EXPORT, release
from mmpvt.utils.text import encodable, printable
from mmpvt.version import __version__
from mmpvt.visualization.drawing import colours

if TYPE_CHECKING:
    import openvino

EXAMPLE_SHAPE = (256, 320)  # pixels of the input that a network of dynamic size is traced with
OTHER_SHAPE = (416, 288)  # another, to try it on
MAX_SIDE = 4096  # pixels of the network's input, where sizes are dynamic
MIN_SIDE = 65  # pixels: below, maps may come to one pixel, which is traced as a case of its own
SIDES = ("down", "across")  # their names in the file, of multiples
MAX_BATCH = 256  # images, where their number is dynamic
SCOPES = "pkg.torch.onnx.name_scopes"  # where PyTorch writes which module a node comes from
MODEL = "core.model."  # begins the names of the model's own
CHANNEL_ORDERS = {1: "grey", 3: "RGB", 4: "RGBA"}  # of an image's channels, by their number

DYNAMIC = "dynamic"  # of a batch or an input's size


def export(
    model: BaseModel,
    config: Config,
    shape: Sequence[int] | None = None,
    report: Callable[[str], None] = print,
    *,
    runtime: str = "onnxruntime",
    batch: int | str | None = None,
    without_nms: bool = False,
) -> ir.Model:
    """Exports a whole model to ONNX: image in; boxes, masks, label map or scores out.

    The model itself is left as it was.

    Args:
        model (BaseModel): MMDetection's, MMSegmentation's or mmpretrain's, its weights loaded.
        config (Config): its config, of which the test pipeline is read.
        shape (Sequence[int] | None): height and width, in pixels, that every image is fitted into;
            by default images have the sizes that the test pipeline gives them.
        report (Callable): takes a line of progress.
        runtime (str): ``"onnxruntime"`` (the default), ``"openvino"``, ``"tensorrt"`` or ``"any"``.
        batch (int | str | None): how many resized images the model takes at once, or
            ``"dynamic"``. Default: None, for one image of any size; 1 for TensorRT.
        without_nms (bool): whether a batch's boxes are what goes into the last NMS. Default: False.

    Returns:
        ir.Model: the model, in memory.

    Raises:
        SetupError: PyTorch is too old for it.
        ExportError: a part can't be exported; it is named.
    """
    if release(torch.__version__) < OLDEST_TO_EXPORT:
        oldest = ".".join(map(str, OLDEST_TO_EXPORT))
        raise SetupError(
            f"exporting needs PyTorch {oldest} or newer, and {torch.__version__} is installed",
            hint=f"pip install 'torch>={oldest}'",
        )
    plan = Plan(model, config, shape, runtime, batch)
    core, nms = core_of(plan, without_nms)
    start = time.monotonic()
    report(f"exporting {type(model).__name__} on {type(model.backbone).__name__}")
    if plan.is_batch and plan.image_format.is_float:
        report("the test pipeline resizes in float32; a batch's images are bytes, rounded")
    exported = export_network(plan.form(core), plan)
    report(f"exported in {time.monotonic() - start:.0f} s")
    join(None if plan.is_batch else plan.preprocessing(), exported)
    if plan.is_tensorrt:
        tensorrt.check(exported)
    exported.metadata_props.update(describe(plan, core, nms))
    return exported


class Plan:
    """What is exported, and for what.

    Attributes:
        is_tensorrt (bool): sizes are fixed but for the batch's, and NMS is a plugin.
        batch (int | str | None): images at once, or ``"dynamic"``; None for one of any size.
        shape (tuple[int, int] | None): height and width that images are fitted into.
        image_format (ImageFormat): how the test pipeline decodes images.
        channels (int): of an image.
        resizing (list[ResizingStep]): of the test pipeline.
        divisor (int): what the sides of the network's input are multiples of.
        pad_value (float): of the padding, after normalisation.
        input_shape (list[int] | None): height and width of the network's input, if they are fixed.
    """

    def __init__(
        self,
        model: BaseModel,
        config: Config,
        shape: Sequence[int] | None,
        runtime: str,
        batch: int | str | None,
    ) -> None:
        self.model, self.config, self.runtime = model, config, runtime
        self.is_tensorrt = runtime == "tensorrt"
        if self.is_tensorrt and shape is None:
            raise ExportError("TensorRT takes one size: give a height and a width")
        self.batch = 1 if self.is_tensorrt and batch is None else batch
        self.shape = shape = round_shape(config, shape)
        self.resizing = read_resizing(config, shape)
        self.image_format = read_image_format(config)
        self.channels = self.image_format.channels or input_channels(model.backbone)
        if reason := channel_mismatch(self.channels, config):
            raise ExportError(f"the test pipeline loads images of {reason}")
        self.divisor, self.pad_value = read_padding(model.data_preprocessor)
        last = self.resizing[-1] if self.resizing else None
        if isinstance(last, CenterCrop):  # all images are of that size
            shape = last.size
        self.input_shape = shape and [-(-side // self.divisor) * self.divisor for side in shape]
        if isinstance(last, ResizeToMultiple):
            self.divisor = max(self.divisor, last.divisor)

    @property
    def is_batch(self) -> bool:
        """Whether the model takes batches of resized images, not one of any size."""
        return self.batch is not None

    def form(self, core: Core) -> ImageForm | BatchForm:
        """What is exported, around the model's core."""
        if self.is_batch:
            return BatchForm(core, self.image_format, self.pad_value)
        return ImageForm(core)

    def preprocessing(self) -> PreprocessingGraph:
        """The graph from an image of any size to the network's inputs."""
        return PreprocessingGraph(
            *(self.resizing, self.model.data_preprocessor, self.divisor, self.pad_value),
            *(self.input_shape, self.channels, self.image_format),
            has_float64=self.runtime == "onnxruntime",
        )

    def example(
        self, shape: tuple[int, int]
    ) -> tuple[dict[str, torch.Tensor], dict[str, dict | None]]:
        """Inputs to trace with, and which of their sides are dynamic.

        Args:
            shape (tuple[int, int]): of the network's input, rounded up, where sizes are dynamic.
        """
        height, width = self.input_shape or [-(-x // self.divisor) * self.divisor for x in shape]
        sides = {}
        if self.input_shape is None:
            most = MAX_SIDE // self.divisor
            least = MIN_SIDE if self.divisor == 1 else 2
            sides = {i: self.divisor * Dim(n, min=least, max=most) for i, n in enumerate(SIDES)}
        if not self.is_batch:
            inputs = {
                "x": torch.zeros(1, input_channels(self.model.backbone), height, width),
                "size": torch.tensor([height - 1.0, width - 1.0]),
                "scale": torch.ones(4),
                "rows": torch.arange(height + 5) + 0.5,
                "columns": torch.arange(width + 7) + 0.5,
            }
            shapes = {
                "x": {2 + i: side for i, side in sides.items()} or None,
                "size": None,
                "scale": None,
                "rows": {0: Dim("height", min=2)},
                "columns": {0: Dim("width", min=2)},
            }
            return inputs, shapes
        count = self.batch if isinstance(self.batch, int) else 2
        inputs = {
            "images": torch.zeros(count, height, width, self.channels, dtype=torch.uint8),
            "sizes": torch.tensor([[height - 1, width - 1]]).repeat(count, 1),
        }
        batch = {0: Dim("batch", min=1, max=MAX_BATCH)} if self.batch == DYNAMIC else {}
        dynamic = {**batch, **{1 + i: side for i, side in sides.items()}}
        return inputs, {"images": dynamic or None, "sizes": batch or None}


def write(
    model: BaseModel,
    config: Config,
    out: Path,
    shape: Sequence[int] | None = None,
    half: bool = False,
    photos: Sequence[np.ndarray] | None = None,
    image: np.ndarray | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Deviation:
    """Exports a model to a file, intact or not at all, and compares its results with PyTorch's.

    Args:
        model (BaseModel): as :func:`export`'s.
        config (Config): as :func:`export`'s.
        out (Path): the file: .onnx, or .xml, which has its .bin beside it, for OpenVINO.
        shape (Sequence[int] | None): as :func:`export`'s. Default: None.
        half (bool): layers in float16; of an .xml file, weights alone. Default: False.
        photos (Sequence[ndarray] | None): layers in int8, calibrated on these images,
            uint8, as the test pipeline decodes them.
        image (ndarray | None): uint8, as the test pipeline decodes it, to compare results on; by
            default shapes are drawn.
        report (Callable): as :func:`export`'s.
        **options: as :func:`export`'s ``runtime``, ``batch`` and ``without_nms``.

    Returns:
        Deviation: of the file's results from PyTorch's.

    Raises:
        ExportError: a part of the model can't be exported, or float32 results aren't PyTorch's.
        OutputError: the file can't be written.
    """
    is_openvino = out.suffix == ".xml"
    exported = export(model, config, shape, report, **options)
    samples = calibration_samples(photos, config, exported.metadata_props) if photos else None
    file: ir.Model | openvino.Model = exported
    if is_openvino:
        file = to_openvino_int8(exported, samples, report) if samples else to_openvino(exported)
    elif samples:
        file = to_int8(exported, samples, report)
    elif half:
        file = to_float16(exported)
    try:
        with replacing(out) as part, TemporaryDirectory(dir=out.parent) as folder:
            checked = Path(folder, f"model{out.suffix}")
            if is_openvino:
                save_openvino(file, checked, half)
            else:
                # TensorRT isn't run: its plugins are expanded
                is_tensorrt = exported.metadata_props["runtime"] == "tensorrt"
                ir.save(tensorrt.expand_plugins(file) if is_tensorrt else file, checked)
            report("checking against PyTorch")
            deviation = verify(str(checked), model, config, image, round_shape(config, shape))
            if not half and not samples and not deviation.is_small:
                raise ExportError(f"{type(model).__name__} can't be exported: {deviation}")
            size = sum(x.stat().st_size for x in checked.parent.iterdir())
            if is_openvino:
                checked.with_suffix(".bin").replace(out.with_suffix(".bin"))
                checked.replace(part)
            else:
                ir.save(file, part)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}", where=out) from error
    report(f"{printable(out)}, {size / 2**20:.0f} MB: {deviation}")
    return deviation


def calibration_samples(
    photos: Sequence[np.ndarray], config: Config, meta: MutableMapping[str, str]
) -> list[Sample]:
    """What an exported model takes of images, decoded as the test pipeline decodes them.

    Args:
        photos (Sequence[ndarray]): uint8.
        config (Config): the model's.
        meta (MutableMapping[str, str]): its metadata, to which ``calibrated_on`` is added; the
            last batch is filled up with images again.
    """
    is_bgr = read_image_format(config).is_bgr
    images = [to_rgb(photo, is_bgr) for photo in photos]
    meta["calibrated_on"] = json.dumps([digest(image) for image in images])
    if meta["form"] == "image":
        return list(images)
    count = 1 if meta["batch"] == DYNAMIC else int(meta["batch"])
    prepared = []
    for photo in photos:
        if meta["input_size"] == DYNAMIC:
            prepared.append(prepare(config, photo))
            continue
        ratio = min(np.divide(json.loads(meta["input_size"]), photo.shape[:2]))
        sized, own = resized(config, photo, [max(1, int(x * ratio)) for x in photo.shape[:2]])
        prepared.append(prepare(own, sized))
    missing = -len(prepared) % count
    prepared += (prepared * count)[:missing]
    batches = [prepared[i : i + count] for i in range(0, len(prepared), count)]
    return [make_batch(batch, meta, is_bgr) for batch in batches]


def read_padding(data_preprocessor: BaseDataPreprocessor) -> tuple[int, float]:
    """What sides are padded to a multiple of, and with what value.

    Raises:
        ExportError: the preprocessor pads in another way.
    """
    # MMSegmentation's own pads in tests by this alone; in OneDL's fork it has a divisor, too
    if not hasattr(data_preprocessor, "test_cfg"):
        divisor = getattr(data_preprocessor, "pad_size_divisor", 1)
        return divisor, float(getattr(data_preprocessor, "pad_value", 0))
    options = dict(data_preprocessor.test_cfg or {})
    divisor = options.pop("size_divisor", 1)
    if options:
        raise ExportError(
            f"{type(data_preprocessor).__name__}'s test_cfg with {', '.join(options)} can't be "
            "exported: size_divisor can"
        )
    return divisor, float(getattr(data_preprocessor, "pad_val", 0))


def core_of(plan: Plan, without_nms: bool) -> tuple[Core, dict[str, object] | None]:
    """The model in exportable form and, where its last NMS is left to the caller, what it was.

    Raises:
        ExportError: it has no form, or no NMS that can be left out.
    """
    core = exportable(plan.model, plan.is_batch)
    if not without_nms:
        return core, None
    nms = getattr(core, "nms", None)
    if not isinstance(nms, NMS):
        raise ExportError(f"{type(core.model).__name__} has no NMS to leave out")
    if "masks" in core.outputs:
        raise ExportError(
            f"{type(core.model).__name__} without its NMS can't be exported: masks are made of the "
            "boxes that it keeps"
        )
    core.nms = WithoutNMS()
    return core, nms.describe()


def export_network(network: ImageForm | BatchForm, plan: Plan) -> ir.Model:
    """The network, from its normalised input on or of a batch, by PyTorch's exporter."""
    try:
        with torch.no_grad(), evaluating(network), quiet():
            # by itself torch.onnx goes on where sizes aren't free, to a file for the example's size
            program = torch.onnx.export(
                trace(network, plan),
                dynamo=True,
                opset_version=OPSET,
                output_names=list(network.outputs),
                custom_translation_table=translations(plan.runtime),
                verbose=False,
            )
    except Exception as error:
        raise failure(plan.model, error) from error
    model = program.model  # type: ignore[union-attr]  # None without dynamo
    restore_constants(model.graph)
    return model


def trace(network: torch.nn.Module, plan: Plan) -> ExportedProgram:
    """The network's program, for all sizes that the plan has; for programs.py, too."""
    inputs, shapes = plan.example(EXAMPLE_SHAPE)
    program = torch.export.export(network, (), kwargs=inputs, dynamic_shapes=shapes, strict=False)
    if plan.input_shape is None:
        # some conditions on sizes are an AssertionError only where they aren't met; another, such
        # as that something is found, a grey image needn't meet
        with suppress(RuntimeError):
            program.module()(**plan.example(OTHER_SHAPE)[0])
    return program


def restore_constants(graph: ir.Graph) -> None:
    """Registers constants that onnxscript's fusion of Min and Max lost.

    Where a value is clamped twice in several ways, it gives Clip bounds that are no initializers
    of the graph (onnxscript 0.7, ``rewriter/rules/common/_min_max_to_clip.py``).
    """
    for node in graph:
        for value in node.inputs:
            if value is None or value.producer() is not None or value.const_value is None:
                continue
            if not value.is_initializer():
                graph.register_initializer(value)


def failure(model: BaseModel, error: Exception) -> ExportError:
    """What is said where PyTorch's exporter fails."""
    cause: BaseException = error
    while cause.__cause__ is not None:  # the exporter wraps what went wrong
        cause = cause.__cause__
    reason = next(iter(str(cause).strip().splitlines()), "")[:200]
    if "Constraints violated" in reason or "Guard failed" in reason:
        return ExportError(
            f"{type(model).__name__} can't be exported for images of any size: what it computes "
            "depends on the size in a way that PyTorch's exporter can't follow",
            hint="--shape HEIGHT WIDTH, a fixed size, may do",
        )
    return ExportError(
        f"{type(model).__name__} can't be exported: PyTorch's exporter fails at it "
        f"({type(cause).__name__}: {reason})"
    )


def join(preprocessing: PreprocessingGraph | None, exported: ir.Model) -> None:
    """Puts the preprocessing, if any, before the exported network, whose nodes get names."""
    graph = exported.graph
    if preprocessing is not None:
        for i, node in enumerate(preprocessing.nodes):
            node.name = f"preprocessing/{node.op_type}_{i}"
            for j, value in enumerate(node.outputs):
                value.name = f"preprocessing/{i}_{j}"
        for value in list(graph.inputs):
            ir.convenience.replace_all_uses_with(value, preprocessing.outputs[value.name])
        graph.inputs.clear()
        graph.inputs.append(preprocessing.image)
        graph.insert_before(graph[0], preprocessing.nodes)
    for i, node in enumerate(graph):
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
        modules = [name.removeprefix(MODEL) for name in scopes if name.startswith(MODEL)]
        if modules:  # such as backbone.block1.0.attn.q
            node.name = f"{modules[-1]}/{node.op_type}_{i}"
        elif not node.name.startswith(FLOAT32_NODES):
            node.name = f"decoding/{node.op_type}_{i}"


def describe(plan: Plan, core: Core, nms: Mapping[str, object] | None) -> dict[str, str]:
    """The file's ``metadata_props``: text, or JSON where a value has parts.

    ``nms`` is what the caller does, if any.
    """
    model, outputs = plan.model, core.outputs
    meta = getattr(model, "dataset_meta", None) or {}
    classes = [encodable(name) for name in meta.get("classes", ())]
    tasks = dict(masks="instance segmentation", label_map="semantic segmentation")
    tasks |= dict(scores="classification") if len(outputs) == 1 else {}
    mean, std = (
        [round(x, 4) for x in getattr(model.data_preprocessor, name).flatten().tolist()]
        if model.data_preprocessor._enable_normalize
        else None
        for name in ("mean", "std")
    )
    order = CHANNEL_ORDERS.get(plan.channels, "as in the file")
    shape = "(batch, height, width" if plan.is_batch else "(height, width"
    masks = ("mask_frame", "mask_threshold") if "masks" in outputs else ()
    facts = {
        "task": tasks.get(outputs[-1], "detection"),
        "model": type(model).__name__,
        "backbone": type(model.backbone).__name__,
        "config": encodable(plan.config.filename or ""),
        "classes": classes,
        "category_ids": [category["id"] for category in coco_categories(classes)],
        "palette": colours(meta.get("palette"), len(classes)),
        "image": f"uint8, {shape}, {plan.channels}), {order}",
        # PyTorch's model gets all bits of a file that has more, which this one can't
        **({"bits": 8} if plan.image_format.keeps_bits else {}),
        **({} if plan.image_format.is_turned else {"orientation": "ignored"}),
        **({"decoder": "pillow"} if plan.image_format.by_pillow else {}),
        "input_size": plan.input_shape or DYNAMIC,
        "divisor": plan.divisor,
        "resizing": [{"step": type(step).__name__, **asdict(step)} for step in plan.resizing],
        "mean": mean,
        "std": std,
        "precision": "float32",
        "test_cfg": json.loads(json.dumps(getattr(model, "test_cfg", None) or {}, default=str)),
        "versions": {
            "mmpvt": __version__,
            "torch": torch.__version__,
            "mmdet": mmdet.__version__,
            "mmsegmentation": mmseg.__version__,
        },
        **{name: getattr(core, name) for name in masks},
        "runtime": plan.runtime,
        "form": "batch" if plan.is_batch else "image",
        **({"batch": plan.batch} if plan.is_batch else {}),
        **({"nms": nms} if nms else {}),
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
    }
