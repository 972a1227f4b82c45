"""Which backbones a model has, at any depth, and what is configured beside each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmpvt.errors import SwapError

_AUXILIARY = ("teacher", "reid")  # models beside the one that is trained or evaluated


@dataclass(frozen=True)
class Submodel:
    """A model with a backbone, which may itself be a part of another model."""

    path: str  # where it is in the config: "model", "model.detector"
    config: dict  # its entries, which a swap reads and changes
    prefix: str = ""  # of its entries' names: "teacher_" of teacher_backbone

    @property
    def backbone_path(self) -> str:
        return f"{self.path}.{self.prefix}backbone"

    @property
    def backbone(self) -> dict:
        return self.config[f"{self.prefix}backbone"]

    @property
    def is_segmenter(self) -> bool:
        return any(name.endswith("decode_head") for name in self.config)

    def get(self, name: str) -> Any:
        """The entry of a name, such as ``neck``, or None."""
        return self.config.get(self.prefix + name)

    def consumers(self) -> Iterator[tuple[str, Any]]:
        """Path and config of everything beside the backbone that may read its maps."""
        for key, value in self.config.items():
            own = key.startswith(self.prefix) if self.prefix else not key.startswith("teacher_")
            is_module = isinstance(value, Mapping) or (
                isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
            )
            if own and is_module and not key.endswith(("backbone", "_cfg", "data_preprocessor")):
                yield f"{self.path}.{key}", value

    def consumer_dicts(self) -> Iterator[tuple[str, dict]]:
        """Path and config of every dict within the consumers, the outer before the inner."""
        for path, config in self.consumers():
            yield from dicts_within(config, path)


def find_submodel(model: Mapping, wanted: str | None = None) -> Submodel:
    """The submodel whose backbone is to be swapped.

    Args:
        model (Mapping): the model's config.
        wanted (str | None): a name in the path of the backbone (``teacher``, ``detector``).
            Default: the student of a distillation, the detector of a tracker.

    Raises:
        SwapError: there is no backbone, or none or several of the wanted name.
    """
    submodels = list(_submodels(model))
    names = ", ".join(each.backbone_path for each in submodels)
    if not submodels:
        raise SwapError("the config's model has no backbone that could be swapped")
    if wanted is None:
        chosen = [each for each in submodels if not _is_named(each, *_AUXILIARY)] or submodels
    else:
        chosen = [each for each in submodels if _is_named(each, wanted)]
    if not chosen:
        named = SwapError.name_setting("part", wanted)
        raise SwapError(f"{named}: no backbone of that name, the model has {names}")
    if len(chosen) > 1:
        # which train.py lacks
        way = f"name one with {SwapError.name_setting('part')} of swap_backbone"
        raise SwapError(f"the model has several backbones, {names}", hint=way)
    return chosen[0]


def dicts_within(config: object, path: str) -> Iterator[tuple[str, dict]]:
    """Path and config of every dict within a config, the outer before the inner."""
    if isinstance(config, dict):
        yield path, config
        for key, value in config.items():
            yield from dicts_within(value, f"{path}.{key}")
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from dicts_within(value, f"{path}[{i}]")


def _submodels(model: Mapping) -> Iterator[Submodel]:
    for path, config in dicts_within(model, "model"):
        # with in_channels beside it, it is a neck's own, such as RFP's
        if "in_channels" in config or "backbone" in path:
            continue
        for key, value in config.items():
            if f"_{key}".endswith("_backbone") and isinstance(value, Mapping):
                yield Submodel(path, config, key.removesuffix("backbone"))


def _is_named(model: Submodel, *names: str) -> bool:
    steps = model.backbone_path.replace("_backbone", ".backbone").split(".")
    return model.backbone_path in names or any(name in steps for name in names)
