"""Runs a model that tools/export.py wrote: with onnxruntime, NumPy and Pillow, without PyTorch.

python tools/run_onnx.py model.onnx photos/ more.jpg --out results/ --score 0.3

Detections go to predictions.json, in COCO's results format; label maps are PNG files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels
MASK_OPACITY = 0.5
USER_ERROR = 2


class Mistake(Exception):
    """What the user can mend: its message is one sentence."""


class Model:
    """An exported file and what it says of itself.

    Args:
        path (Path): the file.
        threads (int | None): of onnxruntime; all cores by default.

    Raises:
        Mistake: it is no model of tools/export.py.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not path.is_file():
            raise Mistake(f"no model at {path}: there is no such file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:
            reason = str(error).splitlines()[0][:200]
            raise Mistake(f"{path} can't be read as an ONNX model: {reason}") from error
        meta = self.session.get_modelmeta().custom_metadata_map
        if "task" not in meta or [x.name for x in self.session.get_inputs()] != ["image"]:
            raise Mistake(f"{path} is another kind of model: take one that tools/export.py wrote")
        self.names = [output.name for output in self.session.get_outputs()]
        self.task = meta["task"]
        self.channels: int = self.session.get_inputs()[0].shape[2]
        self.classes: list[str] = json.loads(meta["classes"])
        self.category_ids: list[int] = json.loads(meta["category_ids"])
        self.palette: list[list[int]] = json.loads(meta["palette"])

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What the model finds in an image, by name.

        Args:
            image (ndarray): uint8, (height, width, channels), red first.

        Returns:
            dict[str, ndarray]: ``boxes`` (N, 4), x1, y1, x2, y2 in pixels, ``scores`` and
            ``labels`` (N,), best first, and, of an instance segmenter, ``masks``, bool,
            (N, height, width); of a semantic one, ``label_map``, (height, width).

        Raises:
            Mistake: the model can't take the image: it is a line of pixels, say.
        """
        try:
            return dict(zip(self.names, self.session.run(None, {"image": image}), strict=True))
        except Exception as error:  # onnxruntime's errors share no other base
            height, width = image.shape[:2]
            raise Mistake(f"the model can't take an image of {width}x{height} pixels") from error

    def colour(self, label: int) -> tuple[int, int, int]:
        """The data set's colour of a class, or one that its number gives."""
        if label < len(self.palette):
            return tuple(self.palette[label])
        red, green, blue = np.random.default_rng(label).integers(48, 224, 3).tolist()
        return red, green, blue

    def name(self, label: int) -> str:
        return self.classes[label] if label < len(self.classes) else str(label)


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """uint8, (height, width, channels), red first, turned as its camera says.

    Raises:
        Mistake: the file can't be read as an image, or has other channels.
    """
    if channels not in MODES:
        return read_bands(path, channels)
    try:
        with Image.open(path) as image:
            return with_channels(ImageOps.exif_transpose(image), channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Mistake(f"it can't be read as an image ({type(error).__name__})") from error


def with_channels(image: Image.Image, channels: int) -> np.ndarray:
    """An image's pixels, uint8, (height, width, channels); of 16 bits the upper 8, as OpenCV does.

    Raises:
        Mistake: it has other channels.
    """
    if image.mode == "F":
        raise Mistake("it holds floating-point numbers, and the model takes bytes")
    if channels == 4 and len(image.getbands()) != 4:
        raise Mistake(f"it is an image of {len(image.getbands())} channels, and the model takes 4")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.array(image) >> 8).clip(0, 255).astype(np.uint8))
    pixels = np.array(image if channels == 4 else image.convert(MODES[channels]))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def read_bands(path: Path, channels: int) -> np.ndarray:
    """A TIFF file of as many channels as the model takes: uint8, (height, width, channels).

    Raises:
        Mistake: tifffile isn't installed, or the file is of another kind.
    """
    try:
        import tifffile
    except ImportError as error:
        raise Mistake(f"images of {channels} channels take tifffile: pip install it") from error
    try:
        image = tifffile.imread(path)
    except Exception as error:  # its errors share no other base
        raise Mistake(f"it can't be read as a TIFF file ({type(error).__name__})") from error
    if image.ndim == 3 and image.shape[0] == channels != image.shape[2]:  # band after band
        image = image.transpose(1, 2, 0)
    if image.ndim != 3 or image.shape[2] != channels or image.dtype != np.uint8:
        raise Mistake(f"it is {image.dtype}, {image.shape}, and the model takes {channels} bytes")
    return np.ascontiguousarray(image)


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images among files and, however deep, within folders.

    Raises:
        Mistake: there is no such path, or no image.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
            found += [p for p in inside if p.is_file()]
        elif path.is_file():
            found.append(path)
        else:
            raise Mistake(f"there is no file or folder {path}")
    if not found:
        raise Mistake(f"no images in {', '.join(map(str, paths))}")
    return found


