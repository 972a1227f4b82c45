"""Runs a model that tools/export.py wrote: with onnxruntime, OpenVINO or, of .pt2 files, PyTorch,
NumPy and Pillow, and nothing else.

python tools/run_onnx.py model.onnx photos/ more.jpg --out results/ --score 0.3
python tools/run_onnx.py model.onnx photos/ --out results/ --runtime openvino --batch 8

Detections go to predictions.json, in COCO's results format; label maps are PNG files.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import secrets
import stat
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".gif", ".tif")
IMAGES += (".tiff", ".jp2", ".pbm", ".pgm", ".ppm", ".pnm")
OWN_GROUPS, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels
# no other of Pillow's formats: opening a PostScript file, say, runs Ghostscript on it
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
BYTES_OR_WORDS = (255, 65535)  # values of white
# TIFF's tags: bits of a sample; what the alpha is; of which kind an image is
BITS, EXTRA_SAMPLES, SUBFILE = 258, 338, 254
JPEG2000_SIZE = b"\xff\x4f\xff\x51"  # begins its codestream, within the file's first megabyte
MASK_OPACITY = 0.5
USER_ERROR, INTERRUPTED = 2, 130  # exit codes
LISTING = ".mmpvt-files"  # lists the files that were written to a folder: a line of JSON each
MAX_NAME = 255 - len(".jpg")  # bytes
MAX_LABEL_LENGTH = 60  # characters of a class's name over its box
# where a text moves if its place is taken: right and down, in its own widths and heights
SHIFTS = np.array(
    [(0, 0), (0, 1), (1, 0), (0, -1), (1, 1), (0, 2), (0, -2), (-1, 0), (-1, 1), (0, 3), (2, 0)]
)
# of Linux, Windows and macOS, tried in turn for letters that Pillow's own font lacks
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc")
FONTS += ("arial.ttf", "msyh.ttc", "meiryo.ttc", "malgun.ttf", "Arial Unicode.ttf", "PingFang.ttc")
MISSING = "\uffff"  # a character that no font has
MAX_FILE_SIZE = 2 << 30  # bytes; Pillow's limit of pixels, uncompressed in 32 bits, takes a third
MAX_JPEG_SIDE = 65_500  # pixels a side
MAX_DETECTIONS = 10_000  # detections in an image
MAX_LABELS = 1 << 16  # what a label map's PNG can hold
OUTPUTS = {
    "detection": {"boxes", "scores", "labels"},
    "instance segmentation": {"boxes", "scores", "labels", "masks"},
    "semantic segmentation": {"label_map"},
    "classification": {"scores"},
}
TOP = 5  # classes whose scores are kept of a classified image
MAX_BATCH = 1024  # images
MAX_SIDE = 1 << 15  # pixels of a resized image's side
SCALE = 2048  # a weight of 1 in OpenCV's fixed point
IMAGE_FORM, BATCH_FORM = "image", "batch"
SOFT_METHODS = ("linear", "gaussian", "naive")


class UserError(Exception):
    """A mistake of the user's: its message is one sentence."""


class OutputError(UserError):
    """A result can't be written, on a full disk, say: the next one can't be, either."""


@dataclass(frozen=True)
class Input:
    """An input of a model; a side of its shape is None where it is dynamic."""

    name: str
    kind: str  # NumPy's name of its type
    shape: tuple[int | None, ...]


class OnnxRuntime:
    """A file in onnxruntime.

    Args:
        path (Path): an ONNX file.
        threads (int | None): all cores by default.

    Attributes:
        inputs (list[Input]), outputs (list[str]), meta (dict[str, str]): of the file.

    Raises:
        ImportError: onnxruntime isn't installed.
        Exception: the file can't be read.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        providers = onnxruntime.get_available_providers()
        self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        self.inputs = [
            Input(
                x.name,
                x.type.removeprefix("tensor(").removesuffix(")"),
                tuple(side if isinstance(side, int) else None for side in x.shape),
            )
            for x in self.session.get_inputs()
        ]
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.meta: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(None, inputs)


class OpenVINO:
    """A file in OpenVINO, on the CPU: as :class:`OnnxRuntime`; an .xml file has its .bin beside it.

    float32 is asked for: by itself OpenVINO takes bfloat16 where the processor has it.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        import openvino
        from openvino.frontend import FrontEndManager

        # by itself OpenVINO tries a broken file as a model of each framework, and prints errors
        kind = "ir" if path.suffix.lower() == ".xml" else "onnx"
        frontend = FrontEndManager().load_by_framework(kind)
        model = frontend.convert(frontend.load(path))
        core = openvino.Core()
        # the metadata_props of an .onnx file come to where OpenVINO keeps a framework's own facts
        names = model.get_rt_info()["framework"] if model.has_rt_info(["framework"]) else {}
        self.meta = {name: model.get_rt_info(["framework", name]).astype(str) for name in names}
        options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        compiled = core.compile_model(model, "CPU", options)
        self.request = compiled.create_infer_request()
        self.inputs = [
            Input(
                x.any_name,
                np.dtype(x.element_type.to_dtype()).name,
                tuple(side.get_length() if side.is_static else None for side in x.partial_shape),
            )
            for x in compiled.inputs
        ]
        self.outputs = [output.any_name for output in compiled.outputs]

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.request.infer(inputs)
        return [np.array(array) for array in found.to_tuple()]  # the request's own change


class PyTorch:
    """A .pt2 file in PyTorch, on the CPU: as :class:`OnnxRuntime`.

    A compiled one is machine code: run only what you trust.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        import torch

        with contextlib.suppress(ImportError, RuntimeError):  # whose operators it may have
            import torchvision  # noqa: F401
        if threads:
            torch.set_num_threads(threads)
        with zipfile.ZipFile(path) as archive:
            is_compiled = any("/aotinductor/" in name for name in archive.namelist())
        if is_compiled:
            self.model = torch._inductor.aoti_load_package(str(path))
            self.meta = dict(self.model.get_metadata())
            for kind in ("avx2", "avx512"):
                supported = getattr(torch.cpu, f"_is_{kind}_supported", lambda: True)
                if kind.upper() in self.meta.get("AOTI_CPU_ISA", "").split() and not supported():
                    raise UserError(
                        f"{path} was compiled for a processor with {kind.upper()}, which this one "
                        "hasn't: export it here"
                    )
        else:
            files = {"metadata.json": ""}
            self.model = torch.export.load(path, extra_files=files).module()
            self.meta = json.loads(files["metadata.json"] or "{}")
        self.inputs, self.outputs = [], []
        if "outputs" not in self.meta:  # another tool's
            return
        facts = {
            name: json.loads(self.meta[name]) for name in ("outputs", "input_size", "channels")
        }
        batch = None if self.meta["batch"] == "dynamic" else int(self.meta["batch"])
        self.inputs = [
            Input("images", "uint8", (batch, *facts["input_size"], facts["channels"])),
            Input("sizes", "int64", (batch, 2)),
        ]
        self.outputs = facts["outputs"]

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        import torch

        with torch.no_grad():
            found = self.model(**{name: torch.from_numpy(x) for name, x in inputs.items()})
        return [x.numpy() for x in found]


RUNTIMES = {"onnxruntime": OnnxRuntime, "openvino": OpenVINO, "pytorch": PyTorch}
PACKAGES = {"pytorch": "torch"}
OWN_FILES = {".xml": "openvino", ".pt2": "pytorch"}  # that no other runtime reads


@dataclass(frozen=True)
class Suppression:
    """Non-maximum suppression that a file leaves to the caller: MMCV's ``nms`` or ``soft_nms``."""

    type: str = "nms"
    iou_threshold: float = 0.5
    class_agnostic: bool = False
    max_per_img: int = -1  # negative: all
    sigma: float = 0.5
    min_score: float = 1e-3
    method: str = "linear"


