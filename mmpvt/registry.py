"""Registries of scope ``mmpvt``, children of MMEngine's.

A config names what is registered here with the scope in front
(``type='mmpvt.PyramidVisionTransformer'``), so classes of the same name in MMDetection or
MMSegmentation stay what they are.
"""

from mmengine import registry as mmengine
from mmengine.registry import Registry


def _child(parent: Registry, *modules: str) -> Registry:
    """A registry whose classes are in these modules of the package."""
    locations = [f"mmpvt.{module}" for module in modules]
    return Registry(parent.name, parent=parent, scope="mmpvt", locations=locations)


MODELS = _child(mmengine.MODELS, "models", "models.data_preprocessor", "models.trans2seg")
DATASETS = _child(mmengine.DATASETS, "datasets.shapes_dataset")
TRANSFORMS = _child(mmengine.TRANSFORMS, "datasets.loading")
DATA_SAMPLERS = _child(mmengine.DATA_SAMPLERS, "datasets.samplers")
FUNCTIONS = _child(mmengine.FUNCTIONS, "datasets.samplers")
METRICS = _child(mmengine.METRICS, "evaluation")
OPTIM_WRAPPERS = _child(mmengine.OPTIM_WRAPPERS, "engine.hooks.divergence")
LOOPS = _child(mmengine.LOOPS, "engine.loops")
_HOOKS = (
    *("checkpoint_fit", "checkpoints", "compile", "divergence", "interrupt", "pictures"),
    "skipped_data",
)
HOOKS = _child(mmengine.HOOKS, *(f"engine.hooks.{name}" for name in _HOOKS))
