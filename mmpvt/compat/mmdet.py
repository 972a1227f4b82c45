"""Changes to MMDetection."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from types import ModuleType

from mmpvt.compat.patching import after_import, replace_attribute
from mmpvt.errors import DatasetError


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
