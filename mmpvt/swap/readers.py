"""Who reads a backbone's maps, and which of PVT's maps each gets instead.

A reader is found by what it says of itself (``in_channels``, ``in_index``) and by where it stands:
a neck reads the backbone, heads read the neck or, without one, the backbone. It gets the map of
the same stage; where dilation had kept that map larger than PVT's, a map of the same stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mmpvt.errors import UserError
from mmpvt.models.archs import STRIDES
from mmpvt.swap.parts import Part
from mmpvt.swap.pyramids import Map, Pyramid, as_list, maps_of, type_name

_PASSES_MAPS_ON = ("JPU",)  # necks that hand all maps but the last to the heads as they came


_VIEWS_MAPS = ("DMHead", "CenterNetHead")  # heads that fold axes of a map together, by a view


class Change(NamedTuple):
    """One change of a config, for people."""

    where: str
    what: str


def refuse_what_is_no_pyramid(part: Part) -> None:
    """Says which models can't take another backbone.

    Raises:
        UserError: a head is a stage of a ResNet, a neck runs a backbone of its own, or what reads
            the backbone is no detector or segmenter.
    """
    if "head" in part.config:  # of a classifier; a detector's and a segmenter's are bbox_head, …
        kind = type_name(part.config) or "the model"
        raise UserError(
            f"{part.path} ({kind}) describes a whole image by one vector, as re-identification "
            "does, and reads no pyramid: there is nothing here for PVT's maps to feed"
        )
    for path, config in part.readers():
        for where, inner in _dicts(config, path):
            if type_name(inner.get("shared_head") or {}) == "ResLayer":
                raise UserError(
                    f"{where}.shared_head is the ResNet's own last stage, run on each box: it "
                    "can't follow another backbone; take the model's FPN variant"
                )
            own = next((key for key in inner if key.endswith("_backbone")), None)
            if own:
                raise UserError(
                    f"{where} ({type_name(inner)}) feeds its maps to a second backbone, {own}, "
                    "that is built to go on from a ResNet's stages, which PVT has not"
                )


def needs_contiguous_maps(part: Part) -> bool:
    """Whether a head takes for granted that maps lie in memory channel by channel."""
    return any(
        type_name(inner) in _VIEWS_MAPS
        for path, config in part.readers()
        for _, inner in _dicts(config, path)
    )


def rewire(part: Part, pyramid: Pyramid) -> tuple[tuple[int, ...], list[Change]]:
    """Makes what reads the backbone's maps read PVT's.

    Args:
        part (Part): the part whose backbone goes; its readers are changed.
        pyramid (Pyramid): the PVT that comes.

    Returns:
        tuple: the ``out_indices`` that PVT gets, and the changes.

    Raises:
        UserError: the maps of the old backbone aren't known, or nothing is found that reads them.
    """
    old = maps_of(part.backbone, part.backbone_path)
    neck = part.get("neck")
    if neck:
        return _rewire_neck(part, old, pyramid)
    heads = [
        (path, head)
        for path, config in part.readers()
        for path, head in _semantic_heads(path, config)
    ]
    if heads:
        readers = [_SemanticReader(path, head, old, pyramid) for path, head in heads]
        return _stages(old), [change for reader in readers for change in reader.rewire()]
    return _rewire_detection_heads(part, old, pyramid)


def _rewire_neck(
    part: Part, old: list[Map], pyramid: Pyramid
) -> tuple[tuple[int, ...], list[Change]]:
    neck, path = part.get("neck"), f"{part.path}.{part.prefix}neck"
    if isinstance(neck, list):
        neck, path = neck[0], f"{path}[0]"
    if "in_channels" not in neck:
        raise UserError(f"{path} ({type_name(neck)}) has no in_channels: it reads no pyramid")
    before = neck["in_channels"]
    # a neck of one map may rely on its stride; one of several brings them to a size itself
    stages = [_same_stride(old[0])] if len(old) == 1 else list(_stages(old))
    if isinstance(before, int):
        neck["in_channels"] = pyramid.width(stages[-1])
    else:
        if len(before) != len(stages):
            raise UserError(
                f"{path} takes {len(before)} maps and {part.backbone_path} gives {len(stages)}"
            )
        # JPU takes a tuple only
        neck["in_channels"] = type(before)(pyramid.width(stage) for stage in stages)
    changes = [_widths(path, before, neck["in_channels"], stages)]
    if type_name(neck) in _PASSES_MAPS_ON:
        for reader_path, config in part.readers():
            for where, head in _semantic_heads(reader_path, config):
                changes += _rewire_passed_on(where, head, stages, pyramid)
    return tuple(stages), changes


def _rewire_passed_on(
    path: str, head: dict, stages: Sequence[int], pyramid: Pyramid
) -> Iterator[Change]:
    before = head["in_channels"]
    widths = as_list(before)
    passed = [
        i % len(stages) < len(stages) - 1 for i in as_list(head.get("in_index", -1))
    ]  # the last map is the neck's own
    for k, index in enumerate(as_list(head.get("in_index", -1))):
        if passed[k]:
            widths[k] = pyramid.width(stages[index])
    if any(passed):
        head["in_channels"] = widths[0] if isinstance(before, int) else widths
        yield Change(f"{path}.in_channels", f"{before} -> {head['in_channels']}, the maps' widths")


class _SemanticReader:
    """One segmentation head that reads the backbone's maps."""

    def __init__(self, path: str, head: dict, old: list[Map], pyramid: Pyramid) -> None:
        self.path, self.head, self.old, self.pyramid = path, head, old, pyramid

    def rewire(self) -> Iterator[Change]:
        before = self.head["in_channels"]
        if not isinstance(before, int) and "in_index" not in self.head:
            indices = range(len(self.old))  # all maps, as mask classification heads take them
        else:
            indices = as_list(self.head.get("in_index", -1))
        maps = [self.old[i] for i in indices]
        if isinstance(before, int) and maps[0].is_dilated and self._can_join(maps[0]):
            yield self._join(maps[0])
        else:
            widths = [self.pyramid.width(each.stage) for each in maps]
            self.head["in_channels"] = widths[0] if isinstance(before, int) else widths
            stages = [each.stage for each in maps]
            yield _widths(self.path, before, self.head["in_channels"], stages)
        if self.head.get("c1_in_channels"):
            before, width = self.head["c1_in_channels"], self.pyramid.width(self.old[0].stage)
            self.head["c1_in_channels"] = width
            yield Change(
                f"{self.path}.c1_in_channels", f"{before} -> {width}, the first map's width"
            )

    def _can_join(self, wanted: Map) -> bool:
        stages = _stages(self.old)
        span = range(_same_stride(wanted), wanted.stage + 1)
        return not self.head.get("input_transform") and set(span) <= set(stages)

    def _join(self, wanted: Map) -> Change:
        """Reads a map as large as the dilated one: PVT's of that stride and those above it."""
        span = range(_same_stride(wanted), wanted.stage + 1)
        before = self.head["in_channels"]
        self.head.update(
            in_channels=[self.pyramid.width(stage) for stage in span],
            in_index=[_stages(self.old).index(stage) for stage in span],
            input_transform="resize_concat",
        )
        return Change(
            f"{self.path}.in_channels",
            f"{before} -> {self.head['in_channels']}, stages {span[0] + 1} to {span[-1] + 1} "
            f"joined at stride {wanted.stride}, where dilation had kept the head's one map",
        )


