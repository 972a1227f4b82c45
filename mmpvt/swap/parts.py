"""Which backbones a model has, at any depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mmpvt.errors import UserError

_NOT_THE_DETECTOR = ("teacher", "reid")  # what stands beside the model that is to be better


@dataclass(frozen=True)
class Part:
    """A part of a model that has a backbone.

    Attributes:
        path: where it stands in the config: ``model``, ``model.detector``.
        config: the part itself, whose entries are read and changed.
        prefix: what the names of its entries begin with: ``teacher_`` of ``teacher_backbone``.
    """

    path: str
    config: dict
    prefix: str = ""

    @property
    def backbone_path(self) -> str:
        """Where the backbone stands."""
        return f"{self.path}.{self.prefix}backbone"

    @property
    def backbone(self) -> dict:
        """The backbone's config."""
        return self.config[f"{self.prefix}backbone"]

    def get(self, name: str) -> object:
        """The entry of a name, such as ``neck``, or None."""
        return self.config.get(self.prefix + name)

    def readers(self) -> Iterator[tuple[str, object]]:
        """Path and config of everything beside the backbone that may read maps."""
        for key, value in self.config.items():
            own = key.startswith(self.prefix) if self.prefix else not key.startswith("teacher_")
            is_part = isinstance(value, Mapping) or (
                isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
            )
            if own and is_part and not key.endswith(("backbone", "_cfg", "data_preprocessor")):
                yield f"{self.path}.{key}", value


def find_part(model: Mapping, wanted: str | None = None) -> Part:
    """The part of a model whose backbone is to be swapped.

    Args:
        model (Mapping): the model's config.
        wanted (str | None): a name on the way to the backbone (``teacher``, ``detector``), for
            another than the student of a distillation or the detector of a tracker.

    Returns:
        Part: the part.

    Raises:
        UserError: there is no backbone, or none or several of the wanted name.
    """
    parts = list(_walk(model, "model"))
    names = ", ".join(part.backbone_path for part in parts)
    if not parts:
        raise UserError("the config's model has no backbone that could be swapped")
    if wanted is None:
        chosen = [part for part in parts if not _mentions(part, *_NOT_THE_DETECTOR)] or parts
    else:
        chosen = [part for part in parts if _mentions(part, wanted)]
    if not chosen:
        raise UserError(f"--part {wanted}: no backbone of that name, the model has {names}")
    if len(chosen) > 1:
        raise UserError(f"the model has several backbones: name one of {names} with --part")
    return chosen[0]


def dicts_within(config: object, path: str) -> Iterator[tuple[str, dict]]:
    """Every dict within a part of a model, the outer before the inner.

    Args:
        config (object): the part.
        path (str): where it stands.

    Yields:
        tuple: path and dict.
    """
    if isinstance(config, dict):
        yield path, config
        for key, value in config.items():
            yield from dicts_within(value, f"{path}.{key}")
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from dicts_within(value, f"{path}[{i}]")


def _walk(config: object, path: str) -> Iterator[Part]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            is_backbone = key == "backbone" or key.endswith("_backbone")
            if is_backbone and isinstance(value, Mapping):
                if "in_channels" not in config:  # a neck's own, such as RFP's, is no part
                    yield Part(path, config, key.removesuffix("backbone"))
            else:
                yield from _walk(value, f"{path}.{key}")
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from _walk(value, f"{path}[{i}]")


def _mentions(part: Part, *names: str) -> bool:
    steps = part.backbone_path.replace("_backbone", ".backbone").split(".")
    return part.backbone_path in names or any(name in steps for name in names)
