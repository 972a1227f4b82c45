"""Registries of scope ``mmpvt``, children of MMEngine's.

A config names what is registered here with the scope in front
(``type='mmpvt.PyramidVisionTransformer'``), so classes of the same name in MMDetection or
MMSegmentation stay what they are.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope="mmpvt",
    locations=["mmpvt.models", "mmpvt.models.trans2seg"],
)
DATASETS = Registry(
    "dataset", parent=MMENGINE_DATASETS, scope="mmpvt", locations=["mmpvt.datasets.shapes_dataset"]
)
TRANSFORMS = Registry(
    "transform", parent=MMENGINE_TRANSFORMS, scope="mmpvt", locations=["mmpvt.datasets.loading"]
)
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope="mmpvt", locations=["mmpvt.engine"])
