"""Draws the images of the shapes data set.

Lengths are in pixels, points are (x, y), angles are in radians, colours are RGB from 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


def _around(count: int, radii: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Points at equal angles around the origin, (count, 2), at radii that take turns."""
    turn = 2 * np.pi * np.arange(count) / count
    return np.stack((np.cos(turn), np.sin(turn)), 1) * np.resize(radii, count)[:, None]


def _plus(reach: float, half_width: float) -> np.ndarray:
    a, b = reach, half_width
    arms = ((a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b))
    return np.array((*arms, *((-x, -y) for x, y in arms)))


_FORMS = dict(  # in the unit circle: corners, how far they are rounded off, the hole's radius
    circle=(_around(128), 0, 0),
    square=(_around(4), 0.12, 0),
    triangle=(_around(3), 0.12, 0),
    star=(_around(10, (1, 0.46)), 0.1, 0),
    ring=(_around(128), 0, 0.56),
    cross=(_plus(0.94, 0.3), 0.1, 0),
)
CLASSES = tuple(_FORMS)

_OBJECTS = (2, 8)
_DIAMETER = (0.2, 0.72)  # of the picture's shorter side
_DIAMETER_ALONE = (0.6, 0.9)  # of an object that is all in the picture
_TILT = np.pi / 12  # at most, of such an object
_MIN_VISIBLE = 0.4  # of an object's whole area, so that its form can still be told
_MIN_AREA = 40  # pixels
_ATTEMPTS = 20

_SUPERSAMPLING = 2
_SHIFT = 6  # fractional bits of the coordinates that OpenCV draws at
_LIGHT = np.array((-0.6, -0.8), np.float32)  # towards the light

_WHITE = np.array((255, 255, 255), np.float32)
_INK = np.array((15, 23, 42), np.float32)
_COLOURS = np.array(
    (
        (248, 113, 113),  # red
        (251, 146, 60),  # orange
        (251, 191, 36),  # amber
        (163, 230, 53),  # lime
        (52, 211, 153),  # emerald
        (45, 212, 191),  # teal
        (56, 189, 248),  # sky
        (96, 165, 250),  # blue
        (129, 140, 248),  # indigo
        (192, 132, 252),  # purple
        (244, 114, 182),  # pink
        (226, 232, 240),  # silver
        (148, 163, 184),  # slate
    ),
    np.float32,
)
_TEXTURES = dict(plain=0.2, stripes=0.25, dots=0.2, checks=0.15, gradient=0.2)
_TONES = (  # saturation and value of a background, each from and to: light, dark, between
    ((0.06, 0.28), (0.86, 1.0)),
    ((0.35, 0.65), (0.13, 0.34)),
    ((0.2, 0.5), (0.45, 0.75)),
)
_PATTERNS = ("clouds", "waves", "contours", "weave", "mottle", "confetti")


@dataclass(frozen=True)
class Scene:
    """An image and what is visible in it."""

    image: np.ndarray  # (height, width, 3), uint8, RGB
    # (height, width), uint8: the number of the object (from 1, back to front), 0 for background
    instances: np.ndarray
    labels: tuple[int, ...]  # each object's class, an index into CLASSES

    @property
    def label_map(self) -> np.ndarray:
        """(height, width), uint8: 0 is background, 1 + i is ``CLASSES[i]``."""
        return np.array((0, *(label + 1 for label in self.labels)), np.uint8)[self.instances]


