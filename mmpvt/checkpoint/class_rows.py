"""Starting a model from a checkpoint of other classes: rows are copied by the classes' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mmpvt.checkpoint.fitting import describe_incompatible_keys
from mmpvt.errors import CheckpointMismatchError
from mmpvt.utils.text import few

SHOWN = 10  # names in a message


@dataclass(frozen=True)
class ClassRows:
    """Where along one dimension a tensor holds its classes.

    The dimension's size is ``groups * (before + classes + after) * values``, in this order.

    Attributes:
        dim: the dimension.
        groups: anchors, each of which has all of the classes.
        values: of a class, beside each other: 4 in box regression for each class.
        before: rows of a group in front of the classes: a box and an objectness.
        after: rows behind them: the background.
    """

    dim: int
    groups: int = 1
    values: int = 1
    before: int = 0
    after: int = 0

    def view(self, tensor: Tensor) -> Tensor:
        """The tensor with the classes in a dimension of their own, ``dim + 1``."""
        return tensor.unflatten(self.dim, (self.groups, -1, self.values))

    def count(self, size: int) -> int | None:
        """How many classes a dimension of this size holds, or None where it is none of these."""
        columns, rest = divmod(size, self.groups * self.values)
        count = columns - self.before - self.after
        return count if not rest and count > 0 else None


def find_class_rows(
    model: nn.Module, wider: nn.Module, num_classes: int
) -> dict[str, ClassRows | None]:
    """Which tensors of a model have rows of classes, found by its shapes for one class more.

    Args:
        model (nn.Module): a detector or segmenter.
        wider (nn.Module): the same, for ``num_classes + 1`` classes.
        num_classes (int): of the model.

    Returns:
        dict[str, ClassRows | None]: by the tensors' names; None where the order of the rows isn't
        known.
    """
    shapes = {name: tensor.shape for name, tensor in wider.state_dict().items()}
    found: dict[str, ClassRows | None] = {}
    for name, tensor in model.state_dict().items():
        shape = shapes.get(name, tensor.shape)
        grown = [dim for dim, size in enumerate(tensor.shape) if shape[dim] != size]
        if len(grown) == 1:
            (dim,) = grown
            step = shape[dim] - tensor.shape[dim]
            found[name] = _rows(model, name, dim, tensor.shape[dim], step, num_classes)
        elif grown:
            found[name] = None
    unknown = {name.rpartition(".")[0] for name, rows in found.items() if rows is None}
    # a layer's bias is of no use without its weight
    return {n: None if n.rpartition(".")[0] in unknown else rows for n, rows in found.items()}


def _rows(
    model: nn.Module, name: str, dim: int, size: int, step: int, num_classes: int
) -> ClassRows | None:
    """The order of a dimension's rows, which grow by ``step`` with each class."""
    from mmdet.models import AnchorHead, BBoxHead, YOLOV3Head  # takes seconds to import

    parts = name.split(".")
    owners = [model.get_submodule(".".join(parts[:i])) for i in range(len(parts) - 1, -1, -1)]
    rows = None
    if yolo := next((owner for owner in owners if isinstance(owner, YOLOV3Head)), None):
        rows = ClassRows(dim, groups=step, before=yolo.num_attrib - num_classes)
    elif anchors := next((owner for owner in owners if isinstance(owner, AnchorHead)), None):
        rows = ClassRows(dim, groups=step, after=anchors.cls_out_channels - num_classes)
    elif any(isinstance(owner, BBoxHead) for owner in owners) and parts[-2] == "fc_reg":
        rows = ClassRows(dim, values=step)
    elif step == 1:  # the background, if there is one, comes last (MMDetection from 2.0 on)
        rows = ClassRows(dim, after=size - num_classes)
    is_known = rows is not None and rows.count(size) == num_classes and rows.after in (0, 1)
    return rows if is_known else None


def class_counts(tensors: Mapping[str, Tensor], rows: Mapping[str, ClassRows | None]) -> set[int]:
    """For how many classes a checkpoint's tensors are, by their shapes: one number, if sound."""
    counts = {
        r.count(tensors[name].shape[r.dim])
        for name, r in rows.items()
        if r and name in tensors and tensors[name].dim() > r.dim
    }
    return {count for count in counts if count is not None}


