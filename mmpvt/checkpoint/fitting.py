"""From a checkpoint of any known layout to a model's state dict, or what keeps it from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from mmpvt.checkpoint.conversion import (
    EPS,
    convert,
    convert_head,
    convert_in_place,
    tensors_of,
    under,
    unwrap,
)
from mmpvt.checkpoint.loading import load_checkpoint
from mmpvt.errors import CheckpointError, CheckpointMismatchError
from mmpvt.utils.text import counted

NAMED = 3  # names given of each kind of incompatible keys
FIRST = "patch_embed1.proj.weight"  # by which a backbone is found in a model


def load_pretrained(backbone: nn.Module, source: str, prefix: str | None = None) -> None:
    """Fills a backbone from a checkpoint of any known layout.

    Args:
        backbone (nn.Module): of our tensor names.
        source (str): a file or URL.
        prefix (str | None): where in the checkpoint the backbone lies, if not recognisable.

    Raises:
        UserError: the checkpoint can't be downloaded or read, carries code, or doesn't fit.
    """
    checkpoint = unwrap(load_checkpoint(source))
    if prefix:
        checkpoint = under(checkpoint, prefix.removesuffix(".") + ".")
    tensors = fit_to_model(checkpoint, backbone, strict=False)
    problem = describe_incompatible_keys(tensors, backbone.state_dict())
    if problem:
        raise CheckpointMismatchError(
            f"the weights in {source} are another architecture's: {problem}", where=source
        )
    backbone.load_state_dict(tensors)
    print_log(f"backbone weights loaded from {source}", logger="current")


def fit_to_model(checkpoint: Mapping, model: nn.Module, strict: bool = True) -> dict[str, Tensor]:
    """A checkpoint's tensors under a model's names, from any known layout.

    Args:
        checkpoint (Mapping): of a whole model, or of a backbone alone, which fills the model's.
        model (nn.Module): to be filled.
        strict (bool): refuse tensors that don't fill the model exactly. Default: True.

    Returns:
        dict[str, Tensor]: a state dict.

    Raises:
        CheckpointMismatchError: in strict mode, naming the tensors that don't fit.
        CheckpointError: weights or statistics of normalisations hold NaN or infinite values.
    """
    target = unwrapped(model).state_dict()
    tensors = tensors_of(checkpoint)
    for prefix, own in _find_backbones(target):
        alone = convert(tensors, own)
        has_others = not prefix or any(name.startswith(prefix) for name in tensors)
        if not has_others and describe_incompatible_keys(alone, own) is None:
            head = {k: v for k, v in convert_head(tensors).items() if prefix and k in target}
            tensors = {prefix + name: tensor for name, tensor in alone.items()} | head
        else:
            convert_in_place(tensors, prefix, own)
    problem = describe_incompatible_keys(tensors, target)
    if problem and strict:
        raise CheckpointMismatchError(
            f"the checkpoint is another model's than the config's: {problem}"
        )
    # not other buffers: an observer of quantization begins at infinity
    learned = {name for name, _ in unwrapped(model).named_parameters(remove_duplicate=False)}
    learned |= {name for name in target if name.endswith((".running_mean", ".running_var"))}
    broken = [name for name in tensors if name in learned and not _is_finite(tensors[name])]
    if broken:
        raise CheckpointError(
            f"{len(broken)} of the checkpoint's {counted(len(tensors), 'tensor')} hold NaN or "
            f"infinite values, the first of them {broken[0]}",
            hint="take one that was saved before its training diverged",
        )
    return tensors


def fill_partly(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str | None]:
    """A model's state dict with those of a checkpoint's tensors that fit.

    Args:
        model (nn.Module): as it was initialised.
        tensors (Mapping[str, Tensor]): under its names, of :func:`fit_to_model`.

    Returns:
        tuple[dict[str, Tensor], str | None]: the state dict; where not all of it is the
        checkpoint's, how many tensors of each part are, in words.

    Raises:
        CheckpointMismatchError: none fits.
    """
    target = unwrapped(model).state_dict()
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if name in target and tensor.shape == target[name].shape
    }
    problem = describe_incompatible_keys(tensors, target)
    if not fitting:
        raise CheckpointMismatchError(
            f"no tensor of the checkpoint to start from fits the model: {problem}"
        )
    if problem is None:
        return dict(tensors), None
    sizes = Counter(name.partition(".")[0] for name in target)
    taken = Counter(name.partition(".")[0] for name in fitting)
    parts = ", ".join(f"{part} {taken[part]} of {size}" for part, size in sizes.items())
    fitting |= _epsilons(tensors, fitting)
    rest = target.keys() - _epsilons(target, fitting).keys()
    return {**{name: target[name] for name in rest}, **fitting}, (
        f"{sum(taken.values())} of the model's {len(target)} tensors are loaded ({parts}); "
        f"{problem}"
    )


def describe_incompatible_keys(
    tensors: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> str | None:
    """What keeps ``tensors`` from filling ``target``, or None where they fit.

    Args:
        tensors (Mapping[str, Tensor]): from a checkpoint, under our names.
        target (Mapping[str, Tensor]): a model's state dict.

    Returns:
        str | None: counts and first names of what is missing, unexpected or of another shape.
    """
    missing = [name for name in target if name not in tensors and not _is_optional(name)]
    unexpected = [name for name in tensors if name not in target and not _is_optional(name)]
    reshaped = [
        f"{name} ({_shape(tensor)}, not {_shape(target[name])})"
        for name, tensor in tensors.items()
        if name in target and tensor.shape != target[name].shape
    ]
    said = []
    for kind, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", reshaped),
    ):
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        if names:
            said.append(f"{len(names)} {kind}: {', '.join(names[:NAMED])}{more}")
    return "; ".join(said) or None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within wrappers for several processes or for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule("module")
    return model


def _is_finite(tensor: Tensor) -> bool:
    """In little time: a sum of finite values is infinite next to never."""
    return bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())


def _find_backbones(target: Mapping[str, Tensor]) -> list[tuple[str, dict[str, Tensor]]]:
    """Where PVTs without a last layer lie in a model's state dict, and what each holds."""
    found = []
    for prefix in [name.removesuffix(FIRST) for name in target if name.endswith(FIRST)]:
        own = under(target, prefix)
        if prefix[-1:] in ("", ".") and not any(name.startswith("head.") for name in own):
            found.append((prefix, own))
    return found


def _epsilons(tensors: Mapping[str, Tensor], filled: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the backbones that ``filled`` holds the weights of."""
    names = [name for name in tensors if name.rpartition(".")[2] == EPS]
    return {name: tensors[name] for name in names if name.removesuffix(EPS) + FIRST in filled}


def _is_optional(name: str) -> bool:
    """Of batch norm, whose counters old checkpoints lack; or an epsilon other than published."""
    return name.rpartition(".")[2] in ("num_batches_tracked", EPS)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
