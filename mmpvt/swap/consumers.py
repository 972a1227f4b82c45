"""What reads a backbone's maps (necks, heads), and which of PVT's maps each gets instead.

A consumer is found by its own settings (``in_channels``, ``in_index``) and by its place: a neck
reads the backbone, heads read the neck or, without one, the backbone. It gets PVT's map of the same
stage; where dilation had kept that map larger than PVT's, a map of the same stride.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmpvt.errors import SwapError
from mmpvt.swap.feature_maps import FeatureMap, as_list, feature_maps, type_name
from mmpvt.swap.submodels import Submodel, dicts_within

_PASS_MAPS_ON = ("JPU",)  # necks that give all maps but the last to the heads as they came


class Change(NamedTuple):
    """A change of a config, for people."""

    where: str  # dotted path in the config
    what: str  # from what to what, and why


def rewire(model: Submodel, channels: Sequence[int]) -> tuple[tuple[int, ...], list[Change]]:
    """Changes the consumers of the backbone's maps to those of PVT.

    Args:
        model (Submodel): whose consumers are changed.
        channels (Sequence[int]): of PVT's four maps.

    Returns:
        tuple: the ``out_indices`` for PVT, and the changes.

    Raises:
        SwapError: the maps of the old backbone aren't known, or no consumer is found.
    """
    old = feature_maps(model.backbone, model.backbone_path)
    if model.get("neck"):
        return _rewire_neck(model, old, channels)
    changes = [
        change
        for path, head in _segmentation_heads(model)
        for change in _rewire_segmentation_head(path, head, old, channels)
    ]
    if changes:
        return tuple(each.stage for each in old), changes
    return _rewire_detection_heads(model, old, channels)


def _set_channels(
    path: str,
    config: dict,
    stages: Sequence[int],
    channels: Sequence[int],
    key: str = "in_channels",
) -> Change:
    """Sets a consumer's channels to those of PVT's stages: the last's, where it takes one map."""
    before = config[key]
    if isinstance(before, int):
        config[key] = channels[stages[-1]]
    else:
        config[key] = type(before)(channels[stage] for stage in stages)  # JPU takes a tuple only
        before = list(before)
    of = "stage" if len(stages) == 1 else "stages"
    names = " ".join(str(stage + 1) for stage in stages)
    after = config[key] if isinstance(before, int) else list(config[key])
    return Change(f"{path}.{key}", f"{before} -> {after}, the channels of PVT's {of} {names}")


def _rewire_neck(
    model: Submodel, old: list[FeatureMap], channels: Sequence[int]
) -> tuple[tuple[int, ...], list[Change]]:
    neck, path = model.get("neck"), f"{model.path}.{model.prefix}neck"
    if isinstance(neck, list):
        neck, path = neck[0], f"{path}[0]"
    if "in_channels" not in neck:
        raise SwapError(f"{path} ({type_name(neck)}) has no in_channels: it reads no pyramid")
    before = neck["in_channels"]
    # a neck of one map may rely on its stride; one of several resizes them itself
    stages = [old[0].pvt_stage] if len(old) == 1 else [each.stage for each in old]
    if not isinstance(before, int) and len(before) != len(stages):
        raise SwapError(
            f"{path} takes {len(before)} maps and {model.backbone_path} gives {len(stages)}"
        )
    changes = [_set_channels(path, neck, stages, channels)]
    if type_name(neck) in _PASS_MAPS_ON:
        for where, head in _segmentation_heads(model):
            changes += _rewire_passed_on(where, head, stages, channels)
    return tuple(stages), changes


def _rewire_passed_on(
    path: str, head: dict, stages: Sequence[int], channels: Sequence[int]
) -> Iterator[Change]:
    """A head over a neck that passes the backbone's maps on, except the last."""
    before = head["in_channels"]
    widths = as_list(before)
    for k, index in enumerate(as_list(head.get("in_index", -1))):
        if index % len(stages) < len(stages) - 1:
            widths[k] = channels[stages[index]]
    if widths != as_list(before):
        head["in_channels"] = widths[0] if isinstance(before, int) else widths
        yield Change(
            f"{path}.in_channels",
            f"{before} -> {head['in_channels']}, as the neck passes PVT's maps on",
        )


