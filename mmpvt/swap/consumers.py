"""Who reads a backbone's maps, and which of PVT's maps each gets instead.

A reader is found by what it says of itself (``in_channels``, ``in_index``) and by where it stands:
a neck reads the backbone, heads read the neck or, without one, the backbone. It gets the map of
the same stage; where dilation had kept that map larger than PVT's, a map of the same stride.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmpvt.errors import UserError
from mmpvt.swap.changes import Change, width_change
from mmpvt.swap.parts import Part, dicts_within
from mmpvt.swap.pyramids import Map, Pyramid, maps_of, same_stride, stages_of, type_name
from mmpvt.swap.segmentation import SemanticReader, rewire_passed_on, semantic_heads

_PASSES_MAPS_ON = ("JPU",)  # necks that hand all maps but the last to the heads as they came
_VIEWS_MAPS = ("DMHead", "CenterNetHead")  # heads that fold axes of a map together, by a view


def needs_contiguous_maps(part: Part) -> bool:
    """Whether a head takes for granted that maps lie in memory channel by channel."""
    return any(
        type_name(inner) in _VIEWS_MAPS
        for path, config in part.readers()
        for _, inner in dicts_within(config, path)
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
        for path, head in semantic_heads(path, config)
    ]
    if heads:
        readers = [SemanticReader(path, head, old, pyramid) for path, head in heads]
        return stages_of(old), [change for reader in readers for change in reader.rewire()]
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
    stages = [same_stride(old[0])] if len(old) == 1 else list(stages_of(old))
    if isinstance(before, int):
        neck["in_channels"] = pyramid.width(stages[-1])
    else:
        if len(before) != len(stages):
            raise UserError(
                f"{path} takes {len(before)} maps and {part.backbone_path} gives {len(stages)}"
            )
        # JPU takes a tuple only
        neck["in_channels"] = type(before)(pyramid.width(stage) for stage in stages)
    changes = [width_change(path, before, neck["in_channels"], stages)]
    if type_name(neck) in _PASSES_MAPS_ON:
        for reader_path, config in part.readers():
            for where, head in semantic_heads(reader_path, config):
                changes += rewire_passed_on(where, head, stages, pyramid)
    return tuple(stages), changes


def _rewire_detection_heads(
    part: Part, old: list[Map], pyramid: Pyramid
) -> tuple[tuple[int, ...], list[Change]]:
    """Heads over the backbone itself, without a neck between."""
    is_one = len(old) == 1
    stages = (same_stride(old[0]),) if is_one else stages_of(old)
    widths = [pyramid.width(stage) for stage in stages]
    changes = []
    for where, reader, key in _readers_of_one(part) if is_one else _readers_of_all(part, len(old)):
        after = widths[0] if is_one else list(widths)
        changes.append(width_change(where, reader[key], after, stages, key))
        reader[key] = after
    if not changes:
        raise UserError(
            f"nothing beside {part.backbone_path} says by in_channels which of its maps it reads"
        )
    return stages, changes


def _readers_of_all(part: Part, count: int) -> Iterator[tuple[str, dict, str]]:
    """Mask classification heads: a list of the widths of all maps."""
    for path, config in part.readers():
        for where, inner in dicts_within(config, path):
            widths = inner.get("in_channels")
            if isinstance(widths, list | tuple) and len(widths) == count:
                yield where, inner, "in_channels"


def _readers_of_one(part: Part) -> Iterator[tuple[str, dict, str]]:
    """Heads of one map. The first says how wide it is; others repeat it, and so do extractors of
    boxes, as what leaves them is as wide."""
    parts = [each for path, config in part.readers() for each in dicts_within(config, path)]
    widths = (inner.get("in_channels") for _, inner in parts)
    width = next((each for each in widths if isinstance(each, int)), None)
    for where, inner in parts:
        key = "out_channels" if "featmap_strides" in inner else "in_channels"
        if width is not None and inner.get(key) == width:
            yield where, inner, key
