"""Several processes, on GPUs or without."""

from __future__ import annotations

import os
import re
import subprocess

import torch
from mmengine.config import Config
from mmengine.dist import get_rank, get_world_size, is_distributed

from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import LaunchError

SIZES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
VARIABLES = {"pytorch": "RANK", "slurm": "SLURM_PROCID", "mpi": "OMPI_COMM_WORLD_RANK"}
PORTS = (20_000, 10_000)  # the first that a SLURM job may meet at, and how many there are
LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|TCPStore", re.I)


def prepare_launcher(config: Config, launcher: str, trains: bool = True) -> None:
    """Sets what starts the processes; without a GPU, joins them over gloo.

    Args:
        config (Config): changed.
        launcher (str): ``'none'``, ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'``.
        trains (bool): whether the model is trained, not only tested. Default: True.

    Raises:
        LaunchError: this process was not started by that launcher; or the model is to be trained,
            and has SyncBN, which takes GPUs.
    """
    config.launcher = launcher
    check_launcher(launcher)
    if launcher == "none":
        return
    if launcher == "slurm":
        translate_slurm()
        config.launcher = launcher = "pytorch"
    if torch.cuda.is_available():
        return
    norms = [part for part in iter_dicts(config.get("model")) if part.get("type") == "SyncBN"]
    if norms and trains:
        raise LaunchError(
            "the model has SyncBN, which several processes can train with on GPUs only",
            hint="start one process, without a launcher, or change the config's norm_cfg",
        )
    for norm in norms:  # in a test both give the same
        norm["type"] = "BN"
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
    """Raises a LaunchError if this process was not started by the launcher."""
    if launcher != "none" and VARIABLES[launcher] not in os.environ:
        raise LaunchError(
            f"{launcher}: this process was not started by it ({VARIABLES[launcher]} is not set)",
            setting="launcher",
            hint="use tools/dist_train.sh or tools/slurm_train.sh, or leave it out",
        )


def translate_slurm() -> None:
    """Sets torchrun's environment variables from SLURM's: ranks, and where the processes meet.

    They meet on the job's first node, at a port of the job's own: two jobs may share a node.
    ``MASTER_ADDR`` and ``MASTER_PORT`` stay where they are set.
    """
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
    missing = [name for name in names if not os.environ.get(name, "").isdecimal()]
    if missing:
        raise LaunchError(
            f"slurm: {', '.join(missing)} isn't set",
            setting="launcher",
            hint="start the processes with srun, as tools/slurm_train.sh does",
        )
    rank, size, local_rank, job = (int(os.environ[name]) for name in names)
    visible = torch.cuda.device_count()  # a single one where SLURM gives each process its own
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(rank), str(size)
    os.environ["LOCAL_RANK"] = str(local_rank % visible if visible else local_rank)
    first, count = PORTS
    os.environ.setdefault("MASTER_PORT", str(first + job % count))
    if "MASTER_ADDR" in os.environ:
        return
    nodes = os.environ.get("SLURM_JOB_NODELIST") or os.environ.get("SLURM_NODELIST") or ""
    try:
        told = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
        os.environ["MASTER_ADDR"] = told.stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise LaunchError(
            f"slurm: scontrol doesn't say which is the first of the nodes {nodes!r}",
            setting="launcher",
            hint="set MASTER_ADDR to its name",
        ) from error


def failure_of(error: RuntimeError) -> LaunchError | None:
    """What went wrong between the processes of a run, from PyTorch's error; None for another."""
    said = str(error)
    if not is_distributed():
        return None
    if "Expected to have finished reduction in the prior iteration" in said:
        return LaunchError(
            "some of the model's parameters took no part in the loss, and the processes would "
            "wait for their gradients",
            instead=("cfg_options", "find_unused_parameters=True"),
        )
    if LOST.search(said):
        return LaunchError(
            f"process {get_rank()} of {get_world_size()} has lost another one, which was killed "
            "or has ended with a message of its own",
            hint="resume from the last checkpoint, on as many processes as you like",
        )
    return None


def is_first_process() -> bool:
    """Whether this is the process of rank 0, before the processes are joined."""
    return all(os.environ.get(name, "0") == "0" for name in VARIABLES.values())


def process_count(launcher: str) -> int:
    """How many processes a launcher has started, before they are joined."""
    if launcher == "none":
        return 1
    return max(int(os.environ.get(name, "1")) for name in SIZES)
