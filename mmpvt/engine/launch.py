"""Several processes, on GPUs or without."""

from __future__ import annotations

import os

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed

from mmpvt.errors import UserError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
VARIABLES = {"pytorch": "RANK", "slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}


def prepare_launcher(config: Config, launcher: str) -> None:
    """Sets what starts the processes; without a GPU, joins them over gloo.

    Args:
        config (Config): changed.
        launcher (str): ``'none'``, ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: this process was not started by that launcher.
    """
    config.launcher = launcher
    if launcher == "none":
        return
    if VARIABLES[launcher] not in os.environ:
        raise UserError(
            f"--launcher {launcher}: this process was not started by it ({VARIABLES[launcher]} is "
            "not set); use tools/dist_train.sh, or leave --launcher out"
        )
    if torch.cuda.is_available():
        return
    config.setdefault("env_cfg", {})
    config.env_cfg.dist_cfg = dict(backend="gloo")
    config.setdefault(
        "model_wrapper_cfg",
        dict(
            type="MMDistributedDataParallel",
            broadcast_buffers=False,
            find_unused_parameters=config.get("find_unused_parameters", False),
        ),
    )
    config.model_wrapper_cfg.device_ids = None  # what MMEngine passes otherwise is for GPUs
    if launcher == "pytorch" and not is_distributed():
        # MMEngine's own start asks for a CUDA device first.
        torch.distributed.init_process_group("gloo")


def is_first_process() -> bool:
    """Whether this is the process that speaks for all, before they are joined."""
    return all(os.environ.get(name, "0") == "0" for name in VARIABLES.values())