def granted_processors() -> int | None:
    """How many processors Linux's control groups grant (``docker run --cpus``, a CPU limit of
    Kubernetes), rounded up; None where that is no fewer than there are.

    By themselves runtimes start a thread for each of the machine's processors, which are all halted
    when the time granted is used up.
    """
    processors = os.cpu_count() or 1
    granted = [processors]
    if hasattr(os, "sched_getaffinity"):
        granted.append(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                root, names = GROUPS, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                root, names = GROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            group = root / path.lstrip("/")  # a container may see it as the root instead
            for folder in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # no such files, or "max"
                    texts = [(folder / name).read_text() for name in names]
                    quota, period = map(int, " ".join(texts).split())
                    if folder.is_relative_to(root) and quota > 0 < period:  # -1 is no limit
                        granted.append(-(-quota // period))
    return min(granted) if min(granted) < processors else None


class Model:
    """An exported file and its metadata.

    Args:
        path (Path): the file.
        threads (int | None): of the runtime; all cores by default, or what a container's CPU limit
            grants.
        runtime (str | None): one of ``RUNTIMES``; onnxruntime by default, and of files that only
            one reads (.xml, .pt2), that one.

    Raises:
        UserError: it can't be read, or is no model of tools/export.py, or the runtime is missing.
    """

    def __init__(self, path: Path, threads: int | None = None, runtime: str | None = None) -> None:
        if not path.is_file():
            raise UserError(f"no model at {path}: there is no such file")
        self.path = path
        own = OWN_FILES.get(path.suffix.lower())
        runtime = runtime or own or "onnxruntime"
        if runtime != own and (own or runtime == "pytorch"):
            kind = f"{own}'s own format: run it with --runtime {own}" if own else "no .pt2 file"
            raise UserError(f"{path} is {kind}")
        try:
            self.runtime = RUNTIMES[runtime](path, threads or granted_processors())
        except ModuleNotFoundError as error:
            package = PACKAGES.get(runtime, runtime)
            raise UserError(f"{package} isn't installed: pip install {package}") from error
        except Exception as error:  # the runtimes' errors share no other base
            if "EfficientNMS_TRT" in str(error):
                raise UserError(
                    f"{path} is for TensorRT: export it with another --runtime to run it here"
                ) from error
            kind = f"a model of {runtime}'s" if own else "an ONNX model"
            raise UserError(f"{path} can't be read as {kind}: {_reason(error)}") from error
        meta, inputs = self.runtime.meta, self.runtime.inputs
        self.names = self.runtime.outputs
        self.task = meta.get("task")
        form = meta.get("form", IMAGE_FORM)
        wanted = {
            IMAGE_FORM: [("image", "uint8", 3)],
            BATCH_FORM: [("images", "uint8", 4), ("sizes", "int64", 2)],
        }
        found = [(x.name, x.kind, len(x.shape)) for x in inputs]
        if self.task is None or sorted(found) != wanted.get(form):
            raise UserError(f"{path} is another kind of model: take one that tools/export.py wrote")
        if OUTPUTS.get(self.task) != set(self.names):
            raise self._damaged("its outputs aren't those of its task")
        shape = next(x.shape for x in inputs if x.name != "sizes")
        if shape[-1] is None:
            raise self._damaged("its image has no fixed number of channels")
        self.channels: int = shape[-1]
        self.bits: int | None = self._value(meta, "bits")  # of a channel, at most; None for any
        if self.bits not in (None, 8):
            raise self._damaged("its metadata has other bits than 8")
        self.is_turned = meta.get("orientation") != "ignored"  # an image, by its EXIF tag
        self.by_pillow = meta.get("decoder") == "pillow"  # else as OpenCV decodes
        self.classes: list[str] = self._listed(meta, "classes", "names", _is_text)
        self.category_ids: list[int] = self._listed(meta, "category_ids", "integers", _is_id)
        self.palette: list[list[int]] = self._listed(meta, "palette", "colours", _is_colour)
        if len(self.category_ids) != len(self.classes):
            raise self._damaged("it has not as many category_ids as classes")
        self.form = form
        self.batch: int | None = 1  # images at once; None for any number
        if form == BATCH_FORM:
            self._read_batch_form(meta, shape)

    def _read_batch_form(self, meta: Mapping[str, str], shape: tuple[int | None, ...]) -> None:
        self.batch, *sides = shape[:3]
        if (sides[0] is None) != (sides[1] is None):
            raise self._damaged("one of its images' sides alone is dynamic")
        self.sides: list[int] | None = None if sides[0] is None else sides
        self.resizing: list[dict] = self._listed(meta, "resizing", "steps", _is_step)
        self.divisor: int = self._value(meta, "divisor", "1")
        if type(self.divisor) is not int or not 1 <= self.divisor <= MAX_SIDE:
            raise self._damaged("its metadata has no integer as divisor")
        self.mask_frame = meta.get("mask_frame", "box")
        self.mask_threshold = self._value(meta, "mask_threshold", "0.5")
        if self.mask_frame not in ("box", "image") or not _is_number(self.mask_threshold):
            raise self._damaged("its metadata has no mask_frame and mask_threshold")
        self.suppression: Suppression | None = None
        if "nms" in meta:
            self.suppression = self._read_suppression(self._value(meta, "nms", "{}"))

    def _read_suppression(self, facts: object) -> Suppression:
        try:
            found = Suppression(**facts)  # type: ignore[arg-type]
        except TypeError as error:
            raise self._damaged("its metadata has no such nms") from error
        numbers = (found.iou_threshold, found.sigma, found.min_score)
        if (
            found.type not in ("nms", "soft_nms")
            or found.method not in SOFT_METHODS
            or type(found.max_per_img) is not int
            or type(found.class_agnostic) is not bool
            or not all(map(_is_number, numbers))
            or not found.sigma > 0
        ):
            raise self._damaged("its metadata has no such nms")
        return found

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The model's outputs for images, of each by name.

        Args:
            images (Sequence[ndarray]): uint8, (height, width, channels), RGB; no more than
                ``batch``.

        Returns:
            list[dict[str, ndarray]]: of each image ``boxes`` (N, 4), x1, y1, x2, y2 in pixels,
            ``scores`` and ``labels`` (N,), by falling score, and, of an instance segmenter,
            ``masks``, bool, (N, height, width); of a semantic one, ``label_map``, (height, width);
            of a classifier, ``scores`` by class.

        Raises:
            UserError: the model can't take the images (one is a line of pixels, say), or its
                outputs aren't detections, label maps or scores.
        """
        if self.form == IMAGE_FORM:
            (image,) = images
            found = self._run(images, {"image": image})
            self._check(found, *image.shape[:2])
            return [found]
        resized = [resize(image, self.resizing) for image in images]
        sizes = np.array([image.shape[:2] for image in resized], np.int64)
        if not sizes.all():
            raise self._refused(images)
        if self.sides is None:  # attention sees padding: no image gets more than it has alone
            frames = -(-sizes // self.divisor) * self.divisor
        else:
            frames = np.broadcast_to(self.sides, sizes.shape)
        if (sizes > frames).any():
            raise self._damaged("its resizing gives larger images than it takes")
        decoded: dict[int, dict[str, np.ndarray]] = {}
        for frame in np.unique(frames, axis=0):
            places = np.flatnonzero((frames == frame).all(1)).tolist()
            chosen = [[group[i] for i in places] for group in (images, resized)]
            found = self._run_batch(*chosen, sizes[places], frame.tolist())
            decoded.update(zip(places, found, strict=True))
        return [decoded[i] for i in range(len(images))]

    def _run_batch(
        self,
        images: Sequence[np.ndarray],
        resized: Sequence[np.ndarray],
        sizes: np.ndarray,
        sides: list[int],
    ) -> list[dict[str, np.ndarray]]:
        """The outputs for images whose resized ones, of ``sizes``, are padded to ``sides``."""
        missing = (self.batch or len(images)) - len(images)
        batch = np.zeros((len(images) + missing, *sides, self.channels), np.uint8)
        for place, image in zip(batch, resized, strict=False):
            place[: image.shape[0], : image.shape[1]] = image
        if missing:  # of a fixed batch: its last image again
            batch[len(images) :] = batch[len(images) - 1]
            sizes = np.concatenate([sizes, np.repeat(sizes[-1:], missing, 0)])
        found = self._run(images, {"images": batch, "sizes": sizes})
        for name, array in found.items():
            if not isinstance(array, np.ndarray) or array.shape[:1] != batch.shape[:1]:
                raise UserError(f"the model's output {name} isn't one for each image")
        decoded = []
        for i, image in enumerate(images):
            one = {name: array[i] for name, array in found.items()}
            one = self._decode(one, sizes[i], sides, *image.shape[:2])
            self._check(one, *image.shape[:2])
            decoded.append(one)
        return decoded

    def _run(
        self, images: Sequence[np.ndarray], inputs: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        try:
            return dict(zip(self.names, self.runtime.run(inputs), strict=True))
        except MemoryError:
            raise
        except Exception as error:  # the runtimes' errors share no other base
            raise self._refused(images) from error

    def _refused(self, images: Sequence[np.ndarray]) -> UserError:
        sizes = ", ".join(f"{image.shape[1]}x{image.shape[0]}" for image in images[:3])
        what = "an image" if len(images) == 1 else f"{len(images)} images"
        return UserError(f"the model can't take {what} of {sizes} pixels")

    def _decode(
        self,
        found: dict[str, np.ndarray],
        size: np.ndarray,
        sides: Sequence[int],
        height: int,
        width: int,
    ) -> dict[str, np.ndarray]:
        """What a batch's outputs say of one image, in its own pixels.

        Args:
            found (dict): the image's outputs.
            size (ndarray): (2,), its height and width in the batch.
            sides (Sequence[int]): height and width of the batch's images.
            height, width (int): of the image itself.
        """
        if self.task == "classification":
            return found
        if "label_map" in found:
            labels = found["label_map"]
            if labels.shape != tuple(sides):
                raise UserError(f"the model's output label_map has shape {labels.shape}")
            return {"label_map": nearest(labels[: size[0], : size[1]], height, width)}
        self._check_slots(found)
        kept = found["scores"] > 0
        found = {name: array[kept] for name, array in found.items()}
        scale = (np.array([height, width]) / size).astype(np.float32)[[1, 0, 1, 0]]
        found["boxes"] = found["boxes"].astype(np.float32) * scale
        if self.suppression is not None:
            chosen, scores = suppress(
                found["boxes"], found["scores"], found["labels"], self.suppression
            )
            found = {name: array[chosen] for name, array in found.items()} | {"scores": scores}
        if "masks" in found:
            _check_number(len(found["scores"]))
            found["masks"] = self._full_masks(found, size, sides, height, width)
        return found

    def _check_slots(self, found: dict[str, np.ndarray]) -> None:
        """Refuses outputs that can't be indexed as an image's detections."""
        number = found["scores"].shape[:1]
        ranks = {"boxes": 2, "scores": 1, "labels": 1, "masks": 3}
        for name, array in found.items():
            wants_float = name != "labels"
            if (
                array.ndim != ranks[name]
                or array.shape[:1] != number
                or (name == "boxes" and array.shape[1] != 4)
                or (array.dtype.kind == "f") != wants_float
            ):
                raise UserError(f"the model's output {name} is of the wrong type or shape")
        if not all(np.isfinite(array).all() for array in found.values()):
            raise UserError("the model gives boxes, scores or masks of NaN or Inf")

    def _full_masks(
        self,
        found: dict[str, np.ndarray],
        size: np.ndarray,
        sides: Sequence[int],
        height: int,
        width: int,
    ) -> np.ndarray:
        """(N, height, width), bool, of values in a box or in the batch's image."""
        masks = found["masks"].astype(np.float32)
        full = np.zeros((len(masks), height, width), bool)
        if self.mask_frame == "box":
            for i, (mask, box) in enumerate(zip(masks, found["boxes"], strict=True)):
                full[i] = paste(mask, box, height, width) >= self.mask_threshold
            return full
        for i, mask in enumerate(masks):
            padded = interpolate(mask, *sides)[: size[0], : size[1]]
            full[i] = interpolate(padded, height, width) > self.mask_threshold
        return full

    def _check(self, found: dict[str, np.ndarray], height: int, width: int) -> None:
        """Refuses outputs of wrong types, shapes or values."""
        number = len(found["boxes"]) if np.ndim(found.get("boxes")) else 0
        if self.task == "classification":
            number = len(self.classes) or np.size(found["scores"])
        wanted = {
            "boxes": ("f", (number, 4)),
            "scores": ("f", (number,)),
            "labels": ("iu", (number,)),
            "masks": ("b", (number, height, width)),
            "label_map": ("iu", (height, width)),
        }
        for name, array in found.items():
            kinds, shape = wanted[name]
            if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds:
                raise UserError(f"the model's output {name} is of the wrong type")
            if array.shape != shape:
                raise UserError(f"the model's output {name} has shape {array.shape}, not {shape}")
        if self.task == "classification":
            if not number or not np.isfinite(found["scores"]).all():
                raise UserError("the model gives no scores, or some of NaN or Inf")
            return
        _check_number(number)
        if "boxes" in found:
            if not all(np.isfinite(found[name]).all() for name in ("boxes", "scores")):
                raise UserError("the model gives boxes or scores of NaN or Inf")
            if (found["boxes"][:, 2:] < found["boxes"][:, :2]).any():
                raise UserError("the model gives boxes whose right or bottom is below left or top")
        labels = found["labels" if "labels" in found else "label_map"]
        limit = min(len(self.classes) or MAX_LABELS, MAX_LABELS)
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < limit:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise UserError(f"the model gives label {wrong}, and it has {limit} classes")

    def _value(self, meta: Mapping[str, str], key: str, default: str = "null") -> object:
        """A value in the metadata; None of what is no JSON."""
        try:
            return json.loads(meta.get(key, default))
        except (ValueError, RecursionError):
            return None

    def _listed(self, meta: Mapping[str, str], key: str, what: str, is_valid) -> list:
        """A list in the metadata, checked."""
        value = self._value(meta, key)
        if not isinstance(value, list) or not all(map(is_valid, value)):
            raise self._damaged(f"its metadata has no list of {what} as {key}")
        return value

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self.path} is damaged: {reason}; take one that tools/export.py wrote")

    def colour(self, label: int) -> tuple[int, int, int]:
        """The palette's colour of a class, or one derived from the label."""
        if label < len(self.palette):
            return tuple(self.palette[label])
        red, green, blue = np.random.default_rng(label).integers(48, 224, 3).tolist()
        return red, green, blue

    def name(self, label: int) -> str:
        """A class's name, or its number."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def category_id(self, label: int) -> int:
        """A class's number in results: its data set's, or else counted from 1."""
        return self.category_ids[label] if self.category_ids else label + 1


def _check_number(detections: int) -> None:
    if detections > MAX_DETECTIONS:
        raise UserError(
            f"the model gives {detections} detections, and {MAX_DETECTIONS} are the limit"
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _is_step(value: object) -> bool:
    """Whether a value is a step of resizing, as :func:`resize` knows them."""
    if not isinstance(value, dict) or value.get("step") not in STEPS:
        return False
    numbers = [value.get(key) for key in STEPS[value["step"]]]
    if value["step"] == "CenterCrop":
        numbers = value.get("size") if isinstance(value.get("size"), list) else [None]
        if len(numbers) != 2:
            return False
    return all(type(number) is int and 0 < number <= MAX_SIDE for number in numbers)


def _reason(error: Exception) -> str:
    """The first line of an error that says more than where in a runtime's source it comes from."""
    lines = (line.strip() for line in str(error).splitlines())
    said = (line for line in lines if line and not line.startswith(("Exception from ", "Check '")))
    return next(said, type(error).__name__)[:200]


def _is_colour(value: object) -> bool:
    is_three = isinstance(value, list) and len(value) == 3
    return is_three and all(type(part) is int and 0 <= part < 256 for part in value)


STEPS = {  # of resizing, and the numbers that each takes
    "Resize": ("height", "width"),
    "ResizeToMultiple": ("divisor",),
    "ResizeEdge": ("side",),
    "CenterCrop": ("size",),
}


def resize(image: np.ndarray, steps: Sequence[dict]) -> np.ndarray:
    """An image as the test pipeline resizes it.

    Args:
        image (ndarray): uint8, (height, width, channels).
        steps (Sequence[dict]): ``resizing`` of the metadata.

    Raises:
        UserError: it would have a side of more than ``MAX_SIDE`` pixels, or of none.
    """
    for step in steps:
        height, width = image.shape[:2]
        if step["step"] == "CenterCrop":
            starts = [
                max(0, round((side - wanted) / 2))
                for side, wanted in zip((height, width), step["size"], strict=True)
            ]
            ends = [start + wanted for start, wanted in zip(starts, step["size"], strict=True)]
            image = image[starts[0] : ends[0], starts[1] : ends[1]]
            continue
        target = target_size(step, height, width)
        if not all(1 <= side <= MAX_SIDE for side in target):
            raise UserError(f"the model can't take an image of {width}x{height} pixels")
        by = resize_bicubic if step["step"] == "ResizeEdge" else resize_bilinear
        image = by(image, *target)
    return image


def target_size(step: dict, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image after a step, rounded as MMCV and mmpretrain do."""
    if step["step"] == "ResizeToMultiple":
        divisor = step["divisor"]
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor
    if step["step"] == "ResizeEdge":
        shorter = min(height, width)
        return height * step["side"] // shorter, width * step["side"] // shorter
    if not step.get("keep_ratio", True):
        return step["height"], step["width"]
    limits, sides = (step["height"], step["width"]), (height, width)
    if step.get("either_orientation", True):
        limits, sides = sorted(limits, reverse=True), sorted(sides, reverse=True)
    ratio = min(limit / side for limit, side in zip(limits, sides, strict=True))
    return int(height * ratio + 0.5), int(width * ratio + 0.5)


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8, (rows, columns, channels), to another size: OpenCV's bilinear bytes.

    OpenCV computes in fixed point: a weight is a multiple of 1/2048; rows are summed after their
    last four bits are dropped (``modules/imgproc/src/resize.cpp``).
    """
    if image.shape[:2] == (height, width):
        return image
    first, second, weights = _neighbours(image.shape[1], width, along_x=True)
    source = image.astype(np.int32)
    rows = source[:, first] * weights[0][:, None]
    rows += source[:, second] * weights[1][:, None]
    rows >>= 4
    first, second, weights = _neighbours(image.shape[0], height, along_x=False)
    total = (rows[first] * weights[0][:, None, None]) >> 16
    total += (rows[second] * weights[1][:, None, None]) >> 16
    return ((total + 2) >> 2).astype(np.uint8)


def _neighbours(old: int, new: int, along_x: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two old positions to interpolate each new one from, and their weights times ``SCALE``.

    Beyond the outermost centres both positions are the same; there OpenCV also drops the fraction
    along x, but not along y, which matters to rounding.
    """
    step = 1 / (new / old)
    centre = ((np.arange(new) + 0.5) * step - 0.5).astype(np.float32)
    floor = np.floor(centre)
    fraction = centre - floor
    first = floor.astype(np.int64)
    if along_x:
        fraction[(first < 0) | (first >= old - 1)] = 0
    weights = np.stack([1 - fraction, fraction])
    weights = np.rint(weights * np.float32(SCALE)).astype(np.int32)
    return first.clip(0, old - 1), (first + 1).clip(0, old - 1), weights


def resize_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8, (rows, columns, channels), to another size by Pillow, plane by plane."""
    planes = [
        Image.fromarray(np.ascontiguousarray(image[..., i])).resize((width, height), Image.BICUBIC)
        for i in range(image.shape[2])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(rows, columns) to another size: OpenCV's ``INTER_NEAREST``."""
    index = [
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64), old - 1)
        for old, new in zip(labels.shape, (height, width), strict=True)
    ]
    return labels[np.ix_(*index)]


def interpolate(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32, (rows, columns), to another size, bilinearly, corners not aligned."""
    for axis, new in enumerate((height, width)):
        old = plane.shape[axis]
        centre = ((np.arange(new, dtype=np.float32) + 0.5) * np.float32(old / new) - 0.5).clip(0)
        first = np.minimum(centre.astype(np.int64), old - 1)
        second = np.minimum(first + 1, old - 1)
        weight = (centre - first).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight
        plane = plane.take(first, axis) * (1 - weight) + plane.take(second, axis) * weight
    return plane


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box's mask, (rows, columns), bilinearly in the image, (height, width); zero around it."""
    weights = [
        _cell_weights(length, box[1 - axis], box[3 - axis], mask.shape[axis])
        for axis, length in enumerate((height, width))
    ]
    return weights[0] @ mask @ weights[1].T


def _cell_weights(length: int, start: np.float32, end: np.float32, cells: int) -> np.ndarray:
    """(length, cells): the weight of each cell between ``start`` and ``end`` at each pixel."""
    centres = np.arange(length, dtype=np.float32) + np.float32(0.5)
    if not end > start:
        return np.zeros((length, cells), np.float32)
    position = (centres - start) / (end - start) * np.float32(cells) - np.float32(0.5)
    return (1 - np.abs(position[:, None] - np.arange(cells, dtype=np.float32))).clip(0)


def suppress(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, config: Suppression
) -> tuple[np.ndarray, np.ndarray]:
    """Non-maximum suppression class by class, as MMCV's ``batched_nms``.

    Args:
        boxes (ndarray): float32, (N, 4).
        scores (ndarray): (N,).
        labels (ndarray): (N,), integers.
        config (Suppression): how.

    Returns:
        tuple[ndarray, ndarray]: indices of the boxes that are kept, and their scores, falling.
    """
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    lowered = scores.astype(np.float32)
    is_left = np.ones(len(scores), bool)
    kept: list[int] = []
    most = len(scores) if config.max_per_img < 0 else min(config.max_per_img, len(scores))
    while len(kept) < most and is_left.any():
        best = int(np.where(is_left, lowered, -np.inf).argmax())
        kept.append(best)
        is_left[best] = False
        rest = np.flatnonzero(is_left & (config.class_agnostic | (labels == labels[best])))
        widths = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        heights = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        shared = widths.clip(0) * heights.clip(0)
        union = areas[best] + areas[rest] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        if config.type == "nms":
            is_left[rest[overlap > np.float32(config.iou_threshold)]] = False
            continue
        if config.method == "gaussian":
            lowered[rest] *= np.exp(-(overlap * overlap) / np.float32(config.sigma))
        else:
            weight = 1 - overlap if config.method == "linear" else 0
            is_near = overlap >= np.float32(config.iou_threshold)
            lowered[rest] *= np.where(is_near, weight, np.float32(1))
        is_left &= lowered >= np.float32(config.min_score)
    index = np.array(kept, np.int64)
    return index, lowered[index]


class Results:
    """A folder of results, with a list of the files in it that this and earlier runs wrote.

    Only these are replaced, and only while they hold what was written; mmpvt's other tools share
    the list. A file is replaced under its name, never written into: a hard link keeps its content.

    Args:
        folder (Path): a new or empty one, or one of an earlier run.

    Raises:
        UserError: it is a file, or holds files and no list.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        known = read_listing(folder)
        try:
            if folder.exists() and not folder.is_dir():
                raise UserError(f"--out {folder} is a file: name a folder for the results")
            if known is None and folder.is_dir() and any(folder.iterdir()):
                raise UserError(f"--out {folder} holds other files: name a new folder")
        except OSError as error:
            raise self._unwritable(error) from error
        self.known = known or {}

    def make(self, *names: str) -> None:
        """Makes folders.

        Raises:
            UserError: one can't be made, or is a link elsewhere.
        """
        try:
            for name in names:
                if (self.folder / name).is_symlink():
                    raise UserError(f"{self.folder / name} is a link: name a new folder with --out")
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            listing = self.folder / LISTING
            if not listing.exists():
                listing.touch()
            elif listing.stat().st_nlink > 1:  # of a copy made of hard links: that stays as it is
                self._place(listing, listing.read_bytes())
        except OSError as error:
            raise self._unwritable(error) from error

    def check(self, name: str) -> None:
        """Refuses to replace what no run wrote.

        Raises:
            UserError: there is such a file.
        """
        path = self.folder / name
        if os.path.lexists(path) and not is_listed(path, name, self.known):
            raise UserError(f"{path} is no file of an earlier run, and isn't overwritten")

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, intact or not at all.

        Raises:
            UserError: a file of that name isn't a run's.
            OSError: it can't be written.
        """
        self.check(name)
        digest = hashlib.sha256(content).hexdigest()
        sums = self.known.setdefault(name.casefold(), set())
        if digest not in sums:
            sums.add(digest)
            with (self.folder / LISTING).open("a", encoding="ascii") as file:
                file.write(json.dumps({"file": name, "sha256": digest}) + "\n")
        self._place(self.folder / name, content)

    def _place(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                file.write(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"--out {self.folder} can't be written to: {error.strerror}")


def read_listing(folder: Path) -> dict[str, set[str]] | None:
    """SHA-256 digests of the files that runs wrote to a folder, by name, in lower case.

    Deleted files are still listed. None of a folder that isn't a run's.
    """
    path, known = folder / LISTING, {}
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
            entry = json.loads(line)
            known.setdefault(entry["file"].casefold(), set()).add(entry["sha256"])
    return known


def is_listed(path: Path, name: str, known: dict[str, set[str]]) -> bool:
    """Whether a file is a run's, and holds what the run wrote."""
    sums = known.get(name.casefold())
    try:
        if not sums or not stat.S_ISREG(path.lstat().st_mode):
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() in sums
    except OSError:
        return False


def read_image(
    path: Path,
    channels: int = 3,
    bits: int | None = None,
    is_turned: bool = True,
    by_pillow: bool = False,
) -> np.ndarray:
    """uint8, (height, width, channels), RGB, rotated as its EXIF tag says if ``is_turned``.

    The bytes are OpenCV's, or if ``by_pillow`` those of MMCV's backend of that name.

    Raises:
        UserError: the file can't be read as an image, or has other channels, or more than 8 bits of
            each where ``bits`` is 8.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError("it is no regular file")
        if status.st_size > MAX_FILE_SIZE:
            raise UserError(f"it has {status.st_size} bytes, and {MAX_FILE_SIZE} are the limit")
        if channels not in MODES:
            return read_bands(path, channels)
        with (
            open(path, "rb", opener=_open_nonblocking) as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            if image.format == "TIFF" and has_pages(image):
                raise UserError("it holds several images of one size (pages)")
            tags = image.tag_v2 if image.format == "TIFF" else {}
            if max(tags.get(BITS, (1,))) > 16:
                raise UserError("it holds numbers of 32 bits, and the model takes bytes")
            if bits == 8 and has_more_bits(image):
                raise UserError("it has more than 8 bits a channel, and the model takes bytes")
            is_jpeg2000 = image.format == "JPEG2000"
            if is_jpeg2000 and not image.mode.startswith("I") and has_more_bits(image):
                raise UserError("it has more than 8 bits a colour, of which Pillow makes white 0")
            largest = netpbm_largest(image)
            if largest not in BYTES_OR_WORDS and not by_pillow:  # OpenCV scales none, Pillow all
                raise UserError(f"its values end at {largest}: 255 or 65535 are taken")
            if by_pillow and channels in (1, 3):
                return as_pillow(ImageOps.exif_transpose(image) if is_turned else image, channels)
            is_jpeg = image.format in ("JPEG", "MPO")  # a JPEG file of several images
            if channels == 1 and is_jpeg:  # whose luminance is taken, as by OpenCV
                image.draft("L", image.size)
            is_cmyk_jpeg = image.mode == "CMYK" and is_jpeg
            if is_turned or image.format == "TIFF":  # which OpenCV always turns
                image = ImageOps.exif_transpose(image)
            if is_cmyk_jpeg:
                image = Image.fromarray(from_cmyk(np.array(image)))
            if image.mode == "RGBA" and tags.get(EXTRA_SAMPLES) in ((1,), (2,)):
                # OpenCV has colours multiplied by the alpha, and Pillow divides by it
                image = Image.merge("RGBA", image.convert("RGBa").split())
            return with_channels(image, channels)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise anything on what they can't read
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"it can't be read as an image ({reason})") from error


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # no waiting for a pipe's writer


def netpbm_largest(image: Image.Image) -> int:
    """The value that stands for white in a Netpbm file; 255 of others."""
    decoding = image.tile[0][3] if image.format == "PPM" and image.tile else None
    return decoding[-1] if isinstance(decoding, tuple) else 255  # (mode, largest value)


def has_pages(image: Image.Image) -> bool:
    """Whether a TIFF file's second image is one of its own: of the first's size, and neither an
    overview (1) nor a mask (4) of it."""
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return False
    is_own = image.size == size and not image.tag_v2.get(SUBFILE, 0) & (1 | 4)
    image.seek(0)
    return is_own


def has_more_bits(image: Image.Image) -> bool:
    """Whether a file has more than 8 bits a channel; Pillow's mode says so of grey ones alone."""
    if image.mode.startswith("I"):
        return True
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS, (1,))) > 8
    decoding = image.tile[0][3] if image.tile else None
    if image.format == "PPM":
        return netpbm_largest(image) > 255
    if image.format == "JPEG2000":
        image.fp.seek(0)
        _, found, size = image.fp.read(1 << 20).partition(JPEG2000_SIZE)
        return bool(found) and size[38] & 127 > 7  # bits of the first channel, less one
    return ";16B" in str(decoding)  # of PNG


def from_cmyk(inks: np.ndarray) -> np.ndarray:
    """A JPEG file's inks, uint8, (height, width, 4), as RGB: OpenCV's bytes, not Pillow's.

    Source: OpenCV's ``icvCvt_CMYK2BGR_8u_C4C3R``, ``modules/imgcodecs/src/utils.cpp``.
    """
    light = 255 - inks.astype(np.int32)
    black = light[..., 3:]
    return (black - ((255 - light[..., :3]) * black >> 8)).astype(np.uint8)


def as_pillow(image: Image.Image, channels: int) -> np.ndarray:
    """An image's pixels, uint8, (height, width, 1 or 3), as MMCV's ``_pillow2array`` has them."""
    if image.mode == "LA":
        canvas = Image.new("RGB", image.size, (124, 117, 104))
        canvas.paste(image.convert("RGB"), mask=image.getchannel("A"))
        image = canvas
    return with_channels(image.convert("RGB"), channels)


def with_channels(image: Image.Image, channels: int) -> np.ndarray:
    """An image's pixels, uint8, (height, width, channels); of 16 bits the upper 8, as OpenCV does.

    Raises:
        UserError: it has other channels.
    """
    if image.mode == "F":
        raise UserError("it holds floating-point numbers, and the model takes bytes")
    if channels == 4 and len(image.getbands()) != 4:
        raise UserError(
            f"it is an image of {len(image.getbands())} channels, and the model takes 4"
        )
    if image.mode.startswith("I"):
        image = Image.fromarray((np.array(image) >> 8).clip(0, 255).astype(np.uint8))
    pixels = np.array(image if channels == 4 else image.convert(MODES[channels]))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_bands(path: Path, channels: int) -> np.ndarray:
    """A TIFF file of as many channels as the model takes: uint8, (height, width, channels).

    Raises:
        UserError: tifffile isn't installed, or the file is of another kind.
    """
    try:
        import tifffile
    except ImportError as error:
        raise UserError(f"images of {channels} channels take tifffile: pip install it") from error
    try:
        image = tifffile.imread(path)
    except Exception as error:  # its errors share no other base
        raise UserError(f"it can't be read as a TIFF file ({type(error).__name__})") from error
    if image.ndim == 3 and image.shape[0] == channels != image.shape[2]:  # band after band
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
        raise UserError(f"it is {image.dtype}, {image.shape}, and the model takes {channels} bytes")
    return np.ascontiguousarray(image)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Image files, by themselves and in folders, recursively, each once, but for results of a run.

    Hidden files in folders are ignored; unreadable ones of an image's suffix are there, too. Links
    to folders are not followed.

    Raises:
        UserError: there is no such path, or no image.
    """
    found, listings = [], {}
    for path in paths:
        if path.is_dir():
            walk = os.walk(path, onerror=_report_unreadable)
            inside = (Path(folder, name) for folder, _, names in walk for name in names)
            images = sorted(file for file in inside if file.suffix.lower() in IMAGES)
            found += [file for file in images if not _is_hidden(file.relative_to(path))]
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {path}")
    named = ", ".join(map(str, paths[:3]))
    if not found:
        raise UserError(f"no images in {named}")
    unique: dict[str, Path] = {}
    for path in found:  # `photos/ photos/a.jpg` names one twice
        unique.setdefault(os.path.realpath(path), path)
    found = list(unique.values())
    images = [path for path in found if not is_result(path, listings)]
    if len(images) < len(found):
        results = len(found) - len(images)
        say(f"skipped, as results of a run: {results} image{'s' * (results > 1)}")
    if not images:
        raise UserError(f"no images in {named} but results of a run")
    return images


def is_result(path: Path, listings: dict[Path, dict | None]) -> bool:
    """Whether a run wrote an image.

    Args:
        path (Path): the image.
        listings (dict): of folders that were looked at before.
    """
    path = Path(os.path.realpath(path))
    for folder in path.parents:
        if folder not in listings:
            listings[folder] = read_listing(folder)
        known = listings[folder]
        if known and is_listed(path, path.relative_to(folder).as_posix(), known):
            return True
    return False


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _report_unreadable(error: OSError) -> None:
    say(f"skipped: {error.filename}: the folder can't be read ({error.strerror})")


def printable(text: object, mark: str = "\\x") -> str:
    """Text with unprintable characters escaped, such as ``\\x1b``.

    Args:
        text (object): in which bytes that aren't UTF-8 are as Python keeps them in file names.
        mark (str): what comes before a byte's two digits.
    """

    def escaped(character: str) -> str:
        errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
        return "".join(f"{mark}{byte:02x}" for byte in character.encode("utf-8", errors))

    return "".join(c if c.isprintable() else escaped(c) for c in str(text))


def say(text: object, file=None) -> None:
    """Prints a line, on stderr if nothing else is said."""
    print(printable(text), file=file or sys.stderr, flush=True)


def keep_scores_above(found: dict[str, np.ndarray], score: float) -> dict[str, np.ndarray]:
    """The detections of at least a score."""
    keep = found["scores"] >= score
    return {name: array[keep] for name, array in found.items()}


def records(model: Model, image_id: int | str, found: dict[str, np.ndarray]) -> Iterator[dict]:
    """Detections in COCO's results format; of a classified image, its class and best scores."""
    if model.task == "classification":
        labels = np.argsort(-found["scores"])[:TOP].tolist()
        ranked: dict[str, float] = {}
        for label in labels:  # of classes that share a name (ImageNet's cranes) the likelier
            ranked.setdefault(model.name(label), float(found["scores"][label]))
        name = model.name(labels[0])
        yield {"image_id": image_id, "class": name, "score": ranked[name], "scores": ranked}
        return
    for i, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
        label = int(found["labels"][i])
        record = {
            "image_id": image_id,
            "category_id": model.category_id(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(found["scores"][i]),
        }
        if "masks" in found:
            mask = found["masks"][i]
            record["segmentation"] = {"size": list(mask.shape), "counts": encode_runs(mask)}
        yield record


def encode_runs(mask: np.ndarray) -> str:
    """A mask, (height, width), as COCO's compressed RLE.

    Runs of zeros and ones in turn, column by column, each less the one two before it, in groups of
    five bits, the lowest first, from the character 48 on (cocoapi, ``common/maskApi.c``).
    """
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *changes, flat.size])
    if flat[:1].any():
        runs = np.insert(runs, 0, 0)
    text = bytearray()
    for i, run in enumerate(runs.tolist()):
        rest = run - int(runs[i - 2]) if i > 2 else run
        while True:
            bits, rest = rest & 31, rest >> 5
            is_last = rest == (-1 if bits & 16 else 0)
            text.append((bits if is_last else bits | 32) + 48)
            if is_last:
                break
    return text.decode()


def draw(model: Model, image: np.ndarray, found: dict[str, np.ndarray]) -> Image.Image:
    """The results drawn over the image; of other channels than three, the first ones."""
    image = image[..., :3] if image.shape[2] > 2 else image[..., [0, 0, 0]]
    if "label_map" in found:
        labels = found["label_map"]
        table = np.zeros((int(labels.max()) + 1, 3), np.uint16)
        for label in np.unique(labels).tolist():
            table[label] = model.colour(label)
        return Image.fromarray(((image + table[labels]) // 2).astype(np.uint8))
    if model.task == "classification":
        label = int(found["scores"].argmax())
        corner = np.zeros((1, 4), np.float32)
        found = {"boxes": corner, "labels": np.array([label]), "scores": found["scores"][[label]]}
    image = image.copy()
    for mask, label in zip(found.get("masks", ()), found["labels"].tolist(), strict=False):
        colour = np.array(model.colour(label))
        image[mask] = image[mask] * (1 - MASK_OPACITY) + colour * MASK_OPACITY
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    size = max(12, min(picture.size) // 32)
    # Pillow's integers overflow far beyond the image
    boxes = found["boxes"].clip(-size, max(picture.size) + size).tolist()
    labels = found["labels"].tolist()
    for box, label in zip(boxes[::-1], labels[::-1], strict=True):  # the best on top
        pen.rectangle(box, outline=model.colour(label), width=max(2, size // 8))
    taken = np.zeros((len(boxes), 4), np.int64)  # left, top, right and bottom of texts
    captions = []
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):  # the best has the choice
        text, font = caption(model, label, f"{found['scores'][i]:.2f}", size, picture.width - 4)
        sides = np.ceil(pen.textbbox((0, 0), text, font)[2:]).astype(np.int64) + 4
        start = free_place(np.rint(box[:2]).astype(np.int64), sides, picture.size, taken[:i])
        taken[i] = *start, *(start + sides)
        captions.append((text, font))
    for (left, top, right, bottom), label, (text, font) in zip(
        taken[::-1].tolist(), labels[::-1], captions[::-1], strict=True
    ):
        colour = model.colour(label)
        pen.rectangle((left, top, right - 1, bottom - 1), fill=colour)
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else "white"
        pen.text((left + 2, top + 2), text, ink, font)
    return picture


def free_place(
    corner: np.ndarray, sides: np.ndarray, size: tuple[int, int], taken: np.ndarray
) -> np.ndarray:
    """(2,), left and top of a text: over its box, or where it covers the least of other texts.

    Args:
        corner (ndarray): (2,), left and top of the box.
        sides (ndarray): (2,), the text's width and height.
        size (tuple[int, int]): the picture's.
        taken (ndarray): (N, 4), left, top, right and bottom of the other texts.
    """
    places = (corner - (0, sides[1]) + SHIFTS * sides).clip(0, np.maximum(0, size - sides))
    ends, (left, top, right, bottom) = places + sides, taken.T
    width = np.minimum(ends[:, :1], right) - np.maximum(places[:, :1], left)
    height = np.minimum(ends[:, 1:], bottom) - np.maximum(places[:, 1:], top)
    return places[(width.clip(0) * height.clip(0)).sum(1).argmin()]


def caption(
    model: Model, label: int, score: str, size: int, room: int
) -> tuple[str, ImageFont.FreeTypeFont]:
    """A class's name and a score, and the font to draw them with.

    A name that no font has the letters of gives way to the class's number; one that is too long is
    cut, so that the score is seen.

    Args:
        model (Model): whose class it is.
        label (int): the class.
        score (str): as it is drawn.
        size (int): of the font.
        room (int): pixels that there are for the text.
    """
    name = printable(model.name(label)[: MAX_LABEL_LENGTH + 1])  # one more, to see that it is cut
    file = font_file(name)
    if file is None:
        say_that_fonts_lack()
        name, file = str(model.category_id(label)), ""
    font = load_font(file, size)

    def shown(kept: int) -> str:
        if kept == len(name):
            return f"{name} {score}"
        return f"{name[:kept]}… {score}" if kept else score

    def is_too_wide(kept: int) -> bool:
        return font.getlength(shown(kept)) > room

    kept = min(len(name), MAX_LABEL_LENGTH)
    if is_too_wide(kept):
        kept = max(0, bisect.bisect_left(range(kept), True, key=is_too_wide) - 1)
    return shown(kept), font


@functools.cache
def font_file(text: str) -> str | None:
    """The first font that has all of a text's letters, or else the one that has most of them:
    ``''`` for Pillow's own, one of ``FONTS``, or None if each lacks half of them."""
    lacking: dict[str, int] = {}
    for file in ("", *FONTS):
        font = load_font(file, 12)
        if font is None:
            continue
        missing = bytes(font.getmask(MISSING))
        lacking[file] = sum(bytes(font.getmask(letter)) == missing for letter in text)
        if not lacking[file]:
            return file
    best = min(lacking, key=lacking.__getitem__)
    return best if 2 * lacking[best] < len(text) else None


@functools.lru_cache(64)  # sizes follow the pictures'
def load_font(file: str, size: int) -> ImageFont.FreeTypeFont | None:
    """A font, or None if it isn't here."""
    try:
        return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)
    except OSError:
        return None


@functools.cache
def say_that_fonts_lack() -> None:
    """Says once why pictures show numbers."""
    print(file=sys.stderr)
    say(
        "no font here has the letters of some class names: pictures show the numbers that are "
        "category_id in predictions.json"
    )


class Parser(argparse.ArgumentParser):
    """Escapes unprintable characters of arguments in its messages."""

    def error(self, message: str) -> None:
        super().error(printable(message))


def parse_args() -> argparse.Namespace:
    if "" in sys.argv:
        raise UserError("an argument is empty: is a variable of the shell not set?")
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="a file of tools/export.py")
    parser.add_argument("images", nargs="+", type=Path, help="images and folders of images")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument(
        "--score",
        type=float,
        default=0.3,
        help="instances below are not drawn (default: 0.3); predictions.json holds them all",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="default: onnxruntime, or the one of an .xml or .pt2 file",
    )
    parser.add_argument(
        "--threads", type=int, help="of the runtime (default: as many as it may use)"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="images at once, of a file that takes batches"
    )
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Writes a picture of each image, and predictions.json or label maps."""
    if not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: a score is a number from 0 to 1")
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise UserError(f"--threads {args.threads}: from 1 to 1024")
    model = Model(args.model, args.threads, args.runtime)
    size = batch_size(model, args.batch)
    paths = find_images(args.images)
    out = Results(args.out)
    is_segmenter = "label_map" in model.names
    if not is_segmenter:
        out.check("predictions.json")
    out.make("pictures", *(("label_maps",) if is_segmenter else ()))
    names = unique_names(paths)
    ids = image_ids(paths, names)
    for path, name in zip(paths, names, strict=True):
        if name != fitting(printable(path.stem, "%")):
            say(f"{path}: an image before has this name, so its results are named {name}")
    results, done, seconds = [], 0, 0.0
    try:
        for first in range(0, len(paths), size):
            places = list(range(first, min(first + size, len(paths))))
            last = places[-1] + 1
            print(f"\rimage {last} of {len(paths)}", end="", file=sys.stderr, flush=True)
            images: dict[int, np.ndarray] = {}
            for place in places:
                with _skipping(paths[place]):
                    images[place] = read_image(
                        *(paths[place], model.channels, model.bits),
                        *(model.is_turned, model.by_pillow),
                    )
            start = time.perf_counter()
            found = run_batch(model, paths, images)
            seconds += time.perf_counter() - start
            for place, outputs in found.items():
                with _skipping(paths[place]):
                    found_here = write(
                        *(out, model, names[place], ids[place]),
                        *(images[place], outputs, args.score),
                    )
                    results += [{"file_name": str(paths[place]), **x} for x in found_here]
                    done += 1
    finally:
        print(file=sys.stderr)
        if done and not is_segmenter:
            with _writing(out.folder / "predictions.json"):
                out.write("predictions.json", json.dumps(results).encode())
    if not done:
        raise UserError(f"no image can be used, of {len(paths):,}")
    skipped = f", {len(paths) - done} skipped" if done < len(paths) else ""
    number = f"{done} image{'s' * (done > 1)}"
    speed = f"{seconds / done:.3f} s an image in the model"
    say(f"{number} in {args.out}{skipped}, {speed}", sys.stdout)


def batch_size(model: Model, wanted: int | None) -> int:
    """How many images the model gets at once.

    Raises:
        UserError: it doesn't take so many.
    """
    if wanted is not None and not 1 <= wanted <= MAX_BATCH:
        raise UserError(f"--batch {wanted}: from 1 to {MAX_BATCH}")
    if model.batch is None:
        return wanted or 1
    if wanted not in (None, model.batch):
        if model.form == IMAGE_FORM:
            raise UserError(
                f"--batch {wanted}: {model.path} takes one image at a time; export it with --batch"
            )
        raise UserError(f"--batch {wanted}: {model.path} takes batches of {model.batch}")
    return model.batch


def run_batch(
    model: Model, paths: Sequence[Path], images: Mapping[int, np.ndarray]
) -> dict[int, dict[str, np.ndarray]]:
    """What the model finds in images; where it fails at some together, each is tried alone."""
    if not images:
        return {}
    if len(images) > 1:
        with contextlib.suppress(UserError, MemoryError):
            return dict(zip(images, model(list(images.values())), strict=True))
    found = {}
    for place, image in images.items():
        with _skipping(paths[place]):
            (found[place],) = model([image])
    return found


@contextlib.contextmanager
def _skipping(path: Path) -> Iterator[None]:
    """Names an image that can't be used, and goes on."""
    try:
        yield
    except OutputError:
        raise
    except UserError as error:
        print(file=sys.stderr)
        say(f"skipped: {path}: {error}")
    except MemoryError:
        print(file=sys.stderr)
        say(f"skipped: {path}: it takes more memory than there is")


def write(
    out: Results,
    model: Model,
    name: str,
    image_id: int | str,
    image: np.ndarray,
    found: dict[str, np.ndarray],
    score: float,
) -> list[dict]:
    """Writes an image's files, and gives what predictions.json holds of it.

    Raises:
        UserError: they can't be written.
    """
    detections = []
    if "label_map" in found:
        labels = found["label_map"]
        labels = labels if labels.dtype == np.uint8 else labels.astype(np.uint16)
        with _writing(out.folder / "label_maps" / f"{name}.png"):
            out.write(f"label_maps/{name}.png", encode(Image.fromarray(labels), "PNG"))
    else:
        detections = list(records(model, image_id, found))
        if model.task != "classification":
            found = keep_scores_above(found, score)
    picture = draw(model, image, found)
    kind, suffix = ("JPEG", "jpg") if max(picture.size) <= MAX_JPEG_SIDE else ("PNG", "png")
    with _writing(out.folder / "pictures" / f"{name}.{suffix}"):
        out.write(f"pictures/{name}.{suffix}", encode(picture, kind))
    return detections


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} can't be written ({error.strerror})") from error


def encode(picture: Image.Image, kind: str) -> bytes:
    """A picture as a file's content."""
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 92} if kind == "JPEG" else {}))
    return file.getvalue()


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each image's results: its own, numbered where two are alike but for case."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    names = []
    for path in paths:
        stem = printable(path.stem, "%")
        name = fitting(stem)
        while name.casefold() in taken:
            numbers[stem.casefold()] = number = numbers.get(stem.casefold(), 1) + 1
            name = fitting(stem, f"_{number}")
        taken.add(name.casefold())
        names.append(name)
    return names


