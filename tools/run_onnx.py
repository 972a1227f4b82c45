"""Runs a model that tools/export.py wrote: with onnxruntime, NumPy and Pillow, without PyTorch.

python tools/run_onnx.py model.onnx photos/ more.jpg --out results/ --score 0.3

Detections go to predictions.json, in COCO's results format; label maps are PNG files.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import json
import os
import secrets
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels
# no other of Pillow's formats: opening a PostScript file, say, runs Ghostscript on it
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
MASK_OPACITY = 0.5
USER_ERROR, INTERRUPTED = 2, 130  # exit codes
LISTING = ".mmpvt-files"  # lists the files that were written to a folder: a line of JSON each
MAX_NAME = 255 - len(".jpg")  # bytes
MAX_LABEL_LENGTH = 60  # characters of a class's name over its box
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


class UserError(Exception):
    """A mistake of the user's: its message is one sentence."""


class Model:
    """An exported file and its metadata.

    Args:
        path (Path): the file.
        threads (int | None): of onnxruntime; all cores by default.

    Raises:
        UserError: it can't be read, or is no model of tools/export.py.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not path.is_file():
            raise UserError(f"no model at {path}: there is no such file")
        self.path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=onnxruntime.get_available_providers()
            )
            meta = self.session.get_modelmeta().custom_metadata_map
            inputs = [(x.name, x.type, x.shape) for x in self.session.get_inputs()]
            self.names = [output.name for output in self.session.get_outputs()]
        except Exception as error:  # onnxruntime's errors share no other base
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise UserError(f"{path} can't be read as an ONNX model: {reason}") from error
        self.task = meta.get("task")
        if self.task is None or [(name, kind, len(shape)) for name, kind, shape in inputs] != [
            ("image", "tensor(uint8)", 3)
        ]:
            raise UserError(f"{path} is another kind of model: take one that tools/export.py wrote")
        if OUTPUTS.get(self.task) != set(self.names):
            raise self._damaged("its outputs aren't those of its task")
        self.channels: int = inputs[0][2][2]
        if not isinstance(self.channels, int):
            raise self._damaged("its image has no fixed number of channels")
        self.classes: list[str] = self._listed(meta, "classes", "names", _is_text)
        self.category_ids: list[int] = self._listed(meta, "category_ids", "integers", _is_id)
        self.palette: list[list[int]] = self._listed(meta, "palette", "colours", _is_colour)
        if len(self.category_ids) != len(self.classes):
            raise self._damaged("it has not as many category_ids as classes")

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The model's outputs for an image, by name.

        Args:
            image (ndarray): uint8, (height, width, channels), RGB.

        Returns:
            dict[str, ndarray]: ``boxes`` (N, 4), x1, y1, x2, y2 in pixels, ``scores`` and
            ``labels`` (N,), by falling score, and, of an instance segmenter, ``masks``, bool,
            (N, height, width); of a semantic one, ``label_map``, (height, width); of a classifier,
            ``scores`` by class.

        Raises:
            UserError: the model can't take the image (it is a line of pixels, say), or its outputs
                aren't detections, a label map or scores.
        """
        height, width = image.shape[:2]
        try:
            found = dict(zip(self.names, self.session.run(None, {"image": image}), strict=True))
        except Exception as error:  # onnxruntime's errors share no other base
            raise UserError(f"the model can't take an image of {width}x{height} pixels") from error
        self._check(found, height, width)
        return found

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
        if number > MAX_DETECTIONS:
            raise UserError(
                f"the model gives {number} detections, and {MAX_DETECTIONS} are the limit"
            )
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

    def _listed(self, meta: dict[str, str], key: str, what: str, is_valid) -> list:
        """A list in the metadata, checked."""
        try:
            value = json.loads(meta[key])
        except (KeyError, ValueError, RecursionError):
            value = None
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
        """A class's name as it is drawn."""
        name = printable(self.classes[label]) if label < len(self.classes) else str(label)
        return name if len(name) <= MAX_LABEL_LENGTH else name[: MAX_LABEL_LENGTH - 1] + "…"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _is_colour(value: object) -> bool:
    is_three = isinstance(value, list) and len(value) == 3
    return is_three and all(type(part) is int and 0 <= part < 256 for part in value)


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


