"""Registries of scope ``mmpvt``, children of MMEngine's.

A config names what is registered here with the scope in front
(``type='mmpvt.PyramidVisionTransformer'``), so classes of the same name in MMDetection or
MMSegmentation stay what they are.
"""

from mmengine import registry as parents
from mmengine.registry import Registry


def _child(parent: Registry, *modules: str) -> Registry:
    """A registry of what these modules of mmpvt register."""
    locations = [f"mmpvt.{module}" for module in modules]
    return Registry(parent.name, parent=parent, scope="mmpvt", locations=locations)


MODELS = _child(parents.MODELS, "models", "models.data_preprocessor", "models.trans2seg")
DATASETS = _child(parents.DATASETS, "datasets.shapes_dataset")
TRANSFORMS = _child(parents.TRANSFORMS, "datasets.loading")
DATA_SAMPLERS = _child(parents.DATA_SAMPLERS, "datasets.samplers")
FUNCTIONS = _child(parents.FUNCTIONS, "datasets.samplers")
METRICS = _child(parents.METRICS, "evaluation")
OPTIM_WRAPPERS = _child(parents.OPTIM_WRAPPERS, "engine.hooks.divergence", "engine.mixed_precision")
LOOPS = _child(parents.LOOPS, "engine.loops")
HOOKS = _child(
    parents.HOOKS,
    "engine.hooks.checkpoints",
    "engine.hooks.divergence",
    "engine.hooks.interrupt",
    "engine.hooks.pictures",
    "engine.hooks.skipped_data",
    "engine.hooks.training",
)
