"""Whether a run can resume from a checkpoint, checked before anything of it is used."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.hooks import EMAHook

from mmpvt.errors import CheckpointError

if TYPE_CHECKING:
    from mmengine.runner import Runner

# in the message hub that a checkpoint carries
KEPT = "keep_ckpt_ids"  # numbers of older checkpoints that were kept; MMEngine's name for it
POSITION = "mmpvt_position"  # the data's seed, and how much of the epoch was used
VALIDATED = "mmpvt_validated"  # the iteration that was validated last
EARLY_STOP = "mmpvt_early_stop"  # the best score, validations since, the last one's iteration


def check_resumable(runner: Runner, checkpoint: dict) -> None:
    """Checks all that MMEngine takes from a checkpoint besides the weights.

    File names in it that lie elsewhere than the run's own folder are dropped: MMEngine deletes
    what they name once there is a better checkpoint.

    Args:
        runner (Runner): with its optimizer and schedules built.
        checkpoint (dict): what the file holds; its ``message_hub`` is changed.

    Raises:
        CheckpointError: something is missing, or of another run's shape.
    """
    problem = next(_problems(runner, checkpoint), None)
    if problem:
        raise CheckpointError(
            f"no run can resume from this checkpoint: {problem}; to start from its weights alone, "
            "set the config's load_from to it in place of resuming"
        )
    if "ema_state_dict" in checkpoint and not any(isinstance(h, EMAHook) for h in runner.hooks):
        raise CheckpointError(
            "the run that saved this checkpoint averages its weights, and can't go on without",
            instead=("ema", None),
        )
    info, resumed = (checkpoint["message_hub"][key] for key in ("runtime_info", "resumed_keys"))
    folder = Path(runner.work_dir).resolve()
    for name, value in list(info.items()):
        if name.startswith("best_ckpt") and not _is_within(value, folder):
            del info[name]
            resumed.pop(name, None)
    info[KEPT] = [step for step in info.get(KEPT) or () if isinstance(step, int)]


def without_functions(state: dict) -> dict:
    """A schedule's state without the functions that ``OneCycleLR``'s holds: a file that carries
    code is refused, and a schedule has them as it is built."""
    return {name: value for name, value in state.items() if not callable(value)}


def changed_schedules(runner: Runner, checkpoint: dict) -> list[str]:
    """Arguments of schedules that resuming takes from the checkpoint, against the config."""
    if not isinstance(runner.param_schedulers, list):
        return []
    pairs = zip(runner.param_schedulers, checkpoint["param_schedulers"], strict=True)
    return sorted(
        {
            name
            for ours, theirs in pairs
            for name in _told(type(ours)) & ours.state_dict().keys()
            if _plain(theirs.get(name)) != _plain(ours.state_dict()[name])
        }
    )


def _told(schedule: type) -> set[str]:
    """What a kind of schedules takes from the config."""
    functions = [vars(kind)["__init__"] for kind in schedule.__mro__ if "__init__" in vars(kind)]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    return names - {"last_step", "verbose"}


def changed_settings(runner: Runner, checkpoint: dict) -> list[str]:
    """Numbers of the optimizer that resuming takes from the checkpoint, against the config; lr and
    whatever else a schedule changes as they were at the start."""
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    if optimizer is None:  # there are several
        return []
    theirs = checkpoint["optimizer"]["param_groups"]
    changed: dict[str, str] = {}
    # not the wrapper's groups, of which base_param_settings make one more
    for group, stored in zip(optimizer.param_groups, theirs, strict=True):
        for name, value in group.items():
            old = stored.get(name)
            is_number = type(value) in (int, float, tuple) and old is not None
            if is_number and f"initial_{name}" not in group and _plain(old) != _plain(value):
                name = name.removeprefix("initial_")
                changed.setdefault(name, f"{name} {old}, and not {value}")
    return list(changed.values())


def _problems(runner: Runner, checkpoint: dict) -> Iterator[str]:
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or not all(_is_count(meta.get(k)) for k in ("epoch", "iter")):
        yield "it doesn't say after which epoch and iteration it was saved"
    hub = checkpoint.get("message_hub", {})
    parts = ("log_scalars", "runtime_info", "resumed_keys")
    if not isinstance(hub, dict) or not all(isinstance(hub.get(part), dict) for part in parts):
        yield "it holds no log of a run (message_hub)"
    position = hub["runtime_info"].get(POSITION, dict(seed=0, samples=0))
    if not isinstance(position, dict) or not all(
        _is_count(position.get(key)) for key in ("seed", "samples")
    ):
        yield "it doesn't say how far the data was used"
    scores = [v for name, v in hub["runtime_info"].items() if name.startswith("best_score")]
    early_stop = hub["runtime_info"].get(EARLY_STOP, (0.0, 0, 0))
    if (
        not isinstance(early_stop, list | tuple)
        or len(early_stop) != 3
        or not all(isinstance(value, int | float) for value in (*scores, *early_stop))
    ):
        yield "it doesn't say which score was the best"
    if not isinstance(checkpoint.get("optimizer"), dict):
        yield "it holds no state of an optimizer"
    if not _fits_optimizer(checkpoint["optimizer"], runner.optim_wrapper.state_dict(), runner):
        yield "its optimizer's state is another model's"
    if "ema_state_dict" in checkpoint and not _fits_average(checkpoint):
        yield "its averaged weights are another model's"
    if isinstance(runner.param_schedulers, list):
        ours = [without_functions(scheduler.state_dict()) for scheduler in runner.param_schedulers]
        if not _is_like(checkpoint.get("param_schedulers"), ours):
            yield "its learning rate schedules are other than the config's"


def _fits_optimizer(theirs: dict, ours: dict, runner: Runner) -> bool:
    if "param_groups" not in ours:  # several optimizers, which check their states themselves
        return theirs.keys() == ours.keys()
    groups = runner.optim_wrapper.param_groups
    parameters = dict(enumerate(p for group in groups for p in group["params"]))
    try:
        numbers = [group["params"] for group in theirs["param_groups"]]
        state = theirs["state"]
        return (
            numbers == [group["params"] for group in ours["param_groups"]]
            and state.keys() <= parameters.keys()
            and all(
                value.shape in (parameters[i].shape, torch.Size([]))
                for i, values in state.items()
                for value in values.values()
                if isinstance(value, torch.Tensor)
            )
        )
    except (AttributeError, KeyError, TypeError):  # it isn't built as an optimizer's is
        return False


def _fits_average(checkpoint: dict) -> bool:
    model, average = checkpoint.get("state_dict"), checkpoint["ema_state_dict"]
    if not isinstance(average, Mapping) or not isinstance(model, Mapping):
        return False
    shapes = {f"module.{name}": getattr(tensor, "shape", None) for name, tensor in model.items()}
    found = {name: getattr(tensor, "shape", None) for name, tensor in average.items()}
    return found == {**shapes, "steps": torch.Size([])}


def _is_like(theirs: object, ours: list[dict]) -> bool:
    """Whether dicts have the same keys, and values of the same types."""
    return (
        isinstance(theirs, list)
        and len(theirs) == len(ours)
        and all(
            isinstance(state, Mapping)
            and state.keys() == own.keys()
            and all(_same_type(state[key], own[key]) for key in own)
            for state, own in zip(theirs, ours, strict=True)
        )
    )


def _same_type(theirs: object, ours: object) -> bool:
    numbers = (int, float)
    return (
        None in (theirs, ours)
        or type(theirs) is type(ours)
        or (isinstance(theirs, numbers) and isinstance(ours, numbers))
    )


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _is_within(path: object, folder: Path) -> bool:
    return isinstance(path, str) and Path(path).resolve().is_relative_to(folder)