def read_image(path: Path, channels: int = 3) -> np.ndarray:
    """uint8, (height, width, channels), RGB, rotated as its EXIF tag says.

    Raises:
        UserError: the file can't be read as an image, or has other channels.
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
            return with_channels(ImageOps.exif_transpose(image), channels)
    except UserError:
        raise
    except Exception as error:  # Pillow's plugins raise anything on what they can't read
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"it can't be read as an image ({reason})") from error


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # no waiting for a pipe's writer


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
    """Image files, by themselves and in folders, recursively, but for results of a run.

    Unreadable files of an image's suffix are there, too. Links to folders are not followed.

    Raises:
        UserError: there is no such path, or no image.
    """
    found, listings = [], {}
    for path in paths:
        if path.is_dir():
            walk = os.walk(path, onerror=_report_unreadable)
            inside = (Path(folder, name) for folder, _, names in walk for name in names)
            found += sorted(file for file in inside if file.suffix.lower() in IMAGES)
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {path}")
    named = ", ".join(map(str, paths[:3]))
    if not found:
        raise UserError(f"no images in {named}")
    images = [path for path in found if not is_result(path, listings)]
    if len(images) < len(found):
        say(f"skipped: {len(found) - len(images)} images that are results of a run")
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
        ranked = {model.name(label): float(found["scores"][label]) for label in labels}
        name = model.name(labels[0])
        yield {"image_id": image_id, "class": name, "score": ranked[name], "scores": ranked}
        return
    for i, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
        label = int(found["labels"][i])
        record = {
            "image_id": image_id,
            "category_id": model.category_ids[label] if model.category_ids else label + 1,
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
    worst_first = range(len(found["scores"]) - 1, -1, -1)
    for i in worst_first:
        label = int(found["labels"][i])
        # Pillow's integers overflow far beyond the image
        box = found["boxes"][i].clip(-size, max(picture.size) + size).tolist()
        colour = model.colour(label)
        pen.rectangle(box, outline=colour, width=max(2, size // 8))
        text = f"{model.name(label)} {found['scores'][i]:.2f}"[: 2 * MAX_LABEL_LENGTH]
        _, _, right, bottom = pen.textbbox((0, 0), text, font_size=size)
        x = max(0, min(box[0], picture.width - right - 4))
        y = box[1] - bottom - 4 if box[1] > bottom + 4 else box[1]
        pen.rectangle((x, y, x + right + 4, y + bottom + 4), fill=colour)
        ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 128 else "white"
        pen.text((x + 2, y + 2), text, fill=ink, font_size=size)
    return picture


class Parser(argparse.ArgumentParser):
    """Escapes unprintable characters of arguments in its messages."""

    def error(self, message: str) -> None:
        super().error(printable(message))


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="a file of tools/export.py")
    parser.add_argument("images", nargs="+", type=Path, help="images and folders of images")
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument("--score", type=float, default=0.3, help="least score (default: 0.3)")
    parser.add_argument("--threads", type=int, help="of onnxruntime (default: all cores)")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Writes a picture of each image, and predictions.json or label maps."""
    if not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: a score is a number from 0 to 1")
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise UserError(f"--threads {args.threads}: from 1 to 1024")
    model = Model(args.model, args.threads)
    paths = find_images(args.images)
    out = Results(args.out)
    is_segmenter = "label_map" in model.names
    if not is_segmenter:
        out.check("predictions.json")
    out.make("pictures", *(("label_maps",) if is_segmenter else ()))
    names = unique_names(paths)
    ids = image_ids(paths, names)
    results, done, seconds = [], 0, 0.0
    try:
        for number, (path, name, image_id) in enumerate(zip(paths, names, ids, strict=True), 1):
            print(f"\rimage {number} of {len(paths)}", end="", file=sys.stderr, flush=True)
            try:
                image = read_image(path, model.channels)
                start = time.perf_counter()
                found = model(image)
                seconds += time.perf_counter() - start
                results += write(out, model, name, image_id, image, found, args.score)
                done += 1
            except UserError as error:
                print(file=sys.stderr)
                say(f"skipped: {path}: {error}")
            except MemoryError:
                print(file=sys.stderr)
                say(f"skipped: {path}: it takes more memory than there is")
    finally:
        print(file=sys.stderr)
        if done and not is_segmenter:
            with _writing(out.folder / "predictions.json"):
                out.write("predictions.json", json.dumps(results).encode())
    if not done:
        raise UserError(f"none of the {len(paths)} images can be used")
    skipped = f", {len(paths) - done} skipped" if done < len(paths) else ""
    say(
        f"{done} images in {args.out}{skipped}, {seconds / done:.3f} s an image in the model",
        sys.stdout,
    )


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
        if model.task != "classification":
            found = keep_scores_above(found, score)
        detections = list(records(model, image_id, found))
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
        raise UserError(f"{path} can't be written ({error.strerror})") from error


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
        run(parse_args())
    except UserError as error:
        say(f"error: {error}")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        say("interrupted: what was done so far is written")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