def start_by_class_names(
    tensors: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    rows: Mapping[str, ClassRows | None],
    classes: Sequence[str],
    stored: Sequence[str],
    source: str,
) -> tuple[dict[str, Tensor], list[str]]:
    """A model's state dict from a checkpoint of the same architecture, of any classes.

    Args:
        tensors (Mapping[str, Tensor]): the checkpoint's, of
            :func:`~mmpvt.checkpoint.fitting.fit_to_model`.
        target (Mapping[str, Tensor]): the model's, as it was initialised.
        rows (Mapping[str, ClassRows | None]): of :func:`find_class_rows`.
        classes (Sequence[str]): the model's.
        stored (Sequence[str]): the checkpoint's, as many as its tensors are for, or empty where it
            doesn't name them: if they are as many as the model's, they are taken for the same.
        source (str): the checkpoint's name, for messages.

    Returns:
        tuple[dict[str, Tensor], list[str]]: the state dict; in sentences, what was taken.

    Raises:
        CheckpointMismatchError: tensors other than those of the classes are missing, unexpected or
            of another shape.
    """
    counts = class_counts(tensors, rows)
    is_same = list(stored) == list(classes) or (not stored and counts <= {len(classes)})
    matches = match_names(classes, stored)
    taken = dict(tensors)
    unknown = []
    for name, r in rows.items():
        if name not in tensors or (is_same and tensors[name].shape == target[name].shape):
            continue
        if r is None:
            taken[name] = target[name]
            unknown.append(name)
        elif _shape_besides(tensors[name], r) == _shape_besides(target[name], r):
            taken[name] = _copy_rows(tensors[name], target[name], r, matches)
    if problem := describe_incompatible_keys(taken, target):
        raise CheckpointMismatchError(
            f"{source} is a checkpoint of another architecture than the config's: {problem}",
            where=source,
            setting="start_from",
        )
    said = [f"all of {source} is taken"]
    if rows:
        said = [_describe(source, classes, stored, matches, is_same)]
    if unknown:
        said.append(
            f"start fresh, as the order of the classes in them isn't known: {few(unknown, SHOWN)}"
        )
    return taken, said


def match_names(classes: Sequence[str], stored: Sequence[str]) -> dict[int, int]:
    """For each class that a checkpoint has, too, by its number, the checkpoint's number of it.

    Case, underscores, hyphens and spaces don't matter, unless a name is there to the letter. Of a
    class of several names, as ImageNet's ``'tench, Tinca tinca'``, each counts that no other has.
    """
    plain = [_plain(name) for name in stored]
    places: dict[str, set[int]] = {}
    for place, names in enumerate(stored):
        for name in names.split(","):
            places.setdefault(_plain(name), set()).add(place)
    found = {}
    for i, name in enumerate(classes):
        names, wanted = (stored, name) if name in stored else (plain, _plain(name))
        if wanted in names:
            found[i] = names.index(wanted)
        elif len(several := places.get(wanted, ())) == 1:
            (found[i],) = several
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _shape_besides(tensor: Tensor, rows: ClassRows) -> list[int | None]:
    """A tensor's shape, without its number of classes; None where it doesn't have them so."""
    if tensor.dim() <= rows.dim or rows.count(tensor.shape[rows.dim]) is None:
        return [None]
    return [size for dim, size in enumerate(tensor.shape) if dim != rows.dim]


def _copy_rows(source: Tensor, target: Tensor, rows: ClassRows, matches: dict[int, int]) -> Tensor:
    """The target with the rows of the classes that match, and those of no class, of the source."""
    copied = target.clone()
    if not matches:
        return copied
    ours, theirs = rows.view(copied), rows.view(source.to(target))
    dim = rows.dim + 1
    pairs = [(rows.before + i, rows.before + j) for i, j in matches.items()]
    pairs += [(i, i) for i in range(rows.before)]
    pairs += [(-i, -i) for i in range(1, rows.after + 1)]
    for i, j in pairs:
        ours.select(dim, i).copy_(theirs.select(dim, j))
    return copied


def _describe(
    source: str,
    classes: Sequence[str],
    stored: Sequence[str],
    matches: dict[int, int],
    is_same: bool,
) -> str:
    if is_same and stored:
        return f"all of {source} is taken: its {len(stored)} classes are the data set's"
    if is_same:
        return (
            f"all of {source} is taken: it names no classes, and its {len(classes)} are taken for "
            f"the data set's ({few(classes, SHOWN)})"
        )
    fresh = [name for i, name in enumerate(classes) if i not in matches]
    if matches:
        names = few([classes[i] for i in matches], SHOWN)
        rest = f"; fresh: {few(fresh, SHOWN)}" if fresh else ""
        return f"classes taken from {source}: {names}{rest}"
    has = f"has none of them, but {few(stored)}" if stored else "names no classes of its own"
    return f"all classes start fresh ({few(fresh, SHOWN)}): {source} {has}; the rest of it is taken"