def _segmentation_heads(model: Submodel) -> Iterator[tuple[str, dict]]:
    """Path and config of what chooses maps within ``decode_head`` and ``auxiliary_head``."""
    for path, config in model.consumers():
        if path.rpartition(".")[2] not in ("decode_head", "auxiliary_head"):
            continue
        heads = enumerate(config) if isinstance(config, list) else [(None, config)]
        for i, head in heads:
            where = path if i is None else f"{path}[{i}]"
            if "in_channels" in head:
                yield where, head
            else:
                for inner_path, inner in dicts_within(head, where):
                    if "in_channels" in inner and "in_index" in inner:
                        yield inner_path, inner


def _rewire_segmentation_head(
    path: str, head: dict, old: list[FeatureMap], channels: Sequence[int]
) -> Iterator[Change]:
    before = head["in_channels"]
    if not isinstance(before, int) and "in_index" not in head:
        maps = old  # mask classification heads take all of them
    else:
        maps = [old[i] for i in as_list(head.get("in_index", -1))]
    stages = [each.stage for each in old]
    joined = range(maps[0].pvt_stage, maps[0].stage + 1)  # longer than 1 if the map was dilated
    can_join = not head.get("input_transform") and set(joined) <= set(stages)
    if isinstance(before, int) and len(joined) > 1 and can_join:
        head.update(
            in_channels=[channels[stage] for stage in joined],
            in_index=[stages.index(stage) for stage in joined],
            input_transform="resize_concat",
        )
        yield Change(
            f"{path}.in_channels",
            f"{before} -> {head['in_channels']}, stages {joined[0] + 1} to {joined[-1] + 1} "
            f"joined at stride {maps[0].stride}, where dilation had kept the head's one map",
        )
    else:
        yield _set_channels(path, head, [each.stage for each in maps], channels)
    if head.get("c1_in_channels"):
        before, first = head["c1_in_channels"], channels[stages[0]]
        head["c1_in_channels"] = first
        yield Change(f"{path}.c1_in_channels", f"{before} -> {first}, the first map's channels")


def _rewire_detection_heads(
    model: Submodel, old: list[FeatureMap], channels: Sequence[int]
) -> tuple[tuple[int, ...], list[Change]]:
    """Heads that read the backbone itself, without a neck between."""
    stages = tuple(each.stage for each in old)
    if len(old) == 1:
        stages = (old[0].pvt_stage,)
    changes = [
        _set_channels(path, head, stages, channels, key)
        for path, head, key in _detection_heads(model, len(old))
    ]
    if not changes:
        raise SwapError(
            f"nothing beside {model.backbone_path} says by in_channels which of its maps it reads"
        )
    return stages, changes


def _detection_heads(model: Submodel, count: int) -> list[tuple[str, dict, str]]:
    """Path and config of what reads ``count`` maps, and the key of the channels that it reads.

    Mask classification heads list all maps' channels. Of one map the first head gives the channels;
    others repeat them, and so do RoI extractors as their ``out_channels``.
    """
    configs = list(model.consumer_dicts())
    if count > 1:
        return [
            (path, config, "in_channels")
            for path, config in configs
            if isinstance(widths := config.get("in_channels"), list | tuple)
            and len(widths) == count
        ]
    numbers = (config.get("in_channels") for _, config in configs)
    width = next((each for each in numbers if isinstance(each, int)), None)
    keys = (
        "out_channels" if "featmap_strides" in config else "in_channels" for _, config in configs
    )
    return [
        (path, config, key)
        for (path, config), key in zip(configs, keys, strict=True)
        if width is not None and config.get(key) == width
    ]