def fitting(stem: str, end: str = "") -> str:
    """A name, truncated where it is too long for a file's; a hash keeps it unique."""
    if len(f"{stem}{end}".encode()) <= MAX_NAME:
        return stem + end
    end = f"~{hashlib.sha256(stem.encode()).hexdigest()[:8]}{end}"
    return stem.encode()[: MAX_NAME - len(end)].decode(errors="ignore") + end


def image_ids(paths: Sequence[Path], names: Sequence[str]) -> list[int | str]:
    """The number in an image's name, if it is unique; else its results' name."""
    stems = [path.stem for path in paths]
    numbers = [
        int(stem) if stem.isascii() and stem.isdecimal() and len(stem) <= 18 else None
        for stem in stems
    ]
    counts = collections.Counter(numbers)
    return [
        name if number is None or counts[number] > 1 else number
        for number, name in zip(numbers, names, strict=True)
    ]


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a locale without the names' letters
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with np.errstate(all="ignore"):  # what isn't finite in the end is refused
            run(parse_args())
    except UserError as error:
        say(f"error: {error}")
        sys.exit(USER_ERROR)
    except OSError as error:  # Path.is_file() raises it, too
        if error.errno not in (errno.EACCES, errno.ENAMETOOLONG):
            raise
        say(f"error: {error.filename} can't be used ({error.strerror})")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        say("interrupted: what was done so far is written")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
