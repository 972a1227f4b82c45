"""Registries of scope ``mmpvt``, children of MMEngine's.

A config names what is registered here with the scope in front
(``type='mmpvt.PyramidVisionTransformer'``), so classes of the same name in MMDetection or
MMSegmentation stay what they are.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope="mmpvt",
    locations=["mmpvt.models", "mmpvt.models.data_preprocessor", "mmpvt.models.trans2seg"],
)
DATASETS = Registry(
    "dataset", parent=MMENGINE_DATASETS, scope="mmpvt", locations=["mmpvt.datasets.shapes_dataset"]
)
TRANSFORMS = Registry(
    "transform", parent=MMENGINE_TRANSFORMS, scope="mmpvt", locations=["mmpvt.datasets.loading"]
)
DATA_SAMPLERS = Registry(
    "data sampler",
    parent=MMENGINE_DATA_SAMPLERS,
    scope="mmpvt",
    locations=["mmpvt.datasets.samplers"],
)
FUNCTIONS = Registry(
    "function", parent=MMENGINE_FUNCTIONS, scope="mmpvt", locations=["mmpvt.datasets.samplers"]
)
METRICS = Registry("metric", parent=MMENGINE_METRICS, scope="mmpvt", locations=["mmpvt.evaluation"])
OPTIM_WRAPPERS = Registry(
    "optimizer wrapper",
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope="mmpvt",
    locations=["mmpvt.engine.hooks.divergence"],
)
LOOPS = Registry("loop", parent=MMENGINE_LOOPS, scope="mmpvt", locations=["mmpvt.engine.loops"])
HOOKS = Registry(
    "hook",
    parent=MMENGINE_HOOKS,
    scope="mmpvt",
    locations=[
        *(
            f"mmpvt.engine.hooks.{name}"
            for name in (
                "checkpoints",
                "divergence",
                "interrupt",
                "pictures",
                "skipped_data",
                "training",
            )
        ),
    ],
)
