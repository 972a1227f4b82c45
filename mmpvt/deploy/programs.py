"""Models as programs of ``torch.export`` and, compiled, of AOTInductor: PyTorch alone runs them.

Both take batches of prepared images (:class:`.forms.BatchForm`). What :mod:`.operators` defines is
replaced by PyTorch's own operators first.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop_op
from torch.export import ExportedProgram

from mmpvt.deploy.decoding import RoIFeatures, pick
from mmpvt.deploy.exporting import Plan, core_of, describe, failure, trace
from mmpvt.deploy.precision import quiet
from mmpvt.deploy.verification import Deviation, Run, example, verify_batch
from mmpvt.engine.pipeline import evaluating
from mmpvt.errors import ExportError, OutputError, SetupError
from mmpvt.utils.atomic import replacing
from mmpvt.utils.text import printable

METADATA = "metadata.json"  # of the extra files in a program's archive


def write_program(
    model: BaseModel,
    config: Config,
    out: Path,
    shape: Sequence[int],
    *,
    batch: int | str = 1,
    compiled: bool = False,
    without_nms: bool = False,
    image: np.ndarray | None = None,
    report: Callable[[str], None] = print,
) -> Deviation:
    """Exports a model to a ``.pt2`` file, intact or not at all, and compares its results.

    Args:
        model (BaseModel): as of :func:`.exporting.export`.
        config (Config): as of :func:`.exporting.export`.
        out (Path): the file.
        shape (Sequence[int]): height and width that images are fitted into, in pixels.
        batch (int | str): how many images it takes at once, or ``"dynamic"``. Default: 1.
        compiled (bool): machine code for this processor, by AOTInductor, which takes a C++
            compiler. Default: False, a program that ``torch.export.load`` reads anywhere.
        without_nms (bool): as of :func:`.exporting.export`.
        image (ndarray | None): uint8, as the test pipeline decodes it, to compare results on.
        report (Callable): takes a line of progress.

    Returns:
        Deviation: of the file's results from PyTorch's.

    Raises:
        ExportError: a part of the model can't be exported, or its results aren't PyTorch's.
        SetupError: torchvision, or a compiler, is missing.
        OutputError: the file can't be written.
    """
    plan = Plan(model, config, shape, "pytorch", batch)
    core, nms = core_of(plan, without_nms)
    if any(isinstance(part, RoIFeatures) for part in core.modules()):
        require_torchvision()
    report(f"exporting {type(model).__name__} on {type(model.backbone).__name__}")
    program = export_program(plan, plan.form(core))
    meta = describe(plan, core, nms)
    meta |= {"outputs": json.dumps(core.outputs), "channels": str(plan.channels)}
    try:
        with replacing(out) as part, TemporaryDirectory(dir=out.parent) as folder:
            file = Path(folder, "model.pt2")  # PyTorch insists on the suffix
            if compiled:
                report("compiling")
                compile_program(program, meta, file)
            else:
                torch.export.save(program, file, extra_files={METADATA: json.dumps(meta)})
            report("checking against PyTorch")
            run, meta = load_program(file)
            image, config = example(model, config, image, plan.shape)
            deviation = verify_batch(run, meta, model, config, image)
            if not deviation.is_small:
                raise ExportError(f"{type(model).__name__} can't be exported: {deviation}")
            size = file.stat().st_size
            file.replace(part)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}", where=out) from error
    report(f"{printable(out)}, {size / 2**20:.0f} MB: {deviation}")
    return deviation


def export_program(plan: Plan, form: torch.nn.Module) -> ExportedProgram:
    """A model's program, of PyTorch's own operators."""
    operators = torch.ops.mmpvt_deploy
    table: dict = {
        operators.topk.default: _topk,
        operators.batched_nms.default: _batched_nms,
        operators.roi_align.default: _roi_align,
    }
    try:
        with torch.no_grad(), evaluating(form), quiet():
            return trace(form, plan).run_decompositions(table)
    except Exception as error:
        raise failure(plan.model, error) from error


def compile_program(program: ExportedProgram, meta: dict[str, str], path: Path) -> None:
    """Compiles a program by AOTInductor.

    Raises:
        SetupError: it can't be compiled; without a C++ compiler, say.
    """
    options = {"aot_inductor.metadata": meta}
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=options
            )
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise SetupError(
            f"the model can't be compiled ({reason})",
            hint="AOTInductor takes a C++ compiler: apt install g++",
        ) from error


def load_program(path: Path) -> tuple[Run, dict[str, str]]:
    """A ``.pt2`` file, and its metadata.

    A compiled one is machine code: load only files that you trust.
    """
    with zipfile.ZipFile(path) as archive:
        is_compiled = any("/aotinductor/" in name for name in archive.namelist())
    model: Callable
    with quiet():
        if is_compiled:
            model = torch._inductor.aoti_load_package(str(path))
            meta = dict(model.get_metadata())
        else:
            files = {METADATA: ""}
            model = torch.export.load(path, extra_files=files).module()
            meta = json.loads(files[METADATA])

    names = json.loads(meta["outputs"])

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {name: x.numpy() for name, x in zip(names, found, strict=True)}

    return run, meta


def _topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values, index = scores.topk(min(count, scores.shape[1]))
    return values, index


def _batched_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    num_groups: int,
    class_agnostic: bool,
    iou_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy NMS as a fixed point: a box is kept if no kept box before it overlaps it.

    From all boxes on, each round is right for one more box at least, and for most after a few.
    """
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    boxes, groups = pick(boxes, order), groups.gather(1, order)
    corner = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    opposite = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    sides = (opposite - corner).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    overlaps = shared / (area[:, :, None] + area[:, None] - shared) > iou_threshold
    if not class_agnostic:
        overlaps = overlaps & (groups[:, :, None] == groups[:, None])
    later = overlaps.float().triu(1)
    is_valid = scores > 0

    # the operator itself: what compiles it for ``while_loop`` can't be exported by PyTorch 2.8
    start = (is_valid.clone(), ~is_valid)
    kept, _ = while_loop_op(_changes, _refine, start, (later, is_valid))  # type: ignore[arg-type]
    scores, index = _topk(torch.where(kept, scores, -1.0), count)
    return pick(boxes, index), scores, groups.gather(1, index)


def _changes(kept: Tensor, last: Tensor, later: Tensor, is_valid: Tensor) -> Tensor:
    return (kept != last).any()


def _refine(kept: Tensor, last: Tensor, later: Tensor, is_valid: Tensor) -> tuple[Tensor, Tensor]:
    suppressed = (kept.float()[:, None] @ later)[:, 0] > 0
    return is_valid & ~suppressed, kept.clone()


def _roi_align(
    feature_map: Tensor,
    boxes: Tensor,
    images: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """torchvision's: PyTorch has none."""
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
    options = (spatial_scale, height, width, sampling_ratio, aligned)
    return torch.ops.torchvision.roi_align(feature_map, rois, *options)


def require_torchvision() -> None:
    """A SetupError where torchvision's operators can't be used."""
    with contextlib.suppress(ImportError, RuntimeError):  # of another PyTorch
        import torchvision  # noqa: F401
    if not hasattr(torch.ops.torchvision, "roi_align"):
        raise SetupError(
            "a .pt2 file of a two-stage detector needs torchvision's RoIAlign, here and where it "
            "runs",
            hint="pip install torchvision",
        )
