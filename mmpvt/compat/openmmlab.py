"""Changes to MMEngine, MMDetection, mmpretrain and to torchvision, which mmpretrain imports."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.utils import package_utils

from mmpvt.compat.patching import after_import, replace_attribute
from mmpvt.errors import DatasetError


def fix_package_lookup(undo: ExitStack) -> None:
    """Has MMEngine find packages without ``pkg_resources``, to resolve ``mmdet::`` in a config.

    MMEngine 0.10.7, the last release, asks ``pkg_resources`` for a package's folder, which
    setuptools 82 dropped. No upstream report is known. It can go once MMEngine asks
    ``importlib.metadata``.

    A base's file is taken from its place at once. MMEngine looks it up in all metafiles of the
    package first, half a second for each base, by a name without the ending that theirs have, and
    so finds none.
    """
    for ours in (is_installed, get_installed_path):
        theirs = getattr(package_utils, ours.__name__)
        if theirs is not ours:
            _replace_in_mmengine(theirs, ours)
            undo.callback(_replace_in_mmengine, ours, theirs)
    after_import("mmengine.config.config", _skip_metafiles, undo)


def _skip_metafiles(module: ModuleType, undo: ExitStack) -> None:
    search = module._get_external_cfg_path

    def find(package_path: str, cfg_path: str) -> str:
        file = Path(package_path, ".mim", "configs", cfg_path)
        return str(file) if file.is_file() else search(package_path, cfg_path)

    replace_attribute(module, "_get_external_cfg_path", find, undo)


def _replace_in_mmengine(old: Callable, new: Callable) -> None:
    """Replaces a function in every module of MMEngine that has imported it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("mmengine"):
            for name in {old.__name__, new.__name__}:
                if getattr(module, name, None) is old:
                    setattr(module, name, new)


def format_config_once(undo: ExitStack) -> None:
    """Has MMEngine format a config's text once.

    A run's start takes the text five times, and each checkpoint again: 0.1 to 0.4 s of yapf each.
    No upstream report is known. It can go once MMEngine keeps the text.
    """
    after_import("mmengine.config.config", _keep_formatted, undo)


def _keep_formatted(module: ModuleType, undo: ExitStack) -> None:
    if not hasattr(module, "FormatCode"):  # OneDL's fork
        return
    format_code = module.FormatCode
    known: dict[str, tuple] = {}

    def format_once(text: str, **options: Any) -> tuple:
        found = known.get(text)
        if found is None:
            found = format_code(text, **options)
            known.clear()  # a run has one config
            known[text] = found
        return found

    replace_attribute(module, "FormatCode", format_once, undo)


def is_installed(package: str) -> bool:
    """Whether ``package`` is there, as a distribution or as something that imports."""
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        spec = util.find_spec(_module_of(package))
        return spec is not None and spec.origin is not None
    return True


def get_installed_path(package: str) -> str:
    """The folder of a distribution's (or a module's) code: ``'mmdet'``, ``'mmsegmentation'``.

    Raises:
        ModuleNotFoundError: there is no such package.
    """
    spec = util.find_spec(_module_of(package))
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return str(Path(spec.origin).parent)


def _module_of(package: str) -> str:
    """The name that a distribution is imported by; OneDL's have other names and equal modules."""
    from mmengine.config.utils import MODULE2PACKAGE  # takes time to import

    for module, distribution in MODULE2PACKAGE.items():
        if distribution == package:
            return module
    if util.find_spec(package) is None:
        with suppress(metadata.PackageNotFoundError):
            listed = metadata.distribution(package).read_text("top_level.txt") or ""
            return next(iter(listed.split()), package)
    return package


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
        def read(filename: str, map_location: str | None = None, **_) -> dict:
            return load(filename, map_location)

        def restore(scheme: str, before: Callable) -> None:
            if loader._schemes.get(scheme) is read:
                loader.register_scheme(scheme, before, force=True)

        loader = module.CheckpointLoader
        for scheme in ("", "http://", "https://"):
            before = loader._schemes[scheme]
            if before.__module__ == module.__name__:  # MMEngine's own
                loader.register_scheme(scheme, read, force=True)
                undo.callback(restore, scheme, before)

    after_import("mmengine.runner.checkpoint", register, undo)