def draw_scene(rng: np.random.Generator, size: tuple[int, int], alone: int | None = None) -> Scene:
    """Draws two to eight objects, fewer where they find no room, on a background.

    Args:
        rng (np.random.Generator): decides everything that is random.
        size (tuple[int, int]): the least and greatest length in pixels that the image's height and
            width are each drawn from.
        alone (int | None): the class of a single, larger object that is drawn instead. Default:
            None.
    """
    height, width = rng.integers(*size, size=2, endpoint=True).tolist()
    if alone is None:
        objects, instances = _arrange(rng, height, width)
    else:
        thing = _form(rng, height, width, alone, _DIAMETER_ALONE, margin=1, tilt=_TILT)
        objects, instances = [thing], np.zeros((height, width), np.uint8)
        patch, inside = _overlap(instances, thing.corner, thing.cover)
        instances[patch] = thing.cover[inside] >= 0.5
    canvas = _background(rng, height, width)
    colours = rng.permutation(_COLOURS)  # no two objects of a picture share one
    for thing, colour in zip(objects, colours, strict=False):
        _paint(rng, canvas, thing, colour)
    canvas += rng.normal(0, rng.uniform(1, 5), (height, width, 1)).astype(np.float32)
    image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
    return Scene(image, instances, tuple(thing.label for thing in objects))


@dataclass
class _Object:
    """An object on a square patch of its own, which may reach beyond the picture."""

    label: int
    centre: np.ndarray  # on the patch
    radius: float
    angle: float
    corner: np.ndarray  # of the patch in the picture, whole pixels
    cover: np.ndarray  # (side, side), float32: how much of each pixel is the object
    depth: np.ndarray  # (side, side), float32: distance to the object's edge


def _arrange(rng: np.random.Generator, height: int, width: int) -> tuple[list[_Object], np.ndarray]:
    """Place objects back to front, so that enough of each stays visible."""
    objects: list[_Object] = []
    areas: list[int] = []
    instances = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(*_OBJECTS, endpoint=True)):
        for _ in range(_ATTEMPTS):
            thing = _form(rng, height, width, int(rng.integers(len(CLASSES))), _DIAMETER)
            solid = thing.cover >= 0.5
            trial = instances.copy()
            patch, inside = _overlap(trial, thing.corner, solid)
            trial[patch][solid[inside]] = len(objects) + 1

            trial_areas = [*areas, int(np.count_nonzero(solid))]
            visible = np.bincount(trial.ravel(), minlength=len(trial_areas) + 1)[1:]
            if np.all(visible >= np.maximum(_MIN_VISIBLE * np.array(trial_areas), _MIN_AREA)):
                objects.append(thing)
                areas, instances = trial_areas, trial
                break
    return objects, instances


def _form(
    rng: np.random.Generator,
    height: int,
    width: int,
    label: int,
    diameter: tuple[float, float],
    margin: float = 0.7,
    tilt: float = np.pi,
) -> _Object:
    """An object of a class, of any size and place, its centre at least ``margin`` radii within the
    picture, turned by at most ``tilt``."""
    corners, rounding, hole = _FORMS[CLASSES[label]]
    least, most = np.log(diameter)
    radius = 0.5 * min(height, width) * float(np.exp(rng.uniform(least, most)))
    angle = rng.uniform(0, 2 * np.pi) if tilt == np.pi else rng.uniform(-tilt, tilt) + np.pi / 2
    centre = rng.uniform(margin * radius, np.array((width, height)) - margin * radius)
    corner = np.floor(centre - radius).astype(int) - 2
    centre = centre - corner
    side = int(np.ceil(2 * radius)) + 5

    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array(((cos, sin), (-sin, cos)))
    scale = _SUPERSAMPLING

    def fixed_point(outline: np.ndarray) -> np.ndarray:
        pixels = (outline @ turn * radius + centre) * scale - 0.5
        return np.rint(pixels * 2**_SHIFT).astype(np.int32)

    mask = np.zeros((side * scale, side * scale), np.uint8)
    outline = fixed_point(corners * (1 - rounding))
    cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, _SHIFT)
    if rounding:
        stroke = round(2 * rounding * radius * scale)
        cv2.polylines(mask, [outline], True, 255, stroke, cv2.LINE_AA, _SHIFT)
    if hole:
        cv2.fillPoly(mask, [fixed_point(corners * hole)], 0, cv2.LINE_AA, _SHIFT)
    depth = cv2.distanceTransform((mask > 127).astype(np.uint8), cv2.DIST_L2, 5) / scale

    cover = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    depth = cv2.resize(depth, (side, side), interpolation=cv2.INTER_AREA)
    return _Object(label, centre, radius, angle, corner, cover, depth)


