"""Segmentation heads: which maps they read, and which of PVT's they get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmpvt.swap.changes import Change, width_change
from mmpvt.swap.parts import dicts_within
from mmpvt.swap.pyramids import Map, Pyramid, as_list, same_stride, stages_of


def semantic_heads(path: str, config: object) -> Iterator[tuple[str, dict]]:
    """The dicts within a segmenter's ``decode_head`` or ``auxiliary_head`` that choose maps.

    Args:
        path (str): where a part of the model stands; of other parts nothing comes.
        config (object): the part.

    Yields:
        tuple: path and dict, one for each head.
    """
    if path.rpartition(".")[2].partition("[")[0] not in ("decode_head", "auxiliary_head"):
        return
    if isinstance(config, list):
        for i, head in enumerate(config):
            yield from semantic_heads(f"{path}[{i}]", head)
        return
    if "in_channels" in config:
        yield path, config
        return
    for where, inner in dicts_within(config, path):
        if "in_channels" in inner and "in_index" in inner:
            yield where, inner


class SemanticReader:
    """One segmentation head that reads the backbone's maps.

    Args:
        path (str): where it stands.
        head (dict): its config, which is changed.
        old (list[Map]): the maps of the backbone that goes.
        pyramid (Pyramid): the PVT that comes.
    """

    def __init__(self, path: str, head: dict, old: list[Map], pyramid: Pyramid) -> None:
        self.path, self.head, self.old, self.pyramid = path, head, old, pyramid

    def rewire(self) -> Iterator[Change]:
        """Makes the head read PVT's maps, and says how."""
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
            yield width_change(self.path, before, self.head["in_channels"], stages)
        if self.head.get("c1_in_channels"):
            before, width = self.head["c1_in_channels"], self.pyramid.width(self.old[0].stage)
            self.head["c1_in_channels"] = width
            yield Change(
                f"{self.path}.c1_in_channels", f"{before} -> {width}, the first map's width"
            )

    def _can_join(self, wanted: Map) -> bool:
        stages = stages_of(self.old)
        span = range(same_stride(wanted), wanted.stage + 1)
        return not self.head.get("input_transform") and set(span) <= set(stages)

    def _join(self, wanted: Map) -> Change:
        """Reads a map as large as the dilated one: PVT's of that stride and those above it."""
        span = range(same_stride(wanted), wanted.stage + 1)
        before = self.head["in_channels"]
        self.head.update(
            in_channels=[self.pyramid.width(stage) for stage in span],
            in_index=[stages_of(self.old).index(stage) for stage in span],
            input_transform="resize_concat",
        )
        return Change(
            f"{self.path}.in_channels",
            f"{before} -> {self.head['in_channels']}, stages {span[0] + 1} to {span[-1] + 1} "
            f"joined at stride {wanted.stride}, where dilation had kept the head's one map",
        )


def rewire_passed_on(
    path: str, head: dict, stages: Sequence[int], pyramid: Pyramid
) -> Iterator[Change]:
    """A head over a neck that passes the backbone's maps on, but for the last.

    Args:
        path (str): where it stands.
        head (dict): its config, which is changed.
        stages (Sequence[int]): PVT's stages that the neck reads.
        pyramid (Pyramid): the PVT that comes.

    Yields:
        Change: what was changed.
    """
    before = head["in_channels"]
    widths = as_list(before)
    for k, index in enumerate(as_list(head.get("in_index", -1))):
        if index % len(stages) < len(stages) - 1:
            widths[k] = pyramid.width(stages[index])
    if widths != as_list(before):
        head["in_channels"] = widths[0] if isinstance(before, int) else widths
        yield Change(
            f"{path}.in_channels",
            f"{before} -> {head['in_channels']}, as the neck passes PVT's maps on",
        )