def _rewire_detection_heads(
    part: Part, old: list[Map], pyramid: Pyramid
) -> tuple[tuple[int, ...], list[Change]]:
    """Heads over the backbone itself: of one map, or of all maps, by the list of their widths."""
    if len(old) == 1:
        stages = (_same_stride(old[0]),)
        # the first that reads says how wide the map was; others repeat it, and so do extractors
        before = next(
            (
                inner["in_channels"]
                for path, config in part.readers()
                for _, inner in _dicts(config, path)
                if isinstance(inner.get("in_channels"), int)
            ),
            None,
        )
        keys: tuple[str, ...] = ("in_channels", "out_channels")
        after: int | list[int] = pyramid.width(stages[0])
    else:
        stages, before, keys = _stages(old), None, ("in_channels",)
        after = [pyramid.width(stage) for stage in stages]

    def reads(key: str, inner: dict) -> bool:
        value = inner.get(key)
        if len(old) > 1:
            return not isinstance(value, int | None) and len(value) == len(old)
        is_extractor = "featmap_strides" in inner
        return value == before and is_extractor == (key == "out_channels") and before is not None

    return stages, list(_replace(part, keys, reads, after, stages))


def _replace(
    part: Part,
    keys: Sequence[str],
    reads: Callable[[str, dict], bool],
    after: int | list[int],
    stages: Sequence[int],
) -> Iterator[Change]:
    found = False
    for path, config in part.readers():
        for where, inner in _dicts(config, path):
            for key in keys:
                if reads(key, inner):
                    found = True
                    yield _widths(where, inner[key], after, stages, key)
                    inner[key] = list(after) if isinstance(after, list) else after
    if not found:
        raise UserError(
            f"nothing beside {part.backbone_path} says by in_channels which of its maps it reads"
        )


def _semantic_heads(path: str, config: object) -> Iterator[tuple[str, dict]]:
    """The dicts within a segmenter's ``decode_head`` or ``auxiliary_head`` that choose maps."""
    if path.rpartition(".")[2].partition("[")[0] not in ("decode_head", "auxiliary_head"):
        return
    if isinstance(config, list):
        for i, head in enumerate(config):
            yield from _semantic_heads(f"{path}[{i}]", head)
        return
    if "in_channels" in config:
        yield path, config
        return
    for where, inner in _dicts(config, path):
        if "in_channels" in inner and "in_index" in inner:
            yield where, inner


def _dicts(config: object, path: str) -> Iterator[tuple[str, dict]]:
    """Every dict within a part of a model, with its path, the outer before the inner."""
    if isinstance(config, dict):
        yield path, config
        for key, value in config.items():
            yield from _dicts(value, f"{path}.{key}")
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from _dicts(value, f"{path}[{i}]")


def _stages(maps: Sequence[Map]) -> tuple[int, ...]:
    return tuple(each.stage for each in maps)


def _same_stride(one: Map) -> int:
    """The stage of PVT whose map has the stride of ``one``."""
    return STRIDES.index(one.stride)


def _widths(
    path: str, before: object, after: object, stages: Sequence[int], key: str = "in_channels"
) -> Change:
    names = " ".join(str(stage + 1) for stage in stages)
    of = "stage" if len(stages) == 1 else "stages"
    before = before if isinstance(before, int) else list(before)
    return Change(f"{path}.{key}", f"{before} -> {after}, the channels of PVT's {of} {names}")
