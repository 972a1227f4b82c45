"""Bad and unusual inputs: images, label maps, annotations, each with what is to become of it."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

SIZE = (48, 64)  # height and width of the picture


class Input(NamedTuple):
    """An input and its fate.

    Attributes:
        name: of the input.
        make: a picture or label map to a file's bytes, or a change of annotations in place.
        reason: part of what is said when it is left out, or None where it is used.
        expected: of an image that is used, the picture to the pixels (RGB) that it is taken for.
    """

    name: str
    make: Callable
    reason: str | None
    expected: Callable[[np.ndarray], np.ndarray] = lambda picture: picture


def picture() -> np.ndarray:
    """(48, 64, 3), uint8, RGB, smooth, and different when it is turned."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([4 * x, 5 * y, 255 - 4 * x], axis=-1).clip(0, 255).astype(np.uint8)


def pillow(image: Image.Image, kind: str, **options) -> bytes:
    """An image file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def of_mode(mode: str, kind: str) -> Callable[[np.ndarray], bytes]:
    """The picture in another colour mode of Pillow's."""
    return lambda array: pillow(Image.fromarray(array).convert(mode), kind)


def jpeg(array: np.ndarray, **options) -> bytes:
    return pillow(Image.fromarray(array), "JPEG", quality=98, **options)


def png(array: np.ndarray) -> bytes:
    return pillow(Image.fromarray(array), "PNG")


def sixteen_bit(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array[..., ::-1].astype(np.uint16) * 257)[1].tobytes()