def above(found: dict[str, np.ndarray], score: float) -> dict[str, np.ndarray]:
    """The detections of at least a score."""
    keep = found["scores"] >= score
    return {name: array[keep] for name, array in found.items()}


def records(model: Model, image_id: int | str, found: dict[str, np.ndarray]) -> Iterator[dict]:
    """Detections in COCO's results format."""
    for i, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
        record = {
            "image_id": image_id,
            "category_id": model.category_ids[found["labels"][i]]
            if model.category_ids
            else int(found["labels"][i]) + 1,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(found["scores"][i]),
        }
        if "masks" in found:
            mask = found["masks"][i]
            record["segmentation"] = {"size": list(mask.shape), "counts": encode_runs(mask)}
        yield record


def encode_runs(mask: np.ndarray) -> str:
    """A mask, (height, width), as COCO's compressed run lengths.

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
    """The image with what was found over it; of other channels than three, the first ones."""
    image = image[..., :3] if image.shape[2] > 2 else image[..., [0, 0, 0]]
    if "label_map" in found:
        labels = found["label_map"]
        colours = np.array([model.colour(i) for i in range(int(labels.max()) + 1)])[labels]
        return Image.fromarray(((image * 1.0 + colours) / 2).astype(np.uint8))
    image = image.copy()
    for mask, label in zip(found.get("masks", ()), found["labels"], strict=False):
        colour = np.array(model.colour(label))
        image[mask] = image[mask] * (1 - MASK_OPACITY) + colour * MASK_OPACITY
    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    size = max(12, min(picture.size) // 32)
    worst_first = range(len(found["scores"]) - 1, -1, -1)
    for i in worst_first:
        label, box = int(found["labels"][i]), found["boxes"][i].tolist()
        colour = model.colour(label)
        pen.rectangle(box, outline=colour, width=max(2, size // 8))
        text = f"{model.name(label)} {found['scores'][i]:.2f}"
        _, _, right, bottom = pen.textbbox((0, 0), text, font_size=size)
        x = max(0, min(box[0], picture.width - right - 4))
        y = box[1] - bottom - 4 if box[1] > bottom + 4 else box[1]
        pen.rectangle((x, y, x + right + 4, y + bottom + 4), fill=colour)
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else "white"
        pen.text((x + 2, y + 2), text, fill=ink, font_size=size)
    return picture


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="a file of tools/export.py")
    parser.add_argument("images", nargs="+", type=Path, help="images and folders of images")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--score", type=float, default=0.3, help="least score (default: 0.3)")
    parser.add_argument("--threads", type=int, help="of onnxruntime (default: all cores)")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Writes a picture of each image, and predictions.json or label maps."""
    model = Model(args.model, args.threads)
    paths = find_images(args.images)
    semantic = "label_map" in model.names
    try:
        for folder in ("pictures", *(("label_maps",) if semantic else ())):
            (args.out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"{args.out} can't be written to: {error.strerror}") from error
    names = unique_names(paths)
    results, broken, seconds = [], 0, 0.0
    for number, (path, name) in enumerate(zip(paths, names, strict=True), 1):
        print(f"\rimage {number} of {len(paths)}", end="", file=sys.stderr, flush=True)
        try:
            image = read_image(path, model.channels)
            start = time.perf_counter()
            found = model(image)
        except Mistake as mistake:
            broken += 1
            print(f"\rpassed over: {path}: {mistake}", file=sys.stderr)
            continue
        seconds += time.perf_counter() - start
        if semantic:
            labels = found["label_map"]
            labels = labels if labels.dtype == np.uint8 else labels.astype(np.uint16)
            Image.fromarray(labels).save(args.out / "label_maps" / f"{name}.png")
        else:
            found = above(found, args.score)
            results += records(model, int(path.stem) if path.stem.isdigit() else name, found)
        draw(model, image, found).save(args.out / "pictures" / f"{name}.jpg", quality=92)
    print(file=sys.stderr)
    if broken == len(paths):
        raise Mistake("none of the images could be read")
    if not semantic:
        (args.out / "predictions.json").write_text(json.dumps(results))
    done = len(paths) - broken
    print(f"{done} images in {args.out}, {seconds / done:.3f} s an image in the model")


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each image's results: its own, numbered where two are alike."""
    names: dict[str, None] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in names:
            name, number = f"{path.stem}_{number}", number + 1
        names[name] = None
    return list(names)


def main() -> None:
    try:
        run(parse_args())
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
