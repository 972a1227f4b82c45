"""A whole model's checkpoint: adapted where its layout is known, refused where it can't fit."""

from __future__ import annotations

from collections import Counter

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmpvt.checkpoint import convert, convert_in_place, describe_misfit, unwrap
from mmpvt.checkpoint.resume_check import check_resumable
from mmpvt.engine.class_names import compare_with_checkpoint, dataset_meta, stored_meta
from mmpvt.errors import UserError
from mmpvt.models.backbone import PyramidBackbone
from mmpvt.registry import HOOKS
from mmpvt.utils.text import few


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Says before a run what MMEngine would only warn of: that a checkpoint is another model's.

    A checkpoint that holds a backbone alone fills the model's backbone.

    Args:
        strict (bool): refuse a checkpoint that doesn't fill the model exactly, as testing and
            resuming must; fine-tuning takes the tensors that fit. Default: True.
        resume (bool): refuse a checkpoint that a run can't go on from. Default: False.
    """

    def __init__(self, strict: bool = True, resume: bool = False) -> None:
        self.strict = strict
        self.resume = resume

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adapts ``checkpoint['state_dict']`` to the runner's model.

        Raises:
            UserError: in strict mode, naming the tensors that don't fit; on resuming, what else
                is missing; otherwise, where nothing fits. The checkpoint's classes are the data
                set's in another order.
        """
        tensors = fit_to_model(checkpoint, runner.model, self.strict)
        split = "train" if self.resume or not self.strict else "test"
        classes = dataset_meta(runner.cfg, split).get("classes", ())
        if self.resume:
            check_resumable(runner, checkpoint)
        if self.strict:
            said = compare_with_checkpoint(classes, checkpoint)
        else:
            tensors, said = fill(_bare(runner.model), tensors)
            stored = list(stored_meta(checkpoint).get("classes", ()))
            if said is None and stored and stored != list(classes):
                said = (
                    f"the heads start from its classes ({few(stored)}), the data set has "
                    f"{few(classes)}"
                )
            said = said and f"{runner.cfg.load_from}: {said}"
        if said:
            runner.logger.warning(said)
        checkpoint["state_dict"] = tensors


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str | None]:
    """A model's state dict with those of a checkpoint's tensors that fit.

    Args:
        model (nn.Module): as it was initialised.
        tensors (dict[str, Tensor]): under its names, of :func:`fit_to_model`.

    Returns:
        tuple[dict[str, Tensor], str | None]: the state dict; where not all of it is the
        checkpoint's, how many tensors of each part are, in words.

    Raises:
        UserError: none fits.
    """
    target = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if name in target and tensor.shape == target[name].shape
    }
    misfit = describe_misfit(tensors, target)
    if not fitting:
        raise UserError(f"no tensor of the checkpoint to start from fits the model: {misfit}")
    if misfit is None:
        return tensors, None
    sizes = Counter(name.partition(".")[0] for name in target)
    taken = Counter(name.partition(".")[0] for name in fitting)
    parts = ", ".join(f"{part} {taken[part]} of {size}" for part, size in sizes.items())
    return {**target, **fitting}, (
        f"{len(fitting)} of the model's {len(target)} tensors are loaded ({parts}); {misfit}"
    )


def fit_to_model(checkpoint: dict, model: nn.Module, strict: bool = True) -> dict[str, Tensor]:
    """A checkpoint's tensors under a model's names, from any known layout.

    Args:
        checkpoint (dict): of a whole model, or of a backbone alone.
        model (nn.Module): to be filled.
        strict (bool): refuse tensors that don't fill the model exactly. Default: True.

    Returns:
        dict[str, Tensor]: a state dict.

    Raises:
        UserError: in strict mode, naming the tensors that don't fit.
    """
    model = _bare(model)
    target = model.state_dict()
    tensors = {
        name.removeprefix("module."): tensor
        for name, tensor in unwrap(checkpoint).items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    for name, module in model.named_modules():
        if isinstance(module, PyramidBackbone):
            own = module.state_dict()
            alone = convert(tensors, own)
            if name and describe_misfit(alone, own) is None and not _has(tensors, name):
                tensors = {f"{name}.{key}": tensor for key, tensor in alone.items()}
            else:
                convert_in_place(tensors, f"{name}." if name else "", own)
    misfit = describe_misfit(tensors, target)
    if misfit and strict:
        raise UserError(f"the checkpoint is another model's than the config's: {misfit}")
    return tensors


def _bare(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _has(tensors: dict, prefix: str) -> bool:
    return any(name.startswith(f"{prefix}.") for name in tensors)