def turned(orientation: int, array: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(array, exif=exif)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def web_colours(array: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(array).convert("P").convert("RGB"))


def grey(array: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(array, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def black_and_white(array: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(Image.fromarray(array).convert("1"))[..., None], 3, axis=2) * 255


UNREADABLE = "can't be read as an image"
IMAGES = [
    Input("whole JPEG", jpeg, None),
    Input("progressive JPEG", lambda a: jpeg(a, progressive=True), None),
    Input("bytes after the end", lambda a: jpeg(a) + bytes(3000), None),
    Input("a PNG named .jpg", png, None),
    Input("a BMP named .jpg", lambda a: pillow(Image.fromarray(a), "BMP"), None),
    Input("16-bit PNG", sixteen_bit, None),
    Input("CMYK JPEG", of_mode("CMYK", "JPEG"), None),
    Input("palette PNG", of_mode("P", "PNG"), None, web_colours),
    Input("grey JPEG", of_mode("L", "JPEG"), None, grey),
    Input("grey with alpha", of_mode("LA", "PNG"), None, grey),
    Input("alpha PNG", of_mode("RGBA", "PNG"), None),
    Input("1-bit PNG", of_mode("1", "PNG"), None, black_and_white),
    Input("turned by 180 degrees", lambda a: turned(3, a), None, lambda a: a[::-1, ::-1]),
    Input("turned by 90, sized as stored", lambda a: turned(6, a), None),
    Input("turned by 90, sized as turned", lambda a: turned(8, a.swapaxes(0, 1)[:, ::-1]), None),
    Input("empty", lambda a: b"", UNREADABLE),
    Input("text", lambda a: b"<html>404 Not Found</html>", UNREADABLE),
    Input("half a JPEG", lambda a: half(jpeg(a)), UNREADABLE),
    Input("a JPEG's all but the end", lambda a: jpeg(a)[:-40], UNREADABLE),
    Input("half a progressive JPEG", lambda a: half(jpeg(a, progressive=True)), UNREADABLE),
    Input("half a PNG", lambda a: half(png(a)), UNREADABLE),
    Input("a JPEG's header", lambda a: jpeg(a)[:20], UNREADABLE),
    Input("zeros", lambda a: bytes(5000), UNREADABLE),
    Input("another size", lambda a: jpeg(a[:40, :50]), "of another size than its annotations say"),
    Input("1 pixel", lambda a: png(a[:1, :1]), "of another size than its annotations say"),
]
SIZED = {  # images of an unusual shape, whose annotations say so: height and width
    "1 pixel, so annotated": (1, 1),
    "1 pixel wide": (48, 1),
    "30,000 pixels wide": (60, 30_000),
    "30,000 pixels wide, 1 high": (1, 30_000),
}


def labels() -> np.ndarray:
    """A label map of classes 1 to 6."""
    return (np.mgrid[: SIZE[0], : SIZE[1]][1] // 12 + 1).astype(np.uint8)


NO_MAP, NO_LABELS = "can't be read as a label map", "values that are no labels"
LABEL_MAPS = [
    Input("8-bit PNG", png, None),
    Input("16-bit PNG of small labels", lambda a: png(a.astype(np.uint16)), None),
    Input("palette PNG", lambda a: pillow(_indexed(a), "PNG"), None),
    Input("16-bit labels", lambda a: png(a.astype(np.uint16) + 256), NO_LABELS),
    Input("float TIFF", lambda a: pillow(Image.fromarray(a + np.float32(0.5)), "TIFF"), NO_LABELS),
    Input("colours", lambda a: png(np.stack([a] * 3, axis=-1)), "holds colours"),
    Input("another size", lambda a: png(a[:40]), "is of another size than its image"),
    Input("a value too many", lambda a: png(a + 1), "holds the value 7"),
    Input("empty", lambda a: b"", NO_MAP),
    Input("text", lambda a: b"labels", NO_MAP),
    Input("half a PNG", lambda a: half(png(a)), NO_MAP),
]


def _indexed(array: np.ndarray) -> Image.Image:
    image = Image.fromarray(array).convert("P")
    image.putdata(array.ravel().tolist())
    return image


def box(*values: object) -> Callable[[dict], None]:
    """Gives the first annotation another box."""
    return lambda content: content["annotations"][0].update(bbox=list(values))


def mask(value: object) -> Callable[[dict], None]:
    """Gives the first annotation another mask."""
    return lambda content: content["annotations"][0].update(segmentation=value)


def first(**fields: object) -> Callable[[dict], None]:
    """Sets fields of the first annotation."""
    return lambda content: content["annotations"][0].update(fields)


def without(kind: str, field: str) -> Callable[[dict], None]:
    """Drops a field of the first image or annotation."""
    return lambda content: content[kind][0].pop(field)


def of_image(**fields: object) -> Callable[[dict], None]:
    """Sets fields of the first image."""
    return lambda content: content["images"][0].update(fields)


def same_image_id(content: dict) -> None:
    content["images"].append(dict(copy.deepcopy(content["images"][0]), file_name="other.jpg"))


def same_image_twice(content: dict) -> None:
    content["images"].append(copy.deepcopy(content["images"][0]))


def same_annotation_id(content: dict) -> None:
    content["annotations"][1]["id"] = content["annotations"][0]["id"]


def crowd_only(content: dict) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] == 1)


def replaced(kind: str, value: object) -> Callable[[dict], None]:
    def change(content: dict) -> None:
        content[kind][0] = value

    return change


def added(image: object) -> Callable[[dict], None]:
    return lambda content: content["images"].append(image)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


HEIGHT, WIDTH = SIZE
HUGE = 10**400
SQUARE = [8.0, 8, 24, 8, 24, 24, 8, 24]
INFINITE, NAN = float("inf"), float("nan")
ANNOTATIONS = [
    Input("NaN box", box(NAN, 1, 5, 5), "not four numbers"),
    Input("infinite box", box(1, 1, INFINITE, 5), "not four numbers"),
    Input("box of three numbers", box(1, 1, 5), "not four numbers"),
    Input("box of words", box("1", "1", "5", "5"), "not four numbers"),
    Input("no box", without("annotations", "bbox"), "not four numbers"),
    Input("negative box", box(20, 20, -5, -5), "box of no area"),
    Input("zero-area box", box(20, 20, 0, 5), "box of no area"),
    Input("box outside", box(WIDTH + 3, 1, 5, 5), "box outside its image"),
    Input("box partly outside", box(WIDTH - 9, 1, 30, 9), None),
    Input("unknown category", first(category_id=99), "unknown category"),
    Input("category by name", first(category_id="circle"), "unknown category"),
    Input("unknown image", first(image_id=99), "an image that is not listed"),
    Input("image that is a list", first(image_id=[1]), "an image that is not listed"),
    Input("same annotation id twice", same_annotation_id, None),
    Input("no annotation id", without("annotations", "id"), None),
    Input("no area", without("annotations", "area"), None),
    Input("NaN area", first(area=NAN), None),
    Input("area of 0", first(area=0), None),
    Input("no iscrowd", without("annotations", "iscrowd"), None),
    Input("crowd-only image", crowd_only, None),
    Input("same image id", same_image_id, "is the id of 2 images"),
    Input("same image twice", same_image_twice, None),
    Input("image without a name", without("images", "file_name"), "has no file_name"),
    Input("image without a width", without("images", "width"), "has no size"),
    Input("image of no height", of_image(height=0), "has no size"),
    Input("image size in words", of_image(height="48"), "has no size"),
    Input("no mask", without("annotations", "segmentation"), "neither polygons nor"),
    Input("mask in words", mask("square"), "neither polygons nor"),
    Input("polygon of two points", mask([[1.0, 1, 5, 5]]), "neither polygons nor"),
    Input("one good polygon", mask([SQUARE, [1.0, 1, 5]]), None),
    Input("NaN polygon", mask([[NAN, *SQUARE[1:]]]), "neither polygons nor"),
    Input("polygon of kilometres", mask([[0, 0, 1e9, 0, 1e9, 1e9]]), "far outside its image"),
    Input("huge polygon", mask([[0, 0, WIDTH, HEIGHT] * 20_000]), "a huge outline"),
    Input("good RLE", mask(dict(counts=[0, WIDTH * HEIGHT], size=[HEIGHT, WIDTH])), None),
    Input("RLE of another size", mask(dict(counts=[0, 100], size=[10, 10])), "of another size"),
    Input("RLE too long", mask(dict(counts=[0, 10**9], size=[HEIGHT, WIDTH])), "is damaged"),
    Input("negative RLE", mask(dict(counts=[5, -9], size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE of garbage", mask(dict(counts="~~~~\x00", size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE that is cut", mask(dict(counts="PPYo", size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE that goes on", mask(dict(counts="o" * 300_000, size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE of huge runs", mask(dict(counts=[HUGE, 1], size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE of no counts", mask(dict(counts=None, size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE of words", mask(dict(counts=["1"], size=[HEIGHT, WIDTH])), "is damaged"),
    Input("RLE of a huge size", mask(dict(counts="", size=[HUGE, HUGE])), "of another size"),
    Input("RLE of a size in floats", mask(dict(counts="", size=[48.0, 64.0])), "of another size"),
    Input("mask of nothing", mask([]), "neither polygons nor"),
    Input("mask of nulls", mask([None, [None] * 6]), "neither polygons nor"),
    Input("mask of huge numbers", mask([[HUGE] * 8]), "neither polygons nor"),
    Input("mask in a dict", mask({"a": [SQUARE]}), "of another size"),
    Input("huge box", box(1, 1, HUGE, 5), "not four numbers"),
    Input("box of truth values", box(True, True, True, True), "not four numbers"),
    Input("box that is a number", first(bbox=HUGE), "not four numbers"),
    Input("deep box", first(bbox=nested(90)), "not four numbers"),
    Input("huge area", first(area=HUGE), None),
    Input("area in a list", first(area=[1]), None),
    Input("iscrowd in a list", first(iscrowd=[1]), None),
    Input("huge annotation id", first(id=HUGE), None),
    Input("annotation id of half a character", first(id="\ud800"), None),
    Input("huge category id", first(category_id=HUGE), "unknown category"),
    Input("category id in a dict", first(category_id={}), "unknown category"),
    Input("huge image id", first(image_id=HUGE), "an image that is not listed"),
    Input("no image id", without("annotations", "image_id"), "an image that is not listed"),
    Input("annotation that is null", replaced("annotations", None), "is no annotation"),
    Input("annotation that is a number", replaced("annotations", HUGE), "is no annotation"),
    Input("annotation that is deep", replaced("annotations", nested(90)), "is no annotation"),
    Input("huge keys nobody reads", first(attributes=nested(90), note=HUGE), None),
    Input("image that is null", added(None), "has no id"),
    Input("image that is deep", added(nested(90)), "has no id"),
    Input("image id of half a character", added(dict(id="\udcff")), "has no id"),
    Input("huge id of an image", added(dict(id=HUGE)), "has no id"),
    Input("image of a huge size", of_image(width=HUGE), "has no size"),
    Input("image of many pixels", of_image(width=2**20, height=2**20), "a size that can't be"),
    Input("image size of NaN", of_image(width=NAN), "has no size"),
    Input("image size of a half", of_image(width=64.5), "has no size"),
    Input("image size in floats", of_image(width=64.0, height=48.0), None),
    Input("image size of truth values", of_image(width=True), "has no size"),
    Input("image named by a list", of_image(file_name=["1.jpg"]), "has no file_name"),
    Input("image named by half a character", of_image(file_name="\ud800.jpg"), "no file can have"),
    Input("image named by a NUL", of_image(file_name="1.jpg\0"), "no file can have"),
]


def annotations() -> dict:
    """Two images of the picture's size with two annotations each, in COCO's format."""
    images = [dict(id=i, file_name=f"{i}.jpg", width=WIDTH, height=HEIGHT) for i in (1, 2)]
    return dict(
        images=images,
        annotations=[
            dict(
                id=i,
                image_id=1 + i // 3,
                category_id=1 + i % 2,
                bbox=[8, 8, 16, 16],
                area=256,
                iscrowd=0,
                segmentation=[SQUARE],
            )
            for i in (1, 2, 3, 4)
        ],
        categories=[dict(id=1, name="circle"), dict(id=2, name="square")],
    )
