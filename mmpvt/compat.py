"""What makes MMEngine, MMDetection and MMSegmentation run on today's Python and PyTorch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib import metadata, util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
from mmengine.utils import package_utils
from mmengine.visualization import Visualizer

from mmpvt.errors import UserError


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


def map_labels_by_name() -> None:
    """Has MMDetection's COCO data sets and metrics number classes as the config lists them.

    MMDetection 3.3 numbers them in the order of each annotation file's ``categories``, without
    those that the file lacks: two files of the same categories in another order give other labels
    (mmdetection#10675, #8305, #6875). All of its COCO-like data sets and metrics ask
    ``COCO.get_cat_ids(cat_names=classes)``, so that function alone is changed. It can go once
    MMDetection maps categories by name itself.
    """
    after_import("mmdet.datasets.api_wrappers.coco_api", _map_categories_by_name)


def _map_categories_by_name(module: ModuleType) -> None:
    original = module.COCO.get_cat_ids

    @functools.wraps(original)
    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence[str] = (), cat_ids: Sequence = ()
    ) -> list:
        if not cat_names or isinstance(cat_names, str) or sup_names or cat_ids:
            return original(self, cat_names, sup_names, cat_ids)
        by_name: dict[str, object] = {}
        for number, category in self.cats.items():
            name = category["name"]
            if by_name.setdefault(name, number) != number and name in cat_names:
                raise UserError(f"an annotation file has several categories of the name {name!r}")
        for name in cat_names:
            if name not in by_name:  # it has no annotations, but a label all the same
                fresh = 1 + max((n for n in self.cats if isinstance(n, int)), default=0)
                by_name[name], self.cats[fresh] = fresh, dict(id=fresh, name=name)
        return [by_name[name] for name in cat_names]

    module.COCO.get_cat_ids = get_cat_ids


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
    after_import("mmpretrain.utils.dependency", _switch_off_multimodal)


def _switch_off_multimodal(module: ModuleType) -> None:
    if module.WITH_MULTIMODAL:
        from transformers import modeling_utils

        names = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices")
        module.WITH_MULTIMODAL = all(hasattr(modeling_utils, name) for name in names)


def after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """Calls ``change`` on a module once it is imported, which may be never; at once if it is."""
    if name in sys.modules:
        change(sys.modules[name])
    else:
        sys.meta_path.insert(0, _AfterImport(name, change))


class _AfterImport(MetaPathFinder, Loader):
    """Finds one module as the finders after it do, and changes it when it has run."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self.name, self.change = name, change

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.change(module)
