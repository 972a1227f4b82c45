"""Several processes, on GPUs or without."""

from __future__ import annotations

import os
import re

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_distributed

from mmpvt.errors import UserError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
VARIABLES = {"pytorch": "RANK", "slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}
LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|TCPStore", re.I)


def prepare_launcher(config: Config, launcher: str) -> None:
    """Sets what starts the processes; without a GPU, joins them over gloo.

    Args:
        config (Config): changed.
        launcher (str): ``'none'``, ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'``.

    Raises:
        UserError: this process was not started by that launcher.
    """
    config.launcher = launcher
    check_launcher(launcher)
    if launcher == "none":
        return
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


def check_launcher(launcher: str) -> None:
    """Checks that this process was started by what the command line says.

    Raises:
        UserError: it was not.
    """
    if launcher != "none" and VARIABLES[launcher] not in os.environ:
        raise UserError(
            f"--launcher {launcher}: this process was not started by it ({VARIABLES[launcher]} is "
            "not set); use tools/dist_train.sh, or leave --launcher out"
        )


def describe_failure(error: RuntimeError) -> str | None:
    """What went wrong between the processes of a run, in a sentence.

    Args:
        error (RuntimeError): as PyTorch raised it.

    Returns:
        str | None: the sentence, or None where it is another error.
    """
    said = str(error)
    if not is_distributed():
        return None
    if "Expected to have finished reduction in the prior iteration" in said:
        return (
            "some of the model's parameters took no part in the loss, and the processes would "
            "wait for their gradients: pass --cfg-options find_unused_parameters=True"
        )
    if LOST.search(said):
        return (
            f"process {get_rank()} of {get_world_size()} has lost another one, which was killed "
            "or has ended with a message of its own: --resume goes on from the last checkpoint, "
            "on as many processes as you like"
        )
    return None


def is_first_process() -> bool:
    """Whether this is the process that speaks for all, before they are joined."""
    return all(os.environ.get(name, "0") == "0" for name in VARIABLES.values())