def map_labels_by_name(undo: ExitStack) -> None:
    """Has MMDetection's COCO data sets and metrics number classes as the config lists them.

    MMDetection 3.3, the last release, numbers them in the order of each annotation file's
    ``categories``, without those that the file lacks: two files of the same categories in another
    order give other labels (mmdetection#10675, #8305, #6875). All of its COCO-like data sets and
    metrics ask ``COCO.get_cat_ids(cat_names=classes)``, so that function alone is changed. It can
    go once MMDetection maps categories by name itself.
    """
    after_import("mmdet.datasets.api_wrappers.coco_api", _map_categories_by_name, undo)


def _map_categories_by_name(module: ModuleType, undo: ExitStack) -> None:
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
                raise DatasetError(
                    f"an annotation file has several categories of the name {name!r}"
                )
        for name in cat_names:
            if name not in by_name:  # it has no annotations, but a label all the same
                fresh = 1 + max((n for n in self.cats if isinstance(n, int)), default=0)
                by_name[name], self.cats[fresh] = fresh, dict(id=fresh, name=name)
        return [by_name[name] for name in cat_names]

    replace_attribute(module.COCO, "get_cat_ids", get_cat_ids, undo)


def weigh_ignored_pixels(undo: ExitStack) -> None:
    """Lets MMSegmentation's cross-entropy weigh classes where label maps hold ignored pixels.

    MMSegmentation 1.2.2, the last release, looks up the weight of class 255, too: ``IndexError``
    (mmsegmentation#3734, #3831). Here such pixels count as of weight 1 in the mean, so that weights
    of 1 give what none give, and not at all with ``avg_non_ignore``. It can go once #3457 or
    another fix is released.
    """
    after_import("mmseg.models.losses.cross_entropy_loss", _weigh_ignored_pixels, undo)


def _weigh_ignored_pixels(module: ModuleType, undo: ExitStack) -> None:
    original = module.cross_entropy

    @functools.wraps(original)
    def cross_entropy(
        pred: Any,
        label: Any,
        weight: Any = None,
        class_weight: Any = None,
        reduction: str = "mean",
        avg_factor: Any = None,
        ignore_index: int = -100,
        avg_non_ignore: bool = False,
    ) -> Any:
        if class_weight is not None and avg_factor is None and reduction == "mean":
            ignored = label == ignore_index
            weights = class_weight[label.masked_fill(ignored, 0)]
            avg_factor = weights.masked_fill(ignored, 0 if avg_non_ignore else 1).sum()
        return original(
            *(pred, label, weight, class_weight, reduction, avg_factor),
            ignore_index=ignore_index,
            avg_non_ignore=avg_non_ignore,
        )

    replace_attribute(module, "cross_entropy", cross_entropy, undo)


def import_torchvision(undo: ExitStack) -> None:
    """Lets torchvision be imported where its kernels don't fit this PyTorch.

    A torchvision that was built for CUDA, as PyPI's is, has no kernels beside a PyTorch for CPUs;
    it means to go on without, and then fails on their shape functions: ``RuntimeError: operator
    torchvision::nms does not exist`` (pytorch/vision#9085). mmpretrain needs its image transforms
    alone. The shape functions are skipped; whoever calls a kernel is told what is wrong, by
    torchvision. It can go once torchvision skips them itself.
    """
    after_import("torchvision.extension", _skip_shape_functions, undo)


def _skip_shape_functions(module: Any, undo: ExitStack) -> None:
    if not module._has_ops():
        name = "torchvision._meta_registrations"
        sys.modules.setdefault(name, ModuleType(name))
        undo.callback(sys.modules.pop, name, None)


def switch_off_multimodal(undo: ExitStack) -> None:
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
    after_import("mmpretrain.utils.dependency", _switch_off, undo)


def _switch_off(module: Any, _: ExitStack) -> None:
    """This isn't undone: what mmpretrain has imported by then follows from it."""
    if module.WITH_MULTIMODAL:
        try:
            from transformers import modeling_utils
        except ImportError:  # as of one for another PyTorch
            module.WITH_MULTIMODAL = False
            return
        names = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices")
        module.WITH_MULTIMODAL = all(hasattr(modeling_utils, name) for name in names)