def _overlap(
    image: np.ndarray, corner: np.ndarray, patch: np.ndarray
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where in an image a patch lies, and which part of the patch that is."""
    first = np.maximum(corner, 0)
    last = np.minimum(corner + patch.shape[1::-1], image.shape[1::-1])
    (x0, y0), (x1, y1) = first, last
    (u0, v0), (u1, v1) = first - corner, last - corner
    return np.s_[y0:y1, x0:x1], np.s_[v0:v1, u0:u1]


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, thing: _Object, colour: np.ndarray
) -> None:
    """Paint an object, and the shadow that it casts, onto a picture."""
    radius, depth, cover = thing.radius, thing.depth, thing.cover
    second = _second_colour(rng, colour)
    paint = colour + _texture(rng, thing)[..., None] * (second - colour)

    bevel = np.minimum(depth / max(0.3 * radius, 2), 1)
    slope = _LIGHT[0] * cv2.Sobel(bevel, -1, 1, 0) + _LIGHT[1] * cv2.Sobel(bevel, -1, 0, 1)
    glow = -0.025 * radius * cv2.GaussianBlur(slope, (0, 0), max(0.05 * radius, 0.7))
    paint = paint + 255 * np.clip(glow, -0.16, 0.2)[..., None]

    ink = (_WHITE, 0.45 * colour + 0.25 * _INK, None)[rng.choice(3, p=(0.45, 0.4, 0.15))]
    if ink is not None:
        line = min(max(0.09 * radius, 1.2), 5)
        paint += np.clip(line - depth + 0.5, 0, 1)[..., None] * (ink - paint)

    blur = 0.08 * radius + 1
    margin = int(4 * blur)
    shadow = cv2.copyMakeBorder(cover, margin, margin, margin, margin, cv2.BORDER_CONSTANT)
    shadow = 0.45 * cv2.GaussianBlur(shadow, (0, 0), blur)[..., None]
    offset = -np.rint(blur * _LIGHT).astype(int)
    patch, inside = _overlap(canvas, thing.corner + offset - margin, shadow)
    canvas[patch] += shadow[inside] * (0.6 * _INK - canvas[patch])

    patch, inside = _overlap(canvas, thing.corner, cover)
    canvas[patch] += cover[inside][..., None] * (paint[inside] - canvas[patch])


def _second_colour(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A lighter or darker shade of a colour, or another colour."""
    kind = rng.integers(3)
    if kind == 0:
        return colour + rng.uniform(0.5, 0.8) * (_WHITE - colour)
    if kind == 1:
        return colour + rng.uniform(0.35, 0.55) * (_INK - colour)
    return rng.choice(_COLOURS)


def _texture(rng: np.random.Generator, thing: _Object) -> np.ndarray:
    """How far each pixel of an object's patch takes its second colour: float32, 0 to 1."""
    side = len(thing.cover)
    x, y = (np.arange(0.5, side) - thing.centre[:, None]).astype(np.float32)
    y = y[:, None]
    angle = thing.angle + rng.uniform(0, np.pi)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    u, v = x * cos + y * sin, y * cos - x * sin
    period = max(thing.radius * rng.uniform(0.28, 0.5), 5)
    edge = period / 6  # the amplitude at which a wave of this period rises by 1 in a pixel

    kind = rng.choice(list(_TEXTURES), p=list(_TEXTURES.values()))
    if kind == "stripes":
        texture = 0.5 + edge * np.sin(u * (2 * np.pi / period))
    elif kind == "dots":
        texture = 0.5 + 0.28 * period - np.hypot(u % period - period / 2, v % period - period / 2)
    elif kind == "checks":
        texture = 0.5 + 2 * edge * np.sin(u * (np.pi / period)) * np.sin(v * (np.pi / period))
    elif kind == "gradient":
        texture = 0.5 + u / (1.8 * thing.radius)
    else:
        texture = np.zeros_like(u)
    return np.clip(texture, 0, 1)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient of kindred colours under one to three patterns: (height, width, 3), float32."""
    hue = rng.uniform(160, 400)  # olive and mustard make dull pictures
    saturation, value = _TONES[rng.integers(len(_TONES))]

    def kindred(spread: float) -> np.ndarray:
        turned = (hue + rng.uniform(-spread, spread)) % 360
        pixel = [[(turned, rng.uniform(*saturation), rng.uniform(*value))]]
        return 255 * cv2.cvtColor(np.array(pixel, np.float32), cv2.COLOR_HSV2RGB)[0, 0]

    first, last = kindred(20), kindred(70)
    slope = _along(height, width, rng.uniform(0, 2 * np.pi))
    ramp = 0.5 + 1.2 * slope + 0.5 * (_noise(rng, height, width, 3) - 0.5)
    canvas = first + np.clip(ramp, 0, 1)[..., None] * (last - first)
    for pattern in rng.permutation(_PATTERNS)[: rng.integers(1, 4)]:
        colour = _WHITE if rng.random() < 0.3 else kindred(90)
        where = rng.uniform(0.3, 0.65) * _pattern(rng, pattern, height, width)
        canvas += where[..., None] * (colour - canvas)
    return canvas


def _pattern(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """How far each pixel of a background shows a pattern: (height, width), float32, 0 to 1."""
    size = height, width
    angle = rng.uniform(0, 2 * np.pi)
    if kind == "clouds":
        pattern = 14 * (_noise(rng, *size, rng.integers(4, 8)) - 0.55)
    elif kind == "waves":
        bend = rng.uniform(0, 0.35) * _noise(rng, *size, 4)
        pattern = 0.5 + 2 * np.sin((_along(*size, angle) + bend) * rng.uniform(30, 90))
    elif kind == "contours":
        level = float(rng.integers(5, 9)) * _noise(rng, *size, rng.integers(4, 7))
        pattern = 1.4 - 12 * np.abs(level % 1 - 0.5)
    elif kind == "weave":
        pitch = rng.uniform(60, 130)
        warp, weft = _along(*size, angle), _along(*size, angle + np.pi / 2)
        pattern = 4 * np.maximum(np.sin(pitch * warp), np.sin(pitch * weft)) - 3
    elif kind == "mottle":
        pattern = 1.8 * _noise(rng, *size, rng.integers(12, 30)) - 0.5
    else:
        pattern = _confetti(rng, *size)
    return np.clip(pattern, 0, 1)


def _along(height: int, width: int, angle: float) -> np.ndarray:
    """A ramp in one direction, about -0.5 to 0.5 from one side to the other."""
    x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)[:, None]
    return (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)


def _noise(
    rng: np.random.Generator, height: int, width: int, cells: int | np.integer
) -> np.ndarray:
    """Smooth noise, about 0 to 1, with this many ups and downs from side to side."""
    grid = rng.random((cells, cells), np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _confetti(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Short strokes in all directions."""
    count = int(rng.integers(30, 90))
    start = rng.uniform(0, (width, height), (count, 2))
    angle = rng.uniform(0, 2 * np.pi, count)
    end = start + 0.05 * min(height, width) * np.stack((np.cos(angle), np.sin(angle)), 1)
    strokes = np.rint(np.stack((start, end), 1) * 2**_SHIFT).astype(np.int32)
    pattern = np.zeros((height, width), np.uint8)
    cv2.polylines(pattern, list(strokes), False, 255, 2, cv2.LINE_AA, _SHIFT)
    return pattern.astype(np.float32) / 255
