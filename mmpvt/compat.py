"""What makes MMEngine, MMDetection and MMSegmentation run on today's Python and PyTorch."""

from __future__ import annotations

import sys
from importlib import metadata, util
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
from mmengine.utils import package_utils
from mmengine.visualization import Visualizer


def is_installed(package: str) -> bool:
    """Whether ``package`` is there, as a distribution or as something that imports."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        spec = util.find_spec(package)
        return spec is not None and spec.origin is not None
    return True


def get_installed_path(package: str) -> str:
    """The folder that a distribution's (or a module's) code lies in.

    Args:
        package (str): ``'mmdet'`` or ``'mmsegmentation'``, say.

    Returns:
        str: path of the folder.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    spec = util.find_spec(_module_of(package))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return str(Path(spec.origin).parent)


def _module_of(package: str) -> str:
    if util.find_spec(package) is not None:
        return package
    try:
        named = metadata.distribution(package).read_text("top_level.txt") or ""
    except metadata.PackageNotFoundError:
        named = ""
    return next(iter(named.split()), package)


def replace_package_lookup() -> None:
    """Puts the two functions above in MMEngine's place, wherever it has imported its own.

    MMEngine 0.10.7 asks ``pkg_resources`` for a package's folder, to resolve ``mmdet::`` in a
    config; setuptools 82 dropped that module.
    """
    for new in (is_installed, get_installed_path):
        old = getattr(package_utils, new.__name__)
        for name, module in list(sys.modules.items()):
            if name.startswith("mmengine") and getattr(module, new.__name__, None) is old:
                setattr(module, new.__name__, new)


def keep_pictures_in_place() -> None:
    """Keeps an image where it is while boxes are drawn over it.

    matplotlib 3.11 fits the view to every collection that is added; MMEngine 0.10.7 adds each box
    as one, and its pictures shift and shrink.
    """
    set_image = Visualizer.set_image
    if set_image.__module__ == __name__:
        return

    def set_image_and_view(self: Visualizer, image: np.ndarray) -> None:
        set_image(self, image)
        self.ax_save.autoscale(False)

    Visualizer.set_image = set_image_and_view


_MMPRETRAIN_SWITCH = "mmpretrain.utils.dependency"


def switch_off_mmpretrain_multimodal() -> None:
    """Lets mmpretrain be imported beside a transformers that its language models can't use.

    mmpretrain 1.2.0, the last release, imports its multimodal models wherever transformers 4.28 or
    newer is installed. They need names of ``transformers.modeling_utils`` that are gone since
    4.57 (4.53 has them): ``import mmpretrain.models`` ends in ``TypeError: NoneType takes no
    arguments``, and with it ``import mmdet.models``, ``import mmseg.models`` and the configs that
    import mmpretrain. Where the names are gone, mmpretrain is told what it is told where
    transformers is missing; its other models don't change. Nothing is imported before mmpretrain
    is. No upstream report is known; this can go once a release of mmpretrain imports beside
    transformers 5.
    """
    if _MMPRETRAIN_SWITCH not in sys.modules and _MultimodalSwitch not in sys.meta_path:
        sys.meta_path.insert(0, _MultimodalSwitch)


class _MultimodalSwitch:
    """Finds one module of mmpretrain, to change a flag once it has run."""

    @classmethod
    def find_spec(
        cls, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MMPRETRAIN_SWITCH:
            return None
        sys.meta_path.remove(cls)
        spec = util.find_spec(name)
        if spec is not None and spec.origin is not None:
            spec.loader = _SwitchLoader(name, spec.origin)
        return spec


class _SwitchLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if module.WITH_MULTIMODAL:
            from transformers import modeling_utils

            names = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices")
            module.WITH_MULTIMODAL = all(hasattr(modeling_utils, name) for name in names)
