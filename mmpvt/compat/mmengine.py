"""Changes to MMEngine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.utils import package_utils

from mmpvt.compat.patching import after_import, replace_attribute


def fix_package_lookup(undo: ExitStack) -> None:
    """Has MMEngine find packages without ``pkg_resources``, to resolve ``mmdet::`` in a config.

    MMEngine 0.10.7, the last release, asks ``pkg_resources`` for a package's folder, which
    setuptools 82 dropped. No upstream report is known. It can go once MMEngine asks
    ``importlib.metadata``.
    """
    for ours in (is_installed, get_installed_path):
        theirs = getattr(package_utils, ours.__name__)
        if theirs is not ours:
            _replace_in_mmengine(theirs, ours)
            undo.callback(_replace_in_mmengine, ours, theirs)


def _replace_in_mmengine(old: Callable, new: Callable) -> None:
    """Replaces a function in every module of MMEngine that has imported it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("mmengine"):
            for name in {old.__name__, new.__name__}:
                if getattr(module, name, None) is old:
                    setattr(module, name, new)


def is_installed(package: str) -> bool:
    """Whether ``package`` is there, as a distribution or as something that imports."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        spec = util.find_spec(package)
        return spec is not None and spec.origin is not None
    return True


def get_installed_path(package: str) -> str:
    """The folder of a distribution's (or a module's) code: ``'mmdet'``, ``'mmsegmentation'``.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    module = package
    if util.find_spec(package) is None:
        try:
            listed = metadata.distribution(package).read_text("top_level.txt") or ""
        except metadata.PackageNotFoundError:
            listed = ""
        module = next(iter(listed.split()), package)
    spec = util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return str(Path(spec.origin).parent)


def keep_image_in_place(undo: ExitStack) -> None:
    """Has MMEngine's ``Visualizer`` keep an image where it is while boxes are drawn over it.

    matplotlib 3.11 fits the view to every collection that is added; MMEngine 0.10.7 adds each box
    as one, and its images shift and shrink. No upstream report is known. It can go once
    ``Visualizer.set_image`` fixes the view.
    """
    after_import("mmengine.visualization.visualizer", _fix_view, undo)


def _fix_view(module: ModuleType, undo: ExitStack) -> None:
    set_image = module.Visualizer.set_image

    def set_image_and_view(self: Any, image: Any) -> None:
        set_image(self, image)
        self.ax_save.autoscale(False)

    replace_attribute(module.Visualizer, "set_image", set_image_and_view, undo)


def load_checkpoints_with(load: Callable[[str, str | None], dict], undo: ExitStack) -> None:
    """Has MMEngine read files and ``http(s)://`` URLs with another function.

    ``torch.load`` of PyTorch 2.6 and newer refuses what MMEngine 0.10.7 itself stores beside the
    weights (mmengine#1655), and its downloads may be left half written. Loaders that another
    package has registered for these schemes, and all other schemes, stay. It can go once MMEngine
    reads its own checkpoints with ``weights_only=True``; older layouts of detectors then need to
    be converted elsewhere.

    Args:
        load (Callable): takes the path or URL and ``torch.load``'s ``map_location``.
        undo (ExitStack): undoes it.
    """

    def register(module: ModuleType, undo: ExitStack) -> None:
        def load_from_local(filename: str, map_location: str | None = None) -> dict:
            return load(filename, map_location)

        def load_from_http(filename: str, map_location: str | None = None, **_) -> dict:
            return load(filename, map_location)

        def restore(scheme: str, before: Callable, ours: Callable) -> None:
            if loader._schemes.get(scheme) is ours:
                loader.register_scheme(scheme, before, force=True)

        loader = module.CheckpointLoader
        ours = {"": load_from_local, "http://": load_from_http, "https://": load_from_http}
        for scheme, function in ours.items():
            before = loader._schemes[scheme]
            if before.__module__ == module.__name__:  # MMEngine's own
                loader.register_scheme(scheme, function, force=True)
                undo.callback(restore, scheme, before, function)

    after_import("mmengine.runner.checkpoint", register, undo)
