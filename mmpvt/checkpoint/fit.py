"""Whether a checkpoint's tensors fit a model, said in words where they don't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from mmpvt.checkpoint.conversion import convert, unwrap
from mmpvt.checkpoint.loading import load_checkpoint
from mmpvt.errors import UserError

NAMED = 3  # names given of each kind of misfit


def describe_misfit(tensors: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str | None:
    """What keeps ``tensors`` from filling ``target``, or None where they fit.

    Args:
        tensors (Mapping[str, Tensor]): from a checkpoint, under our names.
        target (Mapping[str, Tensor]): a model's state dict.

    Returns:
        str | None: counts and first names of what is missing, unexpected or of another shape.
    """
    missing = [name for name in target if name not in tensors and not _is_counter(name)]
    unexpected = [name for name in tensors if name not in target and not _is_counter(name)]
    reshaped = [
        f"{name} ({_shape(tensor)}, not {_shape(target[name])})"
        for name, tensor in tensors.items()
        if name in target and tensor.shape != target[name].shape
    ]
    return _say(("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))


def describe_names(found: Iterable[str], expected: Iterable[str]) -> str | None:
    """What two sets of tensors differ in, or None where they are one.

    Args:
        found (Iterable[str]): names of those that there are.
        expected (Iterable[str]): names of those that there should be.
    """
    missing = [name for name in sorted(expected) if name not in set(found)]
    unexpected = [name for name in found if name not in set(expected)]
    return _say(("missing", missing), ("unexpected", unexpected))


def load_pretrained(backbone: nn.Module, source: str, prefix: str | None = None) -> None:
    """Fills a backbone from a checkpoint of any known layout.

    Args:
        backbone (nn.Module): of our tensor names.
        source (str): a file or an address.
        prefix (str | None): where in the checkpoint the backbone lies, if not recognisable.

    Raises:
        UserError: the checkpoint can't be had or read, carries code, or doesn't fit.
    """
    checkpoint = unwrap(load_checkpoint(source))
    if prefix:
        prefix = prefix.removesuffix(".") + "."
        checkpoint = {
            name.removeprefix(prefix): tensor
            for name, tensor in checkpoint.items()
            if name.startswith(prefix)
        }
    target = backbone.state_dict()
    tensors = convert(checkpoint, target)
    misfit = describe_misfit(tensors, target)
    if misfit:
        raise UserError(f"the weights in {source} are another architecture's: {misfit}")
    backbone.load_state_dict(tensors)
    print_log(f"backbone weights loaded from {source}", logger="current")


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # of batch norm; old checkpoints lack it


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _say(*kinds: tuple[str, list[str]]) -> str | None:
    return "; ".join(_some(kind, names) for kind, names in kinds if names) or None


def _some(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {kind}: {', '.join(names[:NAMED])}{more}"
